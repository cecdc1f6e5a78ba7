//! When to refuse new work for want of memory, and when to take it again.

/// Two marks, so that the decision does not flutter between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermark {
    stop_at: u64,
    resume_at: u64,
    refuses: bool,
}

impl Watermark {
    /// Refuses from `stop_at` on, and until less than `resume_at` is in use; both in bytes.
    #[must_use]
    pub const fn new(stop_at: u64, resume_at: u64) -> Self {
        Self { stop_at, resume_at, refuses: false }
    }

    /// The marks of a process that may use `limit` bytes: nine tenths and eight tenths of it.
    #[must_use]
    pub const fn of(limit: u64) -> Self {
        Self::new(limit.saturating_sub(limit / 10), limit.saturating_sub(limit / 5))
    }

    /// Notes how much is in use; whether new work is refused from now on.
    pub const fn see(&mut self, used: u64) -> bool {
        self.refuses = used >= self.stop_at || (self.refuses && used >= self.resume_at);
        self.refuses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_refused_above_one_mark_and_taken_again_below_the_other() {
        let mut mark = Watermark::of(1000);
        let seen = [0, 850, 899, 900, 950, 850, 800, 799, 850, 900].map(|used| mark.see(used));
        assert_eq!(seen, [false, false, false, true, true, true, true, false, false, true]);
    }
}
