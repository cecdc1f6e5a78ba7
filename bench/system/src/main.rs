//! Join rate, first byte, latency, throughput and memory of real binaries, and of the tunnel alone.
//!
//! `bench-system` starts hub, agent and example service of the folder that it lies in, on loopback, one stage
//! after the other, and prints what it measured. `bench/README.md` says how each number comes about.
//!
//! # Invariants
//!
//! - Two ways that are compared are measured in the same run, in turns, and compared turn by turn.
//! - No process outlives the run: each is ended, at the latest killed when its [`process::Running`] is dropped.

mod cli;
mod client;
mod core;
mod dev;
mod drip;
mod footprint;
mod front;
mod host;
mod hub;
mod idle;
mod join;
mod netstack;
mod orders;
mod pace;
mod path;
mod peers;
mod plane;
mod process;
mod report;
mod run;
mod slow;
mod spoke;
mod spokes;
mod stats;
mod stream;
mod swarm;
mod udp;
mod workloads;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
