//! `apply`: deployments as a file declares them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line, printable};
use clap::Args;
use ring::digest;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{ask, rows, text};
use super::deploy::{PLAN_ALONE, confirm, passed_over, wait};
use super::seconds;
use crate::cli::Global;

/// Orders what a file declares and is not there yet.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub apply -f deployments.toml --dry-run
         blueprint-hub apply -f fleet.csv --yes --wait
The file, TOML, JSON or CSV by its ending, lists deployments by name:
  [[deployment]]
  name = \"web\"
  replicas = 2
  service = \"7/42\"
  ttl = \"12h\"
  machine = { provider = \"sim\", cpu = \"2\", memory_gib = \"4\" }
A CSV has the columns name, replicas, service and ttl, and one for each field of machine. What is there already stays \
as it is; one that is there under that name and was declared otherwise is an error (exit code 5), and nothing is ordered.")]
pub(crate) struct Apply {
    /// The file; `-` reads TOML from standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Says what would be ordered, and orders nothing
    #[arg(long)]
    dry_run: bool,
    /// Orders without asking
    #[arg(long, short = 'y')]
    yes: bool,
    /// Waits until every machine has joined, up to 15 min or the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "15m", value_parser = seconds)]
    wait: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    deployment: Vec<Declared>,
}

/// One deployment of a file.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Declared {
    name: String,
    #[serde(default = "one")]
    replicas: u32,
    service: Option<String>,
    ttl: Option<String>,
    #[serde(default)]
    machine: Map<String, Value>,
}

const fn one() -> u32 {
    1
}

impl Declared {
    /// The order, without its request key.
    fn body(&self) -> Result<Value, CliError> {
        let ttl = self.ttl.as_deref().map(seconds).transpose();
        let ttl = ttl.map_err(|error| CliError::usage(format!("deployment {}: ttl: {error}", self.name)))?;
        Ok(json!({
            "name": self.name,
            "replicas": self.replicas,
            "machine": self.machine,
            "service": self.service,
            "ttl_secs": ttl,
        }))
    }

    /// What the request keys of this very declaration begin with.
    fn key(&self) -> Result<String, CliError> {
        let digest = digest::digest(&digest::SHA256, self.body()?.to_string().as_bytes());
        let short: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("apply-{}-{short}-", self.name))
    }
}

impl Apply {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let declared = read(&self.file)?;
        let answer = ask(global, "GET", "/v1/deployments?all=true", None)?;
        let there = rows(&answer, "deployments");
        let (mut orders, mut unchanged) = (Vec::new(), Vec::new());
        for one in &declared {
            match found(global, one, there)? {
                Found::Live => unchanged.push(one.name.clone()),
                Found::Gone(next) => orders.push((one, format!("{}{next}", one.key()?))),
            }
        }
        // All are planned before the first is ordered.
        let mut plans = Vec::new();
        for (one, key) in &orders {
            let mut body = one.body()?;
            set(&mut body, "dry_run", json!(true));
            let plan = ask(global, "POST", "/v1/deployments", Some(&body))?;
            eprint_line(&format!(
                "{}: {} x ${} an hour, {} of {}",
                one.name,
                one.replicas,
                text(plan.pointer("/plan/0").unwrap_or(&Value::Null), "hourly"),
                text(plan.pointer("/plan/0").unwrap_or(&Value::Null), "plan"),
                text(plan.pointer("/plan/0").unwrap_or(&Value::Null), "provider"),
            ));
            for line in passed_over(&plan) {
                eprint_line(&printable(&format!("{}: {line}", one.name)));
            }
            let confirmed = json!({ "hourly": plan.get("hourly"), "most_hourly": plan.get("most_hourly") });
            set(&mut body, "confirmed", confirmed);
            set(&mut body, "dry_run", json!(false));
            set(&mut body, "request_key", json!(key));
            plans.push(body);
        }
        let mut ordered = Vec::new();
        if !self.dry_run && !plans.is_empty() {
            if !self.yes {
                confirm("Order this?", PLAN_ALONE)?;
            }
            for body in &plans {
                let answer = ask(global, "POST", "/v1/deployments", Some(body))?;
                let deployment = answer.get("deployment").cloned().unwrap_or_default();
                eprint_line(&format!("{} ordered as {}", text(&deployment, "name"), text(&deployment, "id")));
                if text(&deployment, "wanted") == "gone" {
                    let id = text(&deployment, "id");
                    return Err(CliError::conflict(format!(
                        "the order was made before, as {id}, and has ended"
                    ))
                    .hint("apply again"));
                }
                ordered.push(deployment);
            }
            if let Some(within) = self.wait {
                for deployment in &mut ordered {
                    let id = text(deployment, "id");
                    *deployment = wait(global, &id, &["running"], Duration::from_secs(within))?;
                }
            }
        }
        let missing: Vec<_> = orders.iter().map(|(one, _)| one.name.as_str()).collect();
        match global.output {
            Output::Json => {
                print_json(&json!({ "missing": missing, "unchanged": unchanged, "ordered": ordered }));
            }
            Output::Table => {
                let (count, word) =
                    if self.dry_run { (orders.len(), "to order") } else { (ordered.len(), "ordered") };
                print_line(&format!("{count} {word}, {} unchanged", unchanged.len()));
            }
        }
        Ok(())
    }
}

