//! `prices`: how old price lists are, and asking for new ones.

use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{ask, ask_within, rows, segment, text};
use crate::cli::Global;

/// Longest wait for one provider; the hub gives up before, and that is soonest for all but the public list of AWS.
const PATIENCE: Duration = Duration::from_secs(2010);

/// Shows how old the prices of each provider are, and asks for new ones.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub prices refresh
         blueprint-hub prices refresh linode vultr
         blueprint-hub prices ls --output json
The hub asks nobody by itself unless prices.every is set; docs/prices.md says who is asked what.")]
pub(crate) struct Prices {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists the providers that can be asked, and what they said
    #[command(after_help = "Example: blueprint-hub prices ls --output json")]
    Ls {},
    /// Asks providers for their prices now; all that can be asked where none is named
    #[command(after_help = "Example: blueprint-hub prices refresh linode vultr
Where AWS is not switched on, its public list is read: some 300 MB for each region of prices.aws_regions.
Exit codes: 0 all of them answered; else that of the first that did not, while the others are kept.")]
    Refresh {
        /// Names of providers
        #[arg(value_name = "PROVIDER")]
        providers: Vec<String>,
    },
}

impl Prices {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let listed = || ask(global, "GET", "/v1/prices", None);
        match self.what {
            What::Ls {} => {
                let answer = listed()?;
                show(global, &answer);
                Ok(())
            }
            What::Refresh { mut providers } => {
                if providers.is_empty() {
                    providers = rows(&listed()?, "prices").iter().map(|row| text(row, "provider")).collect();
                }
                refresh(global, &providers)
            }
        }
    }
}

/// Asks one after the other. One that fails does not keep the others from being asked; the first failure is the command's.
fn refresh(global: &Global, providers: &[String]) -> Result<(), CliError> {
    let (mut asked, mut failed, mut failures) = (Vec::new(), None, 0usize);
    for (number, provider) in providers.iter().enumerate() {
        eprint_line(&format!("asking {provider} ({} of {}) ...", number + 1, providers.len()));
        let path = format!("/v1/prices/{}/refresh", segment(provider)?);
        match ask_within(global, "POST", &path, None, PATIENCE) {
            Ok(answer) => asked.push(answer.get("prices").cloned().unwrap_or_default()),
            Err(error) => {
                if providers.len() > 1 {
                    eprint_line(&error.message);
                }
                failures = failures.saturating_add(1);
                failed = failed.or(Some(error));
            }
        }
    }
    if !asked.is_empty() || failed.is_none() {
        show(global, &json!({ "prices": asked }));
    }
    // Of several each was told above.
    match failed {
        Some(mut error) if providers.len() > 1 => {
            error.message = format!("{failures} of {} providers gave no prices", providers.len());
            Err(error)
        }
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn show(global: &Global, answer: &Value) {
    if global.output == Output::Json {
        print_json(answer);
        return;
    }
    let mut table = Table::new(&["PROVIDER", "ASKED AT", "ROWS", "REGIONS", "LEFT OUT", "WHO IS ASKED"]);
    for row in rows(answer, "prices") {
        let left_out: u64 = row
            .get("left_out")
            .and_then(Value::as_object)
            .map_or(0, |reasons| reasons.values().filter_map(Value::as_u64).sum());
        let asked_at = row.get("asked_at").and_then(Value::as_str).unwrap_or("never");
        table.push(vec![
            text(row, "provider"),
            asked_at.to_owned(),
            text(row, "rows"),
            text(row, "regions"),
            left_out.to_string(),
            text(row, "origin"),
        ]);
    }
    table.print();
    for row in rows(answer, "prices") {
        if let Some(error) = row.get("error").and_then(Value::as_str) {
            eprint_line(&format!("{} gave no prices the last time: {error}", text(row, "provider")));
        }
    }
}
