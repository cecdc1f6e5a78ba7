//! Where in a region a machine can be put, and the group that lets nothing in.

use blueprint_hub_provision_core::InstanceKey;
use ring::digest;

use crate::answer::AnswerError;
use crate::xml::Node;

/// Name of the security group without ingress; one in each network.
pub(crate) const GROUP_NAME: &str = "blueprint-hub-no-ingress";

/// One subnet, and so one zone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Its zone; places are sorted by it.
    pub(crate) zone: String,
    /// Its id.
    pub(crate) subnet: String,
    /// The network that it is in.
    pub(crate) vpc: String,
}

/// The places that an answer describes.
///
/// # Errors
///
/// Where one lacks what a launch needs.
pub(crate) fn places(root: &Node) -> Result<Vec<Place>, AnswerError> {
    let read = |item: &Node| {
        let text = |name| item.text(name).filter(|text| !text.is_empty()).map(str::to_owned);
        Ok(Place {
            zone: text("availabilityZone").ok_or(AnswerError("availabilityZone"))?,
            subnet: text("subnetId").ok_or(AnswerError("subnetId"))?,
            vpc: text("vpcId").ok_or(AnswerError("vpcId"))?,
        })
    };
    let mut places = root.items("subnetSet").map(read).collect::<Result<Vec<_>, _>>()?;
    places.sort();
    Ok(places)
}

/// The places in the order in which this machine tries them: always the same for it, and another for the next one.
pub(crate) fn ordered(mut places: Vec<Place>, key: &InstanceKey) -> Vec<Place> {
    let hash = digest::digest(&digest::SHA256, key.as_str().as_bytes());
    let number = hash.as_ref().iter().take(4).fold(0usize, |number, byte| (number << 8) | usize::from(*byte));
    let first = number.checked_rem(places.len()).unwrap_or_default();
    places.rotate_left(first);
    places
}

/// A security group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its id.
    pub(crate) id: String,
    /// Whether it lets anything in.
    pub(crate) has_ingress: bool,
}

/// The first group that an answer describes.
///
/// # Errors
///
/// Where it has no id.
pub(crate) fn group(root: &Node) -> Result<Option<Group>, AnswerError> {
    Ok(groups(root)?.into_iter().next())
}

/// Every group that an answer describes.
///
/// # Errors
///
/// Where one has no id.
pub(crate) fn groups(root: &Node) -> Result<Vec<Group>, AnswerError> {
    let read = |item: &Node| {
        let id = item.text("groupId").filter(|id| !id.is_empty()).ok_or(AnswerError("groupId"))?;
        Ok(Group { id: id.to_owned(), has_ingress: item.items("ipPermissions").next().is_some() })
    };
    root.items("securityGroupInfo").map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_zone_is_tried_and_machines_begin_in_different_ones() {
        let item = |zone: &str| {
            format!(
                "<item><subnetId>s-{zone}</subnetId><vpcId>v</vpcId><availabilityZone>{zone}</availabilityZone></item>"
            )
        };
        let text = format!("<R><subnetSet>{}{}{}</subnetSet></R>", item("c"), item("a"), item("b"));
        let places = places(&Node::parse(text.as_bytes()).unwrap()).unwrap();
        let zones = |key: &str| -> String {
            let key = key.parse().unwrap();
            ordered(places.clone(), &key).into_iter().map(|place| place.zone).collect()
        };
        let firsts: std::collections::BTreeSet<_> = (0..20).map(|n| zones(&format!("bp-{n}"))).collect();
        assert!(firsts.into_iter().eq(["abc", "bca", "cab"]));
        assert_eq!(zones("bp-1"), zones("bp-1"));
        assert_eq!(ordered(vec![], &"a".parse().unwrap()), vec![]);
    }

    #[test]
    fn a_group_that_lets_something_in_is_seen() {
        let read = |rules: &str| {
            let text = format!(
                "<R><securityGroupInfo><item><groupId>sg-1</groupId><ipPermissions>{rules}</ipPermissions>\
                 <ipPermissionsEgress><item/></ipPermissionsEgress></item></securityGroupInfo></R>"
            );
            group(&Node::parse(text.as_bytes()).unwrap()).unwrap().unwrap().has_ingress
        };
        assert!(!read(""));
        assert!(read("<item><ipProtocol>tcp</ipProtocol></item>"));
        assert_eq!(group(&Node::parse(b"<R/>").unwrap()), Ok(None));
    }
}
