//! How EC2 says things: XML.

use serde_json::{Value, json};

use super::{Form, REGION, has_tag};
use crate::server::Answer;
use crate::world::{Machine, Power};

/// What was asked of a list.
pub(super) struct Filter {
    name: String,
    values: Vec<String>,
}

impl Filter {
    pub(super) fn takes(&self, machine: &Machine) -> bool {
        match self.name.as_str() {
            "tag-key" => self.values.iter().any(|name| has_tag(machine, name, &[])),
            "instance-state-name" => self.values.iter().any(|name| name == state(machine)),
            name => name.strip_prefix("tag:").is_some_and(|name| has_tag(machine, name, &self.values)),
        }
    }
}

pub(super) fn filters(form: &Form) -> Vec<Filter> {
    let filter = |number: u32| {
        let name = form.get(&format!("Filter.{number}.Name"))?.clone();
        let value = |n: u32| form.get(&format!("Filter.{number}.Value.{n}")).cloned();
        Some(Filter { name, values: (1..).map_while(value).collect() })
    };
    (1..).map_while(filter).collect()
}

fn state(machine: &Machine) -> &'static str {
    match machine.power {
        Power::Starting => "pending",
        Power::On => "running",
        Power::Off => "stopped",
    }
}

/// What stands in the row of a machine.
pub(super) fn machine(machine: &Machine) -> String {
    let tag = |tag: &String| {
        let (key, value) = tag.split_once('=').unwrap_or((tag, ""));
        format!("<key>{key}</key><value>{value}</value>")
    };
    format!(
        "<instanceId>i-{:017x}</instanceId><imageId>ami-0a</imageId><instanceState><code>16</code><name>{}</name></instanceState>\
         <instanceType>{}</instanceType><launchTime>{}</launchTime>{}",
        machine.id,
        state(machine),
        machine.plan,
        humantime::format_rfc3339_millis(machine.created),
        set("tagSet", &machine.tags.iter().map(tag).collect::<Vec<_>>()),
    )
}

/// A list of rows.
pub(super) fn set(name: &str, rows: &[String]) -> String {
    let items: String = rows.iter().map(|row| format!("<item>{row}</item>")).collect();
    format!("<{name}>{items}</{name}>")
}

/// An answer that says yes.
pub(super) fn ok(action: &str, inner: &str) -> Answer {
    xml(
        200,
        &format!(
            "<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r-1</requestId>{inner}</{action}Response>"
        ),
    )
}

/// An answer that says no.
pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    xml(
        status,
        &format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
        ),
    )
}

fn xml(status: u16, text: &str) -> Answer {
    Answer {
        headers: vec![("content-type", "text/xml;charset=UTF-8".to_owned())],
        body: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}").into(),
        ..Answer::empty(status)
    }
}

/// The same with words for numbers and numbers for words.
pub(super) fn swap_types(text: &str) -> String {
    let mut swapped = String::new();
    for piece in text.split_inclusive('>') {
        let (words, tag) = piece.split_at(piece.find('<').unwrap_or(0));
        swapped.push_str(match words.trim() {
            "" => words,
            number if number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => "many",
            _ => "7",
        });
        swapped.push_str(tag);
    }
    swapped
}

/// A page of the price list: two of them, and every price that a kind of machine has beside the one that is asked for.
pub(super) fn prices(asked: &Value) -> Answer {
    let row = |plan: &str, tenancy: &str, price: &str| {
        json!({
            "product": {"productFamily": "Compute Instance", "attributes": {
                "instanceType": plan, "regionCode": REGION, "operatingSystem": "Linux", "tenancy": tenancy,
                "capacitystatus": "Used", "preInstalledSw": "NA", "operation": "RunInstances",
            }},
            "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": {
                "unit": "Hrs", "pricePerUnit": {"USD": price},
            }}}}},
        })
        .to_string()
    };
    let page = match asked["NextToken"].as_str() {
        None => json!({
            "FormatVersion": "aws_v1", "NextToken": "second",
            "PriceList": [row("t3.micro", "Shared", "0.0104000001"), row("t3.micro", "Dedicated", "0.0600000000")],
        }),
        Some(_) => json!({
            "FormatVersion": "aws_v1",
            "PriceList": [row("m5.large", "Shared", "0.0960000000"), row("t99.huge", "Shared", "1.0000000000")],
        }),
    };
    Answer::json(200, &page)
}
