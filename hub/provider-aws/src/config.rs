//! What a person says of the account: its regions, network and image.

use std::fmt;
use std::str::FromStr;

use blueprint_hub_provision_core::resource::Arch;

/// Debian 13, which AWS keeps the parameter of; `{arch}` becomes `amd64` or `arm64`.
const DEBIAN: &str = "/aws/service/debian/release/13/latest/{arch}";

/// How EC2 is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsConfig {
    /// Regions that machines are ordered in and looked for, at least one.
    pub regions: Vec<Region>,
    /// A URL that all calls go to in place of AWS; for stand-ins.
    pub endpoint: Option<String>,
    /// Where the image of machines comes from.
    pub image: ImageChoice,
    /// Subnets that machines may be put in; those of the default network of each region where there are none.
    pub subnets: Vec<SubnetId>,
    /// Whether machines get a public IPv4 address: without one their subnet needs another way out.
    pub public_ip: bool,
    /// Whether spot machines are offered; their prices are asked for at each order.
    pub spot: bool,
    /// Machines a page of a list, from 5 to 1000.
    pub page: u32,
}

impl AwsConfig {
    /// These regions, with Debian 13 in their default networks, public addresses, and no spot machines.
    #[must_use]
    pub fn new(regions: Vec<Region>) -> Self {
        Self {
            regions,
            endpoint: None,
            image: ImageChoice::default(),
            subnets: Vec::new(),
            public_ip: true,
            spot: false,
            page: 1000,
        }
    }
}

/// A text of the configuration is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what} was expected")]
pub struct ParseAwsError {
    text: String,
    what: &'static str,
}

fn wrong(text: &str, what: &'static str) -> ParseAwsError {
    ParseAwsError { text: text.chars().take(64).collect(), what }
}

/// A region of AWS, such as `eu-central-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region(String);

impl Region {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Region {
    type Err = ParseAwsError;

    fn from_str(text: &str) -> Result<Self, ParseAwsError> {
        let parts: Vec<_> = text.split('-').collect();
        let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_region = text.len() <= 32
            && parts.len() >= 3
            && parts.split_last().is_some_and(|(last, words)| is_number(last) && words.iter().all(is_word));
        if is_region {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong(text, "region: one such as eu-central-1"))
        }
    }
}

/// The id of a subnet, such as `subnet-0a1b2c3d`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubnetId(String);

impl SubnetId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SubnetId {
    type Err = ParseAwsError;

    fn from_str(text: &str) -> Result<Self, ParseAwsError> {
        if is_numbered(text, "subnet-") {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong(text, "subnet: one such as subnet-0a1b2c3d"))
        }
    }
}

/// Where the image of a machine comes from: a public or own parameter of SSM that holds the id of one, or one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageChoice(String);

impl Default for ImageChoice {
    fn default() -> Self {
        Self(DEBIAN.to_owned())
    }
}

impl ImageChoice {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parameter that holds the image for this kind of processor, or `None` where it is one image for all.
    pub(crate) fn parameter(&self, arch: Arch) -> Option<String> {
        let name = match arch {
            Arch::X86_64 => "amd64",
            Arch::Arm64 => "arm64",
        };
        self.0.starts_with('/').then(|| self.0.replace("{arch}", name))
    }
}

impl FromStr for ImageChoice {
    type Err = ParseAwsError;

    fn from_str(text: &str) -> Result<Self, ParseAwsError> {
        let plain = text.replace("{arch}", "");
        let is_path = text.starts_with('/')
            && text.len() <= 500
            && plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
        if is_path || is_numbered(text, "ami-") {
            return Ok(Self(text.to_owned()));
        }
        Err(wrong(
            text,
            "image: an SSM parameter such as /aws/service/debian/release/13/latest/{arch}, or ami-... of one region,",
        ))
    }
}

/// Whether a text is this prefix and hexadecimal digits.
pub(crate) fn is_numbered(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|rest| {
        (1..=40).contains(&rest.len()) && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_subnets_and_images_are_what_aws_calls_so() {
        for right in ["us-east-1", "eu-central-1", "us-gov-west-1", "ap-southeast-12"] {
            assert_eq!(right.parse::<Region>().unwrap().as_str(), right);
        }
        for wrong in
            ["", "us-east", "us-east-1a", "us--1", "US-EAST-1", "us-east-1.evil.example", "a/b-c-1", "-a-1"]
        {
            assert!(wrong.parse::<Region>().is_err(), "{wrong}");
        }
        assert!("subnet-0a1b".parse::<SubnetId>().is_ok());
        assert!("subnet-".parse::<SubnetId>().is_err() && "subnet-0A".parse::<SubnetId>().is_err());
        let own: ImageChoice = "/own/{arch}/x".parse().unwrap();
        assert_eq!(own.parameter(Arch::Arm64).as_deref(), Some("/own/arm64/x"));
        assert_eq!(
            ImageChoice::default().parameter(Arch::X86_64).as_deref(),
            Some("/aws/service/debian/release/13/latest/amd64")
        );
        assert_eq!("ami-0a".parse::<ImageChoice>().unwrap().parameter(Arch::X86_64), None);
        for wrong in ["", "debian", "/a b", "/a/{version}", "ami-xyz"] {
            assert!(wrong.parse::<ImageChoice>().is_err(), "{wrong}");
        }
        let error = "nowhere".parse::<Region>().unwrap_err().to_string();
        assert_eq!(error, "\"nowhere\" is no region: one such as eu-central-1 was expected");
    }
}
