//! What the operator's side asks of the provisioner.

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use futures_util::future::BoxFuture;

use crate::catalogue::Offer;
use crate::cost::alert::Held;
use crate::cost::{Limits, OverLimit, Span};
use crate::lifecycle::{Alarm, Deployment, Event, Records, RecordsError, Spread, Wanted};
use crate::placement::Unavailable;
use crate::{Candidate, DeploymentId, ErrorClass};

/// A deployment that is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who asks with the same key gets the same deployment.
    pub request_key: String,
    /// What to call it.
    pub name: String,
    /// What was asked for, in one line, without prices.
    pub asked: String,
    /// Machines wanted; at least 1.
    pub replicas: u32,
    /// What to order, best first.
    pub plan: Vec<Candidate>,
    /// Over what its machines are spread.
    pub spread: Spread,
    /// The service that its machines offer.
    pub service: Option<ServiceKey>,
    /// How long it lives; `None` until somebody ends it.
    pub ttl: Option<Duration>,
}

/// Why the provisioner did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// No provider of this name is configured.
    #[error("no provider is called {0:?}")]
    UnknownProvider(String),
    /// The provider failed.
    #[error("provider {provider}: {reason}")]
    Provider {
        /// Which.
        provider: String,
        /// What it said, one line.
        reason: String,
        /// What it means.
        class: ErrorClass,
    },
    /// The request key was used for something else.
    #[error("the request key was used for deployment {id}, which asked for: {asked}")]
    Mismatch {
        /// The deployment that has the key.
        id: DeploymentId,
        /// What that one asked for.
        asked: String,
    },
    /// A limit leaves no room for it.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// An alert holds what would be ordered.
    #[error(transparent)]
    Held(#[from] Held),
    /// A deployment that is not being ended has the name.
    #[error("deployment {name} is there as {id}")]
    Named {
        /// The name.
        name: String,
        /// The deployment that has it.
        id: DeploymentId,
    },
    /// There is no such deployment.
    #[error("there is no deployment {0}")]
    Unknown(DeploymentId),
    /// It is to be gone, which is for good.
    #[error("deployment {0} was terminated")]
    Terminated(DeploymentId),
    /// The system has no source of randomness, or the hub is stopping.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] RecordsError),
}

/// How a cloud is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloud {
    /// Its name.
    pub name: String,
    /// When it was last listed whole.
    pub listed_at: Option<Timestamp>,
    /// Machines with this hub's tag in that list.
    pub machines: usize,
    /// Why the last call failed, where it did.
    pub error: Option<String>,
    /// False while calls to it pause because it failed again and again, or asked for a pause.
    pub is_closed: bool,
}

/// What the provisioner knows now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overview {
    /// Clouds, by name.
    pub clouds: Vec<Cloud>,
    /// What a person should look at.
    pub alarms: Vec<Alarm>,
    /// Offers that are not ordered for a time, since orders of them failed; those whose time is over may still be among them.
    pub unavailable: Vec<Unavailable>,
}

impl Overview {
    /// Offers that are not ordered at `now`.
    #[must_use]
    pub fn unavailable_at(&self, now: Timestamp) -> Vec<Unavailable> {
        self.unavailable.iter().filter(|known| known.until > now).cloned().collect()
    }
}

/// While it is there, nothing is ordered of one provider.
pub type Hold = Box<dyn Send + Sync>;

/// The provisioner, as the operator's side sees it.
pub trait Deployer: Send + Sync {
    /// What can be ordered of a provider, as it says now.
    fn offers(&self, provider: String) -> BoxFuture<'_, Result<Vec<Offer>, DeployError>>;

    /// What is sold, with prices that may take minutes to ask for.
    fn price_list(&self, provider: String) -> BoxFuture<'_, Result<Vec<Offer>, DeployError>>;

    /// Stores what is wanted and begins with it; true where it is new. Resolves before any machine is ordered.
    fn deploy(&self, order: Order) -> BoxFuture<'_, Result<(Deployment, bool), DeployError>>;

    /// Says what is wanted of a deployment from now on. What is to be gone cannot be wanted again.
    fn set_wanted(
        &self,
        id: DeploymentId,
        wanted: Wanted,
        why: String,
    ) -> BoxFuture<'_, Result<Deployment, DeployError>>;

    /// Everything that is stored.
    fn records(&self) -> BoxFuture<'_, Result<Records, DeployError>>;

    /// Times for which machines were billed, those that ended before `since` left out.
    fn spans(&self, since: Timestamp) -> BoxFuture<'_, Result<Vec<Span>, DeployError>>;

    /// What all deployments together may come to.
    fn limits(&self) -> Limits;

    /// The time that deployments are decided by.
    fn now(&self) -> Timestamp;

    /// False while nothing may be ended because of the time alone.
    fn is_clock_trusted(&self) -> bool;

    /// The newest events, oldest first.
    fn events(
        &self,
        deployment: Option<DeploymentId>,
        limit: u32,
    ) -> BoxFuture<'_, Result<Vec<Event>, DeployError>>;

    /// A provider has other credentials than before: it is asked with them at once, also where it refused lately.
    fn credentials_changed(&self, provider: &str);

    /// Has orders of a provider wait until the hold is dropped; an order waits before it is stored, so that what is stored
    /// then is all that there is. `None` where one is being given, or orders are held already.
    fn hold_orders(&self, provider: &str) -> Option<Hold>;

    /// How clouds are doing.
    fn overview(&self) -> Arc<Overview>;
}
