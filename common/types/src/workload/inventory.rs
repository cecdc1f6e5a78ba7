//! What a machine has for workloads.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GpuPolicy, ResourceLimits};

/// What a machine has in all, whoever uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// GPUs.
    pub gpus: u8,
    /// Their models, as the driver names them; empty where it does not.
    pub gpu_models: Vec<String>,
    /// Kind of processor, such as `x86_64`.
    pub arch: String,
    /// Instances of one service that it runs at once, as its agent says; 0 where it does not.
    pub slots: u8,
}

/// What of its limits a workload cannot have on a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Bytes of memory: asked for, and there.
    Memory(u64, u64),
    /// Thousandths of a processor.
    Cpu(u32, u32),
    /// GPUs.
    Gpus(u8, u8),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(wanted, has) => {
                write!(f, "it asks for {} MiB of memory, this node has {} MiB", wanted >> 20, has >> 20)
            }
            Self::Cpu(wanted, has) => {
                write!(f, "it asks for {wanted} thousandths of a processor, this node has {has}")
            }
            Self::Gpus(wanted, has) => write!(f, "it asks for {wanted} GPUs, this node has {has}"),
        }
    }
}

impl Inventory {
    /// The first thing that the machine has too little of for these limits, were it to run nothing else.
    #[must_use]
    pub fn lacks(&self, limits: &ResourceLimits) -> Option<Lack> {
        if limits.memory_bytes > self.memory_bytes {
            return Some(Lack::Memory(limits.memory_bytes, self.memory_bytes));
        }
        if limits.cpu_millis > self.cpu_millis {
            return Some(Lack::Cpu(limits.cpu_millis, self.cpu_millis));
        }
        let wanted = limits.required_gpus();
        (wanted > self.gpus).then_some(Lack::Gpus(wanted, self.gpus))
    }
}

impl ResourceLimits {
    /// GPUs without which it does not run.
    #[must_use]
    pub const fn required_gpus(&self) -> u8 {
        match self.gpu_policy {
            GpuPolicy::Required => self.gpu_count,
            GpuPolicy::None | GpuPolicy::Preferred => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_lacks_is_named_with_both_numbers() {
        let has = Inventory { cpu_millis: 2000, memory_bytes: 4 << 30, gpus: 1, ..Inventory::default() };
        let fits =
            ResourceLimits { gpu_count: 1, gpu_policy: GpuPolicy::Required, ..ResourceLimits::default() };
        assert_eq!(has.lacks(&fits), None);
        let two = ResourceLimits { gpu_count: 2, ..fits };
        assert_eq!(has.lacks(&two).unwrap().to_string(), "it asks for 2 GPUs, this node has 1");
        let preferred = ResourceLimits { gpu_policy: GpuPolicy::Preferred, ..two };
        assert_eq!(has.lacks(&preferred), None);
        let fast = ResourceLimits { cpu_millis: 2001, ..fits };
        assert_eq!(has.lacks(&fast), Some(Lack::Cpu(2001, 2000)));
        let large = ResourceLimits { memory_bytes: 5 << 30, ..fits };
        assert_eq!(
            has.lacks(&large).unwrap().to_string(),
            "it asks for 5120 MiB of memory, this node has 4096 MiB"
        );
    }
}
