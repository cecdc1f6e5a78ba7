//! The command line of `blueprint-agent`.

mod config;
mod membership;
mod netcheck;
mod run;
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use blueprint_common_runtime::cli::{CliError, Output, finish};
use blueprint_common_runtime::local_api::LocalClient;
use blueprint_common_runtime::state::{StateDir, StateError, default_path};
use blueprint_common_spoke::{Prover, SpokeError};
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::ServiceKey;
use clap::{Args, Parser, Subcommand};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::agent::{AgentError, SOCKET};
use crate::pace::PaceArgs;
use crate::proof::{CloudProver, ProofChoice, StsPlace};
use crate::service::LocalAddress;

/// Connects this machine to a blueprint hub, and offers its services through the hub.
#[derive(Debug, Parser)]
#[command(
    name = "blueprint-agent",
    version,
    after_help = "Examples:\n  blueprint-agent join hub.example.org:7443/PIN/TOKEN\n  blueprint-agent run\n  \
                  blueprint-agent service add 7/42 --local 8080\n\nExit codes: 0 ok, 1 failure, 2 usage, 3 not found, \
                  4 denied, 5 conflict, 6 unavailable, 78 configuration."
)]
struct Cli {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins a hub with the line that `blueprint-hub token create` printed.
    #[command(
        after_help = "Examples:\n  blueprint-agent join hub.example.org:7443/PIN/TOKEN --name gpu-1\n  \
                            echo LINE | blueprint-agent join -\n  blueprint-agent join --line-file /run/join-line\n  \
                            blueprint-agent join --identity auto hub.example.org:7443/PIN"
    )]
    Join(JoinArgs),
    /// Runs the agent until SIGTERM or Ctrl-C.
    #[command(
        after_help = "Example:\n  blueprint-agent run --config /etc/blueprint-agent.toml --set log.level=debug"
    )]
    Run(RunArgs),
    /// Shows how the agent and its ways to the hub are.
    #[command(after_help = "Example:\n  blueprint-agent status --output json")]
    Status(StateArg),
    /// Tries every carrier to the hub, and says what keeps those from working that do not.
    #[command(
        after_help = "Examples:\n  blueprint-agent netcheck\n  blueprint-agent netcheck --output json\n\nExit codes: 0 the best \
                      carrier works, 1 only a slower one does, 6 none does, 3 not joined."
    )]
    Netcheck(NetcheckArgs),
    /// Changes and shows what this machine offers.
    #[command(
        subcommand,
        after_help = "Example:\n  blueprint-agent service add 7/42 --local 8080 --check http:/healthz"
    )]
    Service(ServiceCommand),
    /// Gives this machine's place at the hub up.
    #[command(
        after_help = "Examples:\n  blueprint-agent leave\n  blueprint-agent leave --force   # although the hub is gone"
    )]
    Leave(LeaveArgs),
    /// Checks and shows the configuration.
    #[command(
        subcommand,
        after_help = "Example:\n  blueprint-agent config check --config /etc/blueprint-agent.toml"
    )]
    Config(ConfigCommand),
}

#[derive(Debug, Args)]
struct StateArg {
    /// Folder that holds identity and services [default: /var/lib/blueprint-agent for root, else ~/.local/state/blueprint-agent].
    #[arg(long, value_name = "DIR", env = STATE_VARIABLE)]
    state: Option<PathBuf>,
}

/// Environment variables that stand for the options `--state` and `--config`, and for no key of the configuration.
const STATE_VARIABLE: &str = "BLUEPRINT_AGENT_STATE";
const CONFIG_VARIABLE: &str = "BLUEPRINT_AGENT_CONFIG";

#[derive(Debug, Args)]
struct JoinArgs {
    /// The join line; `-` reads it from standard input, where other users do not see it.
    #[arg(required_unless_present = "line_file", conflicts_with = "line_file", value_name = "LINE")]
    line: Option<String>,
    /// File that holds the join line.
    #[arg(long, value_name = "FILE")]
    line_file: Option<PathBuf>,
    /// Name of this machine for people [default: its host name].
    #[arg(long)]
    name: Option<String>,
    /// HTTP proxy on the way to the hub, without credentials.
    #[arg(long, value_name = "http://HOST:PORT")]
    proxy: Option<ProxyUrl>,
    #[command(flatten)]
    proof: ProofArgs,
    #[command(flatten)]
    state: StateArg,
}

