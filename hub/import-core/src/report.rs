//! What is said of a file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;
use serde_json::Value;

use crate::kind::Kind;
use crate::names::{nearest, regions_key};
use crate::remotes::Remote;
use crate::secrets::Given;
use crate::state::KnownMachine;

/// Longest text of a finding, in bytes.
const MAX_TEXT: usize = 4096;

/// Longest text of a value that is repeated in a report, in characters.
const MAX_SHOWN: usize = 80;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is carried over.
    Understood,
    /// It is known, and not carried over: it would be insecure, or its value is none.
    Refused,
    /// It is known, and means nothing here.
    NotApplicable,
    /// Nobody knows it.
    Unknown,
}

impl Verdict {
    /// In words, for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Understood => "understood",
            Self::Refused => "refused",
            Self::NotApplicable => "not applicable",
            Self::Unknown => "unknown",
        }
    }
}

/// What becomes of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The key with its sections, `remote.aws.tunnel.endpoint` for example.
    pub key: String,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What it became, or why it became nothing and what to do.
    pub text: String,
}

/// A key of the hub's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key in the hub's file.
    pub key: String,
    /// Its value as text.
    pub value: String,
    /// The key that it comes from.
    pub from: String,
}

/// Everything that is said of a file, and what is to be stored of it.
#[derive(Debug)]
pub struct Report {
    /// Which file it is.
    pub kind: Kind,
    /// Every key of the file.
    pub findings: Vec<Finding>,
    /// Keys for the hub's configuration, each once.
    pub settings: Vec<Setting>,
    /// Credentials of providers.
    pub credentials: Vec<Given>,
    /// Providers that orders may go to and no other, where the file says so.
    pub allowed: Option<BTreeSet<String>>,
    /// Places that orders may name.
    pub remotes: BTreeMap<String, Remote>,
    /// Machines that somebody else made.
    pub machines: Vec<KnownMachine>,
    /// What a person has to do, a command each where there is one.
    pub steps: Vec<String>,
}

impl Report {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self {
            kind,
            findings: Vec::new(),
            settings: Vec::new(),
            credentials: Vec::new(),
            allowed: None,
            remotes: BTreeMap::new(),
            machines: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// How many keys came to this.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    pub(crate) fn say(&mut self, key: &str, verdict: Verdict, text: impl Into<String>) {
        let mut text = text.into();
        if text.len() > MAX_TEXT {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
            text.push_str("...");
        }
        self.findings.push(Finding { key: key.to_owned(), verdict, text });
    }

    pub(crate) fn understood(&mut self, key: &str, text: impl Into<String>) {
        self.say(key, Verdict::Understood, text);
    }

    pub(crate) fn refused(&mut self, key: &str, text: impl Into<String>) {
        self.say(key, Verdict::Refused, text);
    }

    pub(crate) fn absent(&mut self, key: &str, text: impl Into<String>) {
        self.say(key, Verdict::NotApplicable, text);
    }

    /// A key that becomes one of the hub's configuration.
    pub(crate) fn set(&mut self, key: &str, to: &str, value: impl Into<String>) {
        let value = value.into();
        self.understood(key, format!("{to} = {value:?}"));
        self.setting(key, to, value);
    }

    /// A setting that belongs to a finding that is there already.
    pub(crate) fn setting(&mut self, key: &str, to: &str, value: impl Into<String>) {
        self.settings.push(Setting { key: to.to_owned(), value: value.into(), from: key.to_owned() });
    }

    /// A key that nobody knows, with all that is below it.
    pub(crate) fn unknown(&mut self, key: &str, known: &[&str], value: &Value) {
        let last = key.rsplit('.').next().unwrap_or(key);
        let mut text = match nearest(last, known) {
            Some(near) => format!("nothing is known of it; did you mean {near}?"),
            None => "nothing is known of it".to_owned(),
        };
        if let Value::Object(inner) = value {
            text.push_str(&format!(", and its {} keys are not looked at", inner.len()));
        }
        self.say(key, Verdict::Unknown, text);
    }

    /// A key that has another kind of value.
    pub(crate) fn wrong(&mut self, key: &str, expected: &str) {
        self.refused(key, format!("{expected} was expected; write it so and import again"));
    }

    /// Regions of a provider, where it has a key for them.
    pub(crate) fn regions(&mut self, key: &str, provider: &str, value: &str) {
        match regions_key(provider) {
            Some(to) => self.set(key, to, value),
            None => self.absent(key, format!("the provider {provider} has no key for regions")),
        }
    }

    /// Keeps the last of several settings of one key, and says so of the others; regions are put together.
    pub(crate) fn finish(&mut self) {
        let (mut kept, mut replaced): (Vec<Setting>, Vec<(Setting, String)>) = (Vec::new(), Vec::new());
        let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for mut setting in std::mem::take(&mut self.settings) {
            let is_list = LISTS.iter().any(|ending| setting.key.ends_with(ending));
            let other = kept.iter_mut().find(|other| other.key == setting.key);
            if is_list {
                let seen = parts.entry(setting.key.clone()).or_default();
                let new = setting.value.split(',').map(str::trim);
                let new: Vec<&str> =
                    new.filter(|one| !one.is_empty() && seen.insert((*one).to_owned())).collect();
                let new = new.join(",");
                match other {
                    Some(_) if new.is_empty() => {}
                    Some(other) => {
                        other.value.push(',');
                        other.value.push_str(&new);
                    }
                    None => {
                        setting.value = new;
                        kept.push(setting);
                    }
                }
                continue;
            }
            match other {
                Some(other) if other.value == setting.value => {}
                Some(other) => {
                    let counts = setting.from.clone();
                    replaced.push((std::mem::replace(other, setting), counts));
                }
                None => kept.push(setting),
            }
        }
        self.settings = kept;
        self.replaced(&replaced);
    }

    /// Says of settings that others have taken their places.
    fn replaced(&mut self, replaced: &[(Setting, String)]) {
        let mut places: BTreeMap<String, VecDeque<usize>> = BTreeMap::new();
        if !replaced.is_empty() {
            for (finding, at) in self.findings.iter().zip(0usize..) {
                places.entry(finding.key.clone()).or_default().push_back(at);
            }
        }
        for (setting, counts) in replaced {
            let Some(places) = places.get_mut(&setting.from) else { continue };
            // A name that stands there several times has a finding each, in the order of their settings.
            let at = if places.len() > 1 { places.pop_front() } else { places.front().copied() };
            let Some(finding) = at.and_then(|at| self.findings.get_mut(at)) else { continue };
            let said = format!("{} is set by {counts}, too, which counts", setting.key);
            if finding.text.starts_with(&format!("{} = ", setting.key)) {
                finding.verdict = Verdict::Refused;
                finding.text = said;
            } else {
                finding.text.push_str(&format!("; {said}"));
            }
        }
    }
}

/// Endings of keys of which several values make one list.
const LISTS: [&str; 3] = [".regions", ".zones", ".facilities"];

/// A value that is no secret, for a text: short and of one line.
pub(crate) fn shown(value: &str) -> String {
    let short: String = value.chars().take(MAX_SHOWN).collect();
    if short.len() < value.len() { format!("{short:?}...") } else { format!("{short:?}") }
}
