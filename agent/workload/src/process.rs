//! A native workload as a process of this machine.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;

use blueprint_agent_workload_core::{Exit, PrepareFailed};
use blueprint_common_runtime::tasks::Spawner;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use crate::cgroup::Cgroup;
use crate::launch::{ARGUMENT, Launch};
use crate::output::Output;

/// A running process with all that it started.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Option<u32>,
    group: Option<Cgroup>,
    kills_before: u64,
    output: Output,
}

impl Process {
    /// Starts it; `agent` is the agent's own program.
    pub(crate) async fn start(
        agent: &PathBuf,
        launch: &Launch,
        group: Option<Cgroup>,
        spawner: &Spawner,
    ) -> Result<Self, PrepareFailed> {
        let failed = |what: &str, error: io::Error| PrepareFailed {
            reason: format!("{what}: {error}"),
            may_pass: true,
        };
        let kills_before = group.as_ref().map_or(0, Cgroup::out_of_memory);
        let mut child = Command::new(agent)
            .arg(ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("no process can be started", error))?;
        let output = Output::default();
        if let Some(stdout) = child.stdout.take() {
            spawner.spawn_base("workload output", output.clone().follow(stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            spawner.spawn_base("workload output", output.clone().follow(stderr));
        }
        let text = serde_json::to_vec(launch).map_err(|error| failed("what to run", error.into()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // Where the process is gone already, its exit says why.
            let _ = stdin.write_all(&text).await;
            let _ = stdin.shutdown().await;
        }
        let pid = child.id();
        Ok(Self { child, pid, group, kills_before, output })
    }

    pub(crate) const fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Waits for its end; then nothing that it started is left.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub(crate) async fn wait(&mut self) -> Exit {
        let status = self.child.wait().await;
        let was_killed = self.group.as_ref().is_some_and(|group| group.out_of_memory() > self.kills_before);
        match &self.group {
            Some(group) => group.kill(),
            // What it left behind is in its process group still, whose number nobody else has meanwhile.
            None => self.kill(),
        }
        self.output.ended().await;
        match status {
            Ok(status) => match (status.code(), status.signal()) {
                (_, Some(9)) if was_killed => Exit::OutOfMemory,
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Err(_) => Exit::Unknown,
        }
    }

    /// The last line that it wrote.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.output.last()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        if let Some(pid) = self.own_pid() {
            // The process alone: what it started is its own to end.
            let _ = kill(pid, Signal::SIGTERM);
        }
    }

    /// Kills it and everything that it started.
    pub(crate) fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
        if let Some(pid) = self.own_pid() {
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }

    fn own_pid(&self) -> Option<Pid> {
        self.pid.and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.id().is_some() {
            self.kill();
        }
    }
}
