//! `access`: the right to call services through the proxy.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use clap::Subcommand;
use serde_json::json;

use super::client::{ask, make, rows, segment, text};
use super::seconds;
use crate::cli::Global;

/// Access tokens: the right to call services through the proxy.
#[derive(Debug, Subcommand)]
pub(crate) enum Access {
    /// Makes an access token and prints it
    #[command(after_help = "Example: blueprint-hub access create --service 7/42 --ttl 12h
The token is shown once. Clients send it as `Authorization: Bearer TOKEN`.")]
    Create {
        /// Service that the token opens, as BLUEPRINT/SERVICE; may be repeated
        #[arg(long = "service", value_name = "KEY", required_unless_present = "all")]
        services: Vec<String>,
        /// Opens every service of this hub, now and later
        #[arg(long, conflicts_with = "services")]
        all: bool,
        /// How long the token lives, up to 90d
        #[arg(long, default_value = "30d", value_parser = seconds, value_name = "TIME")]
        ttl: u64,
        /// A note for people
        #[arg(long, default_value = "")]
        label: String,
    },
    /// Lists access tokens
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub access ls")]
    Ls,
    /// Makes an access token worthless at once
    #[command(visible_alias = "rm", after_help = "Example: blueprint-hub access revoke 0f3c1a2b4d5e6f70")]
    Revoke {
        /// Id, as `access ls` shows it
        id: String,
    },
}

impl Access {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Create { services, all, ttl, label } => {
                let services = if all { "*".to_owned() } else { services.join(",") };
                let body = json!({ "ttl_secs": ttl, "label": label, "services": services });
                make(global, "/v1/access", &body, "access_token")?;
            }
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/access", None)?;
                if global.output == Output::Json {
                    print_json(&answer);
                    return Ok(());
                }
                let mut table = Table::new(&["ID", "STATE", "EXPIRES", "SERVICES", "LABEL"]);
                for row in rows(&answer, "tokens") {
                    table.push(vec![
                        text(row, "id"),
                        text(row, "state"),
                        text(row, "expires_at"),
                        text(row, "services"),
                        text(row, "label"),
                    ]);
                }
                table.print();
            }
            Self::Revoke { id } => {
                let answer = ask(global, "DELETE", &format!("/v1/access/{}", segment(&id)?), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => print_line(&format!("access token {id} is worthless now")),
                }
            }
        }
        Ok(())
    }
}
