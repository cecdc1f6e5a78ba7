//! Exchanges the certificate for a fresh one at about half of its life.
//!
//! The tunnel has its own key and notices nothing. The control stream sees the new identity and replaces itself.

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_link_core::Renewal;
use blueprint_common_runtime::Chain;
use blueprint_common_types::Timestamp;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::error::SpokeError;
use crate::join::{self, Refusal};
use crate::spoke::Spoke;

/// Pause between attempts once the certificate has run out: nothing else brings the control stream back.
const EXPIRED_PAUSE: Duration = Duration::from_secs(2);

/// Least time from one renewal to the next, whatever a wrong clock makes of the certificate's life.
const RENEWED_PAUSE: Duration = Duration::from_secs(5);

/// Renews until the agent ends.
pub(crate) async fn run(spoke: Arc<Spoke>, seed: u64) -> Result<(), SpokeError> {
    let (from, to) = life(&spoke);
    let mut renewal = Renewal::new(from, to, seed);
    loop {
        let now = join::now();
        let is_expired = renewal.is_expired(now);
        let mut least = Duration::ZERO;
        if renewal.is_due(now) || is_expired {
            let renewed = spoke.stop.run_until_cancelled(renew(&spoke)).await;
            match renewed {
                None => return Ok(()),
                Some(Ok(())) => {
                    // The hub dates certificates back; counted from there, half of a short life would be over.
                    let (from, to) = life(&spoke);
                    renewal.handle_renewed(join::now().clamp(from, to.max(from)), to);
                    least = RENEWED_PAUSE;
                }
                Some(Err(error)) => {
                    warn!(error = %Chain(&error), until = %renewal.not_after(), "certificate not renewed");
                    renewal.handle_failure(join::now());
                }
            }
        }
        let wait = renewal.poll_wait(join::now());
        let wait = if renewal.is_expired(join::now()) { EXPIRED_PAUSE } else { wait };
        if spoke.stop.run_until_cancelled(sleep(wait.max(least))).await.is_none() {
            return Ok(());
        }
    }
}

fn life(spoke: &Spoke) -> (Timestamp, Timestamp) {
    let identity = spoke.identity();
    (identity.credential.not_before, identity.credential.not_after)
}

async fn renew(spoke: &Spoke) -> Result<(), SpokeError> {
    match join::renew(&spoke.identity(), spoke.config.proxy.as_ref()).await {
        Ok(credential) => {
            let until = credential.not_after;
            spoke.set_credential(credential)?;
            info!(%until, "certificate renewed");
            Ok(())
        }
        Err(error) => {
            if matches!(error.refusal(), Some(Refusal::Revoked | Refusal::Outdated)) {
                spoke.revoke();
            }
            Err(error.into())
        }
    }
}
