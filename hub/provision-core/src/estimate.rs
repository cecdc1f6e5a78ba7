//! What a deployment will cost, and the price list that a pricing engine asks for it.

use blueprint_common_types::Micros;

use crate::catalogue::facts;
use crate::placement::{Choice, Demand, HOURS_PER_MONTH, Total};
use crate::resource::ResourceSpec;

/// What is asked of an estimate beside the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Hours that it runs.
    pub hours: u32,
    /// How many machines.
    pub replicas: u32,
    /// What the operator adds, in thousandths of the cost.
    pub markup_permille: u32,
    /// What a service that goes before others pays on top, in thousandths of the cost.
    pub priority_permille: u32,
    /// What a promise of availability costs on top, in thousandths of the cost.
    pub sla_permille: u32,
}

impl Default for Terms {
    /// One machine for a month, nothing added.
    fn default() -> Self {
        Self { hours: 730, replicas: 1, markup_permille: 0, priority_permille: 0, sla_permille: 0 }
    }
}

/// A cost by its parts, in US dollars; hourly amounts are those of one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CostReport {
    /// What the machine costs as long as it is wanted, by part.
    pub base: Total,
    /// What is saved for an hour where it may be taken back.
    pub spot_discount: Micros,
    /// What the operator adds for an hour.
    pub markup: Micros,
    /// What goes before others costs for an hour.
    pub priority_premium: Micros,
    /// What a promise of availability costs for an hour.
    pub sla_cost: Micros,
    /// All of that.
    pub final_hourly: Micros,
    /// What all machines cost for the hours asked, with what is billed at least.
    pub total: Micros,
    /// What all machines cost for 730 hours.
    pub monthly: Micros,
    /// Seconds that are billed for each machine.
    pub billed_secs: u64,
}

impl CostReport {
    /// The cost of `choice` for `demand`; `None` where its price is in euro and there is no rate.
    #[must_use]
    pub fn of(
        choice: &Choice<'_>,
        demand: &Demand,
        usd_per_eur: Option<Micros>,
        terms: &Terms,
    ) -> Option<Self> {
        let base = Total::of(choice.offer, false, demand, usd_per_eur, terms.replicas)?;
        let actual = choice.total.hourly();
        let part = |permille: u32| actual.share(permille.into(), 1000);
        let (markup, priority_premium, sla_cost) =
            (part(terms.markup_permille), part(terms.priority_permille), part(terms.sla_permille));
        let final_hourly = [actual, markup, priority_premium, sla_cost].into_iter().sum::<Micros>();
        let billed_secs = billed_secs(&choice.offer.provider, u64::from(terms.hours) * 3600);
        let all = |amount: Micros| amount.times(terms.replicas.into());
        Some(Self {
            base,
            spot_discount: base.hourly().minus(actual),
            markup,
            priority_premium,
            sla_cost,
            final_hourly,
            total: all(final_hourly.share(billed_secs, 3600)),
            monthly: all(final_hourly.times(HOURS_PER_MONTH)),
            billed_secs,
        })
    }
}

/// Seconds that `provider` bills for `secs` of a machine: at least its minimum, and a started part whole.
#[must_use]
pub fn billed_secs(provider: &str, secs: u64) -> u64 {
    let Some(facts) = facts(provider) else {
        return secs;
    };
    let least = secs.max(facts.extras.minimum_secs.into());
    least.next_multiple_of(u64::from(facts.extras.granularity_secs.max(1)))
}

/// Price of one unit of a resource for a second, in millionths of millionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitRate {
    /// Kind, in the pricing engine's spelling.
    pub kind: &'static str,
    /// Units that the specification has.
    pub count: u64,
    /// Price of one of them for a second.
    pub pico_usd: u64,
}

/// MiB of memory that cost as much as a processor, about what clouds ask.
const MEMORY_PER_CPU_MIB: u64 = 7680;

/// Thousandths of a machine's price that its GPUs are.
const GPU_PERMILLE: u64 = 750;

/// Spreads `hourly` over the resources of `spec`, so that an engine that adds them up again comes to no less than it. The
/// disk's price goes to storage; of the rest GPUs are three quarters, and processors and memory share by 7.5 GiB for one.
#[must_use]
pub fn unit_rates(spec: &ResourceSpec, hourly: Micros, disk: Micros) -> Vec<UnitRate> {
    let units = spec.pricing_units();
    let count = |kind: &str| units.iter().find(|unit| unit.kind == kind).map_or(0, |unit| unit.count);
    let disk = disk.get().min(hourly.get());
    let rest = Micros::new(hourly.get() - disk);
    let gpu = if count("GPU") > 0 { rest.share(GPU_PERMILLE, 1000) } else { Micros::ZERO };
    let machine = rest.minus(gpu);
    let weights = (count("CPU") * MEMORY_PER_CPU_MIB, count("MemoryMB"));
    let share = |weight: u64| machine.share(weight, weights.0 + weights.1);
    [
        ("CPU", share(weights.0)),
        ("MemoryMB", share(weights.1)),
        ("StorageMB", Micros::new(disk)),
        ("GPU", gpu),
    ]
    .into_iter()
    .filter(|(kind, price)| count(kind) > 0 && *price > Micros::ZERO)
    .map(|(kind, price)| {
        let count = count(kind);
        let pico = (u128::from(price.get()) * 1_000_000).div_ceil(3600 * u128::from(count));
        UnitRate { kind, count, pico_usd: u64::try_from(pico).unwrap_or(u64::MAX) }
    })
    .collect()
}

