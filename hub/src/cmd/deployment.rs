//! `deployment`: machines that were ordered.

use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json, print_line};
use blueprint_common_types::Micros;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::{ask, rows, segment, text};
use super::deploy::{confirm, wait, watch};
use super::seconds;
use crate::cli::Global;

/// Machines that were ordered.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example: blueprint-hub deployment ls")]
pub(crate) enum Deployments {
    /// Lists deployments, and what a person should look at
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub deployment ls --all")]
    Ls {
        /// Also those that are gone
        #[arg(long)]
        all: bool,
    },
    /// Shows one deployment with its machines
    #[command(visible_alias = "status", after_help = "Example: blueprint-hub deployment show --watch web")]
    Show {
        /// Name, id, or the beginning of the id; of several with one name the one that is not being ended, else the newest
        deployment: String,
        /// Shows it again whenever it changes, until Ctrl-C
        #[arg(long, short)]
        watch: bool,
    },
    /// Switches its machines on
    #[command(after_help = "Example: blueprint-hub deployment start web --wait")]
    Start(Switch),
    /// Switches its machines off and keeps them; says what they cost then
    #[command(after_help = "Example: blueprint-hub deployment stop web")]
    Stop(Switch),
    /// Ends it for good: its machines are deleted, its nodes removed
    #[command(after_help = "Example: blueprint-hub deployment terminate web --yes --wait")]
    Terminate(Terminate),
    /// Shows what happened, oldest first
    #[command(after_help = "Example: blueprint-hub deployment history web")]
    History {
        /// Name, id, or the beginning of the id; of all deployments, where not given
        deployment: Option<String>,
        /// The newest so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
}

/// The same without the word `deployment` before it.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lists deployments, and what a person should look at
    #[command(after_help = "Example: blueprint-hub list --all")]
    List {
        /// Also those that are gone
        #[arg(long)]
        all: bool,
    },
    /// Switches the machines of a deployment on
    #[command(after_help = "Example: blueprint-hub start web --wait")]
    Start(Switch),
    /// Switches the machines of a deployment off and keeps them; says what they cost then
    #[command(after_help = "Example: blueprint-hub stop web")]
    Stop(Switch),
    /// Ends a deployment for good: its machines are deleted, its nodes removed
    #[command(after_help = "Example: blueprint-hub terminate web --yes --wait")]
    Terminate(Terminate),
    /// Shows what happened to deployments, oldest first
    #[command(after_help = "Example: blueprint-hub history web")]
    History {
        /// Name, id, or the beginning of the id; of all deployments, where not given
        deployment: Option<String>,
        /// The newest so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
}

impl Verb {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let whole = match self {
            Self::List { all } => Deployments::Ls { all },
            Self::Start(command) => Deployments::Start(command),
            Self::Stop(command) => Deployments::Stop(command),
            Self::Terminate(command) => Deployments::Terminate(command),
            Self::History { deployment, limit } => Deployments::History { deployment, limit },
        };
        whole.run(global)
    }
}

/// Which deployment, and whether to wait.
#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// Name, id, or the beginning of the id; of several with one name the one that is not being ended
    deployment: String,
    /// Waits until it is so, up to 15 min or the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "15m", value_parser = seconds)]
    wait: Option<u64>,
}

/// Which deployments end.
#[derive(Debug, Args)]
pub(crate) struct Terminate {
    /// Name, id, or the beginning of the id; of several with one name the one that is not being ended
    #[arg(required_unless_present_any = ["all", "instance"], conflicts_with_all = ["all", "instance"])]
    deployment: Option<String>,
    /// The same, as the tools of today write it
    #[arg(long, value_name = "DEPLOYMENT", conflicts_with = "all")]
    instance: Option<String>,
    /// Every deployment of this hub
    #[arg(long)]
    all: bool,
    /// Ends without asking
    #[arg(long, short = 'y', visible_alias = "confirm")]
    yes: bool,
    /// Waits until their clouds confirm that nothing is left, up to 15 min or the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "15m", value_parser = seconds)]
    wait: Option<u64>,
}

fn path(deployment: &str) -> Result<String, CliError> {
    Ok(format!("/v1/deployments/{}", segment(deployment)?))
}

impl Deployments {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Ls { all } => ls(global, all),
            Self::Show { deployment, watch: true } => watch(global, segment(&deployment)?),
            Self::Show { deployment, watch: false } => {
                let answer = ask(global, "GET", &path(&deployment)?, None)?;
                show(global, answer.get("deployment").unwrap_or(&Value::Null));
                Ok(())
            }
            Self::Start(command) => command.run(global, "running"),
            Self::Stop(command) => command.run(global, "stopped"),
            Self::Terminate(command) => command.run(global),
            Self::History { deployment, limit } => history(global, deployment.as_deref(), limit),
        }
    }
}

fn ls(global: &Global, all: bool) -> Result<(), CliError> {
    let answer = ask(global, "GET", &format!("/v1/deployments?all={all}"), None)?;
    if global.output == Output::Json {
        print_json(&answer);
        return Ok(());
    }
    table(rows(&answer, "deployments")).print();
    for alarm in rows(&answer, "alarms") {
        eprint_line(&format!("look at {}: {}", text(alarm, "subject"), text(alarm, "text")));
    }
    for provider in rows(&answer, "providers") {
        if provider.get("error").is_some_and(Value::is_string) {
            eprint_line(&format!("provider {}: {}", text(provider, "name"), text(provider, "error")));
        }
    }
    Ok(())
}

