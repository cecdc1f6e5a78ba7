//! Which offers were refused lately, so that the next of a plan is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::Timestamp;

use crate::placement::Unavailable;
use crate::{Candidate, ErrorClass};

/// Longest time for which an offer is left out because it failed again and again.
const MOST: Duration = Duration::from_secs(3600);

/// How long an offer is left out after one failure of this class.
///
/// As Karpenter does on AWS and Azure (`providers.md` 6.1): minutes where others may give capacity back, an hour for a
/// quota of none, a day where it is not sold.
#[must_use]
pub const fn block_time(class: ErrorClass) -> Duration {
    Duration::from_secs(match class {
        ErrorClass::Throttle | ErrorClass::Again => 60,
        ErrorClass::Capacity | ErrorClass::Unknown => 300,
        ErrorClass::Quota | ErrorClass::Deny => 600,
        ErrorClass::NoQuota | ErrorClass::Reject => 3600,
        ErrorClass::NotSold => 23 * 3600,
    })
}

/// Names an offer: provider, plan, region, spot.
type OfferKey = (String, String, String, bool);

/// Offers that are left out for some time. In memory: a hub that starts again tries all of them anew.
#[derive(Debug, Default)]
pub struct OfferBlocks {
    offers: BTreeMap<OfferKey, Block>,
    providers: BTreeMap<String, Block>,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    /// When it failed last.
    at: Timestamp,
    until: Timestamp,
    failures: u32,
    /// How it failed last.
    class: ErrorClass,
}

impl OfferBlocks {
    /// A call for this offer failed: it is left out for the time of the class, doubled for each failure since it last
    /// worked, up to an hour. Where the account lacks a right, its whole provider is.
    pub fn handle_failure(&mut self, offer: &Candidate, class: ErrorClass, now: Timestamp) {
        let block = match class {
            ErrorClass::Deny => self.providers.entry(offer.provider.clone()).or_insert(Block::new()),
            ErrorClass::Throttle
            | ErrorClass::Again
            | ErrorClass::Reject
            | ErrorClass::Quota
            | ErrorClass::NoQuota
            | ErrorClass::Capacity
            | ErrorClass::NotSold
            | ErrorClass::Unknown => self.offers.entry(key(offer)).or_insert(Block::new()),
        };
        if block.until > now {
            // It was asked for before the first of them was refused.
            return;
        }
        let base = block_time(class);
        let grown = base.saturating_mul(1u32.checked_shl(block.failures).unwrap_or(u32::MAX));
        block.failures = block.failures.saturating_add(1).min(16);
        block.at = now;
        block.class = class;
        block.until = now.plus(grown.min(MOST).max(base));
    }

    /// A machine that was made at `made_at` did well: failures of before do not count any more.
    pub fn handle_success(&mut self, offer: &Candidate, made_at: Timestamp) {
        let key = key(offer);
        if self.offers.get(&key).is_some_and(|block| block.at < made_at) {
            self.offers.remove(&key);
        }
        if self.providers.get(&offer.provider).is_some_and(|block| block.at < made_at) {
            self.providers.remove(&offer.provider);
        }
    }

    /// The provider has other credentials: refusals of before for want of a right do not count any more.
    pub fn handle_credentials(&mut self, provider: &str) {
        self.providers.remove(provider);
    }

    /// Until when this offer is left out; `None` where it is not.
    #[must_use]
    pub fn until(&self, offer: &Candidate, now: Timestamp) -> Option<Timestamp> {
        let own = self.offers.get(&key(offer)).map(|block| block.until);
        let all = self.providers.get(&offer.provider).map(|block| block.until);
        own.max(all).filter(|until| *until > now)
    }

    /// Everything that is left out at `now`, in the shape that placement goes by: whole providers first, each by name.
    #[must_use]
    pub fn unavailable(&self, now: Timestamp) -> Vec<Unavailable> {
        let is_open = |block: &Block| block.until > now;
        let whole = self.providers.iter().filter(|(_, block)| is_open(block));
        let whole = whole.map(|(provider, block)| Unavailable {
            provider: provider.clone(),
            region: None,
            plan: None,
            spot: None,
            class: block.class,
            until: block.until,
        });
        let offers = self.offers.iter().filter(|(_, block)| is_open(block));
        let offers = offers.map(|((provider, plan, region, spot), block)| Unavailable {
            provider: provider.clone(),
            region: Some(region.clone()),
            plan: Some(plan.clone()),
            spot: Some(*spot),
            class: block.class,
            until: block.until,
        });
        whole.chain(offers).collect()
    }

    /// The first of a plan that is not left out, or else when the first of them may be tried again.
    ///
    /// # Errors
    ///
    /// That time; the end of time for an empty plan.
    pub fn choose<'p>(
        &self,
        plan: impl IntoIterator<Item = &'p Candidate>,
        now: Timestamp,
    ) -> Result<&'p Candidate, Timestamp> {
        let mut first = Timestamp::from_millis(u64::MAX);
        for offer in plan {
            match self.until(offer, now) {
                None => return Ok(offer),
                Some(until) => first = first.min(until),
            }
        }
        Err(first)
    }
}

