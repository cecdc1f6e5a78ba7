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
        Ok(())
    }
}
