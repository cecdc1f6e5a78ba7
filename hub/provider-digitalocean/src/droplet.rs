//! Droplets on the wire.

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::{Deserialize, Serialize};

use crate::api::{Call, Rows};
use crate::tags;

/// A droplet as the API shows it, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Droplet {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) created_at: String,
    pub(crate) tags: Vec<String>,
    pub(crate) volume_ids: Vec<String>,
}

/// The answer about one.
#[derive(Debug, Deserialize)]
pub(crate) struct One {
    pub(crate) droplet: Droplet,
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(crate) struct Many {
    droplets: Vec<Droplet>,
}

impl Rows for Many {
    type Row = Droplet;

    fn rows(self) -> Vec<Droplet> {
        self.droplets
    }

    fn id(row: &Droplet) -> String {
        row.id.to_string()
    }
}

/// What is ordered. `user_data` goes as it is: the API takes it plain.
#[derive(Serialize)]
pub(crate) struct Order<'a> {
    pub(crate) name: &'a str,
    pub(crate) region: &'a str,
    pub(crate) size: &'a str,
    pub(crate) image: &'a str,
    pub(crate) ssh_keys: [u64; 1],
    pub(crate) tags: Vec<String>,
    pub(crate) user_data: &'a str,
    pub(crate) ipv6: bool,
    pub(crate) monitoring: bool,
    pub(crate) with_droplet_agent: bool,
}

impl Droplet {
    /// True for one that a hub made and nobody took from it.
    pub(crate) fn is_node(&self) -> bool {
        tags::is_node(&self.tags)
    }

    /// As the hub sees it.
    ///
    /// # Errors
    ///
    /// Where neither its tags nor its name say what it is to the hub, or its date is none: a list has to be whole.
    pub(crate) fn instance(&self, call: Call) -> Result<Instance, ProviderError> {
        let wrong = |what: String| {
            let source = format!("droplet {}: {what}", self.id).into();
            ProviderError::Other { call: call.name, source }
        };
        let key = tags::key(&self.tags, &self.name).ok_or_else(|| {
            wrong(
                "its tag bp-key-... is gone and its name is none of a hub; put one back, or take bp-node off"
                    .to_owned(),
            )
        })?;
        let created_at = humantime::parse_rfc3339_weak(&self.created_at)
            .map(Timestamp::from)
            .map_err(|_| wrong("its created_at is no date".to_owned()))?;
        Ok(Instance {
            key,
            provider_id: self.id.to_string(),
            tags: tags::whose(&self.tags),
            state: self.state(),
            created_at,
        })
    }

    fn state(&self) -> InstanceState {
        match self.status.as_str() {
            "new" => InstanceState::Starting,
            "off" => InstanceState::Stopped,
            "archive" => InstanceState::Failed { reason: "the droplet is archived".to_owned() },
            // A status that came after this was written must not end a machine.
            _ => InstanceState::Running,
        }
    }
}
