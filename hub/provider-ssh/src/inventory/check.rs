//! From what is written to hosts that can be used.
//!
//! Every text here becomes an argument of a program, so each is held to the few characters that it needs: none begins with a
//! `-`, and none holds what OpenSSH or a shell would expand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::catalogue::{Gpu, GpuKind};
use blueprint_hub_provision_core::resource::Arch;

use super::file::{HostFile, JumpFile, Written};
use super::{Door, MAX_HOSTS, OwnHost};
use crate::key::Pin;

type Refused<T> = Result<T, String>;

/// Judges all of it.
pub(super) fn check(written: Written) -> Result<BTreeMap<String, OwnHost>, Vec<String>> {
    let mut problems = Vec::new();
    let mut jumps = BTreeMap::new();
    for (line, jump) in written.jumps {
        let name = jump.name.clone();
        match door(jump) {
            Ok(door) if jumps.contains_key(&door.name) => {
                problems.push(format!("line {line}: jump host {name:?} is there twice"));
            }
            Ok(door) => {
                jumps.insert(name, door);
            }
            Err(why) => problems.push(format!("line {line}: jump host {name:?}: {why}")),
        }
    }
    let mut hosts: BTreeMap<String, OwnHost> = BTreeMap::new();
    let mut places = BTreeSet::new();
    if written.hosts.len() > MAX_HOSTS {
        problems.push(format!("{} hosts; at most {MAX_HOSTS} are used", written.hosts.len()));
    }
    for (line, host) in written.hosts.into_iter().take(MAX_HOSTS) {
        let name = host.name.clone();
        match own_host(host, &jumps) {
            Ok(host) => {
                let jump = host.jump.as_ref().map(|jump| jump.name.clone());
                if !places.insert((host.door.address.clone(), host.door.port, jump)) {
                    problems.push(format!(
                        "line {line}: host {name:?}: another one has its address and port; each machine is one host"
                    ));
                }
                if hosts.insert(name.clone(), host).is_some() {
                    problems.push(format!("line {line}: host {name:?} is there twice"));
                }
            }
            Err(why) => problems.push(format!("line {line}: host {name:?}: {why}")),
        }
    }
    if problems.is_empty() { Ok(hosts) } else { Err(problems) }
}

fn own_host(host: HostFile, jumps: &BTreeMap<String, Door>) -> Refused<OwnHost> {
    let jump = host.jump.as_ref().map(|name| {
        jumps.get(name).cloned().ok_or_else(|| format!("jump {name:?} is no [[jump]] of this file"))
    });
    let door = door(JumpFile {
        name: host.name.clone(),
        address: host.address.clone(),
        host_key: host.host_key.clone(),
        identity: host.identity.clone(),
        port: host.port,
        user: host.user.clone(),
    })?;
    let jump = jump.transpose()?;
    let needs_key = |door: &Door| matches!(door.pin, Pin::Fingerprint(_));
    if jump.is_some() && (needs_key(&door) || jump.as_ref().is_some_and(needs_key)) {
        return Err("with a jump host the whole key has to be written, not its fingerprint".to_owned());
    }
    let arch = host.arch.as_deref().unwrap_or("x86_64");
    let arch: Arch = arch.parse().map_err(|_| format!("arch {arch:?}: x86_64 or arm64 was expected"))?;
    within("cpu", u64::from(host.cpu), 1, 4096)?;
    within("memory_mib", host.memory_mib, 256, 64 * 1024 * 1024)?;
    within("disk_gb", u64::from(host.disk_gb), 1, 1_000_000)?;
    let region = host.region.clone().unwrap_or_else(|| "own".to_owned());
    if !is_label(&region) {
        return Err(format!("region {region:?}: 1 to 40 of a-z, 0-9 and '-' were expected"));
    }
    let price = host.price.as_deref().unwrap_or("0");
    let price: Micros = price
        .parse()
        .map_err(|_| format!("price {price:?}: dollars an hour such as \"0.05\" were expected"))?;
    if host.open_ports.len() > 32 || host.open_ports.contains(&0) {
        return Err("open_ports: at most 32 ports of 1 to 65535 were expected".to_owned());
    }
    Ok(OwnHost {
        door,
        jump,
        cpu: host.cpu,
        memory_mib: host.memory_mib,
        disk_gb: host.disk_gb,
        gpu: gpu(&host)?,
        arch,
        region,
        price,
        open_ports: host.open_ports,
    })
}

fn gpu(host: &HostFile) -> Refused<Option<Gpu>> {
    let Some(name) = &host.gpu else {
        return match host.gpu_count.or(host.gpu_vram_mib.map(|_| 1)) {
            None => Ok(None),
            Some(_) => Err("gpu_count and gpu_vram_mib need gpu, its kind".to_owned()),
        };
    };
    let kind = GpuKind::named(name)
        .ok_or_else(|| format!("gpu {name:?} is no kind that is known, such as h100 or l4"))?;
    let count = host.gpu_count.unwrap_or(1);
    within("gpu_count", count.into(), 1, 64)?;
    Ok(Some(Gpu::whole(kind, count, host.gpu_vram_mib.unwrap_or(0))))
}

fn door(written: JumpFile) -> Refused<Door> {
    let JumpFile { name, address, host_key, identity, port, user } = written;
    if !is_label(&name) {
        return Err("a name is 1 to 40 of a-z, 0-9 and '-', with no '-' at either end".to_owned());
    }
    check_address(&address)?;
    let user = user.unwrap_or_else(|| "root".to_owned());
    check_user(&user)?;
    if port == Some(0) {
        return Err("port 0: 1 to 65535 was expected".to_owned());
    }
    let pin = host_key.parse::<Pin>().map_err(|error| {
        format!("host_key {error}; `blueprint-hub host scan {address}` shows what the host has")
    })?;
    check_identity(&identity)?;
    Ok(Door { name, address, port: port.unwrap_or(22), user, pin, identity: PathBuf::from(identity) })
}

fn within(name: &str, value: u64, least: u64, most: u64) -> Refused<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{name} {value} is outside {least} to {most}"))
}

fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&text.len())
        && text.bytes().all(is_inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A host name, or an address without brackets.
pub(crate) fn check_address(text: &str) -> Refused<()> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    let is_address =
        (1..=253).contains(&text.len()) && text.bytes().all(is_inner) && !text.starts_with(['-', '.', ':']);
    // An address of IPv6 that begins with colons is read as one.
    if is_address || text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(());
    }
    Err(format!("address {text:?} is no host name or address, without user, port or brackets"))
}

/// A name to log in with.
pub(crate) fn check_user(text: &str) -> Refused<()> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=32).contains(&text.len()) && text.bytes().all(is_inner) && !text.starts_with(['-', '.']) {
        return Ok(());
    }
    Err(format!("user {text:?} is no name to log in with: letters, digits, '.', '_' and '-' were expected"))
}

/// A path that neither OpenSSH nor a shell makes anything else of.
pub(crate) fn check_identity(text: &str) -> Refused<()> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+@=-".contains(&byte);
    if text.starts_with('/') && text.len() < 1024 && text.bytes().all(is_inner) {
        return Ok(());
    }
    Err(format!(
        "identity {text:?} is no whole path of letters, digits and /._+@=-, such as /etc/blueprint-hub/id_ed25519"
    ))
}
