//! `service tls` and `service cert`: TLS of a service, and certificates of its clients.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::tls::Serial;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{ask, rows, text};
use crate::cli::Global;

/// Longest PEM file that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024;

/// TLS of a service: host names, certificates, and whose clients get in.
#[derive(Debug, Subcommand)]
pub(crate) enum Tls {
    /// Shows the TLS profile of a service
    #[command(after_help = "Example: blueprint-hub service tls show 7/42")]
    Show {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Sets the TLS profile of a service, in place of the one before
    #[command(
        after_help = "Example: blueprint-hub service tls set 7/42 --require-client-cert --cert-ttl-hours 24
The hub makes an authority for the service, which signs its certificate unless --certificate names one."
    )]
    Set(Box<SetTls>),
    /// Removes profile, authority and client certificates of a service
    #[command(visible_alias = "remove", after_help = "Example: blueprint-hub service tls rm 7/42")]
    Rm {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
}

/// Arguments of `service tls set`.
#[derive(Debug, Args)]
pub(crate) struct SetTls {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Let only clients in that show a certificate
    #[arg(long)]
    require_client_cert: bool,
    /// Longest life of client certificates, in hours; 24 unless given
    #[arg(long, value_name = "HOURS", default_value_t = 0)]
    cert_ttl_hours: u32,
    /// A host name beside sSERVICE.bBLUEPRINT.DOMAIN
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// Host name that client certificates may carry; several times for several, none for all
    #[arg(long, value_name = "NAME")]
    allow_name: Vec<String>,
    /// URI in every client certificate, such as spiffe://{tenant}/default
    #[arg(long, value_name = "URI")]
    san_template: Option<String>,
    /// PEM file with the service's own certificate chain
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// PEM file with further authorities whose client certificates count
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,
    /// Keep the profile, but switch it off
    #[arg(long, conflicts_with = "require_client_cert")]
    off: bool,
}

/// Certificates of the clients of a service.
#[derive(Debug, Subcommand)]
pub(crate) enum Cert {
    /// Makes a certificate and its key for a client
    #[command(after_help = "Example: blueprint-hub service cert issue 7/42 acme --out acme
writes acme.crt, acme.key and acme.ca.crt; the key is not kept by the hub.")]
    Issue {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// Name of the client
        name: String,
        /// Host name or URI in the certificate; several times for several
        #[arg(long, value_name = "NAME")]
        san: Vec<String>,
        /// Its life in hours; as long as the profile allows unless given
        #[arg(long, value_name = "HOURS", default_value_t = 0)]
        ttl_hours: u32,
        /// Write PREFIX.crt, PREFIX.key and PREFIX.ca.crt instead of printing them
        #[arg(long, value_name = "PREFIX")]
        out: Option<PathBuf>,
    },
    /// Lists client certificates
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub service cert ls 7/42")]
    Ls {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Makes a client certificate worthless at once, also on open connections
    #[command(
        visible_alias = "rm",
        after_help = "Example: blueprint-hub service cert revoke 7/42 4f1c9b2a70e04d7f8f5a3d1e9c0b7a66"
    )]
    Revoke {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// Serial number, as `service cert ls` or `openssl x509 -serial` shows it
        serial: Serial,
    },
}

fn path(service: ServiceKey, rest: &str) -> String {
    format!("/v1/services/{}/{}/{rest}", service.blueprint, service.service)
}

impl Tls {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Show { service } => {
                show(global, &ask(global, "GET", &path(service, "tls"), None)?);
                Ok(())
            }
            Self::Set(set) => {
                let answer = ask(global, "PUT", &path(set.service, "tls"), Some(&set.body()?))?;
                show(global, &answer);
                Ok(())
            }
            Self::Rm { service } => {
                let answer = ask(global, "DELETE", &path(service, "tls"), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => print_line(&format!("{service} has no TLS of its own any more")),
                }
                Ok(())
            }
        }
    }
}

