//! A server whose answers are bytes that a test makes up, with TLS or without.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) head: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let field = |line: &'_ str| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(())?;
            Some(line.len() - value.len())
        };
        self.head.lines().find_map(|line| field(line).map(|at| line[at..].trim()))
    }
}

/// What to send, and what to do then.
pub(super) struct Reply {
    pub(super) bytes: Vec<u8>,
    /// Stay silent until the client leaves, instead of closing.
    pub(super) is_held: bool,
    /// Read another request.
    pub(super) is_more: bool,
}

impl Reply {
    pub(super) fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\n{headers}\r\n");
        Self { bytes: [head.as_bytes(), body].concat(), is_held: false, is_more: false }
    }

    /// A whole file.
    pub(super) fn ok(body: &[u8]) -> Self {
        Self::new("200 OK", &format!("content-length: {}\r\n", body.len()), body)
    }

    /// The first bytes of a file that has more.
    pub(super) fn cut(body: &[u8], bytes: usize, headers: &str) -> Self {
        let headers = format!("content-length: {}\r\n{headers}", body.len());
        Self::new("200 OK", &headers, &body[..bytes])
    }

    pub(super) fn to(location: &str) -> Self {
        Self::new("302 Found", &format!("content-length: 0\r\nlocation: {location}\r\n"), b"")
    }

    pub(super) fn held(mut self) -> Self {
        self.is_held = true;
        self
    }
}

type Answer = Arc<dyn Fn(&Asked, usize) -> Reply + Send + Sync>;

/// See the module. It ends when dropped.
pub(super) struct Server {
    address: SocketAddr,
    is_tls: bool,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_over: Arc<AtomicBool>,
}

impl Server {
    /// Answers each request, of which it is told the number.
    pub(super) fn start(answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, answer)
    }

    pub(super) fn start_with(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, is_tls) = (listener.local_addr().unwrap(), tls.is_some());
        let (asked, is_over) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(AtomicBool::new(false)));
        let (answer, all, over): (Answer, _, _) =
            (Arc::new(answer), Arc::clone(&asked), Arc::clone(&is_over));
        let accept = move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, all, tls) = (Arc::clone(&answer), Arc::clone(&all), tls.clone());
                let serve = move || match tls {
                    None => serve(stream, &answer, &all),
                    Some(tls) => {
                        let session = ServerConnection::new(tls).unwrap();
                        serve(StreamOwned::new(session, stream), &answer, &all);
                    }
                };
                thread::Builder::new().name("test-client".to_owned()).spawn(serve).unwrap();
            }
        };
        thread::Builder::new().name("test-server".to_owned()).spawn(accept).unwrap();
        Self { address, is_tls, asked, is_over }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn url(&self, path: &str) -> String {
        if self.is_tls {
            format!("https://localhost:{}{path}", self.address.port())
        } else {
            format!("http://{}{path}", self.address)
        }
    }

    /// The requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: impl Read + Write, answer: &Answer, all: &Mutex<Vec<Asked>>) {
    while let Some(asked) = read(&mut stream) {
        let number = {
            let mut all = all.lock();
            all.push(asked.clone());
            all.len() - 1
        };
        let reply = answer(&asked, number);
        let sent = stream.write_all(&reply.bytes).and_then(|()| stream.flush());
        if sent.is_ok() && reply.is_held {
            let _ = stream.read(&mut [0]);
        }
        if !reply.is_more {
            return;
        }
    }
}

fn read(stream: &mut impl Read) -> Option<Asked> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let mut words = head.split(' ').map(str::to_owned);
    Some(Asked { method: words.next()?, path: words.next()?, head })
}

/// Answers with a file, or the part of it that is asked for.
pub(super) fn file(body: Vec<u8>) -> impl Fn(&Asked, usize) -> Reply + Send + Sync {
    move |asked, _| rest(asked, &body, "etag: \"1\"\r\n").unwrap_or_else(|| Reply::ok(&body))
}

/// The part of a file that is asked for.
pub(super) fn rest(asked: &Asked, body: &[u8], headers: &str) -> Option<Reply> {
    let range = asked.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?;
    let from: usize = range.parse().unwrap();
    let (total, last) = (body.len(), body.len() - 1);
    let headers = format!(
        "content-range: bytes {from}-{last}/{total}\r\ncontent-length: {}\r\n{headers}",
        total - from
    );
    Some(Reply::new("206 Partial Content", &headers, &body[from..]))
}

/// TLS for `localhost`, and the authority that vouches for it.
pub(super) fn tls() -> (Arc<ServerConfig>, CertificateDer<'static>) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    (Arc::new(config), root.der().clone())
}
