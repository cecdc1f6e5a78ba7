//! Sections of clouds that want a token, regions and an image: `providers.linode` and `providers.vultr`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

use super::prices::is_endpoint;

pub(super) const LINODE_ENABLED: Key = Key::new(
    "providers.linode.enabled",
    "false",
    "Offer the compute instances of Linode (Akamai). Its token comes from `blueprint-hub provider configure linode`, the file \
     linode.credentials (mode 0600, `token = ...`) in the state folder, or the environment (LINODE_TOKEN, LINODE_API_TOKEN, \
     LINODE_CLI_TOKEN).",
);
pub(super) const LINODE_REGIONS: Key = Key::unset(
    "providers.linode.regions",
    "Regions that instances are ordered in, such as eu-central,us-east; every one where not set. Those that stand are looked \
     for everywhere.",
);
pub(super) const LINODE_IMAGE: Key = Key::new(
    "providers.linode.image",
    "linode/debian13",
    "Image of instances: linode/NAME, or private/NUMBER of the account. It has to have cloud-init.",
);
pub(super) const LINODE_ENDPOINT: Key = Key::unset(
    "providers.linode.endpoint",
    "URL that all calls go to in place of Linode; for stand-ins. http only to addresses of this machine.",
);

pub(super) const VULTR_ENABLED: Key = Key::new(
    "providers.vultr.enabled",
    "false",
    "Offer the cloud instances of Vultr. Its key comes from `blueprint-hub provider configure vultr`, the file vultr.credentials \
     (mode 0600, `api_key = ...`) in the state folder, or the environment (VULTR_API_KEY).",
);
pub(super) const VULTR_REGIONS: Key = Key::unset(
    "providers.vultr.regions",
    "Regions that instances are ordered in, such as fra,ewr; VULTR_DEFAULT_REGION where not set, else every one. Those that stand \
     are looked for everywhere.",
);
pub(super) const VULTR_IMAGE: Key = Key::new(
    "providers.vultr.image",
    "Debian 13 x64",
    "System of instances: the name that Vultr lists it by, also without what stands in brackets, or its number. It has to have \
     cloud-init.",
);
pub(super) const VULTR_BARE_METAL: Key = Key::new(
    "providers.vultr.bare_metal",
    "false",
    "Offer its whole machines (plans vbm-...), too. No firewall of Vultr's stands before those: each closes its own at its first \
     boot.",
);
pub(super) const VULTR_ENDPOINT: Key = Key::unset(
    "providers.vultr.endpoint",
    "URL that all calls go to in place of Vultr; for stand-ins. http only to addresses of this machine.",
);

/// The keys of one such section, and what goes with them.
pub(super) struct Section {
    enabled: Key,
    regions: Key,
    image: Key,
    endpoint: Key,
    /// Whether whole machines are offered, where the cloud has such beside its others.
    bare_metal: Option<Key>,
    /// The feature of the build that has it, and whether this one does.
    feature: (&'static str, bool),
    /// Variables of other tools that name a region; the first that is set counts.
    variables: &'static [&'static str],
    /// A region and an image, for messages.
    examples: (&'static str, &'static str),
}

pub(super) const LINODE: Section = Section {
    enabled: LINODE_ENABLED,
    regions: LINODE_REGIONS,
    image: LINODE_IMAGE,
    endpoint: LINODE_ENDPOINT,
    bare_metal: None,
    feature: ("provider-linode", cfg!(feature = "provider-linode")),
    variables: &[],
    examples: ("eu-central,us-east", "linode/debian13"),
};

pub(super) const VULTR: Section = Section {
    enabled: VULTR_ENABLED,
    regions: VULTR_REGIONS,
    image: VULTR_IMAGE,
    endpoint: VULTR_ENDPOINT,
    bare_metal: Some(VULTR_BARE_METAL),
    feature: ("provider-vultr", cfg!(feature = "provider-vultr")),
    variables: &["VULTR_DEFAULT_REGION"],
    examples: ("fra,ewr", "Debian 13 x64"),
};

