//! Placement without a directory: every offer by itself, all that fit sorted, and the plan taken from them. What placement
//! answers is held against it, every reason and every count.

use super::*;
use crate::catalogue::{Extras, PriceKind, facts, is_one_machine, region_matches};
use crate::cost::egress::EgressPrice;

/// What [`place`] answers, for what is ordered as machines.
pub(super) fn place_plainly<'a>(
    catalogue: &'a Catalogue,
    question: &Question<'_>,
) -> (Vec<Choice<'a>>, BTreeMap<&'a str, Verdict<'a>>) {
    let (mut fits, verdicts) = examine_plainly(catalogue, question);
    fits.sort_by(|a, b| order(question, a).cmp(&order(question, b)));
    (shorten(fits, question.replicas, question.spread), verdicts)
}

/// Every machine that fits, in the order of the catalogue, and each provider's verdict.
pub(super) fn examine_plainly<'a>(
    catalogue: &'a Catalogue,
    question: &Question<'_>,
) -> (Vec<Choice<'a>>, BTreeMap<&'a str, Verdict<'a>>) {
    let mut fits = Vec::new();
    let mut verdicts: BTreeMap<&str, Verdict<'_>> = BTreeMap::new();
    for offers in catalogue.offers().chunk_by(|a, b| a.provider == b.provider) {
        let Some(name) = offers.first().map(|offer| &*offer.provider) else { continue };
        if let Some(reason) = closed(name, question) {
            verdicts.insert(name, Verdict::Closed { reason });
            continue;
        }
        let before = fits.len();
        let mut nearest: Option<(&Offer, Reason)> = None;
        for (offer, spot) in offers.iter().flat_map(|offer| [(offer, false), (offer, true)]) {
            match check(offer, spot, question) {
                Ok(total) => {
                    let disk_gb = question.demand.lasting_disk_gb(offer, extras(offer));
                    let egress = egress_price(name, question);
                    fits.push(Choice { offer, spot, disk_gb, total, egress });
                }
                Err(reason) => {
                    let is_nearer = |(known, by): &(&Offer, Reason)| {
                        (reason.stage(), reason.closeness(), known.on_demand, &known.plan)
                            > (by.stage(), by.closeness(), offer.on_demand, &offer.plan)
                    };
                    if reason != Reason::NoSpot && nearest.as_ref().is_none_or(is_nearer) {
                        nearest = Some((offer, reason));
                    }
                }
            }
        }
        let own = fits.get(before..).unwrap_or_default();
        let best = own.iter().min_by(|a, b| order(question, a).cmp(&order(question, b)));
        let verdict = match (best, nearest) {
            (Some(best), _) => Verdict::Fits { best: best.clone(), count: own.len() },
            (None, Some((offer, reason))) => Verdict::Nearest { offer, reason },
            (None, None) => continue,
        };
        verdicts.insert(name, verdict);
    }
    (fits, verdicts)
}

fn extras(offer: &Offer) -> Option<&'static Extras> {
    facts(&offer.provider).map(|facts| &facts.extras)
}

/// What sending costs at a provider, and how much of it the price of a machine holds: what is free, once for all replicas, or
/// what is asked for.
fn egress_price(provider: &str, question: &Question<'_>) -> Option<EgressPrice> {
    let extras = &facts(provider)?.extras;
    let free = extras.egress_free_gb / question.replicas.max(1);
    Some(EgressPrice { gb: extras.egress_gb, included_gb: free.max(question.demand.egress_gb) })
}

/// Why nothing of a provider is looked at.
fn closed(provider: &str, question: &Question<'_>) -> Option<Reason> {
    if let Some(what) = facts(provider).and_then(|facts| facts.discontinued()) {
        return Some(Reason::Discontinued(what));
    }
    if let Strategy::Pinned { provider: wanted, .. } = question.strategy
        && wanted != provider
    {
        return Some(Reason::NotAsked);
    }
    let is_configured = question.configured.is_none_or(|configured| configured.contains(provider));
    (!is_configured).then_some(Reason::NotConfigured)
}

/// What a machine costs where it fits, else the first reason against it.
fn check(offer: &Offer, spot: bool, question: &Question<'_>) -> Result<Total, Reason> {
    let demand = question.demand;
    if spot && (offer.spot.is_none() || !demand.allow_spot) {
        return Err(Reason::NoSpot);
    }
    if let Strategy::Pinned { plan, .. } = question.strategy
        && !plan.is_empty()
        && **plan != *offer.plan
    {
        return Err(Reason::NotAsked);
    }
    let is_asked = matches!(question.strategy, Strategy::Pinned { plan, .. } if !plan.is_empty());
    if offer.is_ipv6_only() && !question.reaches_ipv6 && !is_asked {
        return Err(Reason::Ipv6Only);
    }
    let is_in = |wanted: &String| region_matches(&offer.provider, &offer.region, wanted);
    if let Some(wanted) = [&demand.region, &demand.within].into_iter().flatten().find(|wanted| !is_in(wanted))
    {
        return Err(Reason::Region(wanted.clone()));
    }
    if !demand.regions.is_empty() && !demand.regions.iter().any(is_in) {
        return Err(Reason::Region(demand.regions.join(" or ")));
    }
    demand.check_kind(offer, offer.cpu_share(), extras(offer))?;
    let total =
        Total::of(offer, spot, demand, question.usd_per_eur, question.replicas).ok_or(Reason::NoRate)?;
    let is_named = matches!(question.strategy, Strategy::Pinned { .. });
    if question.max_age_days.is_some() && offer.kind == PriceKind::Template && !is_named {
        return Err(Reason::Unchecked);
    }
    let age = offer.as_of.days_until(question.today);
    if question.max_age_days.is_some_and(|most| age > most) && offer.kind != PriceKind::Live {
        return Err(Reason::Stale { days: age });
    }
    if let Some(most) = question.max_hourly
        && total.hourly() > most
    {
        return Err(Reason::Price { hourly: total.hourly(), most });
    }
    let mut gone: Vec<_> = question.unavailable.iter().filter(|known| known.names(offer, spot)).collect();
    gone.sort_by_key(|known| std::cmp::Reverse(known.until));
    match gone.first() {
        Some(known) => Err(Reason::Unavailable { class: known.class, until: known.until }),
        None => Ok(total),
    }
}

