//! TOML, JSON, YAML, CSV and lists of variables, told apart and parsed.

use serde_json::Value;

use crate::secrets::Line;
use crate::{MAX_DEPTH, MAX_KEY, MAX_KEYS, ReadError, csv, expand, yaml};

/// A file's content.
#[derive(Debug)]
pub(crate) enum Content {
    /// Tables and lists within each other.
    Tree(Value),
    /// Rows of fields, the names first.
    Table(Vec<Vec<String>>),
    /// Lines `NAME=VALUE`.
    Variables(Vec<Line>),
}

/// Parses a file in the format that its ending names; where that names none, in the first that fits.
pub(crate) fn parse(name: &str, text: &str) -> Result<Content, ReadError> {
    let ending = name.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
    let begins_json = text.trim_start().starts_with('{');
    let content = match ending.as_deref() {
        Some("csv") => {
            let rows = csv::rows(text).map_err(|why| ReadError::Format { format: "CSV", why })?;
            let mut names = rows.iter().take(1).flatten().map(String::len);
            if let Some(long) = names.find(|length| *length > MAX_KEY) {
                return Err(ReadError::LongKey(long));
            }
            Content::Table(rows)
        }
        Some("env") => Content::Variables(variables(text)?),
        Some("json") => Content::Tree(json_or_toml(text)?),
        Some("yml" | "yaml") => Content::Tree(yaml(text)?),
        Some("toml") => Content::Tree(toml(text)?),
        Some(_) | None if begins_json => Content::Tree(json(text)?),
        Some(_) | None => match (toml(text), yaml(text)) {
            (Ok(value), _) | (Err(_), Ok(value)) => Content::Tree(value),
            (Err(error), Err(_)) => return Err(error),
        },
    };
    if let Content::Tree(value) = &content {
        check(value)?;
        if !value.is_object() {
            return Err(ReadError::Unknown("it is no table of keys".to_owned()));
        }
    }
    Ok(content)
}

/// The tools of today write JSON and read TOML under the same name.
fn json_or_toml(text: &str) -> Result<Value, ReadError> {
    json(text).or_else(|error| toml(text).map_err(|_| error))
}

fn json(text: &str) -> Result<Value, ReadError> {
    // The text of the library's error names line and column, and repeats no value.
    serde_json::from_str(text).map_err(|error| ReadError::Format {
        format: "JSON",
        why: format!("line {}, column {}", error.line(), error.column()),
    })
}

fn toml(text: &str) -> Result<Value, ReadError> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        // The whole text of the error shows the line, in which a secret may stand.
        let line =
            error.span().and_then(|span| text.get(..span.start)).map(|before| before.lines().count().max(1));
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        ReadError::Format { format: "TOML", why: format!("{place}{}", first_line(error.message())) }
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn yaml(text: &str) -> Result<Value, ReadError> {
    yaml::parse(text).map_err(|error| ReadError::Format { format: "YAML", why: error.to_string() })
}

fn variables(text: &str) -> Result<Vec<Line>, ReadError> {
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1u32..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let pair = line.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
        let Some((name, value)) = pair.filter(|(name, _)| expand::is_name(name)) else {
            let why = format!("line {number} is not NAME=VALUE");
            return Err(ReadError::Format { format: "list of variables", why });
        };
        if lines.len() >= MAX_KEYS {
            return Err(ReadError::TooMany);
        }
        let quoted = |mark: char| value.strip_prefix(mark).and_then(|rest| rest.strip_suffix(mark));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        lines.push(Line::new(name, value));
    }
    Ok(lines)
}

/// Bounds on depth, on how many keys there are and on their names, without recursion.
fn check(value: &Value) -> Result<(), ReadError> {
    let (mut open, mut count) = (vec![(value, 0usize)], 0usize);
    while let Some((value, depth)) = open.pop() {
        if depth > MAX_DEPTH {
            return Err(ReadError::TooDeep);
        }
        count = count.saturating_add(1);
        if count > MAX_KEYS {
            return Err(ReadError::TooMany);
        }
        let inner: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Array(list) => Box::new(list.iter()),
            Value::Object(fields) => {
                if let Some(long) = fields.keys().map(String::len).find(|length| *length > MAX_KEY) {
                    return Err(ReadError::LongKey(long));
                }
                Box::new(fields.values())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => continue,
        };
        open.extend(inner.map(|value| (value, depth.saturating_add(1))));
    }
    Ok(())
}
