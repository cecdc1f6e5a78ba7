//! Which launcher holds which workload, and which has been away for too long.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::Lease;

/// How long a launcher whose workload ended may read what that wrote.
const READS_ON: Duration = Duration::from_secs(60);

/// Launchers that read on at most; what more of them would read stays at the node.
const MAX_READING: usize = 1024;

/// Another launcher holds the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("another launcher holds this service")]
pub struct LeaseHeld;

/// A launcher stayed away: its workload is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// Which workload.
    pub service: ServiceKey,
    /// The launcher that held it.
    pub launcher: String,
}

#[derive(Debug, Clone)]
struct Held {
    launcher: String,
    grace: Duration,
    /// Number of the connection that holds it; `None` while its launcher is away.
    connection: Option<u64>,
    /// When it is given up; `None` while its launcher is there.
    until: Option<Instant>,
}

/// The leases of all launchers.
///
/// Invariants:
/// - a workload is held by one connection at most;
/// - a launcher that is there never loses its workload to time;
/// - each lease that runs out is told once.
#[derive(Debug, Default)]
pub struct Leases {
    held: BTreeMap<ServiceKey, Held>,
    /// Launchers whose workloads ended, and until when they read on.
    lately: BTreeMap<ServiceKey, (String, Instant)>,
    next: u64,
    gone: VecDeque<Gone>,
}

impl Leases {
    /// Takes up a lease that was stored: its launcher has its grace to come back.
    pub fn adopt(&mut self, service: ServiceKey, lease: &Lease, now: Instant) {
        let grace = Duration::from_secs(lease.secs.into());
        let until = now.checked_add(grace);
        let launcher = lease.launcher.clone();
        self.held.insert(service, Held { launcher, grace, connection: None, until });
    }

    /// Whether a launcher that is there holds the workload, and is not the named one.
    #[must_use]
    pub fn is_held(&self, service: ServiceKey, launcher: &str) -> bool {
        self.held.get(&service).is_some_and(|held| held.connection.is_some() && held.launcher != launcher)
    }

    /// A launcher is there; gives the number of its connection. The same launcher takes its own place.
    ///
    /// # Errors
    ///
    /// [`LeaseHeld`] where another one is there, unless it is to be taken over.
    pub fn attach(&mut self, service: ServiceKey, lease: &Lease, take_over: bool) -> Result<u64, LeaseHeld> {
        if self.is_held(service, &lease.launcher) && !take_over {
            return Err(LeaseHeld);
        }
        self.next = self.next.saturating_add(1);
        let held = Held {
            launcher: lease.launcher.clone(),
            grace: Duration::from_secs(lease.secs.into()),
            connection: Some(self.next),
            until: None,
        };
        self.held.insert(service, held);
        Ok(self.next)
    }

    /// A connection ended; nothing where another one holds the workload by now.
    pub fn detach(&mut self, service: ServiceKey, connection: u64, now: Instant) {
        if let Some(held) = self.held.get_mut(&service).filter(|held| held.connection == Some(connection)) {
            held.connection = None;
            held.until = now.checked_add(held.grace);
        }
    }

    /// The workload of a connection ended; false, and nothing happens, where another one holds it by now.
    pub fn forget(&mut self, service: ServiceKey, connection: u64, now: Instant) -> bool {
        let is_its = |held: &Held| held.connection == Some(connection);
        let Some(held) = self.held.get(&service).filter(|held| is_its(held)).cloned() else { return false };
        self.held.remove(&service);
        self.lately.retain(|_, (_, until)| *until > now);
        if self.lately.len() < MAX_READING {
            self.lately.insert(service, (held.launcher, now.checked_add(READS_ON).unwrap_or(now)));
        }
        true
    }

    /// Whether what the workload wrote is the launcher's to read: it holds it, or it was the last that did and that is
    /// less than a minute ago.
    #[must_use]
    pub fn may_read(&self, service: ServiceKey, launcher: &str, now: Instant) -> bool {
        match self.held.get(&service) {
            Some(held) => held.launcher == launcher,
            None => self.lately.get(&service).is_some_and(|(name, until)| name == launcher && *until > now),
        }
    }

