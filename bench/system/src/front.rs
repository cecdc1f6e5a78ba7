//! The auth proxy as something to send load at: alone over loopback, or a whole hub and an agent.
//!
//! `bench/proxy` compares it with other proxies in front of the same service.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use blueprint_common_runtime::accept::AcceptLimits;
use blueprint_common_runtime::cli::print_line;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Supervisor;
use blueprint_common_types::{AccessToken, AgentId, Health, Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy::{
    ApiKey, AssertionStore, Dial, DialError, Io, KeyStore, KeyStoreError, Proxy, ProxyConfig, ProxyParts,
    UsedAssertions,
};
use blueprint_hub_proxy_core::identity::{IdentitySigner, SealingKey, UsedAssertion};
use blueprint_hub_proxy_core::{AccessGrant, AccessTable, RouteTable, Scope, Target, Trust};
use clap::Args;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::hub::Hub;
use crate::spoke::{SERVICE, Spoke};

/// Connections that clients may open; more than are opened.
const CONNECTIONS: usize = 16_384;

/// What stands in front of what.
#[derive(Debug, Clone, Args)]
pub(crate) struct Front {
    /// The service behind it
    #[arg(long)]
    upstream: SocketAddr,
    /// A whole hub and an agent in between, and not the proxy alone
    #[arg(long)]
    tunnel: bool,
}

/// Runs it until standard input ends.
///
/// Prints where it listens, the token that opens it, the service's name and the processes that it consists of.
///
/// # Errors
///
/// Fails where something does not start.
pub(crate) async fn run(front: &Front) -> Result<()> {
    let mut rest = Vec::new();
    if front.tunnel {
        let folder = tempfile::Builder::new().prefix("blueprint-bench-").tempdir()?;
        let hub = Hub::start(folder.path()).await?;
        let agent = Spoke::before(&hub, front.upstream, folder.path()).await?;
        let (listen, token) = (hub.proxy().await?, hub.access_token().await?);
        tell(listen, &token, SERVICE, &[("hub", hub.pid()), ("agent", agent.pid())]);
        tokio::io::stdin().read_to_end(&mut rest).await?;
        agent.end(nix::sys::signal::Signal::SIGTERM).await?;
        return hub.end().await;
    }
    let supervisor = Supervisor::new();
    let token = AccessToken::random().context("no randomness")?;
    let trust = Arc::new(ArcSwap::from_pointee(trust(&token, front.upstream)?));
    let parts = ProxyParts {
        dialer: Arc::new(Loopback),
        trust,
        keys: Arc::new(NoKeys),
        assertions: UsedAssertions::new(Arc::new(NoKeys), []),
        operator: None,
        signer: Arc::new(IdentitySigner::new(&Secret::new([5; 32]), "hub").context("no signer")?),
    };
    let mut config = ProxyConfig::new((Ipv4Addr::LOCALHOST, 0).into());
    config.limits = AcceptLimits { total: CONNECTIONS, per_ip: CONNECTIONS };
    let proxy = Proxy::bind(config, parts, &Metrics::new()).await?;
    let listen = proxy.local_addr()?;
    supervisor.spawn_essential("proxy", proxy.run(supervisor.child_spawner()));
    let pid = i32::try_from(std::process::id())?;
    tell(listen, token.expose_text().expose(), SERVICE, &[("proxy", pid)]);
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

fn tell(listen: SocketAddr, token: &str, service: &str, pids: &[(&str, i32)]) {
    let pids: serde_json::Map<_, _> =
        pids.iter().map(|(name, pid)| ((*name).to_owned(), json!(pid))).collect();
    let headers =
        json!({ "authorization": format!("Bearer {token}"), "x-service-id": format!("7/{service}") });
    print_line(&json!({ "listen": listen.to_string(), "headers": headers, "pids": pids }).to_string());
}

/// One token, one service, one target.
fn trust(token: &AccessToken, upstream: SocketAddr) -> Result<Trust> {
    let service = ServiceKey { blueprint: 7, service: SERVICE.parse()? };
    let grant = AccessGrant {
        hash: token.hash(),
        label: "bench".to_owned(),
        scope: Scope::All,
        expires_at: None,
        is_revoked: false,
    };
    let agent = AgentId::from_bytes([1; 16]);
    let target =
        Target { address: upstream, health: Health::Healthy, reason: String::new(), agent, weight: 100 };
    let sealing = Arc::new(SealingKey::new(&Secret::new([5; 32])).context("no sealing key")?);
    Ok(Trust {
        access: AccessTable::new([(token.id(), grant)]),
        routes: RouteTable::new([service], [(service, target)]),
        ..Trust::empty(sealing)
    })
}

struct Loopback;

impl Dial for Loopback {
    fn connect(&self, target: SocketAddr, _: Duration) -> BoxFuture<'_, Result<Box<dyn Io>, DialError>> {
        async move {
            let stream = TcpStream::connect(target).await.map_err(DialError::Other)?;
            stream.set_nodelay(true).map_err(DialError::Other)?;
            let stream: Box<dyn Io> = Box::new(stream);
            Ok(stream)
        }
        .boxed()
    }
}

/// Nobody asks for API keys here.
struct NoKeys;

impl KeyStore for NoKeys {
    fn create(&self, _: ApiKey) -> BoxFuture<'_, Result<(), KeyStoreError>> {
        let error = std::io::Error::other("a benchmark keeps no keys");
        async { Err(KeyStoreError::Failed(error.into())) }.boxed()
    }
}

impl AssertionStore for NoKeys {
    fn keep(
        &self,
        _: UsedAssertion,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<bool, Box<dyn std::error::Error + Send + Sync>>> {
        async { Err("there is no store".into()) }.boxed()
    }
}
