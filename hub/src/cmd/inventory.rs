//! `inventory`: every machine that was ordered, as a table for people, programs and spreadsheets.

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use clap::Args;
use serde_json::{Value, json};

use super::client::{ask, rows, text};
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
What is to be there is declared in a CSV too: `blueprint-hub apply -f fleet.csv`.")]
pub(crate) struct Inventory {
    /// Also those that have ended
    #[arg(long)]
    all: bool,
    /// As CSV (RFC 4180)
    #[arg(long)]
    csv: bool,
}

impl Inventory {
    pub(crate) fn run(&self, global: &Global) -> Result<(), CliError> {
        let listed = ask(global, "GET", &format!("/v1/deployments?all={}", self.all), None)?;
        let mut machines = Vec::new();
        for deployment in rows(&listed, "deployments") {
            let (id, name) = (text(deployment, "id"), text(deployment, "name"));
            let answer = ask(global, "GET", &format!("/v1/deployments/{id}"), None)?;
            for row in rows(answer.get("deployment").unwrap_or(&Value::Null), "instances") {
                let has_ended = matches!(text(row, "state").as_str(), "gone" | "lost" | "failed");
                if self.all || !has_ended {
                    let mut row = row.clone();
                    if let Some(fields) = row.as_object_mut() {
                        fields.insert("deployment".to_owned(), json!(id));
                        fields.insert("name".to_owned(), json!(name));
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
            print_json(&json!({ "machines": machines }));
            return Ok(());
        }
        let mut table =
            Table::new(&["MACHINE", "NAME", "STATE", "PROVIDER", "PLAN", "REGION", "PRICE/H", "SINCE"]);
        for machine in &machines {
            let shown = ["/key", "/name", "/state", "/offer/provider", "/offer/plan", "/offer/region"];
            let mut row: Vec<_> = shown.iter().map(|at| field(machine, at)).collect();
            row.extend([format!("${}", field(machine, "/offer/hourly")), field(machine, "/since")]);
            table.push(row);
        }
        table.print();
        Ok(())
    }
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
