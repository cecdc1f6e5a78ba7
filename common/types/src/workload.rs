//! What an agent is asked to run: where it comes from, what it gets, and what it may use.
//!
//! The documents are JSON. The hub stores them as the operator wrote them and the agent reads them again, so
//! both sides share one type; a field that an agent does not know makes it refuse the document, by name.

mod bundle;
mod health;
mod inventory;
mod lease;
mod limits;
mod rpc;
mod seat;
mod source;
mod state;
mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{CheckPaceError, MetricsPlace};
pub use bundle::{Bundle, BundleError, MAX_KEYSTORE_BYTES, MAX_KEYSTORE_FILES, RegistryLogin};
pub use health::{HealthSettings, Recovery};
pub use inventory::{Inventory, Lack};
pub use lease::{DEFAULT_LEASE_SECS, Lease, LeaseError, MAX_LEASE_SECS};
pub use limits::{GpuPolicy, IoLimits, LimitsError, ResourceLimits};
pub use rpc::{Loopback, ParseRpcKindError, RpcKind};
pub use seat::{MAX_SLOTS, Seat};
pub use source::{Blake3Digest, HUB_URL, ParseDigestError, Sha256Digest, Source, SourceError};
pub use state::{
    MAX_STEPS, ParseWorkloadStateError, RecoveryKind, RecoveryStep, WorkloadState, WorkloadStatus,
};
pub use volume::{MAX_VOLUMES, Volume, VolumeError};

/// Longest argument or value of an environment variable, in bytes.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;

/// Most arguments, and most variables, of one workload.
pub const MAX_VALUES: usize = 256;

/// Longest time to finish after the request to end, in seconds.
pub const MAX_GRACE_SECS: u32 = 600;

/// What the chain looks like to a blueprint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChainSettings {
    /// URL of the chain's HTTP RPC; empty where the blueprint needs none.
    pub http_rpc_url: String,
    /// URL of its WebSocket RPC; empty where the blueprint needs none.
    pub ws_rpc_url: String,
    /// `local_testnet`, `testnet`, `local_mainnet` or `mainnet`; empty to tell it by the URL.
    pub chain: String,
    /// Boot nodes of the service's own network.
    pub bootnodes: Vec<String>,
    /// Contracts of Tangle, by the variable that names them: `TANGLE_CONTRACT`, `STAKING_CONTRACT`,
    /// `STATUS_REGISTRY_CONTRACT`.
    pub contracts: BTreeMap<String, String>,
    /// `tangle` where empty.
    pub protocol: String,
}

/// When a workload that ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Whatever its exit code was.
    #[default]
    Always,
    /// Only after a failure.
    OnFailure,
    /// Never.
    Never,
}

/// What keeps a native process from the rest of its machine. Everything is on where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// No program that it starts gains rights (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// It has a `/tmp` of its own, where the agent may mount one.
    pub private_tmp: bool,
    /// It runs as a user of its own, where the agent is root.
    pub own_user: bool,
    /// It writes to its own folders, `/tmp` and `/dev` alone, and reads what programs need (Landlock), where the kernel
    /// has that and no new privileges are forbidden.
    pub landlock: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self { no_new_privileges: true, private_tmp: true, own_user: true, landlock: true }
    }
}

/// The document of one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSpec {
    /// Where the program comes from.
    pub source: Source,
    /// Name of the blueprint, a part of the name of its data folder; empty for none.
    #[serde(default)]
    pub name: String,
    /// Arguments behind those that every blueprint gets.
    #[serde(default)]
    pub args: Vec<String>,
    /// Variables beside those that every blueprint gets; none of those can be replaced.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The chain.
    #[serde(default)]
    pub chain: ChainSettings,
    /// What it may use.
    #[serde(default)]
    pub limits: ResourceLimits,
    /// When it is started again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// Seconds from the request to end until it is killed.
    #[serde(default = "default_grace")]
    pub stop_grace_secs: u32,
    /// What keeps it from the rest of the machine.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// How its health is checked, and what is done where it stays bad. Left out where nothing is said, so that older
    /// agents read the document, too.
    #[serde(default, skip_serializing_if = "HealthSettings::is_default")]
    pub health: HealthSettings,
    /// Where it shows its own metrics, seen from the port that it registers: `/metrics` at that port where nothing is said.
    #[serde(default, skip_serializing_if = "MetricsPlace::is_default")]
    pub metrics: MetricsPlace,
    /// Whether it runs in the blueprint's test mode, without a bridge.
    #[serde(default)]
    pub test_mode: bool,
    /// Whether it only captures the inputs of its registration and ends.
    #[serde(default)]
    pub registration: bool,
    /// Whether its data folder is for one process at a time: two versions never run beside each other then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive_data: bool,
    /// The launcher that it ends with; `None` for one that an operator keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

