//! What a workload may use.

use serde::{Deserialize, Serialize};

/// Whether a workload runs without the GPUs that it asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuPolicy {
    /// It asks for none.
    #[default]
    None,
    /// It does not.
    Required,
    /// It does, where there are none.
    Preferred,
}

/// Upper bounds of one workload, as the Blueprint Manager has them; each is a promise of the machine's too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceLimits {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of its data folder.
    pub storage_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// GPUs.
    pub gpu_count: u8,
    /// Whether it runs without them.
    pub gpu_policy: GpuPolicy,
    /// Least memory of each GPU, in GiB; 0 for any.
    pub gpu_min_vram_gb: u32,
    /// What it may read and write of the disk of its data. Left out where nothing is bounded, so that older agents read the
    /// rest.
    #[serde(skip_serializing_if = "IoLimits::is_open")]
    pub io: IoLimits,
}

/// How fast a workload may read and write the disk that its data is on; 0 for as fast as that is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoLimits {
    /// Bytes read a second.
    pub read_bytes: u64,
    /// Bytes written a second.
    pub write_bytes: u64,
    /// Reads a second.
    pub read_ops: u64,
    /// Writes a second.
    pub write_ops: u64,
}

impl IoLimits {
    /// Whether nothing is bounded.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it bounds what is written.
    #[must_use]
    pub const fn bounds_writes(&self) -> bool {
        self.write_bytes > 0 || self.write_ops > 0
    }

    fn check(&self) -> Result<(), LimitsError> {
        const BYTES: &str = "0 for no bound, or from 65536 to 1099511627776 a second";
        const OPS: &str = "0 for no bound, or from 16 to 1000000000 a second";
        for (field, value, bounds, wanted) in [
            ("io.read_bytes", self.read_bytes, (1 << 16, 1 << 40), BYTES),
            ("io.write_bytes", self.write_bytes, (1 << 16, 1 << 40), BYTES),
            ("io.read_ops", self.read_ops, (16, 1_000_000_000), OPS),
            ("io.write_ops", self.write_ops, (16, 1_000_000_000), OPS),
        ] {
            if value > 0 && !(bounds.0..=bounds.1).contains(&value) {
                return Err(LimitsError { field, value, wanted });
            }
        }
        Ok(())
    }
}

impl Default for ResourceLimits {
    /// The Manager's: 2 processors, 4 GiB, 20 GiB, no GPU; and 1024 processes.
    fn default() -> Self {
        Self {
            cpu_millis: 2000,
            memory_bytes: 4 << 30,
            storage_bytes: 20 << 30,
            pids: 1024,
            gpu_count: 0,
            gpu_policy: GpuPolicy::None,
            gpu_min_vram_gb: 0,
            io: IoLimits::default(),
        }
    }
}

/// A limit that no process can live in, or that says two things.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, and has to be {wanted}")]
pub struct LimitsError {
    /// Which.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// What it has to be.
    pub wanted: &'static str,
}

impl ResourceLimits {
    /// Checks what can be told without the machine.
    ///
    /// # Errors
    ///
    /// The first limit that no process can live in.
    pub fn check(&self) -> Result<(), LimitsError> {
        const MIB: u64 = 1 << 20;
        const PIB: u64 = 1 << 50;
        let wrong = |field, value, wanted| Err(LimitsError { field, value, wanted });
        if !(10..=1_024_000).contains(&self.cpu_millis) {
            return wrong("cpu_millis", self.cpu_millis.into(), "from 10 to 1024000");
        }
        if !(4 * MIB..=PIB).contains(&self.memory_bytes) {
            return wrong("memory_bytes", self.memory_bytes, "from 4 MiB to 1 PiB");
        }
        if !(MIB..=PIB).contains(&self.storage_bytes) {
            return wrong("storage_bytes", self.storage_bytes, "from 1 MiB to 1 PiB");
        }
        if !(4..=4_194_304).contains(&self.pids) {
            return wrong("pids", self.pids.into(), "from 4 to 4194304");
        }
        let asks = self.gpu_policy != GpuPolicy::None;
        if asks != (self.gpu_count > 0) {
            let wanted = "above 0 with the GPU policies required and preferred, and 0 with none";
            return wrong("gpu_count", self.gpu_count.into(), wanted);
        }
        if self.gpu_min_vram_gb > 0 && !asks {
            return wrong("gpu_min_vram_gb", self.gpu_min_vram_gb.into(), "0 where no GPU is asked for");
        }
        self.io.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_disks_are_left_out_where_there_are_none_and_checked_where_there_are() {
        let open = ResourceLimits::default();
        assert!(!serde_json::to_string(&open).unwrap().contains("io"), "older agents read it");
        let with = |io| ResourceLimits { io, ..ResourceLimits::default() };
        let io = IoLimits { read_bytes: 1 << 20, write_ops: 100, ..IoLimits::default() };
        let text = serde_json::to_string(&with(io)).unwrap();
        assert_eq!(serde_json::from_str::<ResourceLimits>(&text).unwrap(), with(io));
        assert!(with(io).check().is_ok() && io.bounds_writes() && with(io).asked() == Some("io"));
        let slow = with(IoLimits { read_bytes: 100, ..IoLimits::default() }).check().unwrap_err();
        assert!(slow.to_string().contains("io.read_bytes is 100"), "{slow}");
        assert!(with(IoLimits { write_ops: 1, ..IoLimits::default() }).check().is_err());
        assert!(serde_json::from_str::<IoLimits>(r#"{"read": 1}"#).is_err());
    }
}
