//! `deploy`: orders machines.

mod package;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use blueprint_common_runtime::cli::{
    CliError, Output, Progress, Table, eprint_line, print_json, print_line, printable,
};
use blueprint_common_types::ServiceKey;
use blueprint_hub_provision_core::DeploymentId;
use blueprint_hub_provision_core::scaling::Tier;
use clap::Args;
use serde_json::{Value, json};

use super::client::{ask, rows, text};
use super::deployment::show;
use super::offers;
use super::offers::filter::{Filter, Query};
use super::{seconds, workload};
use crate::cli::Global;

/// Pause between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(300);

/// What a script says that orders, or wants to see what would be ordered.
pub(super) const PLAN_ALONE: &str = "give --yes, or --dry-run to see the plan alone";

/// How long machines are waited for that are to run a package, in seconds, where nothing else is said.
const JOIN_WITHIN: u64 = 15 * 60;

/// Orders machines that join this hub by themselves.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: blueprint-hub deploy --name web --replicas 2 --service 7/42 --ttl 12h --yes --wait
         blueprint-hub deploy --min-cpu 2 --min-memory 4 --budget 0.05 --dry-run
         blueprint-hub deploy --remote production --package demo --service 7/42 --yes
The plan is shown with its price before anything is ordered. docs/provisioning.md explains states and time limits.
Exit codes with --wait: 0 all machines joined, 6 not in time; the order stands."
)]
pub(crate) struct Deploy {
    /// What to call it: a-z, 0-9 and '-'
    #[arg(long, default_value = "")]
    name: String,
    /// How many machines; 1 where not given, or what the tier says
    #[arg(long)]
    replicas: Option<u32>,
    /// Gives the service this payment tier: basic, standard or premium; machines have at least what it names. Not with --package,
    /// whose machines offer no service by themselves
    #[arg(long, value_name = "NAME", requires = "service", conflicts_with = "package")]
    tier: Option<Tier>,
    #[command(flatten)]
    machine: Filter,
    /// How to choose: cheapest, first-match, hybrid, preferred:NAME,NAME, or local-only, which orders nothing; as
    /// provision.strategy says where not given
    #[arg(long, value_name = "HOW", conflicts_with_all = ["provider", "template"])]
    strategy: Option<String>,
    /// Over what the machines are spread, so that one place that is lost does not take all: regions or providers
    #[arg(long, value_name = "OVER", value_parser = ["none", "regions", "providers"])]
    spread: Option<String>,
    /// Service that the machines offer, as BLUEPRINT/SERVICE
    #[arg(long)]
    service: Option<ServiceKey>,
    /// Program or archive that runs there as that service: a file, or the name of a Cargo package that was built with --release
    /// here; waits for the machines
    #[arg(long, value_name = "PACKAGE", requires = "service")]
    package: Option<String>,
    /// Document with everything else of that workload, JSON (docs/workloads.md)
    #[arg(long, value_name = "FILE", requires = "package")]
    workload: Option<PathBuf>,
    /// How long it lives, such as 12h; where not given as provision.ttl says
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    ttl: Option<u64>,
    /// Who asks again with the same key gets the same deployment; made up where not given
    #[arg(long, value_name = "KEY")]
    request_key: Option<String>,
    /// Relies on prices of any age
    #[arg(long)]
    accept_stale_price: bool,
    /// Shows with the plan whose word each condition was: the blueprint's, yours or the operator's
    #[arg(long)]
    explain: bool,
    /// Shows the plan and its price, and orders nothing
    #[arg(long)]
    dry_run: bool,
    /// Orders without asking
    #[arg(long, short = 'y')]
    yes: bool,
    /// Waits until every machine has joined, up to 15 min or the time given
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "15m", value_parser = seconds)]
    wait: Option<u64>,
}

