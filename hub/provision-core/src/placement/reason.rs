//! Why a machine does not do.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use blueprint_common_types::{Micros, Timestamp};

use super::{Verdict, unavailable};
use crate::ErrorClass;
use crate::catalogue::{CpuShare, Gpu};
use crate::resource::Arch;

/// Why a machine does not do; the first of the checks that it fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Its provider is gone.
    Discontinued(String),
    /// Its provider has no credentials here.
    NotConfigured,
    /// Another plan or provider was asked for.
    NotAsked,
    /// It is not sold as one that may be taken back, or such a one was not asked for.
    NoSpot,
    /// It has no IPv4 address, and the hub is not reached over IPv6.
    Ipv6Only,
    /// It is elsewhere.
    Region(String),
    /// It has another processor.
    Arch(Arch),
    /// It has none of the GPUs, or too few, too small, or other ones.
    Gpu(Option<Gpu>),
    /// Its processors are given their full speed only for a while.
    Burstable,
    /// Its processors are shared with others.
    Shared(CpuShare),
    /// Of its processors too little is promised at all times.
    Baseline {
        /// Thousandths that are promised.
        has_millis: u32,
        /// Thousandths wanted.
        wanted_millis: u32,
    },
    /// It has too few processors.
    Cpu {
        /// How many it has.
        has: u32,
        /// Thousandths wanted.
        wanted_millis: u32,
    },
    /// It has too little memory.
    Memory {
        /// MiB that it has.
        has_mib: u64,
        /// MiB wanted.
        wanted_mib: u64,
    },
    /// Its disk is too small, and none can be bought with it.
    Disk {
        /// GB that it has.
        has_gb: u32,
        /// GB wanted.
        wanted_gb: u32,
    },
    /// Its price is in euro, and no rate is set.
    NoRate,
    /// Its price is the specification's, and its provider was never asked for it.
    Unchecked,
    /// Its price is too old to rely on.
    Stale {
        /// Its age.
        days: u32,
    },
    /// It costs too much.
    Price {
        /// What an hour costs.
        hourly: Micros,
        /// What it may cost.
        most: Micros,
    },
    /// It cannot be had just now.
    Unavailable {
        /// How an order of it failed.
        class: ErrorClass,
        /// When it is ordered again at the earliest.
        until: Timestamp,
    },
}

impl Reason {
    /// How far it came; later checks are nearer to a machine that fits.
    pub(super) const fn stage(&self) -> u8 {
        match self {
            Self::Discontinued(_) | Self::NotConfigured | Self::NotAsked | Self::NoSpot | Self::Ipv6Only => 0,
            Self::Region(_) => 1,
            Self::Arch(_) => 2,
            Self::Gpu(_) => 3,
            Self::Burstable => 4,
            Self::Cpu { .. } | Self::Shared(_) | Self::Baseline { .. } => 5,
            Self::Memory { .. } => 6,
            Self::Disk { .. } => 7,
            Self::NoRate => 8,
            Self::Unchecked | Self::Stale { .. } => 9,
            Self::Price { .. } => 10,
            Self::Unavailable { .. } => 11,
        }
    }

    /// Of two machines that fail by the same check, which one is nearer: the higher.
    pub(super) fn closeness(&self) -> u64 {
        match self {
            Self::Cpu { has, .. } => u64::from(*has) * 1000,
            Self::Baseline { has_millis, .. } => u64::from(*has_millis),
            Self::Memory { has_mib, .. } => *has_mib,
            Self::Disk { has_gb, .. } => u64::from(*has_gb),
            Self::Price { hourly, .. } => u64::MAX - hourly.get(),
            Self::Stale { days } => u64::MAX - u64::from(*days),
            Self::Unavailable { until, .. } => u64::MAX - until.as_millis(),
            Self::Discontinued(_)
            | Self::NotConfigured
            | Self::NotAsked
            | Self::NoSpot
            | Self::Ipv6Only
            | Self::Region(_)
            | Self::Arch(_)
            | Self::Gpu(_)
            | Self::Burstable
            | Self::Shared(_)
            | Self::NoRate
            | Self::Unchecked => 0,
        }
    }

