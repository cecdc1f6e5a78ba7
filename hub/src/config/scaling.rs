//! Section `scaling`: how the replicas of services with a tier follow load and payment.

use std::time::Duration;

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_provision::ScaleConfig;
use blueprint_hub_provision_core::scaling::{MAX_REPLICAS, ScalerSettings, TermsLimits};

use super::span;

pub(super) const ENABLED: Key = Key::new(
    "scaling.enabled",
    "true",
    "Have services with a tier follow their load and their payment; false leaves every number of replicas as it is.",
);
pub(super) const EVERY: Key =
    Key::new("scaling.every", "30s", "How often services with a tier are looked at, 1 s to 10 min.");
pub(super) const TARGET_CPU: Key = Key::new(
    "scaling.target_cpu",
    "70",
    "Percent of the processors of its tier that a replica is to use at the most, 1 to 100, where a service says nothing \
     else.",
);
pub(super) const MIN_REPLICAS: Key =
    Key::new("scaling.min_replicas", "1", "Fewest replicas that a service with a tier may have, 1 to 100.");
pub(super) const MAX_REPLICAS_OF: Key = Key::new(
    "scaling.max_replicas",
    "20",
    "Most replicas that a service may have, 1 to 100; its tier may allow fewer.",
);
pub(super) const UP_PAUSE: Key =
    Key::new("scaling.up_pause", "60s", "Least time between two steps up of a service, 1 s to 1 h.");
pub(super) const DOWN_AFTER: Key = Key::new(
    "scaling.down_after",
    "5m",
    "How long fewer replicas have to be enough, with a fifth to spare, before some go, 1 s to 1 day.",
);
pub(super) const DRAIN: Key = Key::new(
    "scaling.drain",
    "60s",
    "How long what is open at a replica may last once it gets no new requests, 2 s to 1 h.",
);
pub(super) const GIVE_UP: Key = Key::new(
    "scaling.give_up",
    "10m",
    "How long the agent of a replica may be away, while its cloud answers, before its machine is deleted and another one takes \
     its place, 1 s to 365 days.",
);
pub(super) const GRACE: Key = Key::new(
    "scaling.grace",
    "7d",
    "How long the deployment of a service that is not paid for is kept without replicas before it is ended for good, 1 s to \
     365 days.",
);

/// Age from which on a measurement does not count: four samples of an agent, and three looks.
const STALE: Duration = Duration::from_secs(45);

/// Reads the section.
pub(super) fn take(settings: &Settings, problems: &mut Problems) -> Option<ScaleConfig> {
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;
    let most = u64::from(MAX_REPLICAS);
    let is_enabled = settings.take::<bool>(ENABLED.path, problems);
    let every = span(settings, EVERY.path, 1, 600, problems);
    let target_cpu = settings.take_within(TARGET_CPU.path, 1..=100, problems);
    let min_replicas = settings.take_within(MIN_REPLICAS.path, 1..=most, problems);
    let max_replicas = settings.take_within(MAX_REPLICAS_OF.path, 1..=most, problems);
    let up_pause = span(settings, UP_PAUSE.path, 1, HOUR, problems);
    let down_after = span(settings, DOWN_AFTER.path, 1, DAY, problems);
    let drain = span(settings, DRAIN.path, 2, HOUR, problems);
    let give_up = span(settings, GIVE_UP.path, 1, 365 * DAY, problems);
    let grace = span(settings, GRACE.path, 1, 365 * DAY, problems);
    let number = |value: u64| u32::try_from(value).unwrap_or(MAX_REPLICAS);
    let limits = TermsLimits { min_replicas: number(min_replicas?), max_replicas: number(max_replicas?) };
    if limits.min_replicas > limits.max_replicas {
        settings.refuse(MIN_REPLICAS.path, "more than scaling.max_replicas", problems);
        return None;
    }
    let every = every?;
    let settings = ScalerSettings {
        up_pause: up_pause?,
        down_after: down_after?,
        drain: drain?,
        give_up: give_up?,
        grace: grace?,
        stale: STALE.max(every.saturating_mul(3)),
    };
    Some(ScaleConfig { is_enabled: is_enabled?, every, settings, limits, target_cpu: number(target_cpu?) })
}
