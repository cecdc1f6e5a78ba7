//! The provider: calls of the plugin.

use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_types::{HubId, Timestamp};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{CloudCall, Instance, InstanceSpec, Listing, Provider, ProviderError};
use blueprint_proto::plugin;
use futures_util::future::BoxFuture;
use plugin::provider_client::ProviderClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, IntoRequest, Response, Status};
use tracing::warn;

use crate::answers::{self, failed, instance, instances, is_id, offers, unbelievable};
use crate::channel;
use crate::rows::RowCodec;

/// The version of the protocol that is spoken.
const PROTOCOL: u32 = 1;

/// Longest message in either direction, in bytes.
const MAX_MESSAGE: usize = 4 << 20;

/// Longest user data, in bytes: what the hub gives to every cloud is less.
const MAX_USER_DATA: usize = 64 << 10;

/// Where the plugin is, and how it is asked.
#[derive(Debug, Clone)]
pub struct ExternalConfig {
    /// Its name as a provider: `external`, or `external-` and what its operator calls it.
    pub name: &'static str,
    /// Whose machines they are.
    pub hub: HubId,
    /// The socket that the plugin serves.
    pub socket: PathBuf,
    /// Users who may serve it.
    pub users: Vec<u32>,
    /// Longest time of a call, its connection included.
    pub within: Duration,
}

/// Machines by a plugin.
#[derive(Debug)]
pub struct External {
    config: ExternalConfig,
}

type Client = ProviderClient<Channel>;

/// A plugin that speaks our protocol.
struct Link {
    client: Client,
    channel: Channel,
}

impl Link {
    /// Asks for an answer with rows.
    async fn rows<T, U>(self, path: &'static str, request: T) -> Result<Response<U>, Status>
    where
        T: prost::Message + Send + Sync + 'static,
        U: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.channel).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let path = http::uri::PathAndQuery::from_static(path);
        grpc.unary(request.into_request(), path, RowCodec::<T, U>::default()).await
    }
}

/// The calls, by the names that logs have.
#[derive(Debug, Clone, Copy)]
struct Call {
    name: &'static str,
    /// What a cloud cannot do that does not support it.
    action: &'static str,
}

const OFFERS: Call = Call { name: "Offers", action: "say what it sells" };
const LIST: Call = Call { name: "List", action: "list machines" };
const CREATE: Call = Call { name: "Create", action: "make machines" };
const DELETE: Call = Call { name: "Delete", action: "remove machines" };
const BOOT: Call = Call { name: "Boot", action: "switch a machine on" };
const STOP: Call = Call { name: "Stop", action: "switch a machine off" };

impl Call {
    fn refused(self, failure: Option<&plugin::Failure>) -> Result<(), ProviderError> {
        failure.map_or(Ok(()), |failure| Err(failed(self.name, self.action, failure)))
    }
}

impl External {
    /// The provider; connects to nobody.
    #[must_use]
    pub const fn new(config: ExternalConfig) -> Self {
        Self { config }
    }