    /// A short word for metrics and programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Discontinued(_) => "discontinued",
            Self::NotConfigured => "not_configured",
            Self::NotAsked => "not_asked",
            Self::NoSpot => "no_spot",
            Self::Ipv6Only => "ipv6_only",
            Self::Region(_) => "region",
            Self::Arch(_) => "arch",
            Self::Gpu(_) => "gpu",
            Self::Burstable => "burstable",
            Self::Shared(_) => "shared_cpu",
            Self::Baseline { .. } => "baseline_cpu",
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::Disk { .. } => "disk",
            Self::NoRate => "no_rate",
            Self::Unchecked => "unchecked_price",
            Self::Stale { .. } => "stale_price",
            Self::Price { .. } => "price",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discontinued(what) => f.write_str(what),
            Self::NotConfigured => f.write_str("not configured"),
            Self::NotAsked => f.write_str("not what was asked for"),
            Self::NoSpot => f.write_str("not sold as spot"),
            Self::Ipv6Only => {
                f.write_str("has no IPv4 address, and the hub is not advertised by an IPv6 address")
            }
            Self::Region(wanted) => write!(f, "is not in {wanted}"),
            Self::Arch(arch) => write!(f, "has {} processors", arch.as_str()),
            Self::Gpu(None) => f.write_str("has no GPU"),
            Self::Gpu(Some(gpu)) => write!(f, "has {gpu} of {} MiB", gpu.vram_mib),
            Self::Burstable => f.write_str("has burstable processors"),
            Self::Shared(CpuShare::Baseline(_)) => {
                f.write_str("has processors that are whole for a while alone")
            }
            Self::Shared(CpuShare::Shared | CpuShare::Dedicated) => {
                f.write_str("has shared processors, of which its provider promises no share")
            }
            Self::Baseline { has_millis, wanted_millis } => {
                let [has, wanted] =
                    [has_millis, wanted_millis].map(|millis| Micros::new(u64::from(*millis) * 1000));
                write!(f, "is promised {has} of {wanted} processors at all times")
            }
            Self::Cpu { has, wanted_millis } => {
                let wanted = Micros::new(u64::from(*wanted_millis) * 1000);
                write!(f, "has {has} of {wanted} processors")
            }
            Self::Memory { has_mib, wanted_mib } => write!(f, "has {has_mib} of {wanted_mib} MiB of memory"),
            Self::Disk { has_gb, wanted_gb } => write!(f, "has {has_gb} of {wanted_gb} GB of disk"),
            Self::NoRate => f.write_str("has a price in euro, and provision.usd_per_eur is not set"),
            Self::Unchecked => f.write_str("has a price that its provider was not asked for"),
            Self::Stale { days } => write!(f, "has a price that is {days} days old"),
            Self::Price { hourly, most } => write!(f, "costs {hourly} an hour, more than {most}"),
            Self::Unavailable { class, until } => unavailable::write(f, *class, *until),
        }
    }
}

/// One line on what came nearest, over all providers, and the [`Reason::code`] by which it fails.
pub(super) fn nearest(verdicts: &BTreeMap<&str, Verdict<'_>>) -> (String, Option<&'static str>) {
    let near = verdicts.iter().filter_map(|(name, verdict)| match verdict {
        Verdict::Nearest { offer, reason } => {
            let near = (reason.stage(), reason.closeness(), Reverse(offer.on_demand), Reverse(*name));
            Some((near, offer, reason))
        }
        Verdict::Fits { .. } | Verdict::Closed { .. } => None,
    });
    if let Some(((.., Reverse(name)), offer, reason)) = near.max_by_key(|(near, ..)| *near) {
        let line = format!("nearest is {} of {name} in {}, which {reason}", offer.plan, offer.region);
        return (line, Some(reason.code()));
    }
    let closed = verdicts.iter().map(|(name, verdict)| match verdict {
        Verdict::Closed { reason } | Verdict::Nearest { reason, .. } => format!("{name}: {reason}"),
        Verdict::Fits { .. } => format!("{name}: fits"),
    });
    let lines: Vec<_> = closed.collect();
    (if lines.is_empty() { "the catalogue is empty".to_owned() } else { lines.join("; ") }, None)
}
