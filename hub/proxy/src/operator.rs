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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use blueprint_common_types::{Secret, ServiceKey};
    use blueprint_hub_proxy_core::Downstream;
    use blueprint_hub_proxy_core::tls::{
        CertificateRequest, CertificateView, Channel, IssuedCertificate, NewProfile, Serial, TlsAdminError,
        TlsView,
    };
    use futures_util::future::{BoxFuture, pending};

    use super::*;

    /// Is never reached by who does not get in.
    struct Nothing;

    type Never<T> = BoxFuture<'static, Result<T, TlsAdminError>>;

    impl TlsAdmin for Nothing {
        fn show(&self, _: ServiceKey) -> Never<Option<TlsView>> {
            Box::pin(pending())
        }
        fn set(&self, _: ServiceKey, _: NewProfile) -> Never<TlsView> {
            Box::pin(pending())
        }
        fn remove(&self, _: ServiceKey) -> Never<bool> {
            Box::pin(pending())
        }
        fn issue(&self, _: ServiceKey, _: CertificateRequest) -> Never<IssuedCertificate> {
            Box::pin(pending())
        }
        fn certificates(&self) -> Never<Vec<CertificateView>> {
            Box::pin(pending())
        }
        fn revoke(&self, _: ServiceKey, _: Serial) -> Never<bool> {
            Box::pin(pending())
        }
    }

    fn request(source: IpAddr, channel: Channel, shown: &Secret<String>) -> CanonicalRequest {
        let parts = http::Request::put("/v1/admin/services/42/tls-profile")
            .header("host", "hub")
            .header("authorization", format!("Bearer {}", shown.expose()))
            .body(())
            .unwrap()
            .into_parts()
            .0;
        let downstream = Downstream { source, tls: channel.is_tls(), domain: "", request_id: "1" };
        CanonicalRequest::parse(&parts, &downstream).unwrap().on_channel(channel)
    }

    #[test]
    fn the_operator_gets_in_by_tls_or_from_this_machine_and_nobody_else_does() {
        let (token, other) = (AccessToken::random().unwrap(), AccessToken::random().unwrap());
        let shown = token.expose_text();
        let door = OperatorDoor::new(token, Arc::new(Nothing));
        let (here, away) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from([192, 0, 2, 1]));
        for (source, channel, text, gets_in) in [
            (here, Channel::default(), &shown, true),
            (away, Channel::tls(None), &shown, true),
            (away, Channel::default(), &shown, false),
            ("::ffff:127.0.0.1".parse().unwrap(), Channel::default(), &shown, true),
            (here, Channel::tls(None), &other.expose_text(), false),
            (here, Channel::default(), &Secret::new("ak_x.y".to_owned()), false),
        ] {
            let opened = door.open(&request(source, channel, text));
            assert_eq!(opened.is_ok(), gets_in, "{source}");
            assert!(gets_in || opened.err() == Some(Refusal::OperatorOnly));
        }
        assert_eq!(format!("{door:?}"), "OperatorDoor(..)");
    }
}
