//! Credentials: `providers.yml`, variables, and how they fit what a provider of the hub wants.

use std::collections::BTreeMap;
use std::fmt;

use blueprint_common_types::Secret;
use serde_json::{Map, Value};

use crate::expand::Around;
use crate::keys::{below, text};
use crate::names::{provider, why_not};
use crate::report::Report;

/// Longest credential in bytes.
const MAX_SECRET: usize = 32 * 1024;

/// Names of keys that hold a secret.
const SECRETS: [&str; 16] = [
    "api_key",
    "apikey",
    "key",
    "token",
    "api_token",
    "auth_token",
    "access_token",
    "access_key",
    "access_key_id",
    "secret",
    "secret_key",
    "secret_access_key",
    "password",
    "client_secret",
    "credentials",
    "secret_key_id",
];

/// Whether a key of this name holds a secret.
pub(crate) fn is_secret(key: &str) -> bool {
    let plain = key.to_ascii_lowercase().replace('-', "_");
    SECRETS.contains(&plain.as_str())
}

/// One line of a list of variables.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) value: Secret<String>,
}

impl Line {
    pub(crate) fn new(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: Secret::new(value.to_owned()) }
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Credentials of one provider, as a file has them.
pub struct Given {
    /// The provider, by the hub's name.
    pub provider: String,
    values: BTreeMap<String, Secret<String>>,
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("provider", &self.provider).finish_non_exhaustive()
    }
}

/// A field of a provider's credentials, as the hub tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Whether there have to be one.
    pub required: bool,
    /// Whether it is a secret.
    pub secret: bool,
    /// Variables of the environment that hold it.
    pub variables: Vec<String>,
}

/// Why credentials of a file are not those of a provider.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

impl Given {
    pub(crate) fn one(provider: &str, key: &str, value: Secret<String>) -> Self {
        Self { provider: provider.to_owned(), values: [(key.to_owned(), value)].into() }
    }

    /// The credentials as a JSON object of the provider's fields.
    ///
    /// # Errors
    ///
    /// [`Unfit`] where a field that is required is not there, or a value has no field.
    pub fn fit(&self, fields: &[Field]) -> Result<Secret<String>, Unfit> {
        let secrets: Vec<&Field> = fields.iter().filter(|field| field.secret && field.required).collect();
        let mut out = Map::new();
        let mut strange = Vec::new();
        for (key, value) in &self.values {
            let plain = key.to_ascii_lowercase().replace('-', "_");
            let by_name =
                fields.iter().find(|field| field.name == plain || alias(&plain) == Some(&*field.name));
            let by_variable = || fields.iter().find(|field| field.variables.iter().any(|name| name == key));
            // What today's tools call an API key is the one secret of a provider that has one.
            let lone = || match secrets.as_slice() {
                [one]
                    if is_secret(&plain) && self.values.keys().filter(|key| is_secret(key)).count() == 1 =>
                {
                    Some(*one)
                }
                _ => None,
            };
            match by_name.or_else(by_variable).or_else(lone) {
                Some(field) => drop(out.insert(field.name.clone(), Value::from(value.expose().as_str()))),
                None => strange.push(key.as_str()),
            }
        }
        let lacks: Vec<_> =
            fields.iter().filter(|field| field.required && !out.contains_key(&field.name)).collect();
        if let (Some(first), _) | (None, Some(first)) =
            (lacks.first().map(|field| field.name.as_str()), strange.first().copied())
        {
            let names: Vec<_> = fields.iter().map(|field| field.name.as_str()).collect();
            let what = if lacks.is_empty() { "has no field" } else { "is not in the file" };
            return Err(Unfit(format!(
                "{first} {what}: credentials of {} are made of {}; give them with `blueprint-hub provider configure {}`",
                self.provider,
                names.join(", "),
                self.provider
            )));
        }
        Ok(Secret::new(Value::Object(out).to_string()))
    }
}

/// What other tools call a field.
fn alias(plain: &str) -> Option<&'static str> {
    Some(match plain {
        "access_key" | "aws_access_key_id" => "access_key_id",
        "secret_key" | "secret_access_key_id" | "aws_secret_access_key" => "secret_access_key",
        "aws_session_token" => "session_token",
        _ => return None,
    })
}

/// `providers.yml`: credentials by provider, in each of the shapes that such files have.
pub(crate) fn read(fields: &Map<String, Value>, around: &Around<'_>, report: &mut Report) {
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("providers", Value::Object(inner)) => {
                for (name, value) in inner {
                    one(&below("providers", name), name, value, around, report);
                }
            }
            ("providers", Value::Array(list)) => {
                for (value, at) in list.iter().zip(0u32..) {
                    let path = format!("providers[{at}]");
                    match value.get("name").and_then(text) {
                        Some(name) => one(&path, name, value, around, report),
                        None => report.wrong(&path, "a name of a provider"),
                    }
                }
            }
            ("version", _) => report.absent(key, "the shape of the file says it all"),
            (name, value) => one(name, name, value, around, report),
        }
    }
}

