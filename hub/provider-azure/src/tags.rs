//! Whose a resource is, in tags: 50 at most, names of 512 characters without `<>%&\?/`, values of 256 (Azure's reference).

use std::collections::BTreeMap;

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, Tags};

/// The machine's key; what has it was made by a hub.
pub(crate) const KEY: &str = "blueprint-instance";
/// The hub's id.
pub(crate) const HUB: &str = "blueprint-hub";
const DEPLOYMENT: &str = "blueprint-deployment";
const ATTEMPT: &str = "blueprint-attempt";

/// Tags as Azure writes them. Names are compared without regard to case, as Azure does.
pub(crate) type Written = BTreeMap<String, String>;

/// The tags of a machine to be made, and of everything made with it.
pub(crate) fn of(spec: &InstanceSpec) -> Written {
    let mut rows = vec![(KEY, spec.key.to_string())];
    if let Some(whose) = &spec.tags {
        rows.push((HUB, whose.hub.to_string()));
        rows.push((DEPLOYMENT, whose.deployment.to_string()));
        rows.push((ATTEMPT, whose.attempt.to_string()));
    }
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The tags of what all machines of a hub share.
pub(crate) fn of_hub(hub: HubId) -> Written {
    BTreeMap::from([(HUB.to_owned(), hub.to_string())])
}

fn one<'a>(tags: &'a Written, wanted: &str) -> Option<&'a str> {
    tags.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.as_str())
}

/// What the hub calls it; `None` for what no hub made.
pub(crate) fn key(tags: &Written) -> Option<InstanceKey> {
    one(tags, KEY)?.parse().ok()
}

/// Whose it is; `None` where the tags do not say all of it.
pub(crate) fn whose(tags: &Written) -> Option<Tags> {
    Some(Tags {
        hub: one(tags, HUB)?.parse().ok()?,
        deployment: one(tags, DEPLOYMENT)?.parse().ok()?,
        attempt: one(tags, ATTEMPT)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Secret;
    use blueprint_hub_provision_core::resource::Arch;

    use super::*;

    #[test]
    fn tags_say_whose_it_is_in_any_case_and_half_of_them_say_nothing() {
        let spec = InstanceSpec {
            key: "bp-aaaaaaaaaaaaaaaa-1".parse().unwrap(),
            tags: Some(Tags {
                hub: "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap(),
                deployment: "aaaaaaaaaaaaaaaa".parse().unwrap(),
                attempt: 3,
            }),
            plan: "Standard_D2s_v5".to_owned(),
            region: "eastus".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(String::new()),
        };
        let tags = of(&spec);
        assert_eq!((whose(&tags), key(&tags)), (spec.tags.clone(), Some(spec.key.clone())));
        let shouted: Written =
            tags.iter().map(|(name, value)| (name.to_uppercase(), value.clone())).collect();
        assert_eq!(whose(&shouted), spec.tags);
        for name in [HUB, DEPLOYMENT, ATTEMPT] {
            let mut less = tags.clone();
            less.remove(name);
            assert_eq!(whose(&less), None);
        }
        for (name, value) in &tags {
            assert!(
                name.len() <= 512
                    && value.len() <= 256
                    && !name.contains(['<', '>', '%', '&', '\\', '?', '/'])
            );
        }
    }
}
