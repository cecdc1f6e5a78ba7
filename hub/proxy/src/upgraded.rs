//! Connections that went on in another protocol: bytes in both directions, until an end or a revocation.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tracing::debug;

use crate::open::OpenRequest;
use crate::watch::Watch;

/// Bytes under way in each direction: frames of a WebSocket are small, and there may be thousands of these.
const BUFFER: usize = 8 * 1024;

/// Copies until either end closes or `watch` says that it is over.
pub(crate) async fn join(client: OnUpgrade, service: OnUpgrade, open: OpenRequest, mut watch: Watch) {
    let (client, service) = match tokio::try_join!(client, service) {
        Ok(ends) => ends,
        Err(error) => return debug!(%error, "upgrade did not happen"),
    };
    let (mut client, mut service) = (TokioIo::new(client), TokioIo::new(service));
    tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut service, BUFFER, BUFFER) => {
            if let Err(error) = copied {
                debug!(%error, "upgraded connection broke off");
            }
        }
        refusal = watch.ended() => open.note_cut(&refusal),
    }
}
