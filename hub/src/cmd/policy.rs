//! `policy`: which nodes may send what to which through the hub.

use std::io::Read;

use blueprint_common_runtime::cli::{
    CliError, Exit, Output, Table, eprint_line, print_json, print_line, print_raw,
};
use blueprint_hub_registry_core::policy::MAX_DOCUMENT_BYTES;
use clap::{Args, Subcommand};
use http::StatusCode;
use serde_json::{Value, json};

use super::client::{ask, exchange, rows, runtime, text};
use crate::cli::Global;

/// Policy: which nodes may send what to which through the hub.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Prints the policy, as `policy set` takes it
    #[command(after_help = "Example: blueprint-hub policy get > policy.toml
With --output json also version, time and warnings.")]
    Get,
    /// Replaces the policy, once all its tests pass; holds for running flows too
    #[command(after_help = "Example: blueprint-hub policy set policy.toml --if-version 3
         blueprint-hub policy get | sed s/web-1/web-2/ | blueprint-hub policy set - --dry-run
Ends with 1 where a test fails and 5 where the policy has another version; then nothing is changed.")]
    Set(Set),
    /// Runs the policy's tests, or answers one question about it
    #[command(after_help = "Example: blueprint-hub policy test
         blueprint-hub policy test policy.toml
         blueprint-hub policy test --from web-1 --to db-1 tcp/5432
         blueprint-hub policy test --service 7/42 exec
         blueprint-hub policy test --node db-1 port/5432
Ends with 1 where a test fails, or where what the question is about is denied.")]
    Test(Test),
}

/// `policy set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// File with the policy in TOML, or - for standard input
    file: String,
    /// Only runs the tests and says what would happen
    #[arg(long)]
    dry_run: bool,
    /// Version that the file was made from, as `policy get --output json` shows it; 0 for none
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
}

/// `policy test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// File with another policy than the stored one, or -; with --from and --to the traffic, such as tcp/5432; with --service or
    /// --node what the operator would begin: exec, forward, port/PORTS or reverse/PORTS
    #[arg(value_name = "FILE|TRAFFIC|SESSION")]
    what: Option<String>,
    /// Who begins: name, id, overlay address, or * for every node
    #[arg(long, value_name = "NODE", requires = "to")]
    from: Option<String>,
    /// Whom it tries to reach
    #[arg(long, value_name = "NODE", requires = "from")]
    to: Option<String>,
    /// Asks what exec and forward may do with this service, as BLUEPRINT/SERVICE
    #[arg(long, value_name = "SERVICE", conflicts_with_all = ["from", "node"])]
    service: Option<String>,
    /// Asks what forward may do with the ports of this node: name, id, overlay address, or * for every node
    #[arg(long, value_name = "NODE", conflicts_with = "from")]
    node: Option<String>,
    /// Asks the question of the policy in this file, not of the stored one
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
}

impl Policy {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Get => get(global),
            Self::Set(command) => command.run(global),
            Self::Test(command) => command.run(global),
        }
    }
}

fn get(global: &Global) -> Result<(), CliError> {
    let answer = ask(global, "GET", "/v1/policy", None)?;
    if global.output == Output::Json {
        print_json(&answer);
        return Ok(());
    }
    print_raw(answer.get("document").and_then(Value::as_str).unwrap_or_default());
    warn(&answer);
    Ok(())
}

impl Set {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let body =
            json!({ "document": read(&self.file)?, "version": self.if_version, "dry_run": self.dry_run });
        let answer = runtime()?.block_on(exchange(global, "PUT", "/v1/policy", Some(&body)))?;
        let answer = match answer {
            (status, answer) if status.is_success() => answer,
            (StatusCode::UNPROCESSABLE_ENTITY, answer) if answer.get("tests").is_some() => {
                return Err(show_failed(global, &answer));
            }
            (status, answer) => return Err(CliError::from_response(status, &answer)),
        };
        if global.output == Output::Json {
            print_json(&answer);
        } else {
            let tests = rows(&answer, "tests").len();
            let rules = text(&answer, "rules");
            let sessions = text(&answer, "sessions");
            let noun = if sessions == "1" { "session" } else { "sessions" };
            let holds = format!("{rules} rules, {sessions} {noun}, {tests} tests passed");
            print_line(&match answer.get("version").and_then(Value::as_u64) {
                Some(version) => format!("policy {version} is stored: {holds}"),
                None => format!("policy would be stored: {holds}"),
            });
            warn(&answer);
        }
        if answer.get("stored") == Some(&json!(true)) && answer.get("applied") != Some(&json!(true)) {
            return Err(CliError::failure("the policy is stored, but the tunnel does not go by it yet")
                .hint("the hub's log says why; set it again once that is mended, or restart the hub"));
        }
        Ok(())
    }
}

/// Shows how the tests of a refused policy ended; the error is for the end of the command.
fn show_failed(global: &Global, answer: &Value) -> CliError {
    match global.output {
        Output::Json => print_json(&json!({ "stored": false, "tests": answer.get("tests") })),
        Output::Table => test_table(answer).print(),
    }
    let failed = count_failed(answer);
    let total = rows(answer, "tests").len();
    CliError::failure(format!("{failed} of {total} tests failed, nothing was stored"))
        .hint("change the grants, or the tests where they expect the wrong thing")
}

