//! The labels that say whose a machine is: keys and values of `a-z`, `0-9`, `_` and `-`, 63 at most (Google's reference).

use std::collections::BTreeMap;

use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, Tags};

/// The machine's key; what has it was made by a hub.
pub(crate) const KEY: &str = "blueprint-instance";
/// The hub's id.
pub(crate) const HUB: &str = "blueprint-hub";
/// The deployment's id.
pub(crate) const DEPLOYMENT: &str = "blueprint-deployment";
/// Number of the call that made it.
pub(crate) const ATTEMPT: &str = "blueprint-attempt";

/// Labels as Google writes them.
pub(crate) type Labels = BTreeMap<String, String>;

/// The labels of a new machine and of its disk.
pub(crate) fn write(spec: &InstanceSpec) -> Labels {
    let mut rows = vec![(KEY, spec.key.to_string())];
    if let Some(tags) = &spec.tags {
        rows.push((HUB, tags.hub.to_string()));
        rows.push((DEPLOYMENT, tags.deployment.to_string()));
        rows.push((ATTEMPT, tags.attempt.to_string()));
    }
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Whose it is; `None` where the labels do not say.
pub(crate) fn read(labels: &Labels) -> Option<Tags> {
    Some(Tags {
        hub: labels.get(HUB)?.parse().ok()?,
        deployment: labels.get(DEPLOYMENT)?.parse().ok()?,
        attempt: labels.get(ATTEMPT)?.parse().ok()?,
    })
}

/// What the hub calls a machine: by its label, else by its name. `None` for one that has neither.
pub(crate) fn key(labels: &Labels, name: &str) -> Option<InstanceKey> {
    labels.get(KEY).and_then(|key| key.parse().ok()).or_else(|| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::{HubId, Secret};
    use blueprint_hub_provision_core::resource::Arch;

    use super::*;

    #[test]
    fn labels_say_whose_a_machine_is_in_the_letters_that_google_takes() {
        let spec = InstanceSpec {
            key: "bp-aaaaaaaaaaaaaaaa-1".parse().unwrap(),
            tags: Some(Tags {
                hub: HubId::from_bytes([0xab; 16]),
                deployment: "aaaaaaaaaaaaaaaa".parse().unwrap(),
                attempt: 3,
            }),
            plan: "e2-small".to_owned(),
            region: "us-central1".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(String::new()),
        };
        let labels = write(&spec);
        assert_eq!(read(&labels), spec.tags);
        assert_eq!(key(&labels, "another"), Some(spec.key));
        for (name, value) in &labels {
            for text in [name, value] {
                let is_of = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
                assert!(text.len() <= 63 && text.chars().all(is_of), "{name}={value}");
            }
        }
        for missing in [HUB, DEPLOYMENT, ATTEMPT] {
            let mut less = labels.clone();
            less.remove(missing);
            assert_eq!(read(&less), None);
        }
        assert_eq!(key(&Labels::new(), "Not a key"), None);
    }
}
