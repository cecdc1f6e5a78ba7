//! `workload`: what nodes run.

mod mask;
mod run;
mod update;

use blueprint_common_runtime::cli::{
    CliError, Output, Table, eprint_line, print_json, print_line, printable,
};
use blueprint_common_types::ServiceKey;
use clap::Subcommand;
use serde_json::{Map, Value};

use self::mask::masked;
use self::run::Run;
pub(in crate::cmd) use self::run::{document, pushed};
pub(crate) use self::update::{ROLLBACK_HELP, Rollback, UPDATE_HELP, Update};
use super::client::{ask, rows, text};
use super::logs;
use crate::cli::Global;

/// Lines that are shown of a workload that does not run.
const LAST_LINES: u32 = 5;

/// What nodes run.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Example: blueprint-hub workload run 7/42 --url https://example.org/demo.tar.gz --sha256 HEX --wait
docs/workloads.md explains sources, limits, keys and states."
)]
pub(crate) enum Workload {
    /// Has a node run a service, or changes how it is run
    #[command(
        after_help = "Example: blueprint-hub workload run 7/42 --url https://example.org/demo.tar.gz --sha256 HEX --wait
Without --node the hub takes the node with the fewest workloads, and another one when that is away for 15 s."
    )]
    Run(Box<Run>),
    /// Lists workloads, where they run and how they are doing
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub workload ls --output json")]
    Ls,
    /// Shows one workload with its document
    #[command(after_help = "Example: blueprint-hub workload show 7/42")]
    Show {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Shows what was done to make a workload well, and where it went
    #[command(after_help = "Example: blueprint-hub workload events 7/42
The newest hundred; docs/workloads.md explains the kinds.")]
    Events {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Starts a workload anew, with the same document and keys
    #[command(after_help = "Example: blueprint-hub workload restart 7/42")]
    Restart {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Brings a new version of a running workload in place of the old one, and takes it back where it fails
    #[command(after_help = update::UPDATE_HELP)]
    Update(Box<Update>),
    /// Goes back to an earlier version, as an update does
    #[command(after_help = update::ROLLBACK_HELP)]
    Rollback(Rollback),
    /// Shows the versions of a workload that are kept, and what became of them
    #[command(after_help = "Example: blueprint-hub workload history 7/42 -n 5")]
    History {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// The newest so many
        #[arg(short = 'n', long, default_value_t = 10)]
        limit: usize,
    },
    /// Stops a workload and forgets it with its versions; its data stays on its node
    #[command(visible_alias = "remove", after_help = "Example: blueprint-hub workload rm 7/42")]
    Rm {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
}

fn path(service: ServiceKey) -> String {
    format!("/v1/workloads/{}/{}", service.blueprint, service.service)
}

impl Workload {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Run(command) => command.run(global),
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/workloads", None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => table(rows(&answer, "workloads")).print(),
                }
                Ok(())
            }
            Self::Show { service } => {
                let mut answer = ask(global, "GET", &path(service), None)?;
                add_last_lines(global, service, &mut answer);
                show(global, &answer);
                Ok(())
            }
            Self::Events { service } => {
                let answer = ask(global, "GET", &format!("{}/events", path(service)), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => match rows(&answer, "events") {
                        [] => print_line(&format!("nothing has happened to {service} yet")),
                        events => events_table(events).print(),
                    },
                }
                Ok(())
            }
            Self::Restart { service } => {
                let before = ask(global, "GET", &path(service), None)?;
                let fields = ["spec", "nodes", "generation"];
                let body: Map<String, Value> = fields
                    .into_iter()
                    .filter_map(|name| Some((name.to_owned(), before.get(name)?.clone())))
                    .collect();
                let body = Value::Object(body);
                let answer = ask(global, "PUT", &path(service), Some(&body))?;
                show(global, &answer);
                Ok(())
            }
            Self::Update(command) => command.run(global),
            Self::Rollback(command) => command.run(global),
            Self::History { service, limit } => update::history(global, service, limit),
            Self::Rm { service } => {
                let answer = ask(global, "DELETE", &path(service), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => {
                        print_line(&format!("{service} is not run any more; its data stays on its node"))
                    }
                }
                Ok(())
            }
        }
    }
}

/// Adds the last lines of a workload that does not run, where its node gives them.
fn add_last_lines(global: &Global, service: ServiceKey, answer: &mut Value) {
    if !["failed", "ended", "backing-off", "degraded"].contains(&text(answer, "state").as_str()) {
        return;
    }
    let lines = match logs::last(global, service, LAST_LINES) {
        Ok(lines) => Value::from(lines),
        Err(error) => return eprint_line(&format!("its last lines are not to be had: {}", error.message)),
    };
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("last_lines".to_owned(), lines);
    }
}

fn show(global: &Global, answer: &Value) {
    match global.output {
        Output::Json => print_json(answer),
        Output::Table => {
            table(std::slice::from_ref(answer)).print();
            update::tell(answer);
            for leaver in rows(answer, "leaving") {
                let (node, until) = (text(leaver, "node"), text(leaver, "until"));
                print_line(&printable(&format!(
                    "it leaves {node}: no new requests there, and it ends once nothing is open, at {until} at the latest"
                )));
            }
            for line in rows(answer, "last_lines").iter().filter_map(Value::as_str) {
                print_line(&format!("  {}", printable(line)));
            }
            if let events @ [_, ..] = rows(answer, "events") {
                events_table(events).print();
            }
            if let Some(Ok(spec)) = answer.get("spec").map(masked).as_ref().map(serde_json::to_string_pretty)
            {
                print_line(&spec);
            }
        }
    }
}

/// What came of waiting: the row and a sentence, the document only in JSON.
fn finished(global: &Global, answer: &Value) {
    if global.output == Output::Json {
        return print_json(answer);
    }
    table(std::slice::from_ref(answer)).print();
    update::tell(answer);
    print_line(&outcome(answer));
}

fn outcome(answer: &Value) -> String {
    let (service, version) = (text(answer, "service"), text(answer, "version"));
    match text(answer, "state").as_str() {
        "running" => format!("{service} serves version {version}"),
        state => format!("{service} is {state}, version {version}"),
    }
}

fn events_table(events: &[Value]) -> Table {
    let mut table = Table::new(&["AT", "EVENT", "NODE", "REASON"]);
    for row in events {
        table.push(["at", "kind", "node", "reason"].map(|field| text(row, field)).to_vec());
    }
    table
}

fn table(workloads: &[Value]) -> Table {
    let mut table =
        Table::new(&["SERVICE", "VERSION", "NODE", "SOURCE", "STATE", "HEALTH", "RESTARTS", "REASON"]);
    for row in workloads {
        let node = text(row, "node");
        let restarts = row.get("restarts").map(Value::to_string).unwrap_or_default();
        table.push(vec![
            text(row, "service"),
            row.get("version").map(Value::to_string).unwrap_or_default(),
            node,
            text(row, "source"),
            text(row, "state"),
            text(row, "health"),
            restarts,
            text(row, "reason"),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_waited_for_is_one_sentence() {
        let answer = json!({ "service": "7/43", "version": 2, "state": "running" });
        assert_eq!(outcome(&answer), "7/43 serves version 2");
        let answer = json!({ "service": "7/43", "version": 2, "state": "ended" });
        assert_eq!(outcome(&answer), "7/43 is ended, version 2");
    }
}
