//! An established response that streams for as long as a test wants.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use blueprint_tests_support::{Host, eventually_ok};

use crate::fixture::CALL;

/// What flows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces {
    /// Length of each, at least 13.
    bytes: usize,
    /// Time between two of them.
    pace: Duration,
}

impl Pieces {
    /// A packet each.
    pub(super) const SMALL: Self = Self { bytes: 13, pace: Duration::from_millis(50) };
    /// Full packets, 50 Mbit/s of them in each direction.
    pub(super) const LARGE: Self = Self { bytes: 32_768, pace: Duration::from_millis(5) };
}

/// A stream that stands still this long has failed.
const STALL: Duration = Duration::from_secs(30);

/// What came back of a stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Pieces, each the next number.
    pub(super) pieces: u64,
    /// Longest time between two of them.
    pub(super) longest_pause: Duration,
    /// When the last one came.
    last: Option<Instant>,
}

/// Numbered pieces that a service echoes within one request: none may be lost, repeated or out of order.
#[derive(Debug)]
pub(super) struct Flow {
    stop: Sender<()>,
    writer: JoinHandle<Result<u64>>,
    reader: JoinHandle<Result<()>>,
    seen: Arc<Mutex<Seen>>,
}

impl Flow {
    /// Opens it from `host`, and waits for its first piece.
    pub(super) fn start(
        host: &Host,
        proxy: SocketAddr,
        (service, token): (&str, &str),
        pieces: Pieces,
    ) -> Result<Self> {
        let stream = host.connect(proxy, CALL)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        let mut up = stream.try_clone()?;
        write!(
            up,
            "POST /echo HTTP/1.1\r\nhost: test\r\nx-service-id: {service}\r\nauthorization: Bearer {token}\r\n\
             transfer-encoding: chunked\r\n\r\n"
        )?;
        let (stop, stopped) = channel();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        let writer = Builder::new().name("flow-up".to_owned()).spawn(move || send(up, &stopped, pieces))?;
        let reader = Builder::new().name("flow-down".to_owned()).spawn(move || receive(stream, &noted))?;
        let flow = Self { stop, writer, reader, seen };
        eventually_ok(CALL, "the first piece of a stream", || {
            ensure!(flow.seen().pieces > 0, "nothing came");
            Ok(())
        })?;
        Ok(flow)
    }

    /// What came back so far.
    pub(super) fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this long, and fails as soon as the stream has ended.
    pub(super) fn wait_while_it_flows(&self, time: Duration) -> Result<()> {
        let begin = Instant::now();
        eventually_ok(time + CALL, "time to pass", || {
            ensure!(begin.elapsed() >= time || self.reader.is_finished(), "not yet");
            Ok(())
        })?;
        ensure!(!self.reader.is_finished(), "the stream ended after {:?}", begin.elapsed());
        Ok(())
    }

    /// Ends the request and waits for the rest of its answer; every piece has to come back.
    pub(super) fn finish(self) -> Result<Seen> {
        drop(self.stop);
        let sent = self.writer.join().map_err(|_| anyhow!("the sending thread panicked"))?;
        let received = self.reader.join().map_err(|_| anyhow!("the receiving thread panicked"))?;
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        received.with_context(|| format!("after {} pieces", seen.pieces))?;
        ensure!(sent? == seen.pieces, "pieces are missing at the end");
        Ok(seen)
    }
}

/// Writes pieces until told to stop; their count.
fn send(mut up: TcpStream, stopped: &Receiver<()>, Pieces { bytes, pace }: Pieces) -> Result<u64> {
    let mut count: u64 = 0;
    loop {
        let piece = format!("{count:0digits$}\n", digits = bytes.saturating_sub(1));
        write!(up, "{:x}\r\n{piece}\r\n", piece.len()).context("cannot send a piece")?;
        count += 1;
        match stopped.recv_timeout(pace) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    write!(up, "0\r\n\r\n").context("cannot end the request")?;
    Ok(count)
}

/// Reads the answer to its end.
fn receive(stream: TcpStream, seen: &Mutex<Seen>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let status = read_line(&mut stream)?;
    ensure!(status.starts_with("HTTP/1.1 200 "), "{status}");
    let mut is_chunked = false;
    loop {
        let line = read_line(&mut stream)?.to_lowercase();
        is_chunked |= line == "transfer-encoding: chunked";
        if line.is_empty() {
            break;
        }
    }
    ensure!(is_chunked, "the answer is not chunked");
    let mut rest = Vec::new();
    loop {
        let length = usize::from_str_radix(&read_line(&mut stream)?, 16).context("no length of a chunk")?;
        if length == 0 {
            ensure!(rest.is_empty(), "a piece is cut off");
            return Ok(());
        }
        let begin = rest.len();
        rest.resize(begin + length, 0);
        stream.read_exact(rest.get_mut(begin..).unwrap_or_default()).context("a chunk is cut off")?;
        ensure!(read_line(&mut stream)?.is_empty(), "a chunk is longer than it says");
        let end = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let pieces: Vec<u8> = rest.drain(..end).collect();
        note(std::str::from_utf8(&pieces)?, seen)?;
    }
}

fn note(pieces: &str, seen: &Mutex<Seen>) -> Result<()> {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    for piece in pieces.lines() {
        if piece.parse() != Ok(seen.pieces) {
            bail!("piece {piece} came where {} was due", seen.pieces);
        }
        seen.pieces += 1;
        if let Some(last) = seen.last.replace(now) {
            seen.longest_pause = seen.longest_pause.max(now.saturating_duration_since(last));
        }
    }
    Ok(())
}

fn read_line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).context("the stream broke")?;
    let line = line.strip_suffix("\r\n").context("the stream ended")?;
    Ok(line.to_owned())
}
