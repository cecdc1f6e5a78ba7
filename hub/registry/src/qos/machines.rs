//! `blueprint.v1.Registry` inside the tunnel: any program on a machine watches what the machine may reach.

use std::sync::Arc;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::AgentId;
use blueprint_proto::v1;
use blueprint_proto::v1::registry_server::Registry;
use tonic::{Code, Request, Response, Status};

use super::QosMetrics;
use super::service::Reach;
use crate::RegistrarHandle;
use crate::watch::{Events, MayConnect, Watches};

/// The registry, for one machine.
#[derive(Clone)]
pub(super) struct Machines {
    pub(super) registrar: RegistrarHandle,
    pub(super) watches: Watches,
    pub(super) agent: AgentId,
    pub(super) reach: Arc<dyn Reach>,
    pub(super) metrics: QosMetrics,
    pub(super) spawner: Spawner,
}

#[tonic::async_trait]
impl Registry for Machines {
    type WatchStream = Events;

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        Err(Status::unimplemented("a machine asks by Watch, which begins with everything that there is"))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Events>, Status> {
        if !self.reach.may_ask(self.agent) {
            return Err(Status::resource_exhausted("this machine asks too often; ask once in a second"));
        }
        let reach = Arc::clone(&self.reach);
        let may_connect: MayConnect = Arc::new(move |from, to, port| reach.may_connect(from, to, port));
        let known = (self.registrar.clone(), may_connect);
        let begun = self.watches.begin(&request.into_inner(), self.agent, known, &self.spawner);
        if begun.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
            self.metrics.refused("too_many_watches");
        }
        begun.map(Response::new)
    }
}
