//! Single packets gathered into the superpackets a TUN device takes.
//!
//! Nothing is copied: what leaves is a list of ranges, the whole first packet and the payloads of those behind it,
//! for a gathered write.
//!
//! ```text
//!   add(packet) --+-- fits the open group of its flow ----> joins; a short or pushed segment closes it
//!                 +-- is of an open flow, does not fit ---> the group leaves, then it leaves or opens one
//!                 +-- its flow cannot be told -----------> all groups leave, then it leaves
//!   flush --------+-- all groups leave, the oldest first
//! ```
//!
//! # Invariants
//!
//! - Packets of one flow leave in the order they came, including those that are never merged.
//! - A packet joins only where the kernel's own GRO would let it, and both it and the group's first have verified
//!   checksums: the partial checksum of a superpacket would hide a wrong one.
//! - Between a packet's [`Merger::add`] and the next [`Merger::flush`] the bytes in its range are not the caller's.

mod group;
mod segment;

use std::ops::Range;

use super::VnetHeader;
use group::Group;
use segment::{Class, Key, Segment};

/// Flows that are gathered at a time. More push out the oldest.
pub const MAX_GROUPS: usize = 8;

/// Packets in one superpacket at most: 64 KiB of 512 bytes, and far from the 1024 parts of one gathered write.
pub const MAX_SEGMENTS: usize = 128;

/// Segments of a UDP superpacket at most (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MAX_UDP_SEGMENTS: usize = 64;

/// What may be gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeLimits {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams, which needs a kernel with USO on TUN devices (Linux 6.2).
    pub udp: bool,
    /// Bytes of a superpacket from its IP header on; at most 65 535.
    pub max_bytes: usize,
    /// Packets in a superpacket, at most [`MAX_SEGMENTS`]; less than two merges nothing.
    pub max_segments: usize,
}

/// Gathers the packets of one batch. One buffer is used from the first [`Self::add`] to [`Self::flush`].
#[derive(Debug)]
pub struct Merger {
    limits: MergeLimits,
    /// The flow of each slot, apart from the slots so that a look-up reads little memory.
    keys: [Key; MAX_GROUPS],
    /// When each slot's group was opened, counted in groups.
    born: [u64; MAX_GROUPS],
    groups: [Group; MAX_GROUPS],
    opened: u64,
    /// Groups that are open.
    held: usize,
}

impl Merger {
    /// A merger without open groups: about 16 KiB, all it ever takes.
    #[must_use]
    pub fn new(limits: MergeLimits) -> Self {
        let limits = MergeLimits {
            max_bytes: limits.max_bytes.min(usize::from(u16::MAX)),
            max_segments: limits.max_segments.min(MAX_SEGMENTS),
            ..limits
        };
        let groups = std::array::from_fn(|_| Group::empty());
        Self { limits, keys: [Key::FREE; MAX_GROUPS], born: [0; MAX_GROUPS], groups, opened: 0, held: 0 }
    }

    /// Takes the packet in `range` of `packets`, and emits what can no longer grow.
    ///
    /// `emit` gets the header to write, the buffer, and the ranges of the buffer to write behind it. A packet that
    /// was not merged has an all-zero header and is unchanged. A range outside of the buffer is ignored.
    pub fn add<E>(&mut self, packets: &mut [u8], range: Range<usize>, emit: &mut E)
    where
        E: FnMut(&VnetHeader, &[u8], &[Range<usize>]),
    {
        let Some(packet) = packets.get(range.clone()) else { return };
        match Class::of(packet, &self.limits) {
            Class::Apart => pass(packets, range, emit),
            Class::Unknown => {
                self.flush(packets, emit);
                pass(packets, range, emit);
            }
            Class::Kept(key) => {
                if let Some(slot) = self.slot_of(&key) {
                    self.close(slot, packets, emit);
                }
                pass(packets, range, emit);
            }
            Class::Segment(key, segment) => self.add_segment(packets, range, &key, &segment, emit),
        }
    }

    /// Emits all open groups, the oldest first; to be called before the buffer is used for anything else.
    pub fn flush<E>(&mut self, packets: &mut [u8], emit: &mut E)
    where
        E: FnMut(&VnetHeader, &[u8], &[Range<usize>]),
    {
        while let Some(slot) = self.oldest() {
            self.close(slot, packets, emit);
        }
    }

    fn add_segment<E>(
        &mut self,
        packets: &mut [u8],
        range: Range<usize>,
        key: &Key,
        segment: &Segment,
        emit: &mut E,
    ) where
        E: FnMut(&VnetHeader, &[u8], &[Range<usize>]),
    {
        if let Some(slot) = self.slot_of(key) {
            let joined = match self.groups.get_mut(slot) {
                Some(group) => group.join(packets, &range, segment, &self.limits),
                None => group::Join::Refused,
            };
            match joined {
                group::Join::Open => return,
                group::Join::Closed => return self.close(slot, packets, emit),
                group::Join::Refused => self.close(slot, packets, emit),
                group::Join::Corrupt => {
                    self.close(slot, packets, emit);
                    return pass(packets, range, emit);
                }
            }
        }
        if segment.ends {
            return pass(packets, range, emit);
        }
        let slot = match self.keys.iter().position(|key| *key == Key::FREE) {
            Some(slot) => slot,
            None => {
                let Some(slot) = self.oldest() else { return pass(packets, range, emit) };
                self.close(slot, packets, emit);
                slot
            }
        };
        self.opened = self.opened.wrapping_add(1);
        let slots = (self.groups.get_mut(slot), self.keys.get_mut(slot), self.born.get_mut(slot));
        if let (Some(group), Some(held), Some(born)) = slots {
            group.open(range, segment);
            *held = *key;
            *born = self.opened;
            self.held = self.held.saturating_add(1);
        }
    }

    fn slot_of(&self, key: &Key) -> Option<usize> {
        if self.held == 0 {
            return None;
        }
        self.keys.iter().position(|held| held == key)
    }

    fn oldest(&self) -> Option<usize> {
        if self.held == 0 {
            return None;
        }
        let slots = self.keys.iter().zip(&self.born).enumerate();
        let held = slots.filter(|(_, (key, _))| **key != Key::FREE);
        held.min_by_key(|(_, (_, born))| **born).map(|(slot, _)| slot)
    }

    fn close<E>(&mut self, slot: usize, packets: &mut [u8], emit: &mut E)
    where
        E: FnMut(&VnetHeader, &[u8], &[Range<usize>]),
    {
        if let (Some(group), Some(key)) = (self.groups.get_mut(slot), self.keys.get_mut(slot)) {
            let header = group.seal(packets);
            emit(&header, packets, group.ranges());
            *key = Key::FREE;
            self.held = self.held.saturating_sub(1);
        }
    }
}

fn pass<E>(packets: &[u8], range: Range<usize>, emit: &mut E)
where
    E: FnMut(&VnetHeader, &[u8], &[Range<usize>]),
{
    emit(&VnetHeader::default(), packets, &[range]);
}
