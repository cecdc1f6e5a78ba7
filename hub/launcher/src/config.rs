//! `launcher.toml`: where the hub is, and what each blueprint is on a node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_runtime::state;
use blueprint_common_types::workload::{
    DEFAULT_LEASE_SECS, MAX_GRACE_SECS, MAX_LEASE_SECS, ResourceLimits, RestartPolicy, Sandbox, Source,
};
use serde::Deserialize;

/// Variable that names the file.
pub(crate) const VARIABLE: &str = "BLUEPRINT_LAUNCHER_CONFIG";

/// Name of the file beside the program, and where it is else.
const NAME: &str = "launcher.toml";
const SYSTEM: &str = "/etc/blueprint-launcher.toml";

/// How long a blueprint may have no node where the file does not say: the Manager waits 480 s for its greeting.
const DEFAULT_UNPLACED_SECS: u32 = 450;

/// The longest such time: a day.
const MAX_UNPLACED_SECS: u32 = 86_400;

/// The hub's socket in its state folder.
const SOCKET: &str = "registry.sock";

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    hub: Option<PathBuf>,
    grace_secs: Option<u32>,
    unplaced_secs: Option<u32>,
    blueprint: BTreeMap<String, BlueprintFile>,
}

/// One blueprint, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlueprintFile {
    source: Source,
    #[serde(default)]
    name: String,
    #[serde(default)]
    limits: ResourceLimits,
    #[serde(default)]
    nodes: Vec<String>,
    /// What crashes comes back; what ends in order has ended.
    #[serde(default = "on_failure")]
    restart: RestartPolicy,
    #[serde(default = "ten")]
    stop_grace_secs: u32,
    #[serde(default)]
    sandbox: Sandbox,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    send_keystore: bool,
    #[serde(default)]
    send_envelope_key: bool,
    #[serde(default)]
    send_api_key: bool,
    #[serde(default)]
    take_over: bool,
    registry_login: Option<PathBuf>,
}

const fn on_failure() -> RestartPolicy {
    RestartPolicy::OnFailure
}

const fn ten() -> u32 {
    10
}

/// One blueprint, as used.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) source: Source,
    /// Empty to take the one that the Manager says.
    pub(crate) name: String,
    pub(crate) limits: ResourceLimits,
    pub(crate) nodes: Vec<String>,
    pub(crate) restart: RestartPolicy,
    pub(crate) stop_grace_secs: u32,
    pub(crate) sandbox: Sandbox,
    /// Names of variables that go along beside those that always do.
    pub(crate) env: Vec<String>,
    pub(crate) send_keystore: bool,
    pub(crate) send_envelope_key: bool,
    pub(crate) send_api_key: bool,
    pub(crate) take_over: bool,
    /// File with the login of the image's registry; `None` to use none.
    pub(crate) registry_login: Option<PathBuf>,
}

/// What the file says, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) hub: PathBuf,
    /// How long a blueprint outlives its launcher.
    pub(crate) grace_secs: u32,
    /// How long a blueprint may have no node before it is given up; `None` for ever.
    pub(crate) unplaced_patience: Option<Duration>,
    pub(crate) blueprints: BTreeMap<u64, Blueprint>,
    /// Where it was read.
    pub(crate) path: PathBuf,
}

