//! One set-up for every host name, for transports whose library takes no other: QUIC.
//!
//! It asks nobody for a certificate, so host names of services that ask for one are refused here, as those of
//! ACME challenges are: their clients come back by TCP.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::handle::TlsHandle;
use super::table::{Choice, TlsError};

impl TlsHandle {
    /// TLS 1.3 by the table as it is at each handshake; the protocols are left to the caller.
    ///
    /// # Errors
    ///
    /// Fails where the library refuses; nothing of it depends on the outside.
    pub fn shared_config(&self) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(WebPkiClientVerifier::no_client_auth())
            .with_cert_resolver(Arc::new(ByTable(self.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = self.tickets();
        Ok(config)
    }
}

struct ByTable(TlsHandle);

impl fmt::Debug for ByTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByTable")
    }
}

impl ResolvesServerCert for ByTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.0.table().choose(hello.server_name(), hello.alpn().into_iter().flatten()) {
            Choice::Serve(served) if served.bound.is_none() => Some(Arc::clone(&served.key)),
            Choice::Serve(_) | Choice::Challenge(_) | Choice::Refuse => None,
        }
    }
}
