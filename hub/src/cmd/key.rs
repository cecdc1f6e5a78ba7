//! `key`: the API keys that owners of services got for their signatures.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use blueprint_common_types::ServiceKey;
use clap::Subcommand;

use serde_json::json;

use super::client::{ask, make, rows, segment, text};
use super::seconds;
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
    /// Gives the owner of an API key another one in its place, and prints it
    #[command(after_help = "Example: blueprint-hub key rotate ak_Zm9vYmFyMTI --overlap 1h
The new key is shown once; it opens what the old one does and lives as long. The old one and every token made from it \
end at once, or after the overlap.")]
    Rotate {
        /// Id, as `key ls` shows it: the part of the key before its dot
        id: String,
        /// How long the old key still works, up to 7d
        #[arg(long, default_value = "0s", value_parser = seconds, value_name = "TIME")]
        overlap: u64,
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
            Self::Rotate { id, overlap } => {
                let path = format!("/v1/keys/{}/rotate", segment(&id)?);
                make(global, &path, &json!({ "overlap_secs": overlap }), "api_key")?;
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