fn one(path: &str, name: &str, value: &Value, around: &Around<'_>, report: &mut Report) {
    let known = provider(name);
    let Some(known) = known else {
        return report.absent(path, why_not(name));
    };
    let mut given = Given { provider: known.to_owned(), values: BTreeMap::new() };
    match value {
        Value::String(_) => take(path, "api_key", value, around, &mut given, report),
        Value::Object(inner) => {
            for (key, value) in inner {
                let path = below(path, key);
                match key.as_str() {
                    "name" => report.understood(&path, format!("the provider {known}")),
                    "region" | "regions" => match crate::keys::texts(value).filter(|list| !list.is_empty()) {
                        Some(list) => report.regions(&path, known, &list.join(",")),
                        None => report.wrong(&path, "the name of a region"),
                    },
                    "enabled" if value == &Value::Bool(false) => {
                        report
                            .absent(&path, "a provider is off until the hub's configuration switches it on");
                    }
                    "enabled" => {
                        report.set(&path, &format!("providers.{}.enabled", known.replace('-', "_")), "true")
                    }
                    _ => take(&path, key, value, around, &mut given, report),
                }
            }
        }
        Value::Null => return report.absent(path, "it is empty"),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            return report.wrong(path, "a key, or a table with one");
        }
    }
    if !given.values.is_empty() {
        report.setting(path, &format!("providers.{}.enabled", known.replace('-', "_")), "true");
        report.credentials.push(given);
    }
}

fn take(path: &str, key: &str, value: &Value, around: &Around<'_>, given: &mut Given, report: &mut Report) {
    // A key of digits alone is a text that was written without quotation marks; any other number was changed by its reader.
    let digits = value.as_number().filter(|number| !number.is_f64()).map(ToString::to_string);
    let Some(written) = digits.or_else(|| text(value).map(str::to_owned)).map(Secret::new) else {
        return if value.is_null() {
            report.absent(path, "it is empty")
        } else if value.is_number() {
            report.refused(path, "a number loses digits; write it in quotation marks and import again")
        } else {
            report.wrong(path, "a text")
        };
    };
    match around.expand(written.expose()) {
        Err(why) => report.refused(path, why),
        Ok(expanded) if expanded.text.expose().len() > MAX_SECRET => {
            report.refused(path, format!("it has more than {MAX_SECRET} bytes, so it is no credential"));
        }
        Ok(expanded) => {
            report.understood(path, format!("credentials of {}, sealed in the hub's store", given.provider));
            given.values.insert(key.to_owned(), expanded.text);
        }
    }
}

/// A list of variables: which of them are credentials of which provider.
pub(crate) fn variables(lines: &[Line], report: &mut Report) {
    let mut all: BTreeMap<&str, Given> = BTreeMap::new();
    for line in lines {
        let owner = OWNERS.iter().find(|(prefix, _)| line.name.starts_with(prefix)).map(|(_, name)| *name);
        let (name, value) = (line.name.as_str(), &line.value);
        let is_empty = value.expose().is_empty();
        match (owner, ROLES.iter().find(|(known, _)| *known == name).map(|(_, role)| *role)) {
            _ if is_empty => report.absent(name, "it is empty"),
            (Some(provider), Some(Role::Secret)) if provider != "equinix" => {
                report.understood(name, format!("credentials of {provider}, sealed in the hub's store"));
                let given = all
                    .entry(provider)
                    .or_insert_with(|| Given { provider: provider.to_owned(), values: BTreeMap::new() });
                given.values.insert(name.to_owned(), value.clone());
            }
            (Some("equinix"), _) => report.absent(name, why_not("equinix")),
            (Some(provider), Some(Role::Region)) => report.regions(name, provider, value.expose()),
            (_, Some(Role::Setting(key))) => report.set(name, key, value.expose().clone()),
            (_, Some(Role::Ssh)) => report.absent(name, "nobody logs in to a cloud's machine: it joins by itself"),
            (_, Some(Role::Open)) => {
                report.refused(name, "no port of a machine is opened to anybody; machines dial out to the hub");
            }
            (_, Some(Role::Own)) => report.refused(name, "the hub makes keys and certificates of its own; remove it"),
            (Some(provider), _) => report.absent(
                name,
                format!("the provider {provider} reads no such variable; `blueprint-hub provider ls --output json` names those it reads"),
            ),
            (None, _) => report.unknown(name, &[], &Value::Null),
        }
    }
    for (provider, given) in all {
        report.setting(provider, &format!("providers.{provider}.enabled"), "true");
        report.credentials.push(given);
    }
}

