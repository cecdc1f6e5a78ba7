//! Which of the machines that fit make the failover plan.

use std::collections::BTreeMap;

use super::survey::Fit;
use super::{PLAN_LENGTH, Question};
use crate::catalogue::{Region, Seller};
use crate::lifecycle::Spread;

/// Candidates of a failover plan in one region of one provider, so that a region that is full does not use it up.
const PLAN_PER_REGION: usize = 2;

/// The machines of which a plan is made, as they are found.
///
/// The plan is the first of them, in their order: [`PLAN_LENGTH`]. Where machines are spread, each place has its first before
/// any has its second, and so on, so that the cheapest does not use the plan up.
///
/// Plans that are one machine each do not count: every replica needs one of its own, and some in reserve.
pub(super) struct Shortlist<'a> {
    regions: &'a [Region],
    spread: Spread,
    /// For each region what may come into the plan. Where nothing is spread these are its best, and they are sorted.
    found: Vec<Vec<Fit>>,
    /// Machines that are there once.
    machines: Vec<Fit>,
    most_machines: usize,
}

impl<'a> Shortlist<'a> {
    /// An empty one for what is offered in `regions`.
    pub(super) fn of(question: &Question<'_>, regions: &'a [Region]) -> Self {
        let replicas = usize::try_from(question.replicas).unwrap_or(usize::MAX);
        Self {
            regions,
            spread: question.spread,
            found: vec![Vec::new(); regions.len()],
            machines: Vec::new(),
            most_machines: replicas.saturating_add(PLAN_LENGTH),
        }
    }

    /// Takes note of a machine of `seller`'s.
    pub(super) fn put(&mut self, seller: &Seller, fit: Fit) {
        if seller.facts.is_some_and(|facts| facts.plans_are_machines) {
            self.machines.push(fit);
            return;
        }
        let Some(found) = self.found.get_mut(fit.region) else { return };
        match self.spread {
            // No region has more than a whole plan.
            Spread::None if found.get(PLAN_LENGTH - 1).is_none_or(|last| fit < *last) => {
                found.truncate(PLAN_LENGTH - 1);
                found.insert(found.partition_point(|known| *known < fit), fit);
            }
            Spread::None => (),
            // Its turn hangs on how many stand before it at its place.
            Spread::Regions | Spread::Providers => found.push(fit),
        }
    }

    /// The plan, the first to try first.
    pub(super) fn plan(mut self) -> Vec<Fit> {
        let mut clouds = match self.spread {
            Spread::None => self.ranked(),
            Spread::Regions | Spread::Providers => self.in_turn(),
        };
        if clouds.len() > PLAN_LENGTH {
            clouds.select_nth_unstable(PLAN_LENGTH);
            clouds.truncate(PLAN_LENGTH);
        }
        self.machines.sort_unstable();
        self.machines.truncate(self.most_machines);
        let machines = self.machines.into_iter().map(|fit| ((false, 0), fit));
        let mut plan: Vec<_> = clouds.into_iter().chain(machines).collect();
        match self.spread {
            // What is more than a region's part stands behind all others.
            Spread::None => plan.sort_unstable_by_key(|((is_rest, _), fit)| (*is_rest, *fit)),
            Spread::Regions | Spread::Providers => plan.sort_unstable_by_key(|(_, fit)| *fit),
        }
        plan.into_iter().map(|(_, fit)| fit).collect()
    }

    /// Each with whether it is more than its region's part: where there are few regions, more of them are better than none.
    fn ranked(&self) -> Vec<((bool, usize), Fit)> {
        let of_region = |found: &'_ Vec<Fit>| {
            found.iter().enumerate().map(|(at, fit)| ((at >= PLAN_PER_REGION, 0), *fit)).collect::<Vec<_>>()
        };
        self.found.iter().flat_map(of_region).collect()
    }

    /// The same, and each with its turn at its place.
    fn in_turn(&self) -> Vec<((bool, usize), Fit)> {
        let mut sorted: Vec<_> = self.found.iter().flatten().copied().collect();
        sorted.sort_unstable();
        let mut in_region = vec![0_usize; self.regions.len()];
        let mut at_place: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let rank = |fit: Fit| {
            let (region, count) = (self.regions.get(fit.region)?, in_region.get_mut(fit.region)?);
            let turn = at_place.entry(self.spread.place_at(&region.provider, &region.name)).or_default();
            (*count, *turn) = (count.saturating_add(1), turn.saturating_add(1));
            Some(((*count > PLAN_PER_REGION, *turn), fit))
        };
        sorted.into_iter().filter_map(rank).collect()
    }
}
