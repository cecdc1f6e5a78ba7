//! The engines of other hosts, as the operator writes them down.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use blueprint_common_engine::{Place, TlsError, TlsFiles};
use blueprint_hub_provision_core::InstanceKey;
use serde::Deserialize;

use crate::cloud::EngineHost;

/// Longest file, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Most engines: every list asks each of them.
const MAX_HOSTS: usize = 256;

/// An inventory cannot be used. One line for people each.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not such a document.
    #[error("{} is no inventory of engines: {reason}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// One host of it is wrong.
    #[error("{}: host {name:?}: {reason}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// What the host is called.
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The files of one host cannot be used.
    #[error("{}: host {name:?}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What the host is called.
        name: String,
        /// Why.
        source: TlsError,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    host: Vec<HostEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: String,
    address: String,
    #[serde(default = "port")]
    port: u16,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

const fn port() -> u16 {
    2376
}

/// Reads an inventory of engines that are called by mutual TLS; connects to none of them. Paths in it begin in its folder where
/// they are not whole.
///
/// # Errors
///
/// [`InventoryError`] for the first thing that is wrong.
pub fn read(path: &Path) -> Result<Vec<EngineHost>, InventoryError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| InventoryError::Read { path: path.to_owned(), source })?;
    let wrong = |reason: String| InventoryError::Document { path: path.to_owned(), reason };
    if text.len() > MAX_BYTES {
        return Err(wrong(format!("it has more than {MAX_BYTES} bytes")));
    }
    let file: File = toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    if file.host.is_empty() || file.host.len() > MAX_HOSTS {
        return Err(wrong(format!("it has {} of 1 to {MAX_HOSTS} entries [[host]]", file.host.len())));
    }
    let mut names = BTreeSet::new();
    let mut hosts = Vec::with_capacity(file.host.len());
    for entry in file.host {
        let refuse = |reason: String| InventoryError::Host {
            path: path.to_owned(),
            name: entry.name.chars().take(64).collect(),
            reason,
        };
        // It is a region, and a part of the names of machines.
        if entry.name.parse::<InstanceKey>().is_err() {
            return Err(refuse("its name is not 1 to 63 of a-z, 0-9 and '-'".to_owned()));
        }
        if !names.insert(entry.name.clone()) {
            return Err(refuse("another host has this name, too".to_owned()));
        }
        let whole = |file: &Path| path.parent().unwrap_or(Path::new("/")).join(file);
        let files = TlsFiles {
            authority: whole(&entry.authority),
            certificate: whole(&entry.certificate),
            key: whole(&entry.key),
        };
        if is_open(&files.key) {
            let key = files.key.display();
            return Err(refuse(format!(
                "others can read {key}, which is root on that host; chmod 600 {key}"
            )));
        }
        let place = Place::tls(&entry.address, entry.port, &files);
        let place = place.map_err(|source| InventoryError::Tls {
            path: path.to_owned(),
            name: entry.name.clone(),
            source,
        })?;
        hosts.push(EngineHost { region: entry.name, place });
    }
    Ok(hosts)
}

/// Whether others than its owner can read a file; one that is not there is told by who reads it.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engines.toml");
        std::fs::write(&path, text).unwrap();
        let key = folder.path().join("open.key");
        std::fs::write(&key, "").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let entry = |name: &str, key: &str| {
            format!(
                "[[host]]\nname = \"{name}\"\naddress = \"192.0.2.7\"\nauthority = \"ca\"\ncertificate = \"c\"\nkey = \"{key}\"\n"
            )
        };
        for (text, word) in [
            (String::new(), "it has 0 of 1 to 256"),
            ("[[host]]\nnmae = 1\n".to_owned(), "no inventory of engines"),
            (entry("Rack", "k"), "its name is not 1 to 63"),
            (entry("rack", "open.key"), "chmod 600"),
            (entry("rack", "k"), "host \"rack\""),
        ] {
            let said = said(&text);
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}