    /// Connects, learns what the plugin speaks, and has `ask` ask it, all within the time of a call.
    async fn ask<T, F>(&self, call: Call, ask: impl FnOnce(Link) -> F) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let within = self.config.within;
        let late = || ProviderError::Other {
            call: call.name,
            source: format!("the plugin did not answer within {within:?}").into(),
        };
        let asked = Box::pin(async {
            let link = self.link(call).await?;
            ask(link).await.map(Response::into_inner).map_err(|status| refused(call, &status))
        });
        timeout(within, asked).await.unwrap_or_else(|_| Err(late()))
    }

    async fn link(&self, call: Call) -> Result<Link, ProviderError> {
        let unsent = |source| ProviderError::Unsent { call: call.name, source };
        let socket = &self.config.socket;
        let channel = channel::open(socket, &self.config.users)
            .await
            .map_err(|error| unsent(format!("{}: {}", socket.display(), chain(&error)).into()))?;
        let mut client = ProviderClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let request = plugin::DescribeRequest { hub_version: env!("CARGO_PKG_VERSION").to_owned() };
        // Nothing was asked of the cloud yet.
        let described = client.describe(request).await.map_err(|status| unsent(said(&status).into()))?;
        let protocol = described.into_inner().protocol;
        if protocol == PROTOCOL {
            return Ok(Link { client, channel });
        }
        let reason = format!(
            "the plugin speaks version {protocol} of blueprint.plugin, and this hub {PROTOCOL}; take one that does"
        );
        Err(ProviderError::Reject { reason })
    }

    async fn offers_all(&self) -> Result<Vec<Offer>, ProviderError> {
        let path = "/blueprint.plugin.v1.Provider/Offers";
        let asked: plugin::OffersResponse =
            self.ask(OFFERS, |it| it.rows(path, plugin::OffersRequest {})).await?;
        OFFERS.refused(asked.failure.as_ref())?;
        let (offers, left_out) = offers(self.config.name, &asked.offers);
        if left_out > 0 {
            warn!(
                provider = self.config.name,
                left_out, "offers of the plugin cannot be believed, or are twice there"
            );
        }
        Ok(offers)
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let path = "/blueprint.plugin.v1.Provider/List";
        let asked: plugin::ListResponse = self.ask(LIST, |it| it.rows(path, plugin::ListRequest {})).await?;
        LIST.refused(asked.failure.as_ref())?;
        let instances = instances(asked.machines).map_err(|why| unbelievable(LIST.name, why))?;
        let time = asked.cloud_time_ms;
        Ok(Listing { instances, cloud_time: (time > 0).then(|| Timestamp::from_millis(time)) })
    }

    async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let reject = |reason: &str| ProviderError::Reject { reason: reason.to_owned() };
        let tags = spec.tags.as_ref().filter(|tags| tags.hub == self.config.hub);
        let tags = tags.ok_or_else(|| reject("the order is not one of this hub"))?;
        if spec.user_data.expose().len() > MAX_USER_DATA {
            return Err(reject("the user data is longer than 64 KiB"));
        }
        let request = plugin::CreateRequest {
            key: spec.key.to_string(),
            tags: Some(plugin::Tags {
                hub: tags.hub.to_string(),
                deployment: tags.deployment.to_string(),
                attempt: tags.attempt,
            }),
            plan: spec.plan.clone(),
            region: spec.region.clone(),
            spot: spec.spot,
            disk_gb: spec.disk_gb,
            arch: spec.arch.to_string(),
            user_data: spec.user_data.expose().as_bytes().to_vec(),
        };
        let asked = self.ask(CREATE, |mut it| async move { it.client.create(request).await }).await?;
        CREATE.refused(asked.failure.as_ref())?;
        let machine = asked.machine.ok_or_else(|| unbelievable(CREATE.name, "it names no machine"))?;
        let made = instance(machine).map_err(|why| unbelievable(CREATE.name, why))?;
        let is_ours = made.tags.as_ref().is_some_and(|made| made.hub == self.config.hub);
        if made.key == spec.key && is_ours {
            return Ok(made);
        }
        Err(unbelievable(CREATE.name, "the machine that it names is not the one that was ordered"))
    }

    async fn delete_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        if !is_id(provider_id) {
            return Ok(());
        }
        let request = plugin::DeleteRequest { provider_id: provider_id.to_owned() };
        let asked = self.ask(DELETE, |mut it| async move { it.client.delete(request).await }).await?;
        DELETE.refused(asked.failure.as_ref())
    }

    async fn boot_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let request = plugin::BootRequest { provider_id: provider_id.to_owned() };
        let asked = self.ask(BOOT, |mut it| async move { it.client.boot(request).await }).await?;
        BOOT.refused(asked.failure.as_ref())
    }

    async fn stop_one(&self, provider_id: &str) -> Result<(), ProviderError> {
        let request = plugin::StopRequest { provider_id: provider_id.to_owned() };
        let asked = self.ask(STOP, |mut it| async move { it.client.stop(request).await }).await?;
        STOP.refused(asked.failure.as_ref())
    }
}

/// A status of gRPC says nothing of what was done, but where the plugin has no such method.
fn refused(call: Call, status: &Status) -> ProviderError {
    if status.code() == Code::Unimplemented {
        return ProviderError::Unsupported { action: call.action };
    }
    ProviderError::Other { call: call.name, source: said(status).into() }
}

/// What a status says for people.
fn said(status: &Status) -> String {
    format!("gRPC status {:?}: {}", status.code(), answers::said(status.message()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Provider for External {
    fn name(&self) -> &'static str {
        self.config.name
    }

    /// The plugin's own bound ends a call first, with a word on it.
    fn within(&self, _: CloudCall) -> Duration {
        self.config.within.saturating_add(Duration::from_secs(5)).max(CloudCall::USUAL)
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        Box::pin(self.offers_all())
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        Box::pin(self.list_all())
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        Box::pin(self.create_one(spec))
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.delete_one(provider_id))
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.boot_one(provider_id))
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.stop_one(provider_id))
    }
}
