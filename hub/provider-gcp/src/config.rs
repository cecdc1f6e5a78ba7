//! What a person says of the project: its regions, network and image.

use std::fmt;
use std::str::FromStr;

use blueprint_hub_provision_core::resource::Arch;

/// Ubuntu 24.04, whose images run cloud-init; `{arch}` becomes `amd64` or `arm64`. Those of Debian do not run it there (from
/// general knowledge, not tried).
const UBUNTU: &str = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-{arch}";

/// How Compute Engine is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcpConfig {
    /// Regions that machines are ordered in, at least one. Those that stand are looked for everywhere.
    pub regions: Vec<Region>,
    /// A URL that all calls go to in place of Google, without a slash at its end; for stand-ins.
    pub endpoint: Option<String>,
    /// Where the image of machines comes from.
    pub image: ImageChoice,
    /// The network of the project that machines are put in.
    pub network: ResourceName,
    /// The subnetwork of it, which has to bear this name in each region; Google's choice where there is none, which takes a
    /// network in auto mode.
    pub subnetwork: Option<ResourceName>,
    /// Whether machines get a public IPv4 address: without one their network needs another way out.
    pub public_ip: bool,
    /// Whether Spot machines are offered.
    pub spot: bool,
    /// The service account that machines run as; none where there is none.
    pub service_account: Option<ServiceAccount>,
    /// Machines a page of a list, from 1 to 500.
    pub page: u32,
}

impl GcpConfig {
    /// These regions, with Ubuntu in the network `default`, public addresses, no Spot machines and no service account.
    #[must_use]
    pub fn new(regions: Vec<Region>) -> Self {
        Self {
            regions,
            endpoint: None,
            image: ImageChoice::default(),
            network: ResourceName("default".to_owned()),
            subnetwork: None,
            public_ip: true,
            spot: false,
            service_account: None,
            page: 500,
        }
    }
}

/// A text of the configuration is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what} was expected")]
pub struct ParseGcpError {
    text: String,
    what: &'static str,
}

fn wrong(text: &str, what: &'static str) -> ParseGcpError {
    ParseGcpError { text: text.chars().take(64).collect(), what }
}

/// A region of Google Cloud, such as `europe-west1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region(String);

impl Region {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `zone` is one of it: its name, a dash and letters, such as `europe-west1-b`.
    #[must_use]
    pub fn has_zone(&self, zone: &str) -> bool {
        let letters = zone.strip_prefix(&self.0).and_then(|rest| rest.strip_prefix('-'));
        letters.is_some_and(|letters| !letters.is_empty() && is_zone(zone))
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Region {
    type Err = ParseGcpError;

    fn from_str(text: &str) -> Result<Self, ParseGcpError> {
        let is_region = text.split_once('-').is_some_and(|(area, place)| {
            let digits = place.trim_start_matches(|c: char| c.is_ascii_lowercase());
            let is_area = !area.is_empty() && area.bytes().all(|byte| byte.is_ascii_lowercase());
            let is_number =
                (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_area && is_number && digits.len() < place.len()
        });
        if is_region && text.len() <= 40 {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong(text, "region: one such as europe-west1"))
        }
    }
}

/// Whether a text is the name of a zone, as far as its letters go: it becomes a part of a path.
pub(crate) fn is_zone(text: &str) -> bool {
    (1..=60).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The name of a network or subnetwork, such as `default` (RFC 1035: 1 to 63 of a-z, 0-9 and `-`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceName(String);

impl ResourceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = ParseGcpError;

    fn from_str(text: &str) -> Result<Self, ParseGcpError> {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(is_inner)
            && !text.ends_with('-');
        if is_name {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong(
                text,
                "name of a network: 1 to 63 of a-z, 0-9 and '-' that begin with a letter, such as default,",
            ))
        }
    }
}

/// A service account by its address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceAccount(String);

impl ServiceAccount {
    /// Its address.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceAccount {
    type Err = ParseGcpError;

    fn from_str(text: &str) -> Result<Self, ParseGcpError> {
        let is_of = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_address = text.split_once('@').is_some_and(|(name, host)| {
            !name.is_empty()
                && name.bytes().all(is_of)
                && host.ends_with(".gserviceaccount.com")
                && host.bytes().all(is_of)
        });
        if is_address && text.len() <= 200 {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong(text, "service account: one such as nodes@PROJECT.iam.gserviceaccount.com"))
        }
    }
}

/// The image of machines: one image or the newest of a family, public or of the project's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChoice(String);

impl Default for ImageChoice {
    fn default() -> Self {
        Self(UBUNTU.to_owned())
    }
}

impl ImageChoice {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The image for this kind of processor.
    pub(crate) fn of(&self, arch: Arch) -> String {
        let name = match arch {
            Arch::X86_64 => "amd64",
            Arch::Arm64 => "arm64",
        };
        self.0.replace("{arch}", name)
    }
}

impl FromStr for ImageChoice {
    type Err = ParseGcpError;

