//! The frames of an engine, taken apart into lines.

use std::collections::VecDeque;
use std::time::SystemTime;

use super::{LogLine, LogStream, MAX_LOG_LINE_BYTES};

/// Bytes before each frame.
const HEADER_BYTES: usize = 8;

/// Longest time at the beginning of a frame, in bytes: RFC 3339 with nanoseconds and an offset has 35.
const MAX_STAMP_BYTES: usize = 40;

/// Takes the outputs of a container apart.
#[derive(Debug)]
pub(super) struct Demultiplexer {
    has_terminal: bool,
    /// What has come of the header of the next frame.
    header: Vec<u8>,
    /// Bytes of the frame that are still to come, and whose they are.
    left: usize,
    stream: LogStream,
    /// What has come of the time that the frame begins with; `None` behind it.
    stamp: Option<Vec<u8>>,
    /// The time of the frame.
    at: Option<SystemTime>,
    /// The time of the last frame of all, and of the last one that was read already.
    last: Option<SystemTime>,
    after: Option<SystemTime>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Demultiplexer {
    pub(super) fn new(has_terminal: bool) -> Self {
        Self {
            has_terminal,
            header: Vec::with_capacity(HEADER_BYTES),
            left: 0,
            stream: LogStream::Stdout,
            stamp: None,
            at: None,
            last: None,
            after: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Adds the lines that end in `bytes` to `lines`; an error is the kind of a frame that is none.
    pub(super) fn read(&mut self, mut bytes: &[u8], lines: &mut VecDeque<LogLine>) -> Result<(), u8> {
        if self.has_terminal {
            self.write(bytes, lines);
            return Ok(());
        }
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = HEADER_BYTES.saturating_sub(self.header.len());
                let (part, rest) = bytes.split_at_checked(missing).unwrap_or((bytes, &[]));
                self.header.extend_from_slice(part);
                bytes = rest;
                self.begin_frame()?;
            } else {
                let (part, rest) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
                self.left = self.left.saturating_sub(part.len());
                self.read_part(part, lines);
                bytes = rest;
            }
        }
        Ok(())
    }

    /// Reads the header once all of it has come.
    fn begin_frame(&mut self) -> Result<(), u8> {
        let [kind, _, _, _, length @ ..] = self.header.as_slice() else { return Ok(()) };
        let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok(()) };
        self.stream = match *kind {
            0 | 1 => LogStream::Stdout,
            // 3 is what the engine itself has to say.
            2 | 3 => LogStream::Stderr,
            kind => return Err(kind),
        };
        self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        self.header.clear();
        (self.stamp, self.at) = ((self.left > 0).then(Vec::new), None);
        Ok(())
    }

    /// Reads a part of a frame: its time first, and then text.
    fn read_part(&mut self, part: &[u8], lines: &mut VecDeque<LogLine>) {
        let Some(mut stamp) = self.stamp.take() else {
            self.write_new(part, lines);
            return;
        };
        let mut words = part.splitn(2, |byte| *byte == b' ');
        let (word, rest) = (words.next().unwrap_or_default(), words.next());
        stamp.extend_from_slice(word);
        match rest {
            Some(rest) if is_stamp(&stamp) => {
                let text = std::str::from_utf8(&stamp).unwrap_or_default();
                self.at = humantime::parse_rfc3339(text).ok();
                self.write_new(rest, lines);
            }
            None if self.left > 0 && stamp.len() <= MAX_STAMP_BYTES => self.stamp = Some(stamp),
            // An engine that does not say times.
            rest => {
                self.write_new(&stamp, lines);
                if let Some(rest) = rest {
                    self.write_new(b" ", lines);
                    self.write_new(rest, lines);
                }
            }
        }
    }

    /// Writes what was not read before.
    fn write_new(&mut self, bytes: &[u8], lines: &mut VecDeque<LogLine>) {
        if self.after.is_none() || self.at > self.after {
            self.last = self.at.or(self.last);
            self.write(bytes, lines);
        }
    }

    /// Makes it ready for the rest: from now on only later frames count. `None` where no frame had a time.
    pub(super) fn begin_rest(&mut self) -> Option<SystemTime> {
        self.header.clear();
        (self.left, self.stamp, self.after) = (0, None, self.last);
        self.last
    }

    fn write(&mut self, bytes: &[u8], lines: &mut VecDeque<LogLine>) {
        let (stream, at) = (self.stream, self.at);
        let to_line = |bytes: &[u8], is_whole| LogLine { stream, at, bytes: bytes.to_vec(), is_whole };
        let line = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let mut text = text;
            loop {
                let room = MAX_LOG_LINE_BYTES.saturating_sub(line.len());
                let Some((fits, rest)) = text.split_at_checked(room).filter(|(_, rest)| !rest.is_empty())
                else {
                    line.extend_from_slice(text);
                    break;
                };
                line.extend_from_slice(fits);
                text = rest;
                let goes_on = line.split_off(boundary(line));
                lines.push_back(to_line(line, false));
                *line = goes_on;
            }
            if ends {
                lines.push_back(to_line(line.strip_suffix(b"\r").unwrap_or(line), true));
                line.clear();
            }
        }
    }

    /// Adds what no end of line came for; it may go on in another stream, where the engine broke this one off.
    pub(super) fn finish(&mut self, lines: &mut VecDeque<LogLine>) {
        for (stream, rest) in [(LogStream::Stdout, &mut self.stdout), (LogStream::Stderr, &mut self.stderr)] {
            if !rest.is_empty() {
                let bytes = std::mem::take(rest);
                lines.push_back(LogLine { stream, at: self.at, bytes, is_whole: false });
            }
        }
    }
}

/// Where a piece that is too long is cut: not within a character.
fn boundary(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    }
}

/// Whether a word can be a time as RFC 3339 writes it.
fn is_stamp(word: &[u8]) -> bool {
    let is_char = |byte: &u8| byte.is_ascii_digit() || b"-:.+TZ".contains(byte);
    (20..=MAX_STAMP_BYTES).contains(&word.len()) && word.iter().all(is_char) && word.get(10) == Some(&b'T')
}

#[cfg(test)]
mod tests;
