//! Whose a device is, in flat tags. Their charset is not documented; these are of letters, digits and `-` alone.

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{InstanceKey, InstanceSpec, Tags};

/// On every device of any hub.
pub(crate) const NODE: &str = "bp-node";

/// On virtual machines.
pub(crate) const VPS: &str = "bp-vps";

const HUB: &str = "bp-hub-";
const DEPLOYMENT: &str = "bp-dep-";
const KEY: &str = "bp-key-";
const ATTEMPT: &str = "bp-att-";
const AT: &str = "bp-at-";

/// The tags of a device that is ordered at `now`.
pub(crate) fn of(spec: &InstanceSpec, is_vps: bool, now: Timestamp) -> Vec<String> {
    let mut tags = vec![NODE.to_owned(), format!("{KEY}{}", spec.key), format!("{AT}{}", now.as_secs())];
    if let Some(whose) = &spec.tags {
        tags.push(format!("{HUB}{}", whose.hub));
        tags.push(format!("{DEPLOYMENT}{}", whose.deployment));
        tags.push(format!("{ATTEMPT}{}", whose.attempt));
    }
    if is_vps {
        tags.push(VPS.to_owned());
    }
    tags
}

/// Whether a tag is there.
pub(crate) fn has(tags: &[String], wanted: &str) -> bool {
    tags.iter().any(|tag| tag == wanted)
}

/// Whose a device is; `None` where its tags do not say all of it, or say two things.
pub(crate) fn whose(tags: &[String]) -> Option<Tags> {
    Some(Tags {
        hub: one(tags, HUB)?.parse().ok()?,
        deployment: one(tags, DEPLOYMENT)?.parse().ok()?,
        attempt: one(tags, ATTEMPT)?.parse().ok()?,
    })
}

/// What the hub calls a device: by its tag, else by the first part of its host name.
pub(crate) fn key(tags: &[String], hostname: &str) -> Option<InstanceKey> {
    let tagged = one(tags, KEY).and_then(|key| key.parse().ok());
    tagged.or_else(|| hostname.split('.').next()?.parse().ok())
}

/// When a device was ordered.
pub(crate) fn ordered_at(tags: &[String]) -> Option<Timestamp> {
    let seconds: u64 = one(tags, AT)?.parse().ok()?;
    Some(Timestamp::from_millis(seconds.saturating_mul(1000)))
}

fn one<'a>(tags: &'a [String], prefix: &str) -> Option<&'a str> {
    // No prefix here is the beginning of another.
    let mut found = tags.iter().filter_map(|tag| tag.strip_prefix(prefix));
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Secret;
    use blueprint_hub_provision_core::resource::Arch;

    use super::*;

    #[test]
    fn tags_say_whose_a_device_is_and_since_when() {
        let spec = InstanceSpec {
            key: "bp-aaaaaaaaaaaaaaaa-1".parse().unwrap(),
            tags: Some(Tags {
                hub: "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap(),
                deployment: "aaaaaaaaaaaaaaaa".parse().unwrap(),
                attempt: 3,
            }),
            plan: "bm-525".to_owned(),
            region: "NYC1".to_owned(),
            spot: false,
            disk_gb: 0,
            arch: Arch::X86_64,
            ttl: None,
            user_data: Secret::new(String::new()),
        };
        let now = Timestamp::from_millis(1_795_219_200_000);
        let tags = of(&spec, true, now);
        assert_eq!((whose(&tags), ordered_at(&tags)), (spec.tags.clone(), Some(now)));
        assert_eq!(key(&tags, "renamed"), Some(spec.key.clone()));
        assert!(has(&tags, NODE) && has(&tags, VPS) && !has(&of(&spec, false, now), VPS));
        assert_eq!(key(&[], "web-1.example.org"), "web-1".parse().ok());
        let two = [tags, vec!["bp-att-4".to_owned()]].concat();
        assert_eq!(whose(&two), None);
    }
}
