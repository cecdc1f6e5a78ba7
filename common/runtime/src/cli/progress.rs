//! How far something is that takes a while: one line on the terminal, written over again and again.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use super::{bytes, write_err};

/// Pause between two lines.
const PAUSE: Duration = Duration::from_millis(100);

/// A line on standard error that says how many bytes are done; nothing where that is no terminal.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: u64,
    is_shown: bool,
    shown_at: Option<Instant>,
}

impl Progress {
    /// Of `total` bytes of something, such as `pushing demo.tar.gz`.
    #[must_use]
    pub fn new(what: impl Into<String>, total: u64) -> Self {
        Self { what: what.into(), total, is_shown: io::stderr().is_terminal(), shown_at: None }
    }

    /// Shows that so many bytes are done, at most ten times a second.
    pub fn at(&mut self, done: u64) {
        let is_early = self.shown_at.is_some_and(|at| at.elapsed() < PAUSE) && done < self.total;
        if self.is_shown && !is_early {
            self.shown_at = Some(Instant::now());
            write_err(&format!("\r\x1b[K{}", line(&self.what, done, self.total)));
        }
    }
}

impl Drop for Progress {
    /// Takes the line away.
    fn drop(&mut self) {
        if self.shown_at.is_some() {
            write_err("\r\x1b[K");
        }
    }
}

fn line(what: &str, done: u64, total: u64) -> String {
    let percent = done.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    format!("{what}: {} of {}, {percent} %", bytes(done), bytes(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_how_much_and_of_how_much() {
        assert_eq!(line("pushing a", 512, 2048), "pushing a: 512 B of 2.0 KiB, 25 %");
        assert_eq!(line("pushing a", 0, 0), "pushing a: 0 B of 0 B, 100 %");
        assert_eq!(line("pushing a", u64::MAX, 1), "pushing a: 15.9 EiB of 1 B, 100 %");
    }
}