const fn default_grace() -> u32 {
    10
}

/// What is wrong with a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// Where it comes from.
    #[error("source: {0}")]
    Source(#[from] SourceError),
    /// What it may use.
    #[error("limits: {0}")]
    Limits(#[from] LimitsError),
    /// Whose it is.
    #[error("lease: {0}")]
    Lease(#[from] LeaseError),
    /// Too many.
    #[error("{field} has more than {MAX_VALUES} entries")]
    TooMany {
        /// Of what.
        field: &'static str,
    },
    /// A text that no process can get.
    #[error("{field}: {name:?} is longer than {MAX_VALUE_BYTES} bytes or holds a zero byte")]
    Value {
        /// Where.
        field: &'static str,
        /// Which, by its first characters.
        name: String,
    },
    /// Not the name of a variable.
    #[error("env: {0:?} is no name of a variable: letters, digits and '_', not a digit first")]
    Variable(String),
    /// A variable that the agent sets.
    #[error("env: {0} is set by the agent and cannot be given; {1}")]
    Reserved(String, &'static str),
    /// Not a name.
    #[error(
        "name: {0:?} is not at most 64 letters, digits, '-', '_' and '.', beginning with a letter or digit"
    )]
    Name(String),
    /// Not a chain.
    #[error("chain: {0:?} is not local_testnet, testnet, local_mainnet or mainnet")]
    Chain(String),
    /// Not a URL of a chain.
    #[error("{field}: {url:?} is not {schemes}://HOST...")]
    RpcUrl {
        /// Which.
        field: &'static str,
        /// The text, cut.
        url: String,
        /// What it may begin with.
        schemes: &'static str,
    },
    /// Not a variable of a contract.
    #[error(
        "contracts: {0:?} is not TANGLE_CONTRACT, STAKING_CONTRACT or STATUS_REGISTRY_CONTRACT with 0x and 40 hexadecimal digits"
    )]
    Contract(String),
    /// How its health is checked.
    #[error("health: {0}")]
    Health(#[from] CheckPaceError),
    /// Too patient.
    #[error("stop_grace_secs is above {MAX_GRACE_SECS}")]
    Grace,
}

/// Variables that the agent sets, and where else they are said.
const RESERVED: [(&str, &str); 16] = [
    ("HTTP_RPC_URL", "say it as chain.http_rpc_url"),
    ("WS_RPC_URL", "say it as chain.ws_rpc_url"),
    ("KEYSTORE_URI", "give the keystore with --keystore"),
    ("DATA_DIR", "the agent keeps a folder for each service"),
    ("BLUEPRINT_ID", "it is the service's"),
    ("SERVICE_ID", "it is the service's"),
    ("PROTOCOL", "say it as chain.protocol"),
    ("CHAIN", "say it as chain.chain"),
    ("BOOTNODES", "say it as chain.bootnodes"),
    ("TANGLE_CONTRACT", "say it in chain.contracts"),
    ("STAKING_CONTRACT", "say it in chain.contracts"),
    ("STATUS_REGISTRY_CONTRACT", "say it in chain.contracts"),
    ("BRIDGE_SOCKET_PATH", "the agent makes the socket"),
    ("REGISTRATION_MODE_ON", "say it as registration"),
    ("REGISTRATION_OUTPUT_PATH", "say it as registration"),
    ("REGISTRATION_CAPTURE_ONLY", "say it as registration"),
];

