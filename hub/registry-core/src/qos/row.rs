//! What a row holds, and how samples and seen time come into it.

use blueprint_common_types::{
    AgentId, Health, MachineSample, ServiceKey, ServiceSample, TargetKey, Timestamp, TunnelSample,
};
use serde::Serialize;

/// Most bytes that one figure may say: 1 PiB, so that an hour of them can be added up.
const MOST_BYTES: u64 = 1 << 50;

/// Most hundredths of a percent: a thousand processors.
const MOST_SHARE: u32 = 10_000_000;

/// What rows are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A service, as the hub sees it: whether any of its targets is healthy.
    Service(ServiceKey),
    /// The process behind one target, as its agent measures it.
    Target(TargetKey),
    /// A machine and its tunnel.
    Node(AgentId),
}

/// How long a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A single sample, by its second.
    Sample,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

impl Step {
    /// Its length in milliseconds.
    #[must_use]
    pub const fn millis(self) -> u64 {
        match self {
            Self::Sample => 1000,
            Self::Minute => 60_000,
            Self::Hour => 3_600_000,
        }
    }

    /// The start of the row that holds `at`.
    #[must_use]
    pub const fn of(self, at: Timestamp) -> Timestamp {
        let millis = at.as_millis();
        Timestamp::from_millis(millis - millis % self.millis())
    }
}

/// One sample as it is counted. Shares are in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// When the agent took it.
    pub at: Timestamp,
    /// Result of the local check of a target; `None` for a machine, and before the first check.
    pub is_healthy: Option<bool>,
    /// Share of all processors for a machine, of one for a target.
    pub cpu: u32,
    /// Bytes of memory in use.
    pub memory: u64,
    /// Bytes of memory there are; 0 for a target.
    pub memory_total: u64,
    /// Bytes of disk in use; 0 for a target.
    pub disk: u64,
    /// Bytes of disk there are; 0 for a target.
    pub disk_total: u64,
    /// Bytes that the machine has received since its boot; 0 for a target.
    pub rx: u64,
    /// Bytes that it has sent.
    pub tx: u64,
    /// Microseconds: round trip of a machine's tunnel, check of a target; 0 where there was none.
    pub delay: u32,
    /// Share of echoes that were lost; 0 for a target.
    pub loss: u32,
    /// Whether its agent could not give it when it took it.
    pub is_late: bool,
}

impl Mark {
    /// The sample of a machine and its tunnel.
    #[must_use]
    pub fn of_machine(at: Timestamp, machine: &MachineSample, tunnel: &TunnelSample) -> Self {
        Self {
            at,
            is_healthy: None,
            cpu: hundredths(machine.cpu_percent),
            memory: machine.memory_used_bytes.min(MOST_BYTES),
            memory_total: machine.memory_total_bytes.min(MOST_BYTES),
            disk: machine.disk_used_bytes.min(MOST_BYTES),
            disk_total: machine.disk_total_bytes.min(MOST_BYTES),
            rx: machine.network_rx_bytes.min(i64::MAX.cast_unsigned()),
            tx: machine.network_tx_bytes.min(i64::MAX.cast_unsigned()),
            delay: tunnel.rtt_micros,
            loss: hundredths(tunnel.loss_percent),
            is_late: false,
        }
    }

    /// The sample of a target.
    #[must_use]
    pub fn of_service(at: Timestamp, sample: &ServiceSample) -> Self {
        Self {
            at,
            is_healthy: match sample.health {
                Health::Healthy => Some(true),
                Health::Unhealthy => Some(false),
                Health::Unknown => None,
            },
            cpu: hundredths(sample.cpu_percent),
            memory: sample.memory_bytes.min(MOST_BYTES),
            delay: sample.check_micros,
            ..Self::default()
        }
    }

    /// The bit of its second in the minute.
    const fn bit(&self) -> u64 {
        1 << (self.at.as_secs() % 60)
    }
}

/// Time in which the hub saw something up or down, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Up.
    pub up: u64,
    /// Down.
    pub down: u64,
}

impl Seen {
    /// Both together.
    #[must_use]
    pub const fn both(self) -> u64 {
        self.up.saturating_add(self.down)
    }

    /// Adds another time.
    pub const fn add(&mut self, other: Self) {
        self.up = self.up.saturating_add(other.up);
        self.down = self.down.saturating_add(other.down);
    }
}

/// A minute or an hour of one subject. Sums are over `samples`; shares are in hundredths of a percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    /// What the hub saw.
    pub seen: Seen,
    /// One bit for each second of the minute of which a sample is counted; not used in hours.
    pub taken: u64,
    /// Samples counted.
    pub samples: u64,
    /// Those whose local check was good.
    pub healthy: u64,
    /// Those whose local check was bad.
    pub unhealthy: u64,
    /// Sum of processor shares.
    pub cpu_sum: u64,
    /// The largest of them.
    pub cpu_most: u64,
    /// Sum of memory in use.
    pub memory_sum: u64,
    /// The largest of it.
    pub memory_most: u64,
    /// Sum of delays.
    pub delay_sum: u64,
    /// The longest of them.
    pub delay_most: u64,
    /// Sum of losses.
    pub loss_sum: u64,
    /// What the newest sample says, sums left out.
    pub last: Last,
    /// What the hub did not see, as agents measured it and said later, in milliseconds.
    pub late: Seen,
    /// What the hub saw down while agents measured it healthy, in milliseconds: it could not be reached.
    pub unreached: u64,
}

/// What the newest sample of a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Last {
    /// When it was taken.
    pub at: Timestamp,
    /// Bytes of memory there are.
    pub memory_total: u64,
    /// Bytes of disk in use.
    pub disk: u64,
    /// Bytes of disk there are.
    pub disk_total: u64,
    /// Bytes received since the machine's boot.
    pub rx: u64,
    /// Bytes sent.
    pub tx: u64,
}

