//! What an operator says about the targets of one service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use blueprint_common_types::AgentId;
use serde::{Deserialize, Serialize};

use crate::settings::SettingsError;

/// Weight of a target where none is set.
pub const DEFAULT_WEIGHT: u32 = 100;

/// Largest weight.
const MAX_WEIGHT: u32 = 1000;

/// Most nodes with settings of their own.
const MAX_NODES: usize = 1024;

/// Requests that may be open at one target where the service does not say.
const DEFAULT_MAX_OPEN: u32 = 4096;

/// Longest that a service may be given for the head of its answer.
const MAX_HEADER_TIMEOUT_SECS: u64 = 24 * 3600;

/// Longest wait before a second target is asked: who waits longer gains nothing by it.
const MAX_HEDGE_AFTER_MILLIS: u64 = 60_000;

/// How requests are shared out among targets, and what is waited for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// Share of each node, from 0 (none) to 1000; 100 for those that are not named.
    pub weights: BTreeMap<AgentId, u32>,
    /// Nodes that get no new requests; what is open there ends in its own time.
    pub drained: BTreeSet<AgentId>,
    /// Requests that may be open at one target; 0 for 4096.
    pub max_open_per_target: u32,
    /// How long a target may take for the head of an answer once it has the request, in seconds; 0 for
    /// any time.
    pub response_header_timeout_secs: u64,
    /// After how many milliseconds without the head of an answer a request that changes nothing is sent to a second
    /// target as well, within the budget of retries; 0 for never.
    pub hedge_after_millis: u64,
}

impl UpstreamSettings {
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        for (list, length) in
            [("upstream.weights", self.weights.len()), ("upstream.drained", self.drained.len())]
        {
            if length > MAX_NODES {
                return Err(SettingsError::TooLong { list, most: MAX_NODES });
            }
        }
        if self.weights.values().any(|weight| *weight > MAX_WEIGHT) {
            return Err(SettingsError::OutOfRange { field: "upstream.weights", most: u64::from(MAX_WEIGHT) });
        }
        if self.response_header_timeout_secs > MAX_HEADER_TIMEOUT_SECS {
            let field = "upstream.response_header_timeout_secs";
            return Err(SettingsError::OutOfRange { field, most: MAX_HEADER_TIMEOUT_SECS });
        }
        if self.hedge_after_millis > MAX_HEDGE_AFTER_MILLIS {
            let field = "upstream.hedge_after_millis";
            return Err(SettingsError::OutOfRange { field, most: MAX_HEDGE_AFTER_MILLIS });
        }
        Ok(())
    }

    /// Share of a node; 0 for one that is drained.
    #[must_use]
    pub fn weight(&self, agent: &AgentId) -> u32 {
        if self.drained.contains(agent) {
            return 0;
        }
        self.weights.get(agent).copied().unwrap_or(DEFAULT_WEIGHT)
    }

    /// Nodes whose share is 0.
    #[must_use]
    pub fn without_share(&self) -> BTreeSet<AgentId> {
        let named = self.weights.keys().chain(&self.drained);
        named.filter(|agent| self.weight(agent) == 0).copied().collect()
    }

    /// Requests that may be open at one target.
    #[must_use]
    pub const fn max_open(&self) -> u32 {
        match self.max_open_per_target {
            0 => DEFAULT_MAX_OPEN,
            most => most,
        }
    }

    /// How long a target may take for the head of an answer.
    #[must_use]
    pub fn response_header_timeout(&self) -> Option<Duration> {
        let seconds = self.response_header_timeout_secs;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }

    /// After how long a request may go to a second target; `None` where it never does.
    #[must_use]
    pub fn hedge_after(&self) -> Option<Duration> {
        let millis = self.hedge_after_millis;
        (millis > 0).then(|| Duration::from_millis(millis))
    }
}
