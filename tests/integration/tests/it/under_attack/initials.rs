//! First packets of QUIC, as a machine sends them that wants to speak to the hub.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use blueprint_common_tunnel::carrier::crypto_provider;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};

/// First packets for `at` that offer a protocol, each of a connection of its own.
pub(crate) fn initials(at: SocketAddr, count: usize, protocol: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
    let mut make = || {
        let (_, mut connection) = endpoint.connect(Instant::now(), config.clone(), at, "hub")?;
        let mut packet = Vec::new();
        let sent = connection.poll_transmit(Instant::now(), 1, &mut packet);
        ensure!(sent.is_some(), "the library sends nothing");
        ensure!(packet.len() >= 1200, "{} bytes are no first packet", packet.len());
        Ok(packet)
    };
    (0..count).map(|_| make()).collect()
}