impl Switch {
    fn run(self, global: &Global, wanted: &str) -> Result<(), CliError> {
        let body = json!({ "wanted": wanted });
        let answer = ask(global, "PUT", &path(&self.deployment)?, Some(&body))?;
        let mut deployment = answer.get("deployment").cloned().unwrap_or_default();
        if let Some(within) = self.wait {
            deployment = wait(global, &text(&deployment, "id"), &[wanted], Duration::from_secs(within))?;
        }
        show(global, &deployment);
        let price = text(&deployment, "stopped_hourly");
        if wanted == "stopped" && price.parse::<Micros>().is_ok_and(|price| price > Micros::ZERO) {
            eprint_line(&format!(
                "its machines cost ${price} an hour while they are switched off; `blueprint-hub deployment terminate {}` \
                 ends that",
                text(&deployment, "id")
            ));
        }
        Ok(())
    }
}

impl Terminate {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let doomed = match self.deployment.as_ref().or(self.instance.as_ref()) {
            Some(deployment) => vec![ask(global, "GET", &path(deployment)?, None)?],
            None => {
                let answer = ask(global, "GET", "/v1/deployments", None)?;
                let own = rows(&answer, "deployments").iter();
                own.map(|deployment| json!({ "deployment": deployment })).collect()
            }
        };
        let doomed: Vec<Value> =
            doomed.iter().filter_map(|answer| answer.get("deployment").cloned()).collect();
        if !self.yes && !doomed.is_empty() {
            eprint_line(table(&doomed).render().trim_end());
            confirm("End this for good?", "give --yes")?;
        }
        let ids: Vec<String> = doomed.iter().map(|deployment| text(deployment, "id")).collect();
        let mut ended = Vec::new();
        for id in &ids {
            let answer = ask(global, "DELETE", &path(id)?, None)?;
            ended.push(answer.get("deployment").cloned().unwrap_or_default());
        }
        if let Some(within) = self.wait {
            ended.clear();
            for id in &ids {
                ended.push(wait(global, id, &["gone"], Duration::from_secs(within))?);
            }
        }
        match global.output {
            Output::Json => print_json(&json!({ "deployments": ended })),
            Output::Table => table(&ended).print(),
        }
        if self.all && !ids.is_empty() {
            eprint_line(
                "what the hub made for itself beside machines stays, such as firewalls: once they are gone, `blueprint-hub \
                 provider clean NAME` deletes it",
            );
        }
        Ok(())
    }
}

fn history(global: &Global, deployment: Option<&str>, limit: u32) -> Result<(), CliError> {
    let of = match deployment {
        Some(deployment) => format!("&deployment={}", segment(deployment)?),
        None => String::new(),
    };
    let answer = ask(global, "GET", &format!("/v1/history?limit={limit}{of}"), None)?;
    if global.output == Output::Json {
        print_json(&answer);
        return Ok(());
    }
    let mut table = Table::new(&["AT", "DEPLOYMENT", "MACHINE", "CAME TO", "REASON"]);
    for event in rows(&answer, "events") {
        table.push(["at", "deployment", "instance", "what", "reason"].map(|key| text(event, key)).to_vec());
    }
    table.print();
    Ok(())
}

/// Deployments, one a line.
pub(super) fn table(deployments: &[Value]) -> Table {
    let mut table = Table::new(&["ID", "NAME", "STATE", "ACTIVE", "SERVICE", "PRICE/H", "ENDS", "REASON"]);
    for row in deployments {
        table.push(vec![
            text(row, "id"),
            text(row, "name"),
            text(row, "state"),
            format!("{}/{}", text(row, "active"), text(row, "replicas")),
            text(row, "service"),
            format!("${}", text(row, "hourly")),
            text(row, "expires_at"),
            text(row, "reason"),
        ]);
    }
    table
}

/// The state of a machine for people: one that has joined and was switched off is not active.
pub(super) fn state(machine: &Value) -> String {
    let is_off = machine.get("is_off").and_then(Value::as_bool).unwrap_or(false);
    match text(machine, "state").as_str() {
        "active" if is_off => "stopped".to_owned(),
        other => other.to_owned(),
    }
}

/// One deployment with its machines.
pub(super) fn show(global: &Global, deployment: &Value) {
    if global.output == Output::Json {
        print_json(deployment);
        return;
    }
    table(std::slice::from_ref(deployment)).print();
    print_line("");
    let mut machines = Table::new(&["MACHINE", "STATE", "PLAN", "REGION", "CALLS", "SINCE", "REASON"]);
    for row in rows(deployment, "instances") {
        let offer = row.get("offer").unwrap_or(&Value::Null);
        machines.push(vec![
            text(row, "key"),
            state(row),
            text(offer, "plan"),
            text(offer, "region"),
            text(row, "attempt"),
            text(row, "since"),
            text(row, "reason"),
        ]);
    }
    machines.print();
    for line in others(deployment) {
        eprint_line(&line);
    }
}

/// A line for each other deployment of the same name.
fn others(deployment: &Value) -> Vec<String> {
    let line = |other: &Value| {
        let [id, state] = ["id", "state"].map(|key| text(other, key));
        let name = text(deployment, "name");
        format!("{name} is the name of {id} as well, which is {state}: `blueprint-hub deployment show {id}`")
    };
    rows(deployment, "others").iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_deployment_of_the_same_name_is_named() {
        let shown = json!({ "name": "web", "others": [{ "id": "d-1", "state": "terminating" }] });
        let wanted =
            "web is the name of d-1 as well, which is terminating: `blueprint-hub deployment show d-1`";
        assert_eq!(others(&shown), [wanted]);
        assert!(others(&json!({ "name": "web", "others": [] })).is_empty());
    }
}
