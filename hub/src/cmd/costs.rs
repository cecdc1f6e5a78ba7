//! `costs`: what ordered machines cost.

use blueprint_common_runtime::cli::{CliError, Output, Table, eprint_line, print_json};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::client::{ask, rows, segment, text};
use crate::cli::Global;

/// Shows what ordered machines cost, and what is used of the limits.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub costs
         blueprint-hub costs --by day --days 7
         blueprint-hub costs --deployment web --output json
Days and months are those of UTC; docs/costs.md says what is counted.")]
pub(crate) struct Costs {
    /// Only this one: name, id, or the beginning of the id
    #[arg(long, value_name = "NAME")]
    deployment: Option<String>,
    /// What each row is
    #[arg(long, value_enum, default_value_t = By::Deployment)]
    by: By,
    /// Days to look back, today included, up to 400
    #[arg(long, default_value_t = 31)]
    days: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Deployment,
    Provider,
    Day,
    Month,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::Provider => "provider",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl Costs {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let of = match &self.deployment {
            Some(deployment) => format!("&deployment={}", segment(deployment)?),
            None => String::new(),
        };
        let path = format!("/v1/costs?by={}&days={}{of}", self.by.name(), self.days);
        let answer = ask(global, "GET", &path, None)?;
        if global.output == Output::Json {
            print_json(&answer);
            return Ok(());
        }
        table(&answer, self.by).print();
        let egress = gib(&answer);
        eprint_line(&format!(
            "${} since {}; {egress} GiB sent, {} beyond what is included",
            text(&answer, "total"),
            text(&answer, "since"),
            sent(&answer)
        ));
        for alert in rows(&answer, "held") {
            let [name, action, spent, amount, period] =
                ["alert", "action", "spent", "amount", "period"].map(|key| text(alert, key));
            eprint_line(&format!(
                "held by alert {name} ({action}): ${spent} of ${amount} is spent ({period}, {}); `blueprint-hub alerts release {name}`",
                text(alert, "scope")
            ));
        }
        for (name, shown) in [("machines", "machines"), ("hourly", "an hour"), ("monthly", "this month")] {
            let row = answer.pointer(&format!("/limits/{name}")).unwrap_or(&Value::Null);
            let dollar = if name == "machines" { "" } else { "$" };
            let limit = match row.get("limit") {
                Some(Value::Null) | None => "no limit".to_owned(),
                Some(_) => format!("at most {dollar}{}", text(row, "limit")),
            };
            eprint_line(&format!("{shown}: {dollar}{} used or wanted, {limit}", text(row, "used")));
        }
        Ok(())
    }
}

/// What was sent, in GiB with three decimals.
fn gib(row: &Value) -> String {
    let bytes = row.get("egress_bytes").and_then(Value::as_u64).unwrap_or(0);
    let thousandths = (u128::from(bytes) * 1000).div_ceil(1 << 30);
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

/// What that cost; unknown where some of it has no known price.
fn sent(row: &Value) -> String {
    match row.get("egress_cost") {
        Some(Value::String(amount)) => format!("${amount}"),
        Some(_) | None => "unknown".to_owned(),
    }
}

fn table(answer: &Value, by: By) -> Table {
    let money = |row: &Value, key: &str| match row.get(key) {
        Some(Value::String(amount)) => format!("${amount}"),
        Some(_) | None => "-".to_owned(),
    };
    match by {
        By::Deployment => {
            let mut table = Table::new(&[
                "DEPLOYMENT",
                "NAME",
                "WANTED",
                "MACHINES",
                "PRICE/H",
                "COST",
                "ESTIMATE",
                "SENT GIB",
                "SENT COST",
            ]);
            for row in rows(answer, "rows") {
                let mut cells =
                    ["deployment", "name", "wanted", "machines"].map(|key| text(row, key)).to_vec();
                cells.extend(["hourly", "actual", "estimate"].map(|key| money(row, key)));
                cells.extend([gib(row), sent(row)]);
                table.push(cells);
            }
            table
        }
        By::Provider | By::Day | By::Month => {
            let mut table = Table::new(&[by.name().to_uppercase().as_str(), "COST", "SENT GIB", "SENT COST"]);
            for row in rows(answer, "rows") {
                table.push(vec![text(row, by.name()), money(row, "actual"), gib(row), sent(row)]);
            }
            table
        }
    }
}
