mod around;
mod plain;

use std::sync::LazyLock;

use blueprint_common_types::Timestamp;
use proptest::prelude::{Just, ProptestConfig, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::*;
use crate::catalogue::{CpuShare, GpuKind, PriceKind, Template, facts, templates};
use crate::resource::{ArchChoice, GIB, GpuSpec, Processors, ResourceSpec};
use crate::{Candidate, ErrorClass};

static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::embedded().unwrap());

fn today() -> Day {
    "2026-11-21".parse().unwrap()
}

fn question<'a>(demand: &'a Demand, strategy: &'a Strategy) -> Question<'a> {
    Question {
        demand,
        replicas: 1,
        spread: Spread::None,
        strategy,
        max_hourly: None,
        configured: None,
        clusters: &[],
        usd_per_eur: Some(Micros::new(1_100_000)),
        today: today(),
        max_age_days: None,
        reaches_ipv6: true,
        unavailable: &[],
    }
}

fn machine(cpu_millis: u32, memory_gib: u64, change: impl FnOnce(&mut ResourceSpec)) -> Demand {
    let mut spec = ResourceSpec {
        cpu_millis,
        memory_bytes: memory_gib * GIB,
        storage_bytes: 1_000_000_000,
        ..ResourceSpec::default()
    };
    change(&mut spec);
    Demand::machine(&spec)
}

fn only_templates() -> Catalogue {
    Catalogue::new(templates().iter().flat_map(Template::offers).collect())
}

fn names(placement: &Placement<'_>) -> Vec<(String, String)> {
    let name = |choice: &Choice<'_>| (choice.offer.provider.to_string(), choice.offer.plan.to_string());
    placement.plan.iter().map(name).collect()
}

/// The specification's own example: `deploy --min-cpu 4 --min-memory 8 --budget 0.10`.
#[test]
fn the_example_of_the_specification_gives_a_machine_of_the_right_processor() {
    let catalogue = only_templates();
    let budget = Some(Micros::new(100_000));
    let demand = machine(4000, 8, |_| ());
    let asked = Question { max_hourly: budget, ..question(&demand, &Strategy::Cheapest) };
    let placement = place(&catalogue, &asked).unwrap();
    assert_eq!(&*placement.plan.first().unwrap().offer.plan, "s-4vcpu-8gb");
    let demand = machine(4000, 8, |spec| spec.arch = ArchChoice::Any);
    let asked = Question { max_hourly: budget, ..question(&demand, &Strategy::Cheapest) };
    let placement = place(&catalogue, &asked).unwrap();
    // By the list alone the ARM machine is the cheapest; its address makes it dearer than the other.
    let (fits, _) = examine(&catalogue, &asked);
    let by_list = fits.iter().min_by_key(|choice| choice.total.compute).unwrap();
    assert_eq!(&*by_list.offer.plan, "BASIC2-A4C-8G");
    assert_eq!(&*placement.plan.first().unwrap().offer.plan, "s-4vcpu-8gb");
}

#[test]
fn what_ended_never_wins() {
    let catalogue = only_templates();
    let gpu = |kind: &str| {
        machine(1000, 1, |spec| {
            spec.gpu = Some(GpuSpec { count: 1, kind: Some(kind.to_owned()), min_vram_mib: 0 });
        })
    };
    let demand = gpu("v100");
    let error = place(&catalogue, &question(&demand, &Strategy::Cheapest)).unwrap_err();
    assert!(matches!(error, NoFit::Machine { .. }), "{error}");
    let pinned = Strategy::Pinned { provider: "equinix".to_owned(), plan: String::new() };
    let error = place(&catalogue, &question(&demand, &pinned)).unwrap_err();
    assert!(error.to_string().contains("2026-06-30"), "{error}");
}

