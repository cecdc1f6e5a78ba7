//! `status`: how the hub is doing.

use blueprint_common_runtime::cli::{CliError, Output, print_json, print_line};
use clap::Args;
use serde_json::Value;

use super::client::{ask, text};
use super::deployment::Deployments;
use crate::cli::Global;

/// Shows how the hub is doing, or one deployment.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub status --output json
         blueprint-hub status -w web")]
pub(crate) struct Status {
    /// A deployment: its name, id, or the beginning of the id
    deployment: Option<String>,
    /// The same, as the tools of today write it
    #[arg(long, value_name = "DEPLOYMENT", conflicts_with = "deployment")]
    instance: Option<String>,
    /// Shows the deployment again whenever it changes, until Ctrl-C
    #[arg(long, short)]
    watch: bool,
}

impl Status {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let Self { deployment, instance, watch } = self;
        match deployment.or(instance) {
            Some(deployment) => Deployments::Show { deployment, watch }.run(global),
            None if watch => Err(CliError::usage("--watch follows a deployment, and none is named")
                .hint("for example `blueprint-hub status -w web`")),
            None => run(global),
        }
    }
}

fn run(global: &Global) -> Result<(), CliError> {
    let answer = ask(global, "GET", "/v1/status", None)?;
    if global.output == Output::Json {
        print_json(&answer);
        return Ok(());
    }
    let part = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    for (label, value) in [
        ("hub", text(&answer, "hub")),
        ("version", text(&answer, "version")),
        ("started", format!("{} (epoch {})", text(&answer, "started_at"), text(&answer, "epoch"))),
        ("join at", text(&answer, "join_address")),
        ("tunnel", format!("udp {}", text(&answer, "tunnel"))),
        ("proxy", text(&answer, "proxy")),
        (
            "nodes",
            format!(
                "{} joined, {} with a tunnel that echoes",
                part("/nodes/joined"),
                part("/nodes/data_plane_up")
            ),
        ),
        (
            "services",
            format!(
                "{} named, {} of {} targets healthy",
                part("/services/named"),
                part("/services/healthy"),
                part("/services/targets"),
            ),
        ),
    ] {
        print_line(&format!("{label:<9} {value}"));
    }
    if let Some(acme) = answer.get("acme").filter(|acme| !acme.is_null()) {
        let (until, next) = (text(acme, "until"), text(acme, "next_order"));
        print_line(&format!("{:<9} certificate until {until}, next order {next}", "acme"));
        if acme.get("failures").and_then(Value::as_u64).is_some_and(|failures| failures > 0) {
            let (failures, error) = (text(acme, "failures"), text(acme, "error"));
            print_line(&format!("{:<9} {failures} orders failed, the last with: {error}", ""));
        }
        if acme.get("unsaved").is_some_and(Value::is_string) {
            print_line(&format!("{:<9} in use, not stored yet: {}", "", text(acme, "unsaved")));
        }
    }
    print_line(&format!("{:<9} {}", "clients", clients(&answer)));
    Ok(())
}

/// One line: what is open, and the most frequent refusals.
fn clients(answer: &Value) -> String {
    const SHOWN: usize = 4;
    let count = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let refused = answer.pointer("/clients/refused").and_then(Value::as_object);
    let by_code = refused.into_iter().flatten();
    let mut by_code: Vec<(u64, &str)> =
        by_code.map(|(code, count)| (count.as_u64().unwrap_or_default(), code.as_str())).collect();
    by_code.sort_unstable_by(|a, b| b.cmp(a));
    let total: u64 = by_code.iter().map(|(count, _)| count).sum();
    let most: Vec<_> = by_code.iter().take(SHOWN).map(|(count, code)| format!("{count} {code}")).collect();
    let most = if most.is_empty() { String::new() } else { format!(" ({})", most.join(", ")) };
    format!(
        "{} connections, {} open requests, {total} refused{most}",
        count("/clients/connections"),
        count("/clients/requests_open"),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_most_frequent_refusals_come_first() {
        let refused = json!({"a": 1, "b": 20, "c": 3, "d": 4, "e": 5});
        let answer = json!({"clients": {"connections": 7, "requests_open": 2, "refused": refused}});
        assert_eq!(clients(&answer), "7 connections, 2 open requests, 33 refused (20 b, 5 e, 4 d, 3 c)");
        assert_eq!(clients(&json!({})), "0 connections, 0 open requests, 0 refused");
    }
}
