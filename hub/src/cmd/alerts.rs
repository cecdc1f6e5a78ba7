//! `set-alert` and `alerts`: who is told what machines cost, and what happens once an amount is spent.

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json, print_line};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::client::{ask, rows, segment, text};
use crate::cli::Global;

/// Makes an alert about costs, or changes one; what is left out stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub set-alert team --amount 50 --per month --action hold
         blueprint-hub set-alert web --amount 2.50 --per day --deployment web --webhook https://hooks.example/x
A new alert counts all deployments by the month, tells at 50, 80 and 100 % and of days of 3 times the usual, and does no more.
The key that messages to a webhook are signed with is shown once; docs/costs.md says how to check them.")]
pub(crate) struct SetAlert {
    /// What to call it
    name: String,
    /// What may be spent, in US dollars
    #[arg(long, value_name = "AMOUNT")]
    amount: Option<String>,
    /// For how long that is; total is the life of a deployment
    #[arg(long, value_enum)]
    per: Option<Per>,
    /// Counts this deployment alone: name, id, or the beginning of the id
    #[arg(long, value_name = "NAME", conflicts_with_all = ["provider", "all"])]
    deployment: Option<String>,
    /// Counts this provider alone
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    provider: Option<String>,
    /// Counts all deployments
    #[arg(long)]
    all: bool,
    /// When to tell, in percent
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = super::whole::<u16>)]
    at: Option<Vec<u16>>,
    /// What happens at 100 %: tell, order nothing more, or end what runs as well
    #[arg(long, value_enum)]
    action: Option<Action>,
    /// Tells of a day of so many times the usual, or off
    #[arg(long, value_name = "TIMES", value_parser = times)]
    anomaly: Option<u32>,
    /// Tells of no day that costs less, in US dollars
    #[arg(long, value_name = "AMOUNT")]
    anomaly_floor: Option<String>,
    /// Where messages go: an https URL, or off
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Has --action terminate end deployments at once, where all of the amount is spent already
    #[arg(long, short = 'y')]
    yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Per {
    Day,
    Month,
    Total,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Action {
    Notify,
    Hold,
    Terminate,
}

/// `--anomaly` values: a number, or off as 0.
fn times(text: &str) -> Result<u32, String> {
    match text {
        "off" => Ok(0),
        _ => text.parse().map_err(|_| "a whole number such as 3, or off was expected".to_owned()),
    }
}

impl SetAlert {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let mut body = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        put("amount", self.amount.map(Value::from));
        put("per", self.per.map(|per| Value::from(word(per))));
        put("deployment", self.deployment.map(Value::from));
        put("provider", self.provider.map(Value::from));
        put("all", self.all.then(|| Value::from(true)));
        put("at", self.at.map(Value::from));
        put("action", self.action.map(|action| Value::from(word(action))));
        put("anomaly_times", self.anomaly.map(Value::from));
        put("anomaly_floor", self.anomaly_floor.map(Value::from));
        let webhook = self.webhook.map(|url| if url == "off" { String::new() } else { url });
        put("webhook", webhook.map(Value::from));
        put("sure", self.yes.then(|| Value::from(true)));
        let answer = ask(global, "PUT", &path(&self.name)?, Some(&Value::Object(body)))?;
        if global.output == Output::Json {
            print_json(&answer);
            return Ok(());
        }
        let alert = answer.get("alert").cloned().unwrap_or_default();
        table(std::slice::from_ref(&alert)).print();
        if alert.get("in_force") == Some(&Value::Bool(true)) {
            eprint_line(&format!("all of it is spent already: {}", effect(&alert)));
        }
        if let Some(key) = answer.get("webhook_key").and_then(Value::as_str) {
            eprint_line("messages are signed with this key, which is shown once:");
            print_line(key);
        }
        Ok(())
    }
}

/// The name of a value of an option.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn path(name: &str) -> Result<String, CliError> {
    Ok(format!("/v1/alerts/{}", segment(name)?))
}

/// Alerts about costs.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub alerts
         blueprint-hub alerts show team")]