#[test]
fn a_slice_of_a_gpu_is_not_a_gpu() {
    let demand = machine(1000, 1, |spec| {
        spec.gpu = Some(GpuSpec { count: 1, kind: Some("l4".to_owned()), min_vram_mib: 0 });
    });
    let placement = place(&EMBEDDED, &question(&demand, &Strategy::Cheapest)).unwrap();
    for choice in &placement.plan {
        let gpu = choice.offer.gpu.as_ref().unwrap();
        assert!(gpu.is_whole() && gpu.kind == GpuKind::named("L4").unwrap(), "{choice:?}");
    }
}

#[test]
fn the_first_match_goes_by_class() {
    let gpu = machine(1000, 1, |spec| spec.gpu = Some(GpuSpec { count: 1, kind: None, min_vram_mib: 0 }));
    let placement = place(&EMBEDDED, &question(&gpu, &Strategy::FirstMatch)).unwrap();
    assert_eq!(names(&placement).first().unwrap().0, "gcp");
    let without: BTreeSet<_> = ["aws", "linode"].map(str::to_owned).into();
    let asked = Question { configured: Some(&without), ..question(&gpu, &Strategy::FirstMatch) };
    assert_eq!(names(&place(&EMBEDDED, &asked).unwrap()).first().unwrap().0, "aws");

    let large = machine(16_000, 16, |_| ());
    let placement = place(&EMBEDDED, &question(&large, &Strategy::FirstMatch)).unwrap();
    assert_eq!(names(&placement).first().unwrap().0, "aws", "Vultr and DigitalOcean have none that large");

    let small = machine(1000, 1, |_| ());
    let first = place(&EMBEDDED, &question(&small, &Strategy::FirstMatch)).unwrap();
    let cheapest = place(&EMBEDDED, &question(&small, &Strategy::Cheapest)).unwrap();
    assert_eq!(names(&first), names(&cheapest));
}

#[test]
fn the_preferred_provider_goes_first_and_the_others_stand_behind() {
    let demand = machine(2000, 4, |_| ());
    let strategy = Strategy::Preferred(vec!["hivelocity".to_owned(), "aws".to_owned()]);
    let placement = place(&EMBEDDED, &question(&demand, &strategy)).unwrap();
    let order: Vec<_> = names(&placement).into_iter().map(|(provider, _)| provider).collect();
    assert_eq!(order.first().map(String::as_str), Some("hivelocity"));
    assert_eq!(placement.plan.len(), PLAN_LENGTH);
}

#[test]
fn spot_is_taken_only_where_it_is_allowed() {
    let demand = machine(2000, 4, |_| ());
    let placement = place(&EMBEDDED, &question(&demand, &Strategy::Cheapest)).unwrap();
    assert!(placement.plan.iter().all(|choice| !choice.spot));
    let demand = machine(2000, 4, |spec| spec.allow_spot = true);
    let gcp: BTreeSet<_> = ["gcp".to_owned()].into();
    let asked = Question { configured: Some(&gcp), ..question(&demand, &Strategy::Cheapest) };
    assert!(place(&EMBEDDED, &asked).unwrap().plan.first().unwrap().spot);
}

#[test]
fn nothing_fits_says_what_came_nearest() {
    let demand = machine(4000, 8, |_| ());
    let asked = Question { max_hourly: Some(Micros::ZERO), ..question(&demand, &Strategy::Cheapest) };
    let error = place(&EMBEDDED, &asked).unwrap_err().to_string();
    assert!(error.contains("an hour, more than 0.00"), "{error}");
    let demand = machine(1_000_000, 1, |_| ());
    let error = place(&EMBEDDED, &question(&demand, &Strategy::Cheapest)).unwrap_err().to_string();
    assert!(error.contains("of 1000.00 processors"), "{error}");
    let demand = machine(1000, 1, |spec| spec.region = Some("atlantis".to_owned()));
    let error = place(&EMBEDDED, &question(&demand, &Strategy::Cheapest)).unwrap_err().to_string();
    assert!(error.contains("no provider has a region called \"atlantis\""), "{error}");
    let nobody = BTreeSet::new();
    let demand = machine(1000, 1, |_| ());
    let asked = Question { configured: Some(&nobody), ..question(&demand, &Strategy::Cheapest) };
    let error = place(&EMBEDDED, &asked).unwrap_err().to_string();
    assert!(error.contains("aws: not configured"), "{error}");
}

