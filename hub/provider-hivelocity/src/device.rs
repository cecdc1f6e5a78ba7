//! Devices on the wire.

use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::{Deserialize, Serialize};

use crate::api::Call;
use crate::tags;

/// Bare metal or virtual: each has calls of its own for the same things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Metal,
    Vps,
}

impl Line {
    pub(crate) const ALL: [Self; 2] = [Self::Metal, Self::Vps];

    /// Where its devices are.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Metal => "/bare-metal-devices/",
            Self::Vps => "/compute/",
        }
    }

    /// How plans and names of its devices begin.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Metal => "bm",
            Self::Vps => "vps",
        }
    }

    /// A plan or name with its number: `bm-525`.
    pub(crate) fn name_of(self, number: u64) -> String {
        format!("{}-{number}", self.word())
    }

    /// What such a text says; `None` for any other.
    pub(crate) fn parse(text: &str) -> Option<(Self, u64)> {
        let (word, number) = text.split_once('-')?;
        let line = Self::ALL.into_iter().find(|line| line.word() == word)?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        Some((line, number.parse().ok().filter(|_| is_number)?))
    }
}

/// A device as the API shows it, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Device {
    pub(crate) device_id: u64,
    #[serde(default)]
    pub(crate) hostname: Option<String>,
    #[serde(default)]
    pub(crate) tags: Option<Vec<String>>,
    /// Not there until it is delivered.
    #[serde(default)]
    pub(crate) primary_ip: Option<String>,
    /// `ON` or `OFF`.
    #[serde(default)]
    pub(crate) power_status: Option<String>,
}

/// What is ordered. `script` goes as it is: the API takes it plain, and cloud-init where it begins with `#cloud-config`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order<'a> {
    pub(crate) product_id: u64,
    pub(crate) location_name: &'a str,
    pub(crate) os_name: &'a str,
    /// A host name with a domain.
    pub(crate) hostname: &'a str,
    pub(crate) period: &'static str,
    pub(crate) tags: Vec<String>,
    pub(crate) script: &'a str,
}

impl Device {
    pub(crate) fn tags(&self) -> &[String] {
        self.tags.as_deref().unwrap_or_default()
    }

    /// True for one that a hub made and nobody took from it. A device that both lists show is one of the line that its
    /// tags say.
    pub(crate) fn is_node(&self, line: Line) -> bool {
        tags::has(self.tags(), tags::NODE) && tags::has(self.tags(), tags::VPS) == (line == Line::Vps)
    }

    /// As the hub sees it.
    ///
    /// # Errors
    ///
    /// Where its tags do not say what it is to the hub, or since when it is there: a list has to be whole.
    pub(crate) fn instance(&self, call: Call, line: Line) -> Result<Instance, ProviderError> {
        let wrong = |what: &str| {
            let source = format!("device {}: {what}", self.device_id).into();
            ProviderError::Other { call: call.0, source }
        };
        let hostname = self.hostname.as_deref().unwrap_or_default();
        let key = tags::key(self.tags(), hostname).ok_or_else(|| {
            wrong(
                "its tag bp-key-... is gone and its name is none of a hub; put one back, or take bp-node off",
            )
        })?;
        let created_at = tags::ordered_at(self.tags())
            .ok_or_else(|| wrong("its tag bp-at-... is gone or no time; put it back, or take bp-node off"))?;
        Ok(Instance {
            key,
            provider_id: line.name_of(self.device_id),
            tags: tags::whose(self.tags()),
            state: self.state(),
            created_at,
        })
    }

    pub(crate) fn state(&self) -> InstanceState {
        let is_delivered = self.primary_ip.as_deref().is_some_and(|address| !address.is_empty());
        match self.power_status.as_deref() {
            _ if !is_delivered => InstanceState::Starting,
            Some(status) if status.eq_ignore_ascii_case("off") => InstanceState::Stopped,
            // A status that is not known must not end a machine.
            Some(_) | None => InstanceState::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_line_of_a_device() {
        assert_eq!(Line::parse("bm-525"), Some((Line::Metal, 525)));
        assert_eq!(Line::parse(&Line::Vps.name_of(7)), Some((Line::Vps, 7)));
        for wrong in ["", "525", "bm", "bm-", "bm-+5", "bm-5/x", "hive-small", "bm-99999999999999999999"] {
            assert_eq!(Line::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_device_that_is_not_delivered_is_starting() {
        let device = |ip: &str, power: &str| {
            let text = format!(r#"{{"deviceId": 1, "primaryIp": {ip}, "powerStatus": {power}}}"#);
            serde_json::from_str::<Device>(&text).unwrap().state()
        };
        assert_eq!(device("null", "\"OFF\""), InstanceState::Starting);
        assert_eq!(device("\"198.51.100.7\"", "\"ON\""), InstanceState::Running);
        assert_eq!(device("\"198.51.100.7\"", "\"OFF\""), InstanceState::Stopped);
        assert_eq!(device("\"198.51.100.7\"", "null"), InstanceState::Running);
    }
}
