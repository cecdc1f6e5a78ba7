//! `scale`: tiers of services, how many replicas they have and why, and until when they are paid for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json, print_line};
use blueprint_common_types::ServiceKey;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::{ask, rows, text};
use crate::cli::Global;

/// Tiers of services: how many replicas they have, why, and until when they are paid for.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example: blueprint-hub scale set 7/42 --tier standard --paid-until 30d")]
pub(crate) enum Scale {
    /// Shows what each tier gives
    #[command(after_help = "Example: blueprint-hub scale tiers")]
    Tiers,
    /// Lists services with a tier
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub scale ls")]
    Ls,
    /// Shows the replicas of a service, and why it has so many
    #[command(after_help = "Example: blueprint-hub scale show 7/42")]
    Show {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Sets the tier of a service, its limits, and until when it is paid for
    Set(Set),
    /// Shows what was done about the replicas of a service and why, oldest first
    #[command(after_help = "Example: blueprint-hub scale history 7/42")]
    History {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// The newest so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Has the tier of a service forgotten; its machines stay, and what the hub runs of it goes on on one of them alone
    #[command(
        visible_alias = "remove",
        after_help = "Example: blueprint-hub scale rm 7/42
Its machines are not deleted, and cost what they cost: `blueprint-hub terminate NAME` ends them. Those that drain get requests again.
What the hub runs of it (`blueprint-hub workload run`) drains on all of its nodes but one: no new requests there, what is open ends \
within scaling.drain, then the process ends. `blueprint-hub workload show` shows how far that is."
    )]
    Rm {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
}

/// What is agreed; what is left out stays as it is.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub scale set 7/42 --tier standard --paid-until 30d
         blueprint-hub scale set 7/42 --max 4 --target-rate 200
         blueprint-hub scale set 7/42 --paid-until 2027-01-31T00:00:00Z
One deployment has to offer the service: `blueprint-hub deploy --service 7/42 --replicas 2`. Another tier brings its own numbers.
docs/scaling.md says what is measured, and what happens once nobody pays.")]
pub(crate) struct Set {
    /// Service, as BLUEPRINT/SERVICE
    service: ServiceKey,
    /// What is paid for; needed for a service that has none
    #[arg(long, value_parser = ["basic", "standard", "premium"])]
    tier: Option<String>,
    /// Replicas at the least
    #[arg(long)]
    min: Option<u32>,
    /// Replicas at the most; the tier may allow fewer
    #[arg(long)]
    max: Option<u32>,
    /// Percent of the tier's processors that a replica is to use at the most
    #[arg(long, value_name = "PERCENT")]
    target_cpu: Option<u32>,
    /// Requests a second that a replica is to take at the most; 0 where only processors count
    #[arg(long, value_name = "RATE")]
    target_rate: Option<u32>,
    /// Paid until this time, such as 2027-01-31T00:00:00Z; for so long from now, such as 30d; or never, for without end
    #[arg(long, value_name = "TIME", value_parser = until)]
    paid_until: Option<u64>,
}

/// A time in milliseconds since 1970; 0 for never.
fn until(text: &str) -> Result<u64, String> {
    if text == "never" {
        return Ok(0);
    }
    let at = match humantime::parse_duration(text) {
        Ok(span) => SystemTime::now().checked_add(span).ok_or("too far ahead")?,
        Err(_) => humantime::parse_rfc3339_weak(text).map_err(|_| {
            "neither a duration such as 30d, nor a time such as 2027-01-31T00:00:00Z, nor never".to_owned()
        })?,
    };
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1))
}

impl Set {
    /// What the hub is asked.
    fn body(&self) -> Value {
        let mut body = Map::new();
        let numbers = [
            ("min", self.min.map(u64::from)),
            ("max", self.max.map(u64::from)),
            ("target_cpu", self.target_cpu.map(u64::from)),
            ("target_rate", self.target_rate.map(u64::from)),
            ("paid_until", self.paid_until),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.into());
            }
        }
        if let Some(tier) = &self.tier {
            body.insert("tier".to_owned(), json!(tier));
        }
        body.into()
    }
}

