//! GPUs of this machine: found by what their drivers make, and each given to one workload at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blueprint_common_types::workload::{GpuPolicy, ResourceLimits};
use parking_lot::Mutex;

/// Longest name of a model that is told, in characters.
const MAX_MODEL: usize = 64;

/// Drivers of graphics that compute nothing: those of virtual machines, and of the processors that only watch servers.
const NO_GPUS: [&str; 13] = [
    "virtio_gpu",
    "virtio-pci",
    "vgem",
    "vkms",
    "bochs-drm",
    "cirrus",
    "qxl",
    "vmwgfx",
    "hyperv_drm",
    "simpledrm",
    "simple-framebuffer",
    "ast",
    "mgag200",
];

/// Whose GPU it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Maker {
    /// NVIDIA's driver, which knows GPUs by ids of its own.
    Nvidia,
    /// Any other: known by its render node.
    Other,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) maker: Maker,
    /// What the driver's tools know it by: the UUID where that is told, else the number.
    pub(crate) id: String,
    /// Empty where the driver does not say.
    pub(crate) model: String,
    /// Bytes of its memory, where they are told.
    pub(crate) vram: Option<u64>,
    /// Its device.
    pub(crate) device: PathBuf,
}

/// Looks for all below the root of a file system.
pub(crate) fn find(root: &Path) -> Vec<Gpu> {
    let known = nvidia_known(&root.join("proc/driver/nvidia/gpus"));
    let mut all: Vec<Gpu> = numbered(&root.join("dev"), "nvidia")
        .map(|(number, device)| match known.get(&number) {
            Some((id, model)) => Gpu {
                maker: Maker::Nvidia,
                id: id.clone(),
                model: model.clone(),
                vram: vram_of(model),
                device,
            },
            None => {
                Gpu { maker: Maker::Nvidia, id: number.to_string(), model: String::new(), vram: None, device }
            }
        })
        .collect();
    for (number, device) in numbered(&root.join("dev/dri"), "renderD") {
        let about = root.join(format!("sys/class/drm/renderD{number}/device"));
        let driver = fs::read_link(about.join("driver")).ok();
        let driver =
            driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        // NVIDIA's are counted above; where no driver says that it is one, it is none.
        let is_gpu = |driver: &String| !driver.starts_with("nvidia") && !NO_GPUS.contains(&driver.as_str());
        if let Some(driver) = driver.filter(is_gpu) {
            let vram = fs::read_to_string(about.join("mem_info_vram_total")).ok();
            let vram = vram.and_then(|text| text.trim().parse().ok());
            all.push(Gpu {
                maker: Maker::Other,
                id: format!("renderD{number}"),
                model: driver,
                vram,
                device,
            });
        }
    }
    all
}

/// Devices of a folder whose names are this and a number, in order.
fn numbered(folder: &Path, prefix: &str) -> impl Iterator<Item = (u32, PathBuf)> + use<> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(prefix).filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.insert(number, entry.path());
        }
    }
    found.into_iter()
}

/// What NVIDIA's driver tells of each, by the number of its device: id and model.
fn nvidia_known(folder: &Path) -> BTreeMap<u32, (String, String)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |path: &Path| {
        let text = fs::read_to_string(path.join("information")).ok()?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().chars().filter(|c| !c.is_control()).take(MAX_MODEL).collect::<String>())
        };
        let number: u32 = field("Device Minor:")?.parse().ok()?;
        let is_id = |id: &String| {
            id.starts_with("GPU-") && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let id = field("GPU UUID:").filter(is_id).unwrap_or_else(|| number.to_string());
        Some((number, (id, field("Model:").unwrap_or_default())))
    };
    entries.filter_map(|entry| read(&entry.path())).collect()
}

/// GiB of memory of models that were made with one size alone and do not name it, by the whole name.
const VRAM: [(&str, u64); 28] = [
    ("T4", 16),
    ("T4G", 16),
    ("P4", 8),
    ("P40", 24),
    ("A2", 16),
    ("A10", 24),
    ("A10G", 24),
    ("A16", 16),
    ("A30", 24),
    ("A40", 48),
    ("L4", 24),
    ("L40", 48),
    ("L40S", 48),
    ("H200", 141),
    ("RTX A4000", 16),
    ("RTX A5000", 24),
    ("RTX A6000", 48),
    ("RTX 4000 Ada Generation", 20),
    ("RTX 5000 Ada Generation", 32),
    ("RTX 6000 Ada Generation", 48),
    ("Quadro RTX 6000", 24),
    ("Quadro RTX 8000", 48),
    ("RTX 3090", 24),
    ("RTX 3090 Ti", 24),
    ("RTX 4080", 16),
    ("RTX 4090", 24),
    ("RTX 5080", 16),
    ("RTX 5090", 32),
];

