//! Where the access log goes: a bounded queue, and one thread that writes to standard error.
//!
//! A request never waits for whoever reads the log. Lines that find no room are lost, counted, and told of in the
//! log itself. The thread starts with the first line: rights are per thread, and by then the process has given up those
//! that it does not need.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// Lines that wait at most.
const QUEUE: usize = 8192;

/// Bytes written in one call, and no more than one line more.
const MOST_AT_ONCE: usize = 64 * 1024;

/// Longest time that [`flush`] waits.
const FLUSH: Duration = Duration::from_secs(1);

/// The writer of this process, once there is one.
static WRITER: OnceLock<AccessWriter> = OnceLock::new();

#[derive(Debug)]
enum Piece {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Hands lines to the thread.
#[derive(Debug, Clone)]
pub(super) struct AccessWriter {
    queue: SyncSender<Piece>,
    lost: Arc<AtomicU64>,
    /// Until the first line.
    idle: Arc<Mutex<Option<WriterThread>>>,
    is_started: Arc<AtomicBool>,
}

impl AccessWriter {
    /// That of this process; the first call makes it.
    pub(super) fn of_process() -> Self {
        WRITER
            .get_or_init(|| {
                let (writer, thread) = Self::with_room(QUEUE);
                *writer.idle.lock() = Some(thread);
                writer
            })
            .clone()
    }

    fn with_room(lines: usize) -> (Self, WriterThread) {
        let (queue, pieces) = sync_channel(lines);
        let lost = Arc::new(AtomicU64::new(0));
        let thread = WriterThread { pieces, lost: Arc::clone(&lost), told: 0 };
        (Self { queue, lost, idle: Arc::default(), is_started: Arc::default() }, thread)
    }

    fn start(&self) {
        if self.is_started.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(idle) = self.idle.lock().take() else { return };
        let started = thread::Builder::new().name("access-log".to_owned());
        if let Err(error) = started.spawn(move || idle.run(&mut io::stderr())) {
            // The queue is gone with its reader, so every line counts as lost.
            tracing::warn!(%error, "access log: its thread does not start");
        }
    }

    /// A place for one line.
    pub(super) fn line(&self) -> Line {
        Line { text: Vec::with_capacity(512), writer: self.clone() }
    }
}

/// One line, handed over when it is dropped.
pub(super) struct Line {
    text: Vec<u8>,
    writer: AccessWriter,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.writer.start();
        let line = Piece::Line(std::mem::take(&mut self.text));
        match self.writer.queue.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.writer.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[derive(Debug)]
struct WriterThread {
    pieces: Receiver<Piece>,
    lost: Arc<AtomicU64>,
    told: u64,
}

impl WriterThread {
    /// Writes until everybody who could send something is gone, in as few calls as the queue allows.
    fn run(mut self, out: &mut dyn Write) {
        let mut text = Vec::new();
        let mut waiting = Vec::new();
        while let Ok(piece) = self.pieces.recv() {
            let mut next = Some(piece);
            while let Some(piece) = next {
                match piece {
                    Piece::Line(line) => text.extend_from_slice(&line),
                    Piece::Flush(done) => waiting.push(done),
                }
                let has_room = text.len() < MOST_AT_ONCE;
                next = if has_room { self.pieces.try_recv().ok() } else { None };
            }
            // A reader of the log that is gone is no reason to stop.
            let _ = out.write_all(&text);
            text.clear();
            for done in waiting.drain(..) {
                let _ = done.try_send(());
            }
            self.tell_lost();
        }
    }

    fn tell_lost(&mut self) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > self.told {
            tracing::warn!(
                lines = lost.saturating_sub(self.told),
                "access log: lines lost, it is read too slowly"
            );
            self.told = lost;
        }
    }
}

/// Lines of the access log that were lost since the start.
#[must_use]
pub fn lost_lines() -> u64 {
    WRITER.get().map_or(0, |writer| writer.lost.load(Ordering::Relaxed))
}

/// Waits until the lines so far are written, for a second at most; called at the end of a process.
pub fn flush() {
    let Some(writer) = WRITER.get().filter(|writer| writer.is_started.load(Ordering::Relaxed)) else {
        return;
    };
    let (done, written) = sync_channel(1);
    if writer.queue.try_send(Piece::Flush(done)).is_ok() {
        let _ = written.recv_timeout(FLUSH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_log_that_is_not_read_and_what_is_lost_is_counted() {
        let (writer, thread) = AccessWriter::with_room(4);
        for number in 0..10 {
            writeln!(writer.line(), "line {number}").unwrap();
        }
        assert_eq!(writer.lost.load(Ordering::Relaxed), 6);
        drop(writer);
        let mut out = Vec::new();
        thread.run(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "line 0\nline 1\nline 2\nline 3\n");
    }
}
