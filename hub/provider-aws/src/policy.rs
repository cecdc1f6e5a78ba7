//! The least that the hub's key or role has to be allowed.

use blueprint_common_types::HubId;
use serde_json::{Map, Value, json};

use crate::action::Action::{self, *};
use crate::config::{AwsConfig, Region};
use crate::tags;

/// The policy of the hub's key or role, as a document of IAM: every call that this crate makes, and no other.
///
/// Machines and disks can be made only with this hub's tag, encrypted, with metadata version 2; only machines with this hub's
/// tag can be started, stopped and ended. `role` is the ARN of a role that the hub takes on first: the document is then the
/// one of its key, and that of the role is the one without `role`.
#[must_use]
pub fn policy(hub: HubId, config: &AwsConfig, role: Option<&str>) -> Value {
    let statements = match role {
        Some(role) => vec![allow("TakeOnTheRole", &[AssumeRole], &json!(role), None)],
        None => statements(&hub.to_string(), config),
    };
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn statements(hub: &str, config: &AwsConfig) -> Vec<Value> {
    let partition = match config.regions.first().map(Region::as_str) {
        Some(region) if region.starts_with("cn-") => "aws-cn",
        Some(region) if region.starts_with("us-gov-") => "aws-us-gov",
        Some(_) | None => "aws",
    };
    let ec2 = |kind: &str| json!(format!("arn:{partition}:ec2:*:*:{kind}/*"));
    let (machine, disk, group) = (ec2("instance"), ec2("volume"), ec2("security-group"));
    let image = json!(format!("arn:{partition}:ec2:*::image/*"));
    let of = json!([image, ec2("subnet"), ec2("network-interface"), ec2("spot-instances-request")]);
    let asked = format!("aws:RequestTag/{}", tags::HUB);
    let tagged = format!("aws:ResourceTag/{}", tags::HUB);
    let group_asked = format!("aws:RequestTag/{}", tags::GROUP);
    let group_tagged = format!("aws:ResourceTag/{}", tags::GROUP);
    let look = [
        DescribeImages,
        DescribeInstances,
        DescribeRegions,
        DescribeSecurityGroups,
        DescribeSubnets,
        GetCallerIdentity,
        GetProducts,
    ];
    let spot = [DescribeSpotPriceHistory].into_iter().filter(|_| config.spot);
    let look: Vec<_> = look.into_iter().chain(spot).collect();
    let mut statements = vec![
        allow("Look", &look, &json!("*"), None),
        allow("MakeOf", &[RunInstances], &of, None),
        allow("MakeClosed", &[RunInstances], &group, Some(equal(&[(&group_tagged, tags::NO_INGRESS)]))),
        allow(
            "MakeMachine",
            &[RunInstances],
            &machine,
            Some(equal(&[(&asked, hub), ("ec2:MetadataHttpTokens", "required")])),
        ),
        allow(
            "MakeDisk",
            &[RunInstances],
            &disk,
            Some(json!({ "StringEquals": { asked.as_str(): hub }, "Bool": { "ec2:Encrypted": "true" } })),
        ),
        tag("TagMachine", RunInstances, &json!([machine, disk])),
        allow("MakeGroupIn", &[CreateSecurityGroup], &ec2("vpc"), None),
        allow("MakeGroup", &[CreateSecurityGroup], &group, Some(equal(&[(&group_asked, tags::NO_INGRESS)]))),
        tag("TagGroup", CreateSecurityGroup, &group),
        allow("EndGroup", &[DeleteSecurityGroup], &group, Some(equal(&[(&group_tagged, tags::NO_INGRESS)]))),
        allow(
            "SwitchAndEnd",
            &[StartInstances, StopInstances, TerminateInstances],
            &machine,
            Some(equal(&[(&tagged, hub)])),
        ),
    ];
    if config.image.as_str().starts_with('/') {
        let path = config.image.as_str().replace("{arch}", "*");
        let parameter = json!(format!("arn:{partition}:ssm:*:*:parameter{path}"));
        statements.push(allow("FindImage", &[GetParameter], &parameter, None));
    }
    statements
}

fn allow(sid: &str, actions: &[Action], on: &Value, condition: Option<Value>) -> Value {
    statement(sid, actions.iter().map(|action| action.permission()).collect(), on, condition)
}

/// Tags come with the call that makes a thing, and are a permission of their own.
fn tag(sid: &str, by: Action, on: &Value) -> Value {
    statement(sid, vec!["ec2:CreateTags".to_owned()], on, Some(equal(&[("ec2:CreateAction", by.name())])))
}

fn statement(sid: &str, actions: Vec<String>, on: &Value, condition: Option<Value>) -> Value {
    let mut fields = Map::new();
    fields.insert("Sid".to_owned(), json!(sid));
    fields.insert("Effect".to_owned(), json!("Allow"));
    fields.insert("Action".to_owned(), json!(actions));
    fields.insert("Resource".to_owned(), on.clone());
    if let Some(condition) = condition {
        fields.insert("Condition".to_owned(), condition);
    }
    Value::Object(fields)
}

fn equal(rows: &[(&str, &str)]) -> Value {
    let rows: Map<_, _> = rows.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({ "StringEquals": rows })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const HUB: HubId = HubId::from_bytes([7; 16]);

    fn config() -> AwsConfig {
        AwsConfig { spot: true, ..AwsConfig::new(vec!["eu-west-1".parse().unwrap()]) }
    }

    fn actions(policy: &Value) -> BTreeSet<String> {
        let statements = policy["Statement"].as_array().unwrap().iter();
        statements
            .flat_map(|statement| statement["Action"].as_array().unwrap())
            .map(|action| action.as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn it_names_exactly_what_the_code_calls() {
        let mut named = actions(&policy(HUB, &config(), None));
        named.extend(actions(&policy(HUB, &config(), Some("arn:aws:iam::1:role/x"))));
        let mut called: BTreeSet<_> = Action::ALL.iter().map(|action| action.permission()).collect();
        called.insert("ec2:CreateTags".to_owned());
        assert_eq!(named, called);
        let plain = AwsConfig { spot: false, image: "ami-1".parse().unwrap(), ..config() };
        let plain = actions(&policy(HUB, &plain, None));
        assert!(!plain.contains("ec2:DescribeSpotPriceHistory") && !plain.contains("ssm:GetParameter"));
    }

    #[test]
    fn nothing_is_made_or_changed_without_a_condition() {
        let policy = policy(HUB, &config(), None);
        let mut sids = BTreeSet::new();
        for statement in policy["Statement"].as_array().unwrap() {
            let sid = statement["Sid"].as_str().unwrap();
            assert!(sids.insert(sid.to_owned()), "{sid} stands twice");
            let is_free = ["Look", "MakeOf", "MakeGroupIn", "FindImage"].contains(&sid);
            assert_eq!(statement["Condition"].is_null(), is_free, "{statement}");
            let everywhere = statement["Resource"].as_str() == Some("*");
            assert_eq!(everywhere, sid == "Look", "{statement}");
        }
        let end =
            policy["Statement"].as_array().unwrap().iter().find(|it| it["Sid"] == "SwitchAndEnd").unwrap();
        let own = HUB.to_string();
        assert_eq!(end["Condition"]["StringEquals"]["aws:ResourceTag/blueprint-hub"], own.as_str());
        // IAM takes 6144 characters without spaces.
        assert!(policy.to_string().len() < 6144);
    }

    #[test]
    fn the_page_of_the_manual_has_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/aws.md");
        let page = std::fs::read_to_string(path).unwrap();
        let policy =
            serde_json::to_string_pretty(&policy(HubId::from_bytes([0; 16]), &config(), None)).unwrap();
        let (before, rest) = page.split_once("```json\n").unwrap();
        let (_, after) = rest.split_once("\n```").unwrap();
        let current = format!("{before}```json\n{policy}\n```{after}");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == current, "run UPDATE_GENERATED=1 cargo test -p blueprint-hub-provider-aws --lib");
    }
}
