//! `qos`: how services do, what was, objectives, and signed months.

mod show;

use std::path::PathBuf;

use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line, print_raw};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::identity::SealKey;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::audit::since;
use super::client::{ask, lines, rows, runtime, segment, text};
use super::unread;
use crate::cli::Global;

/// Largest report that is verified, in bytes.
const MAX_REPORT: u64 = 16 << 20;

/// How services do, what was, objectives, and signed monthly reports.
#[derive(Debug, Subcommand)]
#[command(after_help = "Example: blueprint-hub qos show 7/42")]
pub(crate) enum Qos {
    /// Shows how a service does now, and how this month stands, or how the month of a machine does
    #[command(after_help = "Example: blueprint-hub qos show 7/42
         blueprint-hub qos show --node rack-7")]
    Show {
        /// Service, as BLUEPRINT/SERVICE
        #[arg(required_unless_present = "node", conflicts_with = "node")]
        service: Option<ServiceKey>,
        /// A machine and its tunnel, by name or id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Shows what was, of a service, a machine or its tunnel
    History(History),
    /// How much of the time services, machines and tunnels are to be up
    #[command(subcommand, after_help = "Example: blueprint-hub qos objective set 7/42 99.95")]
    Objective(Objective),
    /// Writes the signed report of a month
    Report(Report),
    /// Checks that a report is one of a hub and was not changed
    Verify(Verify),
    /// Shows the public key by which reports are checked, as PEM
    #[command(after_help = "Example: blueprint-hub qos key > hub.pem")]
    Key,
}

/// What was, of a service, a machine or its tunnel.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub qos history 7/42 --from 6h
         blueprint-hub qos history --node rack-7 --from 30d --step hour
         blueprint-hub qos history --tunnel rack-7
Without --from it is the last 24 hours. Single samples are kept for qos.keep_samples, minutes for qos.keep_minutes, hours for
qos.keep_hours.")]
pub(crate) struct History {
    /// Service, as BLUEPRINT/SERVICE
    #[arg(required_unless_present_any = ["node", "tunnel"], conflicts_with_all = ["node", "tunnel"])]
    service: Option<ServiceKey>,
    /// A machine, by name or id
    #[arg(long, value_name = "NODE", conflicts_with = "tunnel")]
    node: Option<String>,
    /// The tunnel of a machine, by name or id
    #[arg(long, value_name = "NODE")]
    tunnel: Option<String>,
    /// From this time on: one such as 2026-11-21T12:00:00Z, or a duration such as 6h
    #[arg(long, value_name = "TIME", value_parser = since)]
    from: Option<u64>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = since)]
    until: Option<u64>,
    /// sample, minute or hour; minutes or hours, as the range is kept, where not given
    #[arg(long, value_parser = ["sample", "minute", "hour"])]
    step: Option<String>,
    /// Most points, evenly spread, up to 10000
    #[arg(long, default_value_t = 60)]
    points: usize,
}

/// How much of the time services, machines and tunnels are to be up.
#[derive(Debug, Subcommand)]
pub(crate) enum Objective {
    /// Lists those that were set
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub qos objective ls")]
    Ls,
    /// Sets the one of a service, a machine or a tunnel, in percent with up to three decimals
    #[command(
        allow_missing_positional = true,
        after_help = "Example: blueprint-hub qos objective set 7/42 99.95
         blueprint-hub qos objective set --node rack-7 99.5
         blueprint-hub qos objective set --tunnel rack-7 99"
    )]
    Set {
        /// Service, as BLUEPRINT/SERVICE
        #[arg(required_unless_present_any = ["node", "tunnel"], conflicts_with_all = ["node", "tunnel"])]
        service: Option<ServiceKey>,
        /// Percent of the time, such as 99.9
        #[arg(required = true)]
        percent: String,
        #[command(flatten)]
        machine: Machine,
    },
    /// Goes back to the default, 99.9 %
    #[command(
        visible_alias = "remove",
        after_help = "Example: blueprint-hub qos objective rm 7/42
         blueprint-hub qos objective rm --node rack-7"
    )]
    Rm {
        /// Service, as BLUEPRINT/SERVICE
        #[arg(required_unless_present_any = ["node", "tunnel"], conflicts_with_all = ["node", "tunnel"])]
        service: Option<ServiceKey>,
        #[command(flatten)]
        machine: Machine,
    },
}

