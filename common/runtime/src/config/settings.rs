//! Loaded values, and how parts take them.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

use super::Problems;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File(PathBuf),
    Env(String),
    Flag,
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A value as text, and where it was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// One value as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The key.
    pub key: String,
    /// Its value as text; empty where nothing sets it.
    pub value: String,
    /// `default`, `file PATH`, `env NAME` or `flag`; `unset` where nothing sets it.
    pub origin: String,
}

/// Loaded values, of the whole configuration or of one row of a repeated table.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What stands before a key in a problem: `service[0].` in a row.
    pub(super) prefix: String,
    /// Every known key, in the order of the schema.
    pub(super) keys: Vec<&'static str>,
    pub(super) values: BTreeMap<&'static str, Value>,
    pub(super) rows: BTreeMap<&'static str, Vec<Self>>,
}

impl Settings {
    /// Takes the value of `path`; a missing or unusable one is a problem with key, value, origin and reason.
    ///
    /// An empty text counts as missing, as in [`Settings::take_optional`].
    pub fn take<T>(&self, path: &str, problems: &mut Problems) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        if self.text(path).is_none() {
            problems.add(self.full(path), "is required and not set");
            return None;
        }
        self.take_optional(path, problems)
    }

    /// Takes the value of `path` where it is set; an unusable one is a problem, a missing or empty one is `None`.
    pub fn take_optional<T>(&self, path: &str, problems: &mut Problems) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        debug_assert!(self.keys.contains(&path), "{path} is not in the schema");
        let value = self.values.get(path).filter(|value| !value.text.is_empty())?;
        match value.text.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                problems.add(self.full(path), format!("{:?} ({}): {error}", value.text, value.origin));
                None
            }
        }
    }

    /// Takes the value of `path` and refuses one outside `range`.
    pub fn take_within<T>(&self, path: &str, range: RangeInclusive<T>, problems: &mut Problems) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
        T::Err: Display,
    {
        let taken: T = self.take(path, problems)?;
        if range.contains(&taken) {
            return Some(taken);
        }
        let why = format!("not within {} and {}", range.start(), range.end());
        self.refuse(path, &why, problems);
        None
    }

    /// Notes that the value of `path` was parsed but cannot be used, with its origin.
    pub fn refuse(&self, path: &str, why: &str, problems: &mut Problems) {
        match self.values.get(path) {
            Some(value) => {
                problems.add(self.full(path), format!("{:?} ({}): {why}", value.text, value.origin));
            }
            None => problems.add(self.full(path), why),
        }
    }

    /// The text of `path`, where it is set and not empty.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.values.get(path).map(|value| value.text.as_str()).filter(|text| !text.is_empty())
    }

    /// Whether something else than the default sets `path`.
    #[must_use]
    pub fn is_set(&self, path: &str) -> bool {
        self.values.get(path).is_some_and(|value| value.origin != Origin::Default)
    }

    /// The rows of the repeated table `name`, in their order; problems of a row name it as `name[0].key`.
    #[must_use]
    pub fn rows(&self, name: &str) -> Vec<Self> {
        self.rows.get(name).cloned().unwrap_or_default()
    }

    /// Every key with its value and origin, in the order of the schema, then the rows.
    #[must_use]
    pub fn show(&self) -> Vec<Shown> {
        let own = self.keys.iter().map(|path| {
            let value = self.values.get(path);
            Shown {
                key: self.full(path),
                value: value.map(|value| value.text.clone()).unwrap_or_default(),
                origin: value.map_or_else(|| "unset".to_owned(), |value| value.origin.to_string()),
            }
        });
        own.chain(self.rows.values().flatten().flat_map(Self::show)).collect()
    }

    /// The key with what stands before it.
    pub(super) fn full(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}
