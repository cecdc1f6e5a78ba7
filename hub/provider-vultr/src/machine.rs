//! Instances and whole machines on the wire.

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::flat_tags;
use blueprint_hub_provider_kit::rest::Call;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::{Deserialize, Serialize};

use crate::line::{Line, is_id};

/// On a whole machine that the hub switched off: the API does not say whether one is on.
const OFF: &str = "bp-off";

/// A machine as the API shows it, as far as the hub looks. Its password, which stands in the answer to an order, is left.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Machine {
    /// Which answer it came with.
    #[serde(skip)]
    pub(crate) line: Line,
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) label: String,
    status: String,
    /// Of instances alone.
    #[serde(default)]
    power_status: String,
    /// Of instances alone.
    #[serde(default)]
    server_status: String,
    date_created: String,
    pub(crate) tags: Vec<String>,
}

/// The answer about one.
#[derive(Debug, Deserialize)]
pub(crate) struct One {
    #[serde(rename = "instance", alias = "bare_metal")]
    machine: Machine,
}

impl One {
    /// The machine, of the line that was asked.
    pub(crate) fn of(self, line: Line) -> Machine {
        Machine { line, ..self.machine }
    }
}

/// What is ordered.
#[derive(Serialize)]
pub(crate) struct Order<'a> {
    pub(crate) region: &'a str,
    pub(crate) plan: &'a str,
    pub(crate) os_id: u64,
    pub(crate) label: &'a str,
    pub(crate) hostname: &'a str,
    pub(crate) tags: Vec<String>,
    /// In Base64.
    pub(crate) user_data: &'a str,
    /// Of instances alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) firewall_group_id: Option<&'a str>,
    pub(crate) enable_ipv6: bool,
    pub(crate) activation_email: bool,
    /// Of instances alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backups: Option<&'static str>,
}

/// What is written over a machine that stands.
#[derive(Debug, Serialize)]
pub(crate) struct Retagged {
    pub(crate) tags: Vec<String>,
}

impl Machine {
    /// True for one that a hub made and nobody took from it.
    pub(crate) fn is_node(&self) -> bool {
        flat_tags::is_node(&self.tags)
    }

    /// True for one that is switched off.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.state(), InstanceState::Stopped)
    }

    /// True for one that is not delivered yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.status == "pending"
    }

    /// Its tags with the word that the hub switched it off, or without.
    pub(crate) fn retagged(&self, is_off: bool) -> Retagged {
        let mut tags: Vec<_> = self.tags.iter().filter(|tag| *tag != OFF).cloned().collect();
        tags.extend(is_off.then(|| OFF.to_owned()));
        Retagged { tags }
    }

    /// As the hub sees it.
    ///
    /// # Errors
    ///
    /// Where its id is none, neither its tags nor its label say what it is to the hub, or its date is none: a list has to be
    /// whole.
    pub(crate) fn instance(&self, call: Call) -> Result<Instance, ProviderError> {
        let wrong = |what: &str| {
            let source = format!("instance {}: {what}", self.id.chars().take(40).collect::<String>()).into();
            ProviderError::Other { call: call.name, source }
        };
        if !is_id(&self.id) {
            return Err(wrong("its id is no UUID"));
        }
        let key = flat_tags::key(&self.tags, &self.label).ok_or_else(|| {
            wrong("its tag bp-key-... is gone and its label is none of a hub; put one back, or take bp-node off")
        })?;
        let created_at = humantime::parse_rfc3339_weak(plain(&self.date_created))
            .map(Timestamp::from)
            .map_err(|_| wrong("what it says of its creation is no date"))?;
        Ok(Instance {
            key,
            provider_id: self.line.name(&self.id),
            tags: flat_tags::whose(&self.tags),
            state: self.state(),
            created_at,
        })
    }

    /// Out of three words, of which each says a part (the API's reference: `status`, `power_status`, `server_status`).
    fn state(&self) -> InstanceState {
        match (self.status.as_str(), self.power_status.as_str(), self.server_status.as_str()) {
            ("pending", _, _) => InstanceState::Starting,
            // Suspended for a debt: it is there, and must not be replaced by one that costs more.
            ("suspended", _, _) | (_, "stopped", _) => InstanceState::Stopped,
            (_, "", "") if self.line == Line::Metal && self.tags.iter().any(|tag| tag == OFF) => {
                InstanceState::Stopped
            }
            (_, _, "none" | "locked" | "installingbooting") => InstanceState::Starting,
            // Words that came after this was written must not end a machine.
            _ => InstanceState::Running,
        }
    }
}

/// A date of the API without its offset, which is always that of UTC.
fn plain(date: &str) -> &str {
    date.strip_suffix("+00:00").unwrap_or(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Call = blueprint_hub_provider_kit::rest::call("x", "");

    fn machine(words: [&str; 3]) -> Machine {
        let [status, power_status, server_status] = words.map(str::to_owned);
        Machine {
            line: Line::Cloud,
            id: "cb676a46-66fd-4dfb-b839-443f2e6c0b60".to_owned(),
            label: "x".to_owned(),
            status,
            power_status,
            server_status,
            date_created: "2020-10-10T01:56:20+00:00".to_owned(),
            tags: Vec::new(),
        }
    }

    #[test]
    fn three_words_make_a_state() {
        for (words, state) in [
            (["active", "running", "ok"], InstanceState::Running),
            (["active", "running", "installingbooting"], InstanceState::Starting),
            (["pending", "running", "none"], InstanceState::Starting),
            (["pending", "stopped", "none"], InstanceState::Starting),
            (["active", "stopped", "ok"], InstanceState::Stopped),
            (["suspended", "running", "ok"], InstanceState::Stopped),
            (["resizing", "running", "ok"], InstanceState::Running),
            (["new", "new", "new"], InstanceState::Running),
        ] {
            assert_eq!(machine(words).instance(GET).unwrap().state, state, "{words:?}");
        }
    }

    #[test]
    fn what_goes_into_paths_is_an_id() {
        let made = machine(["active", "running", "ok"]).instance(GET).unwrap();
        assert_eq!(made.created_at.as_secs(), 1_602_294_980);
        let odd = Machine { id: "../firewalls".to_owned(), ..machine(["active", "running", "ok"]) };
        assert!(odd.instance(GET).is_err());
    }

    #[test]
    fn a_whole_machine_is_off_where_the_hub_noted_so_and_its_cloud_says_nothing_else() {
        let metal = |power: &str, tags: &[&str]| Machine {
            line: Line::Metal,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..machine(["active", power, ""])
        };
        for (one, state) in [
            (metal("", &[]), InstanceState::Running),
            (metal("", &[OFF]), InstanceState::Stopped),
            // Should the API tell some day, that counts.
            (metal("running", &[OFF]), InstanceState::Running),
            (metal("stopped", &[]), InstanceState::Stopped),
            (Machine { status: "pending".to_owned(), ..metal("", &[OFF]) }, InstanceState::Starting),
            (Machine { line: Line::Cloud, ..metal("", &[OFF]) }, InstanceState::Running),
        ] {
            assert_eq!(one.instance(GET).unwrap().state, state, "{one:?}");
        }
        let off = metal("", &["bp-node", OFF]);
        assert_eq!(off.retagged(true).tags, ["bp-node", OFF]);
        assert_eq!(off.retagged(false).tags, ["bp-node"]);
        assert!(off.instance(GET).unwrap().provider_id.starts_with("bm-cb676a46"));
    }
}
