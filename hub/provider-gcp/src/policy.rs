//! The least that the hub's service account has to be allowed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::action::Action;
use crate::config::GcpConfig;

/// The custom role of the hub's service account, as `gcloud iam roles create --file` takes it: every permission that this crate
/// needs as it is configured, and no other.
///
/// A service account that machines run as takes `iam.serviceAccounts.actAs` on that account beside it, which a role of the
/// project would give for every account: the document names it in its description and not among its permissions.
#[must_use]
pub fn policy(config: &GcpConfig) -> Value {
    let mut description = "Orders, switches and ends the machines of blueprint-hub".to_owned();
    if let Some(account) = &config.service_account {
        description.push_str(&format!(
            "; beside it the role roles/iam.serviceAccountUser on {} is needed",
            account.as_str()
        ));
    }
    json!({
        "title": "blueprint-hub",
        "description": description,
        "stage": "GA",
        "includedPermissions": permissions(config),
    })
}

/// The permissions, sorted.
pub(crate) fn permissions(config: &GcpConfig) -> Vec<&'static str> {
    let all: BTreeSet<_> = Action::ALL.iter().flat_map(|action| action.permissions()).copied().collect();
    let is_needed = |name: &&str| *name != "compute.subnetworks.useExternalIp" || config.public_ip;
    all.into_iter().filter(is_needed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GcpConfig {
        GcpConfig::new(vec!["us-central1".parse().unwrap()])
    }

    #[test]
    fn it_names_what_is_called_and_nothing_wide() {
        let policy = policy(&config());
        let named = policy["includedPermissions"].as_array().unwrap();
        assert!(named.iter().any(|name| name == "compute.instances.create"));
        for name in named {
            let name = name.as_str().unwrap();
            assert!(
                name.starts_with("compute.") && !name.contains('*') && !name.ends_with("setIamPolicy"),
                "{name}"
            );
        }
        let private = GcpConfig { public_ip: false, ..config() };
        assert!(!permissions(&private).contains(&"compute.subnetworks.useExternalIp"));
        let account = Some("n@p.iam.gserviceaccount.com".parse().unwrap());
        let own = super::policy(&GcpConfig { service_account: account, ..config() });
        assert!(own["description"].as_str().unwrap().contains("iam.serviceAccountUser on n@p."), "{own}");
    }

    #[test]
    fn the_page_of_the_manual_has_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/gcp.md");
        let page = std::fs::read_to_string(path).unwrap();
        let policy = serde_json::to_string_pretty(&policy(&config())).unwrap();
        let (before, rest) = page.split_once("```json\n").unwrap();
        let (_, after) = rest.split_once("\n```").unwrap();
        let current = format!("{before}```json\n{policy}\n```{after}");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == current, "run UPDATE_GENERATED=1 cargo test -p blueprint-hub-provider-gcp --lib");
    }
}
