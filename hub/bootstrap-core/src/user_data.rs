//! The files of a new machine, and the user data that carries them.

use std::collections::BTreeMap;

use blueprint_common_types::workload::Sha256Digest;
use blueprint_common_types::{ProofKind, Secret};
use serde_json::json;

use crate::AgentArch;

/// Longest user data in bytes: in base64 this is still less than the 16 KiB of the smallest cloud (`providers.md` 2.0).
pub const MAX_BYTES: usize = 12 * 1024;

const AGENT_UNIT: &str = include_str!("files/blueprint-agent.service");
const BOOTSTRAP_UNIT: &str = include_str!("files/blueprint-bootstrap.service");
const FIREWALL_UNIT: &str = include_str!("files/blueprint-firewall.service");
const BOOTSTRAP: &str = include_str!("files/bootstrap");
const FIREWALL: &str = include_str!("files/firewall");

/// What a machine is told.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Name of its node.
    pub name: String,
    /// What it joins with: a line with a token, or where its cloud vouches for it, one that names the hub alone.
    pub join_line: Secret<String>,
    /// Whose word it joins by, where it has no token.
    pub identity: Option<ProofKind>,
    /// Agents that the hub holds.
    pub agents: BTreeMap<AgentArch, Sha256Digest>,
    /// Where they are fetched: the digest is appended. It holds the right to do so.
    pub url: Secret<String>,
    /// How long it tries, in seconds.
    pub within_secs: u64,
    /// Whether it is switched off where it did not join in that time: right for machines that are paid for, wrong for those of
    /// somebody.
    pub powers_off: bool,
    /// Whether cloud-init brings the files, once and for good: then the bootstrap waits for it, installs a firewall where there is
    /// none, and wipes what cloud-init kept. False for a machine that somebody has already, where nothing else is touched.
    pub by_cloud_init: bool,
    /// Whether the agent's workloads see devices of the machine, such as GPUs.
    pub has_devices: bool,
    /// Whether it runs workloads that ask for limits where it cannot hold them.
    pub allows_unlimited: bool,
}

/// Why there is no user data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// A value could be read as something else by the shell of the machine.
    #[error("{0} holds a character that the machine's shell would read")]
    Unquoted(&'static str),
    /// Longer than every cloud takes.
    #[error("the user data is {0} bytes long; at most {MAX_BYTES} fit every cloud")]
    TooLong(usize),
}

/// One file of a new machine.
#[derive(Debug, Clone)]
pub struct FileEntry {
    /// Where it lies.
    pub path: &'static str,
    /// Permissions; it belongs to root.
    pub mode: u32,
    /// What it holds.
    pub content: Secret<String>,
}

impl Bootstrap {
    /// The files, all of which root has to write before [`Self::START`] is run.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Unquoted`] where a value is not fit for a shell.
    pub fn files(&self) -> Result<Vec<FileEntry>, BootstrapError> {
        let devices = if self.has_devices { "no" } else { "yes" };
        let plain = |path, mode, text: &str| FileEntry { path, mode, content: Secret::new(brief(text)) };
        Ok(vec![
            FileEntry {
                path: "/etc/blueprint-agent/join",
                mode: 0o600,
                content: Secret::new(format!("{}\n", self.join_line.expose())),
            },
            FileEntry { path: "/etc/blueprint-agent/bootstrap.env", mode: 0o600, content: self.settings()? },
            plain("/etc/blueprint-agent/agent.toml", 0o644, &self.agent_settings()),
            plain("/usr/local/lib/blueprint-agent/bootstrap", 0o755, BOOTSTRAP),
            plain("/usr/local/lib/blueprint-agent/firewall", 0o755, FIREWALL),
            plain(
                "/etc/systemd/system/blueprint-agent.service",
                0o644,
                &AGENT_UNIT.replace("@PRIVATE_DEVICES@", devices),
            ),
            plain("/etc/systemd/system/blueprint-bootstrap.service", 0o644, &self.bootstrap_unit()),
            plain("/etc/systemd/system/blueprint-firewall.service", 0o644, FIREWALL_UNIT),
        ])
    }

    fn agent_settings(&self) -> String {
        let mut text = "# `blueprint-agent config default` prints every key.\n".to_owned();
        if self.allows_unlimited {
            text.push_str("[workload]\nallow_unlimited = true\n");
        }
        text
    }

