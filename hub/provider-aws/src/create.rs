//! Making one machine: look for it, find image, place and group, and ask zone after zone.

use blueprint_hub_provider_kit::unordered;
use blueprint_hub_provision_core::{Instance, InstanceSpec, ProviderError, Tidied};
use futures_util::future::{FutureExt, try_join3};
use serde_json::json;
use tracing::{error, info};

use crate::action::Action;
use crate::answer::{self, AnswerError};
use crate::api::{Answer, Failure, unreadable};
use crate::cloud::AwsCloud;
use crate::config::Region;
use crate::launch::{self, Image, check_user_data, images};
use crate::network::{self, GROUP_NAME, Group, Place, ordered, places};
use crate::query::Query;
use crate::tags;

impl AwsCloud {
    /// The machine of this spec, made where it is not there.
    ///
    /// Capacity is told only after every zone was asked; an answer that does not come ends the search at once, because the
    /// machine may have been made.
    pub(crate) async fn create_one(&self, spec: &InstanceSpec) -> Result<Instance, ProviderError> {
        let region = self.region(spec)?;
        check_user_data(spec)?;
        let (found, image, places) = try_join3(
            self.find(region, spec).boxed(),
            self.image(region, spec).boxed(),
            self.places(region).boxed(),
        )
        .await
        .map_err(unordered)?;
        if let Some(instance) = found {
            return Ok(instance);
        }
        let what = format!("{} in {region}", spec.plan);
        let mut groups: Vec<(String, String)> = Vec::new();
        let mut refused: Option<ProviderError> = None;
        for place in ordered(places, &spec.key) {
            let known = groups.iter().find(|(vpc, _)| *vpc == place.vpc).map(|(_, group)| group.clone());
            let group = match known {
                Some(group) => group,
                None => {
                    // A zone that was asked before said no.
                    let group = self.closed_group(region, &place.vpc).boxed().await.map_err(unordered)?;
                    groups.push((place.vpc.clone(), group.clone()));
                    group
                }
            };
            let query = launch::launch(spec, &image, &place, &group, self.config.public_ip);
            let action = Action::RunInstances;
            match self.api.query(region.as_str(), action, &query).boxed().await {
                Ok(answer) => return self.made(region, spec, &place, &answer),
                Err(Failure::Refused(refusal)) if refusal.is_of_zone(action) => {
                    info!(instance = %spec.key, zone = place.zone, reason = %refusal, "not to be had in this zone");
                    let error = refusal.into_error(action, &what);
                    // Where one zone is only full, the plan is sold here.
                    if !matches!(refused, Some(ProviderError::Capacity { .. })) {
                        refused = Some(error);
                    }
                }
                Err(failure) => {
                    if let Failure::Refused(refusal) = &failure
                        && refusal.code == "IdempotentParameterMismatch"
                    {
                        error!(instance = %spec.key, error = %refusal, "two different calls had one token: this is a fault of the hub, report it");
                    }
                    return Err(failure.into_error(action, &what));
                }
            }
        }
        Err(refused.unwrap_or_else(|| no_place(region)))
    }

    fn made(
        &self,
        region: &Region,
        spec: &InstanceSpec,
        place: &Place,
        answer: &Answer,
    ) -> Result<Instance, ProviderError> {
        let action = Action::RunInstances;
        let lacks = |error: AnswerError| unreadable(action, error).into_error(action, region.as_str());
        let machine = answer::made(&answer.root).map_err(lacks)?;
        let instance = machine.into_instance(region.as_str());
        // A token is known for longer than its machine stands.
        let instance = instance.ok_or_else(|| lacks(AnswerError("instance that still stands")))?;
        info!(target: "audit", provider = "aws", instance = %spec.key, id = instance.provider_id, zone = place.zone, "instance created");
        Ok(instance)
    }

    /// The image for the machine's kind of processor.
    pub(crate) async fn image(&self, region: &Region, spec: &InstanceSpec) -> Result<Image, ProviderError> {
        let id = match self.config.image.parameter(spec.arch) {
            Some(path) => self.parameter(region, &path).await?,
            None => self.config.image.as_str().to_owned(),
        };
        let action = Action::DescribeImages;
        let failed = |failure: Failure| failure.into_error(action, region.as_str());
        let query = Query::default().list("ImageId", [id.as_str()]);
        let answer = self.api.query(region.as_str(), action, &query).await.map_err(failed)?;
        let images = images(&answer.root).map_err(|error| failed(unreadable(action, error)))?;
        let wrong = |why: String| ProviderError::Reject {
            reason: format!("the image {id} of providers.aws.image {why}; set another one"),
        };
        let Some(image) = images.into_iter().find(|image| image.id == id) else {
            return Err(wrong(format!("is not in {region}")));
        };
        if image.arch != spec.arch.as_str() {
            return Err(wrong(format!("is for {}, and {} is {}", image.arch, spec.plan, spec.arch.as_str())));
        }
        Ok(image)
    }