impl Config {
    /// Reads the file that `named` names, else the first of the usual ones that is there.
    pub(crate) fn load(named: Option<&str>) -> Result<Self, CliError> {
        let path = match named {
            Some(path) => PathBuf::from(path),
            None => {
                let own = std::env::current_exe().ok().map(|own| own.with_file_name(NAME));
                let usual = own.into_iter().chain([PathBuf::from(SYSTEM)]);
                usual.into_iter().find(|path| path.is_file()).ok_or_else(|| {
                    CliError::config(format!("there is no {NAME} beside this program, and no {SYSTEM}"))
                        .hint(format!("write one as docs/manager.md shows, or name one with {VARIABLE}"))
                })?
            }
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| CliError::config(format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text, &path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, CliError> {
        let wrong = |what: String| {
            CliError::config(format!("{}: {what}", path.display())).hint("docs/manager.md shows every field")
        };
        let file: File = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut problems = Vec::new();
        let grace_secs = file.grace_secs.unwrap_or(DEFAULT_LEASE_SECS);
        if !(1..=MAX_LEASE_SECS).contains(&grace_secs) {
            problems.push(format!("grace_secs is {grace_secs}, and has to be 1 to {MAX_LEASE_SECS}"));
        }
        let unplaced_secs = file.unplaced_secs.unwrap_or(DEFAULT_UNPLACED_SECS);
        if unplaced_secs > MAX_UNPLACED_SECS {
            problems
                .push(format!("unplaced_secs is {unplaced_secs}, and has to be 0 to {MAX_UNPLACED_SECS}"));
        }
        let unplaced_patience = (unplaced_secs > 0).then(|| Duration::from_secs(unplaced_secs.into()));
        let mut blueprints = BTreeMap::new();
        for (id, one) in file.blueprint {
            match id.parse::<u64>() {
                Ok(id) => {
                    blueprints.insert(id, one.validate(id, &mut problems));
                }
                Err(_) => problems.push(format!("blueprint.{id}: its id is not a number")),
            }
        }
        if !problems.is_empty() {
            return Err(wrong(problems.join("; ")));
        }
        let hub = match file.hub {
            Some(hub) => hub,
            None => state::default_path("blueprint-hub")
                .map_err(|error| wrong(format!("hub is not set, and {error}")))?
                .join(SOCKET),
        };
        Ok(Self { hub, grace_secs, unplaced_patience, blueprints, path: path.to_owned() })
    }
}

impl BlueprintFile {
    fn validate(self, id: u64, problems: &mut Vec<String>) -> Blueprint {
        if let Err(error) = self.source.check() {
            problems.push(format!("blueprint.{id}.source: {error}"));
        }
        if let Err(error) = self.limits.check() {
            problems.push(format!("blueprint.{id}.limits: {error}"));
        }
        if self.stop_grace_secs > MAX_GRACE_SECS {
            problems.push(format!("blueprint.{id}.stop_grace_secs is above {MAX_GRACE_SECS}"));
        }
        if let Some(path) = &self.registry_login {
            if !matches!(self.source, Source::Container { .. }) {
                let kind = self.source.kind();
                problems.push(format!(
                    "blueprint.{id}.registry_login: a source of the kind {kind} comes from no registry"
                ));
            }
            // The Manager starts this program where it likes.
            if !path.is_absolute() {
                problems.push(format!("blueprint.{id}.registry_login is no absolute path"));
            }
        }
        Blueprint {
            source: self.source,
            name: self.name,
            limits: self.limits,
            nodes: self.nodes,
            restart: self.restart,
            stop_grace_secs: self.stop_grace_secs,
            sandbox: self.sandbox,
            env: self.env,
            send_keystore: self.send_keystore,
            send_envelope_key: self.send_envelope_key,
            send_api_key: self.send_api_key,
            take_over: self.take_over,
            registry_login: self.registry_login,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config(text: &str) -> Result<Config, CliError> {
        Config::parse(text, Path::new("launcher.toml"))
    }

    #[test]
    fn a_blueprint_needs_a_source_and_keeps_its_keys_unless_it_is_told_otherwise() {
        let read =
            config("hub = \"/h.sock\"\n[blueprint.7]\nsource = { type = \"testing\", path = \"/bin/b\" }\n")
                .unwrap();
        let one = &read.blueprints[&7];
        assert!(one.registry_login.is_none());
        assert!(!one.send_keystore && !one.send_api_key && !one.send_envelope_key && !one.take_over);
        assert_eq!((one.restart, read.grace_secs), (RestartPolicy::OnFailure, 15));
        assert_eq!(read.unplaced_patience, Some(Duration::from_secs(450)));
        assert_eq!(read.hub, Path::new("/h.sock"));
    }

    #[test]
    fn every_mistake_is_told_at_once_by_its_key() {
        let text = "grace_secs = 0\nunplaced_secs = 90000\n[blueprint.seven]\nsource = { type = \"testing\", path = \"/b\" }\n\
                    [blueprint.7]\nsource = { type = \"native\", url = \"ftp://a\", sha256 = \"HEX\" }\nstop_grace_secs = 9999\n\
                    registry_login = \"login\"\n";
        let text = text.replace("HEX", &"ab".repeat(32));
        let error = config(&text).unwrap_err().message;
        for part in [
            "grace_secs",
            "unplaced_secs",
            "blueprint.seven",
            "blueprint.7.source",
            "blueprint.7.stop_grace_secs",
            "native comes from no registry",
            "no absolute path",
        ] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let error =
            config("[blueprint.7]\nsource = { type = \"testing\", path = \"/b\" }\nsend_keys = true\n");
        assert!(error.unwrap_err().message.contains("send_keys"));
    }
}
