//! What a client of HTTP/2 sends beside requests and bodies, counted before the HTTP library reads it.
//!
//! Frames that move nothing cost the server work: an answer to each PING and SETTINGS, a stream made and
//! unmade for each reset. Each such frame takes from a budget; time and real work fill it again:
//!
//! - *resets*: `RST_STREAM` takes one; an answer that was sent to its end gives one (CVE-2023-44487);
//! - *frames*: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, CONTINUATION, empty DATA and unknown ones take one;
//!   a frame of an answer gives four and a frame of a body two, since honest clients return a few
//!   WINDOW_UPDATE and PING for those.
//!
//! The library itself bounds streams, header lists, CONTINUATION per list, and streams that it reset.

use std::time::{Duration, Instant};

/// Length of what a client says first (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Resets at once, and time in which one more is allowed: fifty times what a person who clicks away does.
const RESETS: (u32, Duration) = (500, Duration::from_millis(20));

/// Other frames at once, and time in which one more is allowed.
const FRAMES: (u32, Duration) = (1000, Duration::from_millis(10));

/// Which budget a client has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// It takes back more requests than it lets be answered.
    #[error("too many streams are reset")]
    Resets,
    /// It sends frames that move nothing.
    #[error("too many frames without a request or a body")]
    Frames,
}

/// One connection of HTTP/2, from its first byte on.
#[derive(Debug)]
pub struct FrameMeter {
    received: Frames,
    sent: Frames,
    resets: Budget,
    frames: Budget,
    head: Option<Instant>,
    /// The frame at hand is the last of a head.
    ends_head: bool,
}

impl FrameMeter {
    /// A connection that begins now.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            received: Frames::after(PREFACE),
            sent: Frames::after(0),
            resets: Budget::full(RESETS, now),
            frames: Budget::full(FRAMES, now),
            head: None,
            ends_head: false,
        }
    }

    /// Notes bytes of the client.
    ///
    /// # Errors
    ///
    /// The budget that is used up; the connection has to end.
    pub fn receive(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), FrameFault> {
        while self.received.skip(&mut bytes) {
            if self.ends_head {
                (self.head, self.ends_head) = (None, false);
            }
            let Some(frame) = self.received.begin(&mut bytes) else { break };
            match frame.kind {
                Kind::Data if frame.length > 0 => self.frames.give(2),
                Kind::Data if frame.ends_stream => {}
                Kind::Headers | Kind::Continuation => {
                    self.head.get_or_insert(now);
                    self.ends_head = frame.ends_head;
                    if frame.kind == Kind::Continuation {
                        self.frames.take(now).map_err(|()| FrameFault::Frames)?;
                    }
                }
                Kind::Reset => self.resets.take(now).map_err(|()| FrameFault::Resets)?,
                Kind::Data | Kind::Other => self.frames.take(now).map_err(|()| FrameFault::Frames)?,
            }
        }
        Ok(())
    }

    /// Notes bytes that the client was sent.
    pub fn send(&mut self, mut bytes: &[u8]) {
        while self.sent.skip(&mut bytes) {
            let Some(frame) = self.sent.begin(&mut bytes) else { break };
            match frame.kind {
                Kind::Data | Kind::Headers => {
                    self.frames.give(4);
                    self.resets.give(u32::from(frame.ends_stream));
                }
                Kind::Reset | Kind::Continuation | Kind::Other => {}
            }
        }
    }

    /// When the head began of which a part is missing; `None` between heads.
    #[must_use]
    pub const fn head_since(&self) -> Option<Instant> {
        self.head
    }
}

/// A bounded number of things, of which more become allowed as time goes by.
#[derive(Debug)]
struct Budget {
    left: u32,
    most: u32,
    interval: Duration,
    /// When `left` was right.
    as_of: Instant,
}

impl Budget {
    const fn full((most, interval): (u32, Duration), now: Instant) -> Self {
        Self { left: most, most, interval, as_of: now }
    }

    fn give(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    fn take(&mut self, now: Instant) -> Result<(), ()> {
        if self.left == 0 {
            let since = now.saturating_duration_since(self.as_of).as_nanos();
            let grown = since.checked_div(self.interval.as_nanos()).unwrap_or(0);
            self.give(u32::try_from(grown).unwrap_or(u32::MAX));
            self.as_of = now;
        }
        self.left = self.left.checked_sub(1).ok_or(())?;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Headers,
    Reset,
    Continuation,
    Other,
}

/// The first nine bytes of a frame, as far as they matter here (RFC 9113, section 4.1).
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    kind: Kind,
    length: usize,
    ends_stream: bool,
    ends_head: bool,
}

impl FrameHead {
    fn read([a, b, c, kind, flags, ..]: [u8; 9]) -> Self {
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            3 => Kind::Reset,
            9 => Kind::Continuation,
            _ => Kind::Other,
        };
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        Self { kind, length, ends_stream: flags & 0x1 != 0, ends_head: flags & 0x4 != 0 }
    }
}