impl Scale {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Tiers => {
                let answer = ask(global, "GET", "/v1/tiers", None)?;
                shown(global, &answer, tiers);
            }
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/scaling", None)?;
                shown(global, &answer, |answer| table(rows(answer, "services")).print());
            }
            Self::Show { service } => {
                let answer = ask(global, "GET", &path(service), None)?;
                shown(global, &answer, show);
            }
            Self::Set(set) => {
                let answer = ask(global, "PUT", &path(set.service), Some(&set.body()))?;
                shown(global, &answer, |answer| {
                    show(answer);
                    eprint_line(&format!(
                        "follow it with `blueprint-hub scale history {}`",
                        text(answer, "service")
                    ));
                });
            }
            Self::History { service, limit } => {
                let answer = ask(global, "GET", &format!("{}/history?limit={limit}", path(service)), None)?;
                shown(global, &answer, history);
            }
            Self::Rm { service } => {
                let answer = ask(global, "DELETE", &path(service), None)?;
                shown(global, &answer, |answer| removed(service, answer));
            }
        }
        Ok(())
    }
}

/// What happens to the replicas of a service whose tier was forgotten.
fn removed(service: ServiceKey, answer: &Value) {
    print_line(&format!("service {service} has no tier any more"));
    let names = |key: &str| rows(answer, key).iter().filter_map(Value::as_str).collect::<Vec<_>>();
    let machines = names("machines");
    if !machines.is_empty() {
        let (count, deployment) = (machines.len(), text(answer, "deployment"));
        print_line(&format!("its machines stay ({count}); `blueprint-hub terminate {deployment}` ends them"));
    }
    let draining = names("draining");
    if !draining.is_empty() {
        let (node, nodes, secs) = (text(answer, "runs_on"), draining.join(", "), text(answer, "drain_secs"));
        print_line(&format!(
            "what the hub runs of it goes on on {node} alone; on {nodes} it gets no new requests, and ends once nothing is open \
             there, in {secs} s at the latest"
        ));
    }
}

fn path(service: ServiceKey) -> String {
    format!("/v1/services/{service}/scaling")
}

fn shown(global: &Global, answer: &Value, table: impl FnOnce(&Value)) {
    match global.output {
        Output::Json => print_json(answer),
        Output::Table => table(answer),
    }
}

fn tiers(answer: &Value) {
    let mut table = Table::new(&["TIER", "REPLICAS", "UP TO", "CPU", "MEMORY", "GPUS", "FOLLOWS LOAD"]);
    for row in rows(answer, "tiers") {
        let mib = row.get("memory_bytes").and_then(Value::as_u64).unwrap_or_default() >> 20;
        table.push(vec![
            text(row, "tier"),
            text(row, "replicas"),
            text(row, "max_replicas"),
            format!("{}m", text(row, "cpu_millis")),
            format!("{mib} MiB"),
            text(row, "gpus"),
            text(row, "autoscale"),
        ]);
    }
    table.print();
}

/// Services, one a line.
fn table(services: &[Value]) -> Table {
    let columns = ["SERVICE", "TIER", "REPLICAS", "READY", "LIMITS", "PHASE", "PAID UNTIL", "PRICE/H", "WHY"];
    let mut table = Table::new(&columns);
    for row in services {
        table.push(vec![
            text(row, "service"),
            row.get("tier").map(|tier| text(tier, "tier")).unwrap_or_default(),
            text(row, "replicas"),
            text(row, "ready"),
            format!("{}-{}", text(row, "min"), text(row, "max")),
            text(row, "phase"),
            text(row, "paid_until"),
            format!("${} of ${}", text(row, "hourly"), text(row, "max_hourly")),
            text(row, "why"),
        ]);
    }
    table
}

/// One service with its replicas.
fn show(service: &Value) {
    table(std::slice::from_ref(service)).print();
    print_line("");
    let mut machines = Table::new(&["MACHINE", "PROVIDER", "REGION", "READY", "CPU", "OPEN", "LEAVES SINCE"]);
    for row in rows(service, "machines") {
        let cpu = row.get("cpu_percent").and_then(Value::as_f64);
        machines.push(vec![
            text(row, "key"),
            text(row, "provider"),
            text(row, "region"),
            text(row, "ready"),
            cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu:.1} %")),
            text(row, "open"),
            text(row, "leaving_since"),
        ]);
    }
    machines.print();
}

fn history(answer: &Value) {
    let mut table = Table::new(&["AT", "WHAT", "REPLICAS", "REASON"]);
    for event in rows(answer, "events") {
        table.push(["at", "what", "replicas", "reason"].map(|key| text(event, key)).to_vec());
    }
    table.print();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_one_or_a_span_from_now_or_never() {
        assert_eq!(until("never"), Ok(0));
        assert_eq!(until("1970-01-01T00:00:02Z"), Ok(2000));
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let day = until("1d").unwrap() - now;
        assert!((86_399_000..86_460_000).contains(&day), "{day}");
        assert!(until("soon").unwrap_err().contains("30d"));
    }
}
