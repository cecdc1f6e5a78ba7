//! The routes of the proxy that only the operator may use.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use blueprint_common_types::AccessToken;
use blueprint_hub_proxy_core::tls::TlsAdmin;
use blueprint_hub_proxy_core::{CanonicalRequest, Refusal};

/// What the operator shows, and what that opens.
#[derive(Clone)]
pub struct OperatorDoor {
    token: AccessToken,
    admin: Arc<dyn TlsAdmin>,
}

impl fmt::Debug for OperatorDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorDoor(..)")
    }
}

impl OperatorDoor {
    /// Opens `admin` to whoever shows `token`.
    #[must_use]
    pub fn new(token: AccessToken, admin: Arc<dyn TlsAdmin>) -> Self {
        Self { token, admin }
    }

    /// Lets the operator in.
    ///
    /// # Errors
    ///
    /// [`Refusal::OperatorOnly`] for everybody else, and for the token in clear from another machine.
    pub(crate) fn open(&self, request: &CanonicalRequest) -> Result<&dyn TlsAdmin, Refusal> {
        let is_private = request.channel().is_tls() || is_here(request.source());
        if is_private && request.shows(self.token.id(), &self.token.hash()) {
            Ok(self.admin.as_ref())
        } else {
            Err(Refusal::OperatorOnly)
        }
    }
}

fn is_here(source: IpAddr) -> bool {
    source.to_canonical().is_loopback()
}