impl Deploy {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let (machine, spread) = self.asked(global)?;
        let package = self.package.as_deref().map(package::find).transpose()?;
        let document = self.workload.as_deref().map(workload::document).transpose()?.unwrap_or_default();
        let mut body = json!({
            "name": self.name,
            "replicas": self.replicas(),
            "machine": machine,
            // What is pushed offers the service, and not the machine by itself.
            "service": self.service.filter(|_| self.package.is_none()),
            "spread": spread,
            "ttl_secs": self.ttl,
            "dry_run": true,
            // Who asks for the same again does not meet the name of what stands already.
            "request_key": self.request_key.as_deref().unwrap_or_default(),
        });
        // A script that reads JSON gets one document, and has agreed before.
        if self.dry_run || !self.yes || global.output == Output::Table {
            let plan = ask(global, "POST", "/v1/deployments", Some(&body))?;
            if self.dry_run && global.output == Output::Json {
                print_json(&plan);
                return Ok(());
            }
            show_plan(&plan, self.explain);
            let confirmed = ["hourly", "most_hourly"].map(|key| (key.to_owned(), plan.get(key).cloned()));
            let confirmed: serde_json::Map<_, _> =
                confirmed.into_iter().filter_map(|(key, price)| Some((key, price?))).collect();
            body.as_object_mut().map(|body| body.insert("confirmed".to_owned(), confirmed.into()));
            if self.dry_run {
                return Ok(());
            }
            if !self.yes {
                confirm("Order this?", PLAN_ALONE)?;
            }
        }
        // Before there are machines that would stand without it.
        set_tier(global, self.service, self.tier, true)?;
        let key = match self.request_key {
            Some(key) => key,
            None => {
                let key = DeploymentId::random()
                    .map_err(|error| CliError::failure(format!("no randomness for a request key: {error}")))?
                    .to_string();
                // Before the call: where its answer is lost, this is how to ask for the same again.
                eprint_line(&format!("request key {key}; the same order again: --request-key {key}"));
                key
            }
        };
        if let Some(fields) = body.as_object_mut() {
            fields.insert("dry_run".to_owned(), json!(false));
            fields.insert("request_key".to_owned(), json!(key));
        }
        let answer = ask(global, "POST", "/v1/deployments", Some(&body))?;
        if self.yes && global.output == Output::Json {
            // Nobody was shown the plan.
            passed_over(&answer).iter().for_each(|line| eprint_line(&printable(line)));
        }
        let deployment = answer.get("deployment").unwrap_or(&Value::Null);
        set_tier(global, self.service, self.tier, false).map_err(|error| {
            let id = text(deployment, "id");
            let hint = format!(
                "deployment {id} was ordered and stands without a tier; `blueprint-hub deployment terminate {id}` ends it"
            );
            match error.hint.clone() {
                Some(own) => error.hint(format!("{own}; {hint}")),
                None => error.hint(hint),
            }
        })?;
        let within = self.wait.or(package.as_ref().map(|_| JOIN_WITHIN));
        let Some(within) = within else {
            show(global, deployment);
            if global.output == Output::Table {
                eprint_line(&format!(
                    "follow it with `blueprint-hub deployment show --watch {}`",
                    text(deployment, "id")
                ));
            }
            return Ok(());
        };
        let reached = wait(global, &text(deployment, "id"), &["running"], Duration::from_secs(within))?;
        match (package, self.service) {
            (Some(file), Some(service)) => {
                package::run(global, &file, (service, document), &reached, Duration::from_secs(within))?;
            }
            (Some(_) | None, _) => show(global, &reached),
        }
        Ok(())
    }

    /// How many machines, where nothing is said as many as the tier begins with.
    fn replicas(&self) -> u32 {
        self.replicas.unwrap_or(self.tier.map_or(1, |tier| tier.terms().replicas))
    }

    /// What each machine has to have, and over what they are spread: by the options and then by the remote.
    fn asked(&self, global: &Global) -> Result<(Value, Option<String>), CliError> {
        let mut machine = Query::default();
        self.machine.write(&mut machine);
        machine.text("strategy", self.strategy.as_deref());
        machine.flag("accept_stale", self.accept_stale_price);
        if let Some(tier) = self.tier {
            machine.at_least(&tier.terms());
        }
        let remote = self.machine.place(global, &mut machine)?;
        if let Some(most) = remote.as_ref().and_then(|remote| remote.max_instances)
            && self.replicas() > most
        {
            return Err(CliError::usage(format!(
                "the remote has {most} machines at most, not {}",
                self.replicas()
            ))
            .hint("ask for fewer --replicas, or change max_instances of the remote in remotes.toml"));
        }
        let of_remote = remote.and_then(|remote| remote.spread).filter(|_| !machine.has("region"));
        Ok((machine.json(), self.spread.clone().or(of_remote)))
    }
}

