//! Requests against the descriptions of AWS's services that botocore carries: the official model of each API.
//!
//! EC2 and STS are asked by forms whose names spell out a path (`BlockDeviceMapping.1.Ebs.Encrypted`), SSM and the price list by
//! JSON.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::server::Request;

/// Depth at which a shape that names itself is taken to fit.
const MAX_DEPTH: usize = 20;

/// The description of one service.
#[derive(Debug)]
pub struct Service(Value);

impl Service {
    /// Reads one of a botocore whose server has this program (`.../bin/moto_server`), such as `ec2/2016-11-15`.
    ///
    /// # Errors
    ///
    /// Where there is none, or it cannot be read.
    pub fn beside(program: &Path, name: &str) -> Result<Self> {
        let root = program.parent().and_then(Path::parent).context("the program is in no environment")?;
        let versions = std::fs::read_dir(root.join("lib"))?.flatten().map(|entry| entry.path());
        let file = format!("site-packages/botocore/data/{name}/service-2.json.gz");
        let path = versions.map(|version| version.join(&file)).find(|path| path.is_file());
        let path = path.with_context(|| format!("no {file} below {}", root.display()))?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(std::fs::read(&path)?.as_slice()).read_to_string(&mut text)?;
        Ok(Self(serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?))
    }

    /// What is wrong with a request by the description.
    #[must_use]
    pub fn faults(&self, request: &Request) -> Vec<String> {
        let (action, document, style) = match request.header("x-amz-target") {
            Some(target) => {
                let action = target.rsplit('.').next().unwrap_or_default().to_owned();
                (action, request.json(), Style::Json)
            }
            None => self.form(request),
        };
        let mut faults = Vec::new();
        if style != Style::Json && document["Version"] != self.0["metadata"]["apiVersion"] {
            faults.push(format!("Version is {}", document["Version"]));
        }
        let operation = &self.0["operations"][action.as_str()];
        if operation.is_null() {
            faults.push(format!("there is no operation {action:?}"));
            return faults;
        }
        let mut document = document;
        if let Some(fields) = document.as_object_mut().filter(|_| style != Style::Json) {
            fields.remove("Action");
            fields.remove("Version");
        }
        let input = operation["input"]["shape"].as_str().unwrap_or_default();
        if input.is_empty() {
            if document.as_object().is_some_and(|fields| !fields.is_empty()) {
                faults.push(format!("{action} takes nothing"));
            }
            return faults;
        }
        self.check(&document, input, &action, style, &mut faults);
        faults
    }

    /// The form as a tree of texts, by the dots in its names.
    fn form(&self, request: &Request) -> (String, Value, Style) {
        let rows: BTreeMap<String, String> = serde_urlencoded::from_bytes(&request.body).unwrap_or_default();
        let action = rows.get("Action").cloned().unwrap_or_default();
        let mut tree = Value::Object(Map::new());
        for (name, value) in rows {
            let mut at = &mut tree;
            for part in name.split('.') {
                if !at.is_object() {
                    *at = Value::Object(Map::new());
                }
                at = &mut at[part];
            }
            *at = Value::String(value);
        }
        let is_ec2 = self.0["metadata"]["protocol"] == "ec2";
        (action, tree, if is_ec2 { Style::Ec2 } else { Style::Query })
    }

    fn check(&self, value: &Value, name: &str, path: &str, style: Style, faults: &mut Vec<String>) {
        let shape = &self.0["shapes"][name];
        if path.split('.').count() > MAX_DEPTH {
            return;
        }
        let mut wrong = |what: &str| faults.push(format!("{path}: {what} of {name}: {value}"));
        match shape["type"].as_str().unwrap_or_default() {
            "structure" => match value.as_object() {
                Some(fields) => self.structure(fields, shape, path, style, faults),
                None => wrong("no fields"),
            },
            "list" => self.list(value, shape, path, style, faults),
            "integer" | "long" if !is_integer(value, style) => wrong("no whole number"),
            "float" | "double" if !is_number(value, style) => wrong("no number"),
            "boolean" if !is_boolean(value, style) => wrong("neither true nor false"),
            "string" => match value.as_str() {
                Some(text) => {
                    let known = shape["enum"].as_array();
                    if known.is_some_and(|known| known.iter().all(|own| own != text)) {
                        wrong("no value");
                    }
                    let length = u64::try_from(text.chars().count()).unwrap();
                    let within =
                        shape["min"].as_u64().unwrap_or(0)..=shape["max"].as_u64().unwrap_or(u64::MAX);
                    if !within.contains(&length) {
                        wrong("a length that is none");
                    }
                }
                None => wrong("no text"),
            },
            "blob" | "timestamp" if !value.is_string() => wrong("no text"),
            "integer" | "long" | "float" | "double" | "boolean" | "blob" | "timestamp" => {}
            other => {
                faults.push(format!("{path}: a shape of the type {other:?}, which this check does not know"))
            }
        }
    }