pub(crate) struct Alerts {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists alerts and how they stand
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub alerts ls")]
    Ls,
    /// Shows one with what it told last
    #[command(after_help = "Example: blueprint-hub alerts show team")]
    Show {
        /// Which alert
        name: String,
    },
    /// Shows what alerts told, oldest first, and whether it was delivered
    #[command(after_help = "Example: blueprint-hub alerts history team --limit 20")]
    History {
        /// Which alert; all of them, where not given
        name: Option<String>,
        /// The newest so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Calls off what an alert does, until its next period
    #[command(after_help = "Example: blueprint-hub alerts release team
What was ended stays ended; orders pass again.")]
    Release {
        /// Which alert
        name: String,
    },
    /// Has an alert send a message that says it is a test
    #[command(after_help = "Example: blueprint-hub alerts test team && blueprint-hub alerts history team")]
    Test {
        /// Which alert
        name: String,
    },
    /// Removes an alert; what it holds is free, and messages that wait are dropped
    #[command(visible_alias = "remove", after_help = "Example: blueprint-hub alerts rm team")]
    Rm {
        /// Which alert
        name: String,
    },
}

impl Alerts {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self.command.unwrap_or(Command::Ls) {
            Command::Ls => {
                let answer = ask(global, "GET", "/v1/alerts", None)?;
                shown(global, &answer, |answer| table(rows(answer, "alerts")).print());
            }
            Command::Show { name } => {
                let answer = ask(global, "GET", &path(&name)?, None)?;
                shown(global, &answer, |answer| {
                    let alert = answer.get("alert").cloned().unwrap_or_default();
                    table(std::slice::from_ref(&alert)).print();
                    print_line(&format!(
                        "webhook {}, unusual days {}",
                        text(&alert, "webhook"),
                        unusual(&alert)
                    ));
                    print_line("");
                    events(rows(answer, "events")).print();
                });
            }
            Command::History { name, limit } => {
                let of = match &name {
                    Some(name) => format!("&alert={}", segment(name)?),
                    None => String::new(),
                };
                let answer = ask(global, "GET", &format!("/v1/alert-events?limit={limit}{of}"), None)?;
                shown(global, &answer, |answer| events(rows(answer, "events")).print());
            }
            Command::Release { name } => {
                let answer = ask(global, "POST", &format!("{}/release", path(&name)?), Some(&json!({})))?;
                shown(global, &answer, |answer| {
                    print_line(&format!("alert {name} holds nothing any more: {}", text(answer, "released")));
                });
            }
            Command::Test { name } => {
                let answer = ask(global, "POST", &format!("{}/test", path(&name)?), Some(&json!({})))?;
                shown(global, &answer, |answer| {
                    events(answer.get("event").map(std::slice::from_ref).unwrap_or_default()).print();
                });
            }
            Command::Rm { name } => {
                let answer = ask(global, "DELETE", &path(&name)?, None)?;
                shown(global, &answer, |_| print_line(&format!("alert {name} is removed")));
            }
        }
        Ok(())
    }
}

fn shown(global: &Global, answer: &Value, table: impl FnOnce(&Value)) {
    match global.output {
        Output::Json => print_json(answer),
        Output::Table => table(answer),
    }
}

/// What an alert does now, in words.
fn effect(alert: &Value) -> String {
    let what = match alert.get("action").and_then(Value::as_str) {
        Some("terminate") => "nothing more is ordered, and what runs is ended",
        _ => "nothing more is ordered",
    };
    format!("{what}; `blueprint-hub alerts release {}` calls it off", text(alert, "name"))
}

fn unusual(alert: &Value) -> String {
    match alert.get("anomaly") {
        Some(anomaly @ Value::Object(_)) => {
            format!("from {} times and ${} on", text(anomaly, "times"), text(anomaly, "floor"))
        }
        Some(_) | None => "not told".to_owned(),
    }
}

fn money(row: &Value, key: &str) -> String {
    match row.get(key) {
        Some(Value::String(amount)) => format!("${amount}"),
        Some(_) | None => "-".to_owned(),
    }
}

fn table(alerts: &[Value]) -> Table {
    let mut table =
        Table::new(&["NAME", "COUNTS", "PER", "AMOUNT", "SPENT", "FORECAST", "AT", "ACTION", "STATE"]);
    for alert in alerts {
        let subject = match text(alert, "deployment_name").as_str() {
            "-" => text(alert, "subject"),
            name => name.to_owned(),
        };
        let counts =
            if subject == "-" { text(alert, "scope") } else { format!("{} {subject}", text(alert, "scope")) };
        let at: Vec<String> = rows(alert, "at").iter().map(ToString::to_string).collect();
        let is = |key: &str| alert.get(key) == Some(&Value::Bool(true));
        let state = match (is("in_force"), is("released"), is("over")) {
            (true, _, _) => "holds",
            (false, true, _) => "released",
            (false, false, true) => "over",
            (false, false, false) => "-",
        };
        table.push(vec![
            text(alert, "name"),
            counts,
            text(alert, "per"),
            money(alert, "amount"),
            money(alert, "spent"),
            money(alert, "forecast"),
            at.join(","),
            text(alert, "action"),
            state.to_owned(),
        ]);
    }
    table
}

fn events(events: &[Value]) -> Table {
    let mut table = Table::new(&["ID", "AT", "KIND", "TRIES", "MESSAGE", "NEXT TRY", "TEXT", "ERROR"]);
    for event in events {
        let cells = ["id", "at", "kind", "attempts", "delivery", "next_try", "text", "error"];
        table.push(cells.map(|cell| text(event, cell)).to_vec());
    }
    table
}
