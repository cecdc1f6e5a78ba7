//! What a service needs of a machine: one model for every cloud, engine and price list.

mod convert;
mod upstream;

use std::fmt;
use std::str::FromStr;

use blueprint_common_types::workload::{GpuPolicy, IoLimits, ResourceLimits};
use serde::{Deserialize, Serialize};

pub use convert::{CgroupLimits, DockerLimits, KubernetesResources, PricingUnit};
pub use upstream::ReadSpecError;

/// Bytes of a MiB.
pub(crate) const MIB: u64 = 1 << 20;
/// Bytes of a GiB.
pub(crate) const GIB: u64 = 1 << 30;

/// Kind of processor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Arch {
    /// 64-bit Intel and AMD.
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[serde(rename = "arm64")]
    Arm64,
}

impl Arch {
    /// Its name in catalogues.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text is not a kind of processor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kind of processor: x86_64 or arm64 was expected")]
pub struct ParseArchError(String);

impl FromStr for Arch {
    type Err = ParseArchError;

    fn from_str(text: &str) -> Result<Self, ParseArchError> {
        [Self::X86_64, Self::Arm64]
            .into_iter()
            .find(|arch| arch.as_str() == text)
            .ok_or_else(|| ParseArchError(text.chars().take(64).collect()))
    }
}

/// Processors that the artefact runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArchChoice {
    /// 64-bit Intel and AMD alone.
    #[default]
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit ARM alone.
    #[serde(rename = "arm64")]
    Arm64,
    /// Either.
    #[serde(rename = "any")]
    Any,
}

impl ArchChoice {
    /// Whether `arch` will do.
    #[must_use]
    pub const fn takes(self, arch: Arch) -> bool {
        matches!((self, arch), (Self::Any, _) | (Self::X86_64, Arch::X86_64) | (Self::Arm64, Arch::Arm64))
    }
}

/// How processors that are shared with others are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processors {
    /// Each as a whole one, however much of it is promised: what price lists do.
    #[default]
    Whole,
    /// Each as what is promised of it at all times; where nothing is promised, the machine does not do.
    Baseline,
    /// Machines whose processors are shared do not do.
    Dedicated,
}

impl Processors {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Baseline => "baseline",
            Self::Dedicated => "dedicated",
        }
    }
}

/// GPUs, all of one kind and each a whole one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuSpec {
    /// How many, from 1 to 64.
    pub count: u16,
    /// Kind as [`crate::catalogue::GpuKind`] names it, such as `l4` or `h100`; any where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Least memory of each, in MiB; 0 for any.
    #[serde(default)]
    pub min_vram_mib: u32,
}

/// What a service needs of a machine. Every number is a lower bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceSpec {
    /// Thousandths of a processor, from 10 to 1,024,000.
    pub cpu_millis: u32,
    /// Bytes of memory, from 4 MiB to 1 PiB.
    pub memory_bytes: u64,
    /// Bytes of storage, from 1 MiB to 1 PiB.
    pub storage_bytes: u64,
    /// GPUs; none where absent.
    pub gpu: Option<GpuSpec>,
    /// Mbit/s of network, at most 1,000,000; 0 for any.
    pub bandwidth_mbps: u32,
    /// GiB that it sends to the internet in a month, at most 1,000,000; counted in costs.
    pub egress_gib_month: u32,
    /// Whether the machine may be one that the provider takes back at any time.
    pub allow_spot: bool,
    /// Whether a processor that is only given its full speed for a while counts as a whole one.
    pub allow_burstable: bool,
    /// How processors that are shared with others are counted.
    pub processors: Processors,
    /// Processors that the artefact runs on.
    pub arch: ArchChoice,
    /// Region, area or country; anywhere where absent. [`crate::placement`] says how it is compared.
    pub region: Option<String>,
}

impl Default for ResourceSpec {
    /// The preset `basic`.
    fn default() -> Self {
        Self::of(1000, 2 * GIB, 20 * GIB)
    }
}

/// A specification that no machine can meet, or that says two things.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, and has to be {wanted}")]
pub struct SpecError {
    /// Which field.
    pub field: &'static str,
    /// What it is.
    pub value: String,
    /// What it has to be.
    pub wanted: &'static str,
}

