//! What a keeper says of itself: that goes to the agent's log, and its last lines are kept for the reason of a failure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

/// Lines kept of each keeper.
const LINES: usize = 200;

/// How long the last lines of a keeper may take after its end.
const LINGER: Duration = Duration::from_millis(200);

/// Longest line kept, in bytes; the rest of a longer one is left out.
const LINE_BYTES: usize = 4096;

/// The last lines of one keeper.
#[derive(Debug, Clone)]
pub(crate) struct Output(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Mutex<VecDeque<String>>,
    /// A place for the stream that is read to its end.
    ended: Semaphore,
}

impl Default for Output {
    fn default() -> Self {
        Self(Arc::new(Shared { lines: Mutex::default(), ended: Semaphore::new(0) }))
    }
}

impl Output {
    /// Reads a stream to its end.
    pub(crate) async fn follow(self, stream: impl AsyncRead + Unpin) {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            let (bytes, ends) = match reader.fill_buf().await {
                Ok([]) | Err(_) => break,
                Ok(bytes) => match bytes.iter().position(|byte| *byte == b'\n') {
                    Some(at) => (bytes.get(..at).unwrap_or_default(), Some(at.saturating_add(1))),
                    None => (bytes, None),
                },
            };
            let room = LINE_BYTES.saturating_sub(line.len());
            line.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
            let used = ends.unwrap_or(bytes.len());
            reader.consume(used);
            if ends.is_some() {
                self.push(&line);
                line.clear();
            }
        }
        if !line.is_empty() {
            self.push(&line);
        }
        self.0.ended.add_permits(1);
    }

    /// Waits until the stream has ended, but not for long.
    pub(crate) async fn ended(&self) {
        let _ = timeout(LINGER, self.0.ended.acquire()).await;
    }

    fn push(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        warn!(line, "a keeper says");
        let mut lines = self.0.lines.lock();
        if lines.len() >= LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last line that says anything.
    pub(crate) fn last(&self) -> Option<String> {
        self.0.lines.lock().iter().rev().find(|line| !line.is_empty()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_stay_and_none_is_endless() {
        let output = Output::default();
        let mut text = Vec::new();
        for number in 0..1000 {
            text.extend_from_slice(format!("line {number}\n").as_bytes());
        }
        text.extend_from_slice(&vec![b'x'; 100_000]);
        text.extend_from_slice(b"\n\nthe end");
        output.clone().follow(text.as_slice()).await;
        assert_eq!(output.last().unwrap(), "the end");
        let lines = output.0.lines.lock();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.iter().map(String::len).max(), Some(LINE_BYTES));
    }
}
