//! Where an engine listens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::{Stream, WireError};

/// Where an engine listens.
#[derive(Clone)]
pub struct Place(Kind);

#[derive(Clone)]
enum Kind {
    Unix(Arc<Path>),
    Tls { host: Arc<str>, port: u16, server: ServerName<'static>, config: Arc<ClientConfig> },
    Loopback(SocketAddr),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Place({self})")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Unix(path) => write!(f, "{}", path.display()),
            Kind::Tls { host, port, .. } => write!(f, "{host}:{port}"),
            Kind::Loopback(address) => write!(f, "{address}"),
        }
    }
}

/// PEM files of one engine that is called over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Authority of the engine's certificate; no other one is trusted.
    pub authority: PathBuf,
    /// Certificate that this side shows.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// TLS cannot be set up with what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It is neither a name nor an address.
    #[error("{0:?} is no host: a DNS name or an IP address was expected")]
    Host(String),
    /// A file cannot be read, or holds nothing of its kind.
    #[error("cannot use {}: a PEM file with {wanted} was expected", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// Why; `None` where there is none in it.
        source: Option<rustls_pki_types::pem::Error>,
    },
    /// They do not go together.
    #[error("certificate and key cannot be used")]
    Setup(#[from] rustls::Error),
}

impl Place {
    /// A Unix socket, such as `/var/run/docker.sock`.
    #[must_use]
    pub fn unix(path: &Path) -> Self {
        Self(Kind::Unix(path.into()))
    }

    /// A TCP port of this machine's loopback, without TLS; `None` for any other address.
    #[must_use]
    pub fn loopback(address: SocketAddr) -> Option<Self> {
        address.ip().is_loopback().then_some(Self(Kind::Loopback(address)))
    }

    /// A TCP port with mutual TLS: the engine's certificate has to name `host`, and be of the one authority in `files`.
    ///
    /// # Errors
    ///
    /// [`TlsError`] where a file cannot be used.
    pub fn tls(host: &str, port: u16, files: &TlsFiles) -> Result<Self, TlsError> {
        let server = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.authority)? {
            roots.add(certificate)?;
        }
        let chain = certificates(&files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| {
            let (path, wanted) = (files.key.clone(), "a private key");
            TlsError::File { path, wanted, source: Some(source) }
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self(Kind::Tls { host: host.into(), port, server, config: Arc::new(config) }))
    }

    /// The socket, where it is one.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Unix(path) => Some(path),
            Kind::Tls { .. } | Kind::Loopback(_) => None,
        }
    }

    pub(crate) async fn connect(&self) -> Result<Box<dyn Stream>, WireError> {
        match &self.0 {
            Kind::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(WireError::Connect)?)),
            Kind::Loopback(address) => Ok(Box::new(tcp(address).await?)),
            Kind::Tls { host, port, server, config } => {
                let stream = tcp((&**host, *port)).await?;
                let connector = TlsConnector::from(Arc::clone(config));
                Ok(Box::new(connector.connect(server.clone(), stream).await.map_err(WireError::Tls)?))
            }
        }
    }
}

async fn tcp(to: impl tokio::net::ToSocketAddrs) -> Result<TcpStream, WireError> {
    let stream = TcpStream::connect(to).await.map_err(WireError::Connect)?;
    // A small request must not wait for the acknowledgement of its head; without it, it is only slower.
    let _: io::Result<()> = stream.set_nodelay(true);
    Ok(stream)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wanted = "certificates";
    let failed = |source| TlsError::File { path: path.to_owned(), wanted, source };
    let found = CertificateDer::pem_file_iter(path).map_err(|error| failed(Some(error)))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| failed(Some(error)))?;
    if found.is_empty() { Err(failed(None)) } else { Ok(found) }
}