impl ResourceSpec {
    /// Names of the presets, smallest first.
    pub const PRESETS: [&'static str; 5] = ["minimal", "basic", "recommended", "performance", "gpu"];

    fn of(cpu_millis: u32, memory_bytes: u64, storage_bytes: u64) -> Self {
        Self {
            cpu_millis,
            memory_bytes,
            storage_bytes,
            gpu: None,
            bandwidth_mbps: 0,
            egress_gib_month: 0,
            allow_spot: false,
            allow_burstable: true,
            processors: Processors::Whole,
            arch: ArchChoice::X86_64,
            region: None,
        }
    }

    /// The specification behind a preset's name; `None` where there is none of that name.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        Some(match name {
            "minimal" => Self { allow_spot: true, ..Self::of(500, 512 * MIB, 5 * GIB) },
            "basic" => Self::default(),
            "recommended" => Self::of(2000, 4 * GIB, 50 * GIB),
            "performance" => Self { allow_burstable: false, ..Self::of(8000, 16 * GIB, 200 * GIB) },
            "gpu" => Self {
                gpu: Some(GpuSpec { count: 1, kind: None, min_vram_mib: 0 }),
                allow_burstable: false,
                ..Self::of(4000, 16 * GIB, 100 * GIB)
            },
            _ => return None,
        })
    }

    /// Checks every bound.
    ///
    /// # Errors
    ///
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        fn within(
            field: &'static str,
            value: u64,
            bounds: (u64, u64),
            wanted: &'static str,
        ) -> Result<(), SpecError> {
            if (bounds.0..=bounds.1).contains(&value) {
                return Ok(());
            }
            Err(SpecError { field, value: value.to_string(), wanted })
        }
        const PIB: u64 = 1 << 50;
        within("cpu_millis", self.cpu_millis.into(), (10, 1_024_000), "from 10 to 1024000")?;
        within("memory_bytes", self.memory_bytes, (4 * MIB, PIB), "from 4 MiB to 1 PiB")?;
        within("storage_bytes", self.storage_bytes, (MIB, PIB), "from 1 MiB to 1 PiB")?;
        within("bandwidth_mbps", self.bandwidth_mbps.into(), (0, 1_000_000), "1000000 at most")?;
        within("egress_gib_month", self.egress_gib_month.into(), (0, 1_000_000), "1000000 at most")?;
        if let Some(gpu) = &self.gpu {
            within("gpu.count", gpu.count.into(), (1, 64), "from 1 to 64; leave out `gpu` for none")?;
            within("gpu.min_vram_mib", gpu.min_vram_mib.into(), (0, 1 << 20), "1048576 at most")?;
            if let Some(kind) = &gpu.kind
                && crate::catalogue::GpuKind::named(kind).is_none()
            {
                let wanted = "a kind of GPU that catalogues name, such as t4, l4, a100, h100";
                return Err(SpecError { field: "gpu.kind", value: kind.chars().take(40).collect(), wanted });
            }
        }
        if self.region.as_ref().is_some_and(|region| region.is_empty() || region.len() > 64) {
            let wanted = "1 to 64 characters; leave out `region` for anywhere";
            return Err(SpecError {
                field: "region",
                value: self.region.clone().unwrap_or_default(),
                wanted,
            });
        }
        Ok(())
    }

    /// The bounds that an agent holds a workload to; nothing of the request is lost but what limits do not know:
    /// network, region, processor and kind of GPU.
    #[must_use]
    pub fn limits(&self) -> ResourceLimits {
        let gpu = self.gpu.as_ref();
        ResourceLimits {
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            storage_bytes: self.storage_bytes,
            gpu_count: gpu.map_or(0, |gpu| u8::try_from(gpu.count).unwrap_or(u8::MAX)),
            gpu_policy: if gpu.is_some() { GpuPolicy::Required } else { GpuPolicy::None },
            gpu_min_vram_gb: gpu.map_or(0, |gpu| gpu.min_vram_mib.div_ceil(1024)),
            io: IoLimits::default(),
            ..ResourceLimits::default()
        }
    }
}

impl From<&ResourceLimits> for ResourceSpec {
    /// What a machine has to have for a workload with these limits.
    fn from(limits: &ResourceLimits) -> Self {
        let gpu = (limits.gpu_policy == GpuPolicy::Required).then(|| GpuSpec {
            count: limits.gpu_count.into(),
            kind: None,
            min_vram_mib: limits.gpu_min_vram_gb.saturating_mul(1024),
        });
        Self { gpu, ..Self::of(limits.cpu_millis, limits.memory_bytes, limits.storage_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_sound_and_grow() {
        let specs: Vec<_> =
            ResourceSpec::PRESETS.iter().map(|name| ResourceSpec::preset(name).unwrap()).collect();
        for spec in &specs {
            spec.check().unwrap();
            spec.limits().check().unwrap();
        }
        assert!(specs.iter().take(4).is_sorted_by_key(|spec| (spec.cpu_millis, spec.memory_bytes)));
        assert_eq!(ResourceSpec::preset("huge"), None);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let wrong = |change: &dyn Fn(&mut ResourceSpec)| {
            let mut spec = ResourceSpec::default();
            change(&mut spec);
            spec.check().unwrap_err()
        };
        assert_eq!(wrong(&|spec| spec.cpu_millis = 0).field, "cpu_millis");
        assert_eq!(wrong(&|spec| spec.memory_bytes = u64::MAX).field, "memory_bytes");
        assert_eq!(wrong(&|spec| spec.storage_bytes = 0).field, "storage_bytes");
        let gpu =
            |count, kind: Option<&str>| GpuSpec { count, kind: kind.map(str::to_owned), min_vram_mib: 0 };
        assert_eq!(wrong(&|spec| spec.gpu = Some(gpu(0, None))).field, "gpu.count");
        let error = wrong(&|spec| spec.gpu = Some(gpu(1, Some("rtx-9999"))));
        assert!(error.to_string().contains("rtx-9999"), "{error}");
        assert_eq!(wrong(&|spec| spec.region = Some(String::new())).field, "region");
    }
}
