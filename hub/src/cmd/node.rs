//! `node`: the joined machines.

use blueprint_common_runtime::cli::{CliError, Output, Table, bytes, print_json, print_line};
use clap::Subcommand;
use serde_json::Value;

use super::client::{ask, rows, segment, text};
use super::service::target_table;
use crate::cli::Global;

/// Nodes: the joined machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Lists nodes
    #[command(
        visible_alias = "list",
        after_help = "Example: blueprint-hub node ls
STATE is up, no-tunnel (control stream only), no-control (data plane only) or down."
    )]
    Ls,
    /// Shows one node with its tunnel, services and last sample
    #[command(after_help = "Example: blueprint-hub node show rack-7")]
    Show {
        /// Name, id, or the beginning of the id
        node: String,
    },
    /// Removes a node: its identity, addresses and services are void at once
    #[command(visible_alias = "remove", after_help = "Example: blueprint-hub node rm rack-7")]
    Rm {
        /// Name, id, or the beginning of the id
        node: String,
    },
}

impl Node {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/nodes", None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => table(&answer).print(),
                }
            }
            Self::Show { node } => {
                let node = segment(&node)?;
                let mut answer = ask(global, "GET", &format!("/v1/nodes/{node}"), None)?;
                let qos = ask(global, "GET", &format!("/v1/nodes/{node}/qos?points=0"), None)?;
                if let Some(fields) = answer.as_object_mut() {
                    fields.insert("qos".to_owned(), qos.get("latest").cloned().unwrap_or(Value::Null));
                }
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => show(&answer),
                }
            }
            Self::Rm { node } => {
                let answer = ask(global, "DELETE", &format!("/v1/nodes/{}", segment(&node)?), None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => print_line(&format!(
                        "removed {} ({})",
                        text(&answer, "name"),
                        text(&answer, "removed")
                    )),
                }
            }
        }
        Ok(())
    }
}

/// The nodes of an answer as a table.
pub(crate) fn table(answer: &Value) -> Table {
    let mut table =
        Table::new(&["NAME", "STATE", "ADDRESS", "TARGETS", "CARRIER", "ENDPOINT", "VERSION", "ID"]);
    for row in rows(answer, "nodes") {
        let tunnel = row.get("tunnel").unwrap_or(&Value::Null);
        table.push(vec![
            text(row, "name"),
            text(row, "state"),
            text(row, "address_v4"),
            text(row, "targets"),
            text(tunnel, "carrier"),
            text(tunnel, "endpoint"),
            text(row, "agent_version"),
            text(row, "id"),
        ]);
    }
    table
}

fn show(answer: &Value) {
    let node = answer.get("node").unwrap_or(&Value::Null);
    let tunnel = node.get("tunnel").unwrap_or(&Value::Null);
    for (label, value) in [
        ("name", text(node, "name")),
        ("id", text(node, "id")),
        ("state", text(node, "state")),
        ("addresses", format!("{}, {}", text(node, "address_v4"), text(node, "address_v6"))),
        ("joined", text(node, "joined_at")),
        ("last seen", text(node, "last_seen")),
        ("version", text(node, "agent_version")),
        ("carrier", text(tunnel, "carrier")),
        ("endpoint", text(tunnel, "endpoint")),
        ("mtu", text(tunnel, "mtu")),
        ("handshake", format!("{} s ago", text(tunnel, "handshake_age_secs"))),
        ("tunnel", format!("{} in, {} out", size(tunnel, "rx_bytes"), size(tunnel, "tx_bytes"))),
    ] {
        print_line(&format!("{label:<11} {value}"));
    }
    if let Some(machine) = answer.pointer("/qos/machine") {
        let cpu = machine.get("cpu_percent").and_then(Value::as_f64).unwrap_or_default();
        print_line(&format!(
            "machine     cpu {cpu:.0} %, memory {} of {}, disk {} of {}",
            size(machine, "memory_used_bytes"),
            size(machine, "memory_total_bytes"),
            size(machine, "disk_used_bytes"),
            size(machine, "disk_total_bytes"),
        ));
    }
    if let Some(tunnel) = answer.pointer("/qos/tunnel") {
        let loss = tunnel.get("loss_percent").and_then(Value::as_f64).unwrap_or_default();
        print_line(&format!(
            "echo        round trip {} us, jitter {} us, loss {loss:.1} %",
            text(tunnel, "rtt_micros"),
            text(tunnel, "jitter_micros"),
        ));
    }
    print_line("");
    target_table(rows(answer, "targets").iter()).print();
}

fn size(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_u64).map_or_else(|| "-".to_owned(), bytes)
}
