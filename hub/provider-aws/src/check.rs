//! Whether the account can be used as it is configured, before anything is ordered.

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{DeploymentId, InstanceKey, InstanceSpec, ProviderError, Tags};

use crate::action::Action;
use crate::answer::AnswerError;
use crate::api::{Failure, unreadable};
use crate::cloud::AwsCloud;
use crate::config::Region;
use crate::create::no_place;
use crate::launch::launch;
use crate::query::Query;

/// A kind of machine that every region has; none is made.
const PLAN: &str = "t3.micro";

/// What AWS answers to a call that it would do.
const WOULD: &str = "DryRunOperation";

/// What a check of an account found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Number of the account.
    pub account: String,
    /// ARN of who calls.
    pub identity: String,
    /// What does not work, a line each with the region first; none where all does.
    pub problems: Vec<String>,
}

impl AwsCloud {
    /// Asks who the keys belong to, and in every region whether a machine could be listed and made.
    ///
    /// No machine is made. The security group without ingress is, where it is not there: it costs nothing, and the question is
    /// about it. Starting, stopping and ending cannot be tried without a machine.
    ///
    /// # Errors
    ///
    /// Where AWS does not know the keys, or cannot be reached.
    pub async fn check(&self, hub: HubId) -> Result<Checked, ProviderError> {
        let region = self.config.regions.first().map_or("us-east-1", Region::as_str);
        let action = Action::GetCallerIdentity;
        let failed = |failure: Failure| failure.into_error(action, region);
        let answer = self.api.query(region, action, &Query::default()).await.map_err(failed)?;
        let result = answer.root.child("GetCallerIdentityResult");
        let text = |name| {
            let text = result.and_then(|result| result.text(name)).map(str::to_owned);
            text.ok_or_else(|| failed(unreadable(action, AnswerError(name))))
        };
        let (account, identity) = (text("Account")?, text("Arn")?);
        let mut problems = Vec::new();
        for region in &self.config.regions {
            let found = Box::pin(self.check_region(region, hub)).await;
            problems.extend(found.into_iter().map(|error| format!("{region}: {}", error.line())));
        }
        Ok(Checked { account, identity, problems })
    }

    async fn check_region(&self, region: &Region, hub: HubId) -> Vec<ProviderError> {
        let deployment = DeploymentId::from_bytes([0; 10]);
        let spec = InstanceSpec {
            key: InstanceKey::of(&deployment, 0),
            tags: Some(Tags { hub, deployment, attempt: 1 }),
            plan: PLAN.to_owned(),
            region: region.to_string(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            user_data: Secret::new(String::new()),
        };
        let mut problems = Vec::new();
        problems.extend(self.find(region, &spec).await.err());
        let image = self.image(region, &spec).await.map_err(|error| problems.push(error)).ok();
        let places = self.places(region).await.map_err(|error| problems.push(error)).unwrap_or_default();
        let Some(place) = places.first() else {
            if problems.is_empty() {
                problems.push(no_place(region));
            }
            return problems;
        };
        let group = self.closed_group(region, &place.vpc).await.map_err(|error| problems.push(error)).ok();
        let (Some(image), Some(group)) = (image, group) else { return problems };
        let query = launch(&spec, &image, place, &group, self.config.public_ip).with("DryRun", "true");
        let action = Action::RunInstances;
        match self.api.query(region.as_str(), action, &query).await {
            Err(Failure::Refused(refusal)) if refusal.code == WOULD => {}
            Err(failure) => problems.push(failure.into_error(action, &format!("{PLAN} in {region}"))),
            Ok(_) => problems.push(ProviderError::Reject {
                reason: format!(
                    "the endpoint made a machine where it was only asked whether it would; end {} there",
                    spec.key
                ),
            }),
        }
        problems
    }
}
