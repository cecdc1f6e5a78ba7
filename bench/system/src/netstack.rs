//! One TCP stream between hub and spoke in netstack mode, over a veth between two network namespaces.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::Value;

use crate::hub::SOON;
use crate::process::Running;
use crate::report::Figure;
use crate::stats::Spread;

/// Turns in each direction, and seconds of one.
const TURNS: usize = 3;
const SECS: u64 = 3;

/// Promise of issue 3: Gbit/s of one stream for each core that the busier end uses.
const PER_CORE: f64 = 1.0;

/// Measures both directions in turns.
///
/// # Errors
///
/// Fails without root, and where a stream does not come through.
pub(crate) async fn measure(folder: &Path) -> Result<Vec<Figure>> {
    ensure!(geteuid().is_root(), "stage netstack needs root: it makes two network namespaces");
    let veth = Veth::make()?;
    let (mut up, mut down, mut per_core) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        for (is_up, speeds) in [(true, &mut up), (false, &mut down)] {
            let turn = stream(&veth, is_up, folder).await?;
            speeds.push(turn.gbits);
            per_core.push(turn.gbits / turn.cores);
        }
    }
    Ok(vec![
        Figure::of("netstack.tcp1_up", "Gbit/s", Spread::of(up)),
        Figure::of("netstack.tcp1_down", "Gbit/s", Spread::of(down)),
        Figure::of("netstack.per_core", "Gbit/s and core", Spread::of(per_core)).at_least(PER_CORE),
    ])
}

/// One stream.
struct Turn {
    gbits: f64,
    /// Cores that the busier of the two ends used.
    cores: f64,
}

async fn stream(veth: &Veth, is_up: bool, folder: &Path) -> Result<Turn> {
    let secs = SECS.to_string();
    let hub = ["--side", "hub", "--listen", "10.99.1.2:51820", "--secs", &secs];
    let spoke = ["--side", "spoke", "--listen", "10.99.1.1:0", "--hub", "10.99.1.2:51820", "--secs", &secs];
    let start = |space: &str, end: &[&str], sends: bool| {
        let own = std::env::current_exe().context("cannot find this program's own path")?;
        let mut arguments = vec!["netns".into(), "exec".into(), space.into(), own.into_os_string()];
        arguments.extend(["stream"].iter().chain(end).map(Into::into));
        arguments.extend(sends.then(|| "--send".into()));
        let log = folder.join(space);
        std::fs::create_dir_all(&log)?;
        Running::start(Path::new("ip"), &log, arguments)
    };
    let mut hub = start(&veth.hub, &hub, !is_up)?;
    hub.next_json(SOON).await?;
    let mut spoke = start(&veth.spoke, &spoke, is_up)?;
    let taker = if is_up { &mut hub } else { &mut spoke };
    let taken = taker.next_json(SOON.saturating_add(Duration::from_secs(SECS))).await?;
    let number = |pointer: &str| taken.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    let (bytes, secs) = (number("/bytes"), number("/secs"));
    ensure!(bytes > 0.0 && secs > 0.0, "nothing came through: {taken}");
    let busier = hub.usage()?.processor.max(spoke.usage()?.processor);
    spoke.end(Signal::SIGTERM).await?;
    hub.end(Signal::SIGTERM).await?;
    Ok(Turn { gbits: bytes * 8.0 / 1e9 / secs, cores: busier.as_secs_f64() / secs })
}

/// Two namespaces and the veth between them; removed when dropped.
struct Veth {
    hub: String,
    spoke: String,
}

impl Veth {
    fn make() -> Result<Self> {
        let tag = std::process::id();
        let veth = Self { hub: format!("bpb{tag}h"), spoke: format!("bpb{tag}s") };
        for space in [&veth.hub, &veth.spoke] {
            ip(&["netns", "add", space])?;
            ip(&["-n", space, "link", "set", "lo", "up"])?;
        }
        let (hub, spoke) = (veth.hub.as_str(), veth.spoke.as_str());
        ip(&["link", "add", "v1", "netns", spoke, "type", "veth", "peer", "name", "v1", "netns", hub])?;
        for (space, address) in [(hub, "10.99.1.2/24"), (spoke, "10.99.1.1/24")] {
            ip(&["-n", space, "addr", "add", address, "dev", "v1"])?;
            ip(&["-n", space, "link", "set", "v1", "up"])?;
        }
        Ok(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for space in [&self.hub, &self.spoke] {
            // One that was not made cannot be removed.
            let _ = ip(&["netns", "del", space]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let done =
        Command::new("ip").args(arguments).output().context("cannot run ip (Debian package iproute2)")?;
    if !done.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(())
}
