//! Section `providers.hivelocity`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.hivelocity.enabled",
    "false",
    "Offer the bare metal and the virtual machines of Hivelocity. Its key comes from `blueprint-hub provider configure \
     hivelocity`, the file hivelocity.credentials (mode 0600, `api_key = ...`) in the state folder, or the environment \
     (HIVELOCITY_API_KEY).",
);
pub(super) const FACILITIES: Key = Key::unset(
    "providers.hivelocity.facilities",
    "Facilities that machines are ordered in, such as NYC1,TPA1; every one where not set. Those that stand are looked for everywhere.",
);
pub(super) const SYSTEM: Key = Key::new(
    "providers.hivelocity.system",
    "Ubuntu 24.04",
    "Operating system of machines, by the name that its product options have; ` (VPS)` is added for virtual machines. It has to \
     have cloud-init.",
);
pub(super) const ENDPOINT: Key = Key::unset(
    "providers.hivelocity.endpoint",
    "URL that all calls go to in place of Hivelocity; for stand-ins. http only to addresses of this machine.",
);

#[cfg(feature = "provider-hivelocity")]
pub(crate) use with::HivelocitySettings;
#[cfg(not(feature = "provider-hivelocity"))]
pub(crate) use without::HivelocitySettings;

#[cfg(feature = "provider-hivelocity")]
mod with {
    use blueprint_hub_provision_core::catalogue::{facts, region_matches};

    use super::*;
    use crate::config::prices::is_endpoint;

    /// How Hivelocity is used.
    #[derive(Debug, Clone)]
    pub(crate) struct HivelocitySettings {
        /// Every one where empty.
        pub(crate) facilities: Vec<String>,
        pub(crate) system: String,
        pub(crate) endpoint: Option<String>,
    }

    impl HivelocitySettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let system = settings.take::<String>(SYSTEM.path, problems);
            let named = settings.take_optional::<String>(FACILITIES.path, problems).unwrap_or_default();
            let endpoint = settings.take_optional::<String>(ENDPOINT.path, problems);
            let (enabled, system) = (enabled?, system?);
            let mut facilities = Vec::new();
            for name in named.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let Some(facility) = facility_of(name) else {
                    let why = "has one that is no facility: such as NYC1,TPA1 was expected";
                    settings.refuse(FACILITIES.path, why, problems);
                    return None;
                };
                if !facilities.contains(&facility) {
                    facilities.push(facility);
                }
            }
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b" .-".contains(&byte);
            if system.trim().is_empty() || !system.bytes().all(is_of_name) {
                let why = "is no name of a system: such as Ubuntu 24.04 was expected";
                settings.refuse(SYSTEM.path, why, problems);
                return None;
            }
            if endpoint.as_deref().is_some_and(|text| !is_endpoint(text)) {
                let why = "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
                settings.refuse(ENDPOINT.path, why, problems);
                return None;
            }
            Some(enabled.then_some(Self { facilities, system, endpoint }))
        }
    }

    /// The facility that a word means: a code such as `NYC1`, also one that is not known, or a city such as `new-york`.
    fn facility_of(word: &str) -> Option<String> {
        let is_code = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
        if (3..=8).contains(&word.len()) && word.bytes().all(is_code) {
            return Some(word.to_owned());
        }
        let mut found = facts("hivelocity")?.regions().filter(|own| region_matches("hivelocity", own, word));
        let first = found.next()?;
        // A word for several of them, such as a country, names none.
        found.next().is_none().then(|| first.to_owned())
    }
}

#[cfg(not(feature = "provider-hivelocity"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum HivelocitySettings {}

    impl HivelocitySettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-hivelocity; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
