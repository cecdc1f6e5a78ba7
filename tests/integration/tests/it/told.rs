//! A blueprint that tells its metrics by the SDK's protocol.

use std::net::SocketAddr;

use anyhow::Result;
use blueprint_proto::qos;
use blueprint_proto::qos::qos_metrics_server::{QosMetrics, QosMetricsServer};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};

/// It tells until it is dropped.
pub(crate) struct Teller {
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Teller {
    /// Starts one on this machine.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        runtime.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(QosMetricsServer::new(Blueprint));
            let incoming = futures_util::stream::unfold(listener, async |listener| {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                Some((accepted, listener))
            });
            server.serve_with_incoming(incoming).await
        });
        Ok(Self { address, _runtime: runtime })
    }

    /// Where.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

struct Blueprint;

#[tonic::async_trait]
impl QosMetrics for Blueprint {
    async fn get_status(
        &self,
        _: Request<qos::GetStatusRequest>,
    ) -> Result<Response<qos::GetStatusResponse>, Status> {
        Err(Status::unimplemented("not told"))
    }

    async fn get_resource_usage(
        &self,
        _: Request<qos::GetResourceUsageRequest>,
    ) -> Result<Response<qos::GetResourceUsageResponse>, Status> {
        Err(Status::unimplemented("not told"))
    }

    async fn get_blueprint_metrics(
        &self,
        request: Request<qos::GetBlueprintMetricsRequest>,
    ) -> Result<Response<qos::GetBlueprintMetricsResponse>, Status> {
        let asked = request.into_inner();
        if (asked.blueprint_id, asked.service_id) != (7, 42) {
            return Err(Status::not_found("another service"));
        }
        let told = [("jobs_total", "12"), ("version", "v1")];
        let custom_metrics = told.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Ok(Response::new(qos::GetBlueprintMetricsResponse { custom_metrics, timestamp: 1 }))
    }

    async fn get_historical_metrics(
        &self,
        _: Request<qos::GetHistoricalMetricsRequest>,
    ) -> Result<Response<qos::GetHistoricalMetricsResponse>, Status> {
        Err(Status::unimplemented("not told"))
    }
}
