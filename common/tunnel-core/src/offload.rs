//! Segmentation and receive offload of a TUN device, and the edits of single packets on their way.
//!
//! A TUN device with virtio-net headers hands over up to 64 KiB of one flow as a single superpacket and takes the
//! same back. [`Superpacket`] cuts what was read into the packets that fit the tunnel, [`Merger`] gathers what came
//! out of the tunnel into what is written. Both work in the caller's buffers.
//!
//! Left to others: reading and writing the device, encryption, and which packet may pass (the filter).
//!
//! # Invariants
//!
//! - No bytes from outside panic, and nothing here allocates after construction.
//! - Packets of one flow keep their order, pure acknowledgements included.
//! - A wrong checksum leaves as it came: it is never completed, recomputed or covered by a merge.
//! - Splitting what was merged gives the packets back, but for IPv4 identifications of packets that may not be
//!   fragmented (RFC 6864 gives these no meaning).

pub mod checksum;
mod ecn;
mod flow;
mod ip;
mod merge;
mod mss;
mod split;
mod too_big;
mod vnet;

pub use ecn::{ECN_CE, ECN_NOT_CAPABLE, ecn_of, mark_ce};
pub use flow::flow_hash;
pub use merge::{MAX_GROUPS, MAX_SEGMENTS, MergeLimits, Merger};
pub use mss::clamp_mss;
pub use split::{SplitError, Superpacket};
pub use too_big::{TOO_BIG_BYTES, too_big};
pub use vnet::VnetHeader;
