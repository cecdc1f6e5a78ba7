//! Programs that are started, watched through `/proc`, and ended.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long a program may take to end once it was asked to.
const END: Duration = Duration::from_secs(10);

/// Bytes of a log that an error shows.
const TAIL_BYTES: usize = 2000;

/// A program of the folder that this one lies in.
///
/// # Errors
///
/// Fails where it is not there; the text says how to build it.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program's own path")?.with_file_name(name);
    if !path.is_file() {
        bail!(
            "{} is missing; build it: cargo build --release -p blueprint-hub -p blueprint-agent \
             -p blueprint-agent-example -p blueprint-bench-system",
            path.display()
        );
    }
    Ok(path)
}

/// What a process uses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// Memory of it that is in RAM.
    pub(crate) resident_bytes: u64,
    /// Processor time since its start.
    pub(crate) processor: Duration,
}

/// A started program. Dropping it kills it with SIGKILL.
#[derive(Debug)]
pub(crate) struct Running {
    name: String,
    child: Child,
    pid: i32,
    /// Open until [`Self::end`] or the drop: agents and services end with it.
    pub(crate) stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Running {
    /// Starts `program`; its standard error goes to a file in `folder`, and temporary files of its own as well.
    ///
    /// # Errors
    ///
    /// Fails where the program cannot be started.
    pub(crate) fn start<A: AsRef<OsStr>>(
        program: &Path,
        folder: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut command = Command::new(program);
        command.args(arguments).env("TMPDIR", folder).kill_on_drop(true);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("BLUEPRINT_") {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("a process without an id")?;
        let stdout = child.stdout.take().context("a process without standard output")?;
        let stdin = child.stdin.take();
        Ok(Self { name, child, pid, stdin, stdout: BufReader::new(stdout).lines(), log })
    }

    /// Reads the next JSON document that it prints.
    ///
    /// # Errors
    ///
    /// Fails where it ends without one, or prints none in time.
    pub(crate) async fn next_json(&mut self, within: Duration) -> Result<Value> {
        let name = self.name.clone();
        let read = async {
            let mut text = String::new();
            while let Some(line) = self.stdout.next_line().await? {
                text.push_str(&line);
                text.push('\n');
                if let Ok(value) = serde_json::from_str(&text) {
                    return Ok(Some(value));
                }
            }
            Ok::<_, std::io::Error>(None)
        };
        let read = timeout(within, read).await;
        match read {
            Ok(Ok(Some(value))) => Ok(value),
            Ok(Ok(None)) => bail!("{name} ended without a result{}", self.tail()),
            Ok(Err(error)) => Err(error).with_context(|| format!("cannot read what {name} prints")),
            Err(_) => bail!("{name} printed nothing within {within:?}{}", self.tail()),
        }
    }

    /// Its process id.
    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// What it uses now.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", self.pid))
                .with_context(|| format!("{} has ended{}", self.name, self.tail()))
        };
        let status = read("status")?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let kib: u64 =
            kib.with_context(|| format!("{} has no memory any more", self.name))?.trim().parse()?;
        Ok(Usage { resident_bytes: kib.saturating_mul(1024), processor: processor(&read("stat")?)? })
    }

    /// What it uses now together with the keepers of its workloads: processes of its own program below it. Memory that
    /// they share counts once, as proportional set sizes.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub(crate) fn usage_with_keepers(&self) -> Result<Usage> {
        let mut all = vec![self.pid];
        for entry in std::fs::read_dir("/proc").context("no /proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if parent == Some(self.pid) && String::from_utf8_lossy(&line).contains("become-workload") {
                all.push(pid);
            }
        }
        let mut sum = Usage::default();
        for pid in all {
            let read = |file: &str| {
                let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"));
                text.with_context(|| format!("{} or a keeper of it has ended{}", self.name, self.tail()))
            };
            let kib = read("smaps_rollup")?;
            let kib = kib.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
            let kib: u64 = kib.context("no proportional set size")?.trim().parse()?;
            sum.resident_bytes = sum.resident_bytes.saturating_add(kib.saturating_mul(1024));
            sum.processor = sum.processor.saturating_add(processor(&read("stat")?)?);
        }
        Ok(sum)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Fails where it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Asks it to end, closes its standard input, and kills it where it does not.
    ///
    /// # Errors
    ///
    /// Fails where it had ended before, or had to be killed.
    pub(crate) async fn end(mut self, wish: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended by itself: {status}{}", self.name, self.tail());
        }
        self.signal(wish)?;
        drop(self.stdin.take());
        if timeout(END, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            bail!("{} did not end within {END:?} of {wish}{}", self.name, self.tail());
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        let tail = bytes.get(bytes.len().saturating_sub(TAIL_BYTES)..).unwrap_or_default();
        format!("; the end of its log:\n{}", String::from_utf8_lossy(tail))
    }
}

/// Processor time in the text of `/proc/PID/stat` (proc_pid_stat(5), fields 14 and 15).
fn processor(stat: &str) -> Result<Duration> {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user.saturating_add(system));
    let ticks = ticks.context("no processor time in /proc")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100);
    Ok(Duration::from_millis(ticks.saturating_mul(1000) / per_second.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 4 0 100 1 1";
        assert_eq!(processor(stat).unwrap(), Duration::from_secs(3));
    }

    #[test]
    fn a_program_that_is_not_built_says_how_to_build_it() {
        let error = program("blueprint-no-such-program").unwrap_err().to_string();
        assert!(error.contains("cargo build --release"), "{error}");
    }
}
