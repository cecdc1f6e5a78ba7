//! `ping` on a host, and what it counted.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use blueprint_tests_support::{Host, Process};
use nix::sys::signal::Signal;

use crate::fixture::{CALL, SOON};

/// How many echoes were sent, and how many came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pings {
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

/// Sends echoes and waits for the end of it.
pub(crate) fn ping(host: &Host, arguments: &[&str]) -> Result<Pings> {
    let finished = host.launch(Path::new("ping")).args(arguments).run(CALL + Duration::from_secs(20))?;
    counted(&finished.stdout).with_context(|| finished.stderr)
}

/// Echoes that are being sent.
#[derive(Debug)]
pub(crate) struct Pinging(Process);

impl Pinging {
    /// Sends echoes until told to stop.
    pub(crate) fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        Ok(Self(host.launch(Path::new("ping")).args(arguments).start()?))
    }

    /// Stops, and counts.
    pub(crate) fn finish(mut self) -> Result<Pings> {
        self.0.signal(Signal::SIGINT)?;
        self.0.wait(SOON)?;
        counted(&self.0.log())
    }
}

/// Reads the last lines of ping.
fn counted(output: &str) -> Result<Pings> {
    let line = output.lines().find(|line| line.contains("packets transmitted"));
    let line = line.with_context(|| format!("ping counted nothing: {output}"))?;
    let number = |words: &str| -> Result<u32> {
        let part = line.split(", ").find_map(|part| part.strip_suffix(words));
        part.with_context(|| format!("no number of {words} in {line}"))?.trim().parse().context("no number")
    };
    Ok(Pings { sent: number(" packets transmitted")?, received: number(" received")? })
}
