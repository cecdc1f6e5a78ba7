//! What is asked of an engine: the container of one workload.
//!
//! Every container has no more than its limits say, no capability, no way to new privileges, a root that cannot be
//! written, and ports on the loopback address alone. Arguments and variables are lists; no shell reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use blueprint_common_types::workload::{GpuPolicy, IoLimits, ResourceLimits, Sha256Digest};
use serde_json::{Value, json};

use super::network::Network;
use super::{EngineError, EngineInfo};

/// Label that says which agent made a container.
pub const NODE_LABEL: &str = "blueprint.node";

/// Label that says for which service: the name of the container.
pub const SERVICE_LABEL: &str = "blueprint.service";

/// Most bytes of `/tmp`, and of each volume of the image; they count as memory of the container, hence at most a
/// quarter of it, too.
const TMP_BYTES: u64 = 64 << 20;

/// A folder or a socket of the node that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its absolute path on the node. It has to be there; for a socket that is made anew at times, mount its folder.
    pub host: PathBuf,
    /// Its absolute path inside.
    pub inside: String,
    /// Whether the container can only read it.
    pub read_only: bool,
}

/// A name that a container can resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address; `None` for the node that the container runs on, as the container reaches it.
    pub address: Option<IpAddr>,
}

/// The container of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name on the engine, `svc-B-S`.
    pub name: String,
    /// Value of the label [`NODE_LABEL`]: it marks what this agent made.
    pub node: String,
    /// `REGISTRY/REPOSITORY`, without a tag.
    pub image: String,
    /// Digest of the image's manifest.
    pub digest: Sha256Digest,
    /// Arguments behind the image's entry point; those of the image where there are none.
    pub args: Vec<String>,
    /// Variables, above those of the image.
    pub env: BTreeMap<String, String>,
    /// What it may use. `storage_bytes` bounds the container's own files where the engine can, not what is mounted;
    /// `gpu_min_vram_gb` cannot be asked of an engine: compare it with the node's GPUs first.
    pub limits: ResourceLimits,
    /// Ids of the GPUs that it gets, as their driver knows them; as many as the limits ask for, whichever they are, where
    /// there are none.
    pub gpu_ids: Vec<String>,
    /// Devices of the node that it may use, at the same path.
    pub devices: Vec<PathBuf>,
    /// Device of the disk to which its limits of reading and writing belong; `None` for no such limits.
    pub disk: Option<PathBuf>,
    /// What it sees of the node.
    pub mounts: Vec<Mount>,
    /// TCP ports inside that the node reaches, each by a port of `127.0.0.1` that the engine chooses.
    pub ports: Vec<u16>,
    /// User and group it runs as; those of the image for `None`.
    pub user: Option<(u32, u32)>,
    /// Names beside those that its name server knows.
    pub extra_hosts: Vec<ExtraHost>,
}

/// What differs between engines, images and attempts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan<'a> {
    pub(super) info: &'a EngineInfo,
    /// Paths that the image declares as volumes.
    pub(super) volumes: &'a [String],
    /// The network it is put on; the engine's own for `None`.
    pub(super) network: Option<Network>,
    /// Whether GPUs are asked for.
    pub(super) with_gpus: bool,
}

impl ContainerSpec {
    /// The image by its digest.
    pub(super) fn reference(&self) -> String {
        reference(&self.image, &self.digest)
    }

