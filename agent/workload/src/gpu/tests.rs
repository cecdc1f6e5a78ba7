//! GPUs on folders that look like `/dev`, `/proc` and `/sys`.

use super::*;

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn nvidia(&self, number: u32, model: &str) {
        self.file(&format!("dev/nvidia{number}"), "");
        let about =
            format!("Model: \t\t {model}\nGPU UUID: \t GPU-0{number}ab-cd\nDevice Minor: \t {number}\n");
        self.file(&format!("proc/driver/nvidia/gpus/0000:0{number}:00.0/information"), &about);
    }

    fn render(&self, number: u32, driver: &str) {
        self.file(&format!("dev/dri/renderD{number}"), "");
        let device = self.0.path().join(format!("sys/class/drm/renderD{number}/device"));
        fs::create_dir_all(&device).unwrap();
        std::os::unix::fs::symlink(format!("../../bus/drivers/{driver}"), device.join("driver")).unwrap();
    }

    fn gpus(&self) -> Gpus {
        Gpus::new(self.0.path().to_owned())
    }
}

fn asks(gpu_count: u8, gpu_policy: GpuPolicy, gpu_min_vram_gb: u32) -> ResourceLimits {
    ResourceLimits { gpu_count, gpu_policy, gpu_min_vram_gb, ..ResourceLimits::default() }
}

#[test]
fn two_workloads_never_have_the_same_gpu() {
    let machine = Machine::new();
    machine.nvidia(0, "NVIDIA H100 80GB HBM3");
    machine.nvidia(1, "NVIDIA L4");
    for name in ["nvidiactl", "nvidia-uvm", "null"] {
        machine.file(&format!("dev/{name}"), "");
    }
    let (gpus, one) = (machine.gpus(), asks(1, GpuPolicy::Required, 0));
    let (first, second) = (gpus.take(&one).unwrap(), gpus.take(&one).unwrap());
    assert_eq!(
        (first.nvidia_ids(), second.nvidia_ids()),
        (vec!["GPU-00ab-cd".into()], vec!["GPU-01ab-cd".into()])
    );
    let seen = |lease: &GpuLease| {
        let all = lease.variables();
        [all["NVIDIA_VISIBLE_DEVICES"].clone(), all["CUDA_VISIBLE_DEVICES"].clone()]
    };
    assert_eq!(seen(&second), ["GPU-01ab-cd", "GPU-01ab-cd"]);
    let names: Vec<_> = second.devices().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["nvidia-uvm", "nvidia1", "nvidiactl"]);
    assert!(gpus.take(&one).unwrap_err().contains("1 GPUs, and 0 that fit are free"));
    let without = gpus.take(&asks(1, GpuPolicy::Preferred, 0)).unwrap();
    assert!(without.devices().is_empty() && seen(&without) == ["void", ""]);
    drop(first);
    assert_eq!(gpus.take(&one).unwrap().nvidia_ids(), ["GPU-00ab-cd"]);
    assert!(gpus.take(&asks(1, GpuPolicy::None, 0)).unwrap().devices().is_empty());
}

#[test]
fn memory_that_is_not_known_is_taken_last_and_too_little_never() {
    let machine = Machine::new();
    for (number, model) in ["NVIDIA Future", "NVIDIA A100-SXM4-40GB", "Tesla T4"].into_iter().enumerate() {
        machine.nvidia(u32::try_from(number).unwrap(), model);
    }
    let (gpus, large) = (machine.gpus(), asks(1, GpuPolicy::Required, 24));
    let first = gpus.take(&large).unwrap();
    assert_eq!(first.nvidia_ids(), ["GPU-01ab-cd"]);
    assert_eq!(gpus.take(&large).unwrap().nvidia_ids(), ["GPU-00ab-cd"]);
    let _second = gpus.take(&large).unwrap();
    assert!(gpus.take(&large).is_err(), "16 GiB are known to be too little");
    assert!(gpus.take(&asks(1, GpuPolicy::Preferred, 24)).unwrap().devices().is_empty());
}

#[test]
fn memory_is_known_by_the_whole_name_of_a_model() {
    for (model, gib) in [
        ("NVIDIA A100-SXM4-40GB", Some(40)),
        ("NVIDIA H100 80GB HBM3", Some(80)),
        ("Tesla V100-SXM2-16GB", Some(16)),
        ("Tesla T4", Some(16)),
        ("NVIDIA L4", Some(24)),
        ("NVIDIA L40S", Some(48)),
        ("NVIDIA A10G", Some(24)),
        ("NVIDIA GeForce RTX 4090", Some(24)),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L400", None),
        ("", None),
    ] {
        assert_eq!(vram_of(model), gib.map(|gib: u64| gib << 30), "{model}");
    }
}

#[test]
fn graphics_of_virtual_machines_are_no_gpus() {
    let machine = Machine::new();
    for (number, driver) in [(128, "virtio_gpu"), (129, "amdgpu"), (130, "nvidia"), (131, "vgem")] {
        machine.render(number, driver);
    }
    machine.file("dev/dri/renderD132", "");
    machine.file("dev/dri/card0", "");
    machine.file("sys/class/drm/renderD129/device/mem_info_vram_total", "17163091968\n");
    let found = find(machine.0.path());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].id.as_str(), found[0].model.as_str()), ("renderD129", "amdgpu"));
    assert_eq!(found[0].vram, Some(17_163_091_968));
    let lease = machine.gpus().take(&asks(1, GpuPolicy::Required, 8)).unwrap();
    assert!(lease.nvidia_ids().is_empty() && lease.variables().is_empty());
    assert_eq!(lease.other_devices()[0], machine.0.path().join("dev/dri/renderD129"));
    assert!(machine.gpus().take(&asks(1, GpuPolicy::Required, 16)).is_err());
}
