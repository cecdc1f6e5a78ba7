//! What a machine has to have.

use crate::catalogue::{CpuShare, Extras, GpuKind, Offer, Region, Word};
use crate::placement::Reason;
use crate::resource::{ArchChoice, GpuSpec, MIB, Processors, ResourceSpec};

/// Bytes of a GB, as disks and traffic are sold.
const GB: u64 = 1_000_000_000;

/// Memory of the agent and the system, in MiB; a service's own comes on top.
const AGENT_MEMORY_MIB: u64 = 128;

/// Thousandths of a machine's listed memory that its kernel and firmware keep.
const KEPT_MEMORY_PERMILLE: u64 = 75;

/// Disk of the system and the agent, in GB.
const SYSTEM_DISK_GB: u64 = 8;

/// What a machine has to have. Every number is a lower bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    /// MiB of memory, as price lists count it.
    pub memory_mib: u64,
    /// GB of disk that lasts.
    pub disk_gb: u32,
    /// GPUs.
    pub gpu: Option<GpuSpec>,
    /// Processors that will do.
    pub arch: ArchChoice,
    /// Region, area, country or continent.
    pub region: Option<String>,
    /// The same, several of which one will do; any where empty.
    pub regions: Vec<String>,
    /// The same, which has to hold beside the others: the blueprint's own word.
    pub within: Option<String>,
    /// Plans of which one will do, by their providers' names; any where empty.
    pub plans: Vec<String>,
    /// Whether it may be taken back.
    pub allow_spot: bool,
    /// Whether processors may be burstable.
    pub allow_burstable: bool,
    /// How shared processors are counted.
    pub processors: Processors,
    /// GB that it sends to the internet in a month.
    pub egress_gb: u32,
}

impl Demand {
    /// A machine that is at least as large as `spec` says, as its price list counts: for people who look for machines.
    #[must_use]
    pub fn machine(spec: &ResourceSpec) -> Self {
        Self {
            cpu_millis: spec.cpu_millis,
            memory_mib: spec.memory_bytes.div_ceil(MIB),
            disk_gb: gb(spec.storage_bytes.div_ceil(GB)),
            gpu: spec.gpu.clone(),
            arch: spec.arch,
            region: spec.region.clone(),
            regions: Vec::new(),
            within: None,
            plans: Vec::new(),
            allow_spot: spec.allow_spot,
            allow_burstable: spec.allow_burstable,
            processors: spec.processors,
            egress_gb: gb((u64::from(spec.egress_gib_month) << 30).div_ceil(GB)),
        }
    }

    /// A machine on which a service has all that `spec` says to itself: memory for system and agent, what the kernel keeps
    /// of the listed memory, and 8 GB of disk come on top. Processors do not: the agent needs next to nothing of them.
    #[must_use]
    pub fn service(spec: &ResourceSpec) -> Self {
        let memory = spec.memory_bytes.div_ceil(MIB).saturating_add(AGENT_MEMORY_MIB);
        let listed = memory.saturating_mul(1000).div_ceil(1000 - KEPT_MEMORY_PERMILLE);
        Self {
            memory_mib: listed,
            disk_gb: gb(spec.storage_bytes.div_ceil(GB).saturating_add(SYSTEM_DISK_GB)),
            ..Self::machine(spec)
        }
    }

    /// Why machines in each of `regions`, all of `provider`, will not do; `None` where they will.
    pub(super) fn check_regions(&self, provider: &str, regions: &[Region]) -> Vec<Option<Reason>> {
        let word = |text| Word::at(provider, text);
        let all: Vec<_> = [&self.region, &self.within].into_iter().flatten().map(|text| word(text)).collect();
        let some: Vec<_> = self.regions.iter().map(|text| word(text)).collect();
        let check = |region: &Region| {
            if let Some(wanted) = all.iter().find(|wanted| !region.is(wanted)) {
                return Some(Reason::Region(wanted.text.to_owned()));
            }
            let is_there = some.is_empty() || some.iter().any(|wanted| region.is(wanted));
            (!is_there).then(|| Reason::Region(self.regions.join(" or ")))
        };
        regions.iter().map(check).collect()
    }

