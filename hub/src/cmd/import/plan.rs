//! What an import would change, looked up before anything is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use blueprint_common_runtime::cli::{CliError, Exit};
use blueprint_common_runtime::config::{Settings, Sources};
use blueprint_common_types::Secret;
use blueprint_hub_import_core::{Field, KnownMachine, MAX_REMOTES, Remote, Remotes, Report, Setting, merged};
use serde_json::{Value, json};

use super::super::client::{rows, text};
use super::super::remotes;
use super::toml;
use crate::cli::Global;
use crate::config::{HubConfig, SCHEMA};
use crate::files;

/// What becomes of one thing, for people and programs.
pub(super) struct Outcome {
    /// What it is: a key, a provider, the name of a remote.
    pub(super) subject: String,
    /// `set`, `as it is`, `kept`, or `left out`.
    pub(super) word: &'static str,
    /// More of it; no secret.
    pub(super) text: String,
}

impl Outcome {
    fn new(subject: &str, word: &'static str, text: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), word, text: text.into() }
    }

    pub(super) fn json(&self) -> Value {
        json!({ "subject": self.subject, "outcome": self.word, "text": self.text })
    }
}

/// Credentials that will be sealed.
pub(super) struct Sealing {
    pub(super) provider: String,
    pub(super) text: Secret<String>,
}

/// A file as it was read, and as it will be.
pub(super) struct Change<T> {
    pub(super) before: T,
    pub(super) after: T,
}

