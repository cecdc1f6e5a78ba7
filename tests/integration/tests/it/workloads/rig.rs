//! Nodes that run workloads, and a server of their artefacts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, binary, scratch};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::fixture::{Agent, Hub, text};

/// A node that has joined and runs workloads. Users of workloads pass its folders.
pub(crate) struct Node<'h> {
    pub(crate) agent: Agent<'h>,
    folder: TempDir,
}

impl<'h> Node<'h> {
    pub(crate) fn start(hub: &Hub<'_>, host: Option<&'h Host>, name: &str) -> Result<Self> {
        Self::start_with(hub, host, name, Path::new("/nonexistent/engine.sock"))
    }

    /// The same with more settings `KEY=VALUE` of its agent.
    pub(crate) fn start_set(
        hub: &Hub<'_>,
        host: Option<&'h Host>,
        name: &str,
        settings: &[&str],
    ) -> Result<Self> {
        Self::begin(hub, host, name, Path::new("/nonexistent/engine.sock"), settings)
    }

    /// The same with a container engine.
    pub(crate) fn start_with(
        hub: &Hub<'_>,
        host: Option<&'h Host>,
        name: &str,
        engine: &Path,
    ) -> Result<Self> {
        Self::begin(hub, host, name, engine, &[])
    }

    /// The same with a container engine and more settings.
    pub(crate) fn start_all(
        hub: &Hub<'_>,
        host: Option<&'h Host>,
        name: &str,
        engine: &Path,
        settings: &[&str],
    ) -> Result<Self> {
        Self::begin(hub, host, name, engine, settings)
    }

    fn begin(
        hub: &Hub<'_>,
        host: Option<&'h Host>,
        name: &str,
        engine: &Path,
        settings: &[&str],
    ) -> Result<Self> {
        Self::around(Agent::join(host, name, &hub.join_line(&[])?)?, engine, settings)
    }

    /// One that joins with this line on this machine.
    pub(crate) fn join(name: &str, line: &str) -> Result<Self> {
        Self::around(Agent::join(None, name, line)?, Path::new("/nonexistent/engine.sock"), &[])
    }

    fn around(agent: Agent<'h>, engine: &Path, settings: &[&str]) -> Result<Self> {
        let folder = scratch("workloads")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let setting = |name: &str| format!("workload.{name}_dir={}", folder.path().join(name).display());
        let engine = format!("workload.engine_socket={}", engine.display());
        let agent = agent.set("workload.testing=true").set(&setting("data")).set(&engine);
        let agent = settings.iter().fold(agent, |agent, setting| agent.set(setting));
        let mut node = Self { agent, folder };
        node.agent.run()?;
        Ok(node)
    }

    /// One whose agent has all that it keeps on a disk of so many MiB.
    pub(crate) fn start_on_small_disk(hub: &Hub<'_>, name: &str, mib: u32) -> Result<Self> {
        let folder = scratch("workloads")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let agent = Agent::join(None, name, &hub.join_line(&[])?)?.on_small_disk(mib);
        let mut node = Self { agent, folder };
        node.agent.run()?;
        Ok(node)
    }

    /// One whose agent's program lies in memory, page by page.
    pub(crate) fn start_in_memory(hub: &Hub<'_>, name: &str) -> Result<Self> {
        let agent = Agent::join(None, name, &hub.join_line(&[])?)?.with_program_in_memory();
        Self::around(agent, Path::new("/nonexistent/engine.sock"), &[])
    }

    /// One whose agent is an ordinary user.
    pub(crate) fn start_as(hub: &Hub<'_>, user: u32, name: &str) -> Result<Self> {
        let folder = scratch("workloads")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let data = folder.path().join("data");
        std::fs::create_dir(&data)?;
        std::os::unix::fs::chown(&data, Some(user), Some(user))?;
        let agent = Agent::join(None, name, &hub.join_line(&[])?)?.under_user(user)?;
        let agent = agent.set("workload.testing=true").set(&format!("workload.data_dir={}", data.display()));
        let mut node = Self { agent, folder };
        node.agent.run()?;
        Ok(node)
    }

    /// Adds a setting `KEY=VALUE` for the next start of its agent.
    pub(super) fn set(self, setting: &str) -> Self {
        Self { agent: self.agent.set(setting), folder: self.folder }
    }

    /// A program of its own: a script for the shell.
    pub(crate) fn script(&self, name: &str, lines: &[&str]) -> Result<String> {
        let path = self.folder("bin")?.join(name);
        std::fs::write(&path, ["#!/bin/sh"].iter().chain(lines).copied().collect::<Vec<_>>().join("\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path.display().to_string())
    }

    /// A folder of its own.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// Folders in which its agent keeps what workloads have, on the disk and in memory.
    pub(super) fn places(&mut self) -> Result<Vec<PathBuf>> {
        let short: String = self.agent.id().chars().take(8).collect();
        let memory = ["/run", "/dev/shm"].map(|base| Path::new(base).join("blueprint-agent").join(&short));
        let disk = [self.folder.path().join("data"), self.agent.own_folder()?.join("state-workloads")];
        Ok(memory.into_iter().chain(disk).collect())
    }

    /// Where something of its own lies, once it has made it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What its cache of artefacts holds.
    pub(crate) fn programs_in_cache(&self) -> Result<Vec<PathBuf>> {
        let cache = self.folder.path().join("data/artefacts");
        let entries = std::fs::read_dir(&cache).with_context(|| cache.display().to_string())?;
        let all = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let is_lock = |path: &PathBuf| path.file_name().is_some_and(|name| name == "lock");
        Ok(all.into_iter().filter(|path| !is_lock(path)).collect())
    }
}

/// The example, where everybody may run it.
pub(crate) fn program(node: &Node<'_>) -> Result<PathBuf> {
    let path = node.folder("bin")?.join("blueprint");
    std::fs::copy(binary("blueprint-example-service")?, &path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The example as a file that a server offers.
pub(crate) struct Artefact {
    address: SocketAddr,
    digest: String,
}

impl Artefact {
    /// Serves it on loopback until the test process ends.
    pub(crate) fn serve() -> Result<Self> {
        let program = std::fs::read(binary("blueprint-example-service")?)?;
        let digest = Sha256::digest(&program).iter().map(|byte| format!("{byte:02x}")).collect();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        std::thread::Builder::new().name("artefact".to_owned()).spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0u8; 4096];
                let _ = stream.read(&mut request);
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    program.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&program));
            }
        })?;
        Ok(Self { address, digest })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/blueprint", self.address)
    }

    pub(crate) fn sha256(&self) -> String {
        self.digest.clone()
    }

    /// Has the hub run it, and waits until it runs.
    pub(crate) fn run(&self, hub: &Hub<'_>, service: &str, options: &[&str]) -> Result<Value> {
        let url = self.url();
        let mut arguments = vec!["workload", "run", service, "--url", &url, "--sha256", &self.digest];
        arguments.extend(options);
        arguments.extend(["--wait", "8s"]);
        let shown = hub.json(&arguments)?;
        ensure!(text(&shown, "/state")? == "running", "{shown}");
        Ok(shown)
    }
}

/// Rights of a file or folder.
pub(crate) fn mode(path: &Path) -> Result<u32> {
    let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(metadata.permissions().mode() & 0o7777)
}

/// Whether it is on a file system in memory.
pub(crate) fn is_in_memory(path: &Path) -> Result<bool> {
    Ok(nix::sys::statfs::statfs(path)?.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}
