//! `[network]` of the operator's guide, and `[remote.NAME.tunnel]`.

use serde_json::{Map, Value};

use crate::expand::Around;
use crate::keys::{below, text, whole};
use crate::report::Report;

const OWN_KEYS: &str =
    "the hub and every agent make their own keys, which never leave them; remove it from the file";
const OWN_ADDRESSES: &str = "the hub gives every machine its addresses; who may reach whom is its policy (`blueprint-hub policy set`)";

/// The network of the guide, and the tunnel of a remote.
pub(crate) fn read(path: &str, fields: &Map<String, Value>, around: &Around<'_>, report: &mut Report) {
    for (key, value) in fields {
        let path = below(path, key);
        match (key.as_str(), value) {
            ("tunnel", Value::Object(inner)) => read(&path, inner, around, report),
            ("tunnel_enabled" | "enabled", Value::Bool(true)) => {
                report.understood(&path, "every machine is reached through its tunnel alone");
            }
            ("tunnel_enabled" | "enabled", Value::Bool(false)) => report.refused(
                &path,
                "without tunnel services would stand open in the internet; the tunnel is always on",
            ),
            ("hub_endpoint" | "endpoint", _) => hub(&path, value, around, report),
            ("hub_port", _) => match whole(value, 1, 65535) {
                Some(port) => report.set(&path, "tunnel.listen", format!("0.0.0.0:{port}")),
                None => report.wrong(&path, "a port"),
            },
            ("private_key" | "private_key_path" | "public_key_path" | "public_key", _) => {
                report.refused(&path, OWN_KEYS);
            }
            ("interface", _) => report.absent(
                &path,
                "the hub names its network device itself (tunnel.interface says whether it has one)",
            ),
            ("allowed_ips", _) => report.absent(&path, OWN_ADDRESSES),
            ("persistent_keepalive", _) => match whole(value, 1, 60) {
                Some(seconds) => report.set(&path, "tunnel.keepalive", format!("{seconds}s")),
                None => report.wrong(&path, "seconds from 1 to 60"),
            },
            _ => report.unknown(&path, &NETWORK, value),
        }
    }
}

const NETWORK: [&str; 11] = [
    "tunnel_enabled",
    "enabled",
    "hub_endpoint",
    "endpoint",
    "hub_port",
    "private_key",
    "private_key_path",
    "public_key_path",
    "interface",
    "allowed_ips",
    "persistent_keepalive",
];

/// Host and port of the hub.
fn hub(path: &str, value: &Value, around: &Around<'_>, report: &mut Report) {
    let Some(written) = text(value) else {
        return report.wrong(path, "the host of the hub, with or without a port");
    };
    let expanded = match around.expand(written) {
        Ok(expanded) => expanded,
        Err(why) => return report.refused(path, why),
    };
    // A file of somebody else's must not make a secret of the environment readable, whatever its name is.
    if let Some(name) = &expanded.variable {
        return report.refused(
            path,
            format!(
                "{name} of the environment may be a secret, and this is stored in clear; write the host out"
            ),
        );
    }
    let whole = expanded.text.expose();
    let (host, port) = match whole.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        Some(_) | None => (whole.as_str(), None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_host = !host.is_empty()
        && host.len() <= 253
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':'));
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return report.wrong(path, "the host of the hub, with or without a port"),
    };
    if !is_host {
        return report.wrong(path, "the host of the hub, with or without a port");
    }
    report.set(path, "hub.advertise", host);
    if let Some(port) = port {
        report.setting(path, "tunnel.listen", format!("0.0.0.0:{port}"));
    }
}
