//! Machines as Azure shows them.

use std::collections::BTreeMap;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::Deserialize;

use crate::api::Call;
use crate::tags::{self, Written};

/// A machine, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Machine {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) tags: Option<Written>,
    pub(crate) properties: Properties,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Properties {
    provisioning_state: String,
    /// What Azure's word for the machine names it by.
    #[serde(default)]
    pub(crate) vm_id: Option<String>,
    #[serde(default)]
    time_created: Option<String>,
    #[serde(default)]
    instance_view: Option<View>,
}

/// What it does, where it was asked for.
#[derive(Debug, Clone, Deserialize)]
struct View {
    #[serde(default)]
    statuses: Vec<Status>,
}

#[derive(Debug, Clone, Deserialize)]
struct Status {
    #[serde(default)]
    code: String,
}

/// A row of the list that tells what machines do, and little else of them.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Seen {
    id: String,
    #[serde(default)]
    properties: SeenProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenProperties {
    #[serde(default)]
    instance_view: Option<View>,
}

/// `running`, `deallocated`, ... by the names of machines in one resource group. Azure repeats ids in any case.
pub(crate) fn powers(seen: &[Seen], scope: &str, group: &str) -> BTreeMap<String, String> {
    let start = format!("{scope}/resourceGroups/{group}/").to_ascii_lowercase();
    let of = |seen: &Seen| {
        let id = seen.id.to_ascii_lowercase();
        let name = id.strip_prefix(&start)?.rsplit('/').next()?.to_owned();
        Some((name, power(seen.properties.instance_view.as_ref()?)?.to_owned()))
    };
    seen.iter().filter_map(of).collect()
}

fn power(view: &View) -> Option<&str> {
    view.statuses.iter().find_map(|status| status.code.strip_prefix("PowerState/"))
}

impl Machine {
    /// Its tags.
    pub(crate) fn tags(&self) -> Written {
        self.tags.clone().unwrap_or_default()
    }

    /// Whether Azure is removing it.
    pub(crate) fn is_going(&self) -> bool {
        self.properties.provisioning_state.eq_ignore_ascii_case("deleting")
    }

    /// As the hub sees it; `None` for what no hub made. `power` is what it does, where that is known apart from it.
    ///
    /// # Errors
    ///
    /// Where its date is none: a list has to be whole.
    pub(crate) fn instance(
        &self,
        call: Call,
        power: Option<&str>,
    ) -> Result<Option<Instance>, ProviderError> {
        let tags = self.tags();
        let Some(key) = tags::key(&tags) else { return Ok(None) };
        let created_at = self.properties.time_created.as_deref().map_or(Ok(Timestamp::default()), |text| {
            humantime::parse_rfc3339_weak(text.trim_end_matches("+00:00")).map(Timestamp::from)
        });
        let created_at = created_at.map_err(|_| ProviderError::Other {
            call: call.name,
            source: format!("the machine {key} was made at no date").into(),
        })?;
        let provider_id = self.name.to_ascii_lowercase();
        Ok(Some(Instance {
            key,
            provider_id,
            tags: tags::whose(&tags),
            state: self.state(power),
            created_at,
        }))
    }

    fn state(&self, seen: Option<&str>) -> InstanceState {
        let own = self.properties.instance_view.as_ref().and_then(power);
        match (self.properties.provisioning_state.to_ascii_lowercase().as_str(), seen.or(own)) {
            ("deleting", _) => InstanceState::Stopping,
            (_, Some("running")) => InstanceState::Running,
            (_, Some("starting")) => InstanceState::Starting,
            (_, Some("stopping" | "deallocating")) => InstanceState::Stopping,
            // Switched off from inside: its place is kept, and billed, until it is deallocated.
            (_, Some("stopped")) => InstanceState::Halted,
            (_, Some("deallocated")) => InstanceState::Stopped,
            ("failed" | "canceled", _) => {
                InstanceState::Failed { reason: "Azure failed to make or to change it".to_owned() }
            }
            ("creating", _) => InstanceState::Starting,
            // A word that came after this was written must not end a machine.
            _ => InstanceState::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::call;

    const LIST: Call = call("VirtualMachines_List", "x", "y");

    #[test]
    fn what_a_machine_does_is_read_from_both_lists() {
        let machine = |provisioning: &str| -> Machine {
            serde_json::from_value(json!({
                "name": "BP-aaaaaaaaaaaaaaaa-1", "tags": { "Blueprint-Instance": "bp-aaaaaaaaaaaaaaaa-1" },
                "properties": { "provisioningState": provisioning, "timeCreated": "2026-11-22T10:00:00.1234567+00:00" },
            }))
            .unwrap()
        };
        for (provisioning, power, state) in [
            ("Succeeded", Some("running"), InstanceState::Running),
            ("Succeeded", Some("deallocated"), InstanceState::Stopped),
            ("Succeeded", Some("stopped"), InstanceState::Halted),
            ("Updating", Some("deallocating"), InstanceState::Stopping),
            ("Creating", None, InstanceState::Starting),
            ("Deleting", Some("running"), InstanceState::Stopping),
            ("Failed", Some("running"), InstanceState::Running),
            ("Succeeded", None, InstanceState::Running),
            ("Something new", Some("unknown"), InstanceState::Running),
        ] {
            let instance = machine(provisioning).instance(LIST, power).unwrap().unwrap();
            assert_eq!((instance.state, instance.provider_id.as_str()), (state, "bp-aaaaaaaaaaaaaaaa-1"));
            assert_eq!(instance.created_at.as_millis(), 1_795_341_600_123);
        }
        let failed = machine("Failed").instance(LIST, None).unwrap().unwrap();
        assert!(matches!(failed.state, InstanceState::Failed { .. }));
    }

    #[test]
    fn ids_are_compared_in_any_case_and_other_groups_left_out() {
        let seen: Vec<Seen> = serde_json::from_value(json!([
            { "id": "/subscriptions/S/resourceGroups/BLUEPRINT-HUB-X/providers/Microsoft.Compute/virtualMachines/bp-1",
              "properties": { "instanceView": { "statuses": [{ "code": "ProvisioningState/succeeded" }, { "code": "PowerState/running" }] } } },
            { "id": "/subscriptions/s/resourceGroups/people/providers/Microsoft.Compute/virtualMachines/bp-2",
              "properties": { "instanceView": { "statuses": [{ "code": "PowerState/running" }] } } },
            { "id": "/subscriptions/s/resourceGroups/blueprint-hub-x/providers/Microsoft.Compute/virtualMachines/bp-3" },
        ]))
        .unwrap();
        let powers = powers(&seen, "/subscriptions/s", "blueprint-hub-x");
        assert_eq!(powers, BTreeMap::from([("bp-1".to_owned(), "running".to_owned())]));
    }
}