#[test]
fn old_prices_and_euros_without_a_rate_are_left_out() {
    let demand = machine(1000, 1, |_| ());
    let asked =
        Question { max_age_days: Some(180), usd_per_eur: None, ..question(&demand, &Strategy::Cheapest) };
    let (fits, verdicts) = examine(&EMBEDDED, &asked);
    assert!(!fits.is_empty());
    assert!(fits.iter().all(|choice| choice.offer.as_of.days_until(today()) <= 180));
    let reason = |name: &str| match verdicts.get(name) {
        Some(Verdict::Nearest { reason, .. }) => reason.code(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(reason("linode"), "stale_price");
    assert_eq!(reason("scaleway"), "no_rate");
}

#[test]
fn what_cannot_be_had_is_passed_over() {
    let demand = machine(2000, 4, |_| ());
    let first = names(&place(&EMBEDDED, &question(&demand, &Strategy::Cheapest)).unwrap()).remove(0);
    let gone = [Unavailable {
        provider: first.0.clone(),
        region: None,
        plan: Some(first.1.clone()),
        spot: None,
        class: ErrorClass::Capacity,
        until: Timestamp::from_millis(1),
    }];
    let asked = Question { unavailable: &gone, ..question(&demand, &Strategy::Cheapest) };
    assert!(!names(&place(&EMBEDDED, &asked).unwrap()).contains(&first));
}

#[test]
fn many_replicas_go_to_a_cluster_and_hybrid_falls_back_to_one() {
    let clusters = ["production".to_owned()];
    let kubernetes = Target::Kubernetes("production".to_owned());
    let demand = machine(1000, 1, |_| ());
    let asked = Question { replicas: 11, clusters: &clusters, ..question(&demand, &Strategy::Cheapest) };
    assert_eq!(place(&EMBEDDED, &asked).unwrap().target, kubernetes);
    let asked = Question { replicas: 11, ..question(&demand, &Strategy::Cheapest) };
    assert_eq!(place(&EMBEDDED, &asked).unwrap().target, Target::Machines);
    let asked = Question {
        max_hourly: Some(Micros::ZERO),
        clusters: &clusters,
        ..question(&demand, &Strategy::Hybrid)
    };
    assert_eq!(place(&EMBEDDED, &asked).unwrap().target, kubernetes);
    let asked = Question {
        max_hourly: Some(Micros::ZERO),
        clusters: &clusters,
        ..question(&demand, &Strategy::Cheapest)
    };
    assert!(place(&EMBEDDED, &asked).is_err());
    assert_eq!(place(&EMBEDDED, &question(&demand, &Strategy::LocalOnly)).unwrap().target, Target::Local);
}

/// Agents reach their hub over IPv4, unless it is advertised by an IPv6 address.
#[test]
fn a_plan_without_ipv4_is_chosen_only_where_it_can_reach_the_hub_or_is_named() {
    let catalogue = only_templates();
    let demand = machine(500, 0, |_| ());
    let plan = |question: &Question<'_>| {
        let placement = place(&catalogue, question).unwrap();
        placement.plan.iter().map(|choice| choice.offer.plan.to_string()).collect::<Vec<_>>()
    };
    let only = "vc2-1c-0.5gb-v6".to_owned();
    let asked = question(&demand, &Strategy::Cheapest);
    assert!(plan(&asked).contains(&only), "the cheapest of all");
    let asked = Question { reaches_ipv6: false, ..asked };
    assert!(!plan(&asked).contains(&only));
    let provider = "vultr".to_owned();
    let pinned = Strategy::Pinned { provider: provider.clone(), plan: String::new() };
    assert!(!plan(&Question { strategy: &pinned, ..asked.clone() }).contains(&only));
    let pinned = Strategy::Pinned { provider, plan: only.clone() };
    assert_eq!(plan(&Question { strategy: &pinned, ..asked }).first(), Some(&only));
}

#[test]
fn the_plan_does_not_hang_on_one_region() {
    let demand = machine(2000, 4, |_| ());
    let placement = place(&EMBEDDED, &question(&demand, &Strategy::Cheapest)).unwrap();
    let mut per_region: BTreeMap<_, usize> = BTreeMap::new();
    for choice in &placement.plan {
        *per_region.entry((&choice.offer.provider, &choice.offer.region)).or_default() += 1;
    }
    assert!(per_region.values().all(|count| *count <= 2), "{per_region:?}");
}

/// The same answer, written down without any thought of speed.
fn naive<'a>(
    catalogue: &'a Catalogue,
    question: &Question<'_>,
) -> Option<(u64, bool, u32, &'a str, &'a str, &'a str)> {
    let demand = question.demand;
    let mut best = None;
    for offer in catalogue.offers() {
        for spot in [false, true] {
            let price = if spot { offer.spot } else { Some(offer.on_demand) };
            let Some(price) = price.filter(|_| !spot || demand.allow_spot) else { continue };
            let ok = facts(&offer.provider).unwrap().discontinued().is_none()
                && question.configured.is_none_or(|set| set.contains(&*offer.provider))
                && demand.region.as_deref().is_none_or(|region| {
                    crate::catalogue::region_matches(&offer.provider, &offer.region, region)
                })
                && demand.arch.takes(offer.arch)
                && demand.gpu.as_ref().is_none_or(|wanted| {
                    offer.gpu.as_ref().is_some_and(|gpu| {
                        gpu.count_millis % 1000 == 0
                            && gpu.count_millis / 1000 >= u32::from(wanted.count)
                            && gpu.vram_mib >= wanted.min_vram_mib
                            && wanted.kind.as_deref().is_none_or(|kind| kind == gpu.kind.as_str())
                    })
                })
                && (demand.allow_burstable || !offer.is_burstable)
                && u64::from(offer.vcpus) * 1000 >= u64::from(demand.cpu_millis)
                && match (demand.processors, offer.cpu_share()) {
                    (Processors::Whole, _) | (_, CpuShare::Dedicated) => true,
                    (Processors::Baseline, CpuShare::Baseline(permille)) => {
                        u64::from(offer.vcpus) * u64::from(permille) >= u64::from(demand.cpu_millis)
                    }
                    (Processors::Baseline | Processors::Dedicated, _) => false,
                }
                && offer.memory_mib >= demand.memory_mib;
            let extras = facts(&offer.provider).unwrap().extras;
            let missing = if extras.loses_own_disk {
                demand.disk_gb.max(8)
            } else {
                demand.disk_gb.saturating_sub(offer.disk_gb)
            };
            let disk_ok = missing == 0 || extras.disk_gb_month > Micros::ZERO;
            let old = question.max_age_days.is_some_and(|days| {
                offer.kind == PriceKind::Template || offer.as_of.days_until(question.today) > days
            });
            if !ok || !disk_ok || (old && offer.kind != PriceKind::Live) {
                continue;
            }
            let compute = match offer.currency {
                crate::catalogue::Currency::Usd => price.get(),
                crate::catalogue::Currency::Eur => match question.usd_per_eur {
                    Some(rate) => (price.get() * rate.get()).div_ceil(1_000_000),
                    None => continue,
                },
            };
            let disk = (extras.disk_gb_month.get() * u64::from(missing)).div_ceil(730);
            let egress = (extras.egress_gb.get()
                * u64::from(demand.egress_gb.saturating_sub(extras.egress_free_gb / question.replicas)))
            .div_ceil(730);
            let total = compute + disk + extras.ipv4_hourly.get() + egress;
            if question.max_hourly.is_some_and(|most| total > most.get()) {
                continue;
            }
            let key = (total, spot, offer.vcpus, &*offer.provider, &*offer.region, &*offer.plan);
            if best.is_none_or(|best| key < best) {
                best = Some(key);
            }
        }
    }
    best
}

