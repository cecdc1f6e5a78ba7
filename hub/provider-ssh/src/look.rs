//! What a person sees of hosts: whether each can be used, and how large one is.

use std::path::{Path, PathBuf};

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::resource::Arch;
use futures_util::stream::{self, StreamExt};

use crate::error::HostError;
use crate::inventory::{Door, Inventory, OwnHost};
use crate::order;
use crate::probe::Found;
use crate::transport::{PROBE_WITHIN, Said, Ssh};

/// Hosts that are looked at or acted upon at once.
pub(crate) const AT_ONCE: usize = 32;

/// One host, as it answers now.
#[derive(Debug)]
pub struct HostLook {
    /// Which.
    pub host: OwnHost,
    /// The machine on it, by its key; `None` where it has none.
    pub machine: Option<String>,
    /// The hub that has claimed it.
    pub hub: Option<String>,
    /// Why it cannot be used, and what to do about it.
    pub problem: Option<HostError>,
}

/// How large a machine is, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Its own name.
    pub hostname: String,
    /// Processors.
    pub cpu: u32,
    /// MiB of memory.
    pub memory_mib: u64,
    /// GB of the disk that `/` is on.
    pub disk_gb: u32,
    /// Kind of processor; `None` for one that no agent is made for.
    pub arch: Option<Arch>,
    /// Name, number and MiB of the GPUs, where `nvidia-smi` tells them.
    pub gpu: Option<(String, u16, u32)>,
    /// What it lacks for a node.
    pub lacks: Vec<String>,
    /// Whether who logged in is root, or may become it.
    pub is_root: bool,
}

/// Looks at every host of an inventory; `folder` gets files of known hosts.
pub async fn check_hosts(inventory: &Inventory, folder: PathBuf) -> Vec<HostLook> {
    let ssh = Ssh::new(folder);
    let mut looks: Vec<_> = stream::iter(inventory.hosts().cloned())
        .map(|host| {
            let ssh = &ssh;
            async move {
                let found = probe(ssh, &host).await;
                let (claim, problem) = match found {
                    Ok(found) => (found.claim, found.unfit),
                    Err(error) => (None, Some(error)),
                };
                let claim = claim.map(|(claim, _)| claim);
                let hub = claim.as_ref().map(|claim| claim.tags.hub.to_string());
                HostLook { host, machine: claim.map(|claim| claim.key.to_string()), hub, problem }
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    looks.sort_by(|a, b| a.host.name().cmp(b.host.name()));
    looks
}

/// Asks a host what there is on it.
pub(crate) async fn probe(ssh: &Ssh, host: &OwnHost) -> Result<Found, HostError> {
    let said = ssh.run(host, &order::probe(false), false, PROBE_WITHIN).await?;
    Found::read(&said)
}

/// Asks the machine behind `door` for its size; `folder` gets a file of known hosts.
///
/// # Errors
///
/// [`HostError`] where it is not reached, is another than the pinned one, or answers nonsense.
pub async fn detect(door: &Door, folder: &Path) -> Result<Size, HostError> {
    let host = OwnHost {
        door: door.clone(),
        jump: None,
        cpu: 1,
        memory_mib: 256,
        disk_gb: 1,
        gpu: None,
        arch: Arch::X86_64,
        region: "own".to_owned(),
        price: Micros::ZERO,
        open_ports: Vec::new(),
    };
    let said = Ssh::new(folder.to_owned()).run(&host, &order::probe(true), false, PROBE_WITHIN).await?;
    size(&said).ok_or_else(|| HostError::Nonsense { said: "it does not tell its size".to_owned() })
}

fn size(said: &Said) -> Option<Size> {
    let number = |word: &str| said.word(word)?.parse::<u64>().ok();
    let plain = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(100).collect() };
    let gpus = said.all("gpu");
    let gpu = gpus.first().and_then(|line| line.rsplit_once(',')).and_then(|(name, vram)| {
        Some((plain(name.trim()), u16::try_from(gpus.len()).ok()?, vram.trim().parse().ok()?))
    });
    Some(Size {
        hostname: plain(said.word("hostname")?),
        cpu: u32::try_from(number("cpu")?).ok()?,
        memory_mib: number("memory_kib")? / 1024,
        disk_gb: u32::try_from(number("disk_kib")?.checked_mul(1024)? / 1_000_000_000).ok()?.max(1),
        arch: match said.word("arch")? {
            "x86_64" => Some(Arch::X86_64),
            "aarch64" => Some(Arch::Arm64),
            _ => None,
        },
        gpu,
        lacks: said.all("lacks").iter().map(|text| plain(text)).collect(),
        is_root: said.word("root")? != "no",
    })
}
