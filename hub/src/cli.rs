//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use blueprint_common_runtime::cli::{self, CliError, Output};
use blueprint_common_runtime::config::Sources;
use blueprint_common_runtime::state::default_path;
use clap::{Args, Parser, Subcommand};

use crate::cmd::{
    access, alerts, apply, artefact, audit, config, costs, deploy, deployment, dev, exec, forward, identity,
    import, init, inventory, key, logs, node, offers, policy, prices, provider, qos, scale, serve, service,
    status, token, workload,
};
use crate::files;

/// Hub of a hub-and-spoke overlay for blueprint services: machines dial in, clients come through one proxy.
#[derive(Debug, Parser)]
#[command(
    name = "blueprint-hub",
    version,
    after_help = "Example: blueprint-hub init && blueprint-hub serve
Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict, 6 unavailable, 78 configuration"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// State folder; default /var/lib/blueprint-hub for root, else ~/.local/state/blueprint-hub
    #[arg(long, global = true, value_name = "DIR", env = "BLUEPRINT_HUB_STATE")]
    state: Option<PathBuf>,
    /// Configuration file; default hub.toml in the state folder
    #[arg(long, global = true, value_name = "FILE", env = "BLUEPRINT_HUB_CONFIG")]
    config: Option<PathBuf>,
    /// Sets one configuration key, such as --set tunnel.mtu=1400; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// How to print
    #[arg(long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes keys, authority and a configuration file for a new hub
    Init(init::Init),
    /// Runs the hub
    #[command(after_help = "Example: blueprint-hub serve --state /var/lib/blueprint-hub")]
    Serve,
    /// Runs a hub with three agents and example services on this machine, without root
    Dev(dev::Dev),
    /// Join tokens: the right to become a node
    #[command(subcommand, after_help = "Example: blueprint-hub token create --ttl 1h --label rack-7")]
    Token(token::Token),
    /// Machines that joined by what a cloud says of them, without a token
    #[command(subcommand, after_help = "Example: blueprint-hub identity ls")]
    Identity(identity::Identity),
    /// API keys that owners of services got for their signatures
    #[command(subcommand, after_help = "Example: blueprint-hub key ls --service 7/42")]
    Key(key::Key),
    /// Access tokens: the right to call services through the proxy
    #[command(subcommand, after_help = "Example: blueprint-hub access create --service 7/42 --ttl 12h")]
    Access(access::Access),
    /// Nodes: the joined machines
    #[command(subcommand, after_help = "Example: blueprint-hub node ls")]
    Node(node::Node),
    /// Services and where they are reached
    #[command(subcommand, after_help = "Example: blueprint-hub service expose 7/42 --token")]
    Service(service::Service),
    /// Workloads: what nodes run
    #[command(subcommand)]
    Workload(workload::Workload),
    /// Brings a new version of a running workload in place of the old one, and takes it back where it fails
    #[command(after_help = workload::UPDATE_HELP)]
    Update(Box<workload::Update>),
    /// Goes back to an earlier version of a workload, as an update does
    #[command(after_help = workload::ROLLBACK_HELP)]
    Rollback(workload::Rollback),
    /// Shows what a workload wrote, and follows it
    Logs(logs::Logs),
    /// Runs a command beside a workload, with its rights
    Exec(Box<exec::Exec>),
    /// Brings a port of a service or of its node to this machine, or one of this machine there
    Forward(Box<forward::Forward>),
    /// Orders machines that join this hub by themselves
    Deploy(Box<deploy::Deploy>),
    /// Machines that were ordered
    #[command(subcommand)]
    Deployment(deployment::Deployments),
    #[command(flatten)]
    Verb(deployment::Verb),
    /// Orders what a file declares and is not there yet
    Apply(apply::Apply),
    /// Reads configuration of other tools, explains every key, and stores what is understood
    Import(import::Import),
    /// Lists every machine that was ordered, as CSV too
    Inventory(inventory::Inventory),
    /// Shows what ordered machines cost, and what is used of the limits
    Costs(costs::Costs),
    /// Makes an alert about costs, or changes one
    SetAlert(Box<alerts::SetAlert>),
    /// Alerts about costs: how they stand, and what they told
    Alerts(alerts::Alerts),
    /// Price lists: how old they are, and asking for new ones
    Prices(prices::Prices),
    /// Artefacts of workloads, pushed for nodes that reach nothing else
    #[command(subcommand, after_help = "Example: blueprint-hub artefact push demo.tar.gz")]
    Artefact(artefact::Artefact),
    /// Accounts at clouds: credentials, checks, the rights that they need
    #[command(subcommand)]
    Provider(provider::Provider),
    /// Lists providers of machines
    Providers(offers::Providers),
    /// Lists the 31 templates of machines that the product's specification names
    Templates(offers::Templates),
    /// Searches machines of all providers by size, place and price
    Offers(Box<offers::Offers>),
    /// Says which machine the hub would order, and what it costs
    #[command(visible_alias = "estimate")]
    EstimateCost(Box<offers::EstimateCost>),
    /// Own machines that are reached by SSH: their keys, sizes and states
    #[cfg(feature = "provider-ssh")]
    #[command(subcommand, after_help = "Example: blueprint-hub host scan 192.0.2.7")]
    Host(crate::cmd::host::Host),
    /// How services do, what was, objectives, and signed monthly reports
    #[command(subcommand)]
    Qos(qos::Qos),
    /// Tiers of services: how many replicas they have, why, and until when they are paid for
    #[command(subcommand, visible_alias = "tier")]
    Scale(scale::Scale),
    /// Policy: which nodes may send what to which through the hub
    #[command(subcommand, after_help = "Example: blueprint-hub policy set policy.toml")]
    Policy(policy::Policy),
    /// Shows how the hub is doing, or one deployment
    Status(status::Status),
    /// Shows what happened: joins, refusals, removals
    #[command(after_help = "Example: blueprint-hub audit --limit 20")]
    Audit(audit::Audit),
    /// Checks and shows the configuration
    #[command(subcommand, after_help = "Example: blueprint-hub config check")]
    Config(config::Config),
}