/// The file `default_pricing.toml` of the pricing engine. It reads the file at its start alone.
#[must_use]
pub fn pricing_toml(rates: &[UnitRate], note: &str) -> String {
    let lines = rates.iter().map(|rate| {
        let (whole, part) = (rate.pico_usd / 1_000_000_000_000, rate.pico_usd % 1_000_000_000_000);
        format!("  {{ kind = \"{}\", count = 1, price_per_unit_rate = {whole}.{part:012} }},\n", rate.kind)
    });
    let note: String = note.lines().map(|line| format!("# {line}\n")).collect();
    format!("{note}[default]\nresources = [\n{}]\n", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalogue::{Catalogue, Template, templates};
    use crate::lifecycle::Spread;
    use crate::placement::{Question, Strategy as How, place};

    fn first(catalogue: &Catalogue, spec: &ResourceSpec, terms: &Terms) -> CostReport {
        let demand = Demand::machine(spec);
        let question = Question {
            demand: &demand,
            replicas: terms.replicas,
            spread: Spread::None,
            strategy: &How::Cheapest,
            max_hourly: None,
            configured: None,
            clusters: &[],
            usd_per_eur: None,
            today: "2026-11-21".parse().unwrap(),
            max_age_days: None,
            reaches_ipv6: false,
            unavailable: &[],
        };
        let placement = place(catalogue, &question).unwrap();
        CostReport::of(placement.plan.first().unwrap(), &demand, None, terms).unwrap()
    }

    #[test]
    fn the_parts_of_a_report_add_up() {
        let terms =
            Terms { hours: 24, replicas: 2, markup_permille: 200, priority_permille: 100, sla_permille: 50 };
        let spec = ResourceSpec { allow_spot: true, ..ResourceSpec::preset("recommended").unwrap() };
        let report = first(&Catalogue::embedded().unwrap(), &spec, &terms);
        assert!(report.spot_discount > Micros::ZERO, "{report:?}");
        let parts = [
            report.base.hourly().minus(report.spot_discount),
            report.markup,
            report.priority_premium,
            report.sla_cost,
        ];
        assert_eq!(report.final_hourly, parts.into_iter().sum());
        assert_eq!(report.total, report.final_hourly.times(48));
        assert_eq!(report.monthly, report.final_hourly.times(1460));
    }

    #[test]
    fn what_is_billed_at_least_counts() {
        assert_eq!(billed_secs("aws", 1), 60);
        assert_eq!(billed_secs("aws", 61), 61);
        assert_eq!(billed_secs("vultr", 3601), 7200);
        assert_eq!(billed_secs("linode", 0), 3600);
        let terms = Terms { hours: 1, ..Terms::default() };
        let catalogue = Catalogue::new(templates().iter().flat_map(Template::offers).collect());
        let report = first(&catalogue, &ResourceSpec::preset("minimal").unwrap(), &terms);
        assert_eq!(report.total, report.final_hourly);
    }

    proptest! {
        /// The engine's own sum: count times rate, over the seconds of a month.
        #[test]
        fn an_engine_comes_to_no_less(cpu in 10_u32..200_000, memory in 1_u64..1_000_000, hourly in 1_u64..100_000_000, disk in 0_u64..1_000_000, gpus in 0_u16..9) {
            let spec = ResourceSpec {
                cpu_millis: cpu,
                memory_bytes: memory << 20,
                gpu: (gpus > 0).then_some(crate::resource::GpuSpec { count: gpus, kind: None, min_vram_mib: 0 }),
                ..ResourceSpec::default()
            };
            let rates = unit_rates(&spec, Micros::new(hourly), Micros::new(disk));
            let hour: u128 = rates.iter().map(|rate| u128::from(rate.count) * u128::from(rate.pico_usd) * 3600).sum();
            let wanted = u128::from(hourly) * 1_000_000;
            prop_assert!(hour >= wanted, "{} {}", hour, wanted);
            // Rounding up: at most one unit of the last place for each unit of a resource, and one micro for each share.
            let units: u128 = rates.iter().map(|rate| u128::from(rate.count)).sum();
            prop_assert!(hour <= wanted + units * 3600 + 4_000_000, "{} {}", hour, wanted);
        }
    }

    #[test]
    fn the_file_is_what_the_engine_reads() {
        let spec = ResourceSpec::preset("recommended").unwrap();
        let text = pricing_toml(&unit_rates(&spec, Micros::new(60_000), Micros::ZERO), "made today");
        assert!(text.starts_with("# made today\n[default]\nresources = [\n"), "{text}");
        assert!(text.contains("kind = \"CPU\", count = 1, price_per_unit_rate = 0.00000"), "{text}");
    }
}
