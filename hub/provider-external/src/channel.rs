//! A connection with the plugin, to a peer that may be there.

use std::io;
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

/// Connects to whoever serves `path`, where that is one of `users`.
///
/// # Errors
///
/// Where nobody serves it, or somebody else.
pub(crate) async fn open(path: &Path, users: &[u32]) -> Result<Channel, Error> {
    // The authority is never looked up.
    let endpoint = Endpoint::from_static("http://[::]:50051");
    endpoint.connect_with_connector(Socket { path: path.to_owned(), users: users.to_vec() }).await
}

/// Connects to the socket, whatever address is asked for.
struct Socket {
    path: PathBuf,
    users: Vec<u32>,
}

impl tower_service::Service<http::Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<UnixStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (path, users) = (self.path.clone(), self.users.clone());
        async move {
            let stream = UnixStream::connect(path).await?;
            let user = stream.peer_cred()?.uid();
            if users.contains(&user) {
                return Ok(TokioIo::new(stream));
            }
            let text =
                format!("it is served by user {user}, who is neither the plugin's, root, nor the hub's");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
        .boxed()
    }
}