fn set(body: &mut Value, name: &str, value: Value) {
    if let Some(fields) = body.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
}

/// What is there of a declaration.
enum Found {
    /// It, as declared.
    Live,
    /// Nothing any more; the number that its next request key ends in.
    Gone(u64),
}

fn found(global: &Global, one: &Declared, there: &[Value]) -> Result<Found, CliError> {
    let prefix = one.key()?;
    let mut next = 0u64;
    for row in there.iter().filter(|row| text(row, "name") == one.name) {
        let id = text(row, "id");
        let answer = ask(global, "GET", &format!("/v1/deployments/{id}"), None)?;
        let key = answer.pointer("/deployment/request_key").and_then(Value::as_str).unwrap_or_default();
        let number = key.strip_prefix(&prefix).map(|number| number.parse::<u64>().unwrap_or_default());
        let is_ending = matches!(text(row, "wanted").as_str(), "gone");
        match (number, is_ending) {
            (Some(_), false) => return Ok(Found::Live),
            (Some(number), true) => next = next.max(number.saturating_add(1)),
            (None, true) => {}
            (None, false) => {
                return Err(CliError::conflict(format!(
                    "deployment {} is there as {id}, and was not declared like this",
                    one.name
                ))
                .hint(format!(
                    "end it with `blueprint-hub terminate {id}`, or give the declaration another name"
                )));
            }
        }
    }
    Ok(Found::Gone(next))
}

/// Reads and checks a file of declarations.
fn read(path: &Path) -> Result<Vec<Declared>, CliError> {
    let shown = path.display();
    let mut content = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut content)?;
    } else {
        content = std::fs::read_to_string(path).map_err(|error| super::unread(path, &error))?;
    }
    let wrong = |error: String| {
        CliError::usage(format!("{shown}: {error}"))
            .hint("`blueprint-hub apply --help` shows what such a file looks like")
    };
    let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
    let declared = match ending.as_deref() {
        Some("csv") => table(&content).map_err(wrong)?,
        Some("json") => {
            serde_json::from_str::<Document>(&content).map_err(|error| wrong(error.to_string()))?.deployment
        }
        Some(_) | None => {
            toml::from_str::<Document>(&content).map_err(|error| wrong(error.to_string()))?.deployment
        }
    };
    for (at, one) in declared.iter().enumerate() {
        if one.name.is_empty() {
            return Err(wrong(format!("deployment {} has no name", at.saturating_add(1))));
        }
        if declared.iter().take(at).any(|other| other.name == one.name) {
            return Err(wrong(format!("two deployments are called {}", one.name)));
        }
    }
    Ok(declared)
}

