//! The network device that smoltcp sees: one packet in, a queue of packets out.
//!
//! Buffers of sent packets come back through [`PacketDevice::recycle`], so that a busy stack
//! allocates nothing per packet.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Buffers kept for reuse; more than one turn of the engine ever fills.
const SPARE_BUFFERS: usize = 1024;

/// Carries IP packets between the driver and smoltcp.
#[derive(Debug)]
pub(crate) struct PacketDevice {
    mtu: usize,
    rx: Option<Vec<u8>>,
    read: Option<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
}

impl PacketDevice {
    /// Makes a device whose packets are at most `mtu` bytes long.
    pub(crate) const fn new(mtu: u16) -> Self {
        Self { mtu: usize_of(mtu), rx: None, read: None, tx: VecDeque::new(), spare: Vec::new() }
    }

    /// Puts the one packet that the next ingress poll takes.
    pub(crate) fn offer(&mut self, packet: Vec<u8>) {
        self.rx = Some(packet);
    }

    /// Takes the buffer of the packet that was read last, to be used again.
    pub(crate) fn reclaim(&mut self) -> Vec<u8> {
        self.read.take().or_else(|| self.rx.take()).unwrap_or_default()
    }

    /// Takes the oldest packet that smoltcp sent.
    pub(crate) fn take(&mut self) -> Option<Vec<u8>> {
        self.tx.pop_front()
    }

    /// Gives a buffer back that [`Self::take`] handed out.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS {
            self.spare.push(buffer);
        }
    }
}

#[expect(clippy::as_conversions, reason = "widening, and `usize::from` is not const")]
const fn usize_of(mtu: u16) -> usize {
    mtu as usize
}

impl Device for PacketDevice {
    type RxToken<'a> = Packet<'a>;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Packet<'_>, Sender<'_>)> {
        let packet = Packet { data: self.rx.take()?, read: &mut self.read };
        Some((packet, Sender { tx: &mut self.tx, spare: &mut self.spare }))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Sender<'_>> {
        Some(Sender { tx: &mut self.tx, spare: &mut self.spare })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A received packet.
pub(crate) struct Packet<'a> {
    data: Vec<u8>,
    read: &'a mut Option<Vec<u8>>,
}

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.data);
        *self.read = Some(self.data);
        result
    }
}

/// The right to send one packet.
pub(crate) struct Sender<'a> {
    tx: &'a mut VecDeque<Vec<u8>>,
    spare: &'a mut Vec<Vec<u8>>,
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.resize(length, 0);
        let result = write(&mut buffer);
        self.tx.push_back(buffer);
        result
    }
}
