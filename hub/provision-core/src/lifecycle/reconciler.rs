//! Decides what is to be done next for every machine.

mod alarms;
mod answer;
mod churn;
mod deployments;
mod found;

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::{AgentId, HubId, Timestamp};

use self::alarms::Alarms;
use crate::lifecycle::{Deployment, OfferBlocks, Record};
use crate::placement::Unavailable;
use crate::scaling::Leaving;
use crate::{DeploymentId, InstanceKey};

pub use self::alarms::Alarm;
pub use self::answer::CreateAnswer;

/// Times that the reconciler goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How long a call whose answer is unknown is waited for before it is made again, and how long a new machine may
    /// stay out of its cloud's list. Default 2 min.
    pub call_again: Duration,
    /// How far two lists without a machine must be apart to count as two, and how long a deletion is given before it
    /// is asked for again. Default 30 s.
    pub second_look: Duration,
    /// How long a machine may take to join. Default 15 min.
    pub join_within: Duration,
    /// How long a machine with this hub's tag that no record knows is left alone. Default 10 min.
    pub orphan_grace: Duration,
    /// How long a deletion may take before a person is told. Default 15 min.
    pub delete_within: Duration,
    /// How often a cloud is asked to make one machine. Default 5.
    pub attempts: u32,
    /// How often a machine that ended by itself is booted again before another takes its place. Default 3.
    pub boots: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            call_again: Duration::from_secs(120),
            second_look: Duration::from_secs(30),
            join_within: Duration::from_secs(15 * 60),
            orphan_grace: Duration::from_secs(10 * 60),
            delete_within: Duration::from_secs(15 * 60),
            attempts: 5,
            boots: 3,
        }
    }
}

/// Why something is done. Stable names, for logs and metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A machine is missing to the number wanted.
    Missing,
    /// More machines than wanted.
    Surplus,
    /// The operator ended the deployment.
    Terminated,
    /// The deployment's time is over.
    Expired,
    /// It is planned and may be ordered.
    Planned,
    /// The answer of the last call is unknown, and the cloud does not list it.
    Unanswered,
    /// The cloud lists what a call made whose answer was lost.
    Found,
    /// The cloud answered.
    Answered,
    /// Its agent joined.
    Joined,
    /// Its agent did not join in time.
    Late,
    /// Its node was removed from the hub.
    NodeRemoved,
    /// It ended by itself, again and again.
    Broken,
    /// It is to run and does not.
    Off,
    /// It is to be off and runs.
    On,
    /// It is to go.
    Doomed,
    /// Its cloud listed without it twice.
    Unlisted,
    /// The cloud has two machines for one order.
    Duplicate,
    /// The cloud has a machine whose record ended.
    Ghost,
    /// The cloud has a machine with this hub's tag that no record knows.
    Orphan,
    /// No provider of its name is configured.
    NoProvider,
    /// Nothing of the plan can be had now.
    NoOffer,
    /// The clock moved, and nothing is ended because of the time.
    Clock,
    /// Its machines end soon after they were made.
    Churn,
    /// Its cloud lists it as switched on or off.
    Switched,
    /// Its cloud accepted the deletion.
    Deleted,
    /// A limit of money or machines leaves no room.
    Limit,
    /// A deletion takes too long.
    Undeletable,
    /// A machine runs and its agent is away.
    Silent,
}

impl Why {
    /// Stable name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Surplus => "surplus",
            Self::Terminated => "terminated",
            Self::Expired => "expired",
            Self::Planned => "planned",
            Self::Unanswered => "unanswered",
            Self::Found => "found",
            Self::Answered => "answered",
            Self::Joined => "joined",
            Self::Late => "late",
            Self::NodeRemoved => "node_removed",
            Self::Broken => "broken",
            Self::Off => "off",
            Self::On => "on",
            Self::Doomed => "doomed",
            Self::Unlisted => "unlisted",
            Self::Duplicate => "duplicate",
            Self::Ghost => "ghost",
            Self::Orphan => "orphan",
            Self::NoProvider => "no_provider",
            Self::NoOffer => "no_offer",
            Self::Clock => "clock",
            Self::Churn => "churn",
            Self::Switched => "switched",
            Self::Deleted => "deleted",
            Self::Limit => "limit",
            Self::Undeletable => "undeletable",
            Self::Silent => "silent",
        }
    }
}

/// One thing to do. What it stores is stored before what it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store that the deployment is to be gone.
    Expire {
        /// Which.
        deployment: DeploymentId,
    },
    /// Store a record.
    Save {
        /// As it is to be.
        record: Record,
        /// Why.
        why: Why,
    },
    /// Store a record with a token of its own, and have its cloud make the machine.
    Create {
        /// As it is to be before the call.
        record: Record,
        /// Why.
        why: Why,
    },
    /// Store a record where it is not stored so, and have its cloud delete the machine.
    Delete {
        /// As it is to be before the call.
        record: Record,
        /// The cloud's name of the machine.
        provider_id: String,
        /// Why.
        why: Why,
    },
    /// Have the cloud switch the machine on.
    Boot {
        /// Whose.
        record: Record,
        /// The cloud's name of the machine.
        provider_id: String,
        /// Why.
        why: Why,
    },
    /// Have the cloud switch the machine off.
    Stop {
        /// Whose.
        record: Record,
        /// The cloud's name of the machine.
        provider_id: String,
        /// Why.
        why: Why,
    },
    /// Remove the node of a machine that is to go, or is gone, from the hub.
    Evict {
        /// Whose.
        key: InstanceKey,
        /// The node.
        agent: AgentId,
        /// Why.
        why: Why,
    },
    /// Have the cloud delete a machine that carries this hub's tag and that no record wants.
    Remove {
        /// Which cloud.
        provider: String,
        /// What the machine calls itself.
        key: InstanceKey,
        /// The cloud's name of the machine.
        provider_id: String,
        /// Why.
        why: Why,
    },
    /// Tell a person; given once when it comes up.
    Report(Alarm),
}

