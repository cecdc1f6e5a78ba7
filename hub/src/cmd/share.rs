//! `service drain`, `undrain` and `weight`: how many requests of a service each node gets.

use blueprint_common_runtime::cli::{CliError, Table};
use blueprint_common_types::{AgentId, ServiceKey};
use blueprint_hub_proxy_core::upstream::DEFAULT_WEIGHT;
use clap::Args;
use serde_json::Value;

use super::client::{ask, segment, text};
use super::owner::{change, read};
use crate::cli::Global;

/// A service at one node.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// Node, by name, id or beginning of the id
    node: String,
}

impl At {
    /// Id of the node; a whole id is taken as it is, since its node may be gone.
    fn node(&self, global: &Global) -> Result<AgentId, CliError> {
        if let Ok(id) = self.node.parse() {
            return Ok(id);
        }
        let answer = ask(global, "GET", &format!("/v1/nodes/{}", segment(&self.node)?), None)?;
        let id = answer.pointer("/node/id").and_then(Value::as_str).and_then(|id| id.parse().ok());
        id.ok_or_else(|| CliError::failure("the hub's answer names no node"))
    }
}

pub(crate) fn drain(global: &Global, at: &At) -> Result<(), CliError> {
    let (node, service) = (at.node(global)?, at.service);
    change(global, service, |settings| {
        let word = format!("{} gets no new requests of {service}; open ones end in their own time", at.node);
        if settings.upstream.drained.insert(node) { word } else { format!("nothing changed: {word}") }
    })
}

pub(crate) fn undrain(global: &Global, at: &At) -> Result<(), CliError> {
    let (node, service) = (at.node(global)?, at.service);
    change(global, service, |settings| {
        if settings.upstream.drained.remove(&node) {
            format!("{} gets requests of {service} again", at.node)
        } else {
            format!("nothing changed: {} was not drained of {service}", at.node)
        }
    })
}

pub(crate) fn weigh(global: &Global, at: &At, weight: u32) -> Result<(), CliError> {
    let (node, service) = (at.node(global)?, at.service);
    change(global, service, |settings| {
        if weight == DEFAULT_WEIGHT {
            settings.upstream.weights.remove(&node);
        } else {
            settings.upstream.weights.insert(node, weight);
        }
        format!("{} has the weight {weight} for {service}", at.node)
    })
}

/// Targets of one service as a table, each with its share.
pub(crate) fn table(global: &Global, service: ServiceKey, targets: &[Value]) -> Result<Table, CliError> {
    let (settings, _) = read(global, service)?;
    let mut table = Table::new(&["SERVICE", "HEALTH", "TARGET", "NODE", "WEIGHT", "REASON"]);
    for row in targets {
        let node: Option<AgentId> = text(row, "node").parse().ok();
        let share = match node {
            Some(node) if settings.upstream.drained.contains(&node) => "drained".to_owned(),
            Some(node) => settings.upstream.weight(&node).to_string(),
            None => "-".to_owned(),
        };
        table.push(vec![
            text(row, "service"),
            text(row, "health"),
            text(row, "address"),
            text(row, "node_name"),
            share,
            text(row, "reason"),
        ]);
    }
    Ok(table)
}
