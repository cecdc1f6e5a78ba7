//! Finding the hub and opening a control connection to it.
//!
//! The hub's name is resolved anew for every connection, by a resolver made anew from the system's settings:
//! neither a cached answer nor a name server of yesterday stands between an agent and a hub that moved.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use blueprint_common_tunnel::carrier::{self, ConnectProxyError, ProxyUrl};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower_service::Service;

/// A name that is not resolved within this is given up.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection, TLS included, that takes longer is given up: a lost `SYN` is sent again after 1 s, and again
/// after 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Head start of each address before the next one is tried too (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses of one name that are tried at most.
const MAX_ADDRESSES: usize = 8;

/// HTTP/2 ping while nothing else is said, and how long its answer may take: a dead path shows within 5 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// What a stream, and what all of them together, may bring before it is read. An artefact that is written slowly must
/// not hold up the control stream beside it: two come at once at most, so there is room left with both windows full.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Largest message of the hub that is taken in.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Where the hub's control plane is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress {
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why there is no connection to the hub.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no such name.
    #[error("cannot resolve {host}: there is no such name")]
    NoSuchName {
        /// The name.
        host: String,
    },
    /// The name servers could not be asked, or answered otherwise.
    #[error("cannot resolve {host}: {why}")]
    Resolve {
        /// The name.
        host: String,
        /// Why not; the library's errors repeat their sources, so only this text is kept.
        why: String,
    },
    /// No name server answered in time.
    #[error("cannot resolve {host}: no answer within {} s", RESOLVE_TIMEOUT.as_secs())]
    ResolveTimeout {
        /// The name.
        host: String,
    },
    /// The name exists and has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// No address took the connection.
    #[error("cannot connect to {hub}")]
    Connect {
        /// The hub.
        hub: HubAddress,
        /// What the last address said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from {hub} within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// The hub.
        hub: HubAddress,
    },
    /// Whoever answers there is not the hub that was expected.
    #[error("{hub} is another hub than the expected one")]
    WrongHub {
        /// The hub.
        hub: HubAddress,
    },
    /// The hub refuses this agent's certificate.
    #[error("{hub} refuses this agent's certificate")]
    Refused {
        /// The hub.
        hub: HubAddress,
        /// The alert.
        source: io::Error,
    },
    /// The hub's certificate is not valid at this machine's time.
    #[error("the certificate of {hub} is not valid at this machine's time")]
    Clock {
        /// The hub.
        hub: HubAddress,
    },
    /// No TLS 1.3 came about, for another reason.
    #[error("no secure connection with {hub}")]
    Tls {
        /// The hub.
        hub: HubAddress,
        /// Why not.
        source: io::Error,
    },
    /// HTTP/2 did not start.
    #[error("{hub} does not speak the control protocol")]
    Protocol {
        /// The hub.
        hub: HubAddress,
        /// Why not.
        source: tonic::transport::Error,
    },
    /// The HTTP proxy does not let us through.
    #[error(transparent)]
    Proxy(#[from] ConnectProxyError),
    /// Our own keys or certificates cannot be used.
    #[error("cannot set up TLS")]
    SetUp(#[from] rustls::Error),
}

/// An open control connection.
#[derive(Debug)]
pub(crate) struct Dialed {
    /// For calls; it does not reconnect.
    pub(crate) channel: Channel,
    /// The hub's address that took the connection, or the proxy's.
    pub(crate) reached: SocketAddr,
}

/// Opens a control connection to `hub`.
///
/// # Cancel safety
///
/// Dropping the future leaves nothing open.
pub(crate) async fn dial(
    hub: &HubAddress,
    tls: Arc<ClientConfig>,
    proxy: Option<&ProxyUrl>,
) -> Result<Dialed, DialError> {
    let (stream, reached) = dial_stream(hub, Vec::new(), tls, proxy).await?;
    let protocol = |source| DialError::Protocol { hub: hub.clone(), source };
    let channel = Endpoint::from_static("http://hub.blueprint.internal")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(Once(Some(TokioIo::new(stream))))
        .await
        .map_err(protocol)?;
    Ok(Dialed { channel, reached })
}

/// Opens a TLS stream to `hub` at one of the `known` addresses, or those found where there are none; or through a
/// proxy, which then resolves the name.
///
/// # Cancel safety
///
/// Dropping the future leaves nothing open.
pub(crate) async fn dial_stream(
    hub: &HubAddress,
    known: Vec<IpAddr>,
    tls: Arc<ClientConfig>,
    proxy: Option<&ProxyUrl>,
) -> Result<(TlsStream<TcpStream>, SocketAddr), DialError> {
    let timed_out = |_| DialError::TimedOut { hub: hub.clone() };
    let Some(proxy) = proxy else {
        let addresses = if known.is_empty() { resolve(&hub.host).await? } else { known };
        return timeout(CONNECT_TIMEOUT, connect(hub, addresses, tls)).await.map_err(timed_out)?;
    };
    let stream = carrier::connect(proxy, &hub.host, hub.port, CONNECT_TIMEOUT).await?;
    let reached = stream.peer_addr().map_err(|source| DialError::Connect { hub: hub.clone(), source })?;
    let secured = TlsConnector::from(tls).connect(crate::tls::hub_name()?, stream);
    let secured = timeout(CONNECT_TIMEOUT, secured).await.map_err(timed_out)?;
    Ok((secured.map_err(|error| tls_error(hub, error))?, reached))
}

async fn connect(
    hub: &HubAddress,
    addresses: Vec<IpAddr>,
    tls: Arc<ClientConfig>,
) -> Result<(TlsStream<TcpStream>, SocketAddr), DialError> {
    let (stream, reached) = connect_tcp(&addresses, hub.port)
        .await
        .map_err(|source| DialError::Connect { hub: hub.clone(), source })?;
    let secured = TlsConnector::from(tls).connect(crate::tls::hub_name()?, stream).await;
    Ok((secured.map_err(|error| tls_error(hub, error))?, reached))
}

/// The first address that takes the connection, each one tried a little after the one before.
async fn connect_tcp(addresses: &[IpAddr], port: u16) -> io::Result<(TcpStream, SocketAddr)> {
    let mut attempts: FuturesUnordered<_> = (0u32..)
        .zip(addresses)
        .map(|(position, ip)| async move {
            sleep(STAGGER.saturating_mul(position)).await;
            let address = SocketAddr::new(*ip, port);
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok((stream, address))
        })
        .collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// What a failed handshake means for whoever reads of it.
fn tls_error(hub: &HubAddress, source: io::Error) -> DialError {
    let hub = hub.clone();
    match rustls_error(&source) {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::ApplicationVerificationFailure
            | CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. },
        )) => DialError::WrongHub { hub },
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => DialError::Clock { hub },
        Some(rustls::Error::AlertReceived(alert)) if is_about_certificate(*alert) => {
            DialError::Refused { hub, source }
        }
        Some(_) | None => DialError::Tls { hub, source },
    }
}

