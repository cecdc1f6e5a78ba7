//! `token`: the right to become a node.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json, print_line};
use clap::Subcommand;
use serde_json::json;

use super::client::{ask, rows, segment, text};
use super::seconds;
use crate::cli::Global;

/// Join tokens: the right to become a node.
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a join token and prints the one line that a machine needs
    #[command(after_help = "Example: blueprint-hub token create --ttl 1h --label rack-7
The line is shown once; the hub keeps only a hash of the token.")]
    Create {
        /// How long the token lives, up to 24h
        #[arg(long, default_value = "15m", value_parser = seconds, value_name = "TIME")]
        ttl: u64,
        /// How many machines may join with it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// A note for people
        #[arg(long, default_value = "")]
        label: String,
        /// Services its machines may offer, such as 7/42,7/43; default: any that nobody else offers
        #[arg(long, default_value = "", value_name = "LIST")]
        services: String,
        /// Overlay address of the one machine that joins with it; default: any free one
        #[arg(long, value_name = "IP")]
        address: Option<Ipv4Addr>,
        /// Port of this hub that the line names; default: that of control.listen
        #[arg(long, value_name = "PORT")]
        port: Option<NonZeroU16>,
    },
    /// Lists join tokens
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub token ls")]
    Ls,
    /// Makes a join token worthless
    #[command(visible_alias = "revoke", after_help = "Example: blueprint-hub token rm 0f3c1a2b4d5e6f70")]
    Rm {
        /// Id, as `token ls` shows it
        id: String,
    },
}

impl Token {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Create { ttl, uses, label, services, address, port } => {
                let body = json!({
                    "ttl_secs": ttl, "uses": uses, "label": label, "services": services, "address": address,
                    "port": port,
                });
                let answer = ask(global, "POST", "/v1/tokens", Some(&body))?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => {
                        print_line(&text(&answer, "join_line"));
                        let machines =
                            if uses == 1 { "one machine".to_owned() } else { format!("{uses} machines") };
                        let span = if ttl.is_multiple_of(60) {
                            format!("{} min", ttl / 60)
                        } else {
                            format!("{ttl} s")
                        };
                        eprint_line(&format!(
                            "`blueprint-agent join LINE` takes it on {machines}, within {span}"
                        ));
                    }
                }
            }
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/tokens", None)?;
                if global.output == Output::Json {
                    print_json(&answer);
                    return Ok(());
                }
                let mut table =
                    Table::new(&["ID", "STATE", "LEFT", "EXPIRES", "SERVICES", "ADDRESS", "LABEL"]);
                for row in rows(&answer, "tokens") {
                    let left = format!("{}/{}", text(row, "uses_left"), text(row, "uses"));
                    table.push(vec![
                        text(row, "id"),
                        text(row, "state"),
                        left,
                        text(row, "expires_at"),
                        text(row, "services"),
                        text(row, "address"),
                        text(row, "label"),
                    ]);
                }
                table.print();
            }
            Self::Rm { id } => {
                let answer = ask(global, "DELETE", &format!("/v1/tokens/{}", segment(&id)?), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => print_line(&format!("join token {id} is worthless now")),
                }
            }
        }
        Ok(())
    }
}
