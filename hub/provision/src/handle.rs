//! The provisioner as the operator's side reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::cost::{Limits, Span};
use blueprint_hub_provision_core::lifecycle::{
    CreateDeploymentError, DeployError, Deployer, Deployment, Event, Hold, LifecycleStore, Order, Overview,
    Records, Wanted,
};
use blueprint_hub_provision_core::{CloudCall, DeploymentId, ErrorClass};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tracing::info;

use crate::clock::Clock;
use crate::lane::Way;

/// Providers that have other credentials than when the leader last looked; at most as many as there are lanes.
pub(crate) type Renewed = Arc<Mutex<BTreeSet<String>>>;

/// Access to the provisioner; cheap to clone.
#[derive(Clone)]
pub struct Provisioner {
    pub(crate) store: Arc<dyn LifecycleStore>,
    pub(crate) ways: Arc<BTreeMap<String, Way>>,
    pub(crate) kick: Arc<Notify>,
    pub(crate) renewed: Renewed,
    pub(crate) overview: watch::Receiver<Arc<Overview>>,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
}

impl fmt::Debug for Provisioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provisioner").field("providers", &self.ways.keys()).finish_non_exhaustive()
    }
}

impl Provisioner {
    /// What a provider sells: as orders see it, or with every price asked for.
    async fn offers_of(&self, provider: String, is_list: bool) -> Result<Vec<Offer>, DeployError> {
        let Some(way) = self.ways.get(&provider) else { return Err(DeployError::UnknownProvider(provider)) };
        if !way.is_open() {
            let last = way.error().unwrap_or_default();
            let reason =
                format!("calls to it pause, since it failed again and again or asked for it: {last}");
            return Err(DeployError::Provider { provider, reason, class: ErrorClass::Again });
        }
        let offers = match way.turn().await {
            // Dozens of calls in a row; who asks waits for as long as it wants to.
            Ok(()) if is_list => way.provider.price_list().await,
            Ok(()) => way.call(CloudCall::Offers, true, || way.provider.offers()).await,
            Err(error) => Err(error),
        };
        match (offers, way.denied().filter(|_| !is_list)) {
            (Ok(offers), None) => Ok(offers),
            // Known without asking the cloud, which refused the account when it was asked for machines.
            (Ok(_), Some(reason)) => Err(DeployError::Provider { provider, reason, class: ErrorClass::Deny }),
            (Err(error), _) => {
                Err(DeployError::Provider { provider, reason: error.line(), class: error.class() })
            }
        }
    }

    async fn deploy_one(&self, order: Order) -> Result<(Deployment, bool), DeployError> {
        let now = self.clock.now();
        let id = DeploymentId::random().map_err(|_| DeployError::Unavailable("no randomness for an id"))?;
        let deployment = Deployment {
            id,
            name: order.name,
            request_key: order.request_key,
            asked: order.asked,
            replicas: order.replicas.max(1),
            plan: order.plan,
            spread: order.spread,
            service: order.service,
            wanted: Wanted::Running,
            created_at: now,
            expires_at: order.ttl.map(|ttl| now.plus(ttl)),
            changed_at: now,
        };
        let (deployment, is_new) =
            self.store.create_deployment(deployment, self.limits).await.map_err(|error| match error {
                CreateDeploymentError::Mismatch { id, asked } => DeployError::Mismatch { id, asked },
                CreateDeploymentError::OverLimit(over) => DeployError::OverLimit(over),
                CreateDeploymentError::Held(held) => DeployError::Held(held),
                CreateDeploymentError::Named { name, id } => DeployError::Named { name, id },
                CreateDeploymentError::Store(error) => DeployError::Store(error),
            })?;
        if is_new {
            info!(target: "audit", deployment = %deployment.id, asked = deployment.asked, "deployment ordered");
        }
        self.kick.notify_one();
        Ok((deployment, is_new))
    }

    async fn want(&self, id: DeploymentId, wanted: Wanted, why: String) -> Result<Deployment, DeployError> {
        let stored = self.store.set_wanted(id.clone(), wanted, why, self.clock.now()).await?;
        let deployment = stored.ok_or_else(|| DeployError::Unknown(id.clone()))?;
        self.kick.notify_one();
        if deployment.wanted != wanted {
            return Err(DeployError::Terminated(id));
        }
        info!(target: "audit", deployment = %id, %wanted, "deployment changed");
        Ok(deployment)
    }
}

impl Deployer for Provisioner {
    fn offers(&self, provider: String) -> BoxFuture<'_, Result<Vec<Offer>, DeployError>> {
        self.offers_of(provider, false).boxed()
    }

    fn price_list(&self, provider: String) -> BoxFuture<'_, Result<Vec<Offer>, DeployError>> {
        self.offers_of(provider, true).boxed()
    }

    fn deploy(&self, order: Order) -> BoxFuture<'_, Result<(Deployment, bool), DeployError>> {
        self.deploy_one(order).boxed()
    }

    fn set_wanted(
        &self,
        id: DeploymentId,
        wanted: Wanted,
        why: String,
    ) -> BoxFuture<'_, Result<Deployment, DeployError>> {
        self.want(id, wanted, why).boxed()
    }

    fn records(&self) -> BoxFuture<'_, Result<Records, DeployError>> {
        async { Ok(self.store.load_lifecycle().await?) }.boxed()
    }

    fn events(
        &self,
        deployment: Option<DeploymentId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Event>, DeployError>> {
        async move { Ok(self.store.lifecycle_events(deployment, limit).await?) }.boxed()
    }

    fn spans(&self, since: Timestamp) -> BoxFuture<'_, Result<Vec<Span>, DeployError>> {
        async move { Ok(self.store.spans(since).await?) }.boxed()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn is_clock_trusted(&self) -> bool {
        self.clock.is_trusted()
    }

    fn credentials_changed(&self, provider: &str) {
        if self.ways.contains_key(provider) {
            self.renewed.lock().insert(provider.to_owned());
            self.kick.notify_one();
        }
    }

    fn hold_orders(&self, provider: &str) -> Option<Hold> {
        // Of one that is not switched on nothing is ordered.
        match self.ways.get(provider) {
            Some(way) => way.hold(),
            None => Some(Box::new(())),
        }
    }

    fn overview(&self) -> Arc<Overview> {
        Arc::clone(&self.overview.borrow())
    }
}
