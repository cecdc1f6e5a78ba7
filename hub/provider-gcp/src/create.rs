//! Making one machine: look for it, find its zones, see that nothing can come in, and ask zone after zone.

use std::time::Duration;

use blueprint_hub_provider_kit::unordered;
use blueprint_hub_provision_core::{Instance, InstanceSpec, ProviderError};
use futures_util::future::{FutureExt, try_join};
use tokio::time::Instant;
use tracing::info;

use crate::action::Action;
use crate::api::{Answer, Failure};
use crate::cloud::{GcpCloud, NAME, is_of};
use crate::launch::{Place, check_user_data, launch, ordered, request_id};
use crate::machine::is_number;
use crate::operation::Operation;

/// How long all zones together are waited for: whoever calls gives up after 30 s.
const WITHIN: Duration = Duration::from_secs(20);

/// How long one zone is waited for: one that is full, and a quota, say so within some seconds. From general knowledge; one that
/// says it later loses the machine, and the hub sees that by its list.
const ZONE_WITHIN: Duration = Duration::from_secs(12);

/// The least that is left for a zone that is asked.
const LEAST: Duration = Duration::from_secs(4);

/// What a zone came to.
enum Asked {
    Made(Box<Instance>),
    Refused(ProviderError),
}

impl GcpCloud {
    /// The machine of this spec, made where it is not there.
    ///
    /// Capacity is told only after every zone was asked; an answer that does not come ends the search at once, because the
    /// machine may have been made.
    pub(crate) async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let region = self.region(spec)?;
        check_user_data(spec)?;
        let began = Instant::now();
        let (found, places) = try_join(self.find(spec).boxed(), self.places(region, &spec.plan).boxed())
            .await
            .map_err(unordered)?;
        if let Some(instance) = found {
            return Ok(instance);
        }
        self.closed().boxed().await.map_err(unordered)?;
        let what = format!("{} in {region}", spec.plan);
        let mut refused: Option<ProviderError> = None;
        for place in ordered(places, spec.key.as_str()) {
            let left = WITHIN.saturating_sub(began.elapsed());
            if left < LEAST && refused.is_some() {
                // What was asked already answers at once the next time, by the ids of its calls.
                return Err(ProviderError::Busy {
                    reason: format!("zones of {region} are full, and not all could be asked in time"),
                });
            }
            match self.ask(spec, &place, &what, left.min(ZONE_WITHIN)).boxed().await? {
                Asked::Made(instance) => return Ok(*instance),
                // Where one zone is only full, the plan is sold here.
                Asked::Refused(_) if matches!(refused, Some(ProviderError::Capacity { .. })) => {}
                Asked::Refused(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or(ProviderError::NotSold { what }))
    }

    /// Asks one zone.
    ///
    /// # Errors
    ///
    /// What no other zone would answer otherwise, and what may have made the machine.
    async fn ask(
        &self,
        spec: &InstanceSpec,
        place: &Place,
        what: &str,
        within: Duration,
    ) -> Result<Asked, ProviderError> {
        let action = Action::InsertInstance;
        let id = request_id(spec, place);
        let path = format!("zones/{}/instances", place.zone);
        let body = launch(spec, place, &self.config);
        let asked = match self.api.call::<Operation>(action, &path, &[("requestId", &id)], Some(&body)).await
        {
            Ok(Answer { body, .. }) => self.api.finish(Some(&place.zone), body, within).await,
            Err(failure) => Err(failure),
        };
        match asked {
            Ok(operation) => {
                let instance = self.made(spec, place, &operation).await?;
                Ok(Asked::Made(Box::new(instance)))
            }
            Err(Failure::Refused(refusal)) if refusal.is_of_zone() => {
                info!(instance = %spec.key, zone = place.zone, reason = %refusal, "not to be had in this zone");
                Ok(Asked::Refused(refusal.into_error(action, what)))
            }
            Err(Failure::Refused(refusal)) if refusal.is_taken() => self.taken(spec, place).await,
            Err(failure) => Err(failure.into_error(action, what)),
        }
    }

    /// The machine of an operation that did not fail.
    async fn made(
        &self,
        spec: &InstanceSpec,
        place: &Place,
        operation: &Operation,
    ) -> Result<Instance, ProviderError> {
        let action = Action::InsertInstance;
        let unclear = |what: &str| ProviderError::Other { call: action.name(), source: what.into() };
        let id = operation.target_id.as_deref().filter(|id| is_number(id));
        let id = id.ok_or_else(|| unclear("the answer names no machine"))?;
        // An id of a call is known for longer than its machine stands.
        let machine = self.machine(&place.zone, id).await.map_err(sent)?;
        let machine =
            machine.ok_or_else(|| unclear("the machine of this call is not there, or not any more"))?;
        let instance = machine.instance(action, &place.zone)?;
        if !is_of(&instance, spec) {
            return Err(unclear("the machine of this call has other labels"));
        }
        info!(target: "audit", provider = NAME, instance = %spec.key, id = instance.provider_id, "instance created");
        Ok(instance)
    }

    /// There is a machine of this name in the zone: the one of this order, where its labels say so. Else another zone may
    /// have the name free.
    async fn taken(&self, spec: &InstanceSpec, place: &Place) -> Result<Asked, ProviderError> {
        let action = Action::InsertInstance;
        match self.machine(&place.zone, spec.key.as_str()).await? {
            Some(machine) if machine.is_node() => {
                let instance = machine.instance(action, &place.zone)?;
                if is_of(&instance, spec) {
                    Ok(Asked::Made(Box::new(instance)))
                } else {
                    Ok(others(spec, place))
                }
            }
            Some(_) => Ok(others(spec, place)),
            None => Err(ProviderError::Busy {
                reason: format!("the name {} was taken in {} a moment ago", spec.key, place.zone),
            }),
        }
    }
}

/// The name is another's machine's.
fn others(spec: &InstanceSpec, place: &Place) -> Asked {
    Asked::Refused(ProviderError::Reject {
        reason: format!("{} has a machine named {} already, which is not this hub's", place.zone, spec.key),
    })
}

/// A call that could not be sent after another one was done.
fn sent(error: ProviderError) -> ProviderError {
    ProviderError::Other { call: Action::InsertInstance.name(), source: error.line().into() }
}
