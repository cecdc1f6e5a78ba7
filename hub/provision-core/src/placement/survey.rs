//! One walk over the catalogue: which machines fit, where each stands, and what there is to say of every provider.
//!
//! Checks go from the whole to the part, each where its answer is the same for all below: provider, region, plan, price. What
//! came nearest is asked only of a provider of which nothing fits.

use std::collections::BTreeMap;

use blueprint_common_types::Micros;

use super::{Choice, Question, Reason, Strategy, Total, Unavailable, Verdict};
use crate::catalogue::{Catalogue, Extras, Kind, Offer, PriceKind, Seller, facts};
use crate::cost::egress::EgressPrice;

/// A machine that fits, by where it stands: lower is tried earlier. Equal prices: what is not taken back, then the smaller, then
/// by the names of provider, region and plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    rank: usize,
    hourly: Micros,
    spot: bool,
    vcpus: u32,
    /// Place of its region among those of the catalogue, which stand by provider and name.
    pub(super) region: usize,
    /// Place of its offer in the catalogue, where those of one region stand by plan.
    offer: usize,
}

/// Gives `take` every machine that fits, in the order of the catalogue, and returns each provider's verdict.
pub(super) fn survey<'a>(
    catalogue: &'a Catalogue,
    question: &Question<'_>,
    mut take: impl FnMut(&Seller, Fit),
) -> BTreeMap<&'a str, Verdict<'a>> {
    let verdict = |seller: &'a Seller| {
        let verdict = match closed(seller, question) {
            Some(reason) => Verdict::Closed { reason },
            None => Visit::of(catalogue, question, seller).verdict(|fit| take(seller, fit))?,
        };
        Some((&*seller.name, verdict))
    };
    catalogue.directory().sellers().iter().filter_map(verdict).collect()
}

/// All that is to be said of a machine that fits; `None` for one of another catalogue or question.
pub(super) fn choice<'a>(catalogue: &'a Catalogue, question: &Question<'_>, fit: Fit) -> Option<Choice<'a>> {
    let offer = catalogue.offers().get(fit.offer)?;
    let demand = question.demand;
    let extras = facts(&offer.provider).map(|facts| &facts.extras);
    let total = Total {
        compute: Total::compute(offer, fit.spot, question.usd_per_eur)?,
        ..Total::beside(offer, extras, demand, question.replicas)
    };
    let disk_gb = demand.lasting_disk_gb(offer, extras);
    let egress = extras.map(|extras| egress_price(extras, question));
    Some(Choice { offer, spot: fit.spot, disk_gb, total, egress })
}

/// What sending costs at a provider, and how much of it the price of a machine holds: what is free, once for all replicas, or
/// what is asked for.
fn egress_price(extras: &Extras, question: &Question<'_>) -> EgressPrice {
    let free = extras.egress_free_gb / question.replicas.max(1);
    EgressPrice { gb: extras.egress_gb, included_gb: free.max(question.demand.egress_gb) }
}

/// Why nothing of a provider is looked at.
fn closed(seller: &Seller, question: &Question<'_>) -> Option<Reason> {
    if let Some(what) = seller.facts.and_then(|facts| facts.discontinued()) {
        return Some(Reason::Discontinued(what));
    }
    if let Strategy::Pinned { provider: wanted, .. } = question.strategy
        && **wanted != *seller.name
    {
        return Some(Reason::NotAsked);
    }
    let is_configured = question.configured.is_none_or(|configured| configured.contains(&*seller.name));
    (!is_configured).then_some(Reason::NotConfigured)
}

/// The walk through what one provider sells.
struct Visit<'a, 'q> {
    catalogue: &'a Catalogue,
    question: &'q Question<'q>,
    seller: &'a Seller,
    rank: usize,
    /// For each of its regions, why machines there will not do.
    elsewhere: Vec<Option<Reason>>,
    /// What it cannot give just now.
    gone: Vec<&'q Unavailable>,
    best: Option<Fit>,
    count: usize,
    nearest: Option<(&'a Offer, Reason)>,
}

impl<'a, 'q> Visit<'a, 'q> {
    fn of(catalogue: &'a Catalogue, question: &'q Question<'q>, seller: &'a Seller) -> Self {
        let regions = catalogue.directory().regions().get(seller.regions.clone()).unwrap_or_default();
        let is_its = |known: &&Unavailable| *known.provider == *seller.name;
        Self {
            catalogue,
            question,
            seller,
            rank: rank(question, &seller.name),
            elsewhere: question.demand.check_regions(&seller.name, regions),
            gone: question.unavailable.iter().filter(is_its).collect(),
            best: None,
            count: 0,
            nearest: None,
        }
    }

    /// What there is to say of it; `None` where it sells nothing that was looked at.
    fn verdict(mut self, mut take: impl FnMut(Fit)) -> Option<Verdict<'a>> {
        for kind in &self.seller.kinds {
            self.look_at(kind, &mut take);
        }
        match (self.best, self.nearest) {
            (Some(best), _) => {
                let best = choice(self.catalogue, self.question, best)?;
                Some(Verdict::Fits { best, count: self.count })
            }
            (None, Some((offer, reason))) => Some(Verdict::Nearest { offer, reason }),
            (None, None) => None,
        }
    }

