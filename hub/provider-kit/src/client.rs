//! Calls to a cloud: HTTP/1.1 by TLS, one connection each, bounded in time and size.
//!
//! A connection is never used twice. It costs a handshake, of which there are three a second at most, and buys that a call
//! fails before it is sent or after, and never because an idle connection was closed under it: a creation that may have been
//! made costs minutes of looking.

mod pieces;

use std::error::Error;
use std::future::pending;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tracing::debug;

pub use pieces::Take;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 3;

/// Most header fields of an answer, and most bytes of them.
const HEAD: (usize, usize) = (100, 128 * 1024);

/// Where a machine of a cloud asks about itself, which has no TLS: of nearly all clouds, and of EC2 over IPv6.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// How a client calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// What it calls itself.
    pub user_agent: String,
    /// A PEM file with authorities that are trusted besides the public ones (those of Mozilla).
    pub extra_roots: Option<PathBuf>,
    /// Longest body of an answer, in bytes.
    pub max_body: usize,
    /// Longest time for a name, for a connection with one of its addresses, and for TLS on it, each.
    pub connect_within: Duration,
    /// Longest time from the first byte sent to the last one received.
    pub answer_within: Duration,
}

impl Default for HttpConfig {
    /// 16 MiB, 5 s and 30 s: the largest lists of clouds have a few MiB, and no create call of one is known to take longer.
    fn default() -> Self {
        Self {
            user_agent: concat!("blueprint-hub/", env!("CARGO_PKG_VERSION")).to_owned(),
            extra_roots: None,
            max_body: 16 << 20,
            connect_within: Duration::from_secs(5),
            answer_within: Duration::from_secs(30),
        }
    }
}

/// A client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpSetupError {
    /// The name does not fit in a header.
    #[error("the user agent {0:?} is not a header value: take letters, digits, '/', '.' and spaces")]
    UserAgent(String),
    /// The file of authorities cannot be read.
    #[error("cannot read the authorities of {}: a PEM file with certificates was expected", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// TLS itself cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Why a call had no answer. It names the host alone: paths and queries may hold what is not for a log.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("{what} of {host} took more than {within:?}")]
    Late { host: String, what: &'static str, within: Duration },
    #[error("cannot connect to {host}")]
    Connect { host: String, source: std::io::Error },
    #[error("no TLS with {host}")]
    Tls { host: String, source: std::io::Error },
    #[error("{host} broke off, or does not speak HTTP/1.1")]
    Http { host: String, source: hyper::Error },
    #[error("the answer of {host} broke off, or has more than {max} bytes")]
    Body { host: String, max: usize, source: Box<dyn Error + Send + Sync> },
    #[error("the answer of {host} broke off after {count} bytes")]
    Broken { host: String, count: usize, source: hyper::Error },
    #[error("the answer of {host} has more than {max} bytes")]
    Long { host: String, max: usize },
    #[error("the answer of {host} does not say where it ends, so that a half would be taken for the whole")]
    NoEnd { host: String },
    #[error("the answer of {host} cannot be used")]
    Unusable { host: String, source: Box<dyn Error + Send + Sync> },
}