    /// Gives up what was away for its whole grace.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.held.extract_if(.., |_, held| held.until.is_some_and(|until| until <= now));
        self.gone.extend(due.map(|(service, held)| Gone { service, launcher: held.launcher }));
    }

    /// The next workload to be taken back.
    pub fn poll_event(&mut self) -> Option<Gone> {
        self.gone.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next; `None` while no launcher is away.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.held.values().filter_map(|held| held.until).min()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use proptest::prelude::*;

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn lease(launcher: &str) -> Lease {
        Lease { launcher: launcher.to_owned(), secs: 15 }
    }

    #[test]
    fn a_launcher_that_comes_back_in_time_goes_on_and_one_that_does_not_loses_its_workload() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let first = leases.attach(SERVICE, &lease("a"), false).unwrap();
        assert_eq!(leases.poll_timeout(), None);
        leases.detach(SERVICE, first, now);
        assert_eq!(leases.poll_timeout(), Some(now + Duration::from_secs(15)));
        let second = leases.attach(SERVICE, &lease("a"), false).unwrap();
        // The end of the first connection is told late.
        leases.detach(SERVICE, first, now);
        leases.handle_timeout(now + Duration::from_secs(60));
        assert_eq!((leases.poll_event(), leases.poll_timeout()), (None, None));
        leases.detach(SERVICE, second, now);
        leases.handle_timeout(now + Duration::from_secs(15));
        assert_eq!(leases.poll_event(), Some(Gone { service: SERVICE, launcher: "a".to_owned() }));
        assert_eq!(leases.poll_event(), None);
    }

    #[test]
    fn a_workload_is_one_launchers_until_that_is_away_or_taken_over() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let first = leases.attach(SERVICE, &lease("a"), false).unwrap();
        assert_eq!(leases.attach(SERVICE, &lease("b"), false), Err(LeaseHeld));
        let second = leases.attach(SERVICE, &lease("b"), true).unwrap();
        assert!(!leases.forget(SERVICE, first, now));
        leases.detach(SERVICE, second, now);
        assert!(leases.attach(SERVICE, &lease("c"), false).is_ok());
    }

    #[test]
    fn only_who_holds_a_workload_reads_it_and_for_a_minute_who_held_it_last() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let first = leases.attach(SERVICE, &lease("a"), false).unwrap();
        assert!(leases.may_read(SERVICE, "a", now) && !leases.may_read(SERVICE, "b", now));
        leases.detach(SERVICE, first, now);
        assert!(leases.may_read(SERVICE, "a", now), "it may come back");
        let second = leases.attach(SERVICE, &lease("a"), false).unwrap();
        assert!(leases.forget(SERVICE, second, now));
        let later = |secs| now + Duration::from_secs(secs);
        assert!(leases.may_read(SERVICE, "a", later(59)) && !leases.may_read(SERVICE, "b", later(59)));
        assert!(!leases.may_read(SERVICE, "a", later(60)));
        leases.attach(SERVICE, &lease("b"), false).unwrap();
        assert!(!leases.may_read(SERVICE, "a", now), "somebody else's by now");
    }

    #[test]
    fn after_a_start_of_the_hub_launchers_have_their_grace() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.adopt(SERVICE, &lease("a"), now);
        leases.handle_timeout(now + Duration::from_secs(14));
        assert_eq!(leases.poll_event(), None);
        leases.handle_timeout(now + Duration::from_secs(15));
        assert!(leases.poll_event().is_some());
    }

    proptest! {
        #[test]
        fn the_next_timeout_is_always_later(steps in prop::collection::vec((0u8..4, 0u64..3, 0u64..30), 1..60)) {
            let mut now = Instant::now();
            let mut leases = Leases::default();
            let mut connections = BTreeMap::new();
            for (step, service, secs) in steps {
                let service = ServiceKey { blueprint: 7, service };
                now += Duration::from_secs(secs);
                match step {
                    0 => leases.adopt(service, &lease("a"), now),
                    1 => {
                        let number = leases.attach(service, &lease(if secs % 3 == 0 { "a" } else { "b" }), secs % 2 == 0);
                        connections.extend(number.map(|number| (service, number)));
                    }
                    2 => connections.get(&service).into_iter().for_each(|at| leases.detach(service, *at, now)),
                    _ => connections.get(&service).into_iter().for_each(|at| {
                        leases.forget(service, *at, now);
                    }),
                }
                leases.handle_timeout(now);
                prop_assert!(leases.poll_timeout().is_none_or(|at| at > now));
            }
        }
    }
}
