//! The way out through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6).

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Longest head of an answer; proxies explain themselves in the body, which is not read.
const ANSWER_MAX: usize = 8 << 10;

/// A proxy that speaks CONNECT, and what it wants to know.
///
/// Written `http://USER:PASSWORD@HOST:PORT`; printed without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl {
    host: String,
    port: u16,
    /// `USER:PASSWORD`, decoded.
    credentials: Option<Secret<Vec<u8>>>,
}

/// Why a text is no URL of a proxy. The text is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyUrlError {
    /// Only `http` proxies are spoken to; what passes through is TLS anyway.
    #[error("a proxy URL begins with http://")]
    Scheme,
    /// There is no host.
    #[error("the proxy URL has no host")]
    Host,
    /// A port is missing, or no number from 1 to 65535.
    #[error("the proxy URL needs a port from 1 to 65535")]
    Port,
    /// User and password have to be parted by a colon, and special characters written as %XX.
    #[error("the credentials of the proxy URL are not USER:PASSWORD with special characters as %XX")]
    Credentials,
    /// Something follows the port.
    #[error("the proxy URL has more than host and port")]
    Path,
}

/// Why the proxy did not let us through.
#[derive(Debug, thiserror::Error)]
pub enum ConnectProxyError {
    /// The proxy cannot be reached.
    #[error("cannot reach the proxy {proxy}: check its host and port")]
    Unreachable {
        /// The proxy, without credentials.
        proxy: String,
        /// What the system says.
        source: io::Error,
    },
    /// It answered 407.
    #[error("the proxy asks for credentials (407): write USER:PASSWORD@ before its host, or correct them")]
    Credentials,
    /// It answered 403.
    #[error("the proxy forbids {target} (403): have it allowed there")]
    Forbidden {
        /// Where the connection was to go.
        target: String,
    },
    /// It answered something else than success.
    #[error("the proxy answered {status} for {target}")]
    Refused {
        /// Where the connection was to go.
        target: String,
        /// Its HTTP status.
        status: u16,
    },
    /// What answers there speaks something else.
    #[error("what answers at {proxy} is no HTTP proxy: check its port")]
    NotHttp {
        /// The proxy, without credentials.
        proxy: String,
    },
    /// Time ran out.
    #[error("the proxy {proxy} did not answer in time")]
    TimedOut {
        /// The proxy, without credentials.
        proxy: String,
    },
    /// The target cannot be written into a request.
    #[error("not a host to connect to")]
    Target,
    /// The connection to the proxy broke.
    #[error("the connection to the proxy broke")]
    Broken(#[from] io::Error),
}

/// Connects to `host` and `port` through `proxy`; the stream is then as if connected directly.
///
/// `within` is for all of it. The name of the host is resolved by the proxy.
///
/// # Errors
///
/// See [`ConnectProxyError`], whose texts say what to do.
///
/// # Cancel safety
///
/// Dropping it closes the connection.
pub async fn connect(
    proxy: &ProxyUrl,
    host: &str,
    port: u16,
    within: Duration,
) -> Result<TcpStream, ConnectProxyError> {
    let timed_out = |_| ConnectProxyError::TimedOut { proxy: proxy.to_string() };
    timeout(within, connect_untimed(proxy, host, port)).await.map_err(timed_out)?
}

async fn connect_untimed(proxy: &ProxyUrl, host: &str, port: u16) -> Result<TcpStream, ConnectProxyError> {
    let target = target(host, port).ok_or(ConnectProxyError::Target)?;
    let unreachable = |source| ConnectProxyError::Unreachable { proxy: proxy.to_string(), source };
    let mut stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await.map_err(unreachable)?;
    stream.write_all(request(proxy, &target).as_bytes()).await?;
    match read_status(&mut stream).await? {
        Some(200..=299) => Ok(stream),
        Some(407) => Err(ConnectProxyError::Credentials),
        Some(403) => Err(ConnectProxyError::Forbidden { target }),
        Some(status) => Err(ConnectProxyError::Refused { target, status }),
        None => Err(ConnectProxyError::NotHttp { proxy: proxy.to_string() }),
    }
}

/// `HOST:PORT` as it stands in a request; `None` for a host that would end the line or be two.
fn target(host: &str, port: u16) -> Option<String> {
    if let Ok(v6) = host.parse::<Ipv6Addr>() {
        return Some(format!("[{v6}]:{port}"));
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (!host.is_empty() && host.bytes().all(is_name)).then(|| format!("{host}:{port}"))
}

fn request(proxy: &ProxyUrl, target: &str) -> Zeroizing<String> {
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(credentials) = &proxy.credentials {
        request.push_str("Proxy-Authorization: Basic ");
        request.push_str(&Zeroizing::new(STANDARD.encode(credentials.expose())));
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request
}

/// Reads the head of the answer and not a byte more; `None` where it is not HTTP, or too long.
async fn read_status(stream: &mut TcpStream) -> Result<Option<u16>, io::Error> {
    let mut head = vec![0; ANSWER_MAX];
    let mut length = 0;
    loop {
        // What follows the head belongs to the target, so it is only looked at before it is taken.
        let Some(room) = head.get_mut(length..).filter(|room| !room.is_empty()) else { return Ok(None) };
        let seen = stream.peek(room).await?;
        if seen == 0 {
            return Ok(None);
        }
        let so_far = head.get(..length + seen).unwrap_or_default();
        if !so_far.starts_with(b"HTTP/1.") && !b"HTTP/1.".starts_with(so_far) {
            return Ok(None);
        }
        let end = so_far.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let taken = end.unwrap_or(length + seen) - length;
        stream.read_exact(head.get_mut(length..length + taken).unwrap_or_default()).await?;
        length += taken;
        if end.is_some() {
            return Ok(status(head.get(..length).unwrap_or_default()));
        }
    }
}

/// The status of `HTTP/1.x NNN reason`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = line.split(|byte| *byte == b' ');
    words.next()?;
    let code = words.next().filter(|code| code.len() == 3)?;
    std::str::from_utf8(code).ok()?.parse().ok().filter(|status| (100..600).contains(status))
}

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("http://").ok_or(ProxyUrlError::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(parse_credentials(credentials)?), place),
            None => (None, rest),
        };
        if place.contains(['/', '?', '#']) {
            return Err(ProxyUrlError::Path);
        }
        let (host, port) = place.rsplit_once(':').ok_or(ProxyUrlError::Port)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(ProxyUrlError::Port)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_host = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => target(host, port).is_some() && !host.contains(':'),
        };
        let host = bare.unwrap_or(host).to_owned();
        if is_host { Ok(Self { host, port, credentials }) } else { Err(ProxyUrlError::Host) }
    }
}

/// `USER:PASSWORD` with `%XX` undone.
fn parse_credentials(text: &str) -> Result<Secret<Vec<u8>>, ProxyUrlError> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let value = digit().zip(digit()).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
                value.ok_or(ProxyUrlError::Credentials)?
            }
            b'/' | b'?' | b'#' | b'@' => return Err(ProxyUrlError::Credentials),
            byte => byte,
        });
    }
    // The user's name ends at the first colon (RFC 7617), and neither part has control characters.
    let is_good = text.contains(':') && !decoded.iter().any(u8::is_ascii_control);
    if is_good { Ok(Secret::new(decoded.to_vec())) } else { Err(ProxyUrlError::Credentials) }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            write!(f, "http://[{host}]:{port}")
        } else {
            write!(f, "http://{host}:{port}")
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

#[cfg(test)]
mod tests;
