//! Quality of service as tables.

use blueprint_common_runtime::cli::{Table, bytes, print_line};
use blueprint_hub_registry_core::qos::{percent_text, seconds_text};
use serde_json::Value;

use crate::cmd::client::{rows, text};

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

/// A number that is not known of everything.
fn count(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

fn percent(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_f64).map_or_else(|| "-".to_owned(), |percent| format!("{percent:.2}"))
}

fn mib(bytes: u64) -> String {
    (bytes >> 20).to_string()
}

/// Seconds of milliseconds.
fn seconds(value: &Value, key: &str) -> String {
    (number(value, key) / 1000).to_string()
}

/// How a service does.
pub(super) fn service(answer: &Value) {
    for (name, value) in facts(answer) {
        print_line(&format!("{name:<14}{value}"));
    }
}

/// How much of what is known was up, and how much is known.
fn availability(total: &Value) -> String {
    let share = |key: &str| count(total, key);
    match share("availability") {
        Some(up) => format!("{} of {} known", percent_text(Some(up)), percent_text(share("coverage"))),
        None => "nothing is known yet".to_owned(),
    }
}

fn facts(answer: &Value) -> [(&'static str, String); 15] {
    let nothing = Value::Null;
    let part = |key: &str| answer.get(key).unwrap_or(&nothing);
    let (usage, total, budget) = (part("usage"), part("total"), part("budget"));
    let uptime = answer.get("uptime_seconds").and_then(Value::as_u64);
    let nodes: Vec<&str> = rows(answer, "nodes").iter().filter_map(Value::as_str).collect();
    let is_sampled = usage.is_object();
    let sampled = |value: String| if is_sampled { value } else { "-".to_owned() };
    [
        ("service", text(answer, "service")),
        ("state", text(answer, "state")),
        ("message", text(answer, "message")),
        ("nodes", nodes.join(", ")),
        (
            "up for",
            uptime.map_or_else(|| "-".to_owned(), |seconds| seconds_text(seconds.saturating_mul(1000))),
        ),
        ("sampled at", text(answer, "sampled_at")),
        ("cpu", sampled(format!("{} % of its machines", percent(usage, "cpu_percent")))),
        (
            "memory",
            sampled(format!(
                "{} of {} MiB",
                mib(number(usage, "memory_bytes")),
                mib(number(usage, "memory_total_bytes"))
            )),
        ),
        ("processes", count(usage, "pids").map_or_else(|| "-".to_owned(), |pids| pids.to_string())),
        (
            "disk i/o",
            match (count(usage, "read_bytes"), count(usage, "written_bytes")) {
                (Some(read), Some(written)) => format!("{} read, {} written", bytes(read), bytes(written)),
                (None, _) | (_, None) => "-".to_owned(),
            },
        ),
        (
            "objective",
            format!(
                "{} %, {} in {}",
                text(answer, "objective"),
                text(answer, "verdict").replace("not-", "not "),
                text(answer, "month")
            ),
        ),
        ("availability", availability(total)),
        ("down", seconds_text(number(total, "down_ms"))),
        (
            "came late",
            format!(
                "{}, of that down {}",
                seconds_text(number(total, "late_up_ms").saturating_add(number(total, "late_down_ms"))),
                seconds_text(number(total, "late_down_ms"))
            ),
        ),
        (
            "budget left",
            format!(
                "{} of {}",
                seconds_text(number(budget, "left_ms")),
                seconds_text(number(budget, "allowed_ms"))
            ),
        ),
    ]
}

/// How the month of a machine and its tunnel stands.
pub(super) fn node(answer: &Value) {
    let nothing = Value::Null;
    print_line(&format!("{} ({}), {}", text(answer, "name"), text(answer, "node"), text(answer, "month")));
    let mut table = Table::new(&[
        "OF",
        "OBJECTIVE %",
        "VERDICT",
        "AVAILABILITY",
        "KNOWN",
        "UP S",
        "DOWN S",
        "LATE S",
        "UNREACHED S",
        "BUDGET LEFT S",
    ]);
    for part in ["machine", "tunnel"] {
        let row = answer.get(part).unwrap_or(&nothing);
        let (total, budget) = (row.get("total").unwrap_or(&nothing), row.get("budget").unwrap_or(&nothing));
        let share = |key: &str| percent_text(total.get(key).and_then(Value::as_u64));
        let late = number(total, "late_up_ms").saturating_add(number(total, "late_down_ms")) / 1000;
        table.push(vec![
            part.to_owned(),
            text(row, "objective"),
            text(row, "verdict"),
            share("availability"),
            share("coverage"),
            seconds(total, "up_ms"),
            seconds(total, "down_ms"),
            late.to_string(),
            seconds(total, "unreached_ms"),
            seconds(budget, "left_ms"),
        ]);
    }
    table.print();
}

/// A table with a row for each point.
fn curve(answer: &Value, heads: &[&str], cells: impl Fn(&Value) -> Vec<String>) {
    let mut table = Table::new(&[&["TIME"], heads].concat());
    for point in rows(answer, "points") {
        table.push([vec![text(point, "time")], cells(point)].concat());
    }
    table.print();
}

/// What was, of a service.
pub(super) fn curve_of_service(answer: &Value) {
    curve(answer, &["UP S", "DOWN S", "UNKNOWN S", "CPU %", "MEMORY MIB", "CHECK US", "SAMPLES"], |point| {
        vec![
            seconds(point, "up_ms"),
            seconds(point, "down_ms"),
            seconds(point, "unknown_ms"),
            percent(point, "cpu_percent"),
            mib(number(point, "memory_bytes")),
            text(point, "delay_micros"),
            text(point, "samples"),
        ]
    });
}

/// What was, of a machine.
pub(super) fn curve_of_node(answer: &Value) {
    curve(answer, &["UP S", "DOWN S", "CPU %", "MEMORY MIB", "DISK MIB", "SAMPLES"], |point| {
        vec![
            seconds(point, "up_ms"),
            seconds(point, "down_ms"),
            percent(point, "cpu_percent"),
            mib(number(point, "memory_bytes")),
            mib(number(point, "disk_bytes")),
            text(point, "samples"),
        ]
    });
}

/// What was, of a tunnel.
pub(super) fn curve_of_tunnel(answer: &Value) {
    curve(answer, &["UP S", "DOWN S", "UNKNOWN S", "RTT US", "LONGEST US", "LOSS %"], |point| {
        vec![
            seconds(point, "up_ms"),
            seconds(point, "down_ms"),
            seconds(point, "unknown_ms"),
            text(point, "delay_micros"),
            text(point, "delay_most_micros"),
            percent(point, "loss_percent"),
        ]
    });
    if let Some(tunnel @ Value::Object(_)) = answer.get("tunnel") {
        let is_up = tunnel.get("up") == Some(&Value::Bool(true));
        print_line(&format!("{} since {}", if is_up { "up" } else { "down" }, text(tunnel, "since")));
    }
}

/// Objectives that were set.
pub(super) fn objectives(answer: &Value) {
    let mut table = Table::new(&["KIND", "OF", "OBJECTIVE %", "CHANGED"]);
    for row in rows(answer, "objectives") {
        let of = ["service", "name", "node"].map(|key| text(row, key)).into_iter().find(|of| of != "-");
        table.push(vec![
            text(row, "kind"),
            of.unwrap_or_default(),
            text(row, "objective"),
            text(row, "changed_at"),
        ]);
    }
    table.print();
    print_line(&format!("all others: {} %", text(answer, "default")));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fact(answer: &Value, wanted: &str) -> String {
        facts(answer).into_iter().find(|(name, _)| *name == wanted).unwrap().1
    }

    #[test]
    fn of_a_workload_that_never_ran_nothing_is_known() {
        let never = json!({
            "service": "1/2", "state": "unknown", "nodes": [], "usage": null, "objective": "99.9", "verdict": "not-seen",
            "month": "2026-11", "total": { "availability": null, "coverage": null },
        });
        assert_eq!(fact(&never, "availability"), "nothing is known yet");
        assert_eq!(fact(&never, "objective"), "99.9 %, not seen in 2026-11");
        assert_eq!(["cpu", "memory", "processes"].map(|name| fact(&never, name)), ["-", "-", "-"]);
    }

    #[test]
    fn of_what_is_known_the_share_that_was_up_is_told() {
        let known = json!({
            "usage": { "cpu_percent": 1.5, "memory_bytes": 2 << 20, "memory_total_bytes": 4 << 20 },
            "total": { "availability": 99_900, "coverage": 50_000 },
        });
        assert_eq!(fact(&known, "availability"), "99.900 % of 50.000 % known");
        assert_eq!(fact(&known, "memory"), "2 of 4 MiB");
    }
}