/// Memory that a model's name tells, such as `NVIDIA A100-SXM4-40GB`, or that all of that name have; the driver tells it to
/// its own tools alone. Those of more than one size, such as the V100, are not known where the name does not say.
fn vram_of(model: &str) -> Option<u64> {
    let mut words = model.split(|c: char| c.is_whitespace() || c == '-');
    let named = words.find_map(|word| word.strip_suffix("GB")?.parse::<u64>().ok());
    let bare = ["NVIDIA ", "Tesla ", "GeForce "]
        .iter()
        .fold(model.trim(), |model, maker| model.strip_prefix(maker).unwrap_or(model));
    let known = || VRAM.iter().find_map(|(name, gib)| (*name == bare).then_some(*gib));
    let gib = named.or_else(known)?;
    (gib <= 4096).then_some(gib << 30)
}

/// Who has which GPU of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Gpus {
    root: PathBuf,
    held: Arc<Mutex<BTreeSet<PathBuf>>>,
}

/// The GPUs of one workload; nobody else gets them until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct GpuLease {
    gpus: Vec<Gpu>,
    /// Whether the machine has some of NVIDIA's, of which others are to be hidden.
    hides: bool,
    held: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Gpus {
    /// Those of the machine whose root this is.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, held: Arc::default() }
    }

    /// Takes as many as a workload asks for, or none. Memory that is not known is taken to be enough, where no other will do.
    ///
    /// # Errors
    ///
    /// One line where it cannot do without, and not so many are free.
    pub(crate) fn take(&self, limits: &ResourceLimits) -> Result<GpuLease, String> {
        let wanted = match limits.gpu_policy {
            GpuPolicy::None => 0,
            GpuPolicy::Required | GpuPolicy::Preferred => usize::from(limits.gpu_count),
        };
        let least = u64::from(limits.gpu_min_vram_gb) << 30;
        let mut held = self.held.lock();
        let fits = |gpu: &Gpu| gpu.vram.is_none_or(|vram| vram >= least);
        let all = find(&self.root);
        let hides = all.iter().any(|gpu| gpu.maker == Maker::Nvidia);
        let free = all.into_iter().filter(|gpu| fits(gpu) && !held.contains(&gpu.device));
        let mut free: Vec<Gpu> = free.collect();
        free.sort_by_key(|gpu| least > 0 && gpu.vram.is_none());
        // Of one maker: no program drives two.
        let maker = [Maker::Nvidia, Maker::Other]
            .into_iter()
            .find(|maker| free.iter().filter(|gpu| gpu.maker == *maker).count() >= wanted);
        match maker {
            Some(maker) => free.retain(|gpu| gpu.maker == maker),
            None if limits.gpu_policy == GpuPolicy::Preferred => free.clear(),
            None => {
                let fit = free.len();
                return Err(format!("it asks for {wanted} GPUs, and {fit} that fit are free on this node"));
            }
        }
        free.truncate(wanted);
        for gpu in free.iter().filter(|gpu| least > 0 && gpu.vram.is_none()) {
            let (id, model, gib) = (&gpu.id, &gpu.model, limits.gpu_min_vram_gb);
            tracing::warn!(
                id,
                model,
                gib,
                "a workload asks for GPUs with so much memory; how much this one has is not known"
            );
        }
        held.extend(free.iter().map(|gpu| gpu.device.clone()));
        Ok(GpuLease { gpus: free, hides, held: Arc::clone(&self.held) })
    }
}

impl GpuLease {
    /// Those of one maker.
    fn of(&self, maker: Maker) -> impl Iterator<Item = &Gpu> {
        self.gpus.iter().filter(move |gpu| gpu.maker == maker)
    }

    /// Ids of NVIDIA's.
    pub(crate) fn nvidia_ids(&self) -> Vec<String> {
        self.of(Maker::Nvidia).map(|gpu| gpu.id.clone()).collect()
    }

    /// Devices of others, and of what they compute with.
    pub(crate) fn other_devices(&self) -> Vec<PathBuf> {
        let own: Vec<PathBuf> = self.of(Maker::Other).map(|gpu| gpu.device.clone()).collect();
        let shared = PathBuf::from("/dev/kfd");
        let shared = Some(shared).filter(|path| !own.is_empty() && path.exists());
        own.into_iter().chain(shared).collect()
    }

    /// Devices that a process may use: its own, and what the driver shares among all.
    pub(crate) fn devices(&self) -> Vec<PathBuf> {
        let mut all = self.other_devices();
        for gpu in self.of(Maker::Nvidia) {
            let shared = gpu.device.parent().and_then(|folder| fs::read_dir(folder).ok());
            let shared = shared.into_iter().flatten().flatten().filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let rest = name.strip_prefix("nvidia");
                rest.is_some_and(|rest| !rest.bytes().next().is_some_and(|byte| byte.is_ascii_digit()))
            });
            all.extend(shared.map(|entry| entry.path()));
            all.push(gpu.device.clone());
        }
        all.sort();
        all.dedup();
        all
    }

    /// Variables by which NVIDIA's programs and libraries see these and no others; none where the machine has none.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let ids = self.nvidia_ids().join(",");
        let none = if ids.is_empty() { "void".to_owned() } else { ids.clone() };
        let all = [("NVIDIA_VISIBLE_DEVICES", none), ("CUDA_VISIBLE_DEVICES", ids)];
        all.into_iter().filter(|_| self.hides).map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Drop for GpuLease {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        for gpu in &self.gpus {
            held.remove(&gpu.device);
        }
    }
}

#[cfg(test)]
mod tests;
