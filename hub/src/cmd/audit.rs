//! `audit`: what happened.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json};
use clap::Args;

use super::client::{ask, rows, text};
use crate::cli::Global;

/// Shows what happened: joins, refusals, removals.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub audit --limit 20")]
pub(crate) struct Audit {
    /// How many of the newest rows, up to 1000
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

impl Audit {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let answer = ask(global, "GET", &format!("/v1/audit?limit={}", self.limit), None)?;
        if global.output == Output::Json {
            print_json(&answer);
            return Ok(());
        }
        let mut table = Table::new(&["SEQ", "AT", "EVENT", "SUBJECT", "DETAIL"]);
        for row in rows(&answer, "rows") {
            table.push(vec![
                text(row, "seq"),
                text(row, "at"),
                text(row, "event"),
                text(row, "subject"),
                text(row, "detail"),
            ]);
        }
        table.print();
        Ok(())
    }
}