/// How a machine of a cloud joins without a token.
#[derive(Debug, Args)]
struct ProofArgs {
    /// Proves who this machine is by what its cloud says: aws, aws-sts, gcp, azure, kubernetes, or auto for the one that answers. Then
    /// the line needs no token; one that is there is used where the identity does not help.
    #[arg(long, value_name = "CLOUD")]
    identity: Option<ProofChoice>,
    /// Address of the cloud's metadata service, for stand-ins.
    #[arg(long, value_name = "IP:PORT", default_value = "169.254.169.254:80", requires = "identity")]
    metadata: SocketAddr,
    /// File with the token of the service account, for Kubernetes.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/run/secrets/blueprint-hub/token",
        requires = "identity"
    )]
    identity_token: PathBuf,
    /// Where AWS gives tokens for roles, for endpoints of a network of its own and for stand-ins [default: that of the region].
    #[arg(long, value_name = "URL", requires = "identity")]
    sts: Option<StsPlace>,
}

impl ProofArgs {
    const fn is_asked(&self) -> bool {
        self.identity.is_some()
    }

    fn prover(&self) -> Option<Box<dyn Prover>> {
        let choice = self.identity?;
        let (metadata, token, sts) = (self.metadata, self.identity_token.clone(), self.sts.clone());
        let cloud = CloudProver { choice, metadata, token, sts };
        Some(Box::new(cloud))
    }
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file [default: none].
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config: Option<PathBuf>,
    /// Sets one key, over file and environment.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    state: StateArg,
    /// Ends as soon as standard input is closed: with whoever started it.
    #[arg(long)]
    exit_on_stdin_close: bool,
}

#[derive(Debug, Args)]
struct NetcheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    state: StateArg,
}

#[derive(Debug, Args)]
struct LeaveArgs {
    /// Forgets the identity even where the hub cannot be told.
    #[arg(long)]
    force: bool,
    /// HTTP proxy on the way to the hub, for an agent that does not run.
    #[arg(long, value_name = "http://HOST:PORT")]
    proxy: Option<ProxyUrl>,
    #[command(flatten)]
    state: StateArg,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    /// Offers a service of this machine.
    #[command(after_help = "Example:\n  blueprint-agent service add 7/42 --local 8080 --check http:/healthz")]
    Add {
        /// The service.
        #[arg(value_name = "BLUEPRINT/SERVICE")]
        service: ServiceKey,
        /// Where it listens: IP:PORT, localhost:PORT or PORT; usually on this machine, else where this machine reaches it.
        #[arg(long, value_name = "HOST:PORT")]
        local: LocalAddress,
        /// TCP port on the agent's overlay address [default: the local port].
        #[arg(long, value_name = "OVERLAY_PORT", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Datagrams go there, too, for a raw forward of the hub over UDP.
        #[arg(long)]
        udp: bool,
        /// How its health is checked: tcp, http:/PATH (below 400), http:STATUS:/PATH, http:FIRST-LAST:/PATH, grpc or
        /// grpc:SERVICE (grpc.health.v1), or none for a service that only takes datagrams.
        #[arg(long, default_value = "tcp")]
        check: blueprint_common_types::HealthCheck,
        #[command(flatten)]
        pace: PaceArgs,
        /// Where it shows metrics in Prometheus' text format: /PATH, PORT or PORT/PATH of the same address;
        /// grpc or grpc:PORT where it tells them by the Blueprint SDK's qos.QosMetrics; or none.
        #[arg(long, default_value = "/metrics")]
        metrics: blueprint_common_types::MetricsPlace,
        #[command(flatten)]
        state: StateArg,
    },
    /// Lists what this machine offers.
    #[command(after_help = "Example:\n  blueprint-agent service ls")]
    Ls(StateArg),
    /// Stops offering a service.
    #[command(after_help = "Example:\n  blueprint-agent service rm 7/42")]
    Rm {
        /// The service.
        #[arg(value_name = "BLUEPRINT/SERVICE")]
        service: ServiceKey,
        /// Only on this overlay port [default: on all].
        #[arg(long, value_name = "OVERLAY_PORT")]
        port: Option<u16>,
        #[command(flatten)]
        state: StateArg,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Reports every problem of the configuration at once.
    #[command(after_help = "Example:\n  blueprint-agent config check --config /etc/blueprint-agent.toml")]
    Check(ConfigArgs),
    /// Shows every key, its value and where that comes from.
    #[command(after_help = "Example:\n  blueprint-agent config show --set log.level=debug")]
    Show(ConfigArgs),
    /// Prints a file with every key at its default.
    #[command(after_help = "Example:\n  blueprint-agent config default > /etc/blueprint-agent.toml")]
    Default,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE was expected, such as log.level=debug")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// The program: parses the command line, does what it says, and gives `main` what to return.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to tell where the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let output = cli.output;
    finish(execute(cli), output)
}

fn execute(cli: Cli) -> Result<(), CliError> {
    let output = cli.output;
    match cli.command {
        Command::Join(args) => membership::join(args, output),
        Command::Run(args) => run::run(args),
        Command::Status(state) => membership::status(&state, output),
        Command::Netcheck(args) => netcheck::netcheck(args, output),
        Command::Service(command) => service::service(command, output),
        Command::Leave(args) => membership::leave(&args, output),
        Command::Config(command) => config::config(command, output),
    }
}

impl StateArg {
    fn path(&self) -> Result<PathBuf, CliError> {
        match &self.state {
            Some(path) => Ok(path.clone()),
            None => Ok(default_path("blueprint-agent")?),
        }
    }

