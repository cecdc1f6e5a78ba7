//! The cloud: what the hub asks of EC2.

use std::sync::{Arc, OnceLock};

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{CredentialSource, HttpClient};
use blueprint_hub_provision_core::catalogue::Offer;
use blueprint_hub_provision_core::{ErrorClass, Instance, InstanceSpec, Listing, Provider, ProviderError};
use futures_util::future::{BoxFuture, FutureExt, try_join_all};

use crate::action::Action;
use crate::answer::{self, is_id};
use crate::api::{Api, Failure};
use crate::config::{AwsConfig, Region};
use crate::query::Query;
use crate::{offers, tags};

/// Most pages of one list.
const MAX_PAGES: usize = 1000;

/// Machines that the look for one key shows at most: more than one is a fault already.
const LOOK: u32 = 5;

/// One account of AWS, in the regions that its configuration names.
///
/// A machine's id is `REGION/i-...`. See the crate's documentation for what one is made with.
#[derive(Debug)]
pub struct AwsCloud {
    pub(crate) api: Api,
    pub(crate) config: AwsConfig,
    pub(crate) offers: OnceLock<Vec<Offer>>,
}

impl AwsCloud {
    /// The account that `source` has keys of; asks nothing of it yet.
    #[must_use]
    pub fn new(config: AwsConfig, http: HttpClient, source: Arc<dyn CredentialSource>) -> Self {
        Self { api: Api::new(http, source, config.endpoint.clone()), config, offers: OnceLock::new() }
    }

    /// The configured region of this name.
    ///
    /// # Errors
    ///
    /// [`ProviderError::NotSold`] where it is none of them.
    pub(crate) fn region(&self, spec: &InstanceSpec) -> Result<&Region, ProviderError> {
        let found = self.config.regions.iter().find(|region| region.as_str() == spec.region);
        found.ok_or_else(|| ProviderError::NotSold {
            what: format!("{} in {}, which is not among providers.aws.regions,", spec.plan, spec.region),
        })
    }

    /// All machines that these parameters find, page by page, and AWS's clock.
    async fn machines(
        &self,
        region: &Region,
        query: &Query,
    ) -> Result<(Vec<answer::Machine>, Option<Timestamp>), ProviderError> {
        let action = Action::DescribeInstances;
        let failed = |failure: Failure| failure.into_error(action, region.as_str());
        let (mut machines, mut next) = (Vec::new(), None::<String>);
        for _ in 0..MAX_PAGES {
            let page = match &next {
                Some(token) => query.clone().with("NextToken", token),
                None => query.clone(),
            };
            let answer = self.api.query(region.as_str(), action, &page).await.map_err(failed)?;
            let (found, more) = answer::machines(&answer.root)
                .map_err(|error| failed(crate::api::unreadable(action, error)))?;
            machines.extend(found);
            match more {
                Some(token) if next.as_ref() != Some(&token) => next = Some(token),
                Some(_) => break,
                None => return Ok((machines, answer.cloud_time)),
            }
        }
        Err(ProviderError::Reject { reason: format!("the list of machines in {region} does not end") })
    }

    async fn list_region(
        &self,
        region: &Region,
    ) -> Result<(Vec<Instance>, Option<Timestamp>), ProviderError> {
        let query = Query::default()
            .with("MaxResults", self.config.page.clamp(5, 1000).to_string())
            .filter("tag-key", [tags::KEY]);
        let (machines, time) = self.machines(region, &query).await?;
        let instances = machines.into_iter().filter_map(|machine| machine.into_instance(region.as_str()));
        Ok((instances.collect(), time))
    }

    async fn list_all(&self) -> Result<Listing, ProviderError> {
        let lists = try_join_all(self.config.regions.iter().map(|region| self.list_region(region))).await?;
        let cloud_time = lists.iter().filter_map(|(_, time)| *time).max();
        let mut instances: Vec<_> = lists.into_iter().flat_map(|(instances, _)| instances).collect();
        instances.sort_by(|one, other| one.provider_id.cmp(&other.provider_id));
        instances.dedup_by(|one, other| one.provider_id == other.provider_id);
        Ok(Listing { instances, cloud_time })
    }

