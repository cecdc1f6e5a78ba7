//! What a machine that joined can say to its hub by itself, with the keys that joining gave it and no agent.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_tunnel::{Tunnel, TunnelConfig};
use blueprint_common_tunnel_core::{Config, Limits, OverlayPrefixes, PeerConfig, Role};
use blueprint_common_types::{HUB_TLS_NAME, OverlayLease, WgPrivateKey, WgPublicKey};
use blueprint_proto::v1::agent_control_client::AgentControlClient;
use blueprint_proto::v1::{ArtefactRequest, BridgeRequest};
use blueprint_tests_support::Host;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower_service::Service;

use crate::fixture::{Agent, text};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);

fn identity_of(agent: &Agent<'_>) -> Result<Value> {
    let path = agent.state().join("identity.json");
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

/// Asks the hub for an artefact from a byte on: what came, or the code and text of the refusal.
pub(super) fn fetch(agent: &Agent<'_>, request: ArtefactRequest) -> Result<Result<Vec<u8>, (Code, String)>> {
    let identity = identity_of(agent)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = AgentControlClient::new(channel(&identity).await?);
        let refused = |status: Status| (status.code(), status.message().to_owned());
        let mut pieces = match client.artefact(request).await {
            Ok(pieces) => pieces.into_inner(),
            Err(status) => return Ok(Err(refused(status))),
        };
        let mut bytes = Vec::new();
        loop {
            match pieces.message().await {
                Ok(Some(piece)) => {
                    anyhow::ensure!(piece.bytes.len() <= 32 * 1024, "{} bytes", piece.bytes.len());
                    bytes.extend(piece.bytes);
                }
                Ok(None) => return Ok(Ok(bytes)),
                Err(status) => return Ok(Err(refused(status))),
            }
        }
    })
}

/// Calls the hub as the bridges of an agent's workloads do, one after the other: the codes of the answers.
pub(super) fn bridge(agent: &Agent<'_>, requests: Vec<BridgeRequest>) -> Result<Vec<Code>> {
    let identity = identity_of(agent)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = AgentControlClient::new(channel(&identity).await?);
        let mut codes = Vec::new();
        for request in requests {
            codes.push(client.bridge(request).await.map_or_else(|status| status.code(), |_| Code::Ok));
        }
        Ok(codes)
    })
}

async fn channel(identity: &Value) -> Result<Channel> {
    let bytes = |name: &str| -> Result<Vec<u8>> { Ok(STANDARD.decode(text(identity, name)?)?) };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(bytes("/authority")?))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bytes("/tls_private_key")?));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![CertificateDer::from(bytes("/certificate")?)], key)?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let port = u16::try_from(identity["hub_port"].as_u64().context("no port")?)?;
    let stream = TcpStream::connect((text(identity, "/hub_host")?, port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(HUB_TLS_NAME)?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
    let endpoint = Endpoint::from_static("http://hub.blueprint.internal");
    Ok(endpoint.connect_with_connector(Once(Some(TokioIo::new(stream)))).await?)
}

/// Hands out one connection that is open already.
struct Once(Option<TokioIo<TlsStream<TcpStream>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take();
        Box::pin(async { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) })
    }
}

/// The tunnel of a machine, without its agent.
pub(super) struct Spoke {
    runtime: Runtime,
    tunnel: Tunnel,
    hub: Ipv4Addr,
    stop: CancellationToken,
}

impl Spoke {
    /// Runs it on a host of a lab; the hub's endpoint is at `hub_at`.
    pub(super) fn start(agent: &Agent<'_>, host: &Host, hub_at: SocketAddr) -> Result<Self> {
        let identity = identity_of(agent)?;
        let key: WgPrivateKey = text(&identity, "/wireguard_private_key")?.parse()?;
        let lease = |at: &str| -> Result<OverlayLease> {
            let part = |family: &str| text(&identity, &format!("/tunnel/{at}/{family}"));
            Ok(OverlayLease { v4: part("v4")?.parse()?, v6: part("v6")?.parse()? })
        };
        let (v4, v6) = (text(&identity, "/tunnel/overlay_v4")?, text(&identity, "/tunnel/overlay_v6")?);
        let core = Config {
            private_key: key,
            addresses: lease("address")?,
            prefixes: OverlayPrefixes { v4: v4.parse()?, v6: v6.parse()? },
            role: Role::Spoke,
            mtu: 1420,
            limits: Limits::default(),
            answers_echoes: true,
            own_rules: None,
            seed: [7; 32],
        };
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (tunnel, engine) = host.enter(|| Tunnel::bind(TunnelConfig::new(listen, core)))??;
        let stop = CancellationToken::new();
        runtime.spawn(engine.run(stop.clone()));
        let hub_key: WgPublicKey = text(&identity, "/tunnel/hub_public_key")?.parse()?;
        let peer = PeerConfig {
            public_key: hub_key,
            allowed_ips: vec![v4.parse()?, v6.parse()?],
            endpoint: Some(hub_at.into()),
            preshared_key: None,
            keepalive: None,
        };
        runtime.block_on(tunnel.upsert_peer(peer))?;
        Ok(Self { runtime, tunnel, hub: lease("hub")?.v4, stop })
    }

    /// Connects to a port of the hub's overlay address, sends a text and reads the first bytes of the answer.
    pub(super) fn ask(&self, port: u16, request: &str, within: Duration) -> Result<String> {
        Ok(self.open(port, request, within)?.1)
    }

    /// The same, and keeps the connection.
    pub(super) fn open(&self, port: u16, request: &str, within: Duration) -> Result<(TunnelStream, String)> {
        self.runtime.block_on(async {
            let mut stream = self.tunnel.connect((self.hub, port).into(), within).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            let read = async {
                let mut piece = [0; 1024];
                while !answer.ends_with(b"\n") {
                    match stream.read(&mut piece).await? {
                        0 => break,
                        count => answer.extend(piece.get(..count).unwrap_or_default()),
                    }
                }
                io::Result::Ok(())
            };
            tokio::time::timeout(ANSWER, read).await.context("no answer")??;
            Ok((stream, String::from_utf8_lossy(&answer).into_owned()))
        })
    }
}

/// A connection through the tunnel.
pub(super) type TunnelStream = blueprint_common_tunnel::TcpStream;

impl Spoke {
    /// Waits until the hub ends a connection on which nothing is said.
    pub(super) fn wait_for_end(&self, stream: &mut TunnelStream) -> Result<()> {
        self.runtime.block_on(async {
            // An end in order and a broken connection are both one.
            let ended = async { while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {} };
            tokio::time::timeout(ANSWER, ended).await.context("the connection is still open")
        })
    }
}

impl Drop for Spoke {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
