//! Artefacts from real servers on loopback, into real folders.

mod archives;
mod builders;
mod downloads;
mod folder;
mod server;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use blueprint_tests_support::eventually;
use tempfile::TempDir;

use super::*;
use client::Patience;
use server::{Server, file};

/// A program for this machine: it says nothing and succeeds.
const SCRIPT: &[u8] = b"#!/bin/sh\nexit 0\n";

fn sha256(bytes: &[u8]) -> Sha256Digest {
    use sha2::{Digest, Sha256};
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Starts a program and says whether it succeeded. While another test starts something, that may for a moment have
/// inherited the open file, and the system refuses to run it ("text file busy").
fn runs(program: &Path) -> bool {
    let start = || match std::process::Command::new(program).status() {
        Ok(status) => Some(status.success()),
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
        Err(error) => panic!("{error}"),
    };
    eventually(Duration::from_secs(10), "the program can be run", start).unwrap()
}

/// A cache in a folder of its own.
struct Bed {
    folder: TempDir,
    config: ArtefactConfig,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = ArtefactConfig::new(folder.path().join("cache"));
        Self { folder, config }
    }

    /// Opens the cache.
    fn open(&self) -> Artefacts {
        self.open_with(Duration::from_secs(20))
    }

    /// Opens the cache for a test in which a server falls silent.
    fn open_hasty(&self) -> Artefacts {
        self.open_with(Duration::from_millis(500))
    }

    fn open_with(&self, within: Duration) -> Artefacts {
        let patience =
            Patience { head: within, silence: within, pause: Duration::ZERO, ..Patience::default() };
        Artefacts::with_patience(self.config.clone(), patience).unwrap()
    }

    /// What is in the cache, but its lock.
    fn content(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path().join("cache")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }

    /// Fetches `bytes` from a server that has them, with their right digest.
    async fn take(&self, bytes: &[u8], binary: &str) -> Result<Artefact, ArtefactError> {
        let server = Server::start(file(bytes.to_vec()));
        get(&self.open(), &server.url("/file"), bytes, binary).await
    }

    /// As [`Self::take`], where that has to fail and leave nothing.
    async fn refuse(&self, bytes: &[u8], binary: &str) -> ArtefactError {
        let error = self.take(bytes, binary).await.unwrap_err();
        assert_eq!(self.content(), [""; 0], "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        error
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Without root a read-only folder can only be removed like this.
        let _ = cache::remove(&self.folder.path().join("cache"));
    }
}

async fn get(
    artefacts: &Artefacts,
    url: &str,
    expected: &[u8],
    binary: &str,
) -> Result<Artefact, ArtefactError> {
    let sha256 = sha256(expected);
    let source = NativeArtefact { url, sha256: &sha256, blake3: None, binary };
    artefacts.get(&source, |_| ()).await
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
