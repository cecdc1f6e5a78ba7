//! `GET` over HTTP/1.1, with TLS or without, through a proxy or not: one connection per request.
//!
//! Nothing is sent that tells who asks: no credentials, no cookies, no referrer.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_tunnel::carrier::{self, ProxyUrl};
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, HOST, IF_RANGE, LOCATION, RANGE, USER_AGENT};
use http::response::Parts;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use super::ArtefactError;
use super::locate::{fit, shown};

/// Redirects that are followed.
const MAX_REDIRECTS: usize = 10;

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// Most header fields of an answer, and most bytes that are read ahead.
const HEAD: (usize, usize) = (100, 128 * 1024);

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a connection with one address, and for TLS on it.
    pub(super) connect: Duration,
    /// For the head of an answer.
    pub(super) head: Duration,
    /// For the next byte.
    pub(super) silence: Duration,
    /// Before a download that broke off goes on; each wait is twice the one before.
    pub(super) pause: Duration,
    /// For all of a download.
    pub(super) whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(30),
            silence: Duration::from_secs(30),
            pause: Duration::from_millis(500),
            // 2 GiB at 25 KiB/s; a server that drips is not waited for longer.
            whole: Duration::from_hours(24),
        }
    }
}

/// A part of a file that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rest {
    /// Its first byte.
    pub(super) from: u64,
    /// Names the version that the bytes before it were of.
    pub(super) validator: HeaderValue,
}

/// Asks servers.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    proxy: Option<ProxyUrl>,
    pub(super) patience: Patience,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Client {
    pub(super) fn new(
        extra_roots: Vec<CertificateDer<'static>>,
        proxy: Option<ProxyUrl>,
        patience: Patience,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        for root in extra_roots {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), proxy, patience })
    }

    /// Asks for a file, or the rest of one, and follows where it is led.
    pub(super) async fn ask(&self, url: &Url, rest: Option<&Rest>) -> Result<Answer, ArtefactError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.ask_once(&url, rest).await?;
            match answer.head.status.as_u16() {
                301 | 302 | 303 | 307 | 308 => url = follow(&url, &answer.head)?,
                _ => return Ok(answer),
            }
        }
        let to = shown(url.as_str());
        Err(ArtefactError::Redirect { url: to.clone(), to, why: "it leads on and on; take the final URL" })
    }

    async fn ask_once(&self, url: &Url, rest: Option<&Rest>) -> Result<Answer, ArtefactError> {
        let shown = shown(url.as_str());
        let unreachable = |why: String| ArtefactError::Unreachable { url: shown.clone(), why };
        let request = request(url, rest).ok_or_else(|| ArtefactError::Url {
            url: shown.clone(),
            why: "it cannot be written in a request",
        })?;
        let stream = self.connect(url).await?;
        let mut builder = http1::Builder::new();
        builder.max_headers(HEAD.0).max_buf_size(HEAD.1);
        let asked = async {
            let (mut sender, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(chain(&error)))?;
            let mut connection: Connection = Box::pin(async move {
                // What goes wrong shows in the answer, too.
                let _ = connection.await;
            });
            let mut answered = Box::pin(sender.send_request(request));
            let mut is_over = false;
            let response = poll_fn(|context| {
                if !is_over {
                    is_over = connection.as_mut().poll(context).is_ready();
                }
                answered.as_mut().poll(context)
            });
            let response = response.await.map_err(|error| unreachable(chain(&error)))?;
            let (head, body) = response.into_parts();
            Ok(Answer { url: shown.clone(), head, body, connection: (!is_over).then_some(connection) })
        };
        let within = self.patience.head;
        let late = || ArtefactError::TimedOut { url: shown.clone(), what: "answer", within };
        timeout(within, asked).await.unwrap_or_else(|_| Err(late()))
    }

    async fn connect(&self, url: &Url) -> Result<Box<dyn Stream>, ArtefactError> {
        let shown = shown(url.as_str());
        let within = self.patience.connect;
        let unreachable = |why: String| ArtefactError::Unreachable { url: shown.clone(), why };
        let late = |what| ArtefactError::TimedOut { url: shown.clone(), what, within };
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(unreachable("it names no host".to_owned()));
        };
        let name = match host {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let stream = match &self.proxy {
            Some(proxy) => {
                let connected = carrier::connect(proxy, &name, port, within).await;
                connected.map_err(|error| unreachable(chain(&error)))?
            }
            None => match dial(&name, port, within).await {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(late("connection")),
                Err(error) => return Err(unreachable(error.to_string())),
            },
        };
        if url.scheme() == "http" {
            return Ok(Box::new(stream));
        }
        let server = ServerName::try_from(name).map_err(|error| unreachable(error.to_string()))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(server, stream);
        let tls = timeout(within, tls).await.map_err(|_| late("TLS handshake"))?;
        Ok(Box::new(tls.map_err(|error| unreachable(format!("TLS: {error}")))?))
    }
}

/// Connects with one of the addresses of a name.
async fn dial(name: &str, port: u16, within: Duration) -> io::Result<TcpStream> {
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let found = timeout(within, lookup_host((name, port))).await.map_err(|_| late())??;
    let mut failure = io::Error::other("the name has no address");
    for address in found.take(MAX_ADDRESSES) {
        match timeout(within, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = late(),
        }
    }
    Err(failure)
}

fn request(url: &Url, rest: Option<&Rest>) -> Option<Request<Empty<Bytes>>> {
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str()?),
        None => url.host_str()?.to_owned(),
    };
    let mut request = Request::get(&url[Position::BeforePath..Position::AfterQuery])
        .header(HOST, host)
        .header(ACCEPT, "*/*")
        // The digest is that of the file as it lies there.
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, concat!("blueprint-agent/", env!("CARGO_PKG_VERSION")));
    if let Some(rest) = rest {
        request = request.header(RANGE, format!("bytes={}-", rest.from)).header(IF_RANGE, &rest.validator);
    }
    request.body(Empty::new()).ok()
}

/// Where an answer leads.
fn follow(url: &Url, head: &Parts) -> Result<Url, ArtefactError> {
    let location = head.headers.get(LOCATION).and_then(|location| location.to_str().ok());
    let refused = |why| ArtefactError::Redirect {
        url: shown(url.as_str()),
        to: location.map(shown).unwrap_or_default(),
        why,
    };
    let to = location.and_then(|location| url.join(location).ok());
    let mut to = to.ok_or_else(|| refused("that is no URL"))?;
    fit(&to).map_err(refused)?;
    if url.scheme() == "https" && to.scheme() == "http" {
        return Err(refused("nobody goes from https to http; take a URL that stays with https"));
    }
    to.set_fragment(None);
    Ok(to)
}

type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a server answers. Its connection lives as long.
pub(super) struct Answer {
    /// Who answered, for people.
    pub(super) url: String,
    pub(super) head: Parts,
    body: Incoming,
    connection: Option<Connection>,
}

impl Answer {
    /// Bytes of the body, where the server says so.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let Self { body, connection, .. } = self;
            let mut frame = body.frame();
            let frame = poll_fn(|context| {
                if connection.as_mut().is_some_and(|it| it.as_mut().poll(context).is_ready()) {
                    *connection = None;
                }
                Pin::new(&mut frame).poll(context)
            });
            match frame.await.transpose()? {
                Some(frame) => {
                    // Trailers say nothing that matters here.
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

/// An error with what caused it, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    blueprint_common_runtime::Chain(error).to_string()
}