impl Row {
    /// Counts a sample of this minute; false where one of its second is counted already.
    pub fn take(&mut self, mark: &Mark) -> bool {
        if self.taken & mark.bit() != 0 {
            return false;
        }
        self.taken |= mark.bit();
        self.add(mark);
        true
    }

    /// Counts a sample, whether or not it is counted already.
    pub fn add(&mut self, mark: &Mark) {
        self.samples = self.samples.saturating_add(1);
        self.healthy = self.healthy.saturating_add(u64::from(mark.is_healthy == Some(true)));
        self.unhealthy = self.unhealthy.saturating_add(u64::from(mark.is_healthy == Some(false)));
        self.cpu_sum = self.cpu_sum.saturating_add(mark.cpu.into());
        self.cpu_most = self.cpu_most.max(mark.cpu.into());
        self.memory_sum = self.memory_sum.saturating_add(mark.memory);
        self.memory_most = self.memory_most.max(mark.memory);
        self.delay_sum = self.delay_sum.saturating_add(mark.delay.into());
        self.delay_most = self.delay_most.max(mark.delay.into());
        self.loss_sum = self.loss_sum.saturating_add(mark.loss.into());
        if mark.at >= self.last.at {
            self.last = Last {
                at: mark.at,
                memory_total: mark.memory_total,
                disk: mark.disk,
                disk_total: mark.disk_total,
                rx: mark.rx,
                tx: mark.tx,
            };
        }
    }

    /// Adds seen time as far as the row has room for it; gives what was added.
    pub fn see(&mut self, seen: Seen, step: Step) -> Seen {
        let room = step.millis().saturating_sub(self.seen.both());
        let down = seen.down.min(room);
        let added = Seen { up: seen.up.min(room.saturating_sub(down)), down };
        self.seen.add(added);
        added
    }

    /// Gives the part of this minute that the hub did not see to what agents measured, of which `healthy` of `checks` were
    /// good; gives what the row had of that before. Nothing changes where nothing was checked.
    pub fn measure(&mut self, healthy: u64, checks: u64) -> (Seen, u64) {
        let before = (self.late, self.unreached);
        let part = |of: u64| (of.saturating_mul(healthy.min(checks))).checked_div(checks);
        let room = Step::Minute.millis().saturating_sub(self.seen.both());
        if let (Some(up), Some(unreached)) = (part(room), part(self.seen.down)) {
            self.late = Seen { up, down: room.saturating_sub(up) };
            self.unreached = unreached;
        }
        before
    }

    /// Takes the change of one minute into the hour that holds it.
    pub const fn remeasure(&mut self, (before, unreached): (Seen, u64), minute: &Self) {
        self.late.up = self.late.up.saturating_add(minute.late.up).saturating_sub(before.up);
        self.late.down = self.late.down.saturating_add(minute.late.down).saturating_sub(before.down);
        self.unreached = self.unreached.saturating_add(minute.unreached).saturating_sub(unreached);
    }

    /// Leaves to what agents measured no more than the hub did not see of this minute; gives what it had before.
    pub fn yield_to_seen(&mut self) -> (Seen, u64) {
        let before = (self.late, self.unreached);
        let room = Step::Minute.millis().saturating_sub(self.seen.both());
        self.late.down = self.late.down.min(room);
        self.late.up = self.late.up.min(room.saturating_sub(self.late.down));
        before
    }

    /// Adds another row, of another time or another subject.
    pub fn join(&mut self, other: &Self) {
        self.seen.add(other.seen);
        self.late.add(other.late);
        self.unreached = self.unreached.saturating_add(other.unreached);
        self.samples = self.samples.saturating_add(other.samples);
        self.healthy = self.healthy.saturating_add(other.healthy);
        self.unhealthy = self.unhealthy.saturating_add(other.unhealthy);
        self.cpu_sum = self.cpu_sum.saturating_add(other.cpu_sum);
        self.cpu_most = self.cpu_most.max(other.cpu_most);
        self.memory_sum = self.memory_sum.saturating_add(other.memory_sum);
        self.memory_most = self.memory_most.max(other.memory_most);
        self.delay_sum = self.delay_sum.saturating_add(other.delay_sum);
        self.delay_most = self.delay_most.max(other.delay_most);
        self.loss_sum = self.loss_sum.saturating_add(other.loss_sum);
        if other.last.at >= self.last.at {
            self.last = other.last;
        }
    }

    /// A sum over its samples as their mean; 0 where there are none.
    #[must_use]
    pub const fn mean(&self, sum: u64) -> u64 {
        match sum.checked_div(self.samples) {
            Some(mean) => mean,
            None => 0,
        }
    }
}

/// A share in percent as hundredths of it; what is no number, or below zero, is zero.
#[must_use]
pub fn hundredths(percent: f32) -> u32 {
    let whole = floor(percent);
    let rest = floor((percent - f32::from(whole)) * 100.0 + 0.5).min(100);
    u32::from(whole).saturating_mul(100).saturating_add(rest.into()).min(MOST_SHARE)
}

/// The largest whole number that is not above `number`, within the type's range.
fn floor(number: f32) -> u16 {
    let (mut low, mut high) = (0u16, u16::MAX);
    while low < high {
        let middle = high - (high - low) / 2;
        if f32::from(middle) <= number { low = middle } else { high = middle - 1 }
    }
    low
}

/// Hundredths of a percent as percent.
#[must_use]
pub fn percent(hundredths: u64) -> f32 {
    let narrow = |number: u64| f32::from(u16::try_from(number).unwrap_or(u16::MAX));
    narrow(hundredths / 100) + narrow(hundredths % 100) / 100.0
}