/// Lower is tried earlier. Equal prices: what is not taken back, then the smaller, then by name.
fn order<'c>(
    question: &Question<'_>,
    choice: &'c Choice<'_>,
) -> (usize, Micros, bool, u32, &'c str, &'c str, &'c str) {
    let offer = choice.offer;
    let rank = rank(question, &offer.provider);
    (rank, choice.total.hourly(), choice.spot, offer.vcpus, &offer.provider, &offer.region, &offer.plan)
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

/// Candidates of a failover plan in one region of one provider, so that a region that is full does not use it up.
const PLAN_PER_REGION: usize = 2;

/// The first of `sorted`, in their order: [`PLAN_LENGTH`] of them. Where machines are spread, each place has its first before
/// any has its second, and so on, so that the cheapest does not use the plan up.
///
/// Plans that are one machine each do not count: every replica needs one of its own, and some in reserve.
fn shorten(sorted: Vec<Choice<'_>>, replicas: u32, spread: Spread) -> Vec<Choice<'_>> {
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

/// All that a question has beside its demand.
type Terms = (Strategy, u32, Spread, bool, [bool; 3]);

fn terms() -> impl Generator<Value = Terms> {
    let preferred = ["hivelocity", "aws"].map(str::to_owned).to_vec();
    let pinned = |provider: &str, plan: &str| Strategy::Pinned {
        provider: provider.to_owned(),
        plan: plan.to_owned(),
    };
    let strategy = prop_oneof![
        Just(Strategy::Cheapest),
        Just(Strategy::FirstMatch),
        Just(Strategy::Preferred(preferred)),
        Just(pinned("scaleway", "")),
        Just(pinned("aws", "m5.large")),
        Just(pinned("equinix", "")),
    ];
    let spread = prop_oneof![Just(Spread::None), Just(Spread::Regions), Just(Spread::Providers)];
    (strategy, 1_u32..20, spread, any::<bool>(), any::<[bool; 3]>())
}

/// The embedded list, and machines that are there once.
static WITH_HOSTS: LazyLock<Catalogue> = LazyLock::new(|| {
    let host = |number: u32| {
        let (name, region) = (format!("rack-{number:02}"), format!("room-{}", number % 3));
        let price = Micros::new(u64::from(number % 5) * 10_000);
        Offer { disk_gb: 4000, ..Offer::live("ssh", &name, &region, (16, 65_536), price) }
    };
    EMBEDDED.with((0..40).map(host).collect())
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_the_one_of_the_plain_way(
        (demand, max_hourly, max_age_days, has_rate) in demands(),
        size in proptest::option::of((10_u32..=4000, 1_u64..=8192, 1_u32..=100)),
        (strategy, replicas, spread, reaches_ipv6, [few, gone, several]) in terms(),
    ) {
        // Small ones fit nearly everywhere, so that plans are long.
        let (cpu_millis, memory_mib, disk_gb) = size.unwrap_or((demand.cpu_millis, demand.memory_mib, demand.disk_gb));
        let gpu = demand.gpu.clone().filter(|_| size.is_none());
        let regions = if several { vec!["fr-par-1".to_owned(), "us".to_owned()] } else { Vec::new() };
        let within = several.then(|| "eu".to_owned());
        let demand = Demand { cpu_millis, memory_mib, disk_gb, gpu, regions, within, ..demand };
        let configured: BTreeSet<_> = ["aws", "linode", "scaleway", "ssh"].map(str::to_owned).into();
        let lost = |provider: &str, region: Option<&str>, plan: Option<&str>, spot: Option<bool>| Unavailable {
            provider: provider.to_owned(),
            region: region.map(str::to_owned),
            plan: plan.map(str::to_owned),
            spot,
            class: ErrorClass::Capacity,
            until: Timestamp::from_millis(1000 + u64::from(plan.is_some())),
        };
        let lost = [
            lost("gcp", None, None, Some(true)),
            lost("aws", Some("us-east-1"), None, None),
            lost("aws", Some("us-east-1"), Some("t3.micro"), Some(false)),
            lost("linode", None, Some("g6-nanode-1"), None),
        ];
        let asked = Question {
            max_hourly,
            max_age_days,
            usd_per_eur: has_rate.then(|| Micros::new(1_083_000)),
            replicas,
            spread,
            reaches_ipv6,
            configured: few.then_some(&configured),
            unavailable: if gone { &lost } else { &[] },
            ..question(&demand, &strategy)
        };
        prop_assert_eq!(examine(&WITH_HOSTS, &asked), examine_plainly(&WITH_HOSTS, &asked));
        let (plan, verdicts) = place_plainly(&WITH_HOSTS, &asked);
        match place(&WITH_HOSTS, &asked) {
            Ok(placement) => {
                prop_assert_eq!(placement.plan, plan);
                prop_assert_eq!(placement.verdicts, verdicts);
            }
            Err(NoFit::Machine { nearest, code }) => {
                prop_assert!(plan.is_empty());
                prop_assert_eq!((nearest, code), reason::nearest(&verdicts));
            }
            Err(NoFit::Region { wanted }) => prop_assert_eq!(wanted, "atlantis"),
        }
    }
}
