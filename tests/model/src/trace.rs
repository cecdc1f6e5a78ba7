//! The last events, for a failure's report.

use std::collections::VecDeque;

const KEPT: usize = 60;

/// A ring of lines, and a hash of all lines there ever were.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: VecDeque<String>,
    hash: u64,
}

impl Trace {
    pub(crate) fn push(&mut self, line: String) {
        // FNV-1a: equal runs have equal hashes.
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.lines.len() >= KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
