//! Which of the instances of one service is meant.

use std::fmt;

use crate::ServiceKey;

/// Instances of one service that a node runs at once at most: the version that serves, and the next one while it is
/// updated.
pub const MAX_SLOTS: u8 = 2;

/// One of the instances of a service on a node. Two versions have a seat each: each has a process, sockets, ports and
/// output of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat {
    /// The service.
    pub service: ServiceKey,
    /// Which, below [`MAX_SLOTS`].
    pub slot: u8,
}

impl Seat {
    /// The first one of a service, which is the only one where nothing is updated.
    #[must_use]
    pub const fn first(service: ServiceKey) -> Self {
        Self { service, slot: 0 }
    }

    /// The slot that is free while this one is taken.
    #[must_use]
    pub const fn other_slot(slot: u8) -> u8 {
        if slot == 0 { 1 } else { 0 }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            0 => write!(f, "{}", self.service),
            slot => write!(f, "{}.{slot}", self.service),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_called_as_its_service() {
        let service = ServiceKey { blueprint: 7, service: 42 };
        assert_eq!(Seat::first(service).to_string(), "7/42");
        assert_eq!(Seat { service, slot: 1 }.to_string(), "7/42.1");
        assert_eq!(Seat::other_slot(Seat::other_slot(0)), 0);
    }
}
