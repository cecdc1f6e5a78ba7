//! What is seen of a service and its replicas.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};

use super::{Phase, Scaling};
use crate::InstanceKey;
use crate::lifecycle::{RecordState, Records, Wanted};

/// Most of its processors that a replica is believed to use, as a factor: what an agent says beyond that counts as this,
/// so that one that lies cannot ask for every machine there is.
const MOST_USE: f64 = 2.0;

/// What an agent measured of a replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measure {
    /// Share of one processor in percent; more than 100 on several.
    pub cpu_percent: f64,
    /// When the hub got it, by the hub's clock.
    pub heard_at: Timestamp,
}

/// Whether a replica's agent is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Its machine did not join yet.
    Coming,
    /// It is connected.
    Here,
    /// It is not.
    Away,
}

/// One machine of the deployment that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// Which.
    pub key: InstanceKey,
    /// Its number in the deployment.
    pub number: u32,
    /// Where it is: provider and region; zones of one region are one place.
    pub place: (String, String),
    /// Whether it is up, its tunnel echoes, and its service is healthy.
    pub is_ready: bool,
    /// Whether its agent is there.
    pub presence: Presence,
    /// When its cloud was asked for the list that it answered last, which has its machine; `None` while it does not answer.
    pub listed_at: Option<Timestamp>,
    /// Since when it gets no new requests because it is to go.
    pub leaving_since: Option<Timestamp>,
    /// What its agent measured last.
    pub measure: Option<Measure>,
    /// Requests and connections of clients that are open at it.
    pub open: u32,
}

impl Replica {
    /// Which part of `cpu_millis` it uses, 1 for all; `None` where that is not known, or was measured too long ago.
    pub(super) fn used(&self, cpu_millis: u32, stale: Duration, now: Timestamp) -> Option<f64> {
        let measure = self.measure.filter(|measure| now.since(measure.heard_at) <= stale)?;
        let used = measure.cpu_percent * 10.0 / f64::from(cpu_millis.max(1));
        (used.is_finite() && used >= 0.0).then_some(used.min(MOST_USE))
    }
}

/// A service at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Sight {
    /// Replicas that are wanted of its deployment, those that leave included.
    pub wanted: u32,
    /// Its machines that are wanted, in any state; those that were released are left out.
    pub replicas: Vec<Replica>,
    /// Requests that clients made of the service, in one second, and one more for each that lasts; `None` where that was not
    /// measured over a while.
    pub rate: Option<f64>,
    /// Whether the deployment is to run; false where the operator switched it off.
    pub is_running: bool,
    /// Whether the deployment is to be gone, or is not known any more.
    pub is_gone: bool,
    /// False while nothing may be ended because of the time.
    pub is_clock_trusted: bool,
    /// Whether the hub can be reached: some agent is connected, whichever it is, and its tunnel echoes.
    pub is_reached: bool,
    /// What an update of the service does that is under way, one line; `None` where there is none.
    pub updating: Option<String>,
    /// Whether a machine of any service was given up, and none has joined in its place: see [`is_replacing`].
    pub is_replacing: bool,
}

/// Whether a machine of any deployment was given up, and none that was ordered since has joined in its place.
#[must_use]
pub fn is_replacing(records: &Records) -> bool {
    let mut given_up = records.leaving.iter().filter(|(_, mark)| mark.is_given_up);
    given_up.any(|(key, mark)| {
        let own = records.instances.get(key).and_then(|record| records.deployments.get(&record.deployment));
        let Some(deployment) = own.filter(|it| it.wanted == Wanted::Running) else { return false };
        let of = || records.instances.values().filter(|record| record.deployment == deployment.id);
        let is_kept = |key| records.leaving.get(key).is_none_or(|mark| !mark.is_released);
        let stand = of().filter(|it| it.state == RecordState::Active && is_kept(&it.key)).count();
        let has_joined = of().any(|it| it.created_at >= mark.since && it.agent.is_some());
        u32::try_from(stand).unwrap_or(u32::MAX) < deployment.replicas && !has_joined
    })
}

/// The nodes of the replicas of each service that has terms: those of machines that are wanted and not released. None for a
/// service that is not paid for and has come to zero, and none for one that ended: without machines of its own it runs nowhere,
/// until its tier is set anew or forgotten.
#[must_use]
pub fn nodes_of(all: &[Scaling], records: &Records) -> BTreeMap<ServiceKey, BTreeSet<AgentId>> {
    let nodes = |scaling: &Scaling| {
        if scaling.phase == Phase::Ended {
            return BTreeSet::new();
        }
        let own =
            records.instances.values().filter(|it| it.deployment == scaling.deployment && it.state.is_live());
        let kept = own.filter(|it| records.leaving.get(&it.key).is_none_or(|mark| !mark.is_released));
        kept.filter_map(|record| record.agent).collect()
    };
    all.iter().map(|scaling| (scaling.service, nodes(scaling))).collect()
}