impl Global {
    /// The state folder.
    pub(crate) fn state(&self) -> Result<PathBuf, CliError> {
        match &self.state {
            Some(path) => Ok(path.clone()),
            None => default_path("blueprint-hub")
                .map_err(|error| CliError::usage(error.to_string()).hint("give --state DIR")),
        }
    }

    /// The state folder, where one was named.
    pub(crate) fn explicit_state(&self) -> Option<PathBuf> {
        self.state.clone()
    }

    /// Where configuration comes from.
    pub(crate) fn sources(&self) -> Result<Sources, CliError> {
        let default = self.state()?.join(files::CONFIG);
        let file = match &self.config {
            Some(path) => Some(path.clone()),
            None => Some(default).filter(|path| path.exists()),
        };
        let flags = self.set.iter().map(|text| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(CliError::usage(format!("--set {text:?} is not KEY=VALUE"))
                .hint("for example --set tunnel.mtu=1400")),
        });
        let flags = flags.collect::<Result<_, _>>()?;
        Ok(Sources::from_process(file, flags, &["BLUEPRINT_HUB_STATE", "BLUEPRINT_HUB_CONFIG"]))
    }

    /// The same options with another state folder.
    pub(crate) fn with_state(&self, state: PathBuf) -> Self {
        Self { state: Some(state), ..self.clone() }
    }
}

/// Parses the arguments, runs the command, prints its error, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.global.output;
    cli::finish(run(cli), output)
}

fn run(cli: Cli) -> Result<(), CliError> {
    let global = &cli.global;
    match cli.command {
        Command::Init(command) => command.run(global),
        Command::Serve => serve::run(global),
        Command::Dev(command) => command.run(global),
        Command::Token(command) => command.run(global),
        Command::Identity(command) => command.run(global),
        Command::Key(command) => command.run(global),
        Command::Access(command) => command.run(global),
        Command::Node(command) => command.run(global),
        Command::Service(command) => command.run(global),
        Command::Workload(command) => command.run(global),
        Command::Update(command) => command.run(global),
        Command::Rollback(command) => command.run(global),
        Command::Logs(command) => command.run(global),
        Command::Exec(command) => command.run(global),
        Command::Forward(command) => command.run(global),
        Command::Deploy(command) => command.run(global),
        Command::Deployment(command) => command.run(global),
        Command::Verb(command) => command.run(global),
        Command::Apply(command) => command.run(global),
        Command::Import(command) => command.run(global),
        Command::Inventory(command) => command.run(global),
        Command::Costs(command) => command.run(global),
        Command::SetAlert(command) => command.run(global),
        Command::Alerts(command) => command.run(global),
        Command::Prices(command) => command.run(global),
        Command::Artefact(command) => command.run(global),
        Command::Provider(command) => command.run(global),
        Command::Providers(command) => command.run(global),
        Command::Templates(command) => command.run(global),
        Command::Offers(command) => command.run(global),
        Command::EstimateCost(command) => command.run(global),
        #[cfg(feature = "provider-ssh")]
        Command::Host(command) => command.run(global),
        Command::Qos(command) => command.run(global),
        Command::Scale(command) => command.run(global),
        Command::Policy(command) => command.run(global),
        Command::Status(command) => command.run(global),
        Command::Audit(command) => command.run(global),
        Command::Config(command) => command.run(global),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// An option of a command that has the name of a global one takes its place, and reading the global one
    /// panics, or gives it the other's type.
    #[test]
    fn no_option_of_a_command_hides_a_global_one() {
        let command = Cli::command();
        let global: Vec<_> = command.get_arguments().filter(|arg| arg.is_global_set()).cloned().collect();
        assert!(global.iter().any(|arg| arg.get_id() == "set"), "{global:?}");
        let mut open: Vec<_> = command.get_subcommands().cloned().collect();
        while let Some(command) = open.pop() {
            for own in command.get_arguments() {
                let hides = |known: &clap::Arg| {
                    known.get_id() == own.get_id()
                        || own.get_long().is_some_and(|own| known.get_long() == Some(own))
                };
                assert!(!global.iter().any(hides), "`{}` hides --{}", command.get_name(), own.get_id());
            }
            open.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut open: Vec<_> = command.get_subcommands().cloned().collect();
        while let Some(command) = open.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{}` has no example", command.get_name());
            open.extend(command.get_subcommands().cloned());
        }
    }
}
