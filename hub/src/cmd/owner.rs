//! `service owner` and `service settings`: who may ask for API keys of a service, and its other settings.

use std::io::Read;
use std::path::PathBuf;

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::identity::OwnerKey;
use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ask, text};
use crate::cli::Global;

/// Longest settings that are read from a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Owners of a service: keys that may ask the proxy for API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Owner {
    /// Lets a key ask for API keys of a service
    #[command(
        after_help = "Example: blueprint-hub service owner add 7/42 ecdsa:02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5
Keys are public keys in hexadecimal: ecdsa (secp256k1), sr25519 or bn254bls."
    )]
    Add {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// Public key, as KIND:HEX
        owner: OwnerKey,
    },
    /// Takes the right away, and revokes the API keys that it gave
    #[command(
        visible_alias = "remove",
        after_help = "Example: blueprint-hub service owner rm 7/42 ecdsa:02c6…"
    )]
    Rm {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// Public key, as `service owner ls` shows it
        owner: OwnerKey,
    },
    /// Lists the owners of a service
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub service owner ls 7/42")]
    Ls {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
}

impl Owner {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Add { service, owner } => change(global, service, |settings| {
                let word = format!("{owner} may ask for API keys of {service} now");
                // One that the blueprint named is the operator's from now on.
                let is_news = settings.blueprint_owners.remove(&owner);
                if settings.owners.insert(owner) || is_news {
                    word
                } else {
                    format!("nothing changed: {word}")
                }
            }),
            Self::Rm { service, owner } => change(global, service, |settings| {
                if settings.owners.remove(&owner) {
                    format!("{owner} is no owner of {service} any more, and its API keys are revoked")
                } else {
                    format!("nothing changed: {owner} was no owner of {service}")
                }
            }),
            Self::Ls { service } => {
                let (settings, answer) = read(global, service)?;
                if global.output == Output::Json {
                    print_json(&json!({ "service": text(&answer, "service"), "owners": settings.owners,
                        "blueprint_owners": settings.blueprint_owners }));
                    return Ok(());
                }
                let mut table = Table::new(&["OWNER", "NAMED BY"]);
                for owner in &settings.owners {
                    let is_its = settings.blueprint_owners.contains(owner);
                    table.push(vec![
                        owner.to_string(),
                        if is_its { "its blueprint" } else { "the operator" }.to_owned(),
                    ]);
                }
                table.print();
                Ok(())
            }
        }
    }
}

/// Shows the settings of a service, or replaces them by those in a file.
pub(crate) fn settings(global: &Global, service: ServiceKey, file: Option<PathBuf>) -> Result<(), CliError> {
    let Some(path) = file else {
        let (_, answer) = read(global, service)?;
        print_json(if global.output == Output::Json {
            &answer
        } else {
            answer.get("settings").unwrap_or(&answer)
        });
        return Ok(());
    };
    let shown = path.display().to_string();
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::usage(format!("{shown}: {error}"))
            .hint("`blueprint-hub service settings KEY` prints the form")
    };
    let mut document = String::new();
    let opened: Box<dyn Read> = if shown == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(&path).map_err(|error| super::unread(&path, &error))?)
    };
    opened.take(MAX_FILE).read_to_string(&mut document).map_err(|error| wrong(&error))?;
    let wanted: ServiceSettings = serde_json::from_str(&document).map_err(|error| wrong(&error))?;
    change(global, service, |settings| {
        *settings = wanted;
        format!("the settings of {service} are in force")
    })
}

fn path(service: ServiceKey) -> String {
    format!("/v1/services/{}/{}/settings", service.blueprint, service.service)
}

pub(crate) fn read(global: &Global, service: ServiceKey) -> Result<(ServiceSettings, Value), CliError> {
    let answer = ask(global, "GET", &path(service), None)?;
    let settings = answer.get("settings").cloned().unwrap_or_default();
    let settings = serde_json::from_value(settings)
        .map_err(|error| CliError::failure(format!("the hub's answer cannot be read: {error}")))?;
    Ok((settings, answer))
}

/// Reads the settings, changes them, stores them, and prints how that went.
pub(crate) fn change(
    global: &Global,
    service: ServiceKey,
    how: impl FnOnce(&mut ServiceSettings) -> String,
) -> Result<(), CliError> {
    let (words, answer) = store(global, service, how)?;
    match global.output {
        Output::Json => print_json(&answer),
        Output::Table => print_line(&words),
    }
    Ok(())
}

/// Reads the settings, changes them, and stores them unless somebody else did meanwhile.
pub(crate) fn store(
    global: &Global,
    service: ServiceKey,
    how: impl FnOnce(&mut ServiceSettings) -> String,
) -> Result<(String, Value), CliError> {
    let (mut settings, answer) = read(global, service)?;
    let words = how(&mut settings);
    let body = json!({ "settings": settings, "version": answer.get("version") });
    Ok((words, ask(global, "PUT", &path(service), Some(&body))?))
}