impl SetTls {
    fn body(&self) -> Result<Value, CliError> {
        let pem = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        Ok(json!({
            "tls_enabled": !self.off,
            "require_client_mtls": self.require_client_cert,
            "client_cert_ttl_hours": self.cert_ttl_hours,
            "sni": self.sni,
            "subject_alt_name_template": self.san_template,
            "allowed_dns_names": self.allow_name,
            "server_certificate_pem": pem(&self.certificate)?,
            "server_key_pem": pem(&self.key)?,
            "client_ca_pem": pem(&self.client_ca)?,
        }))
    }
}

fn show(global: &Global, answer: &Value) {
    if global.output == Output::Json {
        return print_json(answer);
    }
    let profile = answer.get("profile").unwrap_or(answer);
    let list = |value: &Value, key: &str| {
        let words: Vec<_> = rows(value, key).iter().filter_map(Value::as_str).collect();
        if words.is_empty() { "-".to_owned() } else { words.join(" ") }
    };
    let mut table = Table::new(&["WHAT", "VALUE"]);
    for (what, value) in [
        ("service", text(answer, "service")),
        ("tls", text(profile, "tls_enabled")),
        ("client certificate required", text(profile, "require_client_mtls")),
        ("longest life of one, hours", text(profile, "client_cert_ttl_hours")),
        ("host names", list(answer, "host_names")),
        ("names that clients may carry", list(profile, "allowed_dns_names")),
        ("address", text(answer, "tls_listener")),
        ("changed", text(answer, "changed_at")),
    ] {
        table.push(vec![what.to_owned(), value]);
    }
    table.print();
}

impl Cert {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Issue { service, name, san, ttl_hours, out } => {
                let body = json!({ "common_name": name, "subject_alt_names": san, "ttl_hours": ttl_hours });
                let answer = ask(global, "POST", &path(service, "certificates"), Some(&body))?;
                hand_out(global, &answer, out)
            }
            Self::Ls { service } => {
                let answer = ask(global, "GET", &path(service, "certificates"), None)?;
                if global.output == Output::Json {
                    print_json(&answer);
                    return Ok(());
                }
                let mut table = Table::new(&["SERIAL", "STATE", "NAME", "EXPIRES"]);
                for row in rows(&answer, "certificates") {
                    table
                        .push(["serial", "state", "name", "expires_at"].map(|cell| text(row, cell)).to_vec());
                }
                table.print();
                Ok(())
            }
            Self::Revoke { service, serial } => {
                let path = path(service, &format!("certificates/{serial}"));
                let answer = ask(global, "DELETE", &path, None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => {
                        print_line(&format!("certificate {serial} is worthless at {service} now"))
                    }
                }
                Ok(())
            }
        }
    }
}

fn hand_out(global: &Global, answer: &Value, out: Option<PathBuf>) -> Result<(), CliError> {
    let Some(prefix) = out else {
        match global.output {
            Output::Json => print_json(answer),
            Output::Table => {
                for field in ["certificate_pem", "private_key_pem", "ca_bundle_pem"] {
                    print_line(text(answer, field).trim_end());
                }
            }
        }
        return Ok(());
    };
    let mut written = Vec::new();
    for (field, ending) in
        [("private_key_pem", "key"), ("certificate_pem", "crt"), ("ca_bundle_pem", "ca.crt")]
    {
        let mut path = prefix.clone().into_os_string();
        path.push(format!(".{ending}"));
        let path = PathBuf::from(path);
        write(&path, &text(answer, field))?;
        written.push(path.display().to_string());
    }
    match global.output {
        Output::Json => print_json(&json!({
            "serial": text(answer, "serial"), "expires_at": text(answer, "expires_at"), "files": written,
        })),
        Output::Table => print_line(&format!(
            "certificate {} until {}: {}",
            text(answer, "serial"),
            text(answer, "expires_at"),
            written.join(" ")
        )),
    }
    Ok(())
}

/// Writes a file that was not there, for its owner alone.
fn write(path: &Path, content: &str) -> Result<(), CliError> {
    let mut options = File::options();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    opened.and_then(|mut file| file.write_all(content.as_bytes())).map_err(|error| {
        CliError::failure(format!("cannot write {}: {error}", path.display()))
            .hint("the certificate was made; revoke it with `service cert revoke`, and issue another to a free name")
    })
}

fn read(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    read.map_err(|error| super::unread(path, &error))?;
    Ok(text)
}
