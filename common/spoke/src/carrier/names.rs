//! The hub's addresses, asked for once for all who want them at the same time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::dial::{self, DialError};

/// An answer this young is not asked for again.
const FRESH: Duration = Duration::from_secs(1);
/// Names that are remembered at most.
const NAMES_MAX: usize = 16;

/// The last answer for each name.
#[derive(Debug, Default)]
pub(crate) struct Names(Mutex<BTreeMap<String, (Instant, Vec<IpAddr>)>>);

impl Names {
    /// Addresses of `host`; where nobody can be asked, those of the last answer.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, DialError> {
        let mut known = self.0.lock().await;
        if let Some((at, addresses)) = known.get(host)
            && at.elapsed() < FRESH
        {
            return Ok(addresses.clone());
        }
        match dial::resolve(host).await {
            Ok(addresses) => {
                if known.len() >= NAMES_MAX {
                    known.clear();
                }
                known.insert(host.to_owned(), (Instant::now(), addresses.clone()));
                Ok(addresses)
            }
            Err(error) => known.get(host).map(|(_, addresses)| addresses.clone()).ok_or(error),
        }
    }
}