    /// Checks everything that can be told without an engine.
    ///
    /// # Errors
    ///
    /// [`EngineError::Spec`] with the first part that no engine can take.
    pub fn check(&self) -> Result<(), EngineError> {
        let wrong = |field, reason: &str| {
            let name = self.name.chars().filter(|c| !c.is_control()).take(64).collect();
            Err(EngineError::Spec { name, field, reason: reason.to_owned() })
        };
        if !is_name(&self.name) {
            return wrong(
                "name",
                "has to be 2 to 64 letters, digits, '-', '_' and '.', a letter or digit first",
            );
        }
        if self.node.is_empty() || self.node.len() > 128 || self.node.contains(char::is_control) {
            return wrong("node", "has to be 1 to 128 characters");
        }
        if !is_image(&self.image) {
            return wrong("image", "has to be REGISTRY/REPOSITORY in lower case, without a tag");
        }
        if let Err(error) = self.limits.check() {
            return wrong("limits", &error.to_string());
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return wrong("args", "hold a zero byte");
        }
        let is_variable = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        if self.env.iter().any(|(name, value)| !is_variable(name) || value.contains('\0')) {
            return wrong("env", "has a name that is empty or holds '=', or a zero byte");
        }
        if self
            .gpu_ids
            .iter()
            .any(|id| id.is_empty() || id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-'))
        {
            return wrong("gpu_ids", "need letters, digits and '-'");
        }
        if self.ports.contains(&0) {
            return wrong("ports", "hold 0; give the port that the program listens on");
        }
        if self.mounts.iter().any(|mount| !mount.host.is_absolute() || !is_place(&mount.inside)) {
            return wrong("mounts", "need absolute paths without '..' on both sides, and not '/' inside");
        }
        if self.extra_hosts.iter().any(|host| !is_host(&host.name)) {
            return wrong("extra_hosts", "need names of letters, digits, '-' and '.'");
        }
        Ok(())
    }

    /// How many GPUs it asks for.
    pub(super) fn gpus(&self) -> u8 {
        match self.limits.gpu_policy {
            GpuPolicy::None => 0,
            GpuPolicy::Required | GpuPolicy::Preferred => self.limits.gpu_count,
        }
    }

    /// The body of `POST /containers/create`.
    pub(super) fn to_json(&self, plan: Plan<'_>) -> Value {
        let exposed: BTreeMap<String, Value> =
            self.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        json!({
            "Image": self.reference(),
            "Cmd": self.args,
            "Env": self.env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
            "User": self.user.map(|(user, group)| format!("{user}:{group}")).unwrap_or_default(),
            "Labels": { NODE_LABEL: self.node, SERVICE_LABEL: self.name },
            "ExposedPorts": exposed,
            "Tty": false,
            "OpenStdin": false,
            "HostConfig": self.host_config(plan),
        })
    }

    fn host_config(&self, plan: Plan<'_>) -> Value {
        let limits = &self.limits;
        let ports: BTreeMap<String, Value> = self
            .ports
            .iter()
            .map(|port| (format!("{port}/tcp"), json!([{ "HostIp": "127.0.0.1", "HostPort": "" }])))
            .collect();
        let node = plan.network.and_then(|network| network.gateway);
        let hosts = self.extra_hosts.iter().map(|host| match host.address.or(node) {
            Some(address) => format!("{}:{address}", host.name),
            None => format!("{}:host-gateway", host.name),
        });
        let mut config = json!({
            "NanoCpus": u64::from(limits.cpu_millis) * 1_000_000,
            "Memory": limits.memory_bytes,
            // Both bounds are of memory and swap together, so none of it is swap.
            "MemorySwap": limits.memory_bytes,
            "PidsLimit": limits.pids,
            "Privileged": false,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": true,
            "Tmpfs": { "/tmp": format!("rw,nosuid,nodev,noexec,mode=1777,size={}", self.tmp_bytes()) },
            "Mounts": self.mounts(plan.volumes),
            "Init": true,
            "RestartPolicy": { "Name": "no" },
            "AutoRemove": false,
            "LogConfig": log_config(plan.info.log_driver),
            "PortBindings": ports,
            "ExtraHosts": hosts.collect::<Vec<_>>(),
        });
        if let Some(config) = config.as_object_mut() {
            if plan.with_gpus {
                let request = if self.gpu_ids.is_empty() {
                    json!([{ "Driver": "", "Count": self.gpus(), "Capabilities": [["gpu"]] }])
                } else {
                    json!([{ "Driver": "", "DeviceIDs": self.gpu_ids, "Capabilities": [["gpu"]] }])
                };
                config.insert("DeviceRequests".to_owned(), request);
            }
            if !self.devices.is_empty() {
                let device = |path: &PathBuf| json!({ "PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw" });
                config.insert("Devices".to_owned(), self.devices.iter().map(device).collect());
            }
            if let Some(disk) = &self.disk {
                config.extend(disk_bounds(disk, &limits.io));
            }
            if let Some(network) = plan.network {
                config.insert("NetworkMode".to_owned(), json!(network.name));
            }
            if plan.info.bounds_storage {
                let size = json!({ "size": limits.storage_bytes.to_string() });
                config.insert("StorageOpt".to_owned(), size);
            }
        }
        config
    }

    fn tmp_bytes(&self) -> u64 {
        TMP_BYTES.min(self.limits.memory_bytes / 4)
    }

    /// The mounts; a volume of the image that none of them takes the place of is memory, because what the engine
    /// would make instead is a folder on its disk without a bound.
    fn mounts(&self, volumes: &[String]) -> Vec<Value> {
        let own = self.mounts.iter().map(|mount| {
            // The propagation is left to the engine: private, but for folders that it takes for parts of its own.
            json!({
                "Type": "bind", "Source": mount.host, "Target": mount.inside, "ReadOnly": mount.read_only,
            })
        });
        let is_ours = |volume: &str| {
            let same = |path: &str| path.trim_end_matches('/') == volume.trim_end_matches('/');
            same("/tmp") || self.mounts.iter().any(|mount| same(&mount.inside))
        };
        let rest = volumes.iter().filter(|volume| !is_ours(volume)).map(|volume| {
            let options = json!({ "SizeBytes": self.tmp_bytes(), "Mode": 0o1777 });
            json!({ "Type": "tmpfs", "Target": volume, "TmpfsOptions": options })
        });
        own.chain(rest).collect()
    }
}

/// The bounds of one disk, by the engine's names.
fn disk_bounds(disk: &Path, io: &IoLimits) -> Vec<(String, Value)> {
    let bounds = [
        ("BlkioDeviceReadBps", io.read_bytes),
        ("BlkioDeviceWriteBps", io.write_bytes),
        ("BlkioDeviceReadIOps", io.read_ops),
        ("BlkioDeviceWriteIOps", io.write_ops),
    ];
    let set = bounds.into_iter().filter(|(_, bound)| *bound > 0);
    set.map(|(name, bound)| (name.to_owned(), json!([{ "Path": disk, "Rate": bound }]))).collect()
}

/// Logs of the engine's own are for `Running::logs`; they hold 20 MiB at most.
fn log_config(driver: &str) -> Value {
    match driver {
        "k8s-file" => json!({ "Type": driver, "Config": { "max-size": "10m" } }),
        _ => json!({ "Type": driver, "Config": { "max-size": "10m", "max-file": "2" } }),
    }
}

/// An image by its digest, as engines write it.
pub(super) fn reference(image: &str, digest: &Sha256Digest) -> String {
    format!("{image}@sha256:{digest}")
}

/// A name that a path can hold as it is.
pub(super) fn is_name(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    starts && (2..=64).contains(&text.len()) && text.bytes().all(goes_on)
}

pub(super) fn is_image(text: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_/:".contains(&byte);
    let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let has_gap = text.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    text.len() <= 255 && text.bytes().all(is_char) && !has_tag && !has_gap
}

fn is_place(path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    path.starts_with('/') && !path.contains('\0') && parts.peek().is_some() && parts.all(|part| part != "..")
}

fn is_host(name: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    !name.is_empty() && name.len() <= 253 && name.bytes().all(is_char)
}

#[cfg(test)]
mod tests;
