//! Configuration from one TOML file, the environment and flags, checked whole.
//!
//! A program says once which keys exist ([`Schema`]); from that come the loading, the refusal of unknown names, the
//! printed default file and the page of the manual. Invariants:
//! - a flag outranks the environment, which outranks the file, which outranks the default;
//! - every problem is found in one run and names its key;
//! - values are text until a part takes them, so an origin is known for each.

mod document;
mod load;
mod nearest;
mod problems;
mod settings;
mod value;

use std::path::PathBuf;

pub use problems::{ConfigError, Problem, Problems};
pub use settings::{Settings, Shown};
pub use value::{ByteSize, List, ParseValueError, Span};

/// One key that may be set.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name with its sections, `tunnel.listen` for example; within a [`TableArray`] the name in the row.
    pub path: &'static str,
    /// The value where nothing sets it, as text: `15m`, `1420`, `true`, `["a", "b"]`.
    pub default: Option<&'static str>,
    /// What it is, with unit and bounds; one or more lines of plain text.
    pub help: &'static str,
}

impl Key {
    /// Makes a key with a default.
    #[must_use]
    pub const fn new(path: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { path, default: Some(default), help }
    }

    /// Makes a key without a default: required, or optional, as the part that takes it decides.
    #[must_use]
    pub const fn unset(path: &'static str, help: &'static str) -> Self {
        Self { path, default: None, help }
    }
}

/// A table that may stand in the file any number of times: `[[service]]`. Only the file can set it.
#[derive(Debug, Clone, Copy)]
pub struct TableArray {
    /// Its name.
    pub name: &'static str,
    /// The keys of one row.
    pub keys: &'static [Key],
}

/// Every key of one program.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// The program, for the head of the default file.
    pub program: &'static str,
    /// Beginning of the names of its environment variables, without the `_` after it.
    pub env_prefix: &'static str,
    /// Keys that exist once.
    pub keys: &'static [Key],
    /// Tables that may be repeated.
    pub tables: &'static [TableArray],
}

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file; a path that is given must exist.
    pub file: Option<PathBuf>,
    /// Environment variables, of which those with the prefix count.
    pub env: Vec<(String, String)>,
    /// Key and value of each `--set key=value`, and of the flags that stand for a key; the last of a key counts.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// Takes the environment of this process, without the variables `except`, which the command line reads itself.
    ///
    /// A variable that is not UTF-8 is taken with its broken parts replaced.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, flags: Vec<(String, String)>, except: &[&str]) -> Self {
        let env = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| !except.contains(&name.as_str()))
            .collect();
        Self { file, env, flags }
    }
}

impl Schema {
    /// Loads all sources; what cannot be used is a problem, and the rest is there.
    ///
    /// The values themselves are checked as they are taken, into the same [`Problems`].
    #[must_use]
    pub fn load(&self, sources: &Sources) -> (Settings, Problems) {
        load::load(self, sources)
    }

    /// Name of the environment variable of the key at `path`.
    #[must_use]
    pub fn env_name(&self, path: &str) -> String {
        format!("{}_{}", self.env_prefix, path.replace(['.', '-'], "_").to_uppercase())
    }

    /// A file with every key at its default and its help as a comment; keys without a default are commented out.
    #[must_use]
    pub fn default_toml(&self) -> String {
        document::default_toml(self)
    }

    /// The manual's page: every key with its default, its environment variable and its help.
    #[must_use]
    pub fn markdown(&self) -> String {
        document::markdown(self)
    }
}

#[cfg(test)]
mod tests;
