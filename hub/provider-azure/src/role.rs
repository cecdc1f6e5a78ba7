//! The least that the hub's application or identity has to be allowed.

use std::collections::BTreeSet;

use blueprint_common_types::HubId;
use serde_json::{Value, json};

use crate::check::{self, ALL};

/// Actions that no call of this crate is named by, and that Azure asks for when a machine is made: its interface, address and disk
/// are made with it, and it joins what stands.
const WITH_MACHINE: [&str; 9] = [
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/publicIPAddresses/join/action",
    "Microsoft.Network/publicIPAddresses/write",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
];

/// The same for what is read besides.
const BESIDES: [&str; 4] = [
    "Microsoft.Compute/locations/operations/read",
    "Microsoft.Network/locations/operations/read",
    "Microsoft.Network/publicIPAddresses/read",
    "Microsoft.Network/virtualNetworks/subnets/write",
];

/// Every action that is needed, sorted.
pub(crate) fn actions() -> Vec<&'static str> {
    let calls = ALL.iter().map(|call| call.action);
    let actions: BTreeSet<_> = calls.chain(WITH_MACHINE).chain(BESIDES).collect();
    actions.into_iter().collect()
}

/// A custom role as `az role definition create` takes it: every action that this crate needs, and no other. Put the id of the
/// subscription in its place. Which actions Azure asks for besides the calls themselves is its manual's word, and was not tried
/// against it.
#[must_use]
pub fn role(hub: HubId) -> Value {
    json!({
        "Name": format!("blueprint-hub {hub}"),
        "IsCustom": true,
        "Description": "Machines of a blueprint-hub, in a resource group of its own",
        "Actions": actions(),
        "NotActions": [],
        "AssignableScopes": [format!("/subscriptions/{}", check::SOME_SUBSCRIPTION)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_allows_no_more_than_machines_and_their_network() {
        let role = role(HubId::from_bytes([0; 16]));
        let actions = role["Actions"].as_array().unwrap();
        for action in actions {
            let action = action.as_str().unwrap();
            assert!(!action.contains('*'), "{action}");
            let verb = action.rsplit('/').next().unwrap();
            assert!(["read", "write", "delete", "action"].contains(&verb), "{action}");
            assert!(
                !action.contains("roleAssignments") && !action.contains("resourceGroups/delete"),
                "{action}"
            );
        }
        for call in ALL {
            assert!(actions.iter().any(|action| action == call.action), "{}", call.name);
        }
    }

    #[test]
    fn the_page_of_the_manual_has_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/azure.md");
        let page = std::fs::read_to_string(path).unwrap();
        let role = serde_json::to_string_pretty(&role(HubId::from_bytes([0; 16]))).unwrap();
        let (before, rest) = page.split_once("```json\n").unwrap();
        let (_, after) = rest.split_once("\n```").unwrap();
        let current = format!("{before}```json\n{role}\n```{after}");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == current, "run UPDATE_GENERATED=1 cargo test -p blueprint-hub-provider-azure --lib");
    }
}