/// Gives a service that was deployed its tier, or asks whether it may have it; one that has it keeps what else was said of it.
fn set_tier(
    global: &Global,
    service: Option<ServiceKey>,
    tier: Option<Tier>,
    dry_run: bool,
) -> Result<(), CliError> {
    if let (Some(service), Some(tier)) = (service, tier) {
        let body = json!({ "tier": tier.label(), "dry_run": dry_run });
        ask(global, "PUT", &format!("/v1/services/{service}/scaling"), Some(&body))?;
    }
    Ok(())
}

/// Shows what would be ordered to people, and whose word it was where they want to know.
fn show_plan(plan: &Value, explains: bool) {
    show_offers(plan);
    for provider in rows(plan, "left_out") {
        eprint_line(&printable(&format!(
            "left out of the choice: {}: {}",
            text(provider, "provider"),
            text(provider, "reason")
        )));
    }
    for line in passed_over(plan) {
        eprint_line(&printable(&line));
    }
    if explains {
        eprint_line(offers::explained(plan.get("explained").unwrap_or(&Value::Null)).render().trim_end());
    }
}

/// A line for each offer that the plan goes around since it cannot be had now, and one where the order waits for that.
pub(super) fn passed_over(answer: &Value) -> Vec<String> {
    let line = |offer: &Value| {
        let [plan, provider, region, reason, until] =
            ["plan", "provider", "region", "reason", "until"].map(|key| text(offer, key));
        let spot = if text(offer, "spot") == "true" { " as spot" } else { "" };
        format!(
            "cannot be had now: {plan} of {provider} in {region}{spot}: {reason}; it is ordered again from {until}"
        )
    };
    let mut lines: Vec<_> = rows(answer, "unavailable").iter().map(line).collect();
    if let Some(until) = answer.get("waits_until").and_then(Value::as_str) {
        lines.push(format!(
            "nothing that fits can be had now: the order waits, and is tried from {until} on; ask for another --region, \
             --provider or size to have it sooner"
        ));
    }
    lines
}

fn show_offers(plan: &Value) {
    let mut offers = Table::new(&["TRY", "PROVIDER", "PLAN", "REGION", "DISK", "PRICE/H"]);
    for (offer, step) in rows(plan, "plan").iter().zip(1u32..) {
        offers.push(vec![
            step.to_string(),
            text(offer, "provider"),
            text(offer, "plan"),
            text(offer, "region"),
            format!("{} GB", text(offer, "disk_gb")),
            format!("${}", text(offer, "hourly")),
        ]);
    }
    eprint_line(offers.render().trim_end());
    if let Some(shared) = shared(plan) {
        eprint_line(&shared);
    }
    let count = text(plan, "replicas");
    let noun = if count == "1" { "machine" } else { "machines" };
    if text(plan, "spread") != "none" {
        let layout = rows(plan, "layout").iter();
        let places: Vec<_> = layout
            .map(|row| {
                format!(
                    "{} of {} in {} (${} an hour)",
                    text(row, "plan"),
                    text(row, "provider"),
                    text(row, "region"),
                    text(row, "hourly")
                )
            })
            .collect();
        eprint_line(&format!(
            "{count} {noun}, spread over {}: {}; ${} an hour, ${} a month of 730 hours; not spread it were ${} an hour",
            text(plan, "spread"),
            places.join(", "),
            text(plan, "hourly"),
            text(plan, "monthly"),
            text(plan, "unspread_hourly"),
        ));
        return;
    }
    eprint_line(&format!(
        "{count} {noun} of the first that can be had: ${} an hour, ${} a month of 730 hours",
        text(plan, "hourly"),
        text(plan, "monthly")
    ));
}

