//! The Manager's bridge, as far as a blueprint sees it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use blueprint_proto::blueprint_manager_bridge as wire;
use blueprint_proto::blueprint_manager_bridge::blueprint_manager_bridge_server::{
    BlueprintManagerBridge, BlueprintManagerBridgeServer,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// What it was asked.
#[derive(Debug, Default)]
struct Seen {
    pings: usize,
    /// URLs, in the order of their registration.
    registered: Vec<String>,
}

/// A bridge that is served until it is dropped.
pub(super) struct Manager {
    seen: Arc<Mutex<Seen>>,
    _runtime: Runtime,
}

impl Manager {
    pub(super) fn start(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket)?
        };
        let seen = Arc::new(Mutex::new(Seen::default()));
        runtime.spawn(serve(listener, Bridge(Arc::clone(&seen))));
        Ok(Self { seen, _runtime: runtime })
    }

    pub(super) fn pings(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).pings
    }

    pub(super) fn registered(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).registered.clone()
    }
}

async fn serve(listener: UnixListener, bridge: Bridge) {
    let routes = tonic::service::Routes::new(BlueprintManagerBridgeServer::new(bridge)).prepare();
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let service = TowerToHyperService::new(routes.clone());
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        open.spawn(async move {
            // A launcher that is killed breaks off.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

struct Bridge(Arc<Mutex<Seen>>);

impl Bridge {
    fn note(&self, note: impl FnOnce(&mut Seen)) -> Result<Response<()>, Status> {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Response::new(()))
    }
}

#[tonic::async_trait]
impl BlueprintManagerBridge for Bridge {
    async fn ping(&self, _: Request<()>) -> Result<Response<()>, Status> {
        self.note(|seen| seen.pings += 1)
    }

    async fn request_port(
        &self,
        _: Request<wire::PortRequest>,
    ) -> Result<Response<wire::PortResponse>, Status> {
        Err(Status::internal("ports are the node's"))
    }

    async fn register_blueprint_service_proxy(
        &self,
        request: Request<wire::RegisterBlueprintServiceProxyRequest>,
    ) -> Result<Response<()>, Status> {
        let call = request.into_inner();
        if call.service_id != 42 || call.api_key_prefix != "example_" {
            return Err(Status::permission_denied("not this service"));
        }
        self.note(|seen| seen.registered.push(call.upstream_url))
    }

    async fn unregister_blueprint_service_proxy(
        &self,
        _: Request<wire::UnregisterBlueprintServiceProxyRequest>,
    ) -> Result<Response<()>, Status> {
        self.note(|_| ())
    }

    async fn add_owner_to_service(
        &self,
        request: Request<wire::AddOwnerToServiceRequest>,
    ) -> Result<Response<()>, Status> {
        match request.into_inner().owner_to_add {
            Some(_) => self.note(|_| ()),
            None => Err(Status::invalid_argument("no owner")),
        }
    }

    async fn remove_owner_from_service(
        &self,
        _: Request<wire::RemoveOwnerFromServiceRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::not_found("there is no such owner"))
    }

    async fn update_blueprint_service_tls_profile(
        &self,
        _: Request<wire::UpdateBlueprintServiceTlsProfileRequest>,
    ) -> Result<Response<()>, Status> {
        Err(Status::invalid_argument("no profile for you"))
    }
}
