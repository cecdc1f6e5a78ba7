//! The scripts that are sent to hosts.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_types::Secret;
use blueprint_hub_provision_core::resource::Arch;
use serde::Deserialize;

use crate::claim::{Claim, Place};
use crate::inventory::OwnHost;

const PROBE: &str = include_str!("scripts/probe.sh");
const INSTALL: &str = include_str!("scripts/install.sh");
const REMOVE: &str = include_str!("scripts/remove.sh");
const SWITCH: &str = include_str!("scripts/switch.sh");

/// Longest text of an order in bytes.
const MAX_ORDER: usize = 256 * 1024;

/// What makes a host a node: files, and programs to run once they lie there. The user data of an order is one of these, as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    files: Vec<OrderedFile>,
    start: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderedFile {
    path: String,
    mode: u32,
    content: String,
}

/// Asks what there is on a host; also for its size where `detect`.
pub(crate) fn probe(detect: bool) -> Secret<String> {
    let detect = if detect { "yes" } else { "no" };
    Secret::new(format!("DETECT={detect}\n{PROBE}"))
}

/// Claims `host` and makes it a node by the order `user_data`.
///
/// # Errors
///
/// Why the order is none; it holds no secret.
pub(crate) fn install(
    host: &OwnHost,
    claim: &Claim,
    user_data: &Secret<String>,
) -> Result<Secret<String>, String> {
    if user_data.expose().len() > MAX_ORDER {
        return Err(format!("its files are longer than {MAX_ORDER} bytes"));
    }
    // The words of the parser could quote what it read.
    let order: Order = serde_json::from_str(user_data.expose())
        .map_err(|_| "its user data are no files for a host".to_owned())?;
    let arch = match host.arch {
        Arch::X86_64 => "x86_64",
        Arch::Arm64 => "aarch64",
    };
    let ports: Vec<_> = host.open_ports.iter().map(u16::to_string).collect();
    let encoded = STANDARD.encode(claim.text());
    let mut text = claimed(&claim.tags.hub.to_string(), &Place::of(host.name(), claim));
    let mut body = || -> Result<(), std::fmt::Error> {
        write!(text, "ARCH={arch}\nPORTS='{}'\nCLAIM={encoded}\n{INSTALL}\nfiles() {{\n:", ports.join(" "))?;
        for file in &order.files {
            let content = STANDARD.encode(&file.content);
            write!(text, " &&\nput {} {:o} {content}", word(&file.path), file.mode & 0o7777)?;
        }
        write!(text, "\n}}\nstart() {{\n:")?;
        for program in &order.start {
            let words: Vec<_> = program.iter().map(|text| word(text)).collect();
            write!(text, " &&\n{}", words.join(" "))?;
        }
        write!(text, "\n}}\nmain </dev/null\n")
    };
    body().map_err(|_| "its files cannot be written into a script".to_owned())?;
    Ok(Secret::new(text))
}

/// Takes everything of a machine off its host.
pub(crate) fn remove(hub: &str, place: &Place) -> Secret<String> {
    Secret::new(claimed(hub, place) + REMOVE)
}

/// Stops the agent of a machine, or starts it.
pub(crate) fn switch(hub: &str, place: &Place, on: bool) -> Secret<String> {
    let on = if on { "yes" } else { "no" };
    Secret::new(format!("{}ON={on}\n{SWITCH}", claimed(hub, place)))
}

/// Whose machine is meant. Ids and keys are of letters, digits and '-' alone.
fn claimed(hub: &str, place: &Place) -> String {
    format!("HUB={hub}\nKEY={}\nATTEMPT={}\n", place.key, place.attempt)
}

/// A text as one word of the shell.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::claim::tests::claim;
    use crate::inventory::{Format, Inventory};
    use crate::key::tests::KEY;

    fn host() -> OwnHost {
        let text = format!(
            "[[host]]\nname = \"rack-1\"\naddress = \"h\"\nhost_key = \"{KEY}\"\nidentity = \"/k/id\"\ncpu = 8\nmemory_mib = 32000\n\
             disk_gb = 400\nopen_ports = [443, 80]\n"
        );
        Inventory::parse(&text, Format::Toml).unwrap().host("rack-1").unwrap().clone()
    }

    fn is_shell(script: &Secret<String>) -> bool {
        use std::io::Write as _;
        let mut child = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.expose().as_bytes()).unwrap();
        child.wait().unwrap().success()
    }

    #[test]
    fn every_script_is_one_for_a_shell_and_shows_no_secret() {
        let data = serde_json::json!({
            "files": [{ "path": "/etc/it's/join", "mode": 0o600, "content": "canary'; reboot\n" }],
            "start": [["systemctl", "daemon-reload"], ["echo", "it's $HOME"]],
        });
        let order = install(&host(), &claim(1), &Secret::new(data.to_string())).unwrap();
        let text = order.expose();
        assert!(!text.contains("canary") && !text.contains("reboot'"), "{text}");
        assert!(text.contains("put '/etc/it'\\''s/join' 600 "), "{text}");
        assert!(text.contains("'echo' 'it'\\''s $HOME'") && text.contains("PORTS='443 80'"), "{text}");
        let place = Place::of("rack-1", &claim(1));
        let hub = claim(1).tags.hub.to_string();
        for script in [order, probe(true), remove(&hub, &place), switch(&hub, &place, true)] {
            assert!(is_shell(&script));
            assert!(script.expose().ends_with("main </dev/null\n"));
        }
    }

    #[test]
    fn what_is_no_order_is_refused_without_being_quoted() {
        for wrong in ["canary", "{\"files\":\"canary\"}", "#cloud-config\n{}"] {
            let said = install(&host(), &claim(1), &Secret::new(wrong.to_owned())).unwrap_err();
            assert!(!said.contains("canary"), "{said}");
        }
        let long = Secret::new("x".repeat(MAX_ORDER + 1));
        assert!(install(&host(), &claim(1), &long).unwrap_err().contains("longer"));
    }
}