impl Action {
    /// What it does, in one stable word for logs and metric labels.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Expire { .. } => "expire",
            Self::Save { .. } => "save",
            Self::Create { .. } => "create",
            Self::Delete { .. } => "delete",
            Self::Boot { .. } => "boot",
            Self::Stop { .. } => "stop",
            Self::Evict { .. } => "evict",
            Self::Remove { .. } => "remove",
            Self::Report(_) => "report",
        }
    }

    /// Why it is done.
    #[must_use]
    pub const fn why(&self) -> Why {
        match self {
            Self::Expire { .. } => Why::Expired,
            Self::Report(alarm) => alarm.why,
            Self::Save { why, .. }
            | Self::Create { why, .. }
            | Self::Delete { why, .. }
            | Self::Boot { why, .. }
            | Self::Stop { why, .. }
            | Self::Evict { why, .. }
            | Self::Remove { why, .. } => *why,
        }
    }
}

/// What is known at one moment, besides what clouds list.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Deployments as they are stored.
    pub deployments: &'a BTreeMap<DeploymentId, Deployment>,
    /// Machines as they are stored.
    pub records: &'a BTreeMap<InstanceKey, Record>,
    /// Machines that get no new requests, because they are to go.
    pub leaving: &'a Leaving,
    /// Agents that are joined, and whether each is connected.
    pub agents: &'a BTreeMap<AgentId, bool>,
    /// False while nothing may be ended because of the time ([`crate::lifecycle::ClockWatch`]).
    pub is_clock_trusted: bool,
    /// The time.
    pub now: Timestamp,
}

/// When something was first seen, and whether a second look long enough after saw it too.
type Looks = BTreeMap<InstanceKey, Timestamp>;

/// Compares what is wanted with what there is. What it keeps in memory only makes it wait longer after a restart.
#[derive(Debug)]
pub struct Reconciler {
    hub: HubId,
    settings: Settings,
    blocks: OfferBlocks,
    alarms: Alarms,
    /// Machines that a list left out, since when.
    unlisted: Looks,
    /// Agents that the registry does not know, since when.
    agentless: Looks,
    /// Machines whose agent is not connected, since when.
    silent: Looks,
    /// Machines that are not to be ordered yet.
    held: Looks,
    /// Machines that a limit leaves no room for, and what it says.
    limited: BTreeMap<InstanceKey, String>,
    /// When a machine was last booted, and how often.
    boots: BTreeMap<InstanceKey, (Timestamp, u32)>,
    /// When a deletion was last asked for, by provider and name.
    deleted: BTreeMap<(String, String), Timestamp>,
    /// When a provider last got other credentials.
    renewed: BTreeMap<String, Timestamp>,
    /// Machines with this hub's tag that no record knows, by provider and name, since when.
    orphans: BTreeMap<(String, String), Timestamp>,
}

impl Reconciler {
    /// Starts without memory.
    #[must_use]
    pub fn new(hub: HubId, settings: Settings) -> Self {
        Self {
            hub,
            settings,
            blocks: OfferBlocks::default(),
            alarms: Alarms::default(),
            unlisted: Looks::new(),
            agentless: Looks::new(),
            silent: Looks::new(),
            held: Looks::new(),
            limited: BTreeMap::new(),
            boots: BTreeMap::new(),
            deleted: BTreeMap::new(),
            renewed: BTreeMap::new(),
            orphans: BTreeMap::new(),
        }
    }

    /// A provider has other credentials than before: what was refused for want of a right may be asked again.
    /// Calls that were begun before may still be refused, and count for nothing then.
    pub fn handle_credentials(&mut self, provider: &str, now: Timestamp) {
        self.blocks.handle_credentials(provider);
        self.renewed.insert(provider.to_owned(), now);
    }

    /// Offers that are left out at `now` since orders of them failed lately.
    #[must_use]
    pub fn unavailable(&self, now: Timestamp) -> Vec<Unavailable> {
        self.blocks.unavailable(now)
    }

    /// What a person should look at, by subject.
    #[must_use]
    pub fn alarms(&self) -> Vec<Alarm> {
        self.alarms.list()
    }

    /// True where something was seen before, at least a second look ago; notes it where not.
    fn is_second_look(looks: &mut Looks, key: &InstanceKey, apart: Duration, now: Timestamp) -> bool {
        let first = *looks.entry(key.clone()).or_insert(now);
        now > first && now.since(first) >= apart
    }
}

#[cfg(test)]
pub(crate) mod tests;
