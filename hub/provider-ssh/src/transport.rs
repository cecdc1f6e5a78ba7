//! Runs scripts on hosts through OpenSSH's client, one connection for each.
//!
//! Invariants:
//! - a script and what it holds go over standard input, and never stand among arguments;
//! - a host is known by its pinned key alone, which is written to a file of its own before each connection;
//! - time and output of every connection are bounded.

mod arguments;
mod said;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use blueprint_common_types::Secret;
use tokio::fs;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use self::arguments::{CONNECT_SECS, Role, arguments, known_host};
use self::said::{Ending, judge};
use crate::error::HostError;
use crate::inventory::{Door, OwnHost};
use crate::key::{HostKey, Pin};
use crate::scan;

pub(crate) use self::said::Said;

/// Most bytes of an answer that are read.
const MAX_OUTPUT: u64 = 64 * 1024;

/// What every script begins with.
const PRELUDE: &str = include_str!("scripts/prelude.sh");

/// A way to hosts.
#[derive(Debug)]
pub(crate) struct Ssh {
    /// Where files of known hosts are kept, one for each host.
    known_hosts: PathBuf,
    /// Keys that were found to fingerprints: a key that has the fingerprint is the one that was meant, for ever.
    found: Mutex<BTreeMap<String, HostKey>>,
}

impl Ssh {
    /// One that keeps files of known hosts in `folder`, which it makes.
    pub(crate) const fn new(folder: PathBuf) -> Self {
        Self { known_hosts: folder, found: Mutex::new(BTreeMap::new()) }
    }

    /// Runs a script on a host, as root where `as_root`, and gives what it said.
    pub(crate) async fn run(
        &self,
        host: &OwnHost,
        script: &Secret<String>,
        as_root: bool,
        within: Duration,
    ) -> Result<Said, HostError> {
        let key = self.key(&host.door).await?;
        let jump_key = match &host.jump {
            Some(jump) => Some(self.key(jump).await?),
            None => None,
        };
        let mut known = known_host(Role::Host, &host.door, &key);
        if let (Some(jump), Some(key)) = (&host.jump, &jump_key) {
            known.push_str(&known_host(Role::Jump, jump, key));
        }
        self.write_known(host.name(), &known).await?;
        let arguments = arguments(host, (&key, jump_key.as_ref()), host.name(), as_root);
        let input = Secret::new(format!("{PRELUDE}\n{}", script.expose()));
        let ending = self.start("ssh", &arguments, &input, within).await?;
        judge(ending, &host.door.user, as_root)
    }

    /// The key of a door: that of the inventory, or the one with its fingerprint that the host shows.
    async fn key(&self, door: &Door) -> Result<HostKey, HostError> {
        let fingerprint = match &door.pin {
            Pin::Key(key) => return Ok(key.clone()),
            Pin::Fingerprint(text) => text,
        };
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(fingerprint).cloned();
        if let Some(key) = known {
            return Ok(key);
        }
        let keys = scan::keys(&door.address, door.port).await?;
        let key = keys.into_iter().find(|key| door.pin.is_of(key)).ok_or(HostError::HostKey)?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint.clone(), key.clone());
        Ok(key)
    }

    async fn write_known(&self, name: &str, text: &str) -> Result<(), HostError> {
        let file = self.known_hosts.join(name);
        let failed = |error| HostError::State { what: file.display().to_string(), error };
        if fs::read_to_string(&file).await.is_ok_and(|known| known == text) {
            return Ok(());
        }
        fs::create_dir_all(&self.known_hosts).await.map_err(failed)?;
        let part = self.known_hosts.join(format!("{name}.part"));
        fs::write(&part, text).await.map_err(failed)?;
        fs::rename(&part, &file).await.map_err(failed)
    }

    async fn start(
        &self,
        program: &'static str,
        arguments: &[String],
        input: &Secret<String>,
        within: Duration,
    ) -> Result<Ending, HostError> {
        let mut command = Command::new(program);
        // The name of the file of known hosts is taken from here, so that no path of the hub's is read as anything else.
        command.args(arguments).current_dir(&self.known_hosts);
        run(command, program, input, within).await
    }
}

/// Runs a program with `input` to its end, or to the end of its time.
pub(crate) async fn run(
    mut command: Command,
    program: &'static str,
    input: &Secret<String>,
    within: Duration,
) -> Result<Ending, HostError> {
    let no_client = |error| HostError::NoClient { program, error };
    let mut child = command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(no_client)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A client that gave up has closed it, and says why itself.
            let _ = stdin.write_all(input.expose().as_bytes()).await;
            let _ = stdin.shutdown().await;
        }
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let all = async {
        let ((), out_read, err_read) = tokio::join!(write, read(stdout, &mut out), read(stderr, &mut err));
        out_read.and(err_read)?;
        child.wait().await
    };
    let ended = timeout(within, all).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = match ended {
        Ok(Ok(status)) => Some(status.code().unwrap_or(255)),
        Ok(Err(error)) => return Err(no_client(error)),
        Err(_) => None,
    };
    Ok(Ending { code, out: text(&out), err: text(&err), within_secs: within.as_secs() })
}

/// Longest time that a connection takes to come up or to fail, and what is said over it some seconds more.
pub(crate) const PROBE_WITHIN: Duration = Duration::from_secs(CONNECT_SECS + 3);

async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    (&mut from).take(MAX_OUTPUT).read_to_end(into).await?;
    // What is longer is left: its writer ends at the closed pipe.
    Ok(())
}

#[cfg(test)]
mod tests;
