//! How much may be in flight: a window made of the path's length, instead of a controlled one.
//!
//! Deviation: RFC 9002 wants a congestion controller. What is inside are IP packets whose flows are
//! congestion-controlled themselves, and RFC 8085 section 3.1.11 asks no second controller of a
//! tunnel that carries such traffic. Two of them on top of each other wait for each other: the outer
//! one would slow down for what the inner one has already slowed down for. So loss changes nothing
//! here, as with plain WireGuard over UDP. What the window does is to keep short the queue in front
//! of a slower receiver, and to bound the memory for what is not acknowledged once a path dies.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Bytes in flight on a path without length: half of what each receive queue holds, and many
/// times what one acknowledgement covers.
const WINDOW_BYTES_MIN: u64 = 2 << 20;
/// Bytes in flight at most: 2.5 Gbit/s over 100 ms.
const WINDOW_BYTES_MAX: u64 = 32 << 20;
/// Bytes more for each millisecond that the path is long: 2.5 Gbit/s.
const BYTES_PER_MILLISECOND: u64 = 312_500;

/// Allows what a path of this length holds, whatever happens on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PathWindow {
    bytes: u64,
}

impl PathWindow {
    fn of_length(rtt: Duration) -> Self {
        let microseconds = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        let longer = microseconds.saturating_mul(BYTES_PER_MILLISECOND) / 1000;
        Self { bytes: WINDOW_BYTES_MIN.saturating_add(longer).min(WINDOW_BYTES_MAX) }
    }
}

impl Controller for PathWindow {
    fn on_ack(&mut self, _: Instant, _: Instant, _: u64, _: bool, rtt: &RttEstimator) {
        // The shortest round trip: a longer one is only a queue, which must not make it longer yet.
        *self = Self::of_length(rtt.min());
    }

    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        self.bytes
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW_BYTES_MIN
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes the window of each connection.
#[derive(Debug)]
pub(super) struct PathWindows;

impl ControllerFactory for PathWindows {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(PathWindow::of_length(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_path_within_its_bounds() {
        let window = |milliseconds| PathWindow::of_length(Duration::from_millis(milliseconds)).window();
        assert_eq!(window(0), WINDOW_BYTES_MIN);
        assert_eq!(window(20), WINDOW_BYTES_MIN + 20 * BYTES_PER_MILLISECOND);
        assert_eq!(window(10_000), WINDOW_BYTES_MAX);
        assert_eq!(PathWindow::of_length(Duration::MAX).window(), WINDOW_BYTES_MAX);
    }
}
