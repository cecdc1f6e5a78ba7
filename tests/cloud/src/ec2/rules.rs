//! The rules of EC2's reference, and those of our own that every order has to keep.

use super::{Form, REGION};
use crate::server::Request;

/// What an order has to say, word for word.
const SAID: [(&str, &str); 12] = [
    ("MinCount", "1"),
    ("MaxCount", "1"),
    ("InstanceInitiatedShutdownBehavior", "terminate"),
    ("MetadataOptions.HttpTokens", "required"),
    ("MetadataOptions.HttpPutResponseHopLimit", "1"),
    ("NetworkInterface.1.SecurityGroupId.1", "sg-1"),
    ("NetworkInterface.1.DeleteOnTermination", "true"),
    ("BlockDeviceMapping.1.DeviceName", "/dev/xvda"),
    ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
    ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
    ("TagSpecification.1.ResourceType", "instance"),
    ("TagSpecification.2.ResourceType", "volume"),
];

pub(super) fn of_request(request: &Request, form: &Form) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, words: String| {
        if !holds {
            broken.push(words);
        }
    };
    rule(request.method == "POST" && request.path == "/", "it is no POST to /".to_owned());
    let credential = request.header("authorization").unwrap_or_default();
    let target = request.header("x-amz-target");
    let is_ssm = target.is_some();
    let service = match target {
        Some(target) if target.starts_with("AWSPriceListService.") => "pricing",
        Some(_) => "ssm",
        None => "ec2",
    };
    rule(credential.starts_with("AWS4-HMAC-SHA256 Credential="), "it is not signed".to_owned());
    rule(
        credential.contains(&format!("/{REGION}/{service}/aws4_request,")),
        format!("its scope is not {service}'s"),
    );
    for name in ["host", "x-amz-date", "content-type"] {
        let signed = credential
            .split("SignedHeaders=")
            .nth(1)
            .and_then(|rest| rest.split(',').next())
            .unwrap_or_default();
        rule(signed.split(';').any(|own| own == name), format!("{name} is not signed"));
        rule(request.header(name).is_some(), format!("it has no {name}"));
    }
    if is_ssm {
        return broken;
    }
    rule(
        form.get("Version").is_some_and(|version| version == "2016-11-15"),
        "it names no version".to_owned(),
    );
    let most = form.get("MaxResults").map(|most| most.parse::<u32>());
    rule(
        most.is_none_or(|most| most.is_ok_and(|most| (5..=1000).contains(&most))),
        "MaxResults is not within 5 and 1000".to_owned(),
    );
    let has_ids = form.contains_key("InstanceId.1");
    rule(
        !(has_ids && form.contains_key("MaxResults")),
        "InstanceId and MaxResults exclude each other".to_owned(),
    );
    if form.get("Action").map(String::as_str) != Some("RunInstances") {
        return broken;
    }
    for (name, value) in SAID {
        rule(form.get(name).is_some_and(|own| own == value), format!("{name} is not {value}"));
    }
    let token = form.get("ClientToken").map(String::as_str).unwrap_or_default();
    rule(
        (1..=64).contains(&token.len()) && token.is_ascii(),
        "ClientToken is not 1 to 64 characters of ASCII".to_owned(),
    );
    rule(
        !form.contains_key("SubnetId") && !form.contains_key("SecurityGroupId.1"),
        "a network interface excludes SubnetId".to_owned(),
    );
    rule(!form.contains_key("KeyName"), "it names a key for SSH".to_owned());
    broken
}
