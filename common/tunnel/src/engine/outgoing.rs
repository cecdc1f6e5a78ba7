//! Sealed datagrams on their way out: gathered while a peer's lock is held, sent after it is released.
//!
//! Datagrams of one length to one endpoint lie behind each other and go in one call; a shorter one may end such
//! a bundle. The order in which they were added is the order in which they are sent.

use std::ops::Range;

use blueprint_common_tunnel_core::{Endpoint, RUN_SLACK_BYTES};

use super::wire::Wire;

/// Sealed datagrams gathered at most; four superpackets.
const BUFFER_BYTES: usize = 256 << 10;
/// Largest bundle, and most datagrams in one: what one call sends.
const BUNDLE_BYTES: usize = 65_507;
const BUNDLE_COUNT: usize = 64;

#[derive(Debug)]
struct Bundle {
    to: Endpoint,
    range: Range<usize>,
    segment: usize,
    count: usize,
    /// A shorter datagram has ended it.
    is_closed: bool,
}

/// Datagrams that wait to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    buffer: Vec<u8>,
    len: usize,
    bundles: Vec<Bundle>,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES + RUN_SLACK_BYTES];
        Self { buffer, len: 0, bundles: Vec::with_capacity(64) }
    }

    /// True where a run of `bytes` still fits.
    pub(crate) const fn has_room(&self, bytes: usize) -> bool {
        self.len.saturating_add(bytes) <= BUFFER_BYTES
    }

    /// Room for one datagram and the library's slack.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.len..).unwrap_or_default()
    }

    /// Takes the `len` bytes that were written into [`Self::room`] as one datagram.
    pub(crate) fn commit(&mut self, to: &Endpoint, len: usize) {
        let start = self.len;
        let end = start.saturating_add(len);
        self.len = end;
        match self.bundles.last_mut() {
            Some(bundle)
                if !bundle.is_closed
                    && bundle.to == *to
                    && len <= bundle.segment
                    && bundle.count < BUNDLE_COUNT
                    && end - bundle.range.start <= BUNDLE_BYTES =>
            {
                bundle.range.end = end;
                bundle.count += 1;
                bundle.is_closed = len < bundle.segment;
            }
            Some(_) | None => {
                self.bundles.push(Bundle {
                    to: *to,
                    range: start..end,
                    segment: len,
                    count: 1,
                    is_closed: false,
                });
            }
        }
    }

    /// Sends everything; how many datagrams that were.
    pub(crate) fn flush(&mut self, wire: &Wire, shard: usize, wait: bool) -> usize {
        let mut count = 0;
        for bundle in self.bundles.drain(..) {
            let Some(datagrams) = self.buffer.get(bundle.range) else { continue };
            wire.send(shard, &bundle.to, datagrams, bundle.segment, wait);
            count += bundle.count;
        }
        self.len = 0;
        count
    }
}
