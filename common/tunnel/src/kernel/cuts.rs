//! Ends the kernel's connections with a peer that is removed: the kernel would wait for its answers.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// One token per overlay address that had connections: at most as many as peers hold.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Mutex<HashMap<IpAddr, CancellationToken>>);

impl Cuts {
    /// Cancelled once the peer at this address is removed.
    pub(crate) fn token(&self, remote: IpAddr) -> CancellationToken {
        self.0.lock().entry(remote).or_default().child_token()
    }

    /// Ends what there is with each address that `is_gone`.
    pub(crate) fn cut(&self, is_gone: impl Fn(IpAddr) -> bool) {
        self.0.lock().retain(|remote, token| {
            let ends = is_gone(*remote);
            if ends {
                token.cancel();
            }
            !ends
        });
    }
}
