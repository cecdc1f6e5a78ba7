//! GPUs: their kinds by all the names that clouds use, and slices of them.

use std::fmt;

/// A kind of GPU. A name that is not in the table is no kind: GPUs are never matched by a part of their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuKind(&'static str);

/// Kind, what people read, and the names that catalogues use for it.
const KINDS: &[(&str, &str, &[&str])] = &[
    ("a10", "NVIDIA A10", &["a10"]),
    ("a10g", "NVIDIA A10G", &["a10g"]),
    ("a16", "NVIDIA A16", &["a16"]),
    ("a40", "NVIDIA A40", &["a40"]),
    ("a100", "NVIDIA A100", &["a100", "a100-40gb", "a100-80gb", "nvidia-tesla-a100", "nvidia-a100-80gb"]),
    ("b200", "NVIDIA B200", &["b200"]),
    ("b300", "NVIDIA B300", &["b300"]),
    ("h100", "NVIDIA H100", &["h100", "h100 80gb", "h100-80gb", "h100 nvl"]),
    ("h200", "NVIDIA H200", &["h200"]),
    ("l4", "NVIDIA L4", &["l4", "nvidia-l4"]),
    ("l40s", "NVIDIA L40S", &["l40s"]),
    ("mi300x", "AMD MI300X", &["mi300x", "amd mi300x"]),
    ("p100", "NVIDIA P100", &["p100", "tesla p100"]),
    ("rtx-4090", "NVIDIA RTX 4090", &["rtx 4090", "rtx-4090", "geforce rtx 4090"]),
    // Turing, 24 GB; not the RTX 6000 Ada (48 GB), the RTX A6000 (48 GB) or the RTX PRO 6000 (96 GB).
    ("rtx-6000", "NVIDIA RTX 6000", &["rtx 6000", "rtx-6000", "quadro rtx 6000"]),
    ("rtx-6000-ada", "NVIDIA RTX 6000 Ada", &["rtx 6000 ada", "rtx-6000-ada", "rtx6000 ada"]),
    ("rtx-pro-4500", "NVIDIA RTX PRO 4500", &["rtx pro 4500", "rtx-pro-4500"]),
    ("rtx-pro-6000", "NVIDIA RTX PRO 6000", &["rtx pro server 6000", "rtx pro 6000", "rtx-pro-6000"]),
    ("t4", "NVIDIA T4", &["t4", "tesla t4", "nvidia-tesla-t4"]),
    ("t4g", "NVIDIA T4G", &["t4g"]),
    ("v100", "NVIDIA V100", &["v100", "tesla v100", "nvidia-tesla-v100"]),
];

impl GpuKind {
    /// The kind of this name, whatever its case, with or without `NVIDIA`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let bare = name.strip_prefix("nvidia ").unwrap_or(&name);
        let is_it = |names: &&[&str]| names.contains(&bare) || names.contains(&name.as_str());
        KINDS.iter().find(|(_, _, names)| is_it(names)).map(|(id, _, _)| Self(id))
    }

    /// Its name in specifications.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for GpuKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(KINDS.iter().find(|(id, _, _)| *id == self.0).map_or(self.0, |(_, shown, _)| shown))
    }
}

/// The GPUs of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Which.
    pub kind: GpuKind,
    /// How many, in thousandths: 250 is a quarter of one.
    pub count_millis: u32,
    /// Memory of each, or of the slice, in MiB.
    pub vram_mib: u32,
}

impl Gpu {
    /// So many whole ones.
    #[must_use]
    pub fn whole(kind: GpuKind, count: u16, vram_mib: u32) -> Self {
        Self { kind, count_millis: u32::from(count) * 1000, vram_mib }
    }

    /// True where it is at least one, and no slice.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.count_millis >= 1000 && self.count_millis.is_multiple_of(1000)
    }

    /// Whole GPUs; 0 for a slice.
    #[must_use]
    pub const fn count(&self) -> u32 {
        if self.is_whole() { self.count_millis / 1000 } else { 0 }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return write!(f, "{}x {}", self.count(), self.kind);
        }
        write!(f, "0.{:03}x {}", self.count_millis % 1000, self.kind)
    }
}

/// Kind, thousandths and memory of the GPUs of an Azure plan; the price list has only their number, and counts slices
/// as whole ones. `None` for what is no GPU, is retired, or is not known: cards with programmable gates, V100 and M60.
pub(super) fn of_azure(plan: &str, count: u32) -> Option<Gpu> {
    let gpu = |name: &str, count_millis, vram_mib| {
        GpuKind::named(name).map(|kind| Gpu { kind, count_millis, vram_mib })
    };
    let whole = count.saturating_mul(1000);
    match plan {
        "Standard_ND96asr_v4" if count > 0 => gpu("a100", whole, 40 * 1024),
        "Standard_NV6ads_A10_v5" => gpu("a10", 166, 4 * 1024),
        "Standard_NV12ads_A10_v5" => gpu("a10", 333, 8 * 1024),
        "Standard_NV18ads_A10_v5" => gpu("a10", 500, 12 * 1024),
        // The list does not say how many.
        _ if count == 0 => None,
        _ if plan.ends_with("_T4_v3") => gpu("t4", whole, 16 * 1024),
        _ if plan.ends_with("_A100_v4") => gpu("a100", whole, 80 * 1024),
        _ if plan.ends_with("_A10_v5") => gpu("a10", whole, 24 * 1024),
        _ if plan.ends_with("ds_H100_v5") || plan.ends_with("dis_H100_v5") => gpu("h100", whole, 94 * 1024),
        _ if plan.ends_with("_H100_v5") => gpu("h100", whole, 80 * 1024),
        _ if plan.ends_with("_H200_v5") => gpu("h200", whole, 141 * 1024),
        _ if plan.ends_with("_MI300X_v5") => gpu("mi300x", whole, 192 * 1024),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_their_whole_name() {
        for (name, kind) in [
            ("NVIDIA T4", Some("t4")),
            ("NVIDIA T4g", Some("t4g")),
            ("L4", Some("l4")),
            ("NVIDIA RTX PRO Server 6000", Some("rtx-pro-6000")),
            ("NVIDIA RTX 6000", Some("rtx-6000")),
            ("RTX 6000 Ada", Some("rtx-6000-ada")),
            ("NVIDIA Tesla V100", Some("v100")),
            ("rtx a6000", None),
            ("l", None),
            ("", None),
        ] {
            assert_eq!(GpuKind::named(name).map(GpuKind::as_str), kind, "{name}");
        }
        for (id, shown, _) in KINDS {
            assert_eq!(GpuKind::named(id).map(GpuKind::as_str), Some(*id));
            assert_eq!(GpuKind::named(shown).map(GpuKind::as_str), Some(*id));
        }
    }

    #[test]
    fn a_slice_is_no_gpu() {
        let kind = GpuKind::named("l4").unwrap();
        let slice = Gpu { kind, count_millis: 125, vram_mib: 2861 };
        assert_eq!((slice.count(), slice.to_string().as_str()), (0, "0.125x NVIDIA L4"));
        assert_eq!(Gpu::whole(kind, 4, 0).to_string(), "4x NVIDIA L4");
        assert!(of_azure("Standard_NP10s", 1).is_none());
        assert_eq!(of_azure("Standard_NC40ads_H100_v5", 1).map(|gpu| gpu.vram_mib), Some(94 * 1024));
    }
}