impl Block {
    const fn new() -> Self {
        let never = Timestamp::from_millis(0);
        Self { at: never, until: never, failures: 0, class: ErrorClass::Unknown }
    }
}

fn key(offer: &Candidate) -> OfferKey {
    (offer.provider.clone(), offer.plan.clone(), offer.region.clone(), offer.spot)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Micros;

    use super::*;
    use crate::resource::Arch;

    fn offer(provider: &str, plan: &str) -> Candidate {
        Candidate {
            provider: provider.to_owned(),
            plan: plan.to_owned(),
            region: "here".to_owned(),
            spot: false,
            disk_gb: 8,
            arch: Arch::X86_64,
            hourly: Micros::new(1),
            stopped_hourly: Micros::new(1),
            egress: None,
        }
    }

    #[test]
    fn other_credentials_are_tried_at_once() {
        let (mut blocks, now) = (OfferBlocks::default(), Timestamp::from_millis(0));
        let (ours, others) = (offer("a", "small"), offer("b", "small"));
        for offer in [&ours, &others] {
            blocks.handle_failure(offer, ErrorClass::Deny, now);
        }
        blocks.handle_credentials("a");
        assert!(blocks.until(&ours, now).is_none() && blocks.until(&others, now).is_some());
        blocks.handle_failure(&ours, ErrorClass::Capacity, now);
        blocks.handle_credentials("a");
        assert!(blocks.until(&ours, now).is_some(), "capacity does not hang on credentials");
    }

    #[test]
    fn what_was_refused_is_left_out_and_comes_back() {
        let plan = [offer("a", "small"), offer("a", "large"), offer("b", "small")];
        let mut blocks = OfferBlocks::default();
        let now = Timestamp::from_millis(1_000_000);
        assert_eq!(blocks.choose(&plan, now), Ok(&plan[0]));
        blocks.handle_failure(&plan[0], ErrorClass::Capacity, now);
        assert_eq!(blocks.choose(&plan, now), Ok(&plan[1]));
        blocks.handle_failure(&plan[1], ErrorClass::Deny, now);
        assert_eq!(blocks.choose(&plan, now), Ok(&plan[2]), "a lacking right is the provider's");
        blocks.handle_failure(&plan[2], ErrorClass::NotSold, now);
        assert_eq!(blocks.choose(&plan, now), Err(now.plus(Duration::from_secs(600))));
        let later = now.plus(Duration::from_secs(601));
        assert_eq!(blocks.choose(&plan, later), Ok(&plan[0]));
        assert!(blocks.until(&plan[2], later).is_some());
    }

    #[test]
    fn placement_is_told_what_is_left_out_for_as_long_as_it_is() {
        let (mut blocks, now) = (OfferBlocks::default(), Timestamp::from_millis(1000));
        let spot = Candidate { spot: true, ..offer("b", "small") };
        blocks.handle_failure(&spot, ErrorClass::Capacity, now);
        blocks.handle_failure(&offer("a", "small"), ErrorClass::Deny, now);
        blocks.handle_failure(&offer("c", "small"), ErrorClass::Throttle, now);
        let told = |now| {
            let told = blocks.unavailable(now);
            let row = |it: &Unavailable| {
                let wanted = Some(now.plus(block_time(it.class)));
                (it.provider.clone(), it.plan.is_some(), it.spot, it.class, wanted == Some(it.until))
            };
            told.iter().map(row).collect::<Vec<_>>()
        };
        let wanted = [
            ("a".to_owned(), false, None, ErrorClass::Deny, true),
            ("b".to_owned(), true, Some(true), ErrorClass::Capacity, true),
            ("c".to_owned(), true, Some(false), ErrorClass::Throttle, true),
        ];
        assert_eq!(told(now), wanted);
        let left = |secs| blocks.unavailable(now.plus(Duration::from_secs(secs))).len();
        assert_eq!([59, 60, 300, 600].map(left), [3, 2, 1, 0]);
    }

    #[test]
    fn failures_in_a_row_wait_longer_until_it_works() {
        let offer = offer("a", "small");
        let mut blocks = OfferBlocks::default();
        let mut now = Timestamp::from_millis(0);
        let mut wait = |blocks: &mut OfferBlocks| {
            blocks.handle_failure(&offer, ErrorClass::Capacity, now);
            let until = blocks.until(&offer, now).unwrap();
            blocks.handle_failure(&offer, ErrorClass::Capacity, now);
            assert_eq!(blocks.until(&offer, now), Some(until), "one that was under way changes nothing");
            let waited = until.since(now).as_secs();
            now = until;
            waited
        };
        let waits: Vec<_> = (0..6).map(|_| wait(&mut blocks)).collect();
        assert_eq!(waits, [300, 600, 1200, 2400, 3600, 3600]);
        let (start, end) = (Timestamp::from_millis(0), Timestamp::from_millis(u64::MAX));
        blocks.handle_success(&offer, start);
        assert_eq!(wait(&mut blocks), 3600, "a machine from before the failures says nothing of them");
        blocks.handle_success(&offer, end);
        assert_eq!(wait(&mut blocks), 300);
    }
}