    fn from_str(text: &str) -> Result<Self, ParseGcpError> {
        let plain = text.replace("{arch}", "");
        let is_of = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"/._:-".contains(&byte);
        let place = text.strip_prefix("projects/").and_then(|rest| rest.split_once("/global/images/"));
        let is_image = text.len() <= 300
            && plain.bytes().all(is_of)
            && !text.contains("..")
            && place.is_some_and(|(project, image)| {
                let name = image.strip_prefix("family/").unwrap_or(image);
                !project.is_empty() && !project.contains('/') && !name.is_empty() && !name.contains('/')
            });
        if is_image {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong(
                text,
                "image: projects/PROJECT/global/images/NAME, or .../images/family/NAME for the newest of a family,",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_names_and_images_are_what_google_calls_so() {
        for right in ["us-central1", "europe-west12", "northamerica-northeast1", "me-central2"] {
            assert_eq!(right.parse::<Region>().unwrap().as_str(), right);
        }
        for wrong in
            ["", "us-central1-a", "us-central", "US-central1", "us_central1", "1-1", "us-1", "us-central1/x"]
        {
            assert!(wrong.parse::<Region>().is_err(), "{wrong}");
        }
        let region: Region = "us-central1".parse().unwrap();
        assert!(region.has_zone("us-central1-a") && region.has_zone("us-central1-ai1a"));
        for wrong in ["us-central1", "us-central1-", "us-central12-a", "us-central1-A", "us-central1-a/.."] {
            assert!(!region.has_zone(wrong), "{wrong}");
        }
        for right in ["default", "a", "my-net-1"] {
            assert!(right.parse::<ResourceName>().is_ok(), "{right}");
        }
        for wrong in ["", "Default", "a-", "1a", "a/b", &"a".repeat(64)] {
            assert!(wrong.parse::<ResourceName>().is_err(), "{wrong}");
        }
        assert!("nodes@my-project.iam.gserviceaccount.com".parse::<ServiceAccount>().is_ok());
        for wrong in ["default", "a@b.c", "a b@x.gserviceaccount.com", "@x.gserviceaccount.com"] {
            assert!(wrong.parse::<ServiceAccount>().is_err(), "{wrong}");
        }
        for right in
            [UBUNTU, "projects/me/global/images/node-7", "projects/example.com:p/global/images/family/node"]
        {
            assert!(right.parse::<ImageChoice>().is_ok(), "{right}");
        }
        for wrong in [
            "",
            "ubuntu",
            "projects//global/images/x",
            "projects/p/global/images/",
            "projects/p/global/images/a/b",
        ] {
            assert!(wrong.parse::<ImageChoice>().is_err(), "{wrong}");
        }
        assert!(ImageChoice::default().of(Arch::Arm64).ends_with("lts-arm64"));
    }
}