fn demands() -> impl Generator<Value = (Demand, Option<Micros>, Option<u32>, bool)> {
    let gpu = proptest::option::weighted(
        0.3,
        (1_u16..=8, proptest::option::of(prop_oneof!["l4", "t4", "a100", "h100", "v100"]), 0_u32..=90_000),
    );
    let region =
        proptest::option::of(prop_oneof!["us-east", "eu", "de", "fr-par-1", "as", "us-east-1", "atlantis"]);
    let arch = prop_oneof![Just(ArchChoice::X86_64), Just(ArchChoice::Arm64), Just(ArchChoice::Any)];
    let processors =
        prop_oneof![Just(Processors::Whole), Just(Processors::Baseline), Just(Processors::Dedicated)];
    let size = (10_u32..=130_000, 1_u64..=2_000_000, 1_u32..=4_000, 0_u32..=5_000);
    let price = proptest::option::of(1_u64..=5_000_000);
    (size, gpu, region, (arch, processors), any::<[bool; 3]>(), price, proptest::option::of(0_u32..=900))
        .prop_map(
            |(
                (cpu_millis, memory_mib, disk_gb, egress_gb),
                gpu,
                region,
                (arch, processors),
                [spot, burst, rate],
                price,
                age,
            )| {
                let gpu = gpu.map(|(count, kind, min_vram_mib)| GpuSpec { count, kind, min_vram_mib });
                let demand = Demand {
                    cpu_millis,
                    memory_mib,
                    disk_gb,
                    gpu,
                    arch,
                    region,
                    regions: Vec::new(),
                    within: None,
                    plans: Vec::new(),
                    allow_spot: spot,
                    allow_burstable: burst,
                    processors,
                    egress_gb,
                };
                (demand, price.map(Micros::new), age, rate)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn placement_equals_a_naive_search((demand, max_hourly, max_age_days, has_rate) in demands()) {
        let asked = Question {
            max_hourly,
            max_age_days,
            usd_per_eur: has_rate.then(|| Micros::new(1_083_000)),
            ..question(&demand, &Strategy::Cheapest)
        };
        let wanted = naive(&EMBEDDED, &asked);
        let got = place(&EMBEDDED, &asked);
        match (&wanted, &got) {
            (Some(wanted), Ok(placement)) => {
                let choice = placement.plan.first().unwrap();
                let offer = choice.offer;
                let key = (choice.total.hourly().get(), choice.spot, offer.vcpus, &*offer.provider, &*offer.region, &*offer.plan);
                prop_assert_eq!(&key, wanted);
                prop_assert!(u64::from(offer.vcpus) * 1000 >= u64::from(demand.cpu_millis) && offer.memory_mib >= demand.memory_mib);
            }
            (None, Err(NoFit::Machine { nearest, .. })) => prop_assert!(!nearest.is_empty()),
            (None, Err(NoFit::Region { wanted })) => prop_assert_eq!(Some(wanted), demand.region.as_ref()),
            (wanted, got) => prop_assert!(false, "{:?} against {:?}", wanted, got.as_ref().map(|placement| placement.plan.len())),
        }
    }
}

#[test]
fn every_replica_finds_a_machine_that_is_there_once_and_clouds_stand_behind() {
    let host =
        |number: u32| Offer::live("ssh", &format!("rack-{number:02}"), "own", (8, 32_768), Micros::ZERO);
    let mut offers: Vec<_> = (0..40).map(host).collect();
    offers.iter_mut().for_each(|offer| offer.disk_gb = 100);
    let catalogue = only_templates().with(offers);
    let demand = machine(2000, 4, |_| ());
    let asked = Question { replicas: 20, ..question(&demand, &Strategy::Cheapest) };
    let placement = place(&catalogue, &asked).unwrap();
    let own = placement.plan.iter().take_while(|choice| &*choice.offer.provider == "ssh").count();
    assert_eq!((own, placement.plan.len()), (20 + PLAN_LENGTH, 20 + 2 * PLAN_LENGTH));
    assert_eq!(placement.plan.first().unwrap().total.hourly(), Micros::ZERO);
}

#[test]
fn each_place_has_its_part_of_a_plan_that_is_spread() {
    let offer = |provider: &str, plan: &str, region: &str, hourly| {
        let mut offer = Offer::live(provider, plan, region, (2, 4096), Micros::new(hourly));
        offer.disk_gb = 100;
        offer
    };
    // One provider alone has more cheap machines than a plan is long.
    let mut offers = Vec::new();
    for region in ["local", "local-2", "local-3", "local-4"] {
        offers.extend((1..=4).map(|number| offer("sim", &format!("s{number}"), region, 1000 * number)));
    }
    offers
        .extend(["nyc3", "fra1", "ams3"].map(|region| offer("digitalocean", "s-2vcpu-4gb", region, 90_000)));
    offers.push(offer("hetzner", "cx22", "fsn1", 95_000));
    let catalogue = Catalogue::new(offers);
    let demand = machine(2000, 4, |_| ());
    let plan = |spread, replicas| {
        let asked = Question { spread, replicas, ..question(&demand, &Strategy::Cheapest) };
        let placement = place(&catalogue, &asked).unwrap();
        placement.plan.iter().map(Choice::candidate).collect::<Vec<_>>()
    };
    let count = |plan: &[Candidate], provider: &str| plan.iter().filter(|it| it.provider == provider).count();
    let none = plan(Spread::None, 4);
    assert_eq!(
        (none.len(), count(&none, "sim"), Spread::None.places(&none, 4)),
        (PLAN_LENGTH, PLAN_LENGTH, 1)
    );

    let over = plan(Spread::Providers, 4);
    assert_eq!(over.len(), PLAN_LENGTH);
    assert_eq!([count(&over, "digitalocean"), count(&over, "hetzner")], [3, 1], "{over:?}");
    assert!(over.is_sorted_by_key(|it| it.hourly), "the cheapest stands first: {over:?}");
    assert_eq!(Spread::Providers.places(&over, 4), 3);
    let layout = Spread::Providers.layout(&over, 4);
    let at: Vec<&str> = layout.iter().map(|it| it.provider.as_str()).collect();
    assert_eq!(at, ["sim", "digitalocean", "hetzner", "sim"]);

    let over = plan(Spread::Regions, 8);
    assert_eq!(
        (over.len(), Spread::Regions.places(&over, 8)),
        (PLAN_LENGTH, 8),
        "one of each region: {over:?}"
    );
    assert_eq!(Spread::Regions.places(&over, 1), 1);
}

#[test]
fn of_several_regions_and_plans_one_has_to_be() {
    let host = |number: u32, region: &str| {
        let mut offer = Offer::live("ssh", &format!("rack-{number}"), region, (8, 32_768), Micros::ZERO);
        offer.disk_gb = 100;
        offer
    };
    let catalogue = Catalogue::new(vec![host(1, "cellar"), host(2, "attic"), host(3, "barn")]);
    let plan = |regions: &[&str], plans: &[&str]| {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect();
        let demand = Demand { regions: words(regions), plans: words(plans), ..machine(2000, 4, |_| ()) };
        let placement = place(&catalogue, &question(&demand, &Strategy::Cheapest));
        placement.map(|found| names(&found).into_iter().map(|(_, plan)| plan).collect::<Vec<_>>())
    };
    assert_eq!(plan(&[], &[]).unwrap().len(), 3);
    assert_eq!(plan(&[], &["rack-2", "rack-3"]).unwrap(), ["rack-2", "rack-3"]);
    assert_eq!(plan(&["cellar", "barn"], &[]).unwrap(), ["rack-3", "rack-1"]);
    assert_eq!(plan(&["cellar"], &["rack-1", "rack-2"]).unwrap(), ["rack-1"]);
    let nothing = plan(&["cellar", "barn"], &["rack-2"]).unwrap_err();
    assert!(nothing.to_string().contains("is not in cellar or barn"), "{nothing}");
    assert!(plan(&[], &["rack-9"]).is_err());
}
