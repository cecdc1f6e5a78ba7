//! Takes in what a workload writes, and hands what may be kept to the writer of its ring.

use std::time::{Duration, Instant, SystemTime};

use blueprint_agent_workload_core::log::{Line, Piece, Rate, Redactor, Splitter, level_of};
use blueprint_common_types::{LogStream, Timestamp};

use super::writer::LogWriter;
use super::{LogErrand, Secrets};
use crate::launch::say;

/// Pause before a ring that cannot be written is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Most characters of the last line that is told.
const MAX_LAST_CHARS: usize = 500;

/// See the module. A ring that cannot be written never holds the workload up: lines are left out then, and counted.
#[derive(Debug)]
pub(crate) struct Sink {
    errand: LogErrand,
    redactor: Redactor,
    rate: Rate,
    stdout: Splitter,
    stderr: Splitter,
    writer: Option<LogWriter>,
    /// When to try again to open the ring.
    again: Instant,
    /// Lines that could not be written, and why the last of them could not.
    unwritten: u64,
    why: String,
    /// The last line that says anything.
    last: Option<String>,
    pieces: Vec<Piece>,
}

impl Sink {
    /// Opens the ring; where that fails it says so, and is tried again.
    pub(crate) fn new(errand: LogErrand) -> Self {
        let Secrets(secrets) = &errand.secrets;
        let redactor = Redactor::new(secrets.iter().map(|secret| secret.expose().as_slice()));
        let now = Instant::now();
        let mut sink = Self {
            redactor,
            rate: Rate::new(errand.rate(), now),
            stdout: Splitter::default(),
            stderr: Splitter::default(),
            writer: None,
            again: now,
            unwritten: 0,
            why: String::new(),
            last: None,
            pieces: Vec::new(),
            errand,
        };
        sink.open(now);
        sink
    }

    /// Whether the ring is open; where it is not, it is tried again now.
    pub(crate) fn is_open(&mut self) -> bool {
        if self.writer.is_none() {
            self.open(Instant::now());
        }
        self.writer.is_some()
    }

    /// Takes bytes of a stream in; `at` is when they came, where that is known better than now.
    pub(crate) fn take(&mut self, stream: LogStream, bytes: &[u8], at: Option<Timestamp>) {
        let mut pieces = std::mem::take(&mut self.pieces);
        let splitter = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr | LogStream::Node => &mut self.stderr,
        };
        splitter.push(bytes, &self.redactor, &mut pieces);
        self.keep(stream, &mut pieces, at);
        self.pieces = pieces;
    }

    /// Takes what no end of line came for, tells what was left out, and syncs.
    pub(crate) fn finish(&mut self) {
        let mut pieces = Vec::new();
        self.stdout.finish(&self.redactor, &mut pieces);
        self.keep(LogStream::Stdout, &mut pieces, None);
        self.stderr.finish(&self.redactor, &mut pieces);
        self.keep(LogStream::Stderr, &mut pieces, None);
        self.tell_left_out(true);
        if let Some(Err(error)) = self.writer.as_ref().map(LogWriter::sync) {
            say(&format!("the output of the workload may be lost with the power: {error}"));
        }
    }

    /// Whether more comes than is kept.
    pub(crate) const fn is_flooded(&self) -> bool {
        self.rate.is_over()
    }

    /// The last line that says anything, cut.
    pub(crate) fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    fn keep(&mut self, stream: LogStream, pieces: &mut Vec<Piece>, at: Option<Timestamp>) {
        let at = at.unwrap_or_else(|| SystemTime::now().into());
        for Piece { text, goes_on } in pieces.drain(..) {
            if !text.trim().is_empty() {
                self.last = Some(text.trim_end().chars().take(MAX_LAST_CHARS).collect());
            }
            if !self.rate.take(text.len(), Instant::now()) {
                continue;
            }
            self.tell_left_out(false);
            let level = level_of(stream, &text);
            self.write(Line { seq: 0, at, generation: self.errand.generation, stream, level, text, goes_on });
        }
    }

    /// Says how much was left out before the next line.
    fn tell_left_out(&mut self, at_once: bool) {
        let dropped = self.rate.dropped(at_once);
        let limits = self.rate.limits();
        let rate = format!("{} lines or {} KiB a second", limits.lines, limits.bytes >> 10);
        if dropped > 0 {
            self.say(format!("{dropped} lines left out: the workload wrote more than {rate}"));
        }
        let unwritten = std::mem::take(&mut self.unwritten);
        if unwritten > 0 {
            self.say(format!("{unwritten} lines lost: they could not be written: {}", self.why));
            if self.unwritten > 0 {
                self.unwritten = unwritten;
            }
        }
    }

    /// Keeps what the node itself has to say.
    pub(super) fn say(&mut self, text: String) {
        let (stream, generation) = (LogStream::Node, self.errand.generation);
        let level = level_of(stream, "");
        self.write(Line {
            seq: 0,
            at: SystemTime::now().into(),
            generation,
            stream,
            level,
            text,
            goes_on: false,
        });
    }

    fn write(&mut self, line: Line) {
        let now = Instant::now();
        if self.writer.is_none() && now >= self.again {
            self.open(now);
        }
        let failed = match self.writer.as_mut().map(|writer| writer.append(line)) {
            Some(Ok(())) => return,
            Some(Err(error)) => error.to_string(),
            None => self.why.clone(),
        };
        self.fail(failed, now);
        self.unwritten = self.unwritten.saturating_add(1);
    }

    fn open(&mut self, now: Instant) {
        match LogWriter::open(&self.errand.folder, self.errand.ring()) {
            Ok(writer) => self.writer = Some(writer),
            Err(error) => self.fail(error.to_string(), now),
        }
    }

    fn fail(&mut self, why: String, now: Instant) {
        if why != self.why {
            say(&format!("the output of the workload is not kept: {why}"));
        }
        self.why = why;
        self.again = now.checked_add(TRY_AGAIN).unwrap_or(now);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.finish();
    }
}
