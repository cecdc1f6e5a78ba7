//! Carriers over real sockets of loopback.

mod beside;
mod flood;
mod neighbour;
mod overlay;
mod quic;
mod speed;
mod stream;

use std::io::{IoSliceMut, Result};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::Interest;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::links::{Batch, LinkIngress, LinkSink};

/// Long enough for a busy machine; a test that works takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// A small authority, and the TLS configurations of a hub and an agent that it has certified.
struct Tls {
    authority: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

impl Tls {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { authority: Issuer::new(params, key), roots: Arc::new(roots) }
    }

    fn certificate(
        &self,
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        (vec![certificate.der().clone()], key.into())
    }

    fn server(&self) -> rustls::ServerConfig {
        let provider = crypto_provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider));
        let (chain, key) = self.certificate("hub.test", ExtendedKeyUsagePurpose::ServerAuth);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), ALPN.to_vec()];
        config
    }

    fn client(&self) -> rustls::ClientConfig {
        let (chain, key) = self.certificate("agent.test", ExtendedKeyUsagePurpose::ClientAuth);
        let mut config = self.client_builder().with_client_auth_cert(chain, key).unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    fn client_without_certificate(&self) -> rustls::ClientConfig {
        self.client_builder().with_no_client_auth()
    }

    fn client_builder(&self) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
        rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(Arc::clone(&self.roots))
    }
}

/// Keeps what a link brings.
struct Recorder(mpsc::UnboundedSender<Vec<u8>>);

impl Recorder {
    fn new() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

impl LinkIngress for Recorder {
    fn receive(&mut self, batch: &mut Batch) {
        for datagram in batch.iter() {
            let _ = self.0.send(datagram.to_vec());
        }
    }
}

/// Takes datagrams and forgets them.
struct Sink;

impl LinkIngress for Sink {
    fn receive(&mut self, _: &mut Batch) {}
}

/// A datagram that can be told from others: its number, and a filling made of it.
fn numbered(number: u32, length: usize) -> Vec<u8> {
    let mut datagram = number.to_be_bytes().to_vec();
    datagram.resize(length.max(4), number.to_le_bytes()[0]);
    datagram
}

/// Receives `count` datagrams, in any order, and checks them.
async fn expect_numbered(received: &mut mpsc::UnboundedReceiver<Vec<u8>>, lengths: &[usize]) {
    let mut seen = vec![false; lengths.len()];
    for _ in lengths {
        let datagram = timeout(PATIENCE, received.recv()).await.unwrap().unwrap();
        let number = u32::from_be_bytes(*datagram.first_chunk().unwrap());
        let at = usize::try_from(number).unwrap();
        assert_eq!(datagram, numbered(number, lengths[at]));
        assert!(!std::mem::replace(&mut seen[at], true), "datagram {number} came twice");
    }
}

/// A hub's shared socket and a task that stands for the engine's reading of it.
fn shared(listen: &str, limits: &QuicLimits) -> (Arc<SharedSocket>, UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(listen).unwrap();
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(8 << 20);
    let at = socket.local_addr().unwrap();
    let shared = SharedSocket::new(socket.try_clone().unwrap(), limits).unwrap();
    (Arc::new(shared), socket, at)
}

/// Receives for ever and hands QUIC its part; returns plain WireGuard datagrams to `plain`.
async fn receive_shared(socket: UdpSocket, shared: &SharedSocket, plain: mpsc::UnboundedSender<Vec<u8>>) {
    let state = UdpSocketState::new((&socket).into()).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let mut memory = vec![0; BATCH_SIZE * (64 << 10)];
    loop {
        socket.readable().await.unwrap();
        let received: Result<()> = socket.try_io(Interest::READABLE, || {
            let mut meta = [RecvMeta::default(); BATCH_SIZE];
            let mut buffers: Vec<_> = memory.chunks_mut(64 << 10).map(IoSliceMut::new).collect();
            let count = state.recv((&socket).into(), &mut buffers, &mut meta)?;
            for (meta, run) in meta.iter().zip(&buffers).take(count) {
                let run = &run[..meta.len];
                if is_wireguard(run) {
                    let _ = plain.send(run.to_vec());
                } else {
                    let ecn = meta.ecn.map_or(0, |bits| match bits {
                        quinn::udp::EcnCodepoint::Ect0 => 2,
                        quinn::udp::EcnCodepoint::Ect1 => 1,
                        quinn::udp::EcnCodepoint::Ce => 3,
                    });
                    shared.offer(meta.addr, meta.dst_ip, ecn, run, meta.stride);
                }
            }
            Ok(())
        });
        drop(received);
    }
}
