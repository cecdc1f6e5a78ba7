//! Places that are machines of the operator, which the provider `ssh` logs in to.

use serde_json::{Map, Value};

use crate::MAX_KEY;
use crate::expand::Around;
use crate::keys::{text, texts};
use crate::report::{Report, shown};

/// The name of a host in the inventory of the provider `ssh`, which takes a to z, digits and `-`.
pub(super) fn inventory_name(host: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    host.chars().map(plain).collect()
}

/// The machines of a place; `names` where an order for it goes by their names.
pub(super) fn hosts(
    path: &str,
    (value, names): (&Value, bool),
    fields: &Map<String, Value>,
    around: &Around<'_>,
    report: &mut Report,
) {
    let Some(hosts) = texts(value).filter(|hosts| !hosts.is_empty()) else {
        return report.wrong(path, "a list of hosts");
    };
    let user = fields.get("user").and_then(text).unwrap_or("root");
    let key = fields.get("key").or_else(|| fields.get("key_path")).and_then(text);
    let identity = key.and_then(|key| around.expand(key).ok().filter(|expanded| expanded.variable.is_none()));
    let identity = identity.map_or_else(|| "IDENTITY".to_owned(), |found| found.text.expose().clone());
    // They become words of a command that a person copies.
    let is_plain = |word: &str| {
        !word.is_empty()
            && word.len() <= MAX_KEY
            && !word.starts_with('-')
            && word
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/' | '[' | ']'))
    };
    let mut taken = 0u32;
    let named = |host: &str| {
        if names { format!(", and name it {} in the inventory", inventory_name(host)) } else { String::new() }
    };
    for host in hosts {
        if !is_plain(host) || !is_plain(user) || !is_plain(&identity) {
            report.refused(
                path,
                format!("{} with its user and key makes no command that is safe to copy", shown(host)),
            );
            continue;
        }
        taken = taken.saturating_add(1);
        report.steps.push(format!(
            "blueprint-hub host scan {host} --user {user} --identity {identity} (compare the key with what the machine itself \
             says, and run it again with --fingerprint{}; docs/ssh.md)",
            named(host)
        ));
    }
    if taken > 0 {
        report.understood(
            path,
            format!(
                "{taken} machines of the provider ssh, once their host keys are pinned: nobody logs in where the host is not known"
            ),
        );
    }
}
