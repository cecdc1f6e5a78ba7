//! Section `providers.aws`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.aws.enabled",
    "false",
    "Offer the machines of Amazon EC2. Its keys come from `blueprint-hub provider configure aws`, the file aws.credentials (mode \
     0600, `access_key_id = ...`, `secret_access_key = ...`) in the state folder, the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, \
     AWS_SESSION_TOKEN), the file ~/.aws/credentials, or the role of the machine that the hub runs on.",
);
pub(super) const REGIONS: Key = Key::unset(
    "providers.aws.regions",
    "Regions of EC2 that machines are ordered in and looked for, such as eu-central-1,us-east-1; AWS_REGION or \
     AWS_DEFAULT_REGION where not set. None is taken out while machines stand there.",
);
pub(super) const ENDPOINT: Key =
    Key::unset("providers.aws.endpoint", "URL that all calls go to in place of AWS; for stand-ins.");
pub(super) const IMAGE: Key = Key::new(
    "providers.aws.image",
    "/aws/service/debian/release/13/latest/{arch}",
    "Image of machines: a parameter of SSM that holds its id, where {arch} becomes amd64 or arm64, or ami-... of one region. It \
     has to have cloud-init.",
);
pub(super) const SUBNETS: Key = Key::unset(
    "providers.aws.subnets",
    "Subnets that machines are put in, such as subnet-0a1b,subnet-0c2d, at least one in each region; those of the default \
     network where not set.",
);
pub(super) const PUBLIC_IP: Key = Key::new(
    "providers.aws.public_ip",
    "true",
    "Give machines a public IPv4 address to get out by; nothing gets in. Without it their subnets need a gateway of their own.",
);
pub(super) const SPOT: Key = Key::new(
    "providers.aws.spot",
    "false",
    "Offer spot machines, whose prices AWS is asked for at each order, which takes some seconds.",
);
pub(super) const PROFILE: Key = Key::unset(
    "providers.aws.profile",
    "The profile of AWS's own file that keys come from, and from nowhere else, unless keys are sealed in the store.",
);
pub(super) const ROLE: Key = Key::unset(
    "providers.aws.role",
    "ARN of a role that the hub takes on with its keys, also in another account; a role that comes with the keys goes first.",
);
pub(super) const EXTERNAL_ID: Key =
    Key::unset("providers.aws.external_id", "External id that the owner of that role asks for.");

#[cfg(feature = "provider-aws")]
pub(crate) use with::AwsSettings;
#[cfg(not(feature = "provider-aws"))]
pub(crate) use without::AwsSettings;

#[cfg(feature = "provider-aws")]
mod with {
    use std::fmt::Display;
    use std::str::FromStr;

    use blueprint_hub_provider_aws::{AwsConfig, ImageChoice};

    use super::*;

    /// How EC2 is used, and with whose keys.
    #[derive(Debug, Clone)]
    pub(crate) struct AwsSettings {
        pub(crate) config: AwsConfig,
        pub(crate) profile: Option<String>,
        pub(crate) role: Option<String>,
        pub(crate) external_id: Option<String>,
    }

    impl AwsSettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let image = settings.take::<ImageChoice>(IMAGE.path, problems);
            let public_ip = settings.take::<bool>(PUBLIC_IP.path, problems);
            let spot = settings.take::<bool>(SPOT.path, problems);
            let endpoint = settings.take_optional::<String>(ENDPOINT.path, problems);
            let subnets = list(settings, SUBNETS.path, problems);
            let regions = list(settings, REGIONS.path, problems);
            if !enabled? {
                return Some(None);
            }
            let regions = regions?;
            let regions = if regions.is_empty() { from_environment().into_iter().collect() } else { regions };
            if regions.is_empty() {
                let why = "is not set, and neither are AWS_REGION and AWS_DEFAULT_REGION: name a region such as eu-central-1";
                settings.refuse(REGIONS.path, why, problems);
                return None;
            }
            let config = AwsConfig {
                endpoint,
                image: image?,
                subnets: subnets?,
                public_ip: public_ip?,
                spot: spot?,
                ..AwsConfig::new(regions)
            };
            let role = settings.take_optional::<String>(ROLE.path, problems);
            if role.as_ref().is_some_and(|role| !role.starts_with("arn:")) {
                settings.refuse(
                    ROLE.path,
                    "is no ARN: arn:aws:iam::ACCOUNT:role/NAME was expected",
                    problems,
                );
                return None;
            }
            Some(Some(Self {
                config,
                profile: settings.take_optional(PROFILE.path, problems),
                role,
                external_id: settings.take_optional(EXTERNAL_ID.path, problems),
            }))
        }
    }

    /// The values of a list, each once; none where the key is not set.
    fn list<T>(settings: &Settings, path: &'static str, problems: &mut Problems) -> Option<Vec<T>>
    where
        T: FromStr + PartialEq,
        T::Err: Display,
    {
        let text = settings.take_optional::<String>(path, problems).unwrap_or_default();
        let mut values = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word.parse::<T>() {
                Ok(value) if !values.contains(&value) => values.push(value),
                Ok(_) => {}
                Err(error) => {
                    settings.refuse(path, &error.to_string(), problems);
                    return None;
                }
            }
        }
        Some(values)
    }

    /// The region that AWS's own tools would take.
    fn from_environment<T: FromStr>() -> Option<T> {
        ["AWS_REGION", "AWS_DEFAULT_REGION"]
            .into_iter()
            .find_map(|name| std::env::var(name).ok()?.parse().ok())
    }
}

#[cfg(not(feature = "provider-aws"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum AwsSettings {}

    impl AwsSettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-aws; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