/// Whom to call, out of a URL.
struct Target {
    host: String,
    port: u16,
    server: Option<ServerName<'static>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Calls clouds. Clones are handles of the same.
///
/// It follows no redirects, keeps no cookies, and takes `http` only to addresses of this machine and of its cloud's
/// metadata service.
#[derive(Debug, Clone)]
pub struct HttpClient {
    tls: Arc<ClientConfig>,
    config: Arc<HttpConfig>,
    user_agent: HeaderValue,
    takes: fn(IpAddr) -> bool,
    is_head_enough: bool,
}

impl HttpClient {
    /// A client that calls as `config` says; reads the file of authorities once.
    ///
    /// # Errors
    ///
    /// Where the user agent is no header value, or the file of authorities holds none that can be used.
    pub fn new(config: HttpConfig) -> Result<Self, HttpSetupError> {
        let user_agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|_| HttpSetupError::UserAgent(config.user_agent.clone()))?;
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = &config.extra_roots {
            add_roots(&mut roots, path)
                .map_err(|source| HttpSetupError::Roots { path: path.clone(), source })?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: Arc::new(tls),
            config: Arc::new(config),
            user_agent,
            takes: |_| true,
            is_head_enough: false,
        })
    }

    /// The same, but it calls only addresses that `takes` says true of, whatever names lead to them: each is looked at after
    /// its name was asked for, and that very address is called.
    #[must_use]
    pub fn only_to(mut self, takes: fn(IpAddr) -> bool) -> Self {
        self.takes = takes;
        self
    }

    /// The same, but an answer ends with its head: whatever body follows is not read, and the answer has none.
    #[must_use]
    pub const fn without_bodies(mut self) -> Self {
        self.is_head_enough = true;
        self
    }

    /// Sends a request with an absolute URL once, and reads the whole answer, whatever its status. `call` names the call in
    /// errors and the log, in the cloud's spelling.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where the URL is neither `https` nor `http` to this machine or its metadata service,
    /// [`ProviderError::Unsent`] where no connection could be made, so that nothing reached the cloud,
    /// [`ProviderError::Other`] for everything after that.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the cloud may have got the request.
    pub async fn send(
        &self,
        call: &'static str,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, ProviderError> {
        self.call(call, request, None).await
    }

    /// The same for an answer that is too long to be held: where its status is 200, `take` is given the body in pieces as they
    /// come, and the answer has none. Other answers come whole, 64 KiB at most.
    ///
    /// [`HttpConfig::max_body`] and [`HttpConfig::answer_within`] hold, and each piece has to come within 30 s.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); also where the answer does not say where it ends, since a half of it could not be told from the
    /// whole, and where `take` refuses a piece, which ends the call. Pieces of an answer that breaks off were given by then.
    ///
    /// # Cancel safety
    ///
    /// As [`send`](Self::send).
    pub async fn read(
        &self,
        call: &'static str,
        request: Request<Bytes>,
        take: Take<'_>,
    ) -> Result<Response<Bytes>, ProviderError> {
        self.call(call, request, Some(take)).await
    }

    async fn call(
        &self,
        call: &'static str,
        request: Request<Bytes>,
        take: Option<Take<'_>>,
    ) -> Result<Response<Bytes>, ProviderError> {
        let target = Target::of(request.uri())?;
        let request = self.prepared(request, &target)?;
        let began = Instant::now();
        let millis = || u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stream = Box::pin(self.connect(&target)).await.map_err(|error| {
            debug!(call, host = target.host, duration_ms = millis(), "cloud not reached");
            ProviderError::Unsent { call, source: Box::new(error) }
        })?;
        let answered =
            timeout(self.config.answer_within, Box::pin(self.exchange(&target, stream, request, take)));
        let answered = answered.await.unwrap_or_else(|_| {
            let within = self.config.answer_within;
            Err(SendError::Late { host: target.host.clone(), what: "the answer", within })
        });
        match answered {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let bytes = answer.body().len();
                debug!(call, host = target.host, status, bytes, duration_ms = millis(), "cloud answered");
                Ok(answer)
            }
            Err(error) => {
                debug!(call, host = target.host, duration_ms = millis(), "cloud did not answer");
                Err(ProviderError::Other { call, source: Box::new(error) })
            }
        }
    }

    fn prepared(&self, request: Request<Bytes>, to: &Target) -> Result<Request<Full<Bytes>>, ProviderError> {
        let wrong = || ProviderError::Reject { reason: format!("a URL of {} cannot be sent", to.host) };
        let (mut parts, body) = request.into_parts();
        let uri = std::mem::take(&mut parts.uri);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.parse() } else { format!("/{path}").parse() };
        parts.uri = path.map_err(|_| wrong())?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        parts.headers.insert(HOST, HeaderValue::from_str(authority).map_err(|_| wrong())?);
        parts.headers.entry(USER_AGENT).or_insert_with(|| self.user_agent.clone());
        parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        // The length is that of the body.
        parts.headers.remove(CONTENT_LENGTH);
        parts.headers.remove(TRANSFER_ENCODING);
        // Of a body that is empty hyper says nothing, and Google wants that said (411, "Length Required").
        if body.is_empty() && matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        Ok(Request::from_parts(parts, Full::new(body)))
    }

    async fn connect(&self, to: &Target) -> Result<Box<dyn Stream>, SendError> {
        let within = self.config.connect_within;
        let late = |what| SendError::Late { host: to.host.clone(), what, within };
        let failed = |source| SendError::Connect { host: to.host.clone(), source };
        let found = timeout(within, lookup_host((to.host.as_str(), to.port))).await;
        let found = found.map_err(|_| late("the address"))?.map_err(failed)?;
        let found: Vec<SocketAddr> = found.collect();
        let why = if found.is_empty() { "the name has no address" } else { "no address of it may be called" };
        let mut failure = failed(std::io::Error::other(why));
        let takes = |address: &SocketAddr| to.takes(address.ip()) && (self.takes)(address.ip());
        for address in alternating(found.into_iter().filter(takes).collect()) {
            match timeout(within, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return self.secure(to, stream).await,
                Ok(Err(error)) => failure = failed(error),
                Err(_) => failure = late("the connection"),
            }
        }
        Err(failure)
    }

    async fn secure(&self, to: &Target, stream: TcpStream) -> Result<Box<dyn Stream>, SendError> {
        // A small request must not wait for the acknowledgement of its head; without it, it is only slower.
        let _ = stream.set_nodelay(true);
        let Some(server) = to.server.clone() else { return Ok(Box::new(stream)) };
        let within = self.config.connect_within;
        let secured = TlsConnector::from(Arc::clone(&self.tls)).connect(server, stream);
        let secured = timeout(within, secured).await;
        let late = SendError::Late { host: to.host.clone(), what: "the TLS handshake", within };
        let secured = secured.map_err(|_| late)?;
        Ok(Box::new(secured.map_err(|source| SendError::Tls { host: to.host.clone(), source })?))
    }

    async fn exchange(
        &self,
        to: &Target,
        stream: Box<dyn Stream>,
        request: Request<Full<Bytes>>,
        take: Option<Take<'_>>,
    ) -> Result<Response<Bytes>, SendError> {
        let max = self.config.max_body;
        let broken = |source| SendError::Http { host: to.host.clone(), source };
        let mut builder = http1::Builder::new();
        builder.max_headers(HEAD.0).max_buf_size(HEAD.1);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answered = async move {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let (parts, body) = answer.into_parts();
            if self.is_head_enough {
                return Ok(Response::from_parts(parts, Bytes::new()));
            }
            let max = if take.is_some() { max.min(pieces::MAX_REFUSAL) } else { max };
            if let Some(take) = take.filter(|_| parts.status == StatusCode::OK) {
                pieces::give(&to.host, &parts, body, self.config.max_body, take).await?;
                return Ok(Response::from_parts(parts, Bytes::new()));
            }
            let body = Limited::new(body, max).collect().await;
            let body =
                body.map_err(|source| SendError::Body { host: to.host.clone(), max, source })?.to_bytes();
            Ok(Response::from_parts(parts, body))
        };
        let driven = async {
            // What goes wrong shows in the answer, too.
            let _ = connection.await;
            pending::<()>().await;
        };
        tokio::select! {
            answered = answered => answered,
            () = driven => pending().await,
        }
    }
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, ProviderError> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let refused = |why| ProviderError::Reject {
            reason: format!(
                "{}://{host} is not called: {why}; name an https URL with a host",
                uri.scheme_str().unwrap_or_default()
            ),
        };
        if host.is_empty() {
            return Err(refused("it names no host"));
        }
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_user {
            return Err(refused("it names a user"));
        }
        match uri.scheme_str() {
            Some("https") => {
                let server = ServerName::try_from(host.clone()).map_err(|_| refused("that is no host"))?;
                Ok(Self { port: uri.port_u16().unwrap_or(443), server: Some(server), host })
            }
            Some("http") => {
                let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_here);
                if !is_here {
                    return Err(refused("http is only for this machine"));
                }
                Ok(Self { port: uri.port_u16().unwrap_or(80), server: None, host })
            }
            Some(_) | None => Err(refused("it is not https")),
        }
    }

    /// Whether an address that the name has may be called.
    fn takes(&self, address: IpAddr) -> bool {
        self.server.is_some() || is_here(address)
    }
}

/// Whether what is sent to an address stays on this machine, or in the host that it runs on.
fn is_here(address: IpAddr) -> bool {
    address.is_loopback() || METADATA.contains(&address)
}

/// The first addresses, those of the two families by turns: one family may lead nowhere.
fn alternating(addresses: Vec<SocketAddr>) -> impl Iterator<Item = SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut by_turns: Vec<_> =
        first.into_iter().flat_map(|one| [Some(one), second.next()]).flatten().collect();
    by_turns.extend(second);
    by_turns.into_iter().take(MAX_ADDRESSES)
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut count = 0;
    for certificate in CertificateDer::pem_file_iter(path)? {
        roots.add(certificate?)?;
        count += 1;
    }
    if count == 0 { Err("there is no certificate in it".into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
