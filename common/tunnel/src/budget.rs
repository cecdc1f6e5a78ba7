//! Memory that all flows of a netstack share for the buffers of those that need large ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a buffer may hold without asking, in bytes: enough for 5 Mbit/s over 100 ms.
pub(crate) const BASE_BYTES: usize = 64 << 10;

/// Bytes that may be taken beyond [`BASE_BYTES`] per buffer.
#[derive(Debug)]
pub(crate) struct Budget {
    left: AtomicUsize,
    refused: AtomicU64,
}

impl Budget {
    /// Makes a budget of so many bytes.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), refused: AtomicU64::new(0) })
    }

    /// Requests refused since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Bytes that nobody has taken.
    #[cfg(test)]
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self
            .left
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .is_ok();
        self.refused.fetch_add(u64::from(!taken), Ordering::Relaxed);
        taken
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One buffer's part of a [`Budget`]; dropping it gives the part back.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
    max: usize,
}

impl Share {
    /// Makes a share of [`BASE_BYTES`] that may grow to `max` bytes.
    pub(crate) fn new(budget: &Arc<Budget>, max: usize) -> Self {
        Self { budget: Arc::clone(budget), bytes: BASE_BYTES.min(max), max }
    }

    /// Bytes that the buffer may hold.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// True where it is more than at the start.
    pub(crate) const fn is_grown(&self) -> bool {
        self.bytes > BASE_BYTES
    }

    /// Grows to at least `bytes`, as far as the buffer goes; false where the budget has not enough.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let wanted = bytes.min(self.max).next_multiple_of(BASE_BYTES).min(self.max);
        if wanted <= self.bytes {
            return true;
        }
        let may = self.budget.take(wanted - self.bytes);
        if may {
            self.bytes = wanted;
        }
        may
    }

    /// Gives back what exceeds the start.
    pub(crate) fn shrink(&mut self) {
        let excess = self.bytes.saturating_sub(BASE_BYTES);
        self.bytes -= excess;
        self.budget.give_back(excess);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_while_there_is_something_left_and_give_it_back() {
        let budget = Budget::new(3 * BASE_BYTES);
        let mut first = Share::new(&budget, 8 * BASE_BYTES);
        let mut second = Share::new(&budget, 2 * BASE_BYTES);
        assert!(first.grow(BASE_BYTES + 1) && second.grow(usize::MAX));
        assert_eq!(
            (first.bytes(), second.bytes(), budget.left()),
            (2 * BASE_BYTES, 2 * BASE_BYTES, BASE_BYTES)
        );
        assert!(!first.grow(4 * BASE_BYTES));
        assert_eq!((first.bytes(), budget.refused()), (2 * BASE_BYTES, 1));
        drop(second);
        assert!(first.grow(4 * BASE_BYTES));
        first.shrink();
        assert_eq!((first.bytes(), budget.left()), (BASE_BYTES, 3 * BASE_BYTES));
    }
}
