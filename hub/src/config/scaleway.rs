//! Section `providers.scaleway`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.scaleway.enabled",
    "false",
    "Offer the Instances of Scaleway. Its key comes from `blueprint-hub provider configure scaleway`, the file scaleway.credentials \
     (mode 0600, `secret_key = ...`, `project_id = ...`) in the state folder, or the environment (SCW_SECRET_KEY, \
     SCW_DEFAULT_PROJECT_ID). Prices are in euro: set provision.usd_per_eur.",
);
pub(super) const ZONES: Key = Key::unset(
    "providers.scaleway.zones",
    "Zones that machines are ordered in, such as fr-par-1,nl-ams-1; SCW_DEFAULT_ZONE where not set, else every one. Those that \
     stand are looked for everywhere.",
);
pub(super) const IMAGE: Key = Key::new(
    "providers.scaleway.image",
    "debian_trixie",
    "Image of machines: its label, or the id of one of the zone. It has to have cloud-init and boot from a block volume.",
);
pub(super) const ENDPOINT: Key = Key::unset(
    "providers.scaleway.endpoint",
    "URL that all calls go to in place of Scaleway; for stand-ins. http only to addresses of this machine.",
);

#[cfg(feature = "provider-scaleway")]
pub(crate) use with::ScalewaySettings;
#[cfg(not(feature = "provider-scaleway"))]
pub(crate) use without::ScalewaySettings;

#[cfg(feature = "provider-scaleway")]
mod with {
    use blueprint_hub_provision_core::catalogue::{facts, region_matches};

    use super::*;
    use crate::config::prices::is_endpoint;

    /// How Scaleway is used.
    #[derive(Debug, Clone)]
    pub(crate) struct ScalewaySettings {
        /// Every one where empty.
        pub(crate) zones: Vec<String>,
        pub(crate) image: String,
        pub(crate) endpoint: Option<String>,
    }

    impl ScalewaySettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            Self::take_with(settings, problems, |name| std::env::var(name).ok())
        }

        /// The same with other variables than those of the process.
        pub(in crate::config) fn take_with(
            settings: &Settings,
            problems: &mut Problems,
            variable: impl Fn(&str) -> Option<String>,
        ) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let image = settings.take::<String>(IMAGE.path, problems);
            let zones = settings.take_optional::<String>(ZONES.path, problems).unwrap_or_default();
            let endpoint = settings.take_optional::<String>(ENDPOINT.path, problems);
            let (enabled, image) = (enabled?, image?);
            let (zones, from) = match zones.trim() {
                // It is another tool's where machines are not offered.
                "" if enabled => (variable("SCW_DEFAULT_ZONE").unwrap_or_default(), "SCW_DEFAULT_ZONE has "),
                _ => (zones, ""),
            };
            let mut known = Vec::new();
            for zone in zones.split(',').map(str::trim).filter(|zone| !zone.is_empty()) {
                let Some(zone) = zone_of(zone) else {
                    let why = format!("{from}one that is no zone: such as fr-par-1,nl-ams-1 was expected");
                    settings.refuse(ZONES.path, &why, problems);
                    return None;
                };
                if !known.contains(&zone) {
                    known.push(zone);
                }
            }
            let is_of_label = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            if image.is_empty() || !image.bytes().all(is_of_label) {
                settings.refuse(IMAGE.path, "is no label: such as debian_trixie was expected", problems);
                return None;
            }
            if endpoint.as_deref().is_some_and(|text| !is_endpoint(text)) {
                let why = "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
                settings.refuse(ENDPOINT.path, why, problems);
                return None;
            }
            Some(enabled.then_some(Self { zones: known, image, endpoint }))
        }
    }

    /// The zone that a word means: `fr-par-1`, also one that is newer than this program, or the older name `par1`.
    fn zone_of(word: &str) -> Option<String> {
        let mut parts = word.split('-');
        let is_word = |part: Option<&str>, length: usize| {
            part.is_some_and(|part| {
                part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase())
            })
        };
        let is_zone = is_word(parts.next(), 2)
            && is_word(parts.next(), 3)
            && parts
                .next()
                .is_some_and(|part| part.len() == 1 && part.bytes().all(|byte| byte.is_ascii_digit()))
            && parts.next().is_none();
        if is_zone {
            return Some(word.to_owned());
        }
        let mut found = facts("scaleway")?.regions().filter(|own| region_matches("scaleway", own, word));
        let first = found.next()?;
        // A word for several of them, such as a country, names none.
        found.next().is_none().then(|| first.to_owned())
    }
}

#[cfg(not(feature = "provider-scaleway"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum ScalewaySettings {}

    impl ScalewaySettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-scaleway; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
