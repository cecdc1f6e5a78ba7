//! Whether the account can be used as it is configured, before anything is ordered.

use std::collections::BTreeMap;

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_kit::nothing_stands;
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    Account, AccountReport, DeploymentId, InstanceKey, InstanceSpec, ProviderError, RightState, Tags, Tidied,
};
use futures_util::future::{BoxFuture, FutureExt};

use crate::action::Action;
use crate::answer::AnswerError;
use crate::api::{Answer, Failure, unreadable};
use crate::cloud::AwsCloud;
use crate::config::Region;
use crate::create::no_place;
use crate::launch::launch;
use crate::query::Query;
use crate::xml::Node;

/// A kind of machine that every region has; none is made.
const PLAN: &str = "t3.micro";

/// What AWS answers to a call that it would do.
const WOULD: &str = "DryRunOperation";

/// Calls that cannot be tried without a machine, or that are not made where all is well.
const UNTRIED: [Action; 5] = [
    Action::CreateSecurityGroup,
    Action::DeleteSecurityGroup,
    Action::StartInstances,
    Action::StopInstances,
    Action::TerminateInstances,
];

impl Account for AwsCloud {
    fn look(&self, hub: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.check(hub).boxed()
    }

    fn tidy<'a>(&'a self, hub: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            nothing_stands(self, Some(hub)).await?;
            self.remove_groups(tidied).await
        }
        .boxed()
    }
}

impl AwsCloud {
    /// Asks who the keys belong to, which of the regions there are, and in each whether a machine could be listed and made.
    ///
    /// No machine is made. The security group without ingress is, where it is not there: it costs nothing, and the question is
    /// about it. Starting, stopping and ending cannot be tried without a machine.
    ///
    /// # Errors
    ///
    /// Where AWS does not know the keys, or cannot be reached.
    pub async fn check(&self, hub: HubId) -> Result<AccountReport, ProviderError> {
        let (asked, answer) = self.caller().await?;
        let action = Action::GetCallerIdentity;
        let result = answer.root.child("GetCallerIdentityResult");
        let text = |name| {
            let text = result.and_then(|result| result.text(name)).map(str::to_owned);
            text.ok_or_else(|| unreadable(action, AnswerError(name)).into_error(action, &asked))
        };
        let mut report =
            AccountReport { account: text("Account")?, identity: text("Arn")?, ..AccountReport::default() };
        tried(&mut report, action, RightState::Held);
        let known = self.known_regions(&asked, &mut report).await;
        for region in &self.config.regions {
            let state = known.as_ref().map(|known| known.get(region.as_str()).copied());
            let is_there = state.map(|state| state == Some(true));
            report.regions.push((region.to_string(), is_there));
            match state {
                Some(None) => report.problems.push(format!(
                    "{region}: AWS has no such region; correct providers.aws.regions and start the hub again"
                )),
                Some(Some(false)) => report.problems.push(format!(
                    "{region}: the account has not switched this region on; do that in the account, or take it out of \
                     providers.aws.regions"
                )),
                Some(Some(true)) | None => self.check_region(region, hub, &mut report).boxed().await,
            }
        }
        for action in UNTRIED {
            tried(&mut report, action, RightState::Untried);
        }
        Ok(report)
    }

    /// Who the keys belong to, and the region that said so: one of the configured ones, or that which every account has, for
    /// the name of a region that does not exist leads nowhere.
    async fn caller(&self) -> Result<(String, Answer), ProviderError> {
        let action = Action::GetCallerIdentity;
        let own = self.config.regions.iter().map(Region::as_str);
        let mut unsent = None;
        for region in own.chain([self.home()]) {
            match self.api.query(region, action, &Query::default()).await {
                Ok(answer) => return Ok((region.to_owned(), answer)),
                Err(Failure::Failed(error @ ProviderError::Unsent { .. })) => {
                    unsent.get_or_insert(error);
                }
                Err(failure) => return Err(failure.into_error(action, region)),
            }
        }
        Err(unsent.unwrap_or_else(|| ProviderError::Reject { reason: "no region is configured".to_owned() }))
    }

