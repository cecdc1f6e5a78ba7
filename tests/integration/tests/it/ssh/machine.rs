//! A machine of the operator: real systemd and a real SSH server over an image, in a namespace of the lab.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, Launch};

use crate::fixture::CALL;
use crate::machine::{self, BOOT, Disk};

/// Name of the file with the host key.
const HOST_KEY: &str = "host_key";

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
pub(super) struct Machine(machine::Machine);

impl std::ops::Deref for Machine {
    type Target = machine::Machine;

    fn deref(&self) -> &machine::Machine {
        &self.0
    }
}

impl Machine {
    /// Boots one that lets root in, and `ops` who may use sudo, with the key at `identity`.
    pub(super) fn boot(lab: &Lab, name: &str, image: &Path, identity: &Path) -> Result<Self> {
        let disk = Disk::mount(lab, name, image)?;
        let host_key = key(disk.folder(), HOST_KEY)?;
        let public = std::fs::read_to_string(identity.with_extension("pub"))?;
        disk.change(&format!(
            "rm -f etc/ssh/ssh_host_*; cp '{key}' etc/ssh/ssh_host_ed25519_key; \
             cp '{key}.pub' etc/ssh/ssh_host_ed25519_key.pub; chmod 600 etc/ssh/ssh_host_ed25519_key; \
             chroot . useradd --create-home --shell /bin/sh ops; \
             for home in root home/ops; do mkdir -p -m 700 $home/.ssh; printf '%s' '{public}' >$home/.ssh/authorized_keys; done; \
             chroot . chown -R ops:ops /home/ops; \
             echo 'ops ALL=(root) NOPASSWD: ALL' >etc/sudoers.d/ops; chmod 440 etc/sudoers.d/ops; \
             rm -f etc/passwd- etc/shadow-",
            key = host_key.display(),
        ))?;
        let machine = disk.boot()?;
        machine.wait()?;
        Ok(Self(machine))
    }

    /// The private half of its host key, for its fingerprint.
    pub(super) fn host_key(&self) -> PathBuf {
        self.folder().join(HOST_KEY)
    }

    /// Every file with its kind, rights, owner and content, but logs and what the system changes by itself.
    pub(super) fn files(&self) -> Result<Vec<String>> {
        let prune: Vec<_> = OWN.iter().map(|path| format!("-path ./{path} -prune")).collect();
        let list = format!(
            "cd '{}' && find . -xdev \\( {} \\) -o \\( -type f \\( -path './etc/*' -o -path './var/*' -o -path './usr/local/*' -o \
             -path './home/*' -o -path './root/*' \\) -printf '%p %m %U:%G %s ' -exec sha256sum {{}} \\; \\) -o \
             -printf '%p %y %m %U:%G %l\\n'",
            self.root().display(),
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
