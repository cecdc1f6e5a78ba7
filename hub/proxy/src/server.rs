//! The auth proxy: what it listens on, and what runs while it does.

mod config;
mod connection;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use blueprint_common_runtime::accept::AcceptLoop;
use blueprint_common_runtime::lanes::Lanes;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tracing::warn;

pub use self::config::{ProxyConfig, ProxyParts};
use self::connection::{SHORT_HELLOS, Server};
use crate::connector::Connector;
use crate::forward::{Care, Forwarder};
use crate::forwards::Forwards;
use crate::guarded::Times;
use crate::http3::{self, Http3};
use crate::jwks::Jwks;
use crate::metrics::ProxyMetrics;
use crate::open::Seen;

/// The auth proxy, bound and ready to run.
pub struct Proxy {
    accept: AcceptLoop,
    tls_accept: Option<AcceptLoop>,
    config: ProxyConfig,
    parts: ProxyParts,
    metrics: Arc<ProxyMetrics>,
    jwks: Option<Jwks>,
    forwards: Option<Forwards>,
    http3: Option<Http3>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Binds the socket and registers the metrics.
    ///
    /// # Errors
    ///
    /// Fails where the system does not let this process listen there.
    pub async fn bind(config: ProxyConfig, parts: ProxyParts, metrics: &Metrics) -> io::Result<Self> {
        let accept = AcceptLoop::bind("proxy client", config.listen, config.limits).await?;
        let accept = accept.exempting_loopback();
        let tls_accept = match config.tls_listen {
            Some(address) => {
                Some(AcceptLoop::bind("proxy client", address, config.limits).await?.exempting_loopback())
            }
            None => None,
        };
        let http3 = match &config.tls {
            Some(tls) => {
                let listen = tls_accept.as_ref().unwrap_or(&accept).local_addr()?;
                Http3::open(&config.http3, listen, &tls.shared_config().map_err(io::Error::other)?)?
            }
            None => None,
        };
        http3::register_shared(metrics, &config.http3);
        let of_tls = tls_accept.as_ref().map(AcceptLoop::stats);
        let stats = [Some(accept.stats()), of_tls, http3.as_ref().map(Http3::stats)];
        let stats: Vec<_> = stats.into_iter().flatten().collect();
        config.ledger.follow(stats.clone());
        let jwks = config.jwks.clone().map(|config| Jwks::new(config, Arc::clone(&parts.trust), metrics));
        let proxy = Arc::new(ProxyMetrics::register(metrics, stats, config.ledger.clone()));
        let forwards = config.forwards.clone().map(|forwards| {
            let from = (Arc::clone(&parts.trust), Arc::clone(&parts.dialer));
            Forwards::new(&config, forwards, from, metrics, Arc::clone(&proxy))
        });
        Ok(Self { accept, tls_accept, config, parts, metrics: proxy, jwks, forwards, http3 })
    }

    /// The keys of OAuth issuers; `None` where none are fetched.
    #[must_use]
    pub fn jwks(&self) -> Option<Jwks> {
        self.jwks.clone()
    }

    /// The raw forwards; `None` where there are none.
    #[must_use]
    pub fn forwards(&self) -> Option<Forwards> {
        self.forwards.clone()
    }

    /// The address that clients reach, with the port that the system chose.
    ///
    /// # Errors
    ///
    /// Fails where the system cannot say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.accept.local_addr()
    }

    /// The address that has TLS, if one has.
    ///
    /// # Errors
    ///
    /// Fails where the system cannot say.
    pub fn tls_addr(&self) -> io::Result<Option<SocketAddr>> {
        match &self.tls_accept {
            Some(accept) => accept.local_addr().map(Some),
            None if self.config.tls.is_some() => self.local_addr().map(Some),
            None => Ok(None),
        }
    }

    /// Serves until `drain` of the spawner's supervisor; open requests then end in tasks of their own.
    ///
    /// # Errors
    ///
    /// Never; the type fits the supervisor's essential tasks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listening socket; accepted connections go on.
    pub async fn run(self, spawner: Spawner) -> Result<(), Infallible> {
        let connector = Connector::new(
            Arc::clone(&self.parts.dialer),
            self.config.connect_timeout,
            Arc::clone(&self.metrics),
        );
        let seen = Seen {
            metrics: Arc::clone(&self.metrics),
            ledger: self.config.ledger,
            access: self.config.access_log,
        };
        let forwarder = Forwarder::new(
            self.config.domain.clone(),
            &self.parts,
            connector,
            seen,
            self.jwks.clone(),
            &spawner,
        );
        if let Some(jwks) = self.jwks {
            spawner.spawn_base("proxy jwks", jwks.run(spawner.clone()));
        }
        if let Some(forwards) = self.forwards {
            spawner.spawn_base("proxy forwards", forwards.run(spawner.clone()));
        }
        let drain = spawner.stop().drain;
        let lanes = lanes(self.config.lanes, &spawner);
        let server = Server {
            forwarder: Arc::new(forwarder),
            metrics: self.metrics,
            tls: self.config.tls,
            handshake_timeout: self.config.handshake_timeout,
            times: Times { head: self.config.header_timeout, idle: self.config.idle_timeout },
            reader_timeout: self.config.reader_timeout,
            care: Care { least_rate: self.config.least_rate, pressure: self.config.pressure },
            drain: drain.clone(),
            alt_svc: self.http3.as_ref().and_then(Http3::advertisement),
            short_hellos: Arc::new(Semaphore::new(SHORT_HELLOS)),
            spawner: spawner.clone(),
            workers: Handle::current(),
        };
        if let Some(http3) = self.http3 {
            let shared = http3::Shared {
                forwarder: Arc::clone(&server.forwarder),
                metrics: Arc::clone(&server.metrics),
                handshake_timeout: server.handshake_timeout,
                header_timeout: server.times.head,
                idle_timeout: server.times.idle,
                reader_timeout: server.reader_timeout,
                care: server.care.clone(),
                drain: drain.clone(),
            };
            spawner.spawn_base("proxy http3 socket", http3.run(shared, spawner.clone()));
        }
        let serve = |server: Server| {
            let server = Arc::new(server);
            move |stream: TcpStream, peer: SocketAddr| Arc::clone(&server).serve(stream, peer)
        };
        let Some(tls_accept) = self.tls_accept else {
            return self.accept.on_lanes(lanes).run(spawner, drain, serve(server)).await;
        };
        let plain = Server { tls: None, ..server.clone() };
        let plain = self.accept.on_lanes(lanes.clone()).run(spawner.clone(), drain.clone(), serve(plain));
        let tls = tls_accept.on_lanes(lanes).run(spawner, drain, serve(server));
        tokio::try_join!(plain, tls).map(drop)
    }
}

/// The threads for clients; without them the runtime's workers serve.
fn lanes(count: usize, spawner: &Spawner) -> Option<Lanes> {
    Lanes::start("proxy", NonZeroUsize::new(count)?, &spawner.stop())
        .inspect_err(|error| warn!(%error, "no threads of their own for clients, the workers serve them"))
        .ok()
}
