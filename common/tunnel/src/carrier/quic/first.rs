//! What the first packet of a QUIC connection asks for, read without keeping anything of it.
//!
//! The keys of such a packet follow from what it shows in clear (RFC 9001, section 5.2): they hide nothing, but what they
//! do not open is broken. The TLS library reads the message inside, so that there is no second reader of TLS here.

use rustls::Side;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{Suite, Version};
use rustls::server::Acceptor;

use crate::carrier::ALPN;

/// Shortest datagram that may begin a connection (RFC 9000, section 14.1).
const FIRST_BYTES_MIN: usize = 1200;
/// Longest connection id of version 1.
const ID_BYTES_MAX: usize = 20;
/// Length of the ids that the library makes for our ends, which packets with a short header do not say.
pub(super) const OWN_ID_BYTES: usize = 8;
/// Pieces in which a client may send its first message; some cut it up so that nobody relies on its order.
const PIECES_MAX: usize = 64;
/// Head of a TLS record that holds a handshake message; its length follows.
const RECORD_HEAD: [u8; 3] = [22, 3, 1];

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A link: its first message is whole and offers [`ALPN`].
    Link,
    /// Something else, or its first message goes on in the next datagram. Ours fit into one.
    Other,
    /// The packet is not what its head says, so no server could take it.
    Broken,
}

/// The connection id that a datagram is for, where there is one.
pub(super) fn destination(datagram: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(datagram);
    if reader.byte()? & 0x80 == 0 {
        return reader.take(OWN_ID_BYTES);
    }
    reader.take(4)?;
    reader.id()
}

/// Whether a datagram begins like one that may begin a connection of version 1.
pub(super) fn is_first(datagram: &[u8]) -> bool {
    datagram.len() >= FIRST_BYTES_MIN && matches!(datagram, [first, 0, 0, 0, 1, ..] if first & 0xf0 == 0xc0)
}

/// Reads first packets.
pub(super) struct FirstPackets {
    suite: Suite,
}

impl FirstPackets {
    /// `None` where the TLS library does not have the suite that every QUIC begins with.
    pub(super) fn new() -> Option<Self> {
        Some(Self { suite: TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()? })
    }

    /// What the client that sent this datagram asks for; the datagram is one that [`is_first`] is true of.
    pub(super) fn read(&self, datagram: &[u8]) -> Asked {
        let opened = Head::read(datagram).and_then(|head| self.open(datagram, &head));
        match opened.as_deref().map(offers_link) {
            None => Asked::Broken,
            Some(Some(true)) => Asked::Link,
            Some(Some(false) | None) => Asked::Other,
        }
    }

    /// The frames inside.
    fn open(&self, datagram: &[u8], head: &Head<'_>) -> Option<Vec<u8>> {
        let keys = self.suite.keys(head.destination, Side::Server, Version::V1).remote;
        let mut packet = datagram.get(..head.end)?.to_vec();
        let sample = packet.get(head.number_at.checked_add(4)?..)?.get(..keys.header.sample_len())?.to_vec();
        let (before, number) = packet.split_at_mut_checked(head.number_at)?;
        let first = before.first_mut()?;
        keys.header.decrypt_in_place(&sample, first, number.get_mut(..4)?).ok()?;
        let number_bytes = usize::from(*first & 0b11).checked_add(1)?;
        let number =
            number.get(..number_bytes)?.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte));
        let payload_at = head.number_at.checked_add(number_bytes)?;
        let (header, payload) = packet.split_at_mut_checked(payload_at)?;
        let frames = keys.packet.decrypt_in_place(number, header, payload).ok()?.len();
        let mut frames_and_tag = packet.split_off(payload_at);
        frames_and_tag.truncate(frames);
        Some(frames_and_tag)
    }
}

impl std::fmt::Debug for FirstPackets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FirstPackets")
    }
}

/// What a first packet shows in clear (RFC 9000, section 17.2.2).
struct Head<'d> {
    destination: &'d [u8],
    /// Where the packet's number begins.
    number_at: usize,
    /// Where the packet ends; others may follow in its datagram.
    end: usize,
}

impl<'d> Head<'d> {
    fn read(datagram: &'d [u8]) -> Option<Self> {
        let mut reader = Reader(datagram);
        reader.take(5)?;
        let destination = reader.id()?;
        reader.id()?;
        let token = reader.length()?;
        reader.take(token)?;
        let length = reader.length()?;
        let number_at = datagram.len().checked_sub(reader.0.len())?;
        reader.take(length)?;
        Some(Self { destination, number_at, end: number_at.checked_add(length)? })
    }
}

/// Whether these frames hold a whole first message of TLS that offers our protocol; `None` where they hold none.
fn offers_link(frames: &[u8]) -> Option<bool> {
    let message = message(frames)?;
    let length = u16::try_from(message.len()).ok()?.to_be_bytes();
    let record = [&RECORD_HEAD[..], &length, &message].concat();
    let mut acceptor = Acceptor::default();
    let mut rest = record.as_slice();
    while !rest.is_empty() && acceptor.read_tls(&mut rest).ok()? > 0 {}
    let accepted = acceptor.accept().ok()??;
    let mut offered = accepted.client_hello().alpn()?;
    Some(offered.any(|protocol| protocol == ALPN))
}

/// The bytes of the handshake in these frames, from its first one on; `None` where some in between are missing.
fn message(frames: &[u8]) -> Option<Vec<u8>> {
    let mut reader = Reader(frames);
    let mut pieces = Vec::new();
    while let Some(kind) = reader.byte() {
        match kind {
            // PADDING and PING.
            0 | 1 => {}
            // CRYPTO.
            6 if pieces.len() < PIECES_MAX => {
                let (at, length) = (reader.length()?, reader.length()?);
                pieces.push((at, reader.take(length)?));
            }
            // Nothing else is in the first packet of a client.
            _ => return None,
        }
    }
    pieces.sort_unstable_by_key(|(at, _)| *at);
    let mut message = Vec::with_capacity(frames.len());
    for (at, piece) in pieces {
        let known = message.len().checked_sub(at)?;
        message.extend_from_slice(piece.get(known..).unwrap_or_default());
    }
    Some(message)
}

/// What is left of bytes that are read from the front.
struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    fn take(&mut self, count: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A connection id and its length before it.
    fn id(&mut self) -> Option<&'d [u8]> {
        let length = usize::from(self.byte()?);
        if length > ID_BYTES_MAX { None } else { self.take(length) }
    }

    /// A number of one to eight bytes (RFC 9000, section 16) that counts bytes here.
    fn length(&mut self) -> Option<usize> {
        let first = self.byte()?;
        let more = self.take((1_usize << (first >> 6)).saturating_sub(1))?;
        let number =
            more.iter().fold(u64::from(first & 0x3f), |number, byte| (number << 8) | u64::from(*byte));
        usize::try_from(number).ok()
    }
}

#[cfg(test)]
mod tests;