    fn structure(
        &self,
        fields: &Map<String, Value>,
        shape: &Value,
        path: &str,
        style: Style,
        faults: &mut Vec<String>,
    ) {
        let members: BTreeMap<String, (&String, &Value)> = shape["members"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, member)| (style.name_of(name, member), (name, member)))
            .collect();
        for (name, value) in fields {
            match members.get(name) {
                Some((_, member)) => {
                    let shape = member["shape"].as_str().unwrap_or_default();
                    self.check(value, shape, &format!("{path}.{name}"), style, faults);
                }
                None => faults.push(format!("{path} knows no {name}")),
            }
        }
        let required = shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        for wanted in required {
            let is_there = members.iter().any(|(name, (own, _))| *own == wanted && fields.contains_key(name));
            if !is_there {
                faults.push(format!("{path} lacks {wanted}"));
            }
        }
    }

    fn list(&self, value: &Value, shape: &Value, path: &str, style: Style, faults: &mut Vec<String>) {
        let member = shape["member"]["shape"].as_str().unwrap_or_default();
        let rows: Vec<&Value> = match style {
            Style::Json => match value.as_array() {
                Some(rows) => rows.iter().collect(),
                None => return faults.push(format!("{path}: no list: {value}")),
            },
            Style::Ec2 | Style::Query => {
                let own = if style == Style::Query && shape["flattened"].is_null() {
                    &value["member"]
                } else {
                    value
                };
                let Some(rows) = own.as_object() else {
                    return faults.push(format!("{path}: no list: {value}"));
                };
                // Numbers from 1 on, and none left out.
                let numbered = (1..=rows.len()).map(|number| rows.get(&number.to_string()));
                match numbered.collect() {
                    Some(rows) => rows,
                    None => return faults.push(format!("{path}: not numbered from 1 on: {value}")),
                }
            }
        };
        for (number, row) in (1..).zip(rows) {
            self.check(row, member, &format!("{path}.{number}"), style, faults);
        }
    }
}

/// How a service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Forms with names of their own.
    Ec2,
    /// Forms.
    Query,
    /// Documents.
    Json,
}

impl Style {
    /// What a member is called on the wire.
    fn name_of(self, name: &str, member: &Value) -> String {
        let said = |field: &str| member[field].as_str().map(str::to_owned);
        match self {
            Self::Json => name.to_owned(),
            Self::Query => said("locationName").unwrap_or_else(|| name.to_owned()),
            Self::Ec2 => said("queryName")
                .or_else(|| {
                    let own = said("locationName")?;
                    let mut letters = own.chars();
                    let first = letters.next()?.to_ascii_uppercase();
                    Some(std::iter::once(first).chain(letters).collect())
                })
                .unwrap_or_else(|| name.to_owned()),
        }
    }
}

fn is_integer(value: &Value, style: Style) -> bool {
    match style {
        Style::Json => value.is_i64() || value.is_u64(),
        Style::Ec2 | Style::Query => value.as_str().is_some_and(|text| text.parse::<i64>().is_ok()),
    }
}

fn is_number(value: &Value, style: Style) -> bool {
    match style {
        Style::Json => value.is_number(),
        Style::Ec2 | Style::Query => value.as_str().is_some_and(|text| text.parse::<f64>().is_ok()),
    }
}

fn is_boolean(value: &Value, style: Style) -> bool {
    match style {
        Style::Json => value.is_boolean(),
        Style::Ec2 | Style::Query => value == "true" || value == "false",
    }
}
