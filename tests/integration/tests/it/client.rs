//! `common/client`: a program that is a spoke of its own, its transports, and a hub as infrastructure.

mod infrastructure;
mod parity;
mod reach;
mod server;
mod watch;

use std::time::Duration;

use anyhow::{Context, Result};
use blueprint_common_client::{TunnelHandle, TunnelOptions};
use blueprint_tests_support::scratch;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use crate::fixture::{CALL, Hub, SOON};

/// Runs what a program does.
fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// A program that has joined, and its folder.
struct Program {
    tunnel: TunnelHandle,
    folder: TempDir,
}

impl Program {
    /// Joins as `name`, and waits until streams can be opened.
    async fn join(hub: &Hub<'_>, name: &str) -> Result<Self> {
        let folder = scratch("program")?;
        let line = hub.join_line(&[])?.trim().parse().context("the join line")?;
        let options = TunnelOptions::new(folder.path().join("spoke")).line(line).name(name);
        let tunnel = TunnelHandle::establish(options).await?;
        tunnel.ready(SOON).await?;
        Ok(Self { tunnel, folder })
    }

    /// What another handle on the same folder is made from.
    fn options(&self) -> TunnelOptions {
        TunnelOptions::new(self.folder.path().join("spoke"))
    }
}

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Tries again and again, until the first success or [`SOON`].
async fn soon<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let until = Instant::now() + SOON;
    loop {
        match probe().await {
            Ok(found) => return Ok(found),
            Err(error) if Instant::now() > until => return Err(error).with_context(|| what.to_owned()),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Stores the policy in which `from` may reach these TCP ports of `to`.
fn allow(hub: &Hub<'_>, from: &str, to: &str, ports: &[u16]) -> Result<()> {
    let ports: Vec<String> = ports.iter().map(|port| format!("\"tcp/{port}\"")).collect();
    let document = format!(
        "[[grant]]\nname = \"test\"\nfrom = [\"{from}\"]\nto = [\"{to}\"]\nallow = [{}]\n",
        ports.join(", ")
    );
    let set = hub.command(&["policy", "set", "-"])?.stdin(&document).run(CALL)?;
    anyhow::ensure!(set.code == Some(0), "{set:?}");
    Ok(())
}
