//! `service`: what is offered, and where.

use std::path::PathBuf;
use std::task::{Context, Poll};

use blueprint_common_runtime::cli::{CliError, Output, Table, print_json, print_line};
use blueprint_common_types::{Health, ServiceKey};
use blueprint_proto::v1;
use blueprint_proto::v1::registry_client::RegistryClient;
use clap::Subcommand;
use futures_util::future::{BoxFuture, FutureExt};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use super::client::{ask, rows, runtime, text};
use super::expose::{self, Expose};
use super::owner::{self, Owner};
use super::service_tls::{Cert, Tls};
use super::share::{self, At};
use crate::cli::Global;
use crate::files;

/// Services and where they are reached.
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Lists services and their targets
    #[command(visible_alias = "list", after_help = "Example: blueprint-hub service ls")]
    Ls,
    /// Shows the targets of one service
    #[command(after_help = "Example: blueprint-hub service show 7/42")]
    Show {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Shows what a service and its callers have used, over restarts of the hub
    #[command(after_help = "Example: blueprint-hub service usage 7/42 --output json")]
    Usage {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Makes a service reachable through the proxy, and prints where and how
    #[command(after_help = "Example: blueprint-hub service expose 7/42 --token
Prints URLs and a curl line that works; with --token also a new access token, which is shown once.")]
    Expose(Expose),
    /// Keeps a service from all clients of the proxy at once, whatever they show
    #[command(after_help = "Example: blueprint-hub service hide 7/42
Open requests are cut within about a second. `blueprint-hub service expose 7/42` undoes it.")]
    Hide {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
    },
    /// Gives a node no new requests of a service; open ones end in their own time
    #[command(after_help = "Example: blueprint-hub service drain 7/42 greeter-1")]
    Drain {
        #[command(flatten)]
        at: At,
    },
    /// Gives a drained node its share of a service again
    #[command(after_help = "Example: blueprint-hub service undrain 7/42 greeter-1")]
    Undrain {
        #[command(flatten)]
        at: At,
    },
    /// Sets the share that a node has of a service
    #[command(after_help = "Example: blueprint-hub service weight 7/42 greeter-1 50
100 is what every node has; 50 is half as many requests, 0 is none.")]
    Weight {
        #[command(flatten)]
        at: At,
        /// From 0 to 1000
        #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
        weight: u32,
    },
    /// Owners: keys that may ask the proxy for API keys of a service
    #[command(subcommand, after_help = "Example: blueprint-hub service owner ls 7/42")]
    Owner(Owner),
    /// TLS: host names, certificates, and whose clients get in
    #[command(subcommand, after_help = "Example: blueprint-hub service tls set 7/42 --require-client-cert")]
    Tls(Tls),
    /// Certificates of the clients of a service
    #[command(subcommand, after_help = "Example: blueprint-hub service cert issue 7/42 acme --out acme")]
    Cert(Cert),
    /// Shows the settings of a service, or replaces them
    #[command(
        after_help = "Example: blueprint-hub service settings 7/42 > s.json; blueprint-hub service settings 7/42 --file s.json
docs/services.md explains every field."
    )]
    Settings {
        /// Service, as BLUEPRINT/SERVICE
        service: ServiceKey,
        /// JSON file with the new settings, or `-` for standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Prints every change as it happens, until interrupted
    #[command(after_help = "Example: blueprint-hub service watch 7/42 --output json
Each line has an index; --after INDEX goes on from there, also after a restart of the hub.")]
    Watch {
        /// These services, as BLUEPRINT/SERVICE, at most 64; all where none is named
        services: Vec<ServiceKey>,
        /// Only changes after this index; 0 shows everything first
        #[arg(long, default_value_t = 0)]
        after: u64,
    },
}

impl Service {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        match self {
            Self::Ls => {
                let answer = ask(global, "GET", "/v1/services", None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => list_table(&answer).print(),
                }
                Ok(())
            }
            Self::Show { service } => {
                let path = format!("/v1/services/{}/{}", service.blueprint, service.service);
                let answer = ask(global, "GET", &path, None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => share::table(global, service, rows(&answer, "targets"))?.print(),
                }
                Ok(())
            }
            Self::Usage { service } => {
                let path = format!("/v1/services/{}/{}/usage", service.blueprint, service.service);
                let answer = ask(global, "GET", &path, None)?;
                match global.output {
                    Output::Json => print_json(&answer),
                    Output::Table => usage_table(&answer).print(),
                }
                Ok(())
            }
            Self::Expose(command) => command.run(global),
            Self::Hide { service } => expose::hide(global, service),
            Self::Drain { at } => share::drain(global, &at),
            Self::Undrain { at } => share::undrain(global, &at),
            Self::Weight { at, weight } => share::weigh(global, &at, weight),
            Self::Owner(owner) => owner.run(global),
            Self::Tls(tls) => tls.run(global),
            Self::Cert(cert) => cert.run(global),
            Self::Settings { service, file } => owner::settings(global, service, file),
            Self::Watch { services, after } => runtime()?.block_on(watch(global, &services, after)),
        }
    }
}

