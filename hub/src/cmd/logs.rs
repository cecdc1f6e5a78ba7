//! `logs`: what workloads wrote.

use std::time::Duration;

use blueprint_common_runtime::cli::{
    CliError, Exit, Output, eprint_line, print_line, printable, reader_left,
};
use blueprint_common_types::{LogCursor, LogLevel, ServiceKey};
use clap::Args;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::audit::since;
use super::client::{lines, runtime, text};
use crate::cli::Global;

/// Pause before a hub or node that is away is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// A hub that says nothing for so long is gone; it says every five seconds that it is there.
const SILENCE: Duration = Duration::from_secs(20);

/// Shows what a workload wrote to its standard output and error.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub logs 7/42 -f --since 10m --level warn
Its node keeps the newest lines of each workload (workload.log_bytes), also of earlier starts. Secrets of the \
workload are left out there. With -f it goes on behind the last line when hub or node were away.")]
pub(crate) struct Logs {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Goes on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// None older than this: a time such as 2026-11-21T12:00:00Z, or a duration such as 10m
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// The newest so many of those that fit
    #[arg(long, short = 'n', value_name = "LINES")]
    tail: Option<u32>,
    /// None less important: trace, debug, info, warn or error; lines that do not say are shown always
    #[arg(long)]
    level: Option<LogLevel>,
    /// Only lines with this text in them
    #[arg(long, value_name = "TEXT")]
    grep: Option<String>,
    /// Node whose lines are shown, by name or id; where not given, the one that runs the workload
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// The other version: while it is updated the next one, else the one that was replaced or taken back
    #[arg(long)]
    other: bool,
    /// Only what comes behind the line with this cursor; --output json shows the cursor of each line
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["since", "tail"])]
    after: Option<LogCursor>,
}

/// Said where `--other` finds nothing.
const OTHER_IS_NONE: &str = "there are no such lines of another version; where that ran on another node, name it with --node, and what \
                             was pushed out by newer lines is gone (workload.log_bytes of the node)";

/// How far it is shown.
#[derive(Debug, Default)]
struct Shown {
    /// The last line that was looked at: shown, or left out since it does not fit.
    cursor: Option<String>,
    /// The run that wrote the last line that was shown: where the lines come from elsewhere, those of later runs are wanted.
    run: Option<u64>,
    /// When that was, in milliseconds since 1970.
    at: u64,
    node: String,
    /// What is wrong at the moment.
    trouble: Option<String>,
}