/// Which of the plan have processors that they share, where there are such.
fn shared(plan: &Value) -> Option<String> {
    let mut told: Vec<_> = rows(plan, "plan")
        .iter()
        .filter_map(|offer| {
            let share = match (text(offer, "cpu_share").as_str(), offer.get("cpu_promised_permille")) {
                ("shared", _) => "of which no share is promised".to_owned(),
                ("baseline", Some(Value::Number(permille))) => {
                    let permille = permille.as_u64().unwrap_or(0);
                    format!("of each of which {}.{} % is promised", permille / 10, permille % 10)
                }
                _ => return None,
            };
            Some(format!("{} of {} has processors {share}", text(offer, "plan"), text(offer, "provider")))
        })
        .collect();
    told.dedup();
    (!told.is_empty()).then(|| {
        format!(
            "{}. They are counted as {} here; --processors baseline counts what is promised, dedicated takes none that are shared",
            told.join("; "),
            if plan.pointer("/explained/processors/value").and_then(Value::as_str) == Some("baseline") {
                "what is promised"
            } else {
                "whole ones"
            }
        )
    })
}

/// Asks at the terminal; a script has to say --yes.
pub(super) fn confirm(question: &str, hint: &str) -> Result<(), CliError> {
    if !std::io::stdin().is_terminal() {
        return Err(CliError::usage("nobody is there to agree").hint(hint));
    }
    eprint_line(&format!("{question} Type yes:"));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    if matches!(line.trim(), "yes" | "y") {
        return Ok(());
    }
    Err(CliError::failure("nothing was done"))
}

/// Waits until a deployment is in one of these states, and gives it.
pub(super) fn wait(global: &Global, id: &str, states: &[&str], within: Duration) -> Result<Value, CliError> {
    let began = Instant::now();
    let mut progress: Option<Progress> = None;
    let mut told = String::new();
    loop {
        let answer = ask(global, "GET", &format!("/v1/deployments/{id}"), None)?;
        let deployment = answer.get("deployment").cloned().unwrap_or_default();
        let (state, reason) = (text(&deployment, "state"), text(&deployment, "reason"));
        if states.contains(&state.as_str()) {
            return Ok(deployment);
        }
        if state == "gone" {
            return Err(CliError::conflict(format!("deployment {id} is gone: {reason}"))
                .hint(format!("`blueprint-hub deployment history {id}` shows its steps")));
        }
        let count = |key| deployment.get(key).and_then(Value::as_u64).unwrap_or_default();
        let bar =
            progress.get_or_insert_with(|| Progress::new(format!("deployment {id}"), count("replicas")));
        bar.at(count("active"));
        if reason != "-" && reason != told {
            eprint_line(&reason);
            told = reason;
        }
        if began.elapsed() >= within {
            return Err(CliError::unavailable(format!(
                "deployment {id} is {state} after {} s",
                within.as_secs()
            ))
            .hint(format!("the order stands; `blueprint-hub deployment show {id}` says how far it is")));
        }
        std::thread::sleep(LOOK);
    }
}

/// Shows a deployment again whenever it changes, until it is where it is wanted to be and Ctrl-C ends it.
pub(super) fn watch(global: &Global, id: &str) -> Result<(), CliError> {
    let mut last = Value::Null;
    loop {
        let answer = ask(global, "GET", &format!("/v1/deployments/{id}"), None)?;
        let deployment = answer.get("deployment").cloned().unwrap_or_default();
        if deployment != last {
            match global.output {
                Output::Json => print_line(&deployment.to_string()),
                Output::Table => {
                    show(global, &deployment);
                }
            }
        }
        if text(&deployment, "state") == "gone" {
            return Ok(());
        }
        last = deployment;
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_now_is_named_with_its_end_and_so_is_a_wait() {
        let offer = json!({
            "provider": "sim", "plan": "sim-small", "region": "local", "spot": true,
            "reason": "there was no capacity", "until": "2026-11-23T05:00:00Z",
        });
        let mut plan = json!({ "unavailable": [offer], "waits_until": null });
        let wanted = "cannot be had now: sim-small of sim in local as spot: there was no capacity; it is ordered again from \
                      2026-11-23T05:00:00Z";
        assert_eq!(passed_over(&plan), [wanted]);
        plan["waits_until"] = json!("2026-11-23T05:00:00Z");
        let lines = passed_over(&plan);
        assert!(
            lines.len() == 2
                && lines[1].contains("the order waits, and is tried from 2026-11-23T05:00:00Z on")
        );
        assert!(passed_over(&json!({})).is_empty());
    }
}
