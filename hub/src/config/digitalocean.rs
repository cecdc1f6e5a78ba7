//! Section `providers.digitalocean`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.digitalocean.enabled",
    "false",
    "Offer the droplets of DigitalOcean. Its token comes from `blueprint-hub provider configure digitalocean`, the file \
     digitalocean.credentials (mode 0600, `token = ...`) in the state folder, or the environment (DIGITALOCEAN_TOKEN, \
     DIGITALOCEAN_ACCESS_TOKEN, DO_API_TOKEN, DO_TOKEN).",
);
pub(super) const REGIONS: Key = Key::unset(
    "providers.digitalocean.regions",
    "Regions that droplets are ordered in, such as fra1,nyc3; DO_REGION or DO_DEFAULT_REGION where not set, else every one. Those \
     that stand are looked for everywhere.",
);
pub(super) const IMAGE: Key = Key::new(
    "providers.digitalocean.image",
    "debian-13-x64",
    "Image of droplets: its slug, or the number of one of the account. It has to have cloud-init.",
);
pub(super) const ENDPOINT: Key = Key::unset(
    "providers.digitalocean.endpoint",
    "URL that all calls go to in place of DigitalOcean; for stand-ins. http only to addresses of this machine.",
);

#[cfg(feature = "provider-digitalocean")]
pub(crate) use with::DigitalOceanSettings;
#[cfg(not(feature = "provider-digitalocean"))]
pub(crate) use without::DigitalOceanSettings;

#[cfg(feature = "provider-digitalocean")]
mod with {
    use super::*;
    use crate::config::prices::is_endpoint;

    /// How DigitalOcean is used.
    #[derive(Debug, Clone)]
    pub(crate) struct DigitalOceanSettings {
        /// Every one where empty.
        pub(crate) regions: Vec<String>,
        pub(crate) image: String,
        pub(crate) endpoint: Option<String>,
    }

    impl DigitalOceanSettings {
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
            let regions = settings.take_optional::<String>(REGIONS.path, problems).unwrap_or_default();
            let endpoint = settings.take_optional::<String>(ENDPOINT.path, problems);
            let (enabled, image) = (enabled?, image?);
            let (regions, variable) = match regions.trim() {
                // They are another tool's where droplets are not offered.
                "" if enabled => from_environment(variable),
                _ => (regions, ""),
            };
            let mut known = Vec::new();
            for region in regions.split(',').map(str::trim).filter(|region| !region.is_empty()) {
                if !region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
                    let why = match variable {
                        "" => "has one that is no region: such as fra1,nyc3 was expected".to_owned(),
                        name => format!(
                            "is not set, and {name} has one that is no region: such as fra1 was expected; set the key, or correct {name}"
                        ),
                    };
                    settings.refuse(REGIONS.path, &why, problems);
                    return None;
                }
                if !known.iter().any(|own| own == region) {
                    known.push(region.to_owned());
                }
            }
            let is_of_slug = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if image.is_empty() || !image.bytes().all(is_of_slug) {
                settings.refuse(IMAGE.path, "is no slug: such as debian-13-x64 was expected", problems);
                return None;
            }
            if endpoint.as_deref().is_some_and(|text| !is_endpoint(text)) {
                let why = "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
                settings.refuse(ENDPOINT.path, why, problems);
                return None;
            }
            Some(enabled.then_some(Self { regions: known, image, endpoint }))
        }
    }

    /// The region that other tools would take, and the variable that names it.
    fn from_environment(variable: impl Fn(&str) -> Option<String>) -> (String, &'static str) {
        let found = ["DO_REGION", "DO_DEFAULT_REGION"].into_iter().find_map(|name| {
            let value = variable(name).filter(|value| !value.trim().is_empty())?;
            Some((value, name))
        });
        found.unwrap_or_default()
    }
}

#[cfg(not(feature = "provider-digitalocean"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum DigitalOceanSettings {}

    impl DigitalOceanSettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-digitalocean; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
