//! Requests and answers against an OpenAPI 3 document: as much of JSON Schema as such documents of clouds use.

mod swagger;

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::fake::Asked;

/// Depth at which a schema that names itself is taken to fit.
const MAX_DEPTH: usize = 40;

/// An OpenAPI document.
#[derive(Debug)]
pub struct Spec(Value);

impl Spec {
    /// Reads a document, packed with gzip: JSON, or YAML where its name says so (`.yaml.gz`).
    ///
    /// # Errors
    ///
    /// Where it cannot be read; YAML takes python3 with its module yaml.
    pub fn read(path: &Path) -> Result<Self> {
        let packed = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text)?;
        if path.to_string_lossy().ends_with(".yaml.gz") {
            text = json_of(text).with_context(|| format!("cannot read {}", path.display()))?;
        }
        Ok(Self(serde_json::from_str(&text)?))
    }

    /// What is wrong with a request by the document, and with the fake's own answer to it.
    ///
    /// # Errors
    ///
    /// Where the document has no such path or method.
    pub fn faults(&self, asked: &Asked) -> Result<Vec<String>> {
        let request = &asked.request;
        let method = request.method.as_str().to_ascii_lowercase();
        let (template, operation) = self.operation(&request.path, &method)?;
        let mut faults = Vec::new();
        let parameters: Vec<&Value> =
            array(&operation["parameters"]).iter().map(|parameter| self.resolved(parameter)).collect();
        for (name, value) in &request.query {
            match parameters.iter().find(|own| own["in"] == "query" && own["name"] == name.as_str()) {
                Some(parameter) => self.parameter(name, value, &parameter["schema"], &mut faults),
                None => faults.push(format!("the query has {name}, which {template} does not know")),
            }
        }
        for parameter in parameters.iter().filter(|own| own["required"] == true) {
            let name = parameter["name"].as_str().unwrap_or_default();
            let is_there = match parameter["in"].as_str() {
                Some("query") => request.query(name).is_some(),
                Some("header") => request.header(name).is_some(),
                _ => true,
            };
            if !is_there {
                faults.push(format!("{name} is missing"));
            }
        }
        let body = self.resolved(&operation["requestBody"]);
        if body.is_null() {
            if !request.body.is_empty() {
                faults.push(format!("{template} takes no body"));
            }
        } else if !request.body.is_empty() || body["required"] == true {
            self.check(
                &request.json(),
                &body["content"]["application/json"]["schema"],
                "body",
                0,
                &mut faults,
            );
        }
        if let Some(answer) = &asked.answer {
            self.answer(operation, answer.status, &answer.body, &mut faults);
        }
        Ok(faults)
    }

    fn answer(&self, operation: &Value, status: u16, body: &[u8], faults: &mut Vec<String>) {
        let own = self.resolved(&operation["responses"][status.to_string()]);
        let known = if own.is_null() { self.resolved(&operation["responses"]["default"]) } else { own };
        let schema = &known["content"]["application/json"]["schema"];
        if !schema.is_null() {
            let body = serde_json::from_slice(body).unwrap_or_default();
            self.check(&body, schema, "answer", 0, faults);
        } else if !body.is_empty() {
            faults.push(format!("the fake answers {status} with a body, which the document does not"));
        }
    }

    fn operation(&self, path: &str, method: &str) -> Result<(&str, &Value)> {
        let paths = self.0["paths"].as_object().context("the document has no paths")?;
        let fits = |template: &str| {
            let (own, asked): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
            own.len() == asked.len()
                && own
                    .iter()
                    .zip(&asked)
                    .all(|(own, asked)| own == asked || (own.starts_with('{') && !asked.is_empty()))
        };
        // A path without variables goes before one with them.
        let mut found: Vec<_> = paths.iter().filter(|(template, _)| fits(template)).collect();
        found.sort_by_key(|(template, _)| template.matches('{').count());
        match found.first() {
            Some((template, item)) if !item[method].is_null() => Ok((template, &item[method])),
            Some((template, _)) => bail!("{template} has no method {method}"),
            None => bail!("there is no path {path}"),
        }
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let mut value = value;
        while let Some(reference) = value["$ref"].as_str() {
            value = self.0.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        }
        value
    }

    fn parameter(&self, name: &str, text: &str, schema: &Value, faults: &mut Vec<String>) {
        let schema = self.resolved(schema);
        let value = match schema["type"].as_str() {
            Some("integer" | "boolean" | "number") => {
                serde_json::from_str(text).unwrap_or_else(|_| text.into())
            }
            _ => Value::from(text),
        };
        self.check(&value, schema, name, 0, faults);
    }

    fn check(&self, value: &Value, schema: &Value, at: &str, depth: usize, faults: &mut Vec<String>) {
        let schema = self.resolved(schema);
        if depth > MAX_DEPTH || (value.is_null() && schema["nullable"] == true) {
            return;
        }
        for one in array(&schema["allOf"]) {
            self.check(value, one, at, depth + 1, faults);
        }
        for choice in ["oneOf", "anyOf"] {
            let choices = array(&schema[choice]);
            let fitting = choices.iter().filter(|one| self.fits(value, one, at, depth + 1)).count();
            if !choices.is_empty() && fitting == 0 {
                faults.push(format!("{at} fits none of its {} shapes: {value}", choices.len()));
            }
        }
        if let Some(wanted) = schema["type"].as_str()
            && !is_type(value, wanted)
        {
            faults.push(format!("{at} is no {wanted}: {value}"));
            return;
        }
        if schema["enum"].as_array().is_some_and(|known| !known.contains(value)) {
            faults.push(format!("{at} is none of {}: {value}", schema["enum"]));
        }
        bounds(value, schema, at, faults);
        for name in array(&schema["required"]).iter().filter_map(Value::as_str) {
            if value.is_object() && value.get(name).is_none() {
                faults.push(format!("{at} has no {name}"));
            }
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = value.get(name) {
                self.check(value, schema, &format!("{at}.{name}"), depth + 1, faults);
            }
        }
        if !schema["items"].is_null() {
            for (index, value) in array(value).iter().enumerate() {
                self.check(value, &schema["items"], &format!("{at}[{index}]"), depth + 1, faults);
            }
        }
    }

    fn fits(&self, value: &Value, schema: &Value, at: &str, depth: usize) -> bool {
        let mut faults = Vec::new();
        self.check(value, schema, at, depth, &mut faults);
        faults.is_empty()
    }
}

