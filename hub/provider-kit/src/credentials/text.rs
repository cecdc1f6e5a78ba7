//! Credentials as people write them: lines, or one JSON object.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{CredentialSpec, Credentials};

/// Longest value of a field, in bytes; session tokens of AWS, the longest there are, have some 2 KiB.
const MAX_VALUE: usize = 8 * 1024;

/// A text that holds no credentials. It says the line or the field, and nothing that stands there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialTextError(String);

/// Names and values, each with the line where it stands; a name of a JSON object has none.
type Rows = Vec<(Option<usize>, String, Secret<String>)>;

impl Credentials {
    /// Reads lines `name = value` with comments after `#`, or one JSON object of texts. A name is that of a field or of one of
    /// its variables, so a file for a shell will do. Where the cloud is Google's, the JSON key of a service account will do, too.
    /// `origin` is as for [`Self::new`].
    ///
    /// # Errors
    ///
    /// What is wrong with it and what to do, as the end of a sentence that begins with what was read.
    pub fn read(spec: &CredentialSpec, origin: &str, text: &str) -> Result<Self, CredentialTextError> {
        let rows = match google_key(spec, text) {
            Some(rows) => Ok(rows),
            None if text.trim_start().starts_with('{') => json(text),
            None => lines(text),
        };
        let mut fields = BTreeMap::new();
        for (line, name, value) in rows? {
            let Some(field) = spec.named(&name) else {
                let known: Vec<_> = spec.fields().map(|field| field.name).collect();
                // What stands there may be a value that has `=` in it.
                let place = line.map_or_else(|| "in its object".to_owned(), |line| format!("in line {line}"));
                return Err(wrong(format!("has {place} what is no field; known are {}", known.join(", "))));
            };
            check(field.name, value.expose())?;
            if fields.insert(field.name.to_owned(), value).is_some() {
                return Err(wrong(format!("says {} twice; take one out", field.name)));
            }
        }
        for field in spec.required {
            if fields.get(field.name).is_none_or(|value| value.expose().is_empty()) {
                return Err(wrong(format!("has no {}; add `{} = ...`", field.name, field.name)));
            }
        }
        Ok(Self::new(origin, fields))
    }

    /// The same for what a person gives to a command: where the cloud needs one field alone, its bare value will do, too.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`].
    pub fn given(spec: &CredentialSpec, origin: &str, text: &str) -> Result<Self, CredentialTextError> {
        let bare = text.trim();
        let is_bare = !bare.is_empty() && !bare.contains(['=', '{', '\n']);
        match spec.required {
            [only] if is_bare => {
                check(only.name, bare)?;
                Ok(Self::new(origin, [(only.name.to_owned(), Secret::new(bare.to_owned()))]))
            }
            _ => Self::read(spec, origin, text),
        }
    }

    /// The fields as one JSON object, which [`Self::read`] reads back.
    #[must_use]
    pub fn to_json(&self) -> Secret<String> {
        let fields: BTreeMap<&str, &str> =
            self.fields.iter().map(|(name, value)| (name.as_str(), value.expose().as_str())).collect();
        // Texts by texts are always written.
        Secret::new(serde_json::to_string(&fields).unwrap_or_default())
    }
}

fn wrong(why: String) -> CredentialTextError {
    CredentialTextError(why)
}

/// No value of any cloud has blanks in it, or characters that no header takes.
fn check(name: &str, value: &str) -> Result<(), CredentialTextError> {
    if value.len() > MAX_VALUE {
        return Err(wrong(format!("has more than 8 KiB as its {name}; copy it again")));
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong(format!(
            "has a blank or a character that is not ASCII in its {name}; copy it again"
        )));
    }
    Ok(())
}

/// The key of a service account as Google's console writes it, as the fields of a cloud that takes one; `None` for what is none.
fn google_key(spec: &CredentialSpec, text: &str) -> Option<Rows> {
    let packed = spec.named("service_account_key")?;
    if !text.trim_start().starts_with('{') {
        return None;
    }
    let key: GoogleKey = serde_json::from_str(text).ok()?;
    if key.kind != "service_account" {
        return None;
    }
    let value = Secret::new(STANDARD.encode(text.trim()));
    let project = key.project_id.map(|project| (None, "project_id".to_owned(), Secret::new(project)));
    Some(project.into_iter().chain([(None, packed.name.to_owned(), value)]).collect())
}

