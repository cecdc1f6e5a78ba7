//! Machines and prices as tables.

use blueprint_common_runtime::cli::{Table, print_line};
use blueprint_common_types::Micros;
use serde_json::Value;

use super::super::client::rows;

/// A text; empty where there is none.
fn text(row: &Value, field: &str) -> String {
    row.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// An amount for people: in cents, rounded up.
fn cents(row: &Value, field: &str) -> String {
    let amount = text(row, field);
    amount.parse::<Micros>().map_or(amount, |exact| exact.cents_up().to_string())
}

fn number(row: &Value, field: &str) -> u64 {
    row.get(field).and_then(Value::as_u64).unwrap_or(0)
}

fn is(row: &Value, field: &str) -> bool {
    row.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// Memory in GiB, with a half where it has one.
fn gib(mib: u64) -> String {
    if mib.is_multiple_of(1024) {
        format!("{} GiB", mib / 1024)
    } else {
        format!("{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024)
    }
}

pub(super) fn providers(found: &[Value]) -> Table {
    let header =
        ["PROVIDER", "TITLE", "STATE", "TEMPLATES", "OFFERS", "REGIONS", "HOUR", "GPU", "SPOT", "PRICES"];
    let mut table = Table::new(&header);
    for row in found {
        let state = match (text(row, "discontinued").is_empty(), is(row, "configured")) {
            (false, _) => "discontinued",
            (true, true) => "configured",
            (true, false) => "not configured",
        };
        let range = if text(row, "lowest").is_empty() {
            String::new()
        } else {
            format!("{} - {} {}", text(row, "lowest"), text(row, "highest"), text(row, "currency"))
        };
        let regions = row.get("regions").and_then(Value::as_array).map_or(0, Vec::len);
        table.push(vec![
            text(row, "name"),
            text(row, "title"),
            state.to_owned(),
            number(row, "templates").to_string(),
            number(row, "offers").to_string(),
            regions.to_string(),
            range,
            if number(row, "gpus") > 0 { "yes" } else { "no" }.to_owned(),
            if is(row, "spot") { "yes" } else { "no" }.to_owned(),
            ages(row),
        ]);
    }
    table
}

/// How old the prices of a provider are, the newest and the oldest.
fn ages(row: &Value) -> String {
    let days = |field: &str| row.get(field).and_then(Value::as_u64);
    match (days("price_age_days"), days("oldest_price_age_days")) {
        (Some(newest), Some(oldest)) if newest < oldest => format!("{newest} to {oldest} days old"),
        (Some(1), _) => "1 day old".to_owned(),
        (Some(days), _) => format!("{days} days old"),
        (None, _) if number(row, "unchecked") > 0 => "specification".to_owned(),
        (None, _) => String::new(),
    }
}

pub(super) fn templates(found: &[Value]) -> Table {
    let mut table =
        Table::new(&["TEMPLATE", "PROVIDER", "CPU", "MEMORY", "DISK", "GPU", "HOUR", "MONTH", "NOTE"]);
    for row in found {
        table.push(vec![
            text(row, "id"),
            text(row, "provider"),
            number(row, "vcpus").to_string(),
            gib(number(row, "memory_mib")),
            disk(row),
            text(row, "gpu"),
            text(row, "hourly"),
            text(row, "monthly"),
            text(row, "note"),
        ]);
    }
    table
}

fn disk(row: &Value) -> String {
    match number(row, "disk_gb") {
        0 => "apart".to_owned(),
        gb => format!("{gb} GB"),
    }
}

/// How much of the processors is there at all times, where that is less than all.
fn share(row: &Value) -> String {
    let permille = number(row, "cpu_promised_millis").checked_div(number(row, "vcpus")).unwrap_or(0);
    match (text(row, "cpu_share").as_str(), permille % 10) {
        ("shared", _) => ", shared".to_owned(),
        ("baseline", 0) => format!(", {} % each", permille / 10),
        ("baseline", tenths) => format!(", {}.{tenths} % each", permille / 10),
        _ => String::new(),
    }
}

pub(super) fn offers(found: &[Value]) -> Table {
    let header =
        ["PROVIDER", "PLAN", "REGION", "CPU", "MEMORY", "DISK", "GPU", "HOUR", "MONTH", "PRICE", "ORDER"];
    let mut table = Table::new(&header);
    for row in found {
        let plan = if is(row, "spot") { format!("{} (spot)", text(row, "plan")) } else { text(row, "plan") };
        let arch = if text(row, "arch") == "arm64" { " arm64" } else { "" };
        let cpu = format!("{}{arch}{}", number(row, "vcpus"), share(row));
        table.push(vec![
            text(row, "provider"),
            plan,
            text(row, "region"),
            cpu,
            gib(number(row, "memory_mib")),
            disk(row),
            row.get("gpu").map(|gpu| text(gpu, "name")).unwrap_or_default(),
            text(row, "hourly"),
            cents(row, "monthly"),
            text(row, "freshness"),
            if is(row, "configured") { "here" } else { "not set up" }.to_owned(),
        ]);
    }
    table
}

pub(super) fn verdicts(found: &[Value]) -> Table {
    let mut table = Table::new(&["PROVIDER", "BEST", "REGION", "HOUR", "MONTH", "FIT", "REASON"]);
    for row in found {
        let best = row.get("best").cloned().unwrap_or_default();
        let cost = row.get("cost").cloned().unwrap_or_default();
        let price = |show: fn(&Value, &str) -> String, of: &str, fallback: &str| {
            let shown = show(&cost, of);
            if shown.is_empty() { show(&best, fallback) } else { shown }
        };
        table.push(vec![
            text(row, "provider"),
            text(&best, "plan"),
            text(&best, "region"),
            price(text, "final_hourly", "hourly"),
            price(cents, "monthly", "monthly"),
            number(row, "fits").to_string(),
            text(row, "reason"),
        ]);
    }
    table
}

pub(super) fn estimate(answer: &Value) {
    let plan = rows(answer, "plan");
    let Some(first) = plan.first() else {
        print_line(&format!("no machine is ordered: the target is {}", text(answer, "target")));
        return;
    };
    let cost = first.get("cost").cloned().unwrap_or_default();
    let not_here = if is(first, "configured") {
        ""
    } else {
        " (a cloud that is not set up here; --configured leaves those out)"
    };
    print_line(&format!(
        "{} of {} in {}, {} of them for {} hours{not_here}",
        text(first, "plan"),
        text(first, "provider"),
        text(first, "region"),
        number(answer, "replicas"),
        number(answer, "hours"),
    ));
    let parts = first.get("parts").cloned().unwrap_or_default();
    let mut table = Table::new(&["PART", "USD AN HOUR"]);
    for (name, amount) in [
        ("machine", text(&parts, "compute")),
        ("disk", text(&parts, "disk")),
        ("address", text(&parts, "address")),
        ("egress", text(&parts, "egress")),
        ("markup", text(&cost, "markup")),
        ("priority premium", text(&cost, "priority_premium")),
        ("availability", text(&cost, "sla_cost")),
        ("together", text(&cost, "final_hourly")),
    ] {
        if amount != "0.00" {
            table.push(vec![name.to_owned(), amount]);
        }
    }
    table.print();
    if text(&cost, "spot_discount") != "0.00" {
        print_line(&format!("saved by spot: {} an hour", text(&cost, "spot_discount")));
    }
    print_line(&format!(
        "{} USD a day for each, {} for all of it, {} a month; price: {}",
        cents(&cost, "daily"),
        cents(&cost, "total"),
        cents(&cost, "monthly"),
        text(first, "freshness"),
    ));
    print_line("\ntried in this order:");
    offers(plan).print();
    print_line("\nbest of each provider:");
    verdicts(rows(answer, "providers")).print();
}

/// Whose word each condition was, as a table.
pub(in crate::cmd) fn explained(found: &Value) -> Table {
    let mut table = Table::new(&["CONDITION", "HOLDS", "FROM", "BLUEPRINT", "YOU", "OPERATOR"]);
    let word = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Object(gpu)) => {
            let part = |name: &str| gpu.get(name).map(ToString::to_string).unwrap_or_default();
            let kind = gpu.get("kind").and_then(Value::as_str).unwrap_or("any");
            format!("{} x {kind}, {} MiB", part("count"), part("min_vram_mib"))
        }
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_))) => other.to_string(),
    };
    for (name, row) in found.as_object().into_iter().flatten() {
        let from = match row.get("origin").and_then(Value::as_str) {
            Some("customer") => "you",
            Some("default") | None => "nobody",
            Some(other) => other,
        };
        table.push(vec![
            name.clone(),
            word(row.get("value")),
            from.to_owned(),
            word(row.get("blueprint")),
            word(row.get("customer")),
            word(row.get("operator")),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_of_prices_are_a_range() {
        let of = |newest: u64, oldest: u64| {
            ages(&json!({ "price_age_days": newest, "oldest_price_age_days": oldest }))
        };
        assert_eq!([of(0, 0), of(1, 1), of(3, 41)], ["0 days old", "1 day old", "3 to 41 days old"]);
        assert_eq!(ages(&json!({ "price_age_days": null, "unchecked": 4 })), "specification");
        assert_eq!(ages(&json!({ "offers": 0 })), "");
    }
}