/// A machine, or its tunnel, in place of a service.
#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// A machine, by name or id: whether it ran, as far as the hub saw it or its agent measured
    #[arg(long, value_name = "NODE", conflicts_with = "tunnel")]
    node: Option<String>,
    /// The tunnel of a machine, by name or id: whether the hub reached it
    #[arg(long, value_name = "NODE")]
    tunnel: Option<String>,
}

impl Machine {
    /// Path of the API for what is meant, and its name for people.
    fn path(&self, service: Option<ServiceKey>) -> Result<(String, String), CliError> {
        match (service, &self.node, &self.tunnel) {
            (Some(service), _, _) => Ok((format!("/v1/services/{service}"), format!("service {service}"))),
            (None, Some(node), _) => Ok((format!("/v1/nodes/{}", segment(node)?), format!("node {node}"))),
            (None, None, Some(node)) => {
                Ok((format!("/v1/nodes/{}/tunnel", segment(node)?), format!("the tunnel of {node}")))
            }
            (None, None, None) => Err(CliError::usage("name a service, --node or --tunnel")),
        }
    }
}

/// Writes the signed report of a month.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub qos report 7/42 --month 2026-10 --csv > october.csv
         blueprint-hub qos report 7/42 --month 2026-10 --output json > october.json
         blueprint-hub qos report --node rack-7 --csv > rack-7.csv
         blueprint-hub qos report --tunnel rack-7
Text, unless --csv or --output json is given. docs/qos.md says what it says, and how anybody checks it.")]
pub(crate) struct Report {
    /// Service, as BLUEPRINT/SERVICE
    #[arg(required_unless_present_any = ["node", "tunnel"], conflicts_with_all = ["node", "tunnel"])]
    service: Option<ServiceKey>,
    #[command(flatten)]
    machine: Machine,
    /// Which month, of UTC, such as 2026-10; this one, up to now, where not given
    #[arg(long, value_name = "MONTH")]
    month: Option<String>,
    /// As CSV
    #[arg(long)]
    csv: bool,
}

/// Checks a report.
#[derive(Debug, Args)]
#[command(after_help = "Example: blueprint-hub qos verify october.csv --key hub.pem
With --key no hub is asked. The exit code is 4 for a report that was changed, or that another hub signed.")]
pub(crate) struct Verify {
    /// The report, as it was written
    file: PathBuf,
    /// Public key of the hub: PEM, or the JWK set that its proxy publishes; the running hub is asked where not given
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Qos {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Show { service, node } => match (service, node) {
                (Some(service), _) => {
                    let answer = ask(global, "GET", &format!("/v1/services/{service}/qos"), None)?;
                    shown(global, &answer, show::service);
                }
                (None, Some(node)) => {
                    let path = format!("/v1/nodes/{}/qos/month", segment(&node)?);
                    let answer = ask(global, "GET", &path, None)?;
                    shown(global, &answer, show::node);
                }
                (None, None) => return Err(CliError::usage("name a service or --node")),
            },
            Self::History(history) => history.run(global)?,
            Self::Objective(objective) => objective.run(global)?,
            Self::Report(report) => report.run(global)?,
            Self::Verify(verify) => verify.run(global)?,
            Self::Key => {
                let answer = ask(global, "GET", "/v1/report-key", None)?;
                shown(global, &answer, |answer| print_raw(&text(answer, "pem")));
            }
        }
        Ok(())
    }
}

fn shown(global: &Global, answer: &Value, table: impl FnOnce(&Value)) {
    match global.output {
        Output::Json => print_json(answer),
        Output::Table => table(answer),
    }
}