    /// The first thing that `offer` lacks wherever it stands, where its processors are `share` and its provider sells by `extras`.
    pub(super) fn check_kind(
        &self,
        offer: &Offer,
        share: CpuShare,
        extras: Option<&Extras>,
    ) -> Result<(), Reason> {
        if !self.plans.is_empty() && !self.plans.iter().any(|plan| **plan == *offer.plan) {
            return Err(Reason::NotAsked);
        }
        if !self.arch.takes(offer.arch) {
            return Err(Reason::Arch(offer.arch));
        }
        self.check_gpu(offer)?;
        if offer.is_burstable && !self.allow_burstable {
            return Err(Reason::Burstable);
        }
        self.check_processors(offer, share)?;
        if offer.memory_mib < self.memory_mib {
            return Err(Reason::Memory { has_mib: offer.memory_mib, wanted_mib: self.memory_mib });
        }
        let sells_disks = extras.is_some_and(|extras| extras.disk_gb_month.get() > 0);
        if self.missing_disk_gb(offer, extras) > 0 && !sells_disks {
            return Err(Reason::Disk { has_gb: offer.disk_gb, wanted_gb: self.disk_gb });
        }
        Ok(())
    }

    fn check_processors(&self, offer: &Offer, share: CpuShare) -> Result<(), Reason> {
        let wanted_millis = self.cpu_millis;
        if u64::from(offer.vcpus) * 1000 < u64::from(wanted_millis) {
            return Err(Reason::Cpu { has: offer.vcpus, wanted_millis });
        }
        match self.processors {
            Processors::Whole => return Ok(()),
            Processors::Baseline | Processors::Dedicated => (),
        }
        match (share, share.promised_millis(offer.vcpus)) {
            (CpuShare::Dedicated, _) => Ok(()),
            (CpuShare::Baseline(_), Some(has_millis)) if self.processors == Processors::Baseline => {
                let is_enough = has_millis >= wanted_millis;
                if is_enough { Ok(()) } else { Err(Reason::Baseline { has_millis, wanted_millis }) }
            }
            (CpuShare::Baseline(_) | CpuShare::Shared, _) => Err(Reason::Shared(share)),
        }
    }

    fn check_gpu(&self, offer: &Offer) -> Result<(), Reason> {
        let Some(wanted) = &self.gpu else {
            return Ok(());
        };
        let kind = wanted.kind.as_deref().map(GpuKind::named);
        let fits = offer.gpu.as_ref().is_some_and(|gpu| {
            gpu.count() >= u32::from(wanted.count)
                && gpu.vram_mib >= wanted.min_vram_mib
                && kind.is_none_or(|kind| kind == Some(gpu.kind))
        });
        if fits { Ok(()) } else { Err(Reason::Gpu(offer.gpu.clone())) }
    }

    /// GB of disk that last, with what is bought beside the plan's own: never fewer than are wanted.
    pub(super) fn lasting_disk_gb(&self, offer: &Offer, extras: Option<&Extras>) -> u32 {
        // A disk of the plan that lasts is there anyway; where it does not, all of it is bought.
        let bought = self.missing_disk_gb(offer, extras);
        if loses_own_disk(extras) { bought } else { self.disk_gb.max(offer.disk_gb) }
    }

    /// GB of disk that have to be bought beside the plan's own.
    pub(super) fn missing_disk_gb(&self, offer: &Offer, extras: Option<&Extras>) -> u32 {
        // Where there is no disk that lasts, one is bought for the system at least.
        if loses_own_disk(extras) {
            self.disk_gb.max(gb(SYSTEM_DISK_GB))
        } else {
            self.disk_gb.saturating_sub(offer.disk_gb)
        }
    }
}

