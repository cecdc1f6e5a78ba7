//! Section `provision`: what machines are given time for.

use std::str::FromStr;
use std::time::Duration;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_common_types::Micros;
use blueprint_hub_provision::ScaleConfig;
use blueprint_hub_provision_core::cost::Limits;
use blueprint_hub_provision_core::lifecycle;

use super::{scaling, span};

pub(super) const EVERY: Key = Key::new(
    "provision.every",
    "60s",
    "Pause between two lists of a cloud where nothing is on its way, 1 s to 10 min.",
);
pub(super) const CALL_AGAIN: Key = Key::new(
    "provision.call_again",
    "2m",
    "How long a new machine may stay out of its cloud's list before the call for it is made again, 1 s to 1 h.",
);
pub(super) const SECOND_LOOK: Key = Key::new(
    "provision.second_look",
    "30s",
    "How far two lists without a machine must be apart to confirm that it is gone, 1 s to 10 min.",
);
pub(super) const JOIN_WITHIN: Key = Key::new(
    "provision.join_within",
    "15m",
    "How long a machine may take to join before it is deleted and the next offer is taken, 1 s to 2 h; its join token \
     lives as long, and 15 min at most. At Hivelocity and for bare metal of Vultr both have an hour more.",
);
pub(super) const ORPHAN_GRACE: Key = Key::new(
    "provision.orphan_grace",
    "10m",
    "How long a machine with this hub's tag that the hub knows nothing of is left alone before it is deleted, 1 s to 30 \
     days.",
);
pub(super) const ALLOW_UNLIMITED: Key = Key::new(
    "provision.allow_unlimited",
    "false",
    "Whether ordered machines run workloads that ask for limits of processors, memory or processes where they cannot hold \
     them (`workload.allow_unlimited` of their agents): those without control groups of version 2.",
);

pub(super) const MAX_MACHINES: Key = Key::new(
    "provision.max_machines",
    "20",
    "Most machines that stand or are wanted at a time, over all deployments; or off.",
);
pub(super) const MAX_HOURLY: Key = Key::new(
    "provision.max_hourly",
    "5.00",
    "Most that an hour of all ordered machines may cost, in US dollars; or off.",
);
pub(super) const MAX_MONTHLY: Key = Key::new(
    "provision.max_monthly",
    "500.00",
    "Most that a calendar month (UTC) of ordered machines may cost, in US dollars: what was spent in it, and what stands \
     to its end; or off.",
);
pub(super) const LIMIT_SIM: Key = Key::new(
    "provision.limit_sim",
    "false",
    "Whether machines of the simulated cloud count for these limits, although their prices are play money: to try them.",
);

/// A number, or none.
struct Limit<T>(Option<T>);

impl<T: FromStr> FromStr for Limit<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let wrong = |_| "a number without a sign, such as 20 or 5.00, or off was expected".to_owned();
        text.parse().map(|limit| Self(Some(limit))).map_err(wrong)
    }
}

/// Longest life of the join token of a machine.
const TOKEN_TTL: Duration = Duration::from_secs(15 * 60);

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProvisionSettings {
    pub(crate) every: Duration,
    pub(crate) lifecycle: lifecycle::Settings,
    pub(crate) token_ttl: Duration,
    pub(crate) allow_unlimited: bool,
    pub(crate) limits: Limits,
    pub(crate) scaling: ScaleConfig,
}

impl ProvisionSettings {
    pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<Self> {
        const HOUR: u64 = 3600;
        let every = span(settings, EVERY.path, 1, 600, problems);
        let call_again = span(settings, CALL_AGAIN.path, 1, HOUR, problems);
        let second_look = span(settings, SECOND_LOOK.path, 1, 600, problems);
        let join_within = span(settings, JOIN_WITHIN.path, 1, 2 * HOUR, problems);
        let orphan_grace = span(settings, ORPHAN_GRACE.path, 1, 30 * 24 * HOUR, problems);
        let max_machines = settings.take::<Limit<u32>>(MAX_MACHINES.path, problems);
        let max_hourly = settings.take::<Limit<Micros>>(MAX_HOURLY.path, problems);
        let max_monthly = settings.take::<Limit<Micros>>(MAX_MONTHLY.path, problems);
        let counts_sim = settings.take::<bool>(LIMIT_SIM.path, problems);
        let allow_unlimited = settings.take(ALLOW_UNLIMITED.path, problems);
        let scaling = scaling::take(settings, problems);
        let join_within = join_within?;
        Some(Self {
            every: every?,
            lifecycle: lifecycle::Settings {
                call_again: call_again?,
                second_look: second_look?,
                join_within,
                orphan_grace: orphan_grace?,
                ..lifecycle::Settings::default()
            },
            token_ttl: join_within.min(TOKEN_TTL),
            allow_unlimited: allow_unlimited?,
            scaling: scaling?,
            limits: Limits {
                max_machines: max_machines?.0,
                max_hourly: max_hourly?.0,
                max_monthly: max_monthly?.0,
                // Of the preferences of orders, which are read elsewhere.
                max_order_hourly: None,
                counts_sim: counts_sim?,
            },
        })
    }
}
