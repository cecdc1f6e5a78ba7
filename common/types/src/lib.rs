//! Names, keys, secrets, tokens and samples that every part of the product shares.
//!
//! This crate holds values and their text forms; it has no I/O, no clock and no policy.
//! Everything that must not be printed is a [`Secret`], which has no `Display` and a
//! `Debug` that says nothing.

mod carrier;
mod door;
mod health;
mod id;
mod join_line;
mod key;
mod log;
mod metrics_place;
mod money;
mod overlay;
mod ports;
mod proof;
mod qos;
pub mod sealed_box;
mod secret;
mod time;
mod token;
pub mod workload;

pub use carrier::{Carrier, ParseCarrierError};
pub use door::{
    AGENT_DOOR_PORT, DoorAnswer, DoorAsk, DoorRefusal, DoorTicket, ExecAsk, MAX_DOOR_LINE, PortAsk,
    TerminalSize,
};
pub use health::{CheckPace, CheckPaceError, Health, HealthCheck, ParseHealthCheckError, StatusRange};
pub use id::{AgentId, HubId, ParseIdError, ServiceKey, TargetKey};
pub use join_line::{CaPin, HubLine, JoinLine, ParseJoinLineError};
pub use key::{ParseKeyError, WgPrivateKey, WgPublicKey};
pub use log::{LogCursor, LogLevel, LogStream, ParseLogCursorError, ParseLogLevelError};
pub use metrics_place::{AGENT_METRICS_PORT, MetricsAsk, MetricsPlace, ParseMetricsPlaceError};
pub use money::{Micros, ParseMicrosError};
pub use overlay::OverlayLease;
pub use ports::{ParsePortsError, PortRanges};
pub use proof::{ParseProofKindError, ProofBinding, ProofKind, identity_id};
pub use qos::{MachineSample, ServiceSample, TunnelSample, WholeSample, WorkloadUse};
pub use secret::Secret;
pub use time::Timestamp;
pub use token::{AccessToken, JoinToken, ParseTokenError, TokenHash, TokenId};

/// Name that the hub's certificate carries and that every agent verifies, wherever the hub is reached.
///
/// The address of a hub may change; its name in TLS never does, so a certificate survives every move.
pub const HUB_TLS_NAME: &str = "hub.blueprint.internal";

/// Fills `buffer` from the operating system's generator.
///
/// # Errors
///
/// Fails only where the system has no source of randomness.
pub fn fill_random(buffer: &mut [u8]) -> Result<(), std::io::Error> {
    getrandom::fill(buffer).map_err(std::io::Error::from)
}