impl Logs {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        runtime()?.block_on(async {
            let cursor = self.after.map(|after| after.to_string());
            let mut shown = Shown { cursor, ..Shown::default() };
            let mut has_begun = false;
            loop {
                let error = match self.read(global, &mut shown, &mut has_begun).await {
                    Ok(()) => return Ok(()),
                    // The first answer says whether there is anything to wait for.
                    Err(error) if !self.follow || !has_begun || error.exit != Exit::Unavailable => {
                        return Err(error);
                    }
                    Err(error) => error,
                };
                if shown.trouble.as_ref() != Some(&error.message) {
                    eprint_line(&format!(
                        "{}; it goes on behind the last line once that is over",
                        error.message
                    ));
                    shown.trouble = Some(error.message);
                }
                sleep(AGAIN).await;
            }
        })
    }

    fn path(&self, shown: &Shown) -> Result<String, CliError> {
        let mut query = vec![("follow", self.follow.to_string())];
        query.extend(self.since.map(|since| ("since", since.to_string())));
        query.extend(shown.cursor.clone().map(|cursor| ("after", cursor)));
        query.extend(shown.run.map(|run| ("run", run.to_string())));
        query.extend(shown.run.map(|_| ("at", shown.at.to_string())));
        // Where lines were shown already, all that come behind them are wanted, on whatever node.
        let tail = self.tail.filter(|_| shown.run.is_none());
        query.extend(tail.map(|tail| ("tail", tail.to_string())));
        query.extend(self.level.map(|level| ("level", level.to_string())));
        query.extend(self.grep.clone().map(|grep| ("grep", grep)));
        query.extend(self.node.clone().map(|node| ("node", node)));
        query.extend(self.other.then(|| ("other", true.to_string())));
        let query = serde_urlencoded::to_string(query);
        let query = query.map_err(|error| CliError::usage(format!("cannot be asked for: {error}")))?;
        let ServiceKey { blueprint, service } = self.service;
        Ok(format!("/v1/workloads/{blueprint}/{service}/logs?{query}"))
    }

    /// Reads one answer to its end.
    async fn read(&self, global: &Global, shown: &mut Shown, has_begun: &mut bool) -> Result<(), CliError> {
        let mut answer = lines(global, &self.path(shown)?).await?;
        *has_begun = true;
        loop {
            let gone =
                || CliError::unavailable("the hub is gone").hint("start it with `blueprint-hub serve`");
            let line = timeout(SILENCE, answer.next()).await.map_err(|_| gone())?;
            let line = line.map_err(|_| gone())?.ok_or_else(gone)?;
            let document: Value = serde_json::from_str(&line).map_err(|_| gone())?;
            match document.get("notice").and_then(Value::as_str) {
                None => {
                    match global.output {
                        Output::Json => print_line(&line),
                        Output::Table => print_line(&row(&document)),
                    }
                    if reader_left() {
                        return Ok(());
                    }
                    shown.cursor = Some(text(&document, "cursor"));
                    shown.at = since(&text(&document, "time")).unwrap_or(shown.at);
                    shown.run = document.get("generation").and_then(Value::as_u64).or(shown.run);
                }
                Some("end") => {
                    if self.other && shown.cursor.is_none() {
                        eprint_line(OTHER_IS_NONE);
                    }
                    return Ok(());
                }
                Some("broken") => {
                    let error = CliError::unavailable(printable(&text(&document, "reason")));
                    return Err(
                        error.hint("the same command may succeed in a moment; with -f it tries by itself")
                    );
                }
                Some("node") => begin(shown, text(&document, "node")),
                Some("missed") => eprint_line(&format!(
                    "{} lines were gone before they could be read; workload.log_bytes of the node says how much is kept",
                    text(&document, "lines")
                )),
                // Another notice, or that the hub is there.
                Some(_) => {
                    if let Some(cursor) = document.get("cursor").and_then(Value::as_str) {
                        shown.cursor = Some(cursor.to_owned());
                    }
                }
            }
        }
    }
}

/// The texts of the last lines of a workload.
pub(super) fn last(global: &Global, service: ServiceKey, count: u32) -> Result<Vec<String>, CliError> {
    runtime()?.block_on(async {
        let ServiceKey { blueprint, service } = service;
        let path = format!("/v1/workloads/{blueprint}/{service}/logs?tail={count}");
        let mut answer = lines(global, &path).await?;
        let mut last = Vec::new();
        while let Ok(Ok(Some(line))) = timeout(SILENCE, answer.next()).await {
            let document: Value = serde_json::from_str(&line).unwrap_or_default();
            last.extend(document.get("text").and_then(Value::as_str).map(str::to_owned));
        }
        Ok(last)
    })
}

/// Says what is new about where the lines come from.
fn begin(shown: &mut Shown, node: String) {
    let was_trouble = shown.trouble.take().is_some();
    if !shown.node.is_empty() && shown.node != node {
        eprint_line(&format!("the workload runs on node {node} now"));
    } else if was_trouble {
        eprint_line(&format!("node {node} gives its lines again"));
    }
    shown.node = node;
}

fn row(line: &Value) -> String {
    let [time, node, stream, level] =
        ["time", "node", "stream", "level"].map(|key| printable(&text(line, key)));
    let said = line.get("text").and_then(Value::as_str).unwrap_or_default();
    // Tabs are fine; what would steer the terminal is not.
    let said: Vec<String> = said.split('\t').map(printable).collect();
    let goes_on = if line.get("goes_on") == Some(&Value::Bool(true)) { "\u{2026}" } else { "" };
    format!("{time} {node} {stream:6} {level:5} {}{goes_on}", said.join("\t"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_is_shown_with_where_it_comes_from_and_steers_no_terminal() {
        let line = json!({"time": "2026-11-21T12:00:00.123Z", "node": "one", "stream": "stdout", "level": "info",
                          "text": "a\u{1b}[2Jb\tc", "goes_on": true});
        assert_eq!(row(&line), "2026-11-21T12:00:00.123Z one stdout info  a\u{fffd}[2Jb\tc\u{2026}");
        let line = json!({"time": "t", "node": "n", "stream": "stderr", "level": null, "text": ""});
        assert_eq!(row(&line), "t n stderr -     ");
    }
}