    /// The id of an image, out of a parameter of SSM.
    async fn parameter(&self, region: &Region, path: &str) -> Result<String, ProviderError> {
        let action = Action::GetParameter;
        let answer = self.api.json(region.as_str(), action, &json!({ "Name": path })).await;
        let answer = answer.map_err(|failure| failure.into_error(action, region.as_str()))?;
        let value = answer.pointer("/Parameter/Value").and_then(|value| value.as_str());
        let id = value.filter(|id| crate::config::is_numbered(id, "ami-"));
        id.map(str::to_owned).ok_or_else(|| ProviderError::Reject {
            reason: format!("the parameter {path} in {region} holds no ami-...; set providers.aws.image"),
        })
    }

    /// Where in the region a machine can be put, sorted by zone.
    pub(crate) async fn places(&self, region: &Region) -> Result<Vec<Place>, ProviderError> {
        let query = Query::default().filter("state", ["available"]);
        let query = if self.config.subnets.is_empty() {
            query.filter("default-for-az", ["true"])
        } else {
            query.filter("subnet-id", self.config.subnets.iter().map(|subnet| subnet.as_str()))
        };
        let action = Action::DescribeSubnets;
        let failed = |failure: Failure| failure.into_error(action, region.as_str());
        let answer = self.api.query(region.as_str(), action, &query).await.map_err(failed)?;
        places(&answer.root).map_err(|error| failed(unreadable(action, error)))
    }

    /// The id of the group of this network that lets nothing in, made where it is not there.
    pub(crate) async fn closed_group(&self, region: &Region, vpc: &str) -> Result<String, ProviderError> {
        if let Some(group) = self.group(region, vpc).await? {
            return closed(group);
        }
        let action = Action::CreateSecurityGroup;
        let query = Query::default()
            .with("GroupName", GROUP_NAME)
            .with("GroupDescription", "Machines of blueprint-hub: nothing may come in")
            .with("VpcId", vpc)
            .tagged("security-group", &[(tags::GROUP, tags::NO_INGRESS.to_owned())]);
        match self.api.query(region.as_str(), action, &query).await {
            Ok(answer) => match answer.root.text("groupId").filter(|id| !id.is_empty()) {
                Some(id) => Ok(id.to_owned()),
                None => Err(unreadable(action, AnswerError("groupId")).into_error(action, region.as_str())),
            },
            // Another call was first.
            Err(Failure::Refused(refusal)) if refusal.code == "InvalidGroup.Duplicate" => {
                match self.group(region, vpc).await? {
                    Some(group) => closed(group),
                    None => Err(refusal.into_error(action, region.as_str())),
                }
            }
            Err(failure) => Err(failure.into_error(action, region.as_str())),
        }
    }

    /// Deletes the groups without ingress of all regions. AWS refuses where machines are in one: those of another hub of the account.
    pub(crate) async fn remove_groups(&self, tidied: &mut Tidied) -> Result<(), ProviderError> {
        for region in &self.config.regions {
            let action = Action::DescribeSecurityGroups;
            let failed = |failure: Failure| failure.into_error(action, region.as_str());
            let tagged = format!("tag:{}", tags::GROUP);
            let query =
                Query::default().filter("group-name", [GROUP_NAME]).filter(&tagged, [tags::NO_INGRESS]);
            let answer = self.api.query(region.as_str(), action, &query).await.map_err(failed)?;
            let groups = network::groups(&answer.root).map_err(|error| failed(unreadable(action, error)))?;
            for Group { id, .. } in groups {
                let action = Action::DeleteSecurityGroup;
                let query = Query::default().with("GroupId", &id);
                match self.api.query(region.as_str(), action, &query).await {
                    Ok(_) => {
                        info!(target: "audit", provider = "aws", region = region.as_str(), group = id, "security group deleted");
                        tidied.removed.push(format!("security group {id} in {region}"));
                    }
                    Err(Failure::Refused(refusal)) if refusal.code == "DependencyViolation" => tidied
                        .kept
                        .push(format!("security group {id} in {region}: machines of another hub are in it")),
                    Err(Failure::Refused(refusal)) if refusal.code == "InvalidGroup.NotFound" => {}
                    Err(failure) => return Err(failure.into_error(action, region.as_str())),
                }
            }
        }
        Ok(())
    }

    async fn group(&self, region: &Region, vpc: &str) -> Result<Option<Group>, ProviderError> {
        let action = Action::DescribeSecurityGroups;
        let failed = |failure: Failure| failure.into_error(action, region.as_str());
        let query = Query::default().filter("group-name", [GROUP_NAME]).filter("vpc-id", [vpc]);
        let answer = self.api.query(region.as_str(), action, &query).await.map_err(failed)?;
        network::group(&answer.root).map_err(|error| failed(unreadable(action, error)))
    }
}

/// There is no subnet in a region.
pub(crate) fn no_place(region: &Region) -> ProviderError {
    ProviderError::Reject {
        reason: format!(
            "{region} has no subnet to put a machine in: make a default network there, or name subnets of it in \
             providers.aws.subnets"
        ),
    }
}

/// A group that somebody opened is not used, and not closed either: that was done on purpose.
fn closed(group: Group) -> Result<String, ProviderError> {
    if group.has_ingress {
        let reason = format!(
            "the security group {} ({GROUP_NAME}) lets something in: take its inbound rules out, the hub needs none",
            group.id
        );
        return Err(ProviderError::Reject { reason });
    }
    Ok(group.id)
}