/// Everything that will be stored, and what will not.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) outcomes: Vec<(&'static str, Outcome)>,
    /// The new text of the configuration, with its path; `None` where it stays.
    pub(super) config: Option<(PathBuf, Change<String>)>,
    pub(super) sealings: Vec<Sealing>,
    /// The new file of remotes; `None` where it stays.
    pub(super) remotes: Option<Change<Remotes>>,
    pub(super) machines: Vec<KnownMachine>,
    pub(super) steps: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to store.
    pub(super) fn is_empty(&self) -> bool {
        self.config.is_none()
            && self.sealings.is_empty()
            && self.remotes.is_none()
            && self.machines.is_empty()
    }

    fn say(&mut self, part: &'static str, outcome: Outcome) {
        self.outcomes.push((part, outcome));
    }

    /// Looks up the settings of all reports; the new text is one that the hub takes.
    pub(super) fn settings(
        &mut self,
        global: &Global,
        reports: &[Report],
        replace: bool,
    ) -> Result<(), CliError> {
        let sources = global.sources()?;
        let path = match &sources.file {
            Some(path) => path.clone(),
            None => global.state()?.join(files::CONFIG),
        };
        let (_, now) = HubConfig::load(&sources)?;
        let mut wanted: BTreeMap<&str, &Setting> = BTreeMap::new();
        for setting in reports.iter().flat_map(|report| &report.settings) {
            if let Some(other) =
                wanted.insert(&setting.key, setting).filter(|other| other.value != setting.value)
            {
                let text = format!("{} says {:?}, and {} counts", other.from, other.value, setting.from);
                self.say("setting", Outcome::new(&setting.key, "left out", text));
            }
        }
        let mut set = Vec::new();
        for (key, setting) in wanted {
            match verdict(&now, key, &setting.value, replace) {
                Ok(()) => set.push((key.to_owned(), setting.value.clone())),
                Err((word, text)) => self.say("setting", Outcome::new(key, word, text)),
            }
        }
        let text = read(&path)?;
        let (set, new) = self.accepted(&sources, &text, set)?;
        for (key, value) in &set {
            self.say("setting", Outcome::new(key, "set", format!("{value:?}")));
        }
        if !set.is_empty() {
            self.config = Some((path, Change { before: text, after: new }));
        }
        for allowed in reports.iter().filter_map(|report| report.allowed.as_ref()) {
            self.switches(&now, &set, allowed);
        }
        Ok(())
    }

    /// Names the providers that are on, or will be, and that the operator's preferences do not allow.
    fn switches(&mut self, now: &Settings, set: &[(String, String)], allowed: &BTreeSet<String>) {
        for key in SCHEMA.keys.iter().map(|key| key.path) {
            let name = key.strip_prefix("providers.").and_then(|rest| rest.strip_suffix(".enabled"));
            let Some(name) = name.map(|name| name.replace('_', "-")) else { continue };
            let will_be = set.iter().find(|(own, _)| own == key).map(|(_, value)| value.as_str());
            if !allowed.contains(&name) && will_be.or_else(|| now.text(key)) == Some("true") {
                self.steps.push(format!(
                    "the provider {name} is on and not among allowed_types: set {key} = false in hub.toml, or orders go there, too"
                ));
            }
        }
    }

    /// The settings that the hub takes, and the text with them: those of a provider whose section is not whole are left out.
    fn accepted(
        &mut self,
        sources: &Sources,
        text: &str,
        mut set: Vec<(String, String)>,
    ) -> Result<(Vec<(String, String)>, String), CliError> {
        loop {
            let new = toml::with(text, &set);
            let beside = tempfile::NamedTempFile::new()?;
            std::fs::write(beside.path(), &new)?;
            let tried = Sources { file: Some(beside.path().to_owned()), ..sources.clone() };
            let error = match HubConfig::load(&tried) {
                Ok(_) => return Ok((set, new)),
                Err(error) => error,
            };
            let before = set.len();
            for problem in error.problems() {
                let section = section(&problem.key).to_owned();
                let is_of_it =
                    |key: &str| key == problem.key || (!section.is_empty() && key.starts_with(&section));
                let (out, kept): (Vec<_>, Vec<_>) = set.into_iter().partition(|(key, _)| is_of_it(key));
                set = kept;
                for (key, _) in out {
                    let text = format!("the hub does not take it: {}", problem.text);
                    self.say("setting", Outcome::new(&key, "left out", text));
                }
            }
            if set.len() == before {
                // Nothing that was imported is at fault, so nothing that is left out mends it.
                return Err(
                    CliError::from(error).hint("the configuration cannot be changed; nothing was imported")
                );
            }
        }
    }

    /// Looks up credentials; `accounts` is what the hub says of its providers, `None` where no hub was asked.
    pub(super) fn credentials(&mut self, reports: &[Report], accounts: Option<&Value>, replace: bool) {
        for given in reports.iter().flat_map(|report| &report.credentials) {
            let name = given.provider.as_str();
            let Some(accounts) = accounts else {
                let text = "no hub runs to be asked; start it with `blueprint-hub serve` and import again";
                self.say("credentials", Outcome::new(name, "left out", text));
                continue;
            };
            let row = rows(accounts, "accounts").iter().find(|row| text(row, "name") == name);
            let lacks = row.and_then(|row| row.get("lacks")).filter(|lacks| !lacks.is_null());
            let fields: Vec<Field> =
                row.map(|row| rows(row, "fields")).unwrap_or_default().iter().map(field).collect();
            if row.is_none() || lacks.is_some() || fields.is_empty() {
                let text = "this hub has no provider of this name that takes credentials";
                self.say("credentials", Outcome::new(name, "left out", text));
                continue;
            }
            let is_sealed = row.and_then(|row| row.get("sealed")).is_some_and(|sealed| !sealed.is_null());
            if is_sealed && !replace {
                let text = "the hub has others sealed already; give --replace to put these in their place";
                self.say("credentials", Outcome::new(name, "kept", text));
                continue;
            }
            if self.sealings.iter().any(|sealing| sealing.provider == name) {
                let text = "another of the files has some, which count";
                self.say("credentials", Outcome::new(name, "left out", text));
                continue;
            }
            match given.fit(&fields) {
                Ok(text) => {
                    self.say("credentials", Outcome::new(name, "set", "sealed in the hub's store"));
                    self.sealings.push(Sealing { provider: name.to_owned(), text });
                }
                Err(error) => self.say("credentials", Outcome::new(name, "left out", error.to_string())),
            }
        }
    }

    /// Looks up remotes.
    pub(super) fn remotes(
        &mut self,
        global: &Global,
        reports: &[Report],
        replace: bool,
    ) -> Result<(), CliError> {
        let before = remotes::kept(global)?;
        let names: BTreeSet<&String> =
            reports.iter().flat_map(|report| report.remotes.keys()).chain(before.remote.keys()).collect();
        if names.len() > MAX_REMOTES {
            return Err(CliError::usage(format!(
                "the hub would have {} remotes, and at most {MAX_REMOTES} are kept; nothing was stored",
                names.len()
            ))
            .hint("take some out of remotes.toml in the state folder, or import a shorter file"));
        }
        let mut kept = before.clone();
        let mut is_new = false;
        for (name, remote, report) in reports
            .iter()
            .flat_map(|report| report.remotes.iter().map(move |(name, one)| (name, one, report)))
        {
            let others = before.remote.iter().filter(|(name, _)| !report.remotes.contains_key(*name));
            let others = others.chain(
                reports.iter().filter(|other| !std::ptr::eq(*other, report)).flat_map(|other| &other.remotes),
            );
            let remote = &apart(name, remote, others);
            let shown = shown(remote);
            let outcome = match kept.remote.get(name) {
                Some(own) if own == remote => Outcome::new(name, "as it is", shown),
                Some(_) if !replace => Outcome::new(
                    name,
                    "kept",
                    "the hub has another of this name; give --replace to put this one in its place",
                ),
                Some(_) | None => {
                    kept.remote.insert(name.clone(), remote.clone());
                    is_new = true;
                    Outcome::new(name, "set", shown)
                }
            };
            self.say("remote", outcome);
        }
        if is_new {
            self.remotes = Some(Change { before, after: kept });
        }
        Ok(())
    }
}