/// The rows of a CSV, by its first line.
fn table(content: &str) -> Result<Vec<Declared>, String> {
    let mut lines = content.lines().filter(|line| !line.trim().is_empty());
    let columns = fields(lines.next().unwrap_or_default())?;
    let mut declared = Vec::new();
    for (line, number) in lines.zip(2usize..) {
        let values = fields(line)?;
        if values.len() != columns.len() {
            return Err(format!("row {number} has {} fields, the first {}", values.len(), columns.len()));
        }
        let mut one =
            Declared { name: String::new(), replicas: 1, service: None, ttl: None, machine: Map::new() };
        for (column, value) in columns.iter().zip(values).filter(|(_, value)| !value.is_empty()) {
            match column.as_str() {
                "name" => one.name = value,
                "replicas" => {
                    one.replicas = value
                        .parse()
                        .map_err(|_| format!("row {number}: {value:?} is no number of replicas"))?;
                }
                "service" => one.service = Some(value),
                "ttl" => one.ttl = Some(value),
                other => {
                    let value = cell(other, value).map_err(|wrong| format!("row {number}: {wrong}"))?;
                    one.machine.insert(other.to_owned(), value);
                }
            }
        }
        declared.push(one);
    }
    Ok(declared)
}

/// A cell of a column of `machine`, as the hub expects it.
fn cell(column: &str, value: String) -> Result<Value, String> {
    match column {
        "disk_gb" | "gpu_count" | "min_vram_gib" | "egress_gb" => {
            let number = value.parse::<u32>();
            number
                .map(Value::from)
                .map_err(|_| format!("{column} is {value:?}, and a whole number was expected"))
        }
        "spot" | "no_burstable" | "accept_stale" | "configured" => {
            let truth = value.to_ascii_lowercase().parse::<bool>();
            truth
                .map(Value::from)
                .map_err(|_| format!("{column} is {value:?}, and true or false was expected"))
        }
        _ => Ok(Value::String(value)),
    }
}

/// The fields of one line (RFC 4180; none holds a line break).
fn fields(line: &str) -> Result<Vec<String>, String> {
    let (mut fields, mut field, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, is_quoted) {
            ('"', true) if characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            ('"', _) => is_quoted = !is_quoted,
            (',', false) => fields.push(std::mem::take(&mut field).trim().to_owned()),
            (other, _) => field.push(other),
        }
    }
    if is_quoted {
        return Err(format!("a quotation mark has no end: {line}"));
    }
    fields.push(field.trim().to_owned());
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_csv_declare_the_same() {
        let text = "[[deployment]]\nname = \"web\"\nreplicas = 2\nttl = \"12h\"\nmachine = { provider = \"sim\", cpu = \"2\" }\n";
        let toml: Document = toml::from_str(text).unwrap();
        let csv = table("name,replicas,ttl,provider,cpu,region\nweb,2,12h,\"sim\",2,\n").unwrap();
        assert_eq!(toml.deployment, csv);
        let [one] = csv.as_slice() else { panic!("one row") };
        assert_eq!(one.body().unwrap()["ttl_secs"], 43_200);
        assert!(one.key().unwrap().starts_with("apply-web-"));
        assert_ne!(one.key().unwrap(), table("name\nweb\n").unwrap()[0].key().unwrap());
    }

    #[test]
    fn columns_of_the_machine_have_the_types_that_the_hub_expects() {
        let text = "name,disk_gb,gpu_count,min_vram_gib,egress_gb,spot,no_burstable,cpu\nweb,40,2,24,100,TRUE,false,2\n";
        let rows = table(text).unwrap();
        let machine = Value::Object(rows[0].machine.clone());
        let said = serde_json::json!({ "disk_gb": 40, "gpu_count": 2, "min_vram_gib": 24, "egress_gb": 100, "spot": true,
            "no_burstable": false, "cpu": "2" });
        assert_eq!(machine, said);
    }

    #[test]
    fn wrong_tables_say_where() {
        assert_eq!(fields("a,\"b, \"\"c\"\"\",").unwrap(), ["a", "b, \"c\"", ""]);
        for (text, says) in [
            ("name,replicas\nweb\n", "row 2 has 1 fields"),
            ("name,replicas\nweb,x\n", "\"x\" is no number"),
            ("name\n\"web\n", "has no end"),
            ("name,disk_gb\nweb,much\n", "row 2: disk_gb is \"much\""),
            ("name,spot\nweb,perhaps\n", "row 2: spot is \"perhaps\""),
        ] {
            let error = table(text).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }
}