/// What tells the key of a service account from other JSON.
#[derive(Deserialize)]
struct GoogleKey {
    #[serde(rename = "type")]
    kind: String,
    project_id: Option<String>,
}

fn lines(text: &str) -> Result<Rows, CredentialTextError> {
    let mut rows = Rows::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) =
            line.split_once('=').ok_or_else(|| wrong(format!("has no `name = value` in line {number}")))?;
        let name = name.trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let value = value.trim();
        let value = ['"', '\'']
            .iter()
            .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote))
            .unwrap_or(value);
        rows.push((Some(number), name.to_owned(), Secret::new(value.to_owned())));
    }
    Ok(rows)
}

fn json(text: &str) -> Result<Rows, CredentialTextError> {
    let fields: BTreeMap<String, Zeroizing<String>> = serde_json::from_str::<BTreeMap<String, String>>(text)
        .map_err(|error| {
            // The error's own text may repeat a value.
            let (line, column) = (error.line(), error.column());
            wrong(format!("is no JSON object of texts at line {line} column {column}"))
        })?
        .into_iter()
        .map(|(name, value)| (name, Zeroizing::new(value)))
        .collect();
    let row = |(name, mut value): (String, Zeroizing<String>)| {
        (None, name, Secret::new(std::mem::take(&mut *value)))
    };
    Ok(fields.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{AWS, DIGITALOCEAN, GCP};
    use super::*;

    #[test]
    fn the_key_of_a_service_account_is_taken_as_googles_console_writes_it() {
        let key = "\n{\n  \"type\": \"service_account\",\n  \"project_id\": \"p-1\",\n  \"private_key\": \"-----BEGIN canary\\n\"\n}\n";
        for read in [Credentials::read(&GCP, "a test", key), Credentials::given(&GCP, "a test", key)] {
            let read = read.unwrap();
            assert_eq!(read.require("project_id").unwrap().expose(), "p-1");
            let packed = read.require("service_account_key").unwrap().expose().clone();
            assert_eq!(STANDARD.decode(packed).unwrap(), key.trim().as_bytes());
            let again = Credentials::read(&GCP, "a test", read.to_json().expose()).unwrap();
            assert_eq!(again, read);
        }
        let without = Credentials::read(&GCP, "a test", "{\"type\": \"service_account\"}").unwrap_err();
        assert!(without.to_string().contains("no project_id"), "{without}");
        let others = Credentials::read(&DIGITALOCEAN, "a test", key).unwrap_err().to_string();
        assert!(others.contains("no field") && !others.contains("canary"), "{others}");
    }

    #[test]
    fn one_field_alone_may_be_given_bare() {
        for text in ["canary", " canary\n", "token=canary", r#"{"token":"canary"}"#, "DO_TOKEN = canary"] {
            let given = Credentials::given(&DIGITALOCEAN, "a test", text).unwrap();
            assert_eq!(given.require("token").unwrap().expose(), "canary", "{text}");
        }
        for text in ["", "\n", "canary\ncanary", "two canaries", "canary\u{e4}"] {
            let error = Credentials::given(&DIGITALOCEAN, "a test", text).unwrap_err().to_string();
            assert!(!error.contains("canar"), "{error}");
        }
        assert!(Credentials::given(&AWS, "a test", "canary").is_err());
    }

    #[test]
    fn a_bare_value_that_looks_like_a_name_is_refused_and_not_repeated() {
        for (text, place) in
            [("canary=", "line 1"), ("\ncanary = x", "line 2"), (r#"{"canary":"x"}"#, "its object")]
        {
            let error = Credentials::given(&DIGITALOCEAN, "a test", text).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("known are token"), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = "access_key_id = a\nsecret_access_key = b\\\"=/+c\nrole_arn = arn:aws:iam::1:role/x";
        let read = Credentials::read(&AWS, "a test", text).unwrap();
        let again = Credentials::read(&AWS, "a test", read.to_json().expose()).unwrap();
        assert!(read == again && again.names().count() == 3);
    }

    #[test]
    fn values_that_no_cloud_gives_are_refused_and_not_repeated() {
        for value in ["a canary", "canary\u{7f}", &"canary".repeat(2000)] {
            let text = serde_json::json!({ "token": value }).to_string();
            let error = Credentials::read(&DIGITALOCEAN, "a test", &text).unwrap_err().to_string();
            assert!(error.contains("its token") && !error.contains("canary"), "{error}");
        }
    }
}
