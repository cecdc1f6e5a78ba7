//! The calls that actions ask for, each to its end.

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{HubId, JoinToken, ServiceKey, Timestamp};
use blueprint_hub_provision_core::catalogue::delivered_within;
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle::{Begun, BoundToken, CreateAnswer, LifecycleStore, Record};
use blueprint_hub_provision_core::{CloudCall, ErrorClass, InstanceSpec, Listing, ProviderError, Tags};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::Host;
use crate::clock::Clock;
use crate::lane::Way;

/// How a call of a lane ended.
pub(crate) enum Ended {
    /// The list came, or not.
    Listed {
        provider: &'static str,
        /// When it was asked for.
        asked_at: Timestamp,
        result: Result<Listing, ProviderError>,
    },
    /// A machine was to be made. No answer where the store refused, so that nothing was called.
    Created { provider: &'static str, record: Box<Record>, answer: Option<CreateAnswer> },
    /// A machine was to be deleted.
    Deleted {
        provider: &'static str,
        provider_id: String,
        /// As it was stored before; `None` where no record wants the machine gone.
        record: Option<Box<Record>>,
        is_accepted: bool,
    },
    /// A machine was to be switched on or off; the next list tells.
    Switched { provider: &'static str },
}

/// What a new machine needs.
pub(crate) struct Creation {
    pub(crate) way: Way,
    pub(crate) store: Arc<dyn LifecycleStore>,
    pub(crate) host: Arc<dyn Host>,
    pub(crate) clock: Clock,
    pub(crate) hub: HubId,
    pub(crate) token_ttl: Duration,
    pub(crate) limits: Limits,
    pub(crate) record: Box<Record>,
    pub(crate) service: Option<ServiceKey>,
    /// When its deployment ends.
    pub(crate) ends_at: Option<Timestamp>,
}

impl Creation {
    /// Stores the intent with a token of its own, and has the machine made.
    pub(crate) async fn run(self) -> Ended {
        let Self { way, store, host, clock, hub, token_ttl, limits, mut record, service, ends_at } = self;
        let provider = way.name();
        let waited = Instant::now();
        // Until the cloud has answered: what it stands behind is not taken away meanwhile.
        let _ordering = way.ordering().await;
        if let Err(error) = way.turn().await {
            info!(instance = %record.key, provider, error = error.line(), "nothing is ordered: the cloud asked for a pause");
            return Ended::Created { provider, record, answer: None };
        }
        let now = record.since.plus(waited.elapsed());
        (record.since, record.called_at) = (now, Some(now));
        let token = match JoinToken::random() {
            Ok(token) => token,
            Err(error) => {
                error!(%error, "no randomness for a join token");
                return Ended::Created { provider, record, answer: None };
            }
        };
        let bound = BoundToken {
            id: token.id(),
            hash: token.hash(),
            attempt: record.attempt,
            // The join is judged by the time of day, also while that is in doubt here.
            // It is not used before the machine is made and delivered.
            expires_at: clock
                .wall()
                .plus(token_ttl)
                .plus(way.within(CloudCall::Create).saturating_sub(CloudCall::USUAL))
                .plus(delivered_within(&record.candidate.provider, &record.candidate.plan)),
            service,
        };
        match store.begin_call(Record::clone(&record), bound, limits).await {
            Ok(Begun::Stored) => {}
            Ok(Begun::OverLimit(over)) => {
                warn!(instance = %record.key, reason = over.setting, error = %over, "nothing is ordered");
                let answer = CreateAnswer::Held { reason: over.to_string() };
                return Ended::Created { provider, record, answer: Some(answer) };
            }
            Ok(Begun::Held(held)) => {
                warn!(instance = %record.key, reason = "alert", error = %held, "nothing is ordered");
                let answer = CreateAnswer::Held { reason: held.to_string() };
                return Ended::Created { provider, record, answer: Some(answer) };
            }
            Ok(Begun::Unwanted) => {
                info!(instance = %record.key, "nothing is ordered: it is not wanted any more");
                return Ended::Created { provider, record, answer: None };
            }
            Err(error) => {
                error!(instance = %record.key, error = chain(&error), "nothing is ordered: the store failed");
                return Ended::Created { provider, record, answer: None };
            }
        }
        let user_data = match host.user_data(&record, service, token) {
            Ok(user_data) => user_data,
            Err(reason) => {
                error!(instance = %record.key, reason, "nothing is ordered: there is no user data for it");
                let answer = Some(CreateAnswer::Failed { class: ErrorClass::Reject, reason });
                return Ended::Created { provider, record, answer };
            }
        };
        let spec = InstanceSpec {
            key: record.key.clone(),
            tags: Some(Tags { hub, deployment: record.deployment.clone(), attempt: record.attempt }),
            plan: record.candidate.plan.clone(),
            region: record.candidate.region.clone(),
            spot: record.candidate.spot,
            disk_gb: record.candidate.disk_gb,
            arch: record.candidate.arch,
            ttl: ends_at.map(|end| end.since(now)),
            user_data,
        };
        let made = way.call(CloudCall::Create, false, || way.provider.create(&spec)).await;
        let answer = match made {
            Ok(instance) => CreateAnswer::Made(instance.provider_id),
            Err(error) => CreateAnswer::Failed { class: error.class(), reason: error.line() },
        };
        Ended::Created { provider, record, answer: Some(answer) }
    }
}

/// Lists a cloud, unless calls to it pause.
pub(crate) async fn list(way: Way, asked_at: Timestamp) -> Ended {
    let provider = way.name();
    let result = match way.turn().await {
        Ok(()) => way.call(CloudCall::List, true, || way.provider.list()).await,
        Err(error) => Err(error),
    };
    Ended::Listed { provider, asked_at, result }
}

/// Deletes a machine.
pub(crate) async fn delete(way: Way, provider_id: String, record: Option<Box<Record>>) -> Ended {
    let provider = way.name();
    let result = match way.turn().await {
        Ok(()) => way.call(CloudCall::Delete, true, || way.provider.delete(&provider_id)).await,
        Err(error) => Err(error),
    };
    Ended::Deleted { provider, provider_id, record, is_accepted: result.is_ok() }
}

/// Switches a machine on or off.
pub(crate) async fn switch(way: Way, provider_id: String, on: bool) -> Ended {
    let provider = way.name();
    let result = match way.turn().await {
        Ok(()) if on => way.call(CloudCall::Boot, true, || way.provider.boot(&provider_id)).await,
        Ok(()) => way.call(CloudCall::Stop, true, || way.provider.stop(&provider_id)).await,
        Err(error) => Err(error),
    };
    match result.map_err(|error| (error.class(), error.line())) {
        Ok(()) => {}
        Err((ErrorClass::Throttle | ErrorClass::Again, _)) => {}
        Err((
            ErrorClass::Deny
            | ErrorClass::Reject
            | ErrorClass::Quota
            | ErrorClass::NoQuota
            | ErrorClass::Capacity
            | ErrorClass::NotSold
            | ErrorClass::Unknown,
            line,
        )) => error!(provider, instance = provider_id, on, error = line, "machine not switched"),
    }
    Ended::Switched { provider }
}

/// An error and what it comes from, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
