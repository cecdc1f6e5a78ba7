//! A machine of the operator: real systemd and a real SSH server over an image, in a namespace of the lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab, Launch, Process, eventually_ok, scratch};
use tempfile::TempDir;

use crate::fixture::{CALL, SOON};

/// How long a machine may take to boot on a busy host.
const BOOT: Duration = Duration::from_secs(90);

/// What a machine changes by itself, and what of it is a log.
const OWN: [&str; 6] = ["var/log", "var/lib/systemd", "var/cache", "tmp", "var/tmp", "run"];

/// A pair of keys of OpenSSH, made in `folder`.
pub(super) fn key(folder: &Path, name: &str) -> Result<PathBuf> {
    let file = folder.join(name);
    let made =
        Launch::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(&file);
    let made = made.run(CALL)?;
    ensure!(made.code == Some(0), "{}", made.stderr);
    Ok(file)
}

/// The fingerprint of the public half beside `file`.
pub(super) fn fingerprint(file: &Path) -> Result<String> {
    let shown = Launch::new("ssh-keygen").arg("-lf").arg(file.with_extension("pub")).run(CALL)?;
    shown.stdout.split(' ').nth(1).map(str::to_owned).context("no fingerprint")
}

/// One machine; ends when dropped.
pub(super) struct Machine {
    pub(super) host: Host,
    /// The private half of its host key, for its fingerprint.
    pub(super) host_key: PathBuf,
    root: PathBuf,
    process: Process,
    _folder: TempDir,
}

impl Machine {
    /// Boots one that lets root in, and `ops` who may use sudo, with the key at `identity`.
    pub(super) fn boot(lab: &Lab, name: &str, image: &Path, identity: &Path) -> Result<Self> {
        let host = lab.host(name)?;
        let folder = scratch("own-host")?;
        let [upper, work, root] = ["upper", "work", "root"].map(|part| folder.path().join(part));
        for path in [&upper, &work, &root] {
            std::fs::create_dir_all(path)?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", image.display(), upper.display(), work.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &root.display().to_string()])?;
        let host_key = key(folder.path(), "host_key")?;
        let public = std::fs::read_to_string(identity.with_extension("pub"))?;
        let setup = format!(
            "set -eu; cd '{root}'; rm -f etc/ssh/ssh_host_*; cp '{key}' etc/ssh/ssh_host_ed25519_key; \
             cp '{key}.pub' etc/ssh/ssh_host_ed25519_key.pub; chmod 600 etc/ssh/ssh_host_ed25519_key; \
             chroot . useradd --create-home --shell /bin/sh ops; \
             for home in root home/ops; do mkdir -p -m 700 $home/.ssh; printf '%s' '{public}' >$home/.ssh/authorized_keys; done; \
             chroot . chown -R ops:ops /home/ops; \
             echo 'ops ALL=(root) NOPASSWD: ALL' >etc/sudoers.d/ops; chmod 440 etc/sudoers.d/ops; \
             : >etc/cloud/cloud-init.disabled; echo {name} >etc/hostname; rm -f etc/passwd- etc/shadow-",
            root = root.display(),
            key = host_key.display(),
        );
        run("sh", &["-c", &setup])?;
        let namespace = format!("--network-namespace-path=/run/netns/{}", host.namespace());
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
            .arg(format!("--machine={}", host.namespace()))
            .arg(namespace)
            .arg("--directory")
            .arg(&root)
            .start()?;
        let machine = Self { host, host_key, root, process, _folder: folder };
        eventually_ok(BOOT, "a machine that has booted", || {
            let state = machine.inside("systemctl is-system-running")?;
            ensure!(["running", "degraded"].contains(&state.trim()), "{state}");
            Ok(())
        })
        .with_context(|| machine.process.log())?;
        Ok(machine)
    }

    /// What a command says in the machine.
    pub(super) fn inside(&self, command: &str) -> Result<String> {
        let leader = format!("/proc/{0}/task/{0}/children", self.process.pid());
        let leader = std::fs::read_to_string(leader)?;
        let leader = leader.split_whitespace().next().context("no first process")?;
        let entered = Launch::new("nsenter")
            .args(["-t", leader, "-m", "-p", "-i", "-u", "-n", "--", "sh", "-c", command]);
        let said = entered.run(SOON)?;
        Ok(said.stdout + &said.stderr)
    }

    /// Every file with its kind, rights, owner and content, but logs and what the system changes by itself.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let prune: Vec<_> = OWN.iter().map(|path| format!("-path ./{path} -prune")).collect();
        let list = format!(
            "cd '{}' && find . -xdev \\( {} \\) -o \\( -type f \\( -path './etc/*' -o -path './var/*' -o -path './usr/local/*' -o \
             -path './home/*' -o -path './root/*' \\) -printf '%p %m %U:%G %s ' -exec sha256sum {{}} \\; \\) -o \
             -printf '%p %y %m %U:%G %l\\n'",
            self.root.display(),
            prune.join(" -o ")
        );
        let listed = Launch::new("sh").args(["-c", &list]).run(BOOT)?;
        ensure!(listed.code == Some(0), "{}", listed.stderr);
        // The copies that tools keep of the lists of users follow every change: that they are there or not is what counts.
        let is_copy = |path: &&str| path.starts_with("./etc/") && path.ends_with('-');
        let line = |line: &str| match line.split(' ').next().filter(is_copy) {
            Some(path) => path.to_owned(),
            None => line.to_owned(),
        };
        let mut lines: Vec<_> = listed.stdout.lines().map(line).collect();
        lines.sort();
        Ok(lines)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let pid = self.process.pid();
        let kill = format!("kill -KILL $(cat /proc/{pid}/task/{pid}/children)");
        let _ = Command::new("sh").args(["-c", &kill]).status();
        let _ = self.process.wait(Duration::from_secs(5));
        let _ = Command::new("umount").arg("--lazy").arg(&self.root).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let ran = Launch::new(program).args(arguments).run(SOON)?;
    ensure!(ran.code == Some(0), "{program}: {}{}", ran.stdout, ran.stderr);
    Ok(())
}