    /// Opens the folder for this command alone.
    fn open(&self) -> Result<StateDir, CliError> {
        Ok(StateDir::open(self.path()?)?)
    }

    /// Opens an existing folder beside whoever uses it; `None` where there is none.
    fn look(&self) -> Result<Option<StateDir>, CliError> {
        match StateDir::open_shared(self.path()?) {
            Ok(state) => Ok(Some(state)),
            Err(StateError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Asks the running agent; `None` where none runs on this state folder.
fn ask(
    state: &StateArg,
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<Option<Value>, CliError> {
    use blueprint_common_runtime::local_api::LocalError;

    let client = LocalClient::new(state.path()?.join(SOCKET));
    let to_value = |body| serde_json::to_value(body).map_err(|error| CliError::failure(error.to_string()));
    let body = body.map(to_value).transpose()?;
    let runtime = small_runtime()?;
    match runtime.block_on(client.request(method, path, body.as_ref())) {
        Ok((StatusCode::OK, value)) => Ok(Some(value)),
        Ok((status, value)) => Err(CliError::from_response(status, &value)),
        Err(LocalError::NotRunning { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A runtime for one command.
fn small_runtime() -> Result<tokio::runtime::Runtime, CliError> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn not_joined() -> CliError {
    CliError::from(&AgentError::from(SpokeError::NotJoined))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        Cli::command().debug_assert();
        fn walk(command: &clap::Command) {
            for sub in command.get_subcommands() {
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("blueprint-agent "), "{} has no example", sub.get_name());
                walk(sub);
            }
        }
        walk(&Cli::command());
    }

    #[test]
    fn commands_parse() {
        for line in [
            "blueprint-agent join -",
            "blueprint-agent join --line-file f --name gpu-1 --state s --output json",
            "blueprint-agent run --config c --state s --set a.b=c --set log.level=debug --exit-on-stdin-close",
            "blueprint-agent status --output json",
            "blueprint-agent netcheck --output json --set tunnel.carriers=tls",
            "blueprint-agent service add 7/42 --local localhost:8080 --port 80 --check http:/healthz",
            "blueprint-agent service ls --state s",
            "blueprint-agent service rm 7/42 --port 80",
            "blueprint-agent leave --force",
            "blueprint-agent config check",
            "blueprint-agent config show --set a=b",
            "blueprint-agent config default",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for line in [
            "blueprint-agent",
            "blueprint-agent join",
            "blueprint-agent join a --line-file b",
            "blueprint-agent service add 7 --local 80",
            "blueprint-agent service add 7/42",
            "blueprint-agent service add 7/42 --local db:80",
            "blueprint-agent service add 7/42 --local 80 --port 0",
            "blueprint-agent service add 7/42 --local 80 --check ping",
            "blueprint-agent run --set log.level",
        ] {
            assert_eq!(parse(line).map(|_| ()).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