    /// The machine that has this key already, and is not on its way out.
    pub(crate) async fn find(
        &self,
        region: &Region,
        spec: &InstanceSpec,
    ) -> Result<Option<Instance>, ProviderError> {
        let hub = spec.tags.as_ref().map(|tags| tags.hub.to_string());
        let query = Query::default()
            .with("MaxResults", LOOK.to_string())
            .filter(&format!("tag:{}", tags::KEY), [spec.key.as_str()])
            .filter("instance-state-name", ["pending", "running", "stopping", "stopped"]);
        let query = match &hub {
            Some(hub) => query.filter(&format!("tag:{}", tags::HUB), [hub.as_str()]),
            None => query,
        };
        let (machines, _) = self.machines(region, &query).await?;
        let mut found: Vec<_> =
            machines.into_iter().filter_map(|machine| machine.into_instance(region.as_str())).collect();
        found.retain(|instance| instance.key == spec.key);
        found.sort_by(|one, other| one.provider_id.cmp(&other.provider_id));
        Ok(found.into_iter().next())
    }

    /// A call about one machine; whether there is such a machine.
    async fn tell(&self, action: Action, provider_id: &str) -> Result<bool, ProviderError> {
        let Some((region, id)) = parts(provider_id) else { return Ok(false) };
        let query = Query::default().list("InstanceId", [id]);
        match self.api.query(region.as_str(), action, &query).await {
            Ok(_) => Ok(true),
            Err(Failure::Refused(refusal)) if refusal.is_unknown_machine() => Ok(false),
            Err(failure) => Err(failure.into_error(action, region.as_str())),
        }
    }

    /// Deletes a machine. One that has ended is deleted, also where EC2 refuses to end it again: a part of it, such as its network
    /// interface, is gone already.
    async fn end(&self, provider_id: &str) -> Result<(), ProviderError> {
        let refused = match self.tell(Action::TerminateInstances, provider_id).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let (ErrorClass::Reject, Some((region, id))) = (refused.class(), parts(provider_id)) else {
            return Err(refused);
        };
        let (found, _) = self.machines(&region, &Query::default().list("InstanceId", [id])).await?;
        let has_ended = found.iter().any(|machine| machine.id == id && machine.state.is_none());
        if has_ended { Ok(()) } else { Err(refused) }
    }

    async fn switch(&self, action: Action, provider_id: &str) -> Result<(), ProviderError> {
        if self.tell(action, provider_id).await? {
            return Ok(());
        }
        Err(ProviderError::Reject { reason: format!("there is no machine {provider_id}") })
    }
}

impl Provider for AwsCloud {
    fn name(&self) -> &'static str {
        offers::NAME
    }

    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.sold().boxed()
    }

    fn price_list(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.priced().boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>> {
        self.list_all().boxed()
    }

    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>> {
        self.create_one(spec).boxed()
    }

    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.end(provider_id).boxed()
    }

    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.switch(Action::StartInstances, provider_id).boxed()
    }

    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>> {
        self.switch(Action::StopInstances, provider_id).boxed()
    }
}

/// Region and id of a machine; `None` where no machine of EC2 is called so.
fn parts(provider_id: &str) -> Option<(Region, &str)> {
    let (region, id) = provider_id.split_once('/')?;
    Some((region.parse().ok()?, Some(id).filter(|id| is_id(id))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machines_name_tells_its_region() {
        let (region, id) = parts("eu-west-1/i-0abc").unwrap();
        assert_eq!((region.as_str(), id), ("eu-west-1", "i-0abc"));
        for wrong in ["", "i-0abc", "eu-west-1/", "eu-west-1/x", "evil.example/i-0abc", "eu-west-1/i-0abc/x"]
        {
            assert!(parts(wrong).is_none(), "{wrong}");
        }
    }
}