    /// What root runs once the files lie there: programs with their arguments.
    pub const START: [&'static [&'static str]; 3] = [
        &["systemctl", "daemon-reload"],
        &["systemctl", "enable", "blueprint-firewall.service", "blueprint-bootstrap.service"],
        &["systemctl", "start", "--no-block", "blueprint-bootstrap.service"],
    ];

    /// The user data for cloud-init: a `#cloud-config`.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`] where a value is not fit for a shell, or all of it is too long.
    pub fn cloud_config(&self) -> Result<Secret<String>, BootstrapError> {
        let files = self.files()?;
        let files = files.iter().map(|file| {
            json!({
                "path": file.path,
                "permissions": format!("{:04o}", file.mode),
                "owner": "root:root",
                "content": file.content.expose(),
            })
        });
        let document = json!({
            "ssh_pwauth": false,
            "disable_root": true,
            "write_files": files.collect::<Vec<_>>(),
            "runcmd": Self::START,
        });
        let text = format!("#cloud-config\n{document}\n");
        if text.len() > MAX_BYTES { Err(BootstrapError::TooLong(text.len())) } else { Ok(Secret::new(text)) }
    }

    /// The files and [`Self::START`] as one JSON document, for whoever brings them to a machine that runs already.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Unquoted`] where a value is not fit for a shell.
    pub fn order(&self) -> Result<Secret<String>, BootstrapError> {
        let files = self.files()?;
        let files = files
            .iter()
            .map(|file| json!({ "path": file.path, "mode": file.mode, "content": file.content.expose() }));
        let document = json!({ "files": files.collect::<Vec<_>>(), "start": Self::START });
        Ok(Secret::new(document.to_string()))
    }

    /// cloud-final comes after multi-user.target, so what waits for it is no part of that.
    fn bootstrap_unit(&self) -> String {
        let (after, target) = if self.by_cloud_init {
            (" cloud-final.service", "cloud-init.target")
        } else {
            ("", "multi-user.target")
        };
        BOOTSTRAP_UNIT.replace("@AFTER@", after).replace("@TARGET@", target)
    }

    /// The settings of the script, as assignments of a shell.
    fn settings(&self) -> Result<Secret<String>, BootstrapError> {
        let digest = |arch| self.agents.get(&arch).map(ToString::to_string).unwrap_or_default();
        let [x86_64, aarch64] = [AgentArch::X86_64, AgentArch::Aarch64].map(digest);
        let name = plain_text(&self.name, "the name of the machine")?;
        let url = plain_text(self.url.expose(), "the address of the hub")?;
        let cloud_init = if self.by_cloud_init { "yes" } else { "no" };
        let power_off = if self.powers_off { "yes" } else { "no" };
        let identity = self.identity.map(ProofKind::name).unwrap_or_default();
        Ok(Secret::new(format!(
            "NAME={name}\nIDENTITY={identity}\nURL={url}\nAGENT_X86_64={x86_64}\nAGENT_AARCH64={aarch64}\nWITHIN_SECS={}\nPOWER_OFF={power_off}\nCLOUD_INIT={cloud_init}\n",
            self.within_secs
        )))
    }
}

/// A text of which no shell makes anything else.
fn plain_text<'a>(text: &'a str, what: &'static str) -> Result<&'a str, BootstrapError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&byte);
    // Brackets stand in addresses of IPv6 alone, and nothing is matched against files in an assignment.
    if text.bytes().all(is_plain) { Ok(text) } else { Err(BootstrapError::Unquoted(what)) }
}