/// A document of YAML as JSON. No parser of YAML is among the dependencies, and this one alone does not pay for one.
fn json_of(yaml: String) -> Result<String> {
    const PROGRAM: &str = "import json, sys, yaml\n\
        loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)\n\
        json.dump(yaml.load(sys.stdin, loader), sys.stdout, default=str)";
    let mut child = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start python3")?;
    let mut input = child.stdin.take().context("python3 takes no input")?;
    let writer = std::thread::Builder::new().spawn(move || input.write_all(yaml.as_bytes()))?;
    let finished = child.wait_with_output()?;
    let is_written = writer.join().is_ok_and(|written| written.is_ok());
    if !is_written || !finished.status.success() {
        bail!("python3 cannot read it as YAML; install the module yaml (python3-yaml)");
    }
    Ok(String::from_utf8(finished.stdout)?)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn is_type(value: &Value, wanted: &str) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    }
}

fn bounds(value: &Value, schema: &Value, at: &str, faults: &mut Vec<String>) {
    if let (Some(number), Some(least)) = (value.as_f64(), schema["minimum"].as_f64())
        && number < least
    {
        faults.push(format!("{at} is {number}, at least {least} was expected"));
    }
    if let (Some(number), Some(most)) = (value.as_f64(), schema["maximum"].as_f64())
        && number > most
    {
        faults.push(format!("{at} is {number}, at most {most} was expected"));
    }
    let length = value.as_str().map(|text| u64::try_from(text.chars().count()).unwrap_or(u64::MAX));
    if let (Some(length), Some(most)) = (length, schema["maxLength"].as_u64())
        && length > most
    {
        faults.push(format!("{at} has {length} characters, at most {most} were expected"));
    }
}
