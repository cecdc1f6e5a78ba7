//! Folders, ports, built programs and running processes of this machine.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A new folder that is removed when dropped; its name starts with `blueprint-test-NAME-`.
///
/// # Errors
///
/// Fails where the temporary folder is not writable.
pub fn scratch(name: &str) -> Result<TempDir> {
    let prefix = format!("blueprint-test-{name}-");
    tempfile::Builder::new().prefix(&prefix).tempdir().context("cannot make a temporary folder")
}

/// Ports that Linux gives to nobody who does not ask for them (`ip_local_port_range` begins at 32768), so that no
/// outgoing connection takes one between this test's look and its use, or while a killed program is away.
const PORTS: RangeInclusive<u16> = 20_000..=32_000;

/// How far the search of this process has come, so that it finds no port twice.
static NEXT_PORT: Mutex<Option<u16>> = Mutex::new(None);

/// A port that was free, for TCP and for UDP on every address of this machine, a moment ago.
///
/// # Errors
///
/// Fails where no such port is found.
pub fn free_port() -> Result<u16> {
    let mut next = NEXT_PORT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in PORTS {
        let port = match *next {
            Some(port) if PORTS.contains(&port) => port,
            Some(_) => *PORTS.start(),
            None => random_port()?,
        };
        *next = port.checked_add(1);
        let is_free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
            && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
        if is_free {
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free for both TCP and UDP", PORTS.start(), PORTS.end())
}

/// Where the search begins: elsewhere in each process, since several look at the same time.
fn random_port() -> Result<u16> {
    let mut bytes = [0; 2];
    blueprint_common_types::fill_random(&mut bytes).context("no randomness for a port")?;
    let count = PORTS.end() - PORTS.start() + 1;
    Ok(PORTS.start() + u16::from_ne_bytes(bytes) % count)
}

/// The built program `name` of this workspace: the one of the profile that the running test was built in.
///
/// `BLUEPRINT_TEST_BIN_DIR` names another folder to look in, to test programs built elsewhere.
///
/// # Errors
///
/// Fails where it is not built; the text says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("BLUEPRINT_TEST_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().context("cannot find the running test")?;
            let deps = own.parent().context("the running test lies in no folder")?;
            let inside_deps = deps.file_name().is_some_and(|name| name == "deps");
            deps.parent().filter(|_| inside_deps).unwrap_or(deps).to_owned()
        }
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is not built: run tests/run, or `cargo build --workspace --bins` first", path.display());
    }
    Ok(path)
}

/// Process ids whose command line contains `text`, such as the path of a state folder; this process is left out.
#[must_use]
pub fn processes_naming(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != std::process::id())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_built_says_how_to_build_it() {
        let error = binary("blueprint-no-such-program").unwrap_err().to_string();
        assert!(error.contains("is not built: run tests/run"), "{error}");
    }

    #[test]
    fn free_ports_can_be_bound_and_are_not_found_twice() {
        let (first, second) = (free_port().unwrap(), free_port().unwrap());
        assert_ne!(first, second);
        for port in [first, second] {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }
}
