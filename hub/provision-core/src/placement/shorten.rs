//! Which of the machines that fit make the failover plan.

use std::collections::BTreeMap;

use super::{Choice, PLAN_LENGTH};
use crate::catalogue::is_one_machine;
use crate::lifecycle::Spread;

/// Candidates of a failover plan in one region of one provider, so that a region that is full does not use it up.
const PLAN_PER_REGION: usize = 2;

/// The first of `sorted`, in their order: [`PLAN_LENGTH`] of them. Where machines are spread, each place has its first before
/// any has its second, and so on, so that the cheapest does not use the plan up.
///
/// Plans that are one machine each do not count: every replica needs one of its own, and some in reserve.
pub(super) fn shorten(sorted: Vec<Choice<'_>>, replicas: u32, spread: Spread) -> Vec<Choice<'_>> {
    let most = usize::try_from(replicas).unwrap_or(usize::MAX).saturating_add(PLAN_LENGTH);
    let mut per_region: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut per_place: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let (mut machines, mut ranked) = (0usize, Vec::new());
    for (at, choice) in sorted.into_iter().enumerate() {
        let (provider, region) = (&*choice.offer.provider, &*choice.offer.region);
        if is_one_machine(provider) {
            machines = machines.saturating_add(1);
            if machines <= most {
                ranked.push(((true, false, 0, at), choice));
            }
            continue;
        }
        let in_region = per_region.entry((provider, region)).or_default();
        *in_region = in_region.saturating_add(1);
        // Where there are few regions, more of them are better than none.
        let is_rest = *in_region > PLAN_PER_REGION;
        let round = match spread {
            Spread::None => 0,
            Spread::Regions | Spread::Providers => {
                let at_place = per_place.entry(spread.place_at(provider, region)).or_default();
                *at_place = at_place.saturating_add(1);
                *at_place
            }
        };
        ranked.push(((false, is_rest, round, at), choice));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let clouds = ranked.iter().take_while(|(rank, _)| !rank.0).count();
    let reserve = ranked.split_off(clouds);
    ranked.truncate(PLAN_LENGTH);
    ranked.extend(reserve);
    match spread {
        // What is more than a region's part stands behind all others.
        Spread::None => ranked.sort_by_key(|((_, is_rest, _, at), _)| (*is_rest, *at)),
        Spread::Regions | Spread::Providers => ranked.sort_by_key(|((_, _, _, at), _)| *at),
    }
    ranked.into_iter().map(|(_, choice)| choice).collect()
}
