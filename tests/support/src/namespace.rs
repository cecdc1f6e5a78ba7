//! One network namespace: made, entered, removed.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::Builder;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

/// Every namespace of a lab is called `bpt-PID-REST`.
const PREFIX: &str = "bpt-";

/// A named network namespace with its loopback up; removed when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one that is called after this process and `rest`.
    pub(crate) fn new(rest: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{rest}", std::process::id());
        tool("ip", &["netns", "add", &name], "")?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name, as `ip netns exec` takes it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it, with the words of `arguments`.
    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        let mut words = vec!["-n", &self.name];
        words.extend(arguments.split_whitespace());
        tool("ip", &words, "")
    }

    /// Loads nftables rules in it.
    pub(crate) fn nft(&self, rules: &str) -> Result<()> {
        tool("ip", &["netns", "exec", &self.name, "nft", "-f", "-"], rules)
    }

    /// Has a device send every packet by itself, as a network card without offloads would.
    pub(crate) fn cut_before_sending(&self, device: &str) -> Result<()> {
        let words = ["netns", "exec", &self.name, "ethtool", "-K", device];
        tool("ip", &[&words[..], &["tso", "off", "gso", "off", "tx-udp-segmentation", "off"]].concat(), "")
    }

    /// Calls `work` on a thread inside it. Sockets made there stay there.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        std::thread::scope(|scope| {
            let thread = Builder::new().name(self.name.clone()).spawn_scoped(scope, move || {
                setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))?;
                Ok(work())
            })?;
            thread.join().map_err(|_| anyhow!("the thread inside {} panicked", self.name))?
        })
    }

    /// Gives programs started inside it an `/etc/resolv.conf` of their own.
    pub(crate) fn write_resolv_conf(&self, text: &str) -> Result<()> {
        let folder = self.etc();
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::write(folder.join("resolv.conf"), text).context("cannot write resolv.conf")
    }

    fn etc(&self) -> PathBuf {
        PathBuf::from("/etc/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.etc());
        let _ = tool("ip", &["netns", "del", &self.name], "");
    }
}

/// Removes what labs of processes that are gone, killed perhaps, have left behind.
pub(crate) fn sweep() -> Result<()> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
        if !PathBuf::from(format!("/proc/{owner}")).exists() {
            end_processes(&name);
            drop(Namespace { name });
        }
    }
    Ok(())
}

/// Ends what still runs in a namespace whose lab is gone.
fn end_processes(namespace: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() else { return };
    let pids = String::from_utf8_lossy(&output.stdout).into_owned();
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    }
}

/// Runs a tool to its end and turns its complaint into an error.
fn tool(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let what = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", what()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("cannot feed {}", what()))?;
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {}", what()))?;
    if !output.status.success() {
        bail!("{} failed: {} {input}", what(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
