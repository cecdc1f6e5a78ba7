//! Section `providers.azure`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.azure.enabled",
    "false",
    "Offer the virtual machines of Azure. Its credentials come from `blueprint-hub provider configure azure`, the file \
     azure.credentials (mode 0600, `subscription_id = ...`, `tenant_id = ...`, `client_id = ...`, `client_secret = ...`) in the state \
     folder, or the environment (AZURE_SUBSCRIPTION_ID, AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET, AZURE_ACCESS_TOKEN). With \
     the subscription alone the identity of the machine that the hub runs on signs in.",
);
pub(super) const REGIONS: Key = Key::unset(
    "providers.azure.regions",
    "Regions of Azure that machines are ordered in, such as westeurope,eastus. Those that stand are found in all of them.",
);
pub(super) const GROUP: Key = Key::unset(
    "providers.azure.resource_group",
    "Resource group that everything is made in, of this hub alone; blueprint-hub-ID with the hub's id where not set. Not changed while \
     machines stand.",
);
pub(super) const IMAGE: Key = Key::new(
    "providers.azure.image",
    "Canonical:ubuntu-24_04-lts:server:latest",
    "Image of machines: PUBLISHER:OFFER:SKU:VERSION, or the id of an own one from /subscriptions/ on. It has to have cloud-init, and to \
     be of generation 2.",
);
pub(super) const IMAGE_ARM64: Key = Key::new(
    "providers.azure.image_arm64",
    "Canonical:ubuntu-24_04-lts:server-arm64:latest",
    "The same for machines with arm64 processors.",
);
pub(super) const SPOT: Key = Key::new(
    "providers.azure.spot",
    "false",
    "Offer spot machines, whose prices Azure is asked for at each order, which takes some seconds.",
);
pub(super) const ENDPOINT: Key = Key::unset(
    "providers.azure.endpoint",
    "URL that all calls go to in place of Azure; for stand-ins. http only to addresses of this machine.",
);
pub(super) const LOGIN_ENDPOINT: Key =
    Key::unset("providers.azure.login_endpoint", "The same for the sign-in of applications.");

#[cfg(feature = "provider-azure")]
pub(crate) use with::AzureSettings;
#[cfg(not(feature = "provider-azure"))]
pub(crate) use without::AzureSettings;

#[cfg(feature = "provider-azure")]
mod with {
    use blueprint_hub_provider_azure::Image;

    use super::*;
    use crate::config::prices::is_endpoint;

    /// How Azure is used.
    #[derive(Debug, Clone)]
    pub(crate) struct AzureSettings {
        pub(crate) regions: Vec<String>,
        pub(crate) group: Option<String>,
        pub(crate) image: Image,
        pub(crate) image_arm64: Image,
        pub(crate) spot: bool,
        pub(crate) endpoint: Option<String>,
        pub(crate) login_endpoint: Option<String>,
    }

    impl AzureSettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let image = settings.take::<Image>(IMAGE.path, problems);
            let image_arm64 = settings.take::<Image>(IMAGE_ARM64.path, problems);
            let spot = settings.take::<bool>(SPOT.path, problems);
            let regions = regions(settings, problems);
            let group = group(settings, problems);
            let endpoint = url(settings, &ENDPOINT, problems);
            let login_endpoint = url(settings, &LOGIN_ENDPOINT, problems);
            if !enabled? {
                return Some(None);
            }
            let regions = regions?;
            if regions.is_empty() {
                let why = "is not set: name regions such as westeurope,eastus";
                settings.refuse(REGIONS.path, why, problems);
                return None;
            }
            Some(Some(Self {
                regions,
                group: group?,
                image: image?,
                image_arm64: image_arm64?,
                spot: spot?,
                endpoint: endpoint?,
                login_endpoint: login_endpoint?,
            }))
        }
    }

    fn regions(settings: &Settings, problems: &mut Problems) -> Option<Vec<String>> {
        let text = settings.take_optional::<String>(REGIONS.path, problems).unwrap_or_default();
        let mut known: Vec<String> = Vec::new();
        for region in text.split(',').map(str::trim).filter(|region| !region.is_empty()) {
            if !region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
                let why = "has one that is no region: names such as westeurope,eastus were expected";
                settings.refuse(REGIONS.path, why, problems);
                return None;
            }
            if !known.iter().any(|own| own == region) {
                known.push(region.to_owned());
            }
        }
        Some(known)
    }

    /// 90 characters at most, of which the last is no point (Azure's reference of names; parentheses are left out).
    fn group(settings: &Settings, problems: &mut Problems) -> Option<Option<String>> {
        let Some(name) = settings.take_optional::<String>(GROUP.path, problems) else { return Some(None) };
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=90).contains(&name.len()) || !name.bytes().all(is_of_name) || name.ends_with('.') {
            let why =
                "is no name of a resource group: 1 to 90 letters, digits, '-', '_' and '.' were expected";
            settings.refuse(GROUP.path, why, problems);
            return None;
        }
        Some(Some(name))
    }

    fn url(settings: &Settings, key: &Key, problems: &mut Problems) -> Option<Option<String>> {
        let text = settings.take_optional::<String>(key.path, problems);
        if text.as_deref().is_some_and(|text| !is_endpoint(text)) {
            let why = "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
            settings.refuse(key.path, why, problems);
            return None;
        }
        Some(text)
    }
}

#[cfg(not(feature = "provider-azure"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum AzureSettings {}

    impl AzureSettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-azure; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
