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
    /// Whether limits of processors, memory and processes hold for what is no container; `None` where its agent does not
    /// say.
    pub limits_held: Option<bool>,
    /// Where they do not: whether what asks for limits runs all the same, as the machine's owner allowed.
    pub runs_unlimited: bool,
    /// Bytes of memory of each GPU whose driver tells it.
    pub gpu_vram_bytes: Vec<u64>,
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
    /// GPUs with so many GiB of memory each; how many may have them.
    Vram(u8, u32, u8),
    /// A limit that nobody would hold.
    Unheld(&'static str),
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
            Self::Vram(wanted, gib, has) => write!(
                f,
                "it asks for {wanted} GPUs with {gib} GiB of memory each, this node has {has} that may have that"
            ),
            Self::Unheld(limit) => write!(
                f,
                "it asks for a limit ({limit}) that this node cannot hold: name other nodes, or set workload.allow_unlimited \
                 on this one"
            ),
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
        if wanted > self.gpus {
            return Some(Lack::Gpus(wanted, self.gpus));
        }
        let gib = limits.gpu_min_vram_gb;
        // What is not known may be enough: a driver that does not tell it is no reason to order machines.
        let small = self.gpu_vram_bytes.iter().filter(|bytes| **bytes < u64::from(gib) << 30).count();
        let may_fit = self.gpus.saturating_sub(u8::try_from(small).unwrap_or(u8::MAX));
        (gib > 0 && wanted > may_fit).then_some(Lack::Vram(wanted, gib, may_fit))
    }

    /// The limit that a workload asks for and the machine does not hold; engines hold those of containers.
    #[must_use]
    pub fn unheld(&self, limits: &ResourceLimits) -> Option<Lack> {
        let is_held = self.limits_held != Some(false) || self.runs_unlimited;
        limits.asked().filter(|_| !is_held).map(Lack::Unheld)
    }
}

impl ResourceLimits {
    /// The first limit of processors, memory, processes and disks that is not the usual one: somebody asked for it.
    #[must_use]
    pub fn asked(&self) -> Option<&'static str> {
        let usual = Self::default();
        let limits = [
            ("cpu_millis", self.cpu_millis != usual.cpu_millis),
            ("memory_bytes", self.memory_bytes != usual.memory_bytes),
            ("pids", self.pids != usual.pids),
            ("io", !self.io.is_open()),
        ];
        limits.into_iter().find_map(|(name, is_asked)| is_asked.then_some(name))
    }

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
    fn a_limit_that_was_asked_for_is_held_or_refused() {
        let asks = ResourceLimits { pids: 64, ..ResourceLimits::default() };
        let usual = ResourceLimits::default();
        let has =
            |limits_held, runs_unlimited| Inventory { limits_held, runs_unlimited, ..Inventory::default() };
        let refused = has(Some(false), false).unheld(&asks).unwrap().to_string();
        assert!(refused.contains("(pids)") && refused.contains("workload.allow_unlimited"), "{refused}");
        assert_eq!(has(Some(false), false).unheld(&usual), None, "nobody asked");
        for holds in [has(Some(true), false), has(Some(false), true), has(None, false)] {
            assert_eq!(holds.unheld(&asks), None, "{holds:?}");
        }
    }

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
        let vram = ResourceLimits { gpu_min_vram_gb: 24, ..fits };
        assert_eq!(has.lacks(&vram), None, "not known is not too little");
        let small = Inventory { gpu_vram_bytes: vec![16 << 30], ..has.clone() };
        assert_eq!(small.lacks(&vram), Some(Lack::Vram(1, 24, 0)));
        let said = "it asks for 1 GPUs with 24 GiB of memory each, this node has 0 that may have that";
        assert_eq!(small.lacks(&vram).unwrap().to_string(), said);
        let mixed = Inventory { gpus: 2, ..small.clone() };
        assert_eq!(mixed.lacks(&vram), None);
        assert_eq!(mixed.lacks(&ResourceLimits { gpu_count: 2, ..vram }), Some(Lack::Vram(2, 24, 1)));
        assert_eq!(Inventory { gpu_vram_bytes: vec![24 << 30], ..has.clone() }.lacks(&vram), None);
        let fast = ResourceLimits { cpu_millis: 2001, ..fits };
        assert_eq!(has.lacks(&fast), Some(Lack::Cpu(2001, 2000)));
        let large = ResourceLimits { memory_bytes: 5 << 30, ..fits };
        assert_eq!(
            has.lacks(&large).unwrap().to_string(),
            "it asks for 5120 MiB of memory, this node has 4096 MiB"
        );
    }
}
