//! What this crate reads out of EC2's answers: strict about what it needs, blind to the rest.

use std::collections::BTreeMap;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::{Instance, InstanceKey, InstanceState};

use crate::tags;
use crate::xml::Node;

/// An answer without something that every such answer has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer has no {0} that can be read")]
pub(crate) struct AnswerError(pub(crate) &'static str);

/// A machine, as EC2 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `i-` and hexadecimal digits.
    pub(crate) id: String,
    /// `None` once it is no more: EC2 goes on showing a machine for about an hour after its end.
    pub(crate) state: Option<InstanceState>,
    /// The earliest time that EC2 tells of it: its own is that of the last start.
    pub(crate) created_at: Timestamp,
    /// All of its tags.
    pub(crate) tags: BTreeMap<String, String>,
}

impl Machine {
    fn read(item: &Node) -> Result<Self, AnswerError> {
        let id = item.text("instanceId").filter(|id| is_id(id)).ok_or(AnswerError("instanceId"))?;
        let state = item.child("instanceState").and_then(|state| state.text("name"));
        let state = state_of(state.unwrap_or_default())?;
        let launched = time(item.text("launchTime")).ok_or(AnswerError("launchTime"))?;
        let attached = item
            .items("blockDeviceMapping")
            .filter_map(|disk| time(disk.child("ebs").and_then(|disk| disk.text("attachTime"))));
        Ok(Self {
            id: id.to_owned(),
            state,
            created_at: attached.fold(launched, Ord::min),
            tags: tags_of(item),
        })
    }

    /// The machine in the hub's words; `None` where it is no more.
    pub(crate) fn into_instance(self, region: &str) -> Option<Instance> {
        let state = self.state?;
        let key = self.tags.get(tags::KEY).and_then(|key| key.parse::<InstanceKey>().ok());
        // A machine whose tags somebody changed goes by its own name, and nobody but a person touches it.
        let tags = key.is_some().then(|| tags::read(&self.tags)).flatten();
        let key = key.or_else(|| self.id.parse().ok())?;
        let provider_id = format!("{region}/{}", self.id);
        Some(Instance { key, provider_id, tags, state, created_at: self.created_at })
    }
}

/// One page of machines, and where the next one begins.
///
/// # Errors
///
/// Where one of them cannot be read.
pub(crate) fn machines(root: &Node) -> Result<(Vec<Machine>, Option<String>), AnswerError> {
    root.child("reservationSet").ok_or(AnswerError("reservationSet"))?;
    let items = root.items("reservationSet").flat_map(|reservation| reservation.items("instancesSet"));
    let machines = items.map(Machine::read).collect::<Result<_, _>>()?;
    Ok((machines, next(root)))
}

/// The one machine that was made.
///
/// # Errors
///
/// Where there is none, or more than one.
pub(crate) fn made(root: &Node) -> Result<Machine, AnswerError> {
    let mut items = root.items("instancesSet");
    match (items.next(), items.next()) {
        (Some(item), None) => Machine::read(item),
        (None, _) | (Some(_), Some(_)) => Err(AnswerError("one instance")),
    }
}

/// Where the next page begins.
pub(crate) fn next(root: &Node) -> Option<String> {
    root.text("nextToken").filter(|token| !token.is_empty()).map(str::to_owned)
}

/// A time as AWS writes it.
pub(crate) fn time(text: Option<&str>) -> Option<Timestamp> {
    humantime::parse_rfc3339(text?).ok().map(Timestamp::from)
}

/// Whether a text is the id of a machine.
pub(crate) fn is_id(text: &str) -> bool {
    text.strip_prefix("i-").is_some_and(|rest| {
        (1..=40).contains(&rest.len())
            && rest.bytes().all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase())
    })
}

fn tags_of(item: &Node) -> BTreeMap<String, String> {
    let pair =
        |tag: &Node| Some((tag.text("key")?.to_owned(), tag.text("value").unwrap_or_default().to_owned()));
    item.items("tagSet").filter_map(pair).collect()
}

fn state_of(name: &str) -> Result<Option<InstanceState>, AnswerError> {
    Ok(Some(match name {
        "pending" => InstanceState::Starting,
        "running" => InstanceState::Running,
        "shutting-down" | "stopping" => InstanceState::Stopping,
        "stopped" => InstanceState::Stopped,
        "terminated" => return Ok(None),
        _ => return Err(AnswerError("instanceState")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "00112233445566778899aabbccddeeff";

    fn machine(id: &str, state: &str, tags: &[(&str, &str)]) -> String {
        let tags: String = tags
            .iter()
            .map(|(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>"))
            .collect();
        format!(
            "<item><instanceId>{id}</instanceId><somethingNew><item/></somethingNew><instanceState><code>16</code>\
             <name>{state}</name></instanceState><launchTime>2026-11-21T10:00:00.000Z</launchTime><blockDeviceMapping>\
             <item><ebs><attachTime>2026-11-20T10:00:01.000Z</attachTime></ebs></item></blockDeviceMapping>\
             <tagSet>{tags}</tagSet></item>"
        )
    }

    fn page(items: &str, more: &str) -> Result<(Vec<Machine>, Option<String>), AnswerError> {
        let text = format!(
            "<DescribeInstancesResponse xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><reservationSet><item>\
             <instancesSet>{items}</instancesSet></item></reservationSet>{more}</DescribeInstancesResponse>"
        );
        machines(&Node::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_page_of_machines_is_read() {
        let own = [
            ("Name", "bp-x-1"),
            (tags::KEY, "bp-x-1"),
            (tags::HUB, HUB),
            (tags::DEPLOYMENT, "abcdefghijklmnop"),
            (tags::ATTEMPT, "2"),
        ];
        let items = [
            machine("i-0a", "running", &own),
            machine("i-0b", "terminated", &own),
            machine("i-0c", "shutting-down", &[(tags::KEY, "Not a key"), (tags::HUB, HUB)]),
        ];
        let (found, next) = page(&items.concat(), "<nextToken>t</nextToken>").unwrap();
        assert_eq!(next.as_deref(), Some("t"));
        let instances: Vec<_> = found.into_iter().map(|machine| machine.into_instance("eu-west-1")).collect();
        let first = instances.first().unwrap().clone().unwrap();
        assert_eq!((first.key.as_str(), first.provider_id.as_str()), ("bp-x-1", "eu-west-1/i-0a"));
        assert_eq!(first.state, InstanceState::Running);
        assert_eq!(first.created_at.to_string(), "2026-11-20T10:00:01Z");
        assert_eq!(first.tags.map(|tags| tags.attempt), Some(2));
        assert_eq!(instances.get(1), Some(&None));
        let odd = instances.get(2).unwrap().clone().unwrap();
        assert_eq!((odd.key.as_str(), odd.tags, odd.state), ("i-0c", None, InstanceState::Stopping));
        assert_eq!(page("", "<nextToken/>").unwrap(), (vec![], None));
    }

    #[test]
    fn an_answer_without_what_is_needed_is_no_answer() {
        let empty = Node::parse(b"<DescribeInstancesResponse/>").unwrap();
        assert_eq!(machines(&empty), Err(AnswerError("reservationSet")));
        assert_eq!(page(&machine("x", "running", &[]), ""), Err(AnswerError("instanceId")));
        assert_eq!(page(&machine("i-1", "dreaming", &[]), ""), Err(AnswerError("instanceState")));
        let none = Node::parse(b"<RunInstancesResponse><instancesSet/></RunInstancesResponse>").unwrap();
        assert_eq!(made(&none), Err(AnswerError("one instance")));
    }
}
