//! What the proxy is made of: how it listens, and what others keep for it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use blueprint_common_runtime::accept::AcceptLimits;
use blueprint_hub_proxy_core::Trust;
use blueprint_hub_proxy_core::identity::IdentitySigner;
use blueprint_hub_proxy_core::pace::LeastRate;

use crate::access_log::AccessLog;
use crate::assertions::UsedAssertions;
use crate::dial::Dial;
use crate::forwards::ForwardConfig;
use crate::http3::Http3Socket;
use crate::jwks::JwksConfig;
use crate::keys::KeyStore;
use crate::ledger::Ledger;
use crate::operator::OperatorDoor;
use crate::pressure::Pressure;
use crate::tls::TlsHandle;

/// How the proxy listens and what it waits for.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// TCP address; port 0 lets the system choose. Without TLS where there is none, or where `tls_listen` has it.
    pub listen: SocketAddr,
    /// One more TCP address, always with TLS; `None` for none.
    pub tls_listen: Option<SocketAddr>,
    /// TLS with which clients are met; `None` for plain HTTP, on loopback or behind something that has it.
    pub tls: Option<TlsHandle>,
    /// Domain under which `s<service>.b<blueprint>.<domain>` names a service; empty to have none.
    pub domain: String,
    /// Threads that serve clients, each its own connections; 0 leaves them to the workers of the runtime, who share all.
    /// Default one for each processor.
    pub lanes: usize,
    /// How many connections clients may have open.
    pub limits: AcceptLimits,
    /// How long a connection to a target may take to open. Default 3 s.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// How long the head of a request may take, from its first byte to its last; on a new connection from
    /// the accept on. Default 5 s.
    pub header_timeout: Duration,
    /// How long a connection may stay without a request that is open. Default 75 s.
    pub idle_timeout: Duration,
    /// How fast the body of a request has to come while the service waits for it. Default 1 KiB/s over 30 s.
    pub least_rate: LeastRate,
    /// How long a client may leave what it asked for unread. Default 60 s.
    pub reader_timeout: Duration,
    /// Whether the hub is short of memory; whoever measures it keeps a clone.
    pub pressure: Pressure,
    /// What is used and refused; whoever reads it keeps a clone.
    pub ledger: Ledger,
    /// Which requests are written to the log.
    pub access_log: AccessLog,
    /// From where keys of OAuth issuers may be fetched; `None` for nowhere.
    pub jwks: Option<JwksConfig>,
    /// Where raw forwards listen; `None` for nowhere.
    pub forwards: Option<ForwardConfig>,
    /// Where HTTP/3 is spoken; it takes TLS. Default off.
    pub http3: Http3Socket,
}

impl ProxyConfig {
    /// A configuration with the default limits, without TLS, without a domain and without issuers.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls_listen: None,
            tls: None,
            domain: String::new(),
            lanes: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            limits: AcceptLimits::default(),
            connect_timeout: Duration::from_secs(3),
            handshake_timeout: Duration::from_secs(5),
            header_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(75),
            least_rate: LeastRate::default(),
            reader_timeout: Duration::from_secs(60),
            pressure: Pressure::default(),
            ledger: Ledger::default(),
            access_log: AccessLog::default(),
            jwks: None,
            forwards: None,
            http3: Http3Socket::Off,
        }
    }
}

/// What the proxy works with and others keep. Swapping `trust` takes effect with the next request.
#[derive(Clone)]
pub struct ProxyParts {
    /// Opens connections to targets.
    pub dialer: Arc<dyn Dial>,
    /// Everything that is decided by.
    pub trust: Arc<ArcSwap<Trust>>,
    /// Keeps API keys.
    pub keys: Arc<dyn KeyStore>,
    /// Which assertions of OAuth issuers were used.
    pub assertions: UsedAssertions,
    /// Signs who calls, for services.
    pub signer: Arc<IdentitySigner>,
    /// What the operator may do here; `None` for nothing.
    pub operator: Option<OperatorDoor>,
}

impl std::fmt::Debug for ProxyParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyParts").field("signer", &self.signer).finish_non_exhaustive()
    }
}