/// Finds the frames in a stream of bytes; looks at their first nine bytes and skips the rest.
#[derive(Debug)]
struct Frames {
    head: [u8; 9],
    filled: usize,
    /// Bytes of the frame at hand that are still to come.
    missing: usize,
}

impl Frames {
    const fn after(missing: usize) -> Self {
        Self { head: [0; 9], filled: 0, missing }
    }

    /// Takes the rest of the frame at hand; false where it goes on after `bytes`.
    fn skip(&mut self, bytes: &mut &[u8]) -> bool {
        let skipped = self.missing.min(bytes.len());
        self.missing = self.missing.saturating_sub(skipped);
        *bytes = bytes.get(skipped..).unwrap_or_default();
        self.missing == 0
    }

    /// Takes the beginning of the next frame; `None` where a part of it is still to come.
    fn begin(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        while let Some(place) = self.head.get_mut(self.filled) {
            let (first, rest) = bytes.split_first()?;
            *place = *first;
            self.filled = self.filled.saturating_add(1);
            *bytes = rest;
        }
        self.filled = 0;
        let frame = FrameHead::read(self.head);
        self.missing = frame.length;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;
    use proptest::prelude::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const PING: u8 = 6;
    const CONTINUATION: u8 = 9;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.extend(vec![7; usize::from(length)]);
        bytes
    }

    fn opened(now: Instant) -> FrameMeter {
        let mut meter = FrameMeter::new(now);
        meter.receive(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", now).unwrap();
        meter
    }

    /// How many of these frames pass at one moment.
    fn passed(meter: &mut FrameMeter, bytes: &[u8], now: Instant) -> (usize, FrameFault) {
        let mut count = 0;
        loop {
            match meter.receive(bytes, now) {
                Ok(()) => count += 1,
                Err(fault) => return (count, fault),
            }
        }
    }

    #[test]
    fn what_moves_nothing_is_bounded_and_time_allows_more() {
        let start = Instant::now();
        for kind in [PING, 2, 4, 8, CONTINUATION, 77, DATA] {
            let mut meter = opened(start);
            assert_eq!(passed(&mut meter, &frame(kind, 0, 0), start), (1000, FrameFault::Frames), "{kind}");
            let later = start + Duration::from_secs(1);
            assert_eq!(passed(&mut meter, &frame(kind, 0, 0), later).0, 100, "{kind}");
        }
        let mut meter = opened(start);
        assert_eq!(passed(&mut meter, &frame(RESET, 0, 4), start), (500, FrameFault::Resets));
    }

    #[test]
    fn answers_and_bodies_pay_for_what_belongs_to_them() {
        let start = Instant::now();
        let mut meter = opened(start);
        for _ in 0..100_000 {
            meter.send(&frame(DATA, 0, 200));
            for _ in 0..2 {
                meter.receive(&frame(8, 0, 4), start).unwrap();
            }
            meter.receive(&frame(PING, 0, 8), start).unwrap();
            meter.receive(&frame(DATA, 0, 1), start).unwrap();
        }
        for _ in 0..100_000 {
            meter.send(&frame(HEADERS, 0x5, 30));
            meter.receive(&frame(RESET, 0, 4), start).unwrap();
        }
    }

    #[test]
    fn a_head_is_open_from_its_first_frame_to_the_end_of_its_last() {
        let start = Instant::now();
        let mut meter = opened(start);
        meter.receive(&frame(HEADERS, 0, 10), start).unwrap();
        assert_eq!(meter.head_since(), Some(start));
        let later = start + Duration::from_secs(3);
        let last = frame(CONTINUATION, 0x4, 10);
        meter.receive(&last[..12], later).unwrap();
        assert_eq!(meter.head_since(), Some(start));
        meter.receive(&last[12..], later).unwrap();
        assert_eq!(meter.head_since(), None);
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            frames in prop::collection::vec((0u8..12, any::<u8>(), 0u8..40), 0..200),
            cuts in prop::collection::vec(1usize..50, 1..100),
        ) {
            let start = Instant::now();
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, *length)).collect();
            let (mut whole, mut pieces) = (opened(start), opened(start));
            whole.receive(&bytes, start).unwrap();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, next) = rest.split_at((*cut).min(rest.len()));
                pieces.receive(piece, start).unwrap();
                rest = next;
            }
            prop_assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
        }
    }
}
