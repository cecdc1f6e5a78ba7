//! Points of a curve, thinned to what was asked for.

use blueprint_common_types::Timestamp;
use serde::Serialize;

use super::{Row, percent};

/// Points that are given where no number was asked for.
pub const DEFAULT_POINTS: usize = 240;

/// Most points that are given.
pub const MAX_POINTS: usize = 10_000;

/// A row as people and programs read it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Its first moment, in milliseconds since 1970.
    pub at: Timestamp,
    /// Milliseconds in which the hub saw it up.
    pub up_ms: u64,
    /// And down.
    pub down_ms: u64,
    /// And neither: the hub was not running, or could not say, and no agent measured it.
    pub unknown_ms: u64,
    /// Up as agents measured it and said later, of what the hub did not see.
    pub late_up_ms: u64,
    /// And down.
    pub late_down_ms: u64,
    /// Samples counted.
    pub samples: u64,
    /// Mean processor share in percent: of all processors for a machine, of one for a service.
    pub cpu_percent: f32,
    /// The largest.
    pub cpu_most_percent: f32,
    /// Mean bytes of memory in use.
    pub memory_bytes: u64,
    /// The most.
    pub memory_most_bytes: u64,
    /// Bytes of memory of a machine.
    pub memory_total_bytes: u64,
    /// Bytes of disk in use of a machine.
    pub disk_bytes: u64,
    /// Bytes of disk of a machine.
    pub disk_total_bytes: u64,
    /// Bytes that a machine had received since its boot.
    pub network_rx_bytes: u64,
    /// And sent.
    pub network_tx_bytes: u64,
    /// Mean microseconds of a round trip through a machine's tunnel, or of a service's check.
    pub delay_micros: u64,
    /// The longest.
    pub delay_most_micros: u64,
    /// Mean loss of a machine's tunnel in percent.
    pub loss_percent: f32,
}

impl CurvePoint {
    /// What a row of `span_ms` says, of which the last moment is not later than now.
    #[must_use]
    pub fn of(at: Timestamp, row: &Row, span_ms: u64) -> Self {
        Self {
            at,
            up_ms: row.seen.up,
            down_ms: row.seen.down,
            unknown_ms: span_ms.saturating_sub(row.seen.both()).saturating_sub(row.late.both()),
            late_up_ms: row.late.up,
            late_down_ms: row.late.down,
            samples: row.samples,
            cpu_percent: percent(row.mean(row.cpu_sum)),
            cpu_most_percent: percent(row.cpu_most),
            memory_bytes: row.mean(row.memory_sum),
            memory_most_bytes: row.memory_most,
            memory_total_bytes: row.last.memory_total,
            disk_bytes: row.last.disk,
            disk_total_bytes: row.last.disk_total,
            network_rx_bytes: row.last.rx,
            network_tx_bytes: row.last.tx,
            delay_micros: row.mean(row.delay_sum),
            delay_most_micros: row.delay_most,
            loss_percent: percent(row.mean(row.loss_sum)),
        }
    }
}

/// At most `most` of these, evenly spread, the first and the last among them where there is room for two.
pub fn thin<T>(points: Vec<T>, most: usize) -> Vec<T> {
    let (count, most) = (points.len(), most.max(1));
    if count <= most {
        return points;
    }
    // Point `i` of the answer is point `i * (count - 1) / (most - 1)`: no two are the same, since count > most.
    let place = |i: usize| match most {
        1 => count - 1,
        _ => i * (count - 1) / (most - 1),
    };
    let mut wanted = (0..most).map(place).peekable();
    let is_wanted = |(index, point): (usize, T)| wanted.next_if_eq(&index).map(|_| point);
    points.into_iter().enumerate().filter_map(is_wanted).collect()
}
