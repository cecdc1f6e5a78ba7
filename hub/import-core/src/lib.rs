//! What configuration files of the Blueprint Manager's remote mode, and of tools like it, mean to this hub.
//!
//! [`read`] is given a file's name and bytes and says of every key in it what becomes of it: understood, understood and
//! refused, without meaning here, or unknown. What was understood is a set of settings, credentials, remotes and machines that
//! the caller stores. Invariants:
//! - every key of the file is in the report, once;
//! - no text of a report holds a value that may be a secret; secrets are in [`Given`] alone;
//! - no input panics, nests deeper than [`MAX_DEPTH`] or is longer than [`MAX_BYTES`].

mod cloud;
mod csv;
mod expand;
mod format;
mod keys;
mod kind;
mod names;
mod network;
mod operator;
mod policy;
mod remote;
mod remotes;
mod report;
mod secrets;
mod state;
mod yaml;

use expand::Around;
use serde_json::{Map, Value};

pub use expand::Surroundings;
pub use kind::Kind;
pub use names::provider as provider_name;
pub use remote::merged;
pub use remotes::{BadRemotes, MAX_REMOTES, Remote, Remotes};
pub use report::{Finding, Report, Setting, Verdict};
pub use secrets::{Field, Given, Unfit};
pub use state::{KnownMachine, KnownMachines};

/// Longest file in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Deepest nesting of lists and tables.
pub const MAX_DEPTH: usize = 32;

/// Most keys of one file: each is a line of the report.
pub const MAX_KEYS: usize = 100_000;

/// Longest name of a key in bytes: names stand in each line of the report that is below them.
pub const MAX_KEY: usize = 256;

/// Most parts of one list, such as hosts or regions.
pub const MAX_LIST: usize = 1000;

/// Why a file cannot be read at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is longer than any of these files.
    #[error("it has {0} bytes, and at most {MAX_BYTES} are read")]
    TooLong(usize),
    /// It is no text.
    #[error("it is no UTF-8 text")]
    NoText,
    /// It is not in the format that its name or its beginning says.
    #[error("it is no {format}: {why}")]
    Format {
        /// Name of the format.
        format: &'static str,
        /// What is wrong, with its line.
        why: String,
    },
    /// It nests too deeply.
    #[error("it nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// It has too many keys.
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    /// The name of a key is longer than any of these files has.
    #[error("the name of a key has {0} bytes, and at most {MAX_KEY} are read")]
    LongKey(usize),
    /// Nothing in it is known.
    #[error("it is none of the files that are known: {0}")]
    Unknown(String),
}

/// Reads one file. `name` is its name, of which the ending may count; its content says which file it is.
///
/// # Errors
///
/// [`ReadError`] where nothing can be said of it. What is wrong with single keys is in the report.
pub fn read(name: &str, bytes: &[u8], around: &Surroundings<'_>) -> Result<Report, ReadError> {
    if bytes.len() > MAX_BYTES {
        return Err(ReadError::TooLong(bytes.len()));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ReadError::NoText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let content = format::parse(name, text)?;
    let kind = kind::of(&content)?;
    let around = &Around::new(around);
    let mut report = Report::new(kind);
    match &content {
        format::Content::Table(rows) => state::csv(rows, &mut report),
        format::Content::Variables(lines) => secrets::variables(lines, &mut report),
        format::Content::Tree(Value::Object(fields)) => tree(kind, fields, around, &mut report),
        format::Content::Tree(_) => {}
    }
    report.finish();
    Ok(report)
}

fn tree(kind: Kind, fields: &Map<String, Value>, around: &Around<'_>, report: &mut Report) {
    match kind {
        Kind::Manager => {
            let clashes = remote::Clashes::of(fields, around);
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("operator", Value::Object(inner)) => operator::read(inner, report),
                    ("remote" | "providers", Value::Object(inner)) => {
                        remote::read(key, inner, &clashes, around, report);
                    }
                    ("network", Value::Object(inner)) => network::read("network", inner, around, report),
                    ("default_provider", _) => cloud::default_provider(value, report),
                    _ => report.unknown(key, &["operator", "remote", "providers", "network"], value),
                }
            }
        }
        Kind::Policy => policy::read(fields, report),
        Kind::Cloud => cloud::read(fields, report),
        Kind::Preferences => policy::preferences("", fields, report),
        Kind::Credentials => secrets::read(fields, around, report),
        Kind::State => state::read(fields, report),
        Kind::Pricing => cloud::pricing(fields, report),
        Kind::Variables | Kind::Inventory => {}
    }
}
