//! Takes connections until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::routes::Routes;

/// Time that open requests get after the stop.
const GRACE: Duration = Duration::from_secs(1);

/// Wait after a failed accept; the usual cause, too many open files, goes away by itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop` ends, then gives open requests one second.
///
/// # Cancel safety
///
/// Dropping the future cuts every open connection.
pub(crate) async fn serve(listener: TcpListener, routes: Routes, stop: impl Future<Output = ()>) {
    let routes = Arc::new(routes);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true);
                    connections.spawn(connection(stream, Arc::clone(&routes), graceful.watcher()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, graceful.shutdown()).await;
}

async fn connection(stream: TcpStream, routes: Arc<Routes>, watcher: hyper_util::server::graceful::Watcher) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| {
        let routes = Arc::clone(&routes);
        async move { routes.answer(request).await }
    });
    let served = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    // A client that breaks off is no news to a demonstration.
    let _ = watcher.watch(served).await;
}
