//! Guests of QEMU: a disk image, its kernel and its initial file system beside it, and a network of QEMU's own that lets
//! nothing in.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::info;

use crate::folder::{Folder, Label};
use crate::network::{Addresses, Link};
use crate::nspawn::no_address;
use crate::process::Process;
use crate::run::run;

/// How long a guest may take to stop before it is cut off.
const STOP_WITHIN: Duration = Duration::from_secs(25);

/// How long a guest under KVM may take to say its first word.
const PROBE_WITHIN: Duration = Duration::from_secs(10);

const COMMAND_LINE: &str = "root=/dev/vda rootfstype=ext4 rw console=ttyS0 net.ifnames=0 quiet";

const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

const PROGRAM: &str = "qemu-system-x86_64";

/// How guests of a disk are run.
#[derive(Debug)]
pub(crate) struct Qemu {
    image: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    /// Addresses for guests, each of which then has a network of its own; `None` where this user cannot make one, and guests
    /// reach what the host reaches, its loopback addresses too.
    addresses: Option<Addresses>,
    /// Whether KVM runs a guest here, once that was tried.
    has_kvm: OnceCell<bool>,
}

impl Qemu {
    /// For the disk at `image`, `NAME.ext4` or `NAME.qcow2`; `NAME.vmlinuz` and `NAME.initrd` lie beside it.
    pub(crate) fn new(image: PathBuf, addresses: Option<Addresses>) -> Self {
        let (kernel, initrd) = (image.with_extension("vmlinuz"), image.with_extension("initrd"));
        Self { image, kernel, initrd, addresses, has_kvm: OnceCell::new() }
    }

    /// What is missing; `None` where all is there.
    pub(crate) fn missing(&self) -> Option<&Path> {
        [&self.image, &self.kernel, &self.initrd]
            .into_iter()
            .map(PathBuf::as_path)
            .find(|path| !path.is_file())
    }

