//! A machine of nspawn in a namespace of the lab: real systemd over an image, which stays as it is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab, Launch, Process, eventually_ok, scratch};
use tempfile::TempDir;

use crate::fixture::SOON;

/// How long a machine may take to boot on a busy host.
pub(crate) const BOOT: Duration = Duration::from_secs(90);

/// The files of a machine that is not switched on.
pub(crate) struct Disk {
    host: Host,
    root: PathBuf,
    folder: TempDir,
    has_limit: bool,
}

impl Disk {
    /// What is written goes to a folder of its own.
    pub(crate) fn mount(lab: &Lab, name: &str, image: &Path) -> Result<Self> {
        Self::mount_within(lab, name, image, None)
    }

    /// The same, where no more than `room` can be written, as `mount` takes sizes.
    pub(crate) fn mount_within(lab: &Lab, name: &str, image: &Path, room: Option<&str>) -> Result<Self> {
        let host = lab.host(name)?;
        let folder = scratch("own-host")?;
        if let Some(room) = room {
            let path = folder.path().display().to_string();
            run("mount", &["-t", "tmpfs", "-o", &format!("size={room},mode=755"), "tmpfs", &path])?;
        }
        let [upper, work, root] = ["upper", "work", "root"].map(|part| folder.path().join(part));
        for path in [&upper, &work, &root] {
            std::fs::create_dir_all(path)?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", image.display(), upper.display(), work.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &root.display().to_string()])?;
        let disk = Self { host, root, folder, has_limit: room.is_some() };
        disk.change(&format!(": >etc/cloud/cloud-init.disabled; echo {name} >etc/hostname"))?;
        Ok(disk)
    }

    /// Runs a script of this host's shell in its root folder.
    pub(crate) fn change(&self, script: &str) -> Result<()> {
        run("sh", &["-c", &format!("set -eu; cd '{}'; {script}", self.root.display())])
    }

    /// A folder beside its root.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its place in the lab.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Switches it on.
    pub(crate) fn boot(self) -> Result<Machine> {
        let namespace = format!("--network-namespace-path=/run/netns/{}", self.host.namespace());
        let process = Launch::new("systemd-nspawn")
            .args([
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--resolv-conf=off",
                "--link-journal=no",
            ])
            .args(["--timezone=off", "--capability=CAP_NET_ADMIN", "--bind=/dev/net/tun"])
            .arg("--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self")
            .arg(format!("--machine={}", self.host.namespace()))
            .arg(namespace)
            .arg("--directory")
            .arg(&self.root)
            .start()?;
        Ok(Machine { process, disk: self })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.root).status();
        if self.has_limit {
            let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        }
    }
}

/// One machine that is switched on; ends when dropped.
pub(crate) struct Machine {
    process: Process,
    disk: Disk,
}

impl Machine {
    /// Waits until it has booted.
    pub(crate) fn wait(&self) -> Result<()> {
        eventually_ok(BOOT, "a machine that has booted", || {
            let state = self.inside("systemctl is-system-running")?;
            ensure!(["running", "degraded"].contains(&state.trim()), "{state}");
            Ok(())
        })
        .with_context(|| self.process.log())
    }

    /// Its place in the lab.
    pub(crate) fn host(&self) -> &Host {
        &self.disk.host
    }

    /// Its files, as this host sees them.
    pub(crate) fn root(&self) -> &Path {
        &self.disk.root
    }

    /// A folder beside its root.
    pub(crate) fn folder(&self) -> &Path {
        self.disk.folder()
    }

    /// What a command says in the machine.
    pub(crate) fn inside(&self, command: &str) -> Result<String> {
        self.inside_within(command, SOON)
    }

    /// The same for a command that takes its time.
    pub(crate) fn inside_within(&self, command: &str, within: Duration) -> Result<String> {
        let leader = self.leader()?;
        let entered = Launch::new("nsenter")
            .args(["-t", &leader, "-m", "-p", "-i", "-u", "-n", "--", "sh", "-c", command]);
        let said = entered.run(within)?;
        Ok(said.stdout + &said.stderr)
    }

    /// What its screen showed.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Whether it is on.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits until it has switched itself off.
    pub(crate) fn wait_end(&mut self, within: Duration) -> Result<()> {
        let ended = self.process.wait(within).map(drop);
        ended.with_context(|| self.process.log())
    }

    /// Gives one that was mounted within a room another one.
    pub(crate) fn grow(&self, room: &str) -> Result<()> {
        let path = self.folder().display().to_string();
        run("mount", &["-o", &format!("remount,size={room}"), &path])
    }

    fn leader(&self) -> Result<String> {
        let leader = format!("/proc/{0}/task/{0}/children", self.process.pid());
        let leader = std::fs::read_to_string(leader)?;
        Ok(leader.split_whitespace().next().context("no first process")?.to_owned())
    }

    /// Takes its power away: nothing in it hears of that.
    pub(crate) fn cut_power(&mut self) {
        // One that has ended already has no first process.
        let Ok(leader) = self.leader() else { return };
        let _ = Command::new("kill").args(["-KILL", &leader]).status();
        let _ = self.process.wait(Duration::from_secs(5));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut_power();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let ran = Launch::new(program).args(arguments).run(SOON)?;
    ensure!(ran.code == Some(0), "{program}: {}{}", ran.stdout, ran.stderr);
    Ok(())
}