/// Every target of every service of an answer as a table.
pub(crate) fn list_table(answer: &Value) -> Table {
    target_table(rows(answer, "services").iter().flat_map(|service| rows(service, "targets")))
}

/// Targets as a table.
pub(crate) fn target_table<'a>(targets: impl Iterator<Item = &'a Value>) -> Table {
    let mut table = Table::new(&["SERVICE", "HEALTH", "TARGET", "NODE", "REASON"]);
    for row in targets {
        table.push(vec![
            text(row, "service"),
            text(row, "health"),
            text(row, "address"),
            text(row, "node_name"),
            text(row, "reason"),
        ]);
    }
    table
}

/// The sum of a service, and below it those of its callers.
fn usage_table(answer: &Value) -> Table {
    let columns = ["requests", "refused", "bytes_in", "bytes_out", "open_seconds"];
    let mut table = Table::new(&["KEY", "REQUESTS", "REFUSED", "BYTES IN", "BYTES OUT", "OPEN SECONDS"]);
    let all = std::iter::once(("all".to_owned(), answer));
    let keys = rows(answer, "by_key").iter().map(|row| (text(row, "key"), row));
    for (name, row) in all.chain(keys) {
        let cells = columns.iter().map(|column| text(row, column));
        table.push(std::iter::once(name).chain(cells).collect());
    }
    table
}

async fn watch(global: &Global, services: &[ServiceKey], after: u64) -> Result<(), CliError> {
    let socket = global.state()?.join(files::REGISTRY_SOCKET);
    let shown = socket.display().to_string();
    // The URI is not used: the connector always opens the socket.
    let endpoint = Endpoint::from_static("http://hub.blueprint.internal");
    let connector = OpenSocket(socket);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|_| {
        CliError::unavailable(format!("no hub answers at {shown}"))
            .hint("start it with `blueprint-hub serve`, or name its folder with --state DIR")
    })?;
    let mut client = RegistryClient::new(channel);
    let status =
        |status: tonic::Status| CliError::unavailable(format!("the watch ended: {}", status.message()));
    let named = |key: &ServiceKey| v1::ServiceRef { blueprint_id: key.blueprint, service_id: key.service };
    let request = v1::WatchRequest { after_index: after, services: services.iter().map(named).collect() };
    let mut events = client.watch(request).await.map_err(status)?.into_inner();
    while let Some(event) = events.message().await.map_err(status)? {
        print_event(&event, global.output);
    }
    Err(CliError::unavailable("the hub ended the watch")
        .hint("start it again with --after and the last index shown"))
}

/// Opens the operator's socket, whatever the URI says.
struct OpenSocket(PathBuf);

impl tower_service::Service<http::Uri> for OpenSocket {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, std::io::Result<TokioIo<UnixStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let path = self.0.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }.boxed()
    }
}

fn print_event(event: &v1::WatchEvent, output: Output) {
    let (change, target) = match &event.change {
        Some(v1::watch_event::Change::Reset(_)) => ("reset", None),
        Some(v1::watch_event::Change::Upsert(target)) => ("upsert", Some(target)),
        Some(v1::watch_event::Change::Remove(target)) => ("remove", Some(target)),
        // Said to machines alone.
        Some(v1::watch_event::Change::Complete(_)) | None => return,
    };
    let health = target.map(|target| Health::from(target.health()).to_string());
    if output == Output::Json {
        let target = target.map(|target| {
            json!({
                "service": format!("{}/{}", target.blueprint_id, target.service_id),
                "node": target.agent_id, "node_name": target.agent_name, "address": target.address,
                "health": health, "reason": target.reason,
            })
        });
        // One line each: a stream is read line by line.
        print_line(&json!({ "index": event.index, "change": change, "target": target }).to_string());
        return;
    }
    let Some(target) = target else {
        print_line(&format!("{:>8}  {change}", event.index));
        return;
    };
    let service = format!("{}/{}", target.blueprint_id, target.service_id);
    let health = health.unwrap_or_default();
    print_line(&format!(
        "{:>8}  {change}  {service}  {}  {}  {health}  {}",
        event.index, target.address, target.agent_name, target.reason
    ));
}
