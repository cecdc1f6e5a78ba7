//! Whether the process is short of memory, so that new work is refused before what is open suffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by whoever measures and by whoever refuses.
#[derive(Debug, Clone, Default)]
pub struct Pressure(Arc<AtomicBool>);

impl Pressure {
    /// Says whether new connections and requests are refused from now on.
    pub fn set(&self, refuses: bool) {
        self.0.store(refuses, Ordering::Relaxed);
    }

    /// Whether they are.
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
