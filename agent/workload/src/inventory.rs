//! What this machine has for workloads.

use std::fs;
use std::path::Path;

use blueprint_common_types::workload::{Inventory, MAX_SLOTS};

use crate::gpu;

/// Most GPUs that are named.
const MAX_MODELS: usize = 16;

/// Looks at processors, memory and the devices that GPUs' drivers make. Memory that cannot be read is taken to be enough.
/// Whether limits are held is not looked at.
pub(crate) fn inventory() -> Inventory {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let gpus = gpu::find(Path::new("/"));
    let mut models: Vec<String> = gpus.iter().map(|gpu| gpu.model.clone()).collect();
    models.retain(|model| !model.is_empty());
    models.sort();
    models.truncate(MAX_MODELS);
    Inventory {
        cpu_millis: u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(1000),
        memory_bytes: memory_total().unwrap_or(u64::MAX),
        gpus: u8::try_from(gpus.len()).unwrap_or(u8::MAX),
        gpu_models: models,
        gpu_vram_bytes: gpus.iter().filter_map(|gpu| gpu.vram).take(MAX_MODELS).collect(),
        arch: std::env::consts::ARCH.to_owned(),
        slots: MAX_SLOTS,
        ..Inventory::default()
    }
}

fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_processors_and_memory() {
        let found = inventory();
        assert!(found.cpu_millis >= 1000 && found.memory_bytes > 1 << 20, "{found:?}");
        assert_eq!(found.arch, std::env::consts::ARCH);
    }
}
