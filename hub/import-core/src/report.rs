//! What is said of a file.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::kind::Kind;
use crate::names::nearest;
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

    /// Keeps the last of several settings of one key.
    pub(crate) fn finish(&mut self) {
        let mut kept: Vec<Setting> = Vec::new();
        for setting in std::mem::take(&mut self.settings) {
            match kept.iter_mut().find(|other| other.key == setting.key) {
                Some(other) if is_list(&setting.key) => {
                    let mut all: Vec<&str> = other.value.split(',').collect();
                    all.extend(setting.value.split(','));
                    let mut once: Vec<&str> = Vec::new();
                    for one in all {
                        if !once.contains(&one) {
                            once.push(one);
                        }
                    }
                    other.value = once.join(",");
                }
                Some(other) => *other = setting,
                None => kept.push(setting),
            }
        }
        self.settings = kept;
    }
}

/// Whether several values of this key make one list.
fn is_list(key: &str) -> bool {
    key.ends_with(".regions")
}

/// A value that is no secret, for a text: short and of one line.
pub(crate) fn shown(value: &str) -> String {
    let short: String = value.chars().take(MAX_SHOWN).collect();
    if short.len() < value.len() { format!("{short:?}...") } else { format!("{short:?}") }
}