impl Test {
    fn run(self, global: &Global) -> Result<(), CliError> {
        if self.service.is_some() || self.node.is_some() {
            return self.ask_session(global);
        }
        let Some((from, to)) = self.from.zip(self.to) else {
            if self.file.is_some() {
                return Err(CliError::usage("--file goes with a question")
                    .hint("name the file alone to run its tests: blueprint-hub policy test FILE"));
            }
            return run_tests(global, self.what.as_deref());
        };
        let traffic = self.what.ok_or_else(|| {
            CliError::usage("a question needs the traffic that it is about").hint("for example tcp/5432")
        })?;
        let document = self.file.as_deref().map(read).transpose()?;
        let body = json!({ "document": document, "from": from, "to": to, "traffic": traffic });
        let answer = ask(global, "POST", "/v1/policy/test", Some(&body))?;
        match global.output {
            Output::Json => print_json(&answer),
            Output::Table => decision_table(&answer).print(),
        }
        if answer.get("allowed") == Some(&json!(true)) {
            return Ok(());
        }
        Err(CliError::failure(format!("{traffic} from {from} to {to} is denied")))
    }

    /// Whether the operator may begin something.
    fn ask_session(self, global: &Global) -> Result<(), CliError> {
        let session = self.what.ok_or_else(|| {
            CliError::usage("a question needs what would be begun")
                .hint("for example exec, forward, port/5432 or reverse/9000")
        })?;
        let on = match (&self.service, &self.node) {
            (Some(service), _) => format!("service {service}"),
            (None, node) => format!("node {}", node.as_deref().unwrap_or_default()),
        };
        let document = self.file.as_deref().map(read).transpose()?;
        let body =
            json!({ "document": document, "service": self.service, "node": self.node, "session": session });
        let answer = ask(global, "POST", "/v1/policy/test", Some(&body))?;
        let is_allowed = answer.get("allowed") == Some(&json!(true));
        match global.output {
            Output::Json => print_json(&answer),
            Output::Table => {
                let by: Vec<_> = rows(&answer, "by").iter().filter_map(Value::as_str).collect();
                let mut table = Table::new(&["ALLOWED", "SESSION", "WITH", "BY"]);
                table.push(vec![
                    verdict(is_allowed, by.is_empty()).to_owned(),
                    session.clone(),
                    on.clone(),
                    by.join(", "),
                ]);
                table.print();
            }
        }
        if is_allowed { Ok(()) } else { Err(CliError::failure(format!("{session} with {on} is denied"))) }
    }
}

const fn verdict(is_allowed: bool, by_nothing: bool) -> &'static str {
    match (is_allowed, by_nothing) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "in part",
    }
}

fn run_tests(global: &Global, file: Option<&str>) -> Result<(), CliError> {
    let body = json!({ "document": file.map(read).transpose()? });
    let answer = ask(global, "POST", "/v1/policy/test", Some(&body))?;
    if global.output == Output::Json {
        print_json(&answer);
    } else {
        test_table(&answer).print();
        warn(&answer);
    }
    match count_failed(&answer) {
        0 => Ok(()),
        failed => {
            Err(CliError::failure(format!("{failed} of {} tests failed", rows(&answer, "tests").len())))
        }
    }
}

fn count_failed(answer: &Value) -> usize {
    rows(answer, "tests").iter().filter(|test| text(test, "verdict") == "fail").count()
}

/// One row for each test, and one more for each further problem.
fn test_table(answer: &Value) -> Table {
    let mut table = Table::new(&["RESULT", "TEST", "PROBLEM"]);
    for test in rows(answer, "tests") {
        let problems = rows(test, "problems").iter().map(|problem| problem.as_str().unwrap_or_default());
        let mut problems: Vec<_> = problems.collect();
        if problems.is_empty() {
            problems.push("");
        }
        for problem in problems {
            table.push(vec![text(test, "verdict"), text(test, "name"), problem.to_owned()]);
        }
    }
    table
}

fn decision_table(answer: &Value) -> Table {
    let mut table = Table::new(&["ALLOWED", "FROM", "TO", "BY"]);
    for decision in rows(answer, "decisions") {
        let by: Vec<_> = rows(decision, "by").iter().filter_map(Value::as_str).collect();
        let allowed = decision.get("allowed") == Some(&json!(true));
        table.push(vec![
            verdict(allowed, by.is_empty()).to_owned(),
            text(decision, "from_name"),
            text(decision, "to_name"),
            by.join(", "),
        ]);
    }
    table
}

fn warn(answer: &Value) {
    for warning in rows(answer, "warnings").iter().filter_map(Value::as_str) {
        eprint_line(&format!("warning: {warning}"));
    }
}

/// The text of a file, or of standard input for `-`; no more than the hub takes.
fn read(file: &str) -> Result<String, CliError> {
    let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX);
    let source: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin().lock()),
        path => Box::new(std::fs::File::open(path).map_err(|error| unreadable(file, &error))?),
    };
    let mut bytes = Vec::new();
    source.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| unreadable(file, &error))?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(CliError::usage(format!("{file} has more than {MAX_DOCUMENT_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| CliError::usage(format!("{file} is no UTF-8 text")))
}

fn unreadable(file: &str, error: &std::io::Error) -> CliError {
    let exit = if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
    CliError::new(exit, format!("cannot read {file}: {error}")).hint("give a file, or - for standard input")
}