/// How such a cloud is used.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(any(feature = "provider-linode", feature = "provider-vultr")),
    expect(dead_code, reason = "a build without such clouds refuses to switch one on")
)]
pub(crate) struct RestCloudSettings {
    /// Every one where empty.
    pub(crate) regions: Vec<String>,
    pub(crate) image: String,
    pub(crate) endpoint: Option<String>,
    /// Whether whole machines are offered.
    #[cfg_attr(
        all(feature = "provider-linode", not(feature = "provider-vultr")),
        expect(dead_code, reason = "of these clouds Vultr alone has whole machines")
    )]
    pub(crate) bare_metal: bool,
}

impl Section {
    /// The inner `None` where it is not switched on.
    pub(super) fn take(
        &self,
        settings: &Settings,
        problems: &mut Problems,
    ) -> Option<Option<RestCloudSettings>> {
        self.take_with(settings, problems, |name| std::env::var(name).ok())
    }

    /// The same with other variables than those of the process.
    pub(super) fn take_with(
        &self,
        settings: &Settings,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Option<RestCloudSettings>> {
        let enabled = settings.take::<bool>(self.enabled.path, problems);
        let image = settings.take::<String>(self.image.path, problems);
        let regions = settings.take_optional::<String>(self.regions.path, problems).unwrap_or_default();
        let endpoint = settings.take_optional::<String>(self.endpoint.path, problems);
        let bare_metal = match &self.bare_metal {
            Some(key) => settings.take::<bool>(key.path, problems),
            None => Some(false),
        };
        let (enabled, image, bare_metal) = (enabled?, image?, bare_metal?);
        let (feature, is_built) = self.feature;
        if enabled && !is_built {
            let why = format!(
                "this program was built without the feature {feature}; build it with that, or set false"
            );
            settings.refuse(self.enabled.path, &why, problems);
            return None;
        }
        let regions = self.regions(&regions, enabled, settings, problems, variable)?;
        let is_of_image = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/ ()".contains(&byte);
        let has_form = image.starts_with(|c: char| c.is_ascii_alphanumeric()) && !image.contains("..");
        if !has_form || !image.bytes().all(is_of_image) {
            let why = format!("is no name of an image: such as {} was expected", self.examples.1);
            settings.refuse(self.image.path, &why, problems);
            return None;
        }
        if endpoint.as_deref().is_some_and(|text| !is_endpoint(text)) {
            let why = "is no URL of a host alone: https://HOST, or http://127.0.0.1:PORT for a stand-in, was expected";
            settings.refuse(self.endpoint.path, why, problems);
            return None;
        }
        Some(enabled.then_some(RestCloudSettings { regions, image, endpoint, bare_metal }))
    }

    /// Those of the key, else that of another tool's variable; none of the latter where the cloud is not offered.
    fn regions(
        &self,
        written: &str,
        enabled: bool,
        settings: &Settings,
        problems: &mut Problems,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Option<Vec<String>> {
        let found = || {
            self.variables.iter().find_map(|name| {
                let value = variable(name).filter(|value| !value.trim().is_empty())?;
                Some((value, *name))
            })
        };
        let (regions, variable) = match written.trim() {
            "" if enabled => found().unwrap_or_default(),
            _ => (written.to_owned(), ""),
        };
        let mut known = Vec::new();
        for region in regions.split(',').map(str::trim).filter(|region| !region.is_empty()) {
            let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !region.bytes().all(is_of_name) {
                let why = match variable {
                    "" => format!("has one that is no region: such as {} was expected", self.examples.0),
                    name => format!(
                        "is not set, and {name} has one that is no region: set the key, or correct {name}"
                    ),
                };
                settings.refuse(self.regions.path, &why, problems);
                return None;
            }
            if !known.iter().any(|own| own == region) {
                known.push(region.to_owned());
            }
        }
        Some(known)
    }
}
