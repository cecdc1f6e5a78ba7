//! The process's side.

use std::convert::Infallible;
use std::error::Error;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::accept::ACCEPT_PAUSE;
use crate::tasks::Spawner;

/// How many commands may be connected at once; the next wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// How long the head of a request may take, also of the next one on a kept connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Listens on a socket at `path` that only this user can connect to.
///
/// A socket that a dead process left is replaced. The name appears only once the socket is private: it is bound
/// under `path` with a `~` at its end, made 0600 and renamed.
///
/// # Errors
///
/// `AddrInUse` where a process answers on it, `AlreadyExists` where something else than a socket has the name,
/// `InvalidInput` where the path is too long for a socket (107 bytes with the `~`), else what the system says.
pub async fn bind_private(path: impl AsRef<Path>) -> io::Result<UnixListener> {
    let path = path.as_ref();
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {}: {error}", path.display()))
    };
    refuse_if_taken(path).await.map_err(named)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push("~");
    let beside = PathBuf::from(beside);
    let bound = bind_and_rename(&beside, path);
    if bound.is_err() {
        // Best effort: what is left is replaced at the next start.
        let _ = fs::remove_file(&beside);
    }
    bound.map_err(named)
}

/// Checks that the name is free or that of a socket where nobody answers.
async fn refuse_if_taken(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else has this name"));
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Binds under a name nobody connects to, closes it to others and gives it its name.
fn bind_and_rename(beside: &Path, path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(beside)?;
    fs::set_permissions(beside, Permissions::from_mode(0o600))?;
    fs::rename(beside, path)?;
    Ok(listener)
}

/// Serves HTTP/1 on `listener` until `drain`; `make_service` is called once per connection.
///
/// At most 64 connections are open at once. An axum router becomes such a service by
/// `hyper_util::service::TowerToHyperService::new(router.clone())`.
///
/// # Errors
///
/// Never; the type fits [`crate::tasks::Supervisor::spawn_essential`].
///
/// # Cancel safety
///
/// Dropping the future closes the listening socket; open connections go on.
pub async fn serve<M, S, B>(
    listener: UnixListener,
    make_service: M,
    spawner: Spawner,
    drain: CancellationToken,
) -> Result<(), Infallible>
where
    M: Fn() -> S,
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = drain.run_until_cancelled(async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        });
        let stream = match accepted.await {
            None => return Ok(()),
            Some((place, Ok((stream, _)))) => (place, stream),
            Some((_, Err(error))) => {
                warn!(%error, "accept on the local socket failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (place, stream) = stream;
        let service = make_service();
        let drain = drain.clone();
        spawner.spawn("local-api", async move {
            let _place = place;
            serve_connection(stream, service, drain).await;
        });
    }
}

/// Serves HTTP/1 on one connection; at `drain` the request in work is finished and the connection closed. A connection
/// that becomes a stream of bytes is whoever's answered so.
///
/// # Cancel safety
///
/// Dropping the future closes the connection at once.
pub async fn serve_connection<I, S, B>(stream: I, service: S, drain: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>> + Send,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(error = %crate::Chain(&error), "local connection broke off");
    }
}
