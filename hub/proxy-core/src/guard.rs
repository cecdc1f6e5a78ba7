//! Strict reading of HTTP/1 framing, before the HTTP library sees a byte.
//!
//! Two servers that disagree about where a request ends let one client's bytes become another
//! client's request. Libraries forgive much for the sake of old clients; this guard forgives nothing
//! (RFC 9112 without its leniencies). What it passes has one reading:
//!
//! - lines end in CRLF, a request line has two single spaces, names are tokens up to the colon;
//! - no folded lines, no control characters;
//! - one `Content-Length` in digits, or one `Transfer-Encoding: chunked` on HTTP/1.1, never both;
//! - chunk sizes are hexadecimal digits and nothing else, chunks end where they say.
//!
//! A head passes whole or not at all. It is told bytes and tells how many may go on; it holds none.

mod chunks;
mod frames;
mod head;

pub use frames::{FrameFault, FrameGuard};

use chunks::Chunks;
use head::{Body, HeadScan};

pub(crate) use head::{decimal, field_line, field_parts, in_line, next_line, raw_line};

/// Longest head, from the request line to the empty line; also of the trailers.
pub const MAX_HEAD: usize = crate::MAX_HEADER_BYTES;

/// What is wrong with the framing; the text goes to logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramingFault {
    /// A line feed without a carriage return, or the reverse.
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// Not `METHOD SP TARGET SP HTTP/1.x`.
    #[error("the request line cannot be read")]
    RequestLine,
    /// Not `HTTP/1.x SP 3DIGIT`; only of answers.
    #[error("the status line cannot be read")]
    StatusLine,
    /// No colon, no token before it, or a space between them; also folded lines.
    #[error("a header line cannot be read")]
    HeaderLine,
    /// A control character.
    #[error("a header value has a control character")]
    HeaderValue,
    /// More than one `Content-Length`, or not a number.
    #[error("the content length has no single reading")]
    Length,
    /// More than one `Transfer-Encoding`, another than `chunked`, or on HTTP/1.0.
    #[error("the transfer encoding is not one 'chunked'")]
    Encoding,
    /// `Content-Length` and `Transfer-Encoding`.
    #[error("the request has both a content length and a transfer encoding")]
    Both,
    /// A chunk's size, extension or end.
    #[error("a chunk of the body cannot be read")]
    Chunk,
    /// Longer than [`MAX_HEAD`] with its request line, or more lines than [`crate::MAX_HEADERS`].
    #[error("the head of the request is too large")]
    TooLarge,
    /// Its end did not come in time; the driver says so, who has a clock.
    #[error("the head of the request took too long")]
    TooSlow,
}

/// What may happen with the bytes at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes from the front go on; more than zero.
    Pass(usize),
    /// Nothing goes on before more bytes are there.
    More,
    /// An upgrade was asked for: nothing goes on before [`Guard::upgrade`] or [`Guard::resume`].
    Hold,
    /// The connection has no further meaning.
    Fault(FramingFault),
}

#[derive(Debug)]
enum State {
    Head(HeadScan),
    Sized(u64),
    Chunked(Chunks),
    Held,
    Raw,
    Faulty(FramingFault),
}

/// Reads one connection from its first byte on.
#[derive(Debug)]
pub struct Guard {
    state: State,
    heads: u64,
}

impl Default for Guard {
    fn default() -> Self {
        Self { state: State::Head(HeadScan::default()), heads: 0 }
    }
}

impl Guard {
    /// Tells what may happen with `bytes`, which start where the bytes that passed ended.
    ///
    /// After [`Step::More`] the same bytes come again with more behind them; they are not read twice.
    pub fn step(&mut self, bytes: &[u8]) -> Step {
        if bytes.is_empty() {
            return Step::More;
        }
        let step = match &mut self.state {
            State::Raw => Step::Pass(bytes.len()),
            State::Held => Step::Hold,
            State::Faulty(fault) => Step::Fault(*fault),
            State::Sized(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left = left.saturating_sub(u64::try_from(here).unwrap_or(u64::MAX));
                if *left == 0 {
                    self.state = State::Head(HeadScan::default());
                }
                Step::Pass(here)
            }
            State::Chunked(chunks) => match chunks.step(bytes) {
                Ok(passed) => {
                    if chunks.is_done() {
                        self.state = State::Head(HeadScan::default());
                    }
                    if passed == 0 { Step::More } else { Step::Pass(passed) }
                }
                Err(fault) => Step::Fault(fault),
            },
            State::Head(scan) => match scan.step(bytes) {
                Ok(None) => Step::More,
                Ok(Some(head)) => {
                    self.heads = self.heads.saturating_add(1);
                    self.state = match head.body {
                        Body::None if head.upgrade => State::Held,
                        Body::None | Body::Sized(0) => State::Head(HeadScan::default()),
                        Body::Sized(length) => State::Sized(length),
                        Body::Chunked => State::Chunked(Chunks::default()),
                    };
                    Step::Pass(head.length)
                }
                Err(fault) => Step::Fault(fault),
            },
        };
        if let Step::Fault(fault) = step {
            self.state = State::Faulty(fault);
        }
        step
    }

    /// Heads that passed so far.
    #[must_use]
    pub const fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether the next byte belongs to a head, or begins one.
    #[must_use]
    pub const fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Whether the next byte belongs to a body.
    #[must_use]
    pub const fn is_in_body(&self) -> bool {
        matches!(self.state, State::Sized(_) | State::Chunked(_))
    }

    /// Bytes of a sized body that pass without a look at them; 0 where the next byte matters.
    #[must_use]
    pub const fn unread(&self) -> u64 {
        match self.state {
            State::Sized(left) => left,
            State::Raw => u64::MAX,
            State::Head(_) | State::Chunked(_) | State::Held | State::Faulty(_) => 0,
        }
    }

    /// Notes bytes that passed by [`Self::unread`].
    pub fn skip(&mut self, count: u64) {
        if let State::Sized(left) = &mut self.state {
            *left = left.saturating_sub(count);
            if *left == 0 {
                self.state = State::Head(HeadScan::default());
            }
        }
    }

    /// The upgrade happened: from here on bytes are another protocol's.
    pub fn upgrade(&mut self) {
        if matches!(self.state, State::Held) {
            self.state = State::Raw;
        }
    }

    /// It did not: the next request follows.
    pub fn resume(&mut self) {
        if matches!(self.state, State::Held) {
            self.state = State::Head(HeadScan::default());
        }
    }
}
