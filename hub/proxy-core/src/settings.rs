//! What an operator says about one service: its owners, whose word counts, and its rules.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::forwards::{self, Forward, ForwardError, MAX_FORWARDS};
use crate::identity::{DEFAULT_PREFIX, MAX_PREFIX, OAuthPolicy, OAuthPolicyError, OwnerKey, is_prefix};
use crate::limits::Limits;
use crate::rules::{Rule, RuleError};
use crate::upstream::UpstreamSettings;

/// Longest life of an API key that any service may allow.
const MAX_KEY_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Most owners of one service.
const MAX_OWNERS: usize = 1024;

/// Most rules of one service.
const MAX_RULES: usize = 256;

/// The document of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceSettings {
    /// What its API keys start with; empty for `ak_`.
    pub api_key_prefix: String,
    /// Keys that may ask for API keys.
    pub owners: BTreeSet<OwnerKey>,
    /// Those of them that its blueprint named: they are replaced by its next registration, and go with its workload.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub blueprint_owners: BTreeSet<OwnerKey>,
    /// Longest life of its API keys, in seconds; 0 for 90 days, which is also the most.
    pub max_key_life_secs: u64,
    /// Whether owners must sign the challenge's text, not its bare bytes.
    pub require_challenge_text: bool,
    /// Whose assertions it accepts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthPolicy>,
    /// Tokens made from assertions before this time, in seconds since 1970, are worthless.
    pub tokens_not_before: u64,
    /// Who may do what; the first that fits decides, and without any rule every identity may do all.
    pub rules: Vec<Rule>,
    /// Whether it is kept from all clients, whatever they show.
    pub hidden: bool,
    /// How requests are shared out among its targets.
    pub upstream: UpstreamSettings,
    /// What all of its clients may use together.
    pub limits: Limits,
    /// What each of them may use.
    pub key_limits: Limits,
    /// Ports of the hub that lead to it without HTTP; none by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
}

/// What is wrong with the settings of a service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not a prefix.
    #[error("api_key_prefix has letters, digits, '-' and '_' and at most {MAX_PREFIX} of them")]
    Prefix,
    /// Too many owners or rules.
    #[error("{list} has more than {most} entries")]
    TooLong {
        /// Which list.
        list: &'static str,
        /// The bound.
        most: usize,
    },
    /// A number is too large.
    #[error("{field} is above {most}")]
    OutOfRange {
        /// Which.
        field: &'static str,
        /// The bound.
        most: u64,
    },
    /// Keys would live too long.
    #[error("max_key_life_secs is above {}, which is 90 days", MAX_KEY_LIFE.as_secs())]
    KeyLife,
    /// The OAuth policy.
    #[error("oauth: {0}")]
    OAuth(#[from] OAuthPolicyError),
    /// One of the forwards.
    #[error("forwards, entry {}: {error}", position + 1)]
    Forward {
        /// Which, from 0.
        position: usize,
        /// Why.
        error: ForwardError,
    },
    /// One of the rules.
    #[error("rules, entry {}: {error}", position + 1)]
    Rule {
        /// Which, from 0.
        position: usize,
        /// Why.
        error: RuleError,
    },
}

impl ServiceSettings {
    /// Checks everything but the OAuth keys, which [`Service::new`](crate::Service::new) reads.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SettingsError> {
        if !is_prefix(&self.api_key_prefix) {
            return Err(SettingsError::Prefix);
        }
        for (list, length, most) in [
            ("owners", self.owners.len(), MAX_OWNERS),
            ("rules", self.rules.len(), MAX_RULES),
            ("forwards", self.forwards.len(), MAX_FORWARDS),
        ] {
            if length > most {
                return Err(SettingsError::TooLong { list, most });
            }
        }
        if self.max_key_life_secs > MAX_KEY_LIFE.as_secs() {
            return Err(SettingsError::KeyLife);
        }
        forwards::check(&self.forwards)
            .map_err(|(position, error)| SettingsError::Forward { position, error })?;
        for (position, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|error| SettingsError::Rule { position, error })?;
        }
        self.limits.check("limits")?;
        self.key_limits.check("key_limits")?;
        self.upstream.check()
    }

    /// Puts the owners that its blueprint names in the place of those that it named before; those of the operator stay.
    pub fn name_owners(&mut self, named: &BTreeSet<OwnerKey>) {
        let operators: BTreeSet<_> = self.owners.difference(&self.blueprint_owners).cloned().collect();
        self.blueprint_owners = named.difference(&operators).cloned().collect();
        self.owners = operators.union(&self.blueprint_owners).cloned().collect();
    }

    /// What API keys start with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        if self.api_key_prefix.is_empty() { DEFAULT_PREFIX } else { &self.api_key_prefix }
    }

    /// Longest life of an API key.
    #[must_use]
    pub fn max_key_life(&self) -> Duration {
        match self.max_key_life_secs {
            0 => MAX_KEY_LIFE,
            seconds => Duration::from_secs(seconds).min(MAX_KEY_LIFE),
        }
    }
}
