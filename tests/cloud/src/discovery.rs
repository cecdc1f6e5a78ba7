//! Requests and answers against a discovery document of Google's: the official description of an API.
//!
//! `data/google-compute-v1.json` is a part of the one of Compute Engine; `data/NOTICE.txt` says where from.

use std::sync::OnceLock;

use serde_json::Value;

use crate::server::Request;

const COMPUTE: &str = include_str!("../data/google-compute-v1.json");

/// Depth at which a schema that names itself is taken to fit.
const MAX_DEPTH: usize = 40;

/// A discovery document.
#[derive(Debug)]
pub struct Discovery(Value);

impl Discovery {
    /// The one of Compute Engine.
    pub fn embedded() -> &'static Self {
        static DOCUMENT: OnceLock<Discovery> = OnceLock::new();
        DOCUMENT.get_or_init(|| Self(serde_json::from_str(COMPUTE).unwrap()))
    }

    /// What is wrong with a request by the document.
    #[must_use]
    pub fn faults(&self, request: &Request) -> Vec<String> {
        let Some(method) = self.method(request) else {
            return vec!["the document has no such method".to_owned()];
        };
        let mut faults = Vec::new();
        for (name, value) in &request.query {
            let own = &method["parameters"][name.as_str()];
            let known = if own.is_null() { &self.0["parameters"][name.as_str()] } else { own };
            if known.is_null() || known["location"] != "query" {
                faults.push(format!("the query has {name}, which {} does not know", method["id"]));
            } else {
                scalar(&Value::from(value.as_str()), known, name, &mut faults);
            }
        }
        let schema = &method["request"];
        match (schema.is_null(), request.body.is_empty()) {
            (true, false) => faults.push(format!("{} takes no body", method["id"])),
            (false, true) => faults.push(format!("{} takes a body", method["id"])),
            (false, false) => self.check(&request.json(), schema, "body", 0, &mut faults),
            (true, true) => {}
        }
        faults
    }

    /// What is wrong with an answer that says yes.
    #[must_use]
    pub fn faults_of_answer(&self, request: &Request, body: &[u8]) -> Vec<String> {
        let Some(method) = self.method(request) else { return Vec::new() };
        let mut faults = Vec::new();
        let body = serde_json::from_slice(body).unwrap_or_default();
        self.check(&body, &method["response"], "answer", 0, &mut faults);
        faults
    }

    fn method(&self, request: &Request) -> Option<&Value> {
        let service = self.0["servicePath"].as_str().unwrap_or_default();
        let path = request.path.strip_prefix('/')?.strip_prefix(service)?;
        let asked: Vec<_> = path.split('/').collect();
        let methods = self.0["resources"].as_object()?.values();
        let mut found: Vec<_> = methods
            .flat_map(|resource| {
                resource["methods"].as_object().into_iter().flatten().map(|(_, method)| method)
            })
            .filter(|method| method["httpMethod"] == request.method.as_str())
            .filter(|method| {
                let own: Vec<_> = method["path"].as_str().unwrap_or_default().split('/').collect();
                own.len() == asked.len()
                    && own
                        .iter()
                        .zip(&asked)
                        .all(|(own, asked)| own == asked || (own.starts_with('{') && !asked.is_empty()))
            })
            .collect();
        found.sort_by_key(|method| method["path"].as_str().unwrap_or_default().matches('{').count());
        found.first().copied()
    }

    fn check(&self, value: &Value, schema: &Value, at: &str, depth: usize, faults: &mut Vec<String>) {
        let schema = match schema["$ref"].as_str() {
            Some(name) => &self.0["schemas"][name],
            None => schema,
        };
        if depth > MAX_DEPTH || schema.is_null() {
            return;
        }
        match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(fields)) => {
                let (known, others) = (&schema["properties"], &schema["additionalProperties"]);
                for (name, value) in fields {
                    let own = if known[name.as_str()].is_null() { others } else { &known[name.as_str()] };
                    if own.is_null() {
                        faults.push(format!("{at} has {name}, which the document does not know"));
                    } else {
                        self.check(value, own, &format!("{at}.{name}"), depth + 1, faults);
                    }
                }
            }
            (Some("array"), Value::Array(values)) => {
                for (index, value) in values.iter().enumerate() {
                    self.check(value, &schema["items"], &format!("{at}[{index}]"), depth + 1, faults);
                }
            }
            (Some("any"), _) => {}
            _ => scalar(value, schema, at, faults),
        }
    }
}

/// A single value. Numbers of 64 bits are texts on the wire, and so is every parameter.
fn scalar(value: &Value, schema: &Value, at: &str, faults: &mut Vec<String>) {
    let is_text = value.is_string();
    let text = value.as_str().unwrap_or_default();
    let is_right = match (schema["type"].as_str(), schema["location"].as_str()) {
        (Some("string"), _) => is_text && is_of_format(text, schema["format"].as_str()),
        (Some("integer"), Some(_)) => text.parse::<i64>().is_ok(),
        (Some("boolean"), Some(_)) => text == "true" || text == "false",
        (Some("integer"), None) => value.is_u64() || value.is_i64(),
        (Some("number"), None) => value.is_number(),
        (Some("boolean"), None) => value.is_boolean(),
        _ => true,
    };
    if !is_right {
        faults.push(format!("{at} is no {} {}: {value}", schema["type"], schema["format"]));
    }
    let known = schema["enum"].as_array();
    if known.is_some_and(|known| !known.contains(value)) {
        faults.push(format!("{at} is none of the values that the document knows: {value}"));
    }
    let least = schema["minimum"].as_str().and_then(|least| least.parse::<i64>().ok());
    if let (Some(least), Ok(number)) = (least, text.parse::<i64>())
        && number < least
    {
        faults.push(format!("{at} is less than {least}"));
    }
}

fn is_of_format(text: &str, format: Option<&str>) -> bool {
    match format {
        Some("int64") => text.parse::<i64>().is_ok(),
        Some("uint64") => text.parse::<u64>().is_ok(),
        _ => true,
    }
}