impl History {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let mut path = match (&self.service, self.node.as_deref().or(self.tunnel.as_deref())) {
            (Some(service), _) => format!("/v1/services/{service}/qos/history"),
            (None, Some(node)) => format!("/v1/nodes/{}/qos/history", segment(node)?),
            (None, None) => return Err(CliError::usage("name a service, --node or --tunnel")),
        };
        path.push_str(&format!("?points={}", self.points));
        for (name, value) in [("from", self.from), ("until", self.until)] {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={value}"));
            }
        }
        if let Some(step) = &self.step {
            path.push_str(&format!("&step={step}"));
        }
        let answer = ask(global, "GET", &path, None)?;
        let is_tunnel = self.tunnel.is_some();
        shown(global, &answer, |answer| match (self.service, is_tunnel) {
            (Some(_), _) => show::curve_of_service(answer),
            (None, true) => show::curve_of_tunnel(answer),
            (None, false) => show::curve_of_node(answer),
        });
        if rows(&answer, "points").is_empty() && global.output == Output::Table {
            eprint_line("nothing is recorded of that time; history is stored each qos.write_every");
        }
        Ok(())
    }
}

impl Objective {
    fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/objectives", None)?;
                shown(global, &answer, show::objectives);
            }
            Self::Set { service, percent, machine } => {
                let (path, name) = machine.path(service)?;
                let body = json!({ "objective": percent });
                let answer = ask(global, "PUT", &format!("{path}/objective"), Some(&body))?;
                shown(global, &answer, |answer| {
                    print_line(&format!("{name} is to be up {} % of the time", text(answer, "objective")));
                });
            }
            Self::Rm { service, machine } => {
                let (path, name) = machine.path(service)?;
                let answer = ask(global, "DELETE", &format!("{path}/objective"), None)?;
                shown(global, &answer, |answer| {
                    print_line(&format!("{name} has the default again, {} %", text(answer, "objective")));
                });
            }
        }
        Ok(())
    }
}

impl Report {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let format = match (self.csv, global.output) {
            (true, _) => "csv",
            (false, Output::Json) => "json",
            (false, Output::Table) => "text",
        };
        let place = match (self.service, &self.machine.tunnel) {
            (None, Some(_)) => "report",
            (Some(_), _) | (None, None) => "qos/report",
        };
        let (mut path, _) = self.machine.path(self.service)?;
        path.push_str(&format!("/{place}?format={format}"));
        if let Some(month) = &self.month {
            path.push_str(&format!("&month={}", segment(month)?));
        }
        let broke = |error: blueprint_common_runtime::local_api::LocalError| {
            CliError::unavailable(format!("the report broke off: {error}")).hint("try again")
        };
        let document = runtime()?.block_on(async {
            let mut answer = lines(global, &path).await?;
            let mut document = String::new();
            while let Some(line) = answer.next().await.map_err(broke)? {
                document.push_str(&line);
                document.push('\n');
            }
            Ok::<_, CliError>(document)
        })?;
        print_raw(&document);
        Ok(())
    }
}

impl Verify {
    fn run(self, global: &Global) -> Result<(), CliError> {
        let key = match &self.key {
            Some(path) => std::fs::read_to_string(path).map_err(|error| unread(path, &error))?,
            None => text(&ask(global, "GET", "/v1/report-key", None)?, "pem"),
        };
        let key = SealKey::parse(&key).map_err(|error| {
            CliError::usage(error.to_string()).hint("`blueprint-hub qos key` of the hub writes the PEM file")
        })?;
        let length = std::fs::metadata(&self.file).map_err(|error| unread(&self.file, &error))?.len();
        if length > MAX_REPORT {
            return Err(CliError::usage(format!(
                "{} has {length} bytes, and no report has more than {MAX_REPORT}",
                self.file.display()
            )));
        }
        let document = std::fs::read(&self.file).map_err(|error| unread(&self.file, &error))?;
        key.open(&document).map_err(|error| {
            CliError::denied(format!("{} is not what the hub signed: {error}", self.file.display()))
                .hint("get the report again from who made it, and the hub's key from the hub's operator")
        })?;
        match global.output {
            Output::Json => print_json(&json!({ "verified": true, "kid": key.name() })),
            Output::Table => print_line(&format!(
                "{} is what the hub signed with the key {}",
                self.file.display(),
                key.name()
            )),
        }
        Ok(())
    }
}
