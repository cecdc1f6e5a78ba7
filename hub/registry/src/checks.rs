//! Who may have an identity checked that costs the hub a question to somebody else: a cluster, the keys of an issuer, a cloud.
//!
//! Few are asked about at once, and of each address so many in a while, so that strangers hold up neither each other nor machines
//! with tokens.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use blueprint_common_types::ProofKind;
use blueprint_hub_registry_core::{Buckets, Rate};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Checks at work at once.
const AT_ONCE: usize = 8;

/// Checks of one address.
const OF_SOURCE: Rate = Rate { burst: 60, every: Duration::from_secs(1) };

/// How often the log says that identities of one kind cannot be checked.
const UNCHECKED: Rate = Rate { burst: 1, every: Duration::from_secs(60) };

/// Why there is no place; both pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The address had its share.
    Source,
    /// All places are taken.
    Full,
}

impl NoPlace {
    /// Label of the metric.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Source => "identity_rate",
            Self::Full => "identity_places",
        }
    }

    /// What the machine is told.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Source => "too many identities from this address; try again in a minute",
            Self::Full => "too many identities are checked at this moment",
        }
    }
}

/// Places for checks.
#[derive(Debug)]
pub(crate) struct Checks {
    places: Semaphore,
    of_source: Mutex<Buckets<IpAddr>>,
    unchecked: Mutex<Buckets<ProofKind>>,
}

impl Checks {
    /// All places free; at most `addresses` are told apart at once, and more of them refused.
    pub(crate) fn new(addresses: usize) -> Self {
        Self {
            places: Semaphore::new(AT_ONCE),
            of_source: Mutex::new(Buckets::new(OF_SOURCE, addresses)),
            unchecked: Mutex::new(Buckets::new(UNCHECKED, ProofKind::ALL.len())),
        }
    }

    /// A place for a check of this kind until it is dropped; none is needed for what the hub checks by itself.
    ///
    /// # Errors
    ///
    /// [`NoPlace`]; what is refused for want of a place counts against its address, too.
    pub(crate) fn begin(
        &self,
        kind: ProofKind,
        source: IpAddr,
        now: Instant,
    ) -> Result<Option<SemaphorePermit<'_>>, NoPlace> {
        match kind {
            ProofKind::Aws => return Ok(None),
            ProofKind::AwsSts | ProofKind::Gcp | ProofKind::Azure | ProofKind::Kubernetes => {}
        }
        if !self.of_source.lock().take(source, now) {
            return Err(NoPlace::Source);
        }
        self.places.try_acquire().map(Some).map_err(|_| NoPlace::Full)
    }

    /// Whether the log is to say that identities of this kind cannot be checked now.
    pub(crate) fn is_to_be_said(&self, kind: ProofKind, now: Instant) -> bool {
        self.unchecked.lock().take(kind, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKING: [ProofKind; 4] =
        [ProofKind::AwsSts, ProofKind::Gcp, ProofKind::Azure, ProofKind::Kubernetes];

    fn source(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn no_more_are_asked_about_at_once_than_there_are_places() {
        let (checks, now) = (Checks::new(100), Instant::now());
        let mut held = Vec::new();
        for number in 0..8 {
            let kind = ASKING[usize::from(number) % ASKING.len()];
            held.push(checks.begin(kind, source(number), now).unwrap().unwrap());
        }
        for kind in ASKING {
            assert_eq!(checks.begin(kind, source(9), now).unwrap_err(), NoPlace::Full, "{kind}");
        }
        // What the hub checks by itself waits for nobody.
        assert!(checks.begin(ProofKind::Aws, source(9), now).unwrap().is_none());
        held.pop();
        let place = checks.begin(ProofKind::Gcp, source(9), now).unwrap();
        assert_eq!(checks.begin(ProofKind::Gcp, source(10), now).unwrap_err(), NoPlace::Full);
        drop((place, held));
        assert_eq!(checks.places.available_permits(), 8, "each place comes back");
    }

    #[test]
    fn one_address_has_a_burst_and_then_one_each_second_and_others_have_their_own() {
        let (checks, now) = (Checks::new(100), Instant::now());
        let taken =
            |now: Instant| (0..200).filter(|_| checks.begin(ProofKind::Gcp, source(1), now).is_ok()).count();
        assert_eq!(taken(now), 60);
        assert_eq!(checks.begin(ProofKind::Kubernetes, source(1), now).unwrap_err(), NoPlace::Source);
        assert!(checks.begin(ProofKind::Gcp, source(2), now).is_ok());
        assert!(checks.begin(ProofKind::Aws, source(1), now).is_ok(), "a document costs no question");
        assert_eq!(taken(now + Duration::from_millis(999)), 0);
        assert_eq!(taken(now + Duration::from_secs(3)), 3);
        assert_eq!(taken(now + Duration::from_secs(3600)), 60);
    }

    #[test]
    fn who_finds_no_place_uses_up_the_share_of_its_address() {
        let (checks, now) = (Checks::new(100), Instant::now());
        let held: Vec<_> =
            (10..18).map(|number| checks.begin(ProofKind::Gcp, source(number), now).unwrap()).collect();
        for _ in 0..60 {
            assert_eq!(checks.begin(ProofKind::Gcp, source(1), now).unwrap_err(), NoPlace::Full);
        }
        assert_eq!(checks.begin(ProofKind::Gcp, source(1), now).unwrap_err(), NoPlace::Source);
        drop(held);
        assert_eq!(checks.begin(ProofKind::Gcp, source(1), now).unwrap_err(), NoPlace::Source);
    }

    #[test]
    fn many_addresses_cost_a_bounded_map_and_lock_nobody_out_for_long() {
        let (checks, now) = (Checks::new(16), Instant::now());
        for number in 0..16 {
            assert!(checks.begin(ProofKind::Gcp, source(number), now).is_ok());
        }
        assert_eq!(checks.begin(ProofKind::Gcp, source(99), now).unwrap_err(), NoPlace::Source);
        assert!(checks.begin(ProofKind::Gcp, source(99), now + Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn the_log_hears_of_each_kind_once_a_minute() {
        let (checks, now) = (Checks::new(1), Instant::now());
        for kind in ProofKind::ALL {
            assert!(checks.is_to_be_said(kind, now), "{kind}");
            assert!(!checks.is_to_be_said(kind, now + Duration::from_secs(59)), "{kind}");
            assert!(checks.is_to_be_said(kind, now + Duration::from_secs(60)), "{kind}");
        }
    }

    #[test]
    fn each_reason_has_a_label_and_words_of_its_own() {
        assert_ne!(NoPlace::Source.label(), NoPlace::Full.label());
        assert_ne!(NoPlace::Source.text(), NoPlace::Full.text());
    }
}
