//! What this machine has for workloads.

use std::fs;
use std::path::Path;

use blueprint_common_types::workload::{Inventory, MAX_SLOTS};

/// Longest name of a GPU that is told, in characters.
const MAX_MODEL: usize = 64;

/// Most GPUs that are named.
const MAX_MODELS: usize = 16;

/// Looks at processors, memory and the devices that GPUs' drivers make. Memory that cannot be read is taken to be enough.
#[must_use]
pub fn inventory() -> Inventory {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Inventory {
        cpu_millis: u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(1000),
        memory_bytes: memory_total().unwrap_or(u64::MAX),
        gpus: gpu_count(Path::new("/dev")),
        gpu_models: gpu_models(Path::new("/proc/driver/nvidia/gpus")),
        arch: std::env::consts::ARCH.to_owned(),
        slots: MAX_SLOTS,
    }
}

fn memory_total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// GPUs by the devices that their drivers make.
fn gpu_count(dev: &Path) -> u8 {
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let nvidia = fs::read_dir(dev).into_iter().flatten().flatten();
    let nvidia = nvidia.filter(|entry| is_gpu(&entry.file_name().to_string_lossy())).count();
    let is_render = |name: &str| name.starts_with("renderD");
    let render = fs::read_dir(dev.join("dri")).into_iter().flatten().flatten();
    let render = render.filter(|entry| is_render(&entry.file_name().to_string_lossy())).count();
    u8::try_from(nvidia.max(render)).unwrap_or(u8::MAX)
}

/// Models as NVIDIA's driver tells them, one file for each GPU; sorted.
fn gpu_models(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let model = |path: &Path| {
        let text = fs::read_to_string(path.join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().chars().filter(|c| !c.is_control()).take(MAX_MODEL).collect::<String>())
    };
    let mut models: Vec<String> = entries.filter_map(|entry| model(&entry.path())).take(MAX_MODELS).collect();
    models.sort();
    models
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

    #[test]
    fn gpus_are_counted_by_device_and_named_by_their_driver() {
        let dev = tempfile::tempdir().unwrap();
        for name in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"] {
            fs::write(dev.path().join(name), "").unwrap();
        }
        assert_eq!(gpu_count(dev.path()), 2);
        fs::create_dir(dev.path().join("dri")).unwrap();
        for name in ["card0", "renderD128", "renderD129", "renderD130"] {
            fs::write(dev.path().join("dri").join(name), "").unwrap();
        }
        assert_eq!(gpu_count(dev.path()), 3);
        assert_eq!(gpu_count(&dev.path().join("none")), 0);

        let proc = tempfile::tempdir().unwrap();
        for (slot, text) in [
            ("0000:01:00.0", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n"),
            ("0000:02:00.0", "Model: \t\t A\u{1b}[31m\n"),
            ("0000:03:00.0", "IRQ: 1\n"),
        ] {
            let folder = proc.path().join(slot);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("information"), text).unwrap();
        }
        assert_eq!(gpu_models(proc.path()), ["A[31m", "NVIDIA H100 80GB HBM3"]);
    }
}
