//! Samples of quality of service, as measured by an agent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Health, ServiceKey};

/// A machine at one moment. Counters start at the machine's boot.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct MachineSample {
    /// Busy share of all cores since the sample before, 0 to 100.
    pub cpu_percent: f32,
    /// Memory in use, without caches.
    pub memory_used_bytes: u64,
    /// Memory of the machine.
    pub memory_total_bytes: u64,
    /// Used bytes of the file system that holds the agent's state.
    pub disk_used_bytes: u64,
    /// Size of that file system.
    pub disk_total_bytes: u64,
    /// Bytes received by all interfaces but loopback.
    pub network_rx_bytes: u64,
    /// Bytes sent by all interfaces but loopback.
    pub network_tx_bytes: u64,
}

/// The process behind one service at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ServiceSample {
    /// The service.
    pub service: ServiceKey,
    /// Overlay port of the target.
    pub port: u16,
    /// Result of the local check.
    pub health: Health,
    /// Process that listens on the service's port, where the agent may see it; the first of several.
    pub pid: Option<u32>,
    /// Share of one core since the sample before, of all of them together; may exceed 100 on several cores.
    pub cpu_percent: f32,
    /// Resident memory of all of them.
    pub memory_bytes: u64,
    /// Time the last health check took, in microseconds.
    pub check_micros: u32,
    /// The rest of what the workload behind it uses as a whole; then processor and memory are those of the whole, too. `None`
    /// where no workload offers the service: then they are those of the one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<WholeSample>,
}

/// What a workload uses as a whole, beside processor and memory. Counters begin with its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WholeSample {
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks; 0 where the machine does not count them.
    pub read_bytes: u64,
    /// Bytes written to disks; 0 where the machine does not count them.
    pub written_bytes: u64,
}

/// What a workload uses: all its processes, and all that those started. Counters begin with its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkloadUse {
    /// Processor time.
    pub cpu: Duration,
    /// Memory in use, without what the kernel only caches of files and takes back first.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from disks; 0 where the machine does not count them.
    pub read_bytes: u64,
    /// Bytes written to disks; 0 where the machine does not count them.
    pub written_bytes: u64,
}

impl ServiceSample {
    /// Whether what it uses was measured: where neither a process nor any use is known, a share of zero says nothing.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.pid.is_some() || self.memory_bytes > 0 || self.cpu_percent > 0.0
    }
}

/// The tunnel between an agent and its hub, over the last window of echoes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TunnelSample {
    /// Mean round trip of the window's echoes in microseconds; zero where none came back.
    pub rtt_micros: u32,
    /// Mean difference of neighbouring round trips in microseconds (RFC 3550, section 6.4.1, without smoothing).
    pub jitter_micros: u32,
    /// Echoes sent that did not come back, in percent.
    pub loss_percent: f32,
    /// Seconds since the last completed handshake; `None` before the first.
    pub handshake_age_secs: Option<u32>,
    /// Bytes received from the hub, outer packets.
    pub rx_bytes: u64,
    /// Bytes sent to the hub, outer packets.
    pub tx_bytes: u64,
}
