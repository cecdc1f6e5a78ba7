//! Which spokes may send to which; without an entry, none.

use std::collections::BTreeSet;

use blueprint_common_types::WgPublicKey;

/// Ordered pairs of peers that a hub relays between. The default denies all.
///
/// A pair is one direction: an exchange needs both.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    pairs: BTreeSet<(WgPublicKey, WgPublicKey)>,
}

impl Policy {
    /// Denies every pair.
    #[must_use]
    pub fn deny_all() -> Self {
        Self::default()
    }

    /// Lets `source` send to `destination`.
    pub fn allow(&mut self, source: WgPublicKey, destination: WgPublicKey) {
        self.pairs.insert((source, destination));
    }

    /// True where `source` may send to `destination`.
    #[must_use]
    pub fn allows(&self, source: &WgPublicKey, destination: &WgPublicKey) -> bool {
        self.pairs.contains(&(*source, *destination))
    }
}
