//! What is served behind every transport: a Manager's bridge, an HTTP echo, and bytes that come back.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use blueprint_proto::blueprint_manager_bridge as wire;
use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_server::{
    BlueprintManagerBridge, BlueprintManagerBridgeServer,
};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// Context id of this machine's own virtual sockets (`VMADDR_CID_LOCAL`).
pub(super) const LOCAL: u32 = 1;

/// Any port (`VMADDR_PORT_ANY`).
const ANY_PORT: u32 = u32::MAX;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    Bridge,
    Echo,
    Raw,
}

/// A listener of any transport.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// The socket, and the same once more for tokio to wait on.
    Vsock(Socket, UnixStream),
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Listener {
    /// On loopback, at a port of the system's choice.
    pub(super) async fn tcp() -> Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok((Self::Tcp(listener), address))
    }

    pub(super) fn unix(path: &Path) -> Result<Self> {
        Ok(Self::Unix(UnixListener::bind(path)?))
    }

    /// On this machine's own context; `None` where the kernel has no way from a machine to itself.
    pub(super) fn vsock() -> Result<Option<(Self, u32)>> {
        let bound = Socket::new(Domain::VSOCK, Type::STREAM, None)
            .and_then(|socket| socket.bind(&SockAddr::vsock(LOCAL, ANY_PORT)).map(|()| socket));
        let socket = match bound {
            Ok(socket) => socket,
            // Only a kernel with vsock_loopback has this address; one that has it and fails is a failure.
            Err(error) if Path::new("/sys/module/vsock_loopback").exists() => {
                return Err(error)
                    .context("this machine has vsock_loopback, and its address cannot be bound");
            }
            Err(_) => return Ok(None),
        };
        socket.listen(16)?;
        socket.set_nonblocking(true)?;
        let (_, port) = socket.local_addr()?.as_vsock_address().context("no address of a virtual machine")?;
        let ready = waiting(socket.try_clone()?)?;
        Ok(Some((Self::Vsock(socket, ready), port)))
    }

    async fn accept(&self) -> io::Result<Box<dyn Duplex>> {
        match self {
            Self::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Self::Vsock(listener, ready) => loop {
                ready.readable().await?;
                match ready.try_io(Interest::READABLE, || listener.accept()) {
                    Ok((socket, _)) => return Ok(Box::new(waiting(socket)?)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            },
        }
    }
}

/// A stream socket of any kind, as tokio waits for it.
fn waiting(socket: Socket) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(std::os::unix::net::UnixStream::from(OwnedFd::from(socket)))
}

/// Serves until it is dropped.
pub(super) async fn serve(listener: Listener, served: Served) {
    let bridge = Bridge::default();
    let routes = tonic::service::Routes::new(BlueprintManagerBridgeServer::new(bridge)).prepare();
    let mut open = JoinSet::new();
    while let Ok(stream) = listener.accept().await {
        let routes = routes.clone();
        open.spawn(async move {
            match served {
                Served::Bridge => {
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(routes);
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                }
                Served::Echo => {
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service_fn(echo)).await;
                }
                Served::Raw => {
                    let _ = raw(stream).await;
                }
            }
        });
    }
}

/// Reads to the end, then gives all of it back, reversed, and ends.
async fn raw(mut stream: Box<dyn Duplex>) -> io::Result<()> {
    let mut request = Vec::new();
    stream.read_to_end(&mut request).await?;
    request.reverse();
    stream.write_all(&request).await?;
    stream.shutdown().await
}

/// Says what it was asked; `/status/N` answers with N.
async fn echo(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let status = head.uri.path().strip_prefix("/status/").and_then(|status| status.parse().ok());
    let header = head.headers.get("x-test").and_then(|value| value.to_str().ok()).unwrap_or("-");
    let sum = body.iter().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    let text = format!("{} {} x-test={header} {} bytes, sum {sum}", head.method, head.uri.path(), body.len());
    let mut response = http::Response::new(match head.method {
        Method::PUT => Full::new(body),
        _ => Full::new(Bytes::from(text)),
    });
    *response.status_mut() =
        status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    response.headers_mut().insert("x-echo", http::HeaderValue::from_static("yes"));
    Ok(response)
}

/// A bridge of one service, 42, with the Manager's status codes.
#[derive(Debug, Clone, Default)]
struct Bridge(Arc<Mutex<Option<String>>>);

impl Bridge {
    fn own(service: u64) -> Result<(), Status> {
        if service == 42 {
            Ok(())
        } else {
            Err(Status::permission_denied("this bridge belongs to service 42"))
        }
    }

    fn registered(&self, service: u64) -> Result<Response<()>, Status> {
        Self::own(service)?;
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Ok(Response::new(())),
            None => Err(Status::failed_precondition("register first")),
        }
    }
}

#[tonic::async_trait]
impl BlueprintManagerBridge for Bridge {
    async fn ping(&self, _: Request<()>) -> Result<Response<()>, Status> {
        Ok(Response::new(()))
    }

    async fn request_port(
        &self,
        request: Request<wire::PortRequest>,
    ) -> Result<Response<wire::PortResponse>, Status> {
        match request.into_inner().preferred_port {
            0 => Ok(Response::new(wire::PortResponse { port: 40_000 })),
            port if port <= u32::from(u16::MAX) => Ok(Response::new(wire::PortResponse { port })),
            port => Err(Status::invalid_argument(format!("{port} is no port"))),
        }
    }

    async fn register_blueprint_service_proxy(
        &self,
        request: Request<wire::RegisterBlueprintServiceProxyRequest>,
    ) -> Result<Response<()>, Status> {
        let call = request.into_inner();
        Self::own(call.service_id)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(call.upstream_url);
        Ok(Response::new(()))
    }

    async fn unregister_blueprint_service_proxy(
        &self,
        request: Request<wire::UnregisterBlueprintServiceProxyRequest>,
    ) -> Result<Response<()>, Status> {
        let answer = self.registered(request.into_inner().service_id);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        answer
    }

    async fn add_owner_to_service(
        &self,
        request: Request<wire::AddOwnerToServiceRequest>,
    ) -> Result<Response<()>, Status> {
        let call = request.into_inner();
        call.owner_to_add.ok_or_else(|| Status::invalid_argument("the owner is missing"))?;
        self.registered(call.service_id)
    }

    async fn remove_owner_from_service(
        &self,
        request: Request<wire::RemoveOwnerFromServiceRequest>,
    ) -> Result<Response<()>, Status> {
        self.registered(request.into_inner().service_id)
    }

    async fn update_blueprint_service_tls_profile(
        &self,
        request: Request<wire::UpdateBlueprintServiceTlsProfileRequest>,
    ) -> Result<Response<()>, Status> {
        self.registered(request.into_inner().service_id)
    }
}
