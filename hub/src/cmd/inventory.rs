//! `inventory`: every machine that was ordered, as a table for people, programs and spreadsheets.

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json, print_line};
use blueprint_common_runtime::state::StateDir;
use blueprint_hub_import_core::KnownMachine;
use clap::Args;
use serde_json::{Value, json};

use super::client::{ask, rows, text};
use super::{deployment, import};
use crate::cli::Global;

/// What is said of a machine: the column, and where it stands in the answer.
const COLUMNS: [(&str, &str); 12] = [
    ("machine", "/key"),
    ("deployment", "/deployment"),
    ("name", "/name"),
    ("state", "/state"),
    ("provider", "/offer/provider"),
    ("plan", "/offer/plan"),
    ("region", "/offer/region"),
    ("hourly", "/offer/hourly"),
    ("since", "/since"),
    ("provider_id", "/provider_id"),
    ("node", "/node/id"),
    ("connected", "/node/connected"),
];

/// Lists every machine that was ordered.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub inventory --csv >machines.csv
         blueprint-hub inventory --known
What is to be there is declared in a CSV too: `blueprint-hub apply -f fleet.csv`. A list of machines that others made is read by \
`blueprint-hub import machines.csv`.")]
pub(crate) struct Inventory {
    /// Also those that have ended
    #[arg(long)]
    all: bool,
    /// As CSV (RFC 4180)
    #[arg(long)]
    csv: bool,
    /// Machines that others made, as `import` has read them, and none of this hub's
    #[arg(long, conflicts_with = "all")]
    known: bool,
    /// Forgets one of these by its name; it stays where it stands
    #[arg(long, value_name = "NAME", conflicts_with_all = ["all", "csv", "known"])]
    forget: Option<String>,
}

impl Inventory {
    pub(crate) fn run(&self, global: &Global) -> Result<(), CliError> {
        if let Some(name) = &self.forget {
            return forget(global, name);
        }
        let others = import::known(global)?.machines;
        if self.known {
            return self.others(global, &others);
        }
        let listed = ask(global, "GET", &format!("/v1/deployments?all={}", self.all), None)?;
        let mut machines = Vec::new();
        for listed in rows(&listed, "deployments") {
            let (id, name) = (text(listed, "id"), field(listed, "/name"));
            let answer = ask(global, "GET", &format!("/v1/deployments/{id}"), None)?;
            for row in rows(answer.get("deployment").unwrap_or(&Value::Null), "instances") {
                let has_ended = matches!(text(row, "state").as_str(), "gone" | "lost" | "failed");
                if self.all || !has_ended {
                    let (mut row, state) = (row.clone(), deployment::state(row));
                    if let Some(fields) = row.as_object_mut() {
                        fields.insert("deployment".to_owned(), json!(id));
                        fields.insert("name".to_owned(), json!(name));
                        fields.insert("state".to_owned(), json!(state));
                    }
                    machines.push(row);
                }
            }
        }
        if self.csv {
            print_line(&COLUMNS.map(|(column, _)| column).join(","));
            for machine in &machines {
                print_line(&COLUMNS.map(|(_, at)| quoted(&field(machine, at))).join(","));
            }
            return Ok(());
        }
        if global.output == Output::Json {
            print_json(&json!({ "machines": machines, "known": others }));
            return Ok(());
        }
        let mut table =
            Table::new(&["MACHINE", "NAME", "STATE", "PROVIDER", "PLAN", "REGION", "PRICE/H", "SINCE"]);
        for machine in &machines {
            let shown = ["/key", "/name", "/state", "/offer/provider", "/offer/plan", "/offer/region"];
            let cell = |at: &&str| Some(field(machine, at)).filter(|it| !it.is_empty());
            let mut row: Vec<_> = shown.iter().map(|at| cell(at).unwrap_or_else(|| "-".to_owned())).collect();
            row.extend([format!("${}", field(machine, "/offer/hourly")), field(machine, "/since")]);
            table.push(row);
        }
        table.print();
        if !others.is_empty() {
            eprint_line(&format!(
                "{} machines of others are known, which this hub does nothing with: `blueprint-hub inventory --known`",
                others.len()
            ));
        }
        Ok(())
    }

    /// Machines that others made.
    fn others(&self, global: &Global, others: &[KnownMachine]) -> Result<(), CliError> {
        if self.csv {
            let names =
                ["machine", "state", "provider", "plan", "region", "since", "provider_id", "expires_at"];
            print_line(&names.join(","));
            for it in others {
                let row = [&it.name, &it.state, &it.provider, &it.plan, &it.region, &it.since];
                let cells = row.into_iter().chain([&it.provider_id, &it.expires]);
                print_line(&cells.map(|cell| quoted(cell)).collect::<Vec<_>>().join(","));
            }
            return Ok(());
        }
        if global.output == Output::Json {
            print_json(&json!({ "known": others }));
            return Ok(());
        }
        let mut table =
            Table::new(&["MACHINE", "STATE", "PROVIDER", "ID THERE", "REGION", "KIND", "SINCE", "FROM"]);
        for it in others {
            let row = [
                &it.name,
                &it.state,
                &it.provider,
                &it.provider_id,
                &it.region,
                &it.plan,
                &it.since,
                &it.source,
            ];
            table.push(row.map(Clone::clone).to_vec());
        }
        table.print();
        Ok(())
    }
}

fn forget(global: &Global, name: &str) -> Result<(), CliError> {
    let mut known = import::known(global)?;
    if !known.forget(name) {
        return Err(CliError::not_found(format!("no machine of others is called {name:?}"))
            .hint("`blueprint-hub inventory --known` lists them"));
    }
    import::keep(&StateDir::open_shared(global.state()?)?, &known)?;
    match global.output {
        Output::Json => print_json(&json!({ "forgotten": name })),
        Output::Table => print_line(&format!("{name} is forgotten; it stays where it stands")),
    }
    Ok(())
}

fn field(machine: &Value, at: &str) -> String {
    match machine.pointer(at) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// A field of a CSV. What a spreadsheet would take for a formula is made a text.
fn quoted(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@', '\t']) { "'" } else { "" };
    if guard.is_empty() && !field.contains(['"', ',', '\n', '\r']) {
        return field.to_owned();
    }
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_csv_are_quoted_and_are_no_formulas() {
        assert_eq!(quoted("web-1"), "web-1");
        assert_eq!(quoted("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(quoted("=1+1"), "\"'=1+1\"");
        assert_eq!(quoted(""), "");
    }

    #[test]
    fn what_is_not_known_is_empty() {
        let machine = json!({ "key": "bp-1", "node": null, "offer": { "hourly": "0.01" } });
        assert_eq!(COLUMNS.map(|(_, at)| field(&machine, at)).join(","), "bp-1,,,,,,,0.01,,,,");
    }
}