fn gb(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn loses_own_disk(extras: Option<&Extras>) -> bool {
    extras.is_some_and(|extras| extras.loses_own_disk)
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Micros;

    use super::*;
    use crate::catalogue::facts;
    use crate::placement::Total;

    #[test]
    fn a_service_gets_what_it_asked_for_beside_the_system() {
        let spec = ResourceSpec::preset("recommended").unwrap();
        let (machine, service) = (Demand::machine(&spec), Demand::service(&spec));
        assert_eq!((machine.memory_mib, machine.disk_gb), (4096, 54));
        assert_eq!((service.memory_mib, service.disk_gb), (4567, 62));
        assert_eq!(machine.cpu_millis, service.cpu_millis);
        // What remains of the listed memory is enough.
        assert!(service.memory_mib * 925 / 1000 >= 4096 + 128);
    }

    fn check(demand: &Demand, offer: &Offer) -> Result<(), Reason> {
        let extras = facts(&offer.provider).map(|facts| &facts.extras);
        demand.check_kind(offer, offer.cpu_share(), extras)
    }

    #[test]
    fn shared_processors_count_as_they_are_asked_to() {
        let demand = |cpu_millis, processors| {
            Demand::machine(&ResourceSpec {
                cpu_millis,
                processors,
                storage_bytes: 1 << 30,
                ..ResourceSpec::default()
            })
        };
        let offer = |provider, plan| Offer {
            disk_gb: 20,
            ..Offer::live(provider, plan, "here", (2, 4096), Micros::new(5000))
        };
        let (burstable, shared, own) =
            (offer("aws", "t3.medium"), offer("digitalocean", "s-2vcpu-4gb"), offer("aws", "m5.large"));
        for (wanted, processors, fits) in [
            (2000, Processors::Whole, [true, true, true]),
            (400, Processors::Baseline, [true, false, true]),
            (401, Processors::Baseline, [false, false, true]),
            (100, Processors::Dedicated, [false, false, true]),
        ] {
            let found =
                [&burstable, &shared, &own].map(|offer| check(&demand(wanted, processors), offer).is_ok());
            assert_eq!(found, fits, "{wanted} {processors:?}");
        }
        let why = check(&demand(1000, Processors::Baseline), &burstable).unwrap_err();
        assert_eq!(why.to_string(), "is promised 0.40 of 1.00 processors at all times");
    }

    /// An order names the disk that its price was reckoned with, and never less than was asked for.
    #[test]
    fn the_disk_that_is_ordered_is_the_one_that_was_priced() {
        let asked = |gb: u64| {
            let storage_bytes = gb * 1_000_000_000;
            Demand::machine(&ResourceSpec { storage_bytes, ..ResourceSpec::default() })
        };
        let offer = |provider, disk_gb| {
            let offer = Offer::live(provider, "small", "here", (2, 4096), Micros::new(5000));
            Offer { disk_gb, ..offer }
        };
        for (provider, own, wanted, ordered) in [
            ("digitalocean", 80, 54, 80),
            ("scaleway", 0, 54, 54),
            ("scaleway", 20, 54, 54),
            ("aws", 0, 54, 54),
            ("aws", 900, 54, 54),
            ("aws", 900, 1, 8),
        ] {
            let (demand, offer) = (asked(wanted), offer(provider, own));
            let facts = facts(provider).unwrap();
            let lasting = demand.lasting_disk_gb(&offer, Some(&facts.extras));
            assert_eq!(lasting, ordered, "{provider} {own} {wanted}");
            let total = Total::of(&offer, false, &demand, None, 1).unwrap();
            let bought = if facts.extras.loses_own_disk { ordered } else { ordered - own };
            let price = facts.extras.disk_gb_month.times(bought.into()).share(1, 730);
            assert_eq!(total.disk, price, "{provider} {own} {wanted}");
        }
    }
}