/// A remote, which is unusable where an order for it could land on a place of another file that is the same provider. What
/// one file says of its places was compared when it was read.
fn apart<'a>(
    name: &str,
    remote: &Remote,
    mut others: impl Iterator<Item = (&'a String, &'a Remote)>,
) -> Remote {
    let own = remote.provider.as_deref().filter(|own| matches!(*own, "ssh" | "docker"));
    let Some(own) = own.filter(|_| remote.unusable.is_none()) else { return remote.clone() };
    let is_apart = |other: &Remote| {
        let named = !remote.plans.is_empty() && !other.plans.is_empty();
        (named && remote.plans.iter().all(|plan| !other.plans.contains(plan)))
            || matches!((&remote.region, &other.region), (Some(own), Some(other)) if own != other)
    };
    if others.any(|(other, one)| other != name && one.provider.as_deref() == Some(own) && !is_apart(one)) {
        return Remote { unusable: Some(merged(own)), ..remote.clone() };
    }
    remote.clone()
}

/// Whether a key is to be set; else why not.
fn verdict(now: &Settings, key: &str, value: &str, replace: bool) -> Result<(), (&'static str, String)> {
    if !SCHEMA.keys.iter().any(|known| known.path == key) {
        return Err((
            "left out",
            "this hub has no such key: it has no such provider, or an older program runs".to_owned(),
        ));
    }
    match now.text(key) {
        Some(own) if own == value => Err(("as it is", format!("{value:?}"))),
        Some(own) if !replace && is_chosen(now, key) => {
            Err(("kept", format!("the configuration says {own:?}; give --replace to set {value:?}")))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether somebody has set a key, rather than its default standing there.
fn is_chosen(now: &Settings, key: &str) -> bool {
    now.show().iter().any(|shown| shown.key == key && shown.origin != "default" && shown.origin != "unset")
}

/// `providers.aws.` of a key of a provider; empty for all others.
fn section(key: &str) -> &str {
    if !key.starts_with("providers.") {
        return "";
    }
    key.rfind('.').and_then(|at| key.get(..=at)).unwrap_or_default()
}

fn field(row: &Value) -> Field {
    Field {
        name: text(row, "name"),
        required: row.get("required").and_then(Value::as_bool) == Some(true),
        secret: row.get("secret").and_then(Value::as_bool) == Some(true),
        variables: rows(row, "variables").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
    }
}

fn shown(remote: &Remote) -> String {
    match &remote.unusable {
        Some(why) => format!("nothing can be ordered there: {why}"),
        None => serde_json::to_string(remote).unwrap_or_default(),
    }
}

/// The text of the configuration; empty where there is none.
pub(super) fn read(path: &std::path::Path) -> Result<String, CliError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(CliError::new(Exit::Config, format!("cannot read {}: {error}", path.display()))
            .hint("run it as the user that the hub runs as")),
    }
}
