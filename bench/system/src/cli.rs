//! Arguments, and how the program ends.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use blueprint_common_runtime::cli::{CliError, Output, finish};
use blueprint_common_runtime::tasks::Supervisor;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::{drip, front, pace, plane, run, spokes, stream, swarm};

/// Longest run; what is not measured by then is not measured.
const DEADLINE: Duration = Duration::from_secs(235);

/// Measures real binaries on this machine: hub, agent and example service, all on loopback.
#[derive(Debug, Parser)]
#[command(name = "bench-system", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Example: bench-system --check --output json
The programs are those in the folder of this one: build all of them with the same profile first.")]
struct Cli {
    #[command(flatten)]
    measure: Measure,
    #[command(subcommand)]
    inner: Option<Inner>,
}

/// What is measured, and how often.
#[derive(Debug, Clone, Args)]
pub(crate) struct Measure {
    /// Form of the result
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Ends with exit code 1 where a figure is above its limit
    #[arg(long)]
    pub(crate) check: bool,
    /// Only these stages; without it all but handshake, peers, netstack and slow
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Stage>,
    /// Starts of `blueprint-hub dev`
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub(crate) starts: u32,
    /// Machines that join at once
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(crate) joins: u32,
    /// Agents that idle at one hub
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub(crate) agents: u32,
    /// Peers of the data plane alone
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(crate) peers: u32,
    /// Slow clients beside a normal one
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub(crate) slow: u32,
    /// Seconds that they idle before the hub is measured
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub(crate) idle_secs: u64,
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// A bare UDP socket pair on this machine, for scale
    Udp,
    /// From the start of `dev` to the first proxied byte
    Dev,
    /// Many machines that join at once
    Join,
    /// Requests through proxy, tunnel and agent beside direct ones
    Path,
    /// A normal client beside ten thousand that send a byte now and then
    Slow,
    /// Size and memory of an agent
    Agent,
    /// Blueprints on a node: start, and what they cost its agent
    Workloads,
    /// Which machine to order, and what the hub adds before its cloud is asked for it
    Orders,
    /// A hub with many idle agents
    Idle,
    /// Handshakes that one core answers, and the cost of finding a peer
    Handshake,
    /// A data plane with very many peers: memory, idle cost, return after a restart
    Peers,
    /// One TCP stream in netstack mode over a veth; needs root
    Netstack,
}

impl Measure {
    /// Whether a stage is wanted.
    pub(crate) fn wants(&self, stage: Stage) -> bool {
        // These have more to do than a quick check may take, or need root.
        let on_demand = [Stage::Handshake, Stage::Peers, Stage::Netstack, Stage::Slow];
        if self.only.is_empty() { !on_demand.contains(&stage) } else { self.only.contains(&stage) }
    }
}

/// What this program starts itself as.
#[derive(Debug, Clone, Subcommand)]
enum Inner {
    /// Runs agents until standard input ends; its first line is the join line
    #[command(hide = true)]
    Swarm {
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Runs a hub's data plane alone until standard input ends
    #[command(hide = true)]
    Plane {
        /// UDP address of the tunnel
        #[arg(long)]
        listen: SocketAddr,
        /// How many peers
        #[arg(long)]
        count: u32,
    },
    /// Runs slow clients until standard input ends; its first line is an access token
    #[command(hide = true)]
    Drip {
        /// The hub's proxy
        #[arg(long)]
        proxy: SocketAddr,
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Runs tunnel cores as spokes until standard input ends
    #[command(hide = true)]
    Spokes {
        /// The hub's UDP address
        #[arg(long)]
        hub: SocketAddr,
        /// How many
        #[arg(long)]
        count: u32,
    },
    /// Runs the auth proxy, alone or with hub and agent, until standard input ends
    #[command(hide = true)]
    Front(front::Front),
    /// Sends requests at an even pace and prints their latency
    #[command(hide = true)]
    Pace(pace::Pace),
    /// Runs one end of a stream
    #[command(hide = true)]
    Stream(stream::End),
}

/// Parses the arguments, measures, prints, and gives the exit code.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = cli.measure.output;
    finish(serve(cli).map_err(|error| CliError::failure(format!("{error:#}"))), output)
}

fn serve(cli: Cli) -> Result<()> {
    raise_file_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(until_signal(cli));
    // Agents of a swarm hold tasks that nobody waits for, and a read of standard input cannot be cancelled.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn until_signal(cli: Cli) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let supervisor = Supervisor::new();
    let spawner = supervisor.child_spawner();
    let work = async {
        match cli.inner {
            Some(Inner::Swarm { count }) => swarm::run(count, &spawner).await,
            Some(Inner::Plane { listen, count }) => plane::run(listen, count, &spawner).await,
            Some(Inner::Drip { proxy, count }) => drip::run(proxy, count, &spawner).await,
            Some(Inner::Spokes { hub, count }) => spokes::run(hub, count, &spawner).await,
            Some(Inner::Front(front)) => Box::pin(front::run(&front)).await,
            Some(Inner::Pace(pace)) => tokio::task::block_in_place(|| pace::run(&pace)),
            Some(Inner::Stream(end)) => stream::run(&end, &spawner).await,
            None => tokio::time::timeout(DEADLINE, run::run(&cli.measure, &spawner))
                .await
                .with_context(|| format!("not done after {} s", DEADLINE.as_secs()))?,
        }
    };
    let result = tokio::select! {
        biased;
        _ = terminate.recv() => bail!("ended by SIGTERM"),
        _ = interrupt.recv() => bail!("ended by SIGINT"),
        result = Box::pin(work) => result,
    };
    supervisor.stop().stop.cancel();
    result
}

/// A thousand agents in one process need some three thousand files, their hub one thousand.
fn raise_file_limit() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["bench-system", "--only", "udp,path"]);
        assert!(cli.measure.wants(Stage::Path) && !cli.measure.wants(Stage::Dev));
        let all = Cli::parse_from(["bench-system"]).measure;
        assert!(all.wants(Stage::Idle) && !all.wants(Stage::Peers));
    }
}
