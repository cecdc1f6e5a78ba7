//! Whose a machine is, at clouds whose tags are flat texts: letters, digits and `-`, 43 at most of those made here.

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, Tags};

/// On every machine of any hub.
pub const NODE: &str = "bp-node";

const HUB: &str = "bp-hub-";
const DEPLOYMENT: &str = "bp-dep-";
const KEY: &str = "bp-key-";
const ATTEMPT: &str = "bp-att-";

/// On every machine of one hub.
#[must_use]
pub fn of_hub(hub: HubId) -> String {
    format!("{HUB}{hub}")
}

/// On the machines of one order.
#[must_use]
pub fn of_key(key: &InstanceKey) -> String {
    format!("{KEY}{key}")
}

/// The tags of a machine to be made.
#[must_use]
pub fn of(spec: &InstanceSpec) -> Vec<String> {
    let mut tags = vec![NODE.to_owned(), of_key(&spec.key)];
    if let Some(whose) = &spec.tags {
        tags.push(of_hub(whose.hub));
        tags.push(format!("{DEPLOYMENT}{}", whose.deployment));
        tags.push(format!("{ATTEMPT}{}", whose.attempt));
    }
    tags
}

/// Whose a machine is; `None` where its tags do not say all of it, or say two things.
#[must_use]
pub fn whose(tags: &[String]) -> Option<Tags> {
    Some(Tags {
        hub: one(tags, HUB)?.parse().ok()?,
        deployment: one(tags, DEPLOYMENT)?.parse().ok()?,
        attempt: one(tags, ATTEMPT)?.parse().ok()?,
    })
}

/// What the hub calls a machine: by its tag, because anybody can change a name, else by its name. `None` for one that has
/// neither.
#[must_use]
pub fn key(tags: &[String], name: &str) -> Option<InstanceKey> {
    let tagged = one(tags, KEY).and_then(|key| key.parse().ok());
    tagged.or_else(|| name.to_ascii_lowercase().parse().ok())
}

/// True for a machine that a hub made and nobody took from it.
#[must_use]
pub fn is_node(tags: &[String]) -> bool {
    tags.iter().any(|tag| tag.eq_ignore_ascii_case(NODE))
}

/// True for the tag of a deployment.
#[must_use]
pub fn is_of_deployment(tag: &str) -> bool {
    begins(tag, DEPLOYMENT)
}

/// True for a tag that says for what a machine was made: its order, its deployment, or the number of the call.
#[must_use]
pub fn is_of_order(tag: &str) -> bool {
    [KEY, DEPLOYMENT, ATTEMPT].iter().any(|prefix| begins(tag, prefix))
}

/// Tags are compared as APIs do that keep the case of the first use.
fn begins(tag: &str, prefix: &str) -> bool {
    tag.split_at_checked(prefix.len())
        .is_some_and(|(head, rest)| head.eq_ignore_ascii_case(prefix) && !rest.is_empty())
}

/// True for tags of the very order of `spec`: its key, its hub and its deployment, whichever call made the machine.
#[must_use]
pub fn is_of(spec: &InstanceSpec, tags: &[String], name: &str) -> bool {
    let own = whose(tags);
    let whose = |tags: &Tags| (tags.hub, tags.deployment.clone());
    is_node(tags)
        && key(tags, name).as_ref() == Some(&spec.key)
        && own.as_ref().map(whose) == spec.tags.as_ref().map(whose)
}

/// Tags are compared as APIs do that keep the case of the first use.
fn one<'a>(tags: &'a [String], prefix: &str) -> Option<&'a str> {
    let mut found = tags.iter().filter_map(|tag| {
        let (head, rest) = tag.split_at_checked(prefix.len())?;
        head.eq_ignore_ascii_case(prefix).then_some(rest)
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Secret;
    use blueprint_hub_provision_core::resource::Arch;

    use super::*;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            key: "bp-aaaaaaaaaaaaaaaa-1".parse().unwrap(),
            tags: Some(Tags {
                hub: "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap(),
                deployment: "aaaaaaaaaaaaaaaa".parse().unwrap(),
                attempt: 3,
            }),
            plan: "s-1vcpu-1gb".to_owned(),
            region: "fra1".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(String::new()),
        }
    }

    #[test]
    fn tags_say_whose_a_machine_is() {
        let (spec, tags) = (spec(), of(&spec()));
        assert_eq!(whose(&tags), spec.tags);
        assert_eq!(key(&tags, "renamed by hand"), Some(spec.key.clone()));
        assert!(is_of(&spec, &tags, ""));
        let other = InstanceSpec { key: "bp-aaaaaaaaaaaaaaaa-2".parse().unwrap(), ..spec.clone() };
        assert!(!is_of(&other, &tags, "") && !is_of(&spec, tags.get(1..).unwrap(), ""));
        for tag in &tags {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
            assert!(tag.len() <= 50 && tag.chars().all(is_allowed), "{tag}");
        }
        let is_of: Vec<_> = tags.iter().filter(|tag| is_of_order(tag)).map(|tag| &tag[..7]).collect();
        assert_eq!(is_of, ["bp-key-", "bp-dep-", "bp-att-"]);
        assert!(is_of_deployment("BP-dep-x") && !is_of_deployment("bp-dep-") && !is_of_order("bp-node"));
        // The account knew the tag in another case.
        let shouted: Vec<_> = tags.iter().map(|tag| tag.replace("bp-", "BP-")).collect();
        assert!(whose(&shouted).is_some());
    }

    #[test]
    fn half_of_them_or_two_of_one_say_nothing() {
        let tags = of(&spec());
        for missing in 2..tags.len() {
            let mut less = tags.clone();
            less.remove(missing);
            assert_eq!(whose(&less), None);
        }
        let mut two = tags.clone();
        two.push("bp-att-4".to_owned());
        assert_eq!(whose(&two), None);
        assert_eq!(key(&[NODE.to_owned()], "Web-1"), "web-1".parse().ok());
        assert_eq!(key(&[NODE.to_owned()], "web.example.org"), None);
    }
}
