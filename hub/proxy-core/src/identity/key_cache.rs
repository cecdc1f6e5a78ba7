//! The keys of one issuer over time: when to fetch them, how long they hold.
//!
//! - The newest good set counts alone: a key that is not in it verifies nothing.
//! - A set is fetched again before the time that its issuer gave it is over, which counts as 5 minutes at least and
//!   24 hours at most. Where that fails it holds for 24 hours more, and then for nothing.
//! - A key that nobody knows asks for one fetch, and so does everybody for all of them together once in 30 s.
//! - One fetch is under way at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::verifying_key::VerifyingKey;

/// Bounds of the time that an issuer gives its keys.
const FRESH: (Duration, Duration) = (Duration::from_secs(5 * 60), Duration::from_secs(24 * 3600));

/// How long keys hold after that, while their issuer cannot be asked.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Pause between two fetches for keys that are not known.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(30);

/// Pauses after a fetch that failed: the first, which doubles, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5 * 60));

/// What to do for an assertion that names a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Verify: the key is there, or will not be.
    Verify,
    /// A fetch is under way: wait for it.
    Wait,
    /// Begin a fetch and wait for it; [`KeyCache::handle_keys`] or [`KeyCache::handle_failure`] ends it.
    Fetch,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeyCache {
    keys: Arc<[VerifyingKey]>,
    fetched_at: Option<Instant>,
    over_at: Option<Instant>,
    next_at: Instant,
    asked_at: Option<Instant>,
    failures: u32,
    is_fetching: bool,
}

impl KeyCache {
    /// No keys, and a fetch that is due.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            keys: Arc::from([]),
            fetched_at: None,
            over_at: None,
            next_at: now,
            asked_at: None,
            failures: 0,
            is_fetching: false,
        }
    }

    /// When [`Self::begin`] gives true next; `None` while a fetch is under way.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_fetching).then_some(self.next_at)
    }

    /// Whether a fetch is due; where it is, it is under way from now on.
    pub fn begin(&mut self, now: Instant) -> bool {
        let is_due = !self.is_fetching && self.next_at <= now;
        self.is_fetching |= is_due;
        is_due
    }

    /// The keys that hold.
    #[must_use]
    pub fn keys(&self, now: Instant) -> Arc<[VerifyingKey]> {
        let holds = self.over_at.is_some_and(|over_at| over_at > now);
        if holds { Arc::clone(&self.keys) } else { Arc::from([]) }
    }

    /// Time since the last good answer; `None` where there was none.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.fetched_at.map(|at| now.saturating_duration_since(at))
    }

    /// What to do for an assertion whose header names `kid`.
    pub fn ask(&mut self, kid: Option<&str>, now: Instant) -> Ask {
        if self.keys(now).iter().any(|key| key.is_called(kid)) {
            return Ask::Verify;
        }
        if self.is_fetching {
            return Ask::Wait;
        }
        let rests = self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < UNKNOWN_PAUSE);
        if rests {
            return Ask::Verify;
        }
        self.asked_at = Some(now);
        self.is_fetching = true;
        Ask::Fetch
    }

    /// Takes the answer of an issuer; `max_age` is the time that it gave.
    pub fn handle_keys(&mut self, keys: Vec<VerifyingKey>, max_age: Option<Duration>, now: Instant) {
        let fresh = max_age.unwrap_or(FRESH.0).clamp(FRESH.0, FRESH.1);
        self.keys = keys.into();
        self.fetched_at = Some(now);
        self.over_at = now.checked_add(fresh.saturating_add(STALE));
        self.next_at = after(now, fresh.saturating_mul(9).checked_div(10).unwrap_or(fresh));
        self.failures = 0;
        self.is_fetching = false;
    }

    /// Notes that a fetch failed.
    pub fn handle_failure(&mut self, now: Instant) {
        let factor = 1u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX);
        self.next_at = after(now, RETRY.0.saturating_mul(factor).min(RETRY.1));
        self.failures = self.failures.saturating_add(1);
        self.is_fetching = false;
    }
}

fn after(now: Instant, pause: Duration) -> Instant {
    now.checked_add(pause).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A set whose one key has a name.
    fn set(kid: &str) -> Vec<VerifyingKey> {
        let n = format!("{}A", "w".repeat(341));
        let json = format!(r#"{{"keys":[{{"kty":"RSA","kid":"{kid}","n":"{n}","e":"AQAB"}}]}}"#);
        VerifyingKey::from_jwk_set(json.as_bytes()).unwrap()
    }

    fn names(cache: &KeyCache, kid: &str, now: Instant) -> bool {
        cache.keys(now).iter().any(|key| key.is_called(Some(kid)))
    }

    #[test]
    fn keys_are_fetched_before_their_time_is_over() {
        let start = Instant::now();
        for (given, due) in
            [(None, 270), (Some(0), 270), (Some(1000), 900), (Some(1_000_000_000), 24 * 3600 * 9 / 10)]
        {
            let mut cache = KeyCache::new(start);
            assert!(cache.begin(start) && !cache.begin(start), "one at a time");
            assert_eq!(cache.poll_timeout(), None);
            cache.handle_keys(set("a"), given.map(Duration::from_secs), start);
            assert_eq!(cache.poll_timeout(), Some(start + Duration::from_secs(due)), "{given:?}");
            assert!(!cache.begin(start));
        }
    }

    #[test]
    fn a_key_that_is_gone_dies_with_the_next_fetch() {
        let start = Instant::now();
        let mut cache = KeyCache::new(start);
        cache.handle_keys(set("a"), None, start);
        assert!(names(&cache, "a", start));
        cache.handle_keys(set("b"), None, start + MINUTE);
        assert!(!names(&cache, "a", start + MINUTE) && names(&cache, "b", start + MINUTE));
        cache.handle_keys(Vec::new(), None, start + 2 * MINUTE);
        assert!(cache.keys(start + 2 * MINUTE).is_empty(), "an issuer may take back all of them");
    }

    #[test]
    fn an_issuer_that_is_away_is_asked_ever_less_and_its_keys_end() {
        let start = Instant::now();
        let mut cache = KeyCache::new(start);
        cache.handle_keys(set("a"), Some(HOUR), start);
        let mut now = start + HOUR;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(cache.begin(now));
            cache.handle_failure(now);
            let next = cache.poll_timeout().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert!(names(&cache, "a", start + 25 * HOUR - MINUTE));
        assert!(!names(&cache, "a", start + 25 * HOUR));
        cache.handle_keys(set("a"), None, start + 30 * HOUR);
        assert!(names(&cache, "a", start + 30 * HOUR), "it came back");
    }

    #[test]
    fn a_key_that_nobody_knows_asks_once_in_thirty_seconds() {
        let start = Instant::now();
        let mut cache = KeyCache::new(start);
        assert!(cache.begin(start));
        assert_eq!(cache.ask(Some("a"), start), Ask::Wait);
        cache.handle_keys(set("a"), None, start);
        assert_eq!(cache.ask(Some("a"), start), Ask::Verify);
        assert_eq!(cache.ask(None, start), Ask::Verify);
        assert_eq!(cache.ask(Some("b"), start), Ask::Fetch);
        assert_eq!(cache.ask(Some("c"), start), Ask::Wait);
        assert!(!cache.begin(start + HOUR), "one at a time");
        cache.handle_keys(set("a"), None, start);
        let soon = start + Duration::from_secs(29);
        assert_eq!(cache.ask(Some("b"), soon), Ask::Verify);
        assert_eq!(cache.ask(Some("b"), start + Duration::from_secs(30)), Ask::Fetch);
    }
}
