//! Instances on the wire.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use blueprint_common_types::{Secret, Timestamp, fill_random};
use blueprint_hub_provider_kit::flat_tags;
use blueprint_hub_provider_kit::rest::Call;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::{Deserialize, Serialize};

/// Bounds of a label, in characters (the API's reference).
const LABEL: std::ops::RangeInclusive<usize> = 3..=64;

/// An instance as the API shows it, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Machine {
    pub(crate) id: u64,
    pub(crate) label: String,
    pub(crate) status: String,
    pub(crate) created: String,
    pub(crate) tags: Vec<String>,
}

/// What is ordered.
#[derive(Serialize)]
pub(crate) struct Order<'a> {
    pub(crate) label: &'a str,
    pub(crate) region: &'a str,
    #[serde(rename = "type")]
    pub(crate) plan: &'a str,
    pub(crate) image: &'a str,
    pub(crate) root_pass: &'a str,
    pub(crate) firewall_id: u64,
    pub(crate) tags: Vec<String>,
    pub(crate) metadata: Metadata<'a>,
    pub(crate) booted: bool,
    pub(crate) backups_enabled: bool,
    pub(crate) private_ip: bool,
}

/// What the instance reads at its first boot.
#[derive(Serialize)]
pub(crate) struct Metadata<'a> {
    /// In Base64.
    pub(crate) user_data: &'a str,
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

    /// As the hub sees it.
    ///
    /// # Errors
    ///
    /// Where neither its tags nor its label say what it is to the hub, or its date is none: a list has to be whole.
    pub(crate) fn instance(&self, call: Call) -> Result<Instance, ProviderError> {
        let wrong = |what: &str| {
            let source = format!("linode {}: {what}", self.id).into();
            ProviderError::Other { call: call.name, source }
        };
        let key = flat_tags::key(&self.tags, &self.label).ok_or_else(|| {
            wrong("its tag bp-key-... is gone and its label is none of a hub; put one back, or take bp-node off")
        })?;
        let created_at = humantime::parse_rfc3339_weak(&self.created)
            .map(Timestamp::from)
            .map_err(|_| wrong("what it says of its creation is no date"))?;
        Ok(Instance {
            key,
            provider_id: self.id.to_string(),
            tags: flat_tags::whose(&self.tags),
            state: self.state(),
            created_at,
        })
    }

    fn state(&self) -> InstanceState {
        match self.status.as_str() {
            "provisioning" | "booting" | "busy" => InstanceState::Starting,
            // Suspended for a debt: it is there, and must not be replaced by one that costs more.
            "offline" | "stopped" | "billing_suspension" => InstanceState::Stopped,
            "shutting_down" | "deleting" => InstanceState::Stopping,
            // A status that came after this was written must not end a machine.
            _ => InstanceState::Running,
        }
    }
}

/// Whether a text can be a label: it begins with a letter, ends with a letter or digit, and has no two signs in a row.
pub(crate) fn is_label(text: &str) -> bool {
    let is_sign = |c: char| matches!(c, '-' | '_' | '.');
    let signs_in_a_row = ["--", "__", ".."].iter().any(|pair| text.contains(pair));
    LABEL.contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || is_sign(c))
        && !signs_in_a_row
}

/// What the API wants in a password and randomness may lack: a small letter, a capital one, a digit and a sign.
const OF_EACH_KIND: &str = "-aA1";

/// A password of 256 random bits, which nobody is told: the API wants one, and nobody signs in.
///
/// # Errors
///
/// [`ProviderError::Busy`] where the system gives no randomness.
pub(crate) fn password() -> Result<Secret<String>, ProviderError> {
    let mut bytes = [0u8; 32];
    fill_random(&mut bytes).map_err(|_| ProviderError::Busy {
        reason: "the system gave no randomness for a password".to_owned(),
    })?;
    Ok(Secret::new(STANDARD_NO_PAD.encode(bytes) + OF_EACH_KIND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_those_of_the_reference() {
        for right in ["bp-aaaaaaaaaaaaaaaa-1", "a.b", "a_1"] {
            assert!(is_label(right), "{right}");
        }
        let long = "a".repeat(65);
        for wrong in ["", "ab", "1ab", "a--b", "a..b", "ab-", "a b", "äbc", long.as_str()] {
            assert!(!is_label(wrong), "{wrong}");
        }
    }

    #[test]
    fn every_status_of_the_reference_has_a_state() {
        let state = |status: &str| {
            let machine = Machine {
                id: 1,
                label: "x".to_owned(),
                status: status.to_owned(),
                created: "2018-01-01T00:01:01".to_owned(),
                tags: Vec::new(),
            };
            machine.instance(blueprint_hub_provider_kit::rest::call("x", "")).unwrap().state
        };
        for status in
            ["running", "rebooting", "migrating", "rebuilding", "cloning", "restoring", "resizing", "new"]
        {
            assert_eq!(state(status), InstanceState::Running, "{status}");
        }
        for status in ["provisioning", "booting", "busy"] {
            assert_eq!(state(status), InstanceState::Starting, "{status}");
        }
        for status in ["offline", "stopped", "billing_suspension"] {
            assert_eq!(state(status), InstanceState::Stopped, "{status}");
        }
        for status in ["shutting_down", "deleting"] {
            assert_eq!(state(status), InstanceState::Stopping, "{status}");
        }
    }

    #[test]
    fn passwords_differ_and_are_not_printed() {
        let (one, other) = (password().unwrap(), password().unwrap());
        assert!(one.expose() != other.expose() && (7..=128).contains(&one.expose().len()));
        assert!(!format!("{one:?}").contains(one.expose().as_str()));
        // Of drawn letters alone one in 1,400 has no digit.
        let kinds: [fn(char) -> bool; 3] =
            [|c| c.is_ascii_lowercase(), |c| c.is_ascii_uppercase(), |c| c.is_ascii_digit()];
        assert!(
            kinds.iter().all(|kind| OF_EACH_KIND.chars().any(kind)) && one.expose().ends_with(OF_EACH_KIND)
        );
    }
}
