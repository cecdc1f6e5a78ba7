//! Further plugins, out of a file.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Most plugins of a file: each is a cloud that is listed again and again.
pub const MAX_PLUGINS: usize = 16;

/// Most bytes of a file.
const MAX_BYTES: usize = 64 << 10;

/// What a call of a plugin may take: by default, and at all.
const USUAL: Duration = Duration::from_secs(60);

/// Shortest and longest time of a call that may be configured.
pub const CALL: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(1800);

/// One plugin as its operator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginEntry {
    /// Its name as a provider: `external-` and what the file calls it.
    pub provider: String,
    /// The socket that it serves, in a folder that no other plugin has.
    pub socket: PathBuf,
    /// The program, where the hub is to start it.
    pub program: Option<PathBuf>,
    /// Who it runs as, and may serve the socket.
    pub user: Option<String>,
    /// Longest time of a call.
    pub call_timeout: Duration,
}

/// A file of plugins cannot be used. One line for people each.
#[derive(Debug, thiserror::Error)]
pub enum PluginsError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no such document.
    #[error("{} is no list of plugins: {reason}; docs/plugins.md shows one", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One of its plugins is not usable.
    #[error("{}: plugin {name:?}: {reason}", path.display())]
    Plugin {
        /// The file.
        path: PathBuf,
        /// What the file calls it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugin: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    socket: Option<PathBuf>,
    program: Option<PathBuf>,
    user: Option<String>,
    call_timeout: Option<String>,
}

/// Reads a file of plugins; starts none and connects to none. `taken` is the socket of the plugin `external`, where there is that one.
///
/// # Errors
///
/// [`PluginsError`] for the first thing that is wrong.
pub fn read(path: &Path, taken: Option<&Path>) -> Result<Vec<PluginEntry>, PluginsError> {
    let failed = |source| PluginsError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let wrong = |reason: String| PluginsError::Document { path: path.to_owned(), reason };
    if text.len() > MAX_BYTES {
        return Err(wrong(format!("it has more than {MAX_BYTES} bytes")));
    }
    let file: File = toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))?;
    if file.plugin.is_empty() || file.plugin.len() > MAX_PLUGINS {
        return Err(wrong(format!("it has {} of 1 to {MAX_PLUGINS} entries [[plugin]]", file.plugin.len())));
    }
    let mut names = BTreeSet::new();
    let mut folders: BTreeSet<PathBuf> =
        taken.and_then(Path::parent).map(Path::to_owned).into_iter().collect();
    let mut plugins = Vec::with_capacity(file.plugin.len());
    for row in file.plugin {
        let name = row.name.clone();
        let entry = entry(row, &mut names, &mut folders).map_err(|reason| PluginsError::Plugin {
            path: path.to_owned(),
            name: name.chars().take(64).collect(),
            reason,
        })?;
        plugins.push(entry);
    }
    Ok(plugins)
}

fn entry(
    row: Row,
    names: &mut BTreeSet<String>,
    folders: &mut BTreeSet<PathBuf>,
) -> Result<PluginEntry, String> {
    let Row { name, socket, program, user, call_timeout } = row;
    let is_of_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=32).contains(&name.len())
        && name.bytes().all(is_of_name)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_name {
        return Err("its name is not 1 to 32 of a-z, 0-9 and '-', with no '-' at either end".to_owned());
    }
    if !names.insert(name.clone()) {
        return Err("another plugin has this name, too".to_owned());
    }
    let socket =
        socket.unwrap_or_else(|| PathBuf::from(format!("/run/blueprint-plugin-{name}/provider.sock")));
    for (what, path) in [("socket", Some(&socket)), ("program", program.as_ref())] {
        if path.is_some_and(|path| !path.is_absolute()) {
            return Err(format!("its {what} is not a whole path, one that begins with /"));
        }
    }
    // The folder is the plugin's user's: who has it can put a socket of his own into another's place.
    let folder = socket.parent().map(Path::to_owned).unwrap_or_default();
    if !folders.insert(folder.clone()) {
        return Err(format!(
            "another plugin has its socket in {}, too; give each a folder",
            folder.display()
        ));
    }
    let call_timeout = match call_timeout {
        None => USUAL,
        Some(text) => humantime::parse_duration(&text)
            .ok()
            .filter(|within| CALL.contains(within))
            .ok_or("its call_timeout is not 1s to 30m")?,
    };
    Ok(PluginEntry { provider: format!("external-{name}"), socket, program, user, call_timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Vec<PluginEntry>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins.toml");
        std::fs::write(&path, text).unwrap();
        read(&path, Some(Path::new("/run/main/provider.sock"))).map_err(|error| error.to_string())
    }

    #[test]
    fn plugins_have_names_sockets_and_times_of_their_own() {
        let text = "[[plugin]]\nname = \"rack\"\nprogram = \"/usr/local/bin/rack\"\nuser = \"rack\"\n\
                    [[plugin]]\nname = \"lab-2\"\nsocket = \"/run/lab/p.sock\"\ncall_timeout = \"5m\"\n";
        let plugins = said(text).unwrap();
        let [rack, lab] = plugins.as_slice() else { panic!("{plugins:?}") };
        assert_eq!(rack.provider, "external-rack");
        assert_eq!(rack.socket, Path::new("/run/blueprint-plugin-rack/provider.sock"));
        assert_eq!((rack.call_timeout, rack.user.as_deref()), (USUAL, Some("rack")));
        assert_eq!((lab.provider.as_str(), lab.call_timeout), ("external-lab-2", Duration::from_secs(300)));
        assert!(lab.program.is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let one = |rest: &str| format!("[[plugin]]\nname = \"rack\"\n{rest}");
        for (text, word) in [
            (String::new(), "it has 0 of 1 to 16"),
            ("[[plugin]]\nnmae = 1\n".to_owned(), "no list of plugins"),
            ("[[plugin]]\nname = \"Rack\"\n".to_owned(), "1 to 32 of a-z"),
            ("[[plugin]]\nname = \"-a\"\n".to_owned(), "1 to 32 of a-z"),
            (format!("{0}{0}", one("")), "another plugin has this name"),
            (one("socket = \"p.sock\"\n"), "its socket is not a whole path"),
            (one("program = \"rack\"\n"), "its program is not a whole path"),
            (one("socket = \"/run/main/other.sock\"\n"), "has its socket in /run/main, too"),
            (one("call_timeout = \"0s\"\n"), "not 1s to 30m"),
            (one("call_timeout = \"soon\"\n"), "not 1s to 30m"),
            (one("").repeat(17).replace("rack", "a"), "it has 17 of 1 to 16"),
        ] {
            let said = said(&text).unwrap_err();
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(
            read(Path::new("/nowhere/plugins.toml"), None).unwrap_err().to_string().contains("cannot read")
        );
    }
}
