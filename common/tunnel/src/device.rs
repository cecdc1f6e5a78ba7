//! The network device that smoltcp sees: one packet lent to it, and packets written where they are wanted.
//!
//! It lives as long as one call of the netstack. A packet that comes in is lent as it lies in its batch; a
//! packet that goes out is written by smoltcp into the buffer that the [`Sink`] lends, such as the one it is
//! sealed in. Checksums are `checksum`'s: smoltcp neither reads nor writes those of IPv4, TCP and UDP.

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::checksum;
use crate::segment::{Ip, Segment};
use crate::track::Track;

/// Where packets for the peers go.
pub(crate) trait Sink {
    /// True where [`Self::emit`] can take a packet of the tunnel's MTU.
    ///
    /// A flow that finds no room keeps what it has to send until the netstack is called again.
    fn has_room(&mut self) -> bool;

    /// Lends `length` bytes of any content to `write`, once, and sends what it made of them.
    fn emit<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R;
}

/// Calls a function with each packet, which lies in one buffer that is used again and again.
#[derive(Debug)]
pub(crate) struct Copying<F> {
    buffer: Vec<u8>,
    take: F,
}

impl<F: FnMut(&[u8])> Copying<F> {
    pub(crate) const fn new(take: F) -> Self {
        Self { buffer: Vec::new(), take }
    }
}

impl<F: FnMut(&[u8])> Sink for Copying<F> {
    fn has_room(&mut self) -> bool {
        true
    }

    fn emit<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        self.buffer.resize(length, 0);
        let result = write(&mut self.buffer);
        (self.take)(&self.buffer);
        result
    }
}

/// Carries IP packets between the netstack's caller and smoltcp.
pub(crate) struct Wire<'a, S> {
    mtu: usize,
    packet: Option<&'a [u8]>,
    sink: &'a mut S,
    /// Learns what the flow sends.
    track: Option<&'a mut Track>,
    /// Answers for which the sink had no room.
    dropped: u64,
}

impl<'a, S: Sink> Wire<'a, S> {
    /// Makes a device whose packets are at most `mtu` bytes long.
    pub(crate) fn new(mtu: u16, sink: &'a mut S) -> Self {
        Self { mtu: mtu.into(), packet: None, sink, track: None, dropped: 0 }
    }

    /// Lets `track` see what is sent.
    pub(crate) const fn tracked(mut self, track: &'a mut Track) -> Self {
        self.track = Some(track);
        self
    }

    /// Puts the one packet that the next ingress poll takes.
    pub(crate) const fn offering(mut self, packet: &'a [u8]) -> Self {
        self.packet = Some(packet);
        self
    }

    /// True where the sink takes another packet.
    pub(crate) fn has_room(&mut self) -> bool {
        self.sink.has_room()
    }

    /// Answers dropped because the sink had no room.
    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    const fn sender(&mut self) -> Sender<'_, S> {
        let track = match &mut self.track {
            Some(track) => Some(&mut **track),
            None => None,
        };
        Sender { sink: self.sink, track, dropped: &mut self.dropped }
    }
}

impl<S: Sink> Device for Wire<'_, S> {
    type RxToken<'b>
        = Packet<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sender<'b, S>
    where
        Self: 'b;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Packet<'_>, Sender<'_, S>)> {
        let packet = Packet(self.packet.take()?);
        Some((packet, self.sender()))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Sender<'_, S>> {
        self.sink.has_room().then(|| self.sender())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.ipv4 = Checksum::None;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}

/// A received packet.
pub(crate) struct Packet<'a>(&'a [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// The right to send one packet.
pub(crate) struct Sender<'a, S> {
    sink: &'a mut S,
    track: Option<&'a mut Track>,
    dropped: &'a mut u64,
}

impl<S: Sink> TxToken for Sender<'_, S> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let Self { sink, track, dropped } = self;
        let note = |packet: &[u8]| {
            // smoltcp takes every packet for sent.
            if let Some(track) = track
                && let Some(segment) = Ip::parse(packet).and_then(|ip| Segment::read(packet, &ip))
            {
                track.note_sent(&segment);
            }
        };
        if !sink.has_room() {
            // Only an answer comes here: smoltcp takes the token for it before it knows whether there is one.
            *dropped += 1;
            let mut buffer = vec![0; length];
            let result = write(&mut buffer);
            note(&buffer);
            return result;
        }
        sink.emit(length, |buffer| {
            let result = write(buffer);
            note(buffer);
            checksum::fill(buffer);
            result
        })
    }
}
