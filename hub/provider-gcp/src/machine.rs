//! Machines on the wire.

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{Instance, InstanceState, ProviderError};
use serde::Deserialize;

use crate::action::Action;
use crate::config::is_zone;
use crate::labels::{self, Labels};

/// An instance as Google shows it, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    id: String,
    name: String,
    status: String,
    creation_timestamp: String,
    #[serde(default)]
    labels: Labels,
}

/// The machines of one zone.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Machines {
    pub(crate) instances: Vec<Machine>,
}

impl Machine {
    /// Whether a hub made it.
    pub(crate) fn is_node(&self) -> bool {
        self.labels.contains_key(labels::KEY)
    }

    /// Its status in Google's words.
    pub(crate) fn status(&self) -> &str {
        &self.status
    }

    /// The machine in the hub's words.
    ///
    /// # Errors
    ///
    /// Where its number, its key or its date cannot be read: a list is whole or none.
    pub(crate) fn instance(&self, action: Action, zone: &str) -> Result<Instance, ProviderError> {
        let wrong = |what: &str| ProviderError::Other {
            call: action.name(),
            source: format!("a machine in {zone} has no {what} that can be read").into(),
        };
        if !is_number(&self.id) {
            return Err(wrong("id"));
        }
        let key = labels::key(&self.labels, &self.name).ok_or_else(|| wrong("label blueprint-instance"))?;
        let created = humantime_of(&self.creation_timestamp).ok_or_else(|| wrong("creationTimestamp"))?;
        Ok(Instance {
            key,
            provider_id: format!("{zone}/{}", self.id),
            tags: labels::read(&self.labels),
            state: self.state(),
            created_at: created,
        })
    }

    fn state(&self) -> InstanceState {
        match self.status.as_str() {
            // One whose host failed is `REPAIRING` until it starts again, with its disk, by itself: Google does that.
            "PROVISIONING" | "STAGING" | "PENDING" | "REPAIRING" => InstanceState::Starting,
            "STOPPING" | "PENDING_STOP" | "SUSPENDING" | "DEPROVISIONING" => InstanceState::Stopping,
            "TERMINATED" | "STOPPED" | "SUSPENDED" => InstanceState::Stopped,
            // A status that came after this was written must not end a machine.
            _ => InstanceState::Running,
        }
    }
}

/// Zone and number of a machine; `None` where no machine of Compute Engine is called so.
pub(crate) fn parts(provider_id: &str) -> Option<(&str, &str)> {
    let (zone, id) = provider_id.split_once('/')?;
    (is_zone(zone) && is_number(id)).then_some((zone, id))
}

/// Whether a text is the number of something, which a path takes in place of a name.
pub(crate) fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0')
}

/// `2026-11-22T02:00:00.000-08:00`: Google writes the offset of the Pacific coast.
fn humantime_of(text: &str) -> Option<Timestamp> {
    let (sign, at) = match text.get(19..)?.rfind(['+', '-', 'Z'])?.checked_add(19)? {
        at if text.get(at..)?.starts_with('Z') => (0i64, at),
        at => (if text.get(at..)?.starts_with('-') { 1 } else { -1 }, at),
    };
    let local = humantime::parse_rfc3339(&format!("{}Z", text.get(..at)?)).ok().map(Timestamp::from)?;
    if sign == 0 {
        return Some(local);
    }
    let (hours, minutes) = text.get(at.checked_add(1)?..)?.split_once(':')?;
    let (hours, minutes) = (hours.parse::<i64>().ok()?, minutes.parse::<i64>().ok()?);
    if !(0..=23).contains(&hours) || !(0..=59).contains(&minutes) {
        return None;
    }
    let seconds = sign.checked_mul(hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?)?;
    let millis = i64::try_from(local.as_millis()).ok()?.checked_add(seconds.checked_mul(1000)?)?;
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_offset() {
        for (text, wanted) in [
            ("2026-11-22T02:00:00.000-08:00", Some("2026-11-22T10:00:00Z")),
            ("2026-11-22T02:00:00.123-07:30", Some("2026-11-22T09:30:00Z")),
            ("2026-11-22T12:00:00+02:00", Some("2026-11-22T10:00:00Z")),
            ("2026-11-22T10:00:00Z", Some("2026-11-22T10:00:00Z")),
            ("2026-11-22T10:00:00.5Z", Some("2026-11-22T10:00:00Z")),
            ("2026-11-22", None),
            ("2026-11-22T10:00:00", None),
            ("2026-11-22T10:00:00-99:00", None),
            ("yesterday and all the days -08:00", None),
            ("", None),
        ] {
            let read =
                humantime_of(text).map(|time| Timestamp::from_millis(time.as_secs() * 1000).to_string());
            assert_eq!(read.as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn a_machine_is_known_by_its_labels_and_its_number() {
        let read = |status: &str| {
            let machine: Machine = serde_json::from_value(serde_json::json!({
                "kind": "compute#instance", "id": "4242", "name": "web", "status": status, "somethingNew": {},
                "creationTimestamp": "2026-11-22T02:00:00.000-08:00", "labels": { "blueprint-instance": "bp-x-1" },
            }))
            .unwrap();
            assert!(machine.is_node());
            machine.instance(Action::ListInstances, "us-central1-a").unwrap()
        };
        let instance = read("RUNNING");
        assert_eq!((instance.key.as_str(), instance.provider_id.as_str()), ("bp-x-1", "us-central1-a/4242"));
        assert_eq!(instance.tags, None);
        for (status, state) in [
            ("PROVISIONING", InstanceState::Starting),
            ("REPAIRING", InstanceState::Starting),
            ("STOPPING", InstanceState::Stopping),
            ("TERMINATED", InstanceState::Stopped),
            ("SOMETHING_NEW", InstanceState::Running),
        ] {
            assert_eq!(read(status).state, state);
        }
        assert_eq!(parts("us-central1-a/42"), Some(("us-central1-a", "42")));
        for wrong in
            ["", "42", "us-central1-a/", "us-central1-a/web", "../42", "us-central1-a/42/stop", "a/042"]
        {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }
}
