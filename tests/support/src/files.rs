//! Folders, ports, built programs and running processes of this machine.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;

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

/// A port that was free, for TCP and for UDP on every address of this machine, a moment ago.
///
/// # Errors
///
/// Fails where no such port is found.
pub fn free_port() -> Result<u16> {
    for _ in 0..64 {
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no free port")?;
        let port = tcp.local_addr().context("no free port")?.port();
        if UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free for both TCP and UDP")
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
    fn a_free_port_can_be_bound() {
        let port = free_port().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
