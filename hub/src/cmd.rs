//! One file per command, and what they share.

pub(crate) mod access;
pub(crate) mod alerts;
pub(crate) mod apply;
pub(crate) mod artefact;
pub(crate) mod audit;
pub(crate) mod config;
pub(crate) mod costs;
pub(crate) mod deploy;
pub(crate) mod deployment;
pub(crate) mod dev;
pub(crate) mod exec;
pub(crate) mod expose;
pub(crate) mod forward;
#[cfg(feature = "provider-ssh")]
pub(crate) mod host;
pub(crate) mod identity;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod inventory;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod node;
pub(crate) mod offers;
pub(crate) mod owner;
pub(crate) mod policy;
pub(crate) mod prices;
pub(crate) mod provider;
pub(crate) mod qos;
pub(crate) mod scale;
pub(crate) mod serve;
pub(crate) mod service;
pub(crate) mod service_tls;
pub(crate) mod share;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod workload;

mod client;
mod dev_cloud;
mod remotes;

/// `--ttl` values: a span of time such as `15m`.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let blueprint_common_runtime::config::Span(span) =
        text.parse().map_err(|error: blueprint_common_runtime::config::ParseValueError| error.to_string())?;
    Ok(span.as_secs())
}
