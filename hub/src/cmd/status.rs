//! `status`: how the hub is doing.

use blueprint_common_runtime::cli::{CliError, Output, print_json, print_line};
use serde_json::Value;

use super::client::{ask, text};
use crate::cli::Global;

pub(crate) fn run(global: &Global) -> Result<(), CliError> {
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
    }
    Ok(())
}
