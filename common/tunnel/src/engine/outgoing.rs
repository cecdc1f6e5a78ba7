//! Sealed datagrams on their way out: gathered while a peer's lock is held, sent after it is released.
//!
//! Datagrams of one length to one endpoint lie behind each other and go in one call; a shorter one may end such
//! a bundle. The order in which they were added is the order in which they are sent.

use std::ops::Range;
use std::time::{Duration, Instant};

use blueprint_common_tunnel_core::{Endpoint, RUN_SLACK_BYTES};

use super::wire::Wire;

/// Sealed datagrams gathered at most; four superpackets.
const BUFFER_BYTES: usize = 256 << 10;
/// Largest bundle, and most datagrams in one: what one call sends.
const BUNDLE_BYTES: usize = 65_507;
const BUNDLE_COUNT: usize = 64;
/// Longest wait for a link where all that the thread sends goes there: a few turns of other threads on a busy machine.
const PATIENCE: Duration = Duration::from_millis(10);
/// The same where others have had something from this thread within [`OTHERS`]: it is what theirs waits for a slow link.
const PATIENCE_BESIDE_OTHERS: Duration = Duration::from_millis(3);
/// How long somebody counts as one of the others: longer than the second between two echoes, so that who is only pinged does.
const OTHERS: Duration = Duration::from_secs(2);

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
    /// Where the last bundle went, and when they last went elsewhere than the one before.
    last: Option<Endpoint>,
    turned_at: Option<Instant>,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES + RUN_SLACK_BYTES];
        Self { buffer, len: 0, bundles: Vec::with_capacity(64), last: None, turned_at: None }
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

    /// Sends everything; how many datagrams that were. With the present time a full socket or link is waited for.
    pub(crate) fn flush(&mut self, wire: &Wire, shard: usize, waits: Option<Instant>) -> usize {
        let mut count = 0;
        for number in 0..self.bundles.len() {
            let Some(to) = self.bundles.get(number).map(|bundle| bundle.to) else { break };
            let patience = waits.map_or(Duration::ZERO, |now| self.patience(to, now));
            let Some(bundle) = self.bundles.get(number) else { break };
            let Some(datagrams) = self.buffer.get(bundle.range.clone()) else { continue };
            wire.send(shard, &bundle.to, datagrams, bundle.segment, patience);
            count += bundle.count;
        }
        self.bundles.clear();
        self.len = 0;
        count
    }

    /// How long the next bundle, which goes to `to`, may wait.
    fn patience(&mut self, to: Endpoint, now: Instant) -> Duration {
        if self.last != Some(to) {
            // The first of all has nobody beside it.
            self.turned_at = self.last.replace(to).map(|_| now);
        }
        match self.turned_at {
            Some(at) if now.saturating_duration_since(at) < OTHERS => PATIENCE_BESIDE_OTHERS,
            Some(_) | None => PATIENCE,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_link_is_waited_for_longer_while_nobody_else_is_served() {
        let at = |port| Endpoint::from(SocketAddr::from(([127, 0, 0, 1], port)));
        let (mut outgoing, began) = (Outgoing::new(), Instant::now());
        assert_eq!(outgoing.patience(at(1), began), PATIENCE);
        assert_eq!(outgoing.patience(at(1), began + OTHERS), PATIENCE);
        let now = began + 2 * OTHERS;
        assert_eq!(outgoing.patience(at(2), now), PATIENCE_BESIDE_OTHERS);
        assert_eq!(outgoing.patience(at(2), now + OTHERS / 2), PATIENCE_BESIDE_OTHERS);
        assert_eq!(outgoing.patience(at(2), now + OTHERS), PATIENCE);
    }
}
