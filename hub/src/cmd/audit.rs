//! `audit`: what happened.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use blueprint_common_types::ServiceKey;
use clap::{Args, Subcommand};

use super::client::{ask, rows, segment, text};
use crate::cli::Global;

/// Shows what happened: joins, refusals, keys, what operators did.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Audit {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows the newest rows; the same as `audit` alone
    #[command(after_help = "Example: blueprint-hub audit show --kind api_key --service 7/42 --since 24h")]
    Show(Show),
    /// Checks that no row was changed, removed or moved
    #[command(after_help = "Example: blueprint-hub audit verify --output json
It prints the hash of the newest row. Kept elsewhere and given with --seen later, it shows also that \
nobody replaced the whole log.")]
    Verify {
        /// Hash of a row as it was printed before
        #[arg(long, value_name = "HASH")]
        seen: Option<String>,
    },
}

/// Which rows.
#[derive(Debug, Args)]
struct Show {
    /// How many of the newest rows, up to 1000
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// None older than this: a time such as 2026-11-21T12:00:00Z, or a duration such as 24h
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// Only this kind, such as api_key.create, or all that begin with it, such as api_key
    #[arg(long)]
    kind: Option<String>,
    /// Only what is about this service, as BLUEPRINT/SERVICE
    #[arg(long, value_name = "KEY")]
    service: Option<ServiceKey>,
}

/// A time in milliseconds since 1970.
pub(super) fn since(text: &str) -> Result<u64, String> {
    let at = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago).unwrap_or(UNIX_EPOCH),
        Err(_) => humantime::parse_rfc3339_weak(text).map_err(|_| {
            "neither a duration such as 24h nor a time such as 2026-11-21T12:00:00Z".to_owned()
        })?,
    };
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Audit {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self.command {
            None => self.show.run(global),
            Some(Command::Show(show)) => show.run(global),
            Some(Command::Verify { seen }) => verify(global, seen.as_deref()),
        }
    }
}

impl Show {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let mut path = format!("/v1/audit?limit={}", self.limit);
        if let Some(since) = self.since {
            path.push_str(&format!("&since={since}"));
        }
        if let Some(kind) = &self.kind {
            path.push_str(&format!("&kind={}", segment(kind)?));
        }
        if let Some(service) = self.service {
            path.push_str(&format!("&service={service}"));
        }
        let answer = ask(global, "GET", &path, None)?;
        if global.output == Output::Json {
            print_json(&answer);
            return Ok(());
        }
        let mut table = Table::new(&["SEQ", "AT", "EVENT", "SUBJECT", "DETAIL"]);
        for row in rows(&answer, "rows") {
            let cells = ["seq", "at", "event", "subject", "detail"];
            table.push(cells.map(|cell| text(row, cell)).to_vec());
        }
        table.print();
        Ok(())
    }
}

fn verify(global: &Global, seen: Option<&str>) -> Result<(), CliError> {
    let path = match seen {
        Some(hash) => format!("/v1/audit/verify?seen={}", segment(hash)?),
        None => "/v1/audit/verify".to_owned(),
    };
    let answer = ask(global, "GET", &path, None)?;
    let is_intact = answer.get("intact").and_then(serde_json::Value::as_bool) == Some(true);
    match global.output {
        Output::Json => print_json(&answer),
        Output::Table if is_intact => {
            print_line(&format!("{} rows, whole; the newest has the hash", text(&answer, "rows")));
            print_line(&text(&answer, "head"));
        }
        Output::Table => {}
    }
    if is_intact {
        return Ok(());
    }
    let what = match answer.get("broken_at").and_then(serde_json::Value::as_u64) {
        Some(seq) => format!("the audit log was changed: row {seq} does not follow from the rows before it"),
        None => "the audit log was replaced: no row has the hash that was seen".to_owned(),
    };
    Err(CliError::failure(what).hint("somebody wrote to hub.db; compare it with a backup"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_duration_ago_or_a_date() {
        assert_eq!(since("2026-11-21T12:00:00Z"), Ok(1_795_262_400_000));
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        assert!((3_600_000..3_601_000).contains(&(now - since("1h").unwrap())));
        assert!(since("yesterday").is_err());
    }
}