    fn look_at(&mut self, kind: &Kind, take: &mut impl FnMut(Fit)) {
        let offers = self.catalogue.offers().get(kind.offers.clone()).unwrap_or_default();
        let Some(first) = offers.first() else { return };
        let (question, extras) = (self.question, self.seller.facts.map(|facts| &facts.extras));
        let named = check_name(first, question).err();
        let lacks = question.demand.check_kind(first, kind.share, extras).err();
        if self.count > 0 && (named.is_some() || lacks.is_some()) {
            return;
        }
        let beside = Total::beside(first, extras, question.demand, question.replicas);
        for (at, offer) in kind.offers.clone().zip(offers) {
            let Some(region) = self.catalogue.directory().region_at(at) else { continue };
            let elsewhere =
                region.checked_sub(self.seller.regions.start).and_then(|at| self.elsewhere.get(at));
            let against = named.as_ref().or(elsewhere.and_then(Option::as_ref)).or(lacks.as_ref());
            if let Some(reason) = against.cloned() {
                self.note(offer, reason);
                continue;
            }
            for spot in [false, true] {
                if spot && (offer.spot.is_none() || !question.demand.allow_spot) {
                    continue;
                }
                match self.check_price(offer, spot, beside) {
                    Ok(hourly) => {
                        let (rank, vcpus) = (self.rank, offer.vcpus);
                        let fit = Fit { rank, hourly, spot, vcpus, region, offer: at };
                        self.count = self.count.saturating_add(1);
                        self.best = Some(self.best.map_or(fit, |best| best.min(fit)));
                        take(fit);
                    }
                    Err(reason) => self.note(offer, reason),
                }
            }
        }
    }

    /// Keeps what came nearest as long as nothing fits.
    fn note(&mut self, offer: &'a Offer, reason: Reason) {
        let is_nearer = |(known, by): &(&Offer, Reason)| {
            (reason.stage(), reason.closeness(), known.on_demand, &known.plan)
                > (by.stage(), by.closeness(), offer.on_demand, &offer.plan)
        };
        if self.count == 0 && self.nearest.as_ref().is_none_or(is_nearer) {
            self.nearest = Some((offer, reason));
        }
    }

    /// What an hour of a machine costs that is large enough, else the first reason against it.
    fn check_price(&self, offer: &Offer, spot: bool, beside: Total) -> Result<Micros, Reason> {
        let question = self.question;
        let compute = Total::compute(offer, spot, question.usd_per_eur).ok_or(Reason::NoRate)?;
        let hourly = Total { compute, ..beside }.hourly();
        let is_named = matches!(question.strategy, Strategy::Pinned { .. });
        if question.max_age_days.is_some() && offer.kind == PriceKind::Template && !is_named {
            return Err(Reason::Unchecked);
        }
        let age = offer.as_of.days_until(question.today);
        if question.max_age_days.is_some_and(|most| age > most) && offer.kind != PriceKind::Live {
            return Err(Reason::Stale { days: age });
        }
        if let Some(most) = question.max_hourly
            && hourly > most
        {
            return Err(Reason::Price { hourly, most });
        }
        match Unavailable::of(self.gone.iter().copied(), offer, spot) {
            Some(known) => Err(Reason::Unavailable { class: known.class, until: known.until }),
            None => Ok(hourly),
        }
    }
}

/// Whether a plan may be looked at at all.
fn check_name(offer: &Offer, question: &Question<'_>) -> Result<(), Reason> {
    let asked = match question.strategy {
        Strategy::Pinned { plan, .. } if !plan.is_empty() => Some(plan),
        Strategy::Pinned { .. }
        | Strategy::Cheapest
        | Strategy::FirstMatch
        | Strategy::Preferred(_)
        | Strategy::LocalOnly
        | Strategy::Hybrid => None,
    };
    if asked.is_some_and(|plan| **plan != *offer.plan) {
        return Err(Reason::NotAsked);
    }
    if offer.is_ipv6_only() && !question.reaches_ipv6 && asked.is_none() {
        return Err(Reason::Ipv6Only);
    }
    Ok(())
}

fn rank(question: &Question<'_>, provider: &str) -> usize {
    let position = |list: &[&str]| list.iter().position(|name| *name == provider).unwrap_or(list.len());
    match question.strategy {
        Strategy::FirstMatch if question.demand.gpu.is_some() => position(&["gcp", "aws"]),
        Strategy::FirstMatch if question.demand.cpu_millis > 8000 => {
            position(&["vultr", "digitalocean", "aws"])
        }
        Strategy::Preferred(list) => list.iter().position(|name| name == provider).unwrap_or(list.len()),
        Strategy::FirstMatch
        | Strategy::Cheapest
        | Strategy::Pinned { .. }
        | Strategy::LocalOnly
        | Strategy::Hybrid => 0,
    }
}