    /// Puts the guest together, as far as it is not, and starts it.
    pub(crate) async fn power_on(
        &self,
        folder: &Folder,
        label: &Label,
        (vcpus, memory_mib): (u32, u64),
    ) -> io::Result<()> {
        let disk = folder.join("disk.qcow2");
        if !fs::try_exists(&disk).await? {
            let part = folder.join("disk.part");
            let format =
                if self.image.extension().is_some_and(|name| name == "qcow2") { "qcow2" } else { "raw" };
            let size = format!("{}G", label.disk_gb.max(1));
            let (image, made) = (self.image.display().to_string(), part.display().to_string());
            run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &image, "-F", format, &made, &size])
                .await?;
            fs::rename(&part, &disk).await?;
        }
        let accelerators: &[&str] =
            if self.has_kvm().await { &["-accel", "kvm"] } else { &["-accel", "tcg,thread=multi"] };
        let comma = |path: PathBuf| path.display().to_string().replace(',', ",,");
        let qmp = folder.join("qmp");
        let _ = fs::remove_file(&qmp).await;
        let mut program: Vec<OsString> = Vec::new();
        if let Some(addresses) = &self.addresses {
            let link = Link::new(folder.path(), addresses, label.index).ok_or_else(no_address)?;
            link.up().await?;
            program.extend(["nsenter".into(), format!("--net={}", link.namespace()).into(), "--".into()]);
        }
        program.push(PROGRAM.into());
        program.extend(["-machine", "q35", "-cpu", "max", "-nodefaults"].map(OsString::from));
        program.extend(["-display", "none", "-serial", "stdio"].map(OsString::from));
        program.extend(accelerators.iter().map(OsString::from));
        program.extend(["-smp".into(), vcpus.to_string().into()]);
        program.extend(["-m".into(), memory_mib.to_string().into()]);
        program.extend(["-kernel".into(), self.kernel.clone().into_os_string()]);
        program.extend(["-initrd".into(), self.initrd.clone().into_os_string()]);
        program.extend(["-append", COMMAND_LINE].map(OsString::from));
        // In this order: the first is the one that the guest boots from.
        let (disk, seed) = (comma(disk), comma(folder.seed()));
        let drive = format!("file={disk},if=none,id=disk,format=qcow2,discard=unmap");
        program.extend(["-drive".into(), drive.into()]);
        let seed = format!("driver=vvfat,node-name=seed,read-only=on,label=CIDATA,dir={seed}");
        program.extend(["-blockdev".into(), seed.into()]);
        program.extend(["-device", "virtio-blk-pci,drive=disk"].map(OsString::from));
        program.extend(["-device", "virtio-blk-pci,drive=seed"].map(OsString::from));
        program.extend(["-netdev", "user,id=net0"].map(OsString::from));
        program.extend(["-device", "virtio-net-pci,netdev=net0,romfile="].map(OsString::from));
        program.extend(["-device", "virtio-rng-pci"].map(OsString::from));
        program.extend(["-qmp".into(), format!("unix:{},server=on,wait=off", comma(qmp)).into()]);
        program.extend(["-sandbox", SANDBOX].map(OsString::from));
        Process::start(&program, &folder.process(), &folder.console()).await
    }

    /// Gives back what the host holds for the guest of this folder.
    pub(crate) async fn clean(&self, folder: &Folder) -> io::Result<()> {
        match &self.addresses {
            Some(_) => Link::down(&Link::name(folder.path())).await,
            None => Ok(()),
        }
    }

    /// Has the guest stop in its own way, and cuts it off where it does not.
    pub(crate) async fn power_off(folder: &Folder, process: Process) -> io::Result<()> {
        if press_power_button(&folder.join("qmp")).await.is_err() || !process.ended(STOP_WITHIN).await {
            Self::cut_off(process).await?;
        }
        Ok(())
    }

    /// Ends the guest at once.
    pub(crate) async fn cut_off(process: Process) -> io::Result<()> {
        process.signal(Signal::SIGKILL);
        if process.ended(Duration::from_secs(5)).await {
            return Ok(());
        }
        Err(io::Error::other(format!("process {} of the guest does not end", process.pid)))
    }

    /// Whether a guest gets as far as its first word under KVM: that `/dev/kvm` is there proves nothing.
    async fn has_kvm(&self) -> bool {
        *self
            .has_kvm
            .get_or_init(|| async {
                let works =
                    fs::metadata("/dev/kvm").await.is_ok() && self.boots_with_kvm().await.unwrap_or(false);
                info!(works, "tried a guest under KVM; without it guests are emulated, and slow");
                works
            })
            .await
    }

    async fn boots_with_kvm(&self) -> io::Result<bool> {
        let mut guest = Command::new(PROGRAM)
            .args(["-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "256", "-nodefaults"])
            .args(["-display", "none", "-no-reboot", "-serial", "stdio", "-append", "console=ttyS0 panic=-1"])
            .arg("-kernel")
            .arg(&self.kernel)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let Some(mut output) = guest.stdout.take() else { return Ok(false) };
        let first_word = async {
            let (mut said, mut piece) = (Vec::<u8>::new(), [0; 4096]);
            while !said.windows(13).any(|word| word == b"Linux version") {
                match output.read(&mut piece).await? {
                    0 => return Ok(false),
                    count => said.extend(piece.iter().take(count)),
                }
            }
            Ok::<_, io::Error>(true)
        };
        let works = timeout(PROBE_WITHIN, first_word).await.unwrap_or(Ok(false));
        guest.kill().await?;
        works
    }
}

/// Presses the guest's power button (QMP `system_powerdown`).
async fn press_power_button(socket: &Path) -> io::Result<()> {
    let press = async {
        let mut socket = UnixStream::connect(socket).await?;
        let mut answer = [0; 4096];
        // The greeting, and the answer to each command.
        for line in
            [&b""[..], b"{\"execute\":\"qmp_capabilities\"}\n", b"{\"execute\":\"system_powerdown\"}\n"]
        {
            socket.write_all(line).await?;
            if socket.read(&mut answer).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
        }
        Ok(())
    };
    timeout(Duration::from_secs(5), press).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