/// A file without the comments behind its first words: clouds take little, and what a machine reads is not where people look.
fn brief(text: &str) -> String {
    let is_comment = |line: &str| line.trim_start().starts_with('#');
    let first = text.lines().take_while(|line| is_comment(line)).count();
    let kept = text.lines().enumerate().filter(|(at, line)| *at < first || !is_comment(line));
    kept.flat_map(|(_, line)| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bootstrap() -> Bootstrap {
        let digest: Sha256Digest = "ab".repeat(32).parse().unwrap();
        Bootstrap {
            name: format!("bp-{}", "d".repeat(40)),
            join_line: Secret::new(format!("{}:7443/{}/canary", "h".repeat(120), "p".repeat(43))),
            identity: None,
            agents: BTreeMap::from([(AgentArch::X86_64, digest), (AgentArch::Aarch64, digest)]),
            url: Secret::new(format!("https://{}:7443/agent/0123456789abcdef/canary", "h".repeat(120))),
            within_secs: 900,
            powers_off: true,
            by_cloud_init: true,
            has_devices: false,
            allows_unlimited: false,
        }
    }

    #[test]
    fn comments_go_and_what_is_done_stays() {
        let text = "#!/bin/sh\n# What it is.\nset -eu\n\n# Why.\nsay() { # URL\n    # Here, too.\n    echo \"# $1\"\n}\n";
        let brief = brief(text);
        assert_eq!(brief, "#!/bin/sh\n# What it is.\nset -eu\n\nsay() { # URL\n    echo \"# $1\"\n}\n");
    }

    #[test]
    fn the_document_fits_every_cloud_and_prints_no_secret() {
        let text = bootstrap().cloud_config().unwrap();
        let (first, document) = text.expose().split_once('\n').unwrap();
        assert_eq!(first, "#cloud-config");
        assert!(text.expose().len() <= MAX_BYTES - 1024, "{} bytes", text.expose().len());
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        let files = document.get("write_files").and_then(|files| files.as_array()).unwrap();
        for file in files {
            let is_secret = file.get("content").unwrap().to_string().contains("canary");
            assert_eq!(file.get("permissions").unwrap() == "0600", is_secret, "{file}");
        }
        assert!(!document.to_string().contains('@') || !document.to_string().contains("@PRIVATE"));
        assert!(!format!("{:?}", bootstrap()).contains("canary"));
        assert!(!format!("{:?}", bootstrap().files().unwrap()).contains("canary"));
    }

    #[test]
    fn a_machine_that_runs_already_gets_the_same_files_and_waits_for_no_cloud_init() {
        let own = Bootstrap { by_cloud_init: false, powers_off: false, ..bootstrap() };
        let order: serde_json::Value = serde_json::from_str(own.order().unwrap().expose()).unwrap();
        let files = |of: &Bootstrap| -> Vec<String> {
            of.files().unwrap().iter().map(|file| file.content.expose().clone()).collect()
        };
        assert_eq!(order.pointer("/files").and_then(|files| files.as_array()).map(Vec::len), Some(8));
        assert_eq!(order.pointer("/start/0/0"), Some(&"systemctl".into()));
        let (own, cloud) = (files(&own).join("\n"), files(&bootstrap()).join("\n"));
        assert!(own.contains("WantedBy=multi-user.target\n") && !own.contains("WantedBy=cloud-init.target"));
        assert!(cloud.contains("WantedBy=cloud-init.target") && cloud.contains(" cloud-final.service\n"));
        assert!(own.contains("CLOUD_INIT=no") && own.contains("POWER_OFF=no"));
        assert!(![own, cloud].concat().contains("@AFTER@"));
    }

    #[test]
    fn a_machine_that_its_cloud_vouches_for_is_told_which_and_asks_as_root() {
        let own = Bootstrap { identity: Some(ProofKind::Azure), ..bootstrap() };
        let settings = |of: &Bootstrap| of.settings().unwrap().expose().clone();
        assert!(settings(&own).contains("\nIDENTITY=azure\n"), "{}", settings(&own));
        assert!(settings(&bootstrap()).contains("\nIDENTITY=\n"));
        assert!(own.cloud_config().unwrap().expose().len() <= MAX_BYTES - 1024);
        let (by_token, by_identity) = BOOTSTRAP.split_once("--identity").unwrap();
        assert!(by_token.contains("runuser -u blueprint-agent") && !by_identity.contains("runuser"));
    }

    #[test]
    fn values_that_a_shell_would_read_are_refused() {
        for wrong in ["a b", "a;reboot", "$(id)", "a\nb", "`id`", "a'b", "a\"b", "a&b", "a|b", "a\\b", "ä"] {
            let named = Bootstrap { name: wrong.to_owned(), ..bootstrap() };
            assert!(matches!(named.cloud_config(), Err(BootstrapError::Unquoted(_))), "{wrong}");
            let served = Bootstrap { url: Secret::new(wrong.to_owned()), ..bootstrap() };
            assert!(matches!(served.files(), Err(BootstrapError::Unquoted(_))), "{wrong}");
        }
        let long = Bootstrap { name: "n".repeat(MAX_BYTES), ..bootstrap() };
        assert!(matches!(long.cloud_config(), Err(BootstrapError::TooLong(_))));
    }
}
