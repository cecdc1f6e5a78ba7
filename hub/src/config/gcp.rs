//! Section `providers.gcp`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.gcp.enabled",
    "false",
    "Offer the machines of Google Compute Engine. Its credentials come from `blueprint-hub provider configure gcp`, the file \
     gcp.credentials (mode 0600: the JSON key of a service account, or `project_id = ...` and `service_account_file = ...`) in the state \
     folder, the environment (GCP_PROJECT_ID or GOOGLE_CLOUD_PROJECT, with GOOGLE_APPLICATION_CREDENTIALS, GCP_SERVICE_ACCOUNT_KEY \
     or GCP_ACCESS_TOKEN), or the service account of the machine that the hub runs on.",
);
pub(super) const REGIONS: Key = Key::unset(
    "providers.gcp.regions",
    "Regions that machines are ordered in, such as us-central1; GCP_DEFAULT_REGION where not set. Those that stand are looked for \
     everywhere.",
);
pub(super) const ENDPOINT: Key = Key::unset(
    "providers.gcp.endpoint",
    "URL that all calls go to in place of Google; for stand-ins. http only to addresses of this machine.",
);
pub(super) const IMAGE: Key = Key::new(
    "providers.gcp.image",
    "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-{arch}",
    "Image of machines: projects/PROJECT/global/images/NAME or .../images/family/NAME, where {arch} becomes amd64 or arm64. It has \
     to run cloud-init, which Google's images of Debian do not.",
);
pub(super) const NETWORK: Key = Key::new(
    "providers.gcp.network",
    "default",
    "Network of the project that machines are put in; nothing gets in to them, whatever other rules it has.",
);
pub(super) const SUBNETWORK: Key = Key::unset(
    "providers.gcp.subnetwork",
    "Subnetwork of it, of this name in each region; a network in custom mode needs one.",
);
pub(super) const PUBLIC_IP: Key = Key::new(
    "providers.gcp.public_ip",
    "true",
    "Give machines a public IPv4 address to get out by; nothing gets in. Without it their network needs Cloud NAT.",
);
pub(super) const SPOT: Key = Key::new(
    "providers.gcp.spot",
    "false",
    "Offer Spot machines, at the prices of the built-in list: Google tells theirs to nobody by the API that orders them.",
);
pub(super) const SERVICE_ACCOUNT: Key = Key::unset(
    "providers.gcp.service_account",
    "Address of the service account that machines run as, such as nodes@PROJECT.iam.gserviceaccount.com; none where not set, so \
     that nothing on a machine can call Google. Give it no roles.",
);

#[cfg(feature = "provider-gcp")]
pub(crate) use with::GcpSettings;
#[cfg(not(feature = "provider-gcp"))]
pub(crate) use without::GcpSettings;

#[cfg(feature = "provider-gcp")]
mod with {
    use std::fmt::Display;
    use std::str::FromStr;

    use blueprint_hub_provider_gcp::{GcpConfig, ImageChoice, Region, ResourceName};

    use super::*;
    use crate::config::prices::is_endpoint;

    /// How Compute Engine is used.
    #[derive(Debug, Clone)]
    pub(crate) struct GcpSettings {
        pub(crate) config: GcpConfig,
    }

    impl GcpSettings {
        /// The service account that machines run as.
        pub(crate) fn service_account(&self) -> Option<&str> {
            self.config.service_account.as_ref().map(|account| account.as_str())
        }

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
            let image = settings.take::<ImageChoice>(IMAGE.path, problems);
            let network = settings.take::<ResourceName>(NETWORK.path, problems);
            let public_ip = settings.take::<bool>(PUBLIC_IP.path, problems);
            let spot = settings.take::<bool>(SPOT.path, problems);
            let endpoint = settings.take_optional::<String>(ENDPOINT.path, problems);
            let subnetwork = optional(settings, SUBNETWORK.path, problems);
            let service_account = optional(settings, SERVICE_ACCOUNT.path, problems);
            let regions = regions(settings, enabled == Some(true), problems, variable);
            if let Some(text) = endpoint.as_deref()
                && !is_endpoint(text)
            {
                let why = "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
                settings.refuse(ENDPOINT.path, why, problems);
                return None;
            }
            let config = GcpConfig {
                endpoint,
                image: image?,
                network: network?,
                subnetwork: subnetwork?,
                public_ip: public_ip?,
                spot: spot?,
                service_account: service_account?,
                ..GcpConfig::new(regions?)
            };
            Some(enabled?.then_some(Self { config }))
        }
    }

    /// The regions that are named, each once; where none is, that of another tool's variable.
    fn regions(
        settings: &Settings,
        is_on: bool,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Vec<Region>> {
        const VARIABLE: &str = "GCP_DEFAULT_REGION";
        let own = settings.take_optional::<String>(REGIONS.path, problems).unwrap_or_default();
        // It is another tool's where machines are not offered.
        let (text, is_own) = match own.trim() {
            "" if is_on => (variable(VARIABLE).unwrap_or_default(), false),
            _ => (own, true),
        };
        let mut regions = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.parse::<Region>() {
                Ok(region) if regions.contains(&region) => {}
                Ok(region) => regions.push(region),
                Err(error) => {
                    let why = if is_own {
                        error.to_string()
                    } else {
                        format!("is not set, and of {VARIABLE} {error}; set the key, or correct {VARIABLE}")
                    };
                    settings.refuse(REGIONS.path, &why, problems);
                    return None;
                }
            }
        }
        if regions.is_empty() && is_on {
            let why = format!("is not set, and neither is {VARIABLE}: name a region such as us-central1");
            settings.refuse(REGIONS.path, &why, problems);
            return None;
        }
        Some(regions)
    }

    /// A value that may be left out; the outer `None` where it is wrong.
    fn optional<T>(settings: &Settings, path: &'static str, problems: &mut Problems) -> Option<Option<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Some(text) = settings.take_optional::<String>(path, problems) else { return Some(None) };
        match text.parse() {
            Ok(value) => Some(Some(value)),
            Err(error) => {
                settings.refuse(path, &error.to_string(), problems);
                None
            }
        }
    }
}

#[cfg(not(feature = "provider-gcp"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum GcpSettings {}

    impl GcpSettings {
        pub(crate) const fn service_account(&self) -> Option<&str> {
            match *self {}
        }

        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-gcp; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
