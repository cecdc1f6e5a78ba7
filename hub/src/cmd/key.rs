//! `key`: the API keys that owners of services got for their signatures.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use blueprint_common_types::ServiceKey;
use clap::Subcommand;

use super::client::{ask, rows, segment, text};
use crate::cli::Global;

/// API keys of owners; owners themselves are set with `service owner`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Lists API keys, without their secrets
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub key ls --service 7/42")]
    Ls {
        /// Only those of this service, as BLUEPRINT/SERVICE
        #[arg(long, value_name = "KEY")]
        service: Option<ServiceKey>,
    },
    /// Makes an API key worthless at once, with every token made from it
    #[command(visible_alias = "rm", after_help = "Example: blueprint-hub key revoke ak_Zm9vYmFyMTI")]
    Revoke {
        /// Id, as `key ls` shows it: the part of the key before its dot
        id: String,
    },
}

impl Key {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Ls { service } => {
                let mut answer = ask(global, "GET", "/v1/keys", None)?;
                if let (Some(service), Some(keys)) =
                    (service, answer.get_mut("keys").and_then(|keys| keys.as_array_mut()))
                {
                    let name = service.to_string();
                    keys.retain(|key| text(key, "service") == name);
                }
                if global.output == Output::Json {
                    print_json(&answer);
                    return Ok(());
                }
                let mut table = Table::new(&["ID", "STATE", "SERVICE", "EXPIRES", "OWNER"]);
                for row in rows(&answer, "keys") {
                    let cells = ["id", "state", "service", "expires_at", "owner"];
                    table.push(cells.map(|cell| text(row, cell)).to_vec());
                }
                table.print();
            }
            Self::Revoke { id } => {
                let answer = ask(global, "DELETE", &format!("/v1/keys/{}", segment(&id)?), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => print_line(&format!("API key {id} is worthless now")),
                }
            }
        }
        Ok(())
    }
}
