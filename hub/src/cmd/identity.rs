//! `identity`: machines that joined by what a cloud says of them.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use clap::Subcommand;

use super::client::{ask, rows, segment, text};
use crate::cli::Global;

/// Machines that joined by what a cloud says of them, without a token.
#[derive(Debug, Subcommand)]
pub(crate) enum Identity {
    /// Prints the line with which such machines join; it holds no secret
    #[command(after_help = "Example: blueprint-hub identity line
On the machine: blueprint-agent join --identity auto LINE")]
    Line,
    /// Lists them; each may join once
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub identity ls")]
    Ls,
    /// Lets a machine that the hub did not order join by its identity once more
    #[command(after_help = "Example: blueprint-hub identity forget aws 123456789012 i-0123456789abcdef0
The node that it was stays; `blueprint-hub node rm` removes it. A machine that the hub ordered does not join twice:
`blueprint-hub node rm` has another one take its place.")]
    Forget {
        /// aws, gcp, azure or kubernetes
        cloud: String,
        /// Account, project, subscription or service account, as `identity ls` shows it
        account: String,
        /// What the cloud calls the machine
        instance: String,
    },
}

impl Identity {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Line => {
                let answer = ask(global, "GET", "/v1/identities", None)?;
                let line = text(&answer, "hub_line");
                match global.output {
                    Output::Json => print_json(&serde_json::json!({ "hub_line": line })),
                    Output::Table => print_line(&line),
                }
            }
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/identities", None)?;
                if global.output == Output::Json {
                    print_json(&answer);
                    return Ok(());
                }
                let mut table = Table::new(&["CLOUD", "ACCOUNT", "INSTANCE", "AGENT", "JOINED"]);
                for row in rows(&answer, "identities") {
                    let columns = ["cloud", "account", "instance", "agent_id", "joined_at"];
                    table.push(columns.map(|column| text(row, column)).to_vec());
                }
                table.print();
            }
            Self::Forget { cloud, account, instance } => {
                let path = format!(
                    "/v1/identities/{}/{}/{}",
                    segment(&cloud)?,
                    segment(&account)?,
                    segment(&instance)?
                );
                let answer = ask(global, "DELETE", &path, None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => {
                        print_line(&format!(
                            "{cloud}/{account}/{instance} may join by its identity once more"
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}