/// Variables that name contracts.
const CONTRACTS: [&str; 3] = ["TANGLE_CONTRACT", "STAKING_CONTRACT", "STATUS_REGISTRY_CONTRACT"];

const CHAINS: [&str; 4] = ["local_testnet", "testnet", "local_mainnet", "mainnet"];

impl WorkloadSpec {
    /// A workload with nothing but a source.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            name: String::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            chain: ChainSettings::default(),
            limits: ResourceLimits::default(),
            restart: RestartPolicy::default(),
            stop_grace_secs: default_grace(),
            sandbox: Sandbox::default(),
            health: HealthSettings::default(),
            metrics: MetricsPlace::default(),
            test_mode: false,
            registration: false,
            exclusive_data: false,
            lease: None,
        }
    }

    /// Checks everything that can be told without the machine it will run on.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), WorkloadError> {
        self.source.check()?;
        self.limits.check()?;
        self.health.validate()?;
        self.lease.as_ref().map_or(Ok(()), Lease::check)?;
        if !self.name.is_empty() && !is_name(&self.name) {
            return Err(WorkloadError::Name(cut(&self.name)));
        }
        if self.stop_grace_secs > MAX_GRACE_SECS {
            return Err(WorkloadError::Grace);
        }
        for (field, count) in [("args", self.args.len()), ("env", self.env.len())] {
            if count > MAX_VALUES {
                return Err(WorkloadError::TooMany { field });
            }
        }
        if let Some(bad) = self.args.iter().find(|arg| !is_value(arg)) {
            return Err(WorkloadError::Value { field: "args", name: cut(bad) });
        }
        for (name, value) in &self.env {
            if !is_variable(name) {
                return Err(WorkloadError::Variable(cut(name)));
            }
            if let Some((_, hint)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
                return Err(WorkloadError::Reserved(name.clone(), hint));
            }
            if !is_value(value) {
                return Err(WorkloadError::Value { field: "env", name: name.clone() });
            }
        }
        self.chain.check()
    }
}

impl ChainSettings {
    fn check(&self) -> Result<(), WorkloadError> {
        for (field, url, schemes, prefixes) in [
            ("chain.http_rpc_url", &self.http_rpc_url, "http or https", ["http://", "https://"]),
            ("chain.ws_rpc_url", &self.ws_rpc_url, "ws or wss", ["ws://", "wss://"]),
        ] {
            let is_fine = |prefix: &str| url.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
            let is_text = is_value(url) && !url.contains(char::is_whitespace);
            let is_url = is_text && prefixes.iter().any(|prefix| is_fine(prefix));
            if !url.is_empty() && !is_url {
                return Err(WorkloadError::RpcUrl { field, url: cut(url), schemes });
            }
        }
        if !self.chain.is_empty() && !CHAINS.contains(&self.chain.as_str()) {
            return Err(WorkloadError::Chain(cut(&self.chain)));
        }
        for (name, address) in &self.contracts {
            let digits = address.strip_prefix("0x").unwrap_or_default();
            let is_address = digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !CONTRACTS.contains(&name.as_str()) || !is_address {
                return Err(WorkloadError::Contract(cut(name)));
            }
        }
        for (field, text) in
            self.bootnodes.iter().map(|node| ("bootnodes", node)).chain([("protocol", &self.protocol)])
        {
            if !is_value(text) {
                return Err(WorkloadError::Value { field, name: cut(text) });
            }
        }
        Ok(())
    }

    /// The chain's name: as it was said, else by the URL as it was given, before anybody rewrites it.
    #[must_use]
    pub fn chain_name(&self) -> &str {
        let is_local = |url: &String| url.contains("127.0.0.1") || url.contains("localhost");
        match self.chain.as_str() {
            "" if is_local(&self.http_rpc_url) || is_local(&self.ws_rpc_url) => "local_testnet",
            "" => "testnet",
            said => said,
        }
    }
}

fn is_value(text: &str) -> bool {
    text.len() <= MAX_VALUE_BYTES && !text.contains('\0')
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    starts && name.len() <= 128 && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A part of a file's name that cannot lead anywhere else.
fn is_name(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    starts && text.len() <= 64 && text.bytes().all(goes_on)
}

fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests;
