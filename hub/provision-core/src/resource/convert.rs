//! The same request in the words of engines and price lists. No conversion makes a request smaller.

use super::{GIB, MIB, ResourceSpec};

/// One line of the pricing engine's requirements: so many units of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PricingUnit {
    /// Kind, in the engine's spelling: `CPU`, `MemoryMB`, `StorageMB`, `NetworkEgressMB`, `GPU`.
    pub kind: &'static str,
    /// How many, rounded up.
    pub count: u64,
}

/// Requests and limits of a Kubernetes container, and the size of its volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesResources {
    /// Resource names and quantities; requests and limits are the same, so that the pod is of class `Guaranteed`.
    pub quantities: Vec<(&'static str, String)>,
    /// Size of its persistent volume claim.
    pub volume: String,
}

/// Limits of a container in the Docker Engine's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DockerLimits {
    /// Billionths of a processor (`NanoCpus`).
    pub nano_cpus: u64,
    /// Bytes of memory (`Memory`).
    pub memory_bytes: u64,
    /// Bytes of memory and swap together (`MemorySwap`): the same, so that there is no swap.
    pub memory_swap_bytes: u64,
    /// GPUs of its device request; 0 for none.
    pub gpus: u16,
}

/// Values of a control group, version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupLimits {
    /// `cpu.max`: microseconds of processor in each 100 ms.
    pub cpu_max: String,
    /// `memory.max`, in bytes.
    pub memory_max: u64,
}

impl ResourceSpec {
    /// What the pricing engine prices it by. Processors are whole there, so 1500 thousandths are 2.
    #[must_use]
    pub fn pricing_units(&self) -> Vec<PricingUnit> {
        let egress_mb = u64::from(self.egress_gib_month) * 1024;
        let gpus = self.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.count));
        [
            ("CPU", u64::from(self.cpu_millis).div_ceil(1000)),
            ("MemoryMB", self.memory_bytes.div_ceil(MIB)),
            ("StorageMB", self.storage_bytes.div_ceil(MIB)),
            ("NetworkEgressMB", egress_mb),
            ("GPU", gpus),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| PricingUnit { kind, count })
        .collect()
    }

    /// What a Kubernetes container asks for.
    #[must_use]
    pub fn kubernetes(&self) -> KubernetesResources {
        let mut quantities = vec![
            ("cpu", format!("{}m", self.cpu_millis)),
            ("memory", format!("{}Mi", self.memory_bytes.div_ceil(MIB))),
        ];
        if let Some(gpu) = &self.gpu {
            quantities.push(("nvidia.com/gpu", gpu.count.to_string()));
        }
        KubernetesResources { quantities, volume: format!("{}Gi", self.storage_bytes.div_ceil(GIB)) }
    }

    /// What the Docker Engine is told. Storage is not among it: most storage drivers refuse a size.
    #[must_use]
    pub fn docker(&self) -> DockerLimits {
        DockerLimits {
            nano_cpus: u64::from(self.cpu_millis) * 1_000_000,
            memory_bytes: self.memory_bytes,
            memory_swap_bytes: self.memory_bytes,
            gpus: self.gpu.as_ref().map_or(0, |gpu| gpu.count),
        }
    }

    /// What a control group is told.
    #[must_use]
    pub fn cgroup(&self) -> CgroupLimits {
        CgroupLimits {
            cpu_max: format!("{} 100000", u64::from(self.cpu_millis) * 100),
            memory_max: self.memory_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resource::GpuSpec;

    fn specs() -> impl Strategy<Value = ResourceSpec> {
        let gpu = proptest::option::of((1_u16..=64, 0_u32..=200_000));
        (10_u32..=1_024_000, 4 * MIB..1 << 50, MIB..1 << 50, gpu, 0_u32..=1_000_000).prop_map(
            |(cpu_millis, memory_bytes, storage_bytes, gpu, egress_gib_month)| ResourceSpec {
                cpu_millis,
                memory_bytes,
                storage_bytes,
                egress_gib_month,
                gpu: gpu.map(|(count, min_vram_mib)| GpuSpec { count, kind: None, min_vram_mib }),
                ..ResourceSpec::default()
            },
        )
    }

    fn number(text: &str, unit: &str) -> u64 {
        text.strip_suffix(unit).unwrap().parse().unwrap()
    }

    proptest! {
        #[test]
        fn no_conversion_makes_a_request_smaller(spec in specs()) {
            spec.check().unwrap();
            let gpus = spec.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.count));
            for unit in spec.pricing_units() {
                match unit.kind {
                    "CPU" => prop_assert!(unit.count * 1000 >= u64::from(spec.cpu_millis)),
                    "MemoryMB" => prop_assert!(unit.count * MIB >= spec.memory_bytes),
                    "StorageMB" => prop_assert!(unit.count * MIB >= spec.storage_bytes),
                    "NetworkEgressMB" => prop_assert!(unit.count >= u64::from(spec.egress_gib_month) * 1024),
                    "GPU" => prop_assert_eq!(unit.count, gpus),
                    other => prop_assert!(false, "{}", other),
                }
            }
            let pod = spec.kubernetes();
            prop_assert!(number(&pod.volume, "Gi") * GIB >= spec.storage_bytes);
            for (name, quantity) in &pod.quantities {
                match *name {
                    "cpu" => prop_assert!(number(quantity, "m") >= u64::from(spec.cpu_millis)),
                    "memory" => prop_assert!(number(quantity, "Mi") * MIB >= spec.memory_bytes),
                    _ => prop_assert_eq!(number(quantity, ""), gpus),
                }
            }
            let container = spec.docker();
            prop_assert!(container.nano_cpus >= u64::from(spec.cpu_millis) * 1_000_000);
            prop_assert!(container.memory_bytes >= spec.memory_bytes);
            prop_assert_eq!(u64::from(container.gpus), gpus);
            let group = spec.cgroup();
            prop_assert!(number(&group.cpu_max, " 100000") * 10 >= u64::from(spec.cpu_millis) * 1000);
            prop_assert!(group.memory_max >= spec.memory_bytes);
            let limits = spec.limits();
            limits.check().unwrap();
            prop_assert!(u64::from(limits.gpu_min_vram_gb) * 1024 >= spec.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.min_vram_mib)));
            let again = ResourceSpec::from(&limits);
            prop_assert!(again.cpu_millis >= spec.cpu_millis && again.memory_bytes >= spec.memory_bytes && again.storage_bytes >= spec.storage_bytes);
        }
    }
}
