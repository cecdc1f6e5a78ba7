//! Whether the project can be used as it is configured, before anything is ordered.

use blueprint_common_types::HubId;
use blueprint_hub_provider_kit::nothing_stands;
use blueprint_hub_provision_core::{Account, AccountReport, ProviderError, RightState, Tidied};
use futures_util::future::{BoxFuture, FutureExt};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::action::Action;
use crate::api::{Answer, Failure};
use crate::cloud::GcpCloud;
use crate::offers::listed;
use crate::policy::permissions;

/// Quotas of a region that an order meets first.
const QUOTAS: [&str; 5] = ["CPUS", "INSTANCES", "IN_USE_ADDRESSES", "PREEMPTIBLE_CPUS", "SSD_TOTAL_GB"];

/// A project, as far as the hub looks.
#[derive(Debug, Deserialize)]
struct Project {
    name: String,
}

/// Which of the rights that were asked about are there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Held {
    permissions: Vec<String>,
}

impl Account for GcpCloud {
    fn look(&self, _: HubId) -> BoxFuture<'_, Result<AccountReport, ProviderError>> {
        self.check().boxed()
    }

    /// The rule is for the machines of every hub in the project.
    fn tidy<'a>(&'a self, _: HubId, tidied: &'a mut Tidied) -> BoxFuture<'a, Result<(), ProviderError>> {
        async move {
            nothing_stands(self, None).await?;
            self.remove_rule(tidied).await
        }
        .boxed()
    }
}

impl GcpCloud {
    /// Asks which project it is, which rights the account has in it, whether the regions, the network and the firewall rule are
    /// there, and what the quotas are. Nothing is made.
    ///
    /// # Errors
    ///
    /// Where Google does not know the credentials, or cannot be reached.
    async fn check(&self) -> Result<AccountReport, ProviderError> {
        let access = self.api.tokens.access().await?;
        let identity = access.identity.clone();
        let mut report =
            AccountReport { account: access.project.clone(), identity, ..AccountReport::default() };
        let action = Action::GetProject;
        match self.api.call::<Project>(action, "", &[], None).await {
            Ok(Answer { body, .. }) => {
                report.account = body.name.chars().filter(|c| !c.is_control()).take(64).collect();
                report.note_right(action.permission(), RightState::Held);
            }
            Err(Failure::Refused(refusal)) if refusal.is_missing() => report
                .problems
                .push(format!("{}: there is no such project; correct project_id", access.project)),
            Err(failure) => {
                let error = failure.into_error(action, &access.project);
                let ProviderError::Deny { action: missing } = &error else { return Err(error) };
                if !is_right(missing) {
                    return Err(error);
                }
                report.note_right(action.permission(), RightState::Missing);
                report.problems.push(format!("not allowed to {missing}"));
            }
        }
        self.rights(&mut report).await?;
        for region in &self.config.regions {
            self.check_region(region, &mut report).await;
        }
        self.check_network(&mut report).await;
        Ok(report)
    }

    /// Asks which rights are there, also those that make and end machines. An API of its own, which may be switched off.
    async fn rights(&self, report: &mut AccountReport) -> Result<(), ProviderError> {
        let wanted = permissions(&self.config);
        let body = json!({ "permissions": wanted });
        match self.api.call::<Held>(Action::TestPermissions, "", &[], Some(&body)).await {
            Ok(Answer { body, .. }) => {
                for name in wanted {
                    let is_held = body.permissions.iter().any(|own| own == name);
                    report.note_right(name, if is_held { RightState::Held } else { RightState::Missing });
                    if !is_held {
                        report
                            .problems
                            .push(format!("{name} is missing; add it to the role of the hub's account"));
                    }
                }
            }
            Err(Failure::Refused(refusal)) => {
                wanted.into_iter().for_each(|name| report.note_right(name, RightState::Untried));
                report.notes.push(format!(
                    "which rights are there is not known: {refusal}; orders do without the API \
                     cloudresourcemanager.googleapis.com, which tells it"
                ));
            }
            Err(Failure::Failed(error)) => return Err(error),
        }
        Ok(())
    }

    async fn check_region(&self, region: &crate::config::Region, report: &mut AccountReport) {
        let is_up = match self.region_view(region).await {
            Ok(Some(view)) => {
                let is_up = view.status == "UP";
                if !is_up {
                    report
                        .problems
                        .push(format!("{region}: Google says it is down; nothing can be ordered there now"));
                }
                if listed(std::slice::from_ref(region), false).is_ok_and(|offers| offers.is_empty()) {
                    report.notes.push(format!(
                        "{region}: the price list that this hub was built with has no machines there, so that none can be ordered; \
                         docs/gcp.md names the regions that it has"
                    ));
                }
                for quota in view.quotas.iter().filter(|quota| QUOTAS.contains(&quota.metric.as_str())) {
                    let limit = format!("{:.0}", quota.limit.max(0.0)).parse().unwrap_or_default();
                    report.quotas.push((format!("{} in {region}", quota.metric), limit));
                }
                Some(is_up)
            }
            Ok(None) => {
                report.problems.push(format!(
                    "{region}: Google has no such region; correct providers.gcp.regions and start the hub again"
                ));
                Some(false)
            }
            Err(error) => {
                note_missing(report, &error);
                report.problems.push(format!("{region}: {}", error.line()));
                None
            }
        };
        report.regions.push((region.to_string(), is_up));
    }

    async fn check_network(&self, report: &mut AccountReport) {
        let action = Action::GetNetwork;
        let name = self.config.network.as_str();
        let path = format!("global/networks/{name}");
        match self.api.call::<Value>(action, &path, &[], None).await {
            Ok(_) => {}
            Err(Failure::Refused(refusal)) if refusal.is_missing() => report.problems.push(format!(
                "the project has no network {name}; make it, or name another one in providers.gcp.network"
            )),
            Err(failure) => {
                let error = failure.into_error(action, name);
                note_missing(report, &error);
                report.problems.push(format!("network {name}: {}", error.line()));
            }
        }
        match self.rule_is_there().await {
            Ok(true) => {}
            Ok(false) => report
                .notes
                .push("the firewall rule that lets nothing in is made with the first order".to_owned()),
            Err(error) => {
                note_missing(report, &error);
                report.problems.push(error.line());
            }
        }
    }
}

/// Notes the permission for want of which a call was refused.
fn note_missing(report: &mut AccountReport, error: &ProviderError) {
    let ProviderError::Deny { action } = error else { return };
    if let Some((name, _)) = action.split_once("; add it").filter(|_| is_right(action)) {
        report.note_right(name, RightState::Missing);
    }
}

/// Whether it is a single right that is missing.
fn is_right(missing: &str) -> bool {
    missing.contains("; add it to the role")
}
