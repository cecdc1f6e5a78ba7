//! Whose a server is, in flat tags. Their charset is not documented; these are of letters, digits and `-` alone.

use blueprint_common_types::HubId;
use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, Tags};

/// On every server of any hub.
pub(crate) const NODE: &str = "bp-node";

/// On a server that was not given its user data yet.
pub(crate) const NEW: &str = "bp-new";

/// On volumes whose server goes.
pub(crate) const LEFT: &str = "bp-left";

const OF: &str = "bp-of-";
const HUB: &str = "bp-hub-";
const DEPLOYMENT: &str = "bp-dep-";
const KEY: &str = "bp-key-";
const ATTEMPT: &str = "bp-att-";

/// On every server of one hub; also the name of its security groups.
pub(crate) fn of_hub(hub: HubId) -> String {
    format!("{HUB}{hub}")
}

/// On the servers of one order.
pub(crate) fn of_key(key: &InstanceKey) -> String {
    format!("{KEY}{key}")
}

/// On the volumes that this server leaves.
pub(crate) fn of_server(id: &str) -> String {
    format!("{OF}{id}")
}

/// The tags of a server that has its user data.
pub(crate) fn of(spec: &InstanceSpec) -> Vec<String> {
    let mut tags = vec![NODE.to_owned(), of_key(&spec.key)];
    if let Some(whose) = &spec.tags {
        tags.push(of_hub(whose.hub));
        tags.push(format!("{DEPLOYMENT}{}", whose.deployment));
        tags.push(format!("{ATTEMPT}{}", whose.attempt));
    }
    tags
}

/// The tags of a volume that `server`, which has `tags`, is about to leave.
pub(crate) fn of_left(server: &str, tags: &[String]) -> Vec<String> {
    let own = tags.iter().filter(|tag| *tag != NODE && *tag != NEW).cloned();
    own.chain([LEFT.to_owned(), of_server(server)]).collect()
}

/// Whose a server is; `None` where its tags do not say all of it, or say two things.
pub(crate) fn whose(tags: &[String]) -> Option<Tags> {
    Some(Tags {
        hub: one(tags, HUB)?.parse().ok()?,
        deployment: one(tags, DEPLOYMENT)?.parse().ok()?,
        attempt: one(tags, ATTEMPT)?.parse().ok()?,
    })
}

/// What the hub calls a server: by its tag, because anybody can change a name, else by its name. `None` for one that has
/// neither.
pub(crate) fn key(tags: &[String], name: &str) -> Option<InstanceKey> {
    let tagged = one(tags, KEY).and_then(|key| key.parse().ok());
    tagged.or_else(|| name.parse().ok())
}

/// The server that left a volume.
pub(crate) fn server(tags: &[String]) -> Option<&str> {
    one(tags, OF)
}

/// Whether a tag is there.
pub(crate) fn has(tags: &[String], wanted: &str) -> bool {
    tags.iter().any(|tag| tag == wanted)
}

fn one<'a>(tags: &'a [String], prefix: &str) -> Option<&'a str> {
    let mut found = tags.iter().filter_map(|tag| tag.strip_prefix(prefix));
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
            plan: "DEV1-S".to_owned(),
            region: "fr-par-1".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(String::new()),
        }
    }

    #[test]
    fn tags_say_whose_a_server_is_and_whose_a_volume_was() {
        let (spec, tags) = (spec(), of(&spec()));
        assert_eq!(whose(&tags), spec.tags);
        assert_eq!(key(&tags, "renamed by hand"), Some(spec.key.clone()));
        let left = of_left("11111111-2222", &[tags, vec![NEW.to_owned()]].concat());
        assert_eq!((whose(&left), server(&left)), (spec.tags, Some("11111111-2222")));
        assert!(has(&left, LEFT) && !has(&left, NODE) && !has(&left, NEW));
        assert_eq!(key(&left, ""), Some(spec.key));
    }

    #[test]
    fn half_of_them_or_two_of_one_say_nothing() {
        let tags = of(&spec());
        for missing in 2..tags.len() {
            let mut less = tags.clone();
            less.remove(missing);
            assert_eq!(whose(&less), None);
        }
        let two = [tags, vec!["bp-att-4".to_owned()]].concat();
        assert_eq!(whose(&two), None);
        assert_eq!(key(&[NODE.to_owned()], "web-1"), "web-1".parse().ok());
        assert_eq!(key(&[NODE.to_owned()], "web.example.org"), None);
    }
}