/// The TLS error inside an I/O error.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

const fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

/// Whether the hub turned our certificate away. In TLS 1.3 that shows only at the first read, below HTTP/2.
pub(crate) fn is_certificate_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let tls = error.downcast_ref::<rustls::Error>();
        let tls = tls.or_else(|| error.downcast_ref::<io::Error>().and_then(rustls_error));
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            return is_about_certificate(*alert);
        }
        next = error.source();
    }
    false
}

/// Addresses of `host`, as the system's settings say at this moment; an address is its own.
pub(crate) async fn resolve(host: &str) -> Result<Vec<IpAddr>, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let named = |error: NetError| {
        let host = host.to_owned();
        if error.is_nx_domain() || error.is_no_records_found() {
            DialError::NoSuchName { host }
        } else {
            DialError::Resolve { host, why: error.to_string() }
        }
    };
    let resolver = resolver().map_err(named)?;
    let found = timeout(RESOLVE_TIMEOUT, resolver.lookup_ip(host))
        .await
        .map_err(|_| DialError::ResolveTimeout { host: host.to_owned() })?
        .map_err(named)?;
    let addresses: Vec<IpAddr> = found.iter().take(MAX_ADDRESSES).collect();
    if addresses.is_empty() { Err(DialError::NoAddress { host: host.to_owned() }) } else { Ok(addresses) }
}

fn resolver() -> Result<TokioResolver, NetError> {
    // A machine without name servers may still name its hub in the hosts file.
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
        let nothing = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(nothing, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = Duration::from_secs(1);
    options.attempts = 2;
    builder.build()
}

/// Hands out one connection that is open already; asked again, it has none.
struct Once(Option<TokioIo<TlsStream<TcpStream>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take();
        Box::pin(async { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub() -> HubAddress {
        HubAddress { host: "::1".to_owned(), port: 7443 }
    }

    #[test]
    fn a_hub_prints_as_it_is_written() {
        assert_eq!(hub().to_string(), "[::1]:7443");
        assert_eq!(HubAddress { host: "hub".to_owned(), port: 1 }.to_string(), "hub:1");
    }

    #[test]
    fn failures_of_tls_are_told_apart() {
        let of = |error: rustls::Error| tls_error(&hub(), io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |error| of(rustls::Error::InvalidCertificate(error));
        assert!(matches!(
            certificate(CertificateError::ApplicationVerificationFailure),
            DialError::WrongHub { .. }
        ));
        assert!(matches!(certificate(CertificateError::UnknownIssuer), DialError::WrongHub { .. }));
        assert!(matches!(certificate(CertificateError::Expired), DialError::Clock { .. }));
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateExpired);
        assert!(matches!(of(alert), DialError::Refused { .. }));
        assert!(matches!(of(rustls::Error::HandshakeNotComplete), DialError::Tls { .. }));
    }

    #[test]
    fn an_alert_is_found_below_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);

        let alert = |alert| Outer(io::Error::other(rustls::Error::AlertReceived(alert)));
        assert!(is_certificate_refused(&alert(AlertDescription::CertificateExpired)));
        assert!(!is_certificate_refused(&alert(AlertDescription::CloseNotify)));
        assert!(!is_certificate_refused(&io::Error::other("else")));
    }

    #[tokio::test]
    async fn an_address_needs_no_name_server() {
        assert_eq!(resolve("192.0.2.1").await.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
    }

    #[tokio::test]
    async fn a_closed_port_is_a_refused_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let hub = HubAddress { host: "127.0.0.1".to_owned(), port };
        let tls = crate::tls::joining_config(blueprint_common_types::CaPin::of_spki(b"")).unwrap();
        assert!(matches!(dial(&hub, tls, None).await, Err(DialError::Connect { .. })));
    }
}