/// Whose a variable is, by how it begins.
const OWNERS: [(&str, &str); 13] = [
    ("AWS_", "aws"),
    ("GCP_", "gcp"),
    ("GOOGLE_", "gcp"),
    ("AZURE_", "azure"),
    ("DIGITALOCEAN_", "digitalocean"),
    ("DO_", "digitalocean"),
    ("VULTR_", "vultr"),
    ("LINODE_", "linode"),
    ("SCW_", "scaleway"),
    ("SCALEWAY_", "scaleway"),
    ("HIVELOCITY_", "hivelocity"),
    ("METAL_", "equinix"),
    ("EQUINIX_", "equinix"),
];

/// What a variable is for.
#[derive(Debug, Clone, Copy)]
enum Role {
    Secret,
    Region,
    Setting(&'static str),
    Ssh,
    Open,
    Own,
}

const ROLES: [(&str, Role); 54] = [
    ("AWS_ACCESS_KEY_ID", Role::Secret),
    ("AWS_SECRET_ACCESS_KEY", Role::Secret),
    ("AWS_SESSION_TOKEN", Role::Secret),
    ("AWS_REGION", Role::Region),
    ("AWS_DEFAULT_REGION", Role::Region),
    ("AWS_KEY_PAIR_NAME", Role::Ssh),
    ("AWS_SSH_KEY_PATH", Role::Ssh),
    ("GOOGLE_APPLICATION_CREDENTIALS", Role::Secret),
    ("GCP_PROJECT_ID", Role::Secret),
    ("GOOGLE_CLOUD_PROJECT", Role::Secret),
    ("GCP_ACCESS_TOKEN", Role::Secret),
    ("GCP_API_KEY", Role::Secret),
    ("GCP_SERVICE_ACCOUNT_KEY", Role::Secret),
    ("GCP_DEFAULT_REGION", Role::Region),
    ("GCP_SSH_KEY_PATH", Role::Ssh),
    ("AZURE_SUBSCRIPTION_ID", Role::Secret),
    ("AZURE_CLIENT_ID", Role::Secret),
    ("AZURE_CLIENT_SECRET", Role::Secret),
    ("AZURE_TENANT_ID", Role::Secret),
    ("AZURE_RESOURCE_GROUP", Role::Setting("providers.azure.resource_group")),
    ("AZURE_ACCESS_TOKEN", Role::Secret),
    ("AZURE_SSH_PUBLIC_KEY", Role::Ssh),
    ("AZURE_SSH_KEY_PATH", Role::Ssh),
    ("AZURE_DEFAULT_REGION", Role::Region),
    ("DIGITALOCEAN_TOKEN", Role::Secret),
    ("DIGITALOCEAN_ACCESS_TOKEN", Role::Secret),
    ("DO_API_TOKEN", Role::Secret),
    ("DO_TOKEN", Role::Secret),
    ("DO_REGION", Role::Region),
    ("DO_DEFAULT_REGION", Role::Region),
    ("DO_SSH_KEY_IDS", Role::Ssh),
    ("VULTR_API_KEY", Role::Secret),
    ("VULTR_SSH_KEY_ID", Role::Ssh),
    ("VULTR_DEFAULT_REGION", Role::Region),
    ("LINODE_TOKEN", Role::Secret),
    ("LINODE_API_TOKEN", Role::Secret),
    ("LINODE_CLI_TOKEN", Role::Secret),
    ("SCW_ACCESS_KEY", Role::Secret),
    ("SCW_SECRET_KEY", Role::Secret),
    ("SCALEWAY_SECRET_KEY", Role::Secret),
    ("SCW_DEFAULT_PROJECT_ID", Role::Secret),
    ("SCW_PROJECT_ID", Role::Secret),
    ("SCALEWAY_PROJECT_ID", Role::Secret),
    ("SCW_DEFAULT_ZONE", Role::Region),
    ("HIVELOCITY_API_KEY", Role::Secret),
    ("BLUEPRINT_ALLOWED_SSH_CIDRS", Role::Open),
    ("BLUEPRINT_ALLOWED_QOS_CIDRS", Role::Open),
    ("BLUEPRINT_CLIENT_CERT_PATH", Role::Own),
    ("BLUEPRINT_CLIENT_KEY_PATH", Role::Own),
    ("BLUEPRINT_CA_CERT_PATH", Role::Own),
    ("BLUEPRINT_JWT_SECRET", Role::Own),
    ("BLUEPRINT_CREDENTIAL_KEY", Role::Own),
    ("BLUEPRINT_CERT_PATH", Role::Own),
    ("BLUEPRINT_KEY_PATH", Role::Own),
];
