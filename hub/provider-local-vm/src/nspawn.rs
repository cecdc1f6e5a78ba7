//! Machines of systemd-nspawn: real systemd and cloud-init over an image that is a folder, with this host's kernel.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::fs;

use crate::folder::{Folder, Label, write};
use crate::network::{Addresses, Link, resolv_conf};
use crate::process::Process;
use crate::run::run;

/// How long a machine may take to stop before it is cut off.
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// The signal by which systemd powers off (`systemd(1)`, SIGRTMIN+4), as `kill` names it.
const POWER_OFF: &str = "RTMIN+4";

/// How machines of a folder are run.
#[derive(Debug, Clone)]
pub(crate) struct Nspawn {
    /// The image.
    pub(crate) image: PathBuf,
    /// Addresses for machines.
    pub(crate) addresses: Addresses,
}

impl Nspawn {
    fn link(&self, folder: &Folder, label: &Label) -> io::Result<Link> {
        Link::new(folder.path(), &self.addresses, label.index).ok_or_else(no_address)
    }

    /// Puts the machine together, as far as it is not, and starts it.
    pub(crate) async fn power_on(&self, folder: &Folder, name: &str, label: &Label) -> io::Result<()> {
        let link = self.link(folder, label)?;
        let root = folder.join("root");
        self.mount_root(folder, &root).await?;
        link.up().await?;
        let mut program: Vec<OsString> = [
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--resolv-conf=off",
            "--link-journal=no",
            "--timezone=off",
            "--capability=CAP_NET_ADMIN",
            "--bind=/dev/net/tun",
            // Agents confine workloads with these, which version 252 shuts away.
            "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        ]
        .map(OsString::from)
        .into();
        program.push(format!("--machine={name}").into());
        program.push(format!("--network-namespace-path={}", link.namespace()).into());
        program.extend(["--directory".into(), root.into_os_string()]);
        Process::start(&program, &folder.process(), &folder.console()).await
    }

    /// Lays what the machine changes over the image.
    async fn mount_root(&self, folder: &Folder, root: &Path) -> io::Result<()> {
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        for path in [&upper, &work, &root.to_owned()] {
            fs::create_dir_all(path).await?;
        }
        // Once, and told by what the machine cannot change: from its first boot on nothing is written where its root may have
        // put links to files of this host.
        let seeded = folder.join("seeded");
        if !fs::try_exists(&seeded).await? {
            let seed = upper.join("var/lib/cloud/seed/nocloud");
            for (path, text) in [
                ("etc/cloud/cloud.cfg.d/99-network.cfg", "network: {config: disabled}\n".to_owned()),
                ("etc/resolv.conf", resolv_conf().await),
            ] {
                let path = upper.join(path);
                fs::create_dir_all(path.parent().unwrap_or(&upper)).await?;
                fs::write(path, text).await?;
            }
            fs::create_dir_all(&seed).await?;
            for name in ["user-data", "meta-data"] {
                write(&seed.join(name), &fs::read(folder.seed().join(name)).await?).await?;
            }
            write(&seeded, b"").await?;
        }
        // The only other copy; it held a join line.
        match fs::remove_file(folder.seed().join("user-data")).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if is_mounted(root).await? {
            return Ok(());
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            self.image.display(),
            upper.display(),
            work.display()
        );
        mount(Some("overlay"), root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|error| io::Error::other(format!("cannot mount {}: {error}", root.display())))
    }

    /// Has the machine stop in its own way, and cuts it off where it does not.
    pub(crate) async fn power_off(&self, process: Process) -> io::Result<()> {
        if let Some(leader) = process.leader() {
            run("kill", &["-s", POWER_OFF, &leader.to_string()]).await?;
        }
        if !process.ended(STOP_WITHIN).await {
            Self::cut_off(process).await?;
        }
        Ok(())
    }

    /// Ends the machine at once.
    pub(crate) async fn cut_off(process: Process) -> io::Result<()> {
        // With the first process of its namespace all others go.
        if let Some(leader) = process.leader().filter(|_| process.is_alive()) {
            let _ = kill(Pid::from_raw(leader), Signal::SIGKILL);
        }
        if !process.ended(Duration::from_secs(2)).await {
            process.signal(Signal::SIGKILL);
        }
        if process.ended(Duration::from_secs(5)).await {
            return Ok(());
        }
        Err(io::Error::other(format!("process {} of the machine does not end", process.pid)))
    }

    /// Gives back what the host holds for it.
    pub(crate) async fn clean(folder: &Folder) -> io::Result<()> {
        Link::down(&Link::name(folder.path())).await?;
        let root = folder.join("root");
        if is_mounted(&root).await? {
            umount2(&root, MntFlags::MNT_DETACH)
                .map_err(|error| io::Error::other(format!("cannot unmount {}: {error}", root.display())))?;
        }
        Ok(())
    }
}

pub(crate) fn no_address() -> io::Error {
    io::Error::other(
        "the subnet of local machines (providers.local_vm.subnet) has no address left for this one",
    )
}

async fn is_mounted(path: &Path) -> io::Result<bool> {
    // The table has no links in its paths, and blanks stand as \040.
    let path = match fs::canonicalize(path).await {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let wanted = path.display().to_string().replace(' ', "\\040");
    let table = fs::read_to_string("/proc/self/mounts").await?;
    Ok(table.lines().any(|line| line.split(' ').nth(1) == Some(wanted.as_str())))
}