    /// The region that every account of this part of AWS has.
    fn home(&self) -> &'static str {
        let first = self.config.regions.first().map_or("", Region::as_str);
        match first {
            region if region.starts_with("cn-") => "cn-north-1",
            region if region.starts_with("us-gov-") => "us-gov-west-1",
            _ => "us-east-1",
        }
    }

    /// Every region by name, and whether the account has switched it on; `None` where AWS did not tell.
    async fn known_regions(&self, asked: &str, report: &mut AccountReport) -> Option<BTreeMap<String, bool>> {
        let action = Action::DescribeRegions;
        let mut failed = None;
        for asked in [asked, self.home()] {
            let answer = self.api.query(asked, action, &Query::default().with("AllRegions", "true")).await;
            match answer.map_err(|failure| failure.into_error(action, asked)) {
                Ok(answer) => {
                    tried(report, action, RightState::Held);
                    let read = |item: &Node| {
                        let is_off = item.text("optInStatus") == Some("not-opted-in");
                        Some((item.text("regionName")?.to_owned(), !is_off))
                    };
                    return Some(answer.root.items("regionInfo").filter_map(read).collect());
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        // Orders need no such list, so its want is no problem.
        let error = failed?;
        let is_missing = missing(&error).is_some();
        tried(report, action, if is_missing { RightState::Missing } else { RightState::Untried });
        report.notes.push(format!("whether the regions exist is not known: {}", error.line()));
        None
    }

    async fn check_region(&self, region: &Region, hub: HubId, report: &mut AccountReport) {
        let deployment = DeploymentId::from_bytes([0; 10]);
        let spec = InstanceSpec {
            key: InstanceKey::of(&deployment, 0),
            tags: Some(Tags { hub, deployment, attempt: 1 }),
            plan: PLAN.to_owned(),
            region: region.to_string(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(String::new()),
        };
        let before = report.problems.len();
        note(report, region, &[Action::DescribeInstances], self.find(region, &spec).await.map(drop));
        let of_image: &[_] = match self.config.image.parameter(spec.arch) {
            Some(_) => &[Action::GetParameter, Action::DescribeImages],
            None => &[Action::DescribeImages],
        };
        let image = note(report, region, of_image, self.image(region, &spec).await);
        let places = note(report, region, &[Action::DescribeSubnets], self.places(region).await);
        let Some(place) = places.unwrap_or_default().into_iter().next() else {
            if report.problems.len() == before {
                note(report, region, &[], Err::<(), _>(no_place(region)));
            }
            return;
        };
        let group = self.closed_group(region, &place.vpc).await;
        let group = note(report, region, &[Action::DescribeSecurityGroups], group);
        let (Some(image), Some(group)) = (image, group) else { return };
        let query = launch(&spec, &image, &place, &group, self.config.public_ip).with("DryRun", "true");
        let action = Action::RunInstances;
        let would = match self.api.query(region.as_str(), action, &query).await {
            Err(Failure::Refused(refusal)) if refusal.code == WOULD => Ok(()),
            Err(failure) => Err(failure.into_error(action, &format!("{PLAN} in {region}"))),
            Ok(_) => Err(ProviderError::Reject {
                reason: format!(
                    "the endpoint made a machine where it was only asked whether it would; end {} there",
                    spec.key
                ),
            }),
        };
        note(report, region, &[action], would);
    }
}

/// Notes what came of calls of these actions, and gives what they gave.
fn note<T>(
    report: &mut AccountReport,
    region: &Region,
    actions: &[Action],
    result: Result<T, ProviderError>,
) -> Option<T> {
    match result {
        Ok(value) => {
            actions.iter().for_each(|action| tried(report, *action, RightState::Held));
            Some(value)
        }
        Err(error) => {
            actions.iter().for_each(|action| tried(report, *action, RightState::Untried));
            if let Some(name) = missing(&error) {
                report.note_right(name, RightState::Missing);
            }
            report.problems.push(format!("{region}: {}", error.line()));
            None
        }
    }
}

fn tried(report: &mut AccountReport, action: Action, state: RightState) {
    report.note_right(&action.permission(), state);
}

/// The permission for want of which a call was refused.
fn missing(error: &ProviderError) -> Option<&str> {
    let ProviderError::Deny { action } = error else { return None };
    action.split_once("; add it to the policy").map(|(name, _)| name)
}
