//! Servers on the wire.

use std::collections::BTreeMap;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::{Deserialize, Serialize};

use crate::api::{Call, Rows};
use crate::tags;

/// A server as the API shows it, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Server {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) state: String,
    pub(crate) creation_date: String,
    pub(crate) tags: Vec<String>,
    #[serde(default)]
    pub(crate) volumes: BTreeMap<String, Attached>,
}

/// A volume of a server; the map's key is its place.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Attached {
    pub(crate) id: String,
    /// `l_ssd`, `scratch`, `b_ssd` or `sbs_volume`.
    #[serde(default)]
    pub(crate) volume_type: String,
}

/// The answer about one.
#[derive(Debug, Deserialize)]
pub(crate) struct One {
    pub(crate) server: Server,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Many {
    servers: Vec<Server>,
}

impl Rows for Many {
    type Row = Server;

    fn rows(self) -> Vec<Server> {
        self.servers
    }

    fn id(row: &Server) -> String {
        row.id.clone()
    }
}

/// What is ordered.
#[derive(Serialize)]
pub(crate) struct Order<'a> {
    pub(crate) name: &'a str,
    pub(crate) project: &'a str,
    pub(crate) commercial_type: &'a str,
    pub(crate) image: &'a str,
    pub(crate) tags: Vec<String>,
    pub(crate) security_group: &'a str,
    /// An address of the server's own, to get out by; it goes when the server stops.
    pub(crate) dynamic_ip_required: bool,
    pub(crate) volumes: BTreeMap<&'static str, Disk>,
}

/// A disk that is made with a server.
#[derive(Serialize)]
pub(crate) struct Disk {
    pub(crate) volume_type: &'static str,
    /// Bytes.
    pub(crate) size: u64,
}

/// Other tags for a server or a volume, in place of all it has.
#[derive(Serialize)]
pub(crate) struct Retagged {
    pub(crate) tags: Vec<String>,
}

/// What the hub calls a server: zone and id, since a server is asked for in its zone.
pub(crate) fn name_of(zone: &str, id: &str) -> String {
    format!("{zone}/{id}")
}

/// Zone and id out of such a name.
///
/// # Errors
///
/// Where it is none.
pub(crate) fn parse_name(name: &str) -> Result<(&str, &str), ProviderError> {
    let is_part = |text: &str| {
        !text.is_empty()
            && text.len() <= 40
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.split_once('/').filter(|(zone, id)| is_part(zone) && is_part(id)).ok_or_else(|| {
        ProviderError::Reject {
            reason: format!(
                "{:?} is no name of a server: zone/id was expected, such as fr-par-1/2e0394ea-...",
                name.get(..60).unwrap_or(name)
            ),
        }
    })
}

impl Server {
    /// True for one that a hub made and nobody took from it.
    pub(crate) fn is_node(&self) -> bool {
        tags::has(&self.tags, tags::NODE)
    }

    /// True for one that was not given its user data.
    pub(crate) fn is_new(&self) -> bool {
        tags::has(&self.tags, tags::NEW)
    }

    /// As the hub sees it.
    ///
    /// # Errors
    ///
    /// Where neither its tags nor its name say what it is to the hub, or its date is none: a list has to be whole.
    pub(crate) fn instance(&self, call: Call, zone: &str) -> Result<Instance, ProviderError> {
        let wrong = |what: &str| {
            let source = format!("server {} in {zone}: {what}", self.id).into();
            ProviderError::Other { call: call.name, source }
        };
        let key = tags::key(&self.tags, &self.name).ok_or_else(|| {
            wrong(
                "its tag bp-key-... is gone and its name is none of a hub; put one back, or take bp-node off",
            )
        })?;
        Ok(Instance {
            key,
            provider_id: name_of(zone, &self.id),
            tags: tags::whose(&self.tags),
            state: self.state(),
            created_at: date(&self.creation_date).ok_or_else(|| wrong("its creation_date is no date"))?,
        })
    }

    fn state(&self) -> InstanceState {
        match self.state.as_str() {
            "stopped" if self.is_new() => InstanceState::Unfinished,
            // Only Scaleway's support unlocks one; until then it stays as it is, with what stands on its disk.
            "stopped" | "stopped in place" | "locked" => InstanceState::Stopped,
            "starting" => InstanceState::Starting,
            "stopping" => InstanceState::Stopping,
            // A state that came after this was written must not end a machine.
            _ => InstanceState::Running,
        }
    }
}

/// A date of the API: RFC 3339 in UTC, with `+00:00` (Instances) or `Z` (Block Storage).
pub(crate) fn date(text: &str) -> Option<Timestamp> {
    let bare = text.strip_suffix("+00:00").or_else(|| text.strip_suffix('Z')).unwrap_or(text);
    humantime::parse_rfc3339_weak(bare).ok().map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_both_products_are_read() {
        let at = date("2025-09-05T15:46:10.188873+00:00").unwrap();
        assert_eq!(date("2025-09-05T15:46:10.188873Z"), Some(at));
        assert_eq!(at.as_secs(), 1_757_087_170);
        assert_eq!(date("yesterday"), None);
    }

    #[test]
    fn a_name_says_the_zone() {
        assert_eq!(parse_name("fr-par-1/2e0394ea-120c").unwrap(), ("fr-par-1", "2e0394ea-120c"));
        for wrong in ["", "2e0394ea", "fr-par-1/", "/x", "fr-par-1/../x", "fr-par-1/x?y", "Fr/x"] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
    }
}
