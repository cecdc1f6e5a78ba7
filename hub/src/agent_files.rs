//! Programs of the agent that new machines fetch from this hub.
//!
//! They are copied into the state folder at the start and named by their digest: what a machine was told to fetch
//! stays what it was, also while the hub's own programs are replaced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use blueprint_common_types::workload::Sha256Digest;
use blueprint_hub_bootstrap_core::{AgentArch, AgentFile};
use blueprint_hub_registry::{AgentFiles, PushedFile};
use futures_util::future::{BoxFuture, FutureExt};
use ring::digest;
use tracing::{info, warn};

/// Name of the folder in the state folder.
const FOLDER: &str = "agents";

/// Largest program that is taken for an agent, in bytes.
const MAX_BYTES: u64 = 512 << 20;

/// How long a program is kept that the hub does not name any more: longer than the tokens of machines that were told of it.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The programs that the hub holds.
#[derive(Debug)]
pub(crate) struct AgentShelf {
    folder: PathBuf,
    files: BTreeMap<AgentArch, AgentFile>,
}

impl AgentShelf {
    /// A shelf that holds nothing, for hubs that order no machines.
    pub(crate) fn none(state: &Path) -> Self {
        Self { folder: state.join(FOLDER), files: BTreeMap::new() }
    }

    /// Takes the agents out of `from`, and the one at `own` where none of them is for its processor.
    ///
    /// # Errors
    ///
    /// Where a file in `from` is no agent, two are for one processor, or something cannot be read or copied.
    pub(crate) fn open(state: &Path, from: Option<&Path>, own: Option<&Path>) -> Result<Self> {
        let mut shelf = Self::none(state);
        fs::create_dir_all(&shelf.folder)
            .with_context(|| format!("cannot make {}", shelf.folder.display()))?;
        if let Some(from) = from {
            let failed = || format!("cannot read bootstrap.agents, the folder {}", from.display());
            for entry in fs::read_dir(from).with_context(failed)? {
                let path = entry.with_context(failed)?.path();
                let file = shelf.take(&path)?;
                if let Some(other) = shelf.files.insert(file.arch, file) {
                    bail!("bootstrap.agents holds two agents for {}; leave one of them there", other.arch);
                }
            }
        }
        if let Some(own) = own {
            let file = shelf.take(own)?;
            shelf.files.entry(file.arch).or_insert(file);
        }
        for file in shelf.files.values() {
            let (arch, sha256, is_static) = (file.arch, file.sha256, file.is_static);
            info!(%arch, %sha256, is_static, "agent for new machines");
            if !file.is_static {
                warn!(%arch, "this agent needs a C library at least as new as that of the machine that it was built on");
            }
        }
        shelf.forget();
        Ok(shelf)
    }

    /// Digests by processor.
    pub(crate) fn digests(&self) -> BTreeMap<AgentArch, Sha256Digest> {
        self.files.iter().map(|(arch, file)| (*arch, file.sha256)).collect()
    }

    /// The programs themselves: for which processor, where each lies, and whether it needs nothing but the kernel.
    #[cfg(feature = "provider-docker")]
    pub(crate) fn programs(&self) -> impl Iterator<Item = (AgentArch, PathBuf, bool)> {
        self.files.values().map(|file| (file.arch, self.path(file.sha256), file.is_static))
    }

    /// Reads one, and copies it under its digest.
    fn take(&self, path: &Path) -> Result<AgentFile> {
        let failed = || format!("cannot use {} as an agent", path.display());
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
            .with_context(failed)?;
        let (arch, is_static) = AgentArch::of_elf(&bytes).with_context(failed)?;
        let sha256 = digest::digest(&digest::SHA256, &bytes);
        let sha256: [u8; 32] = sha256.as_ref().try_into().with_context(failed)?;
        let sha256 = Sha256Digest::from_bytes(sha256);
        let part = self.folder.join(format!("{sha256}.part"));
        let mut copy = File::create(&part).with_context(failed)?;
        copy.write_all(&bytes).and_then(|()| copy.sync_all()).with_context(failed)?;
        fs::rename(&part, self.path(sha256)).with_context(failed)?;
        let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(AgentFile { arch, sha256, bytes, is_static })
    }

    fn path(&self, sha256: Sha256Digest) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    /// Removes programs of earlier starts that no machine can be about to fetch: a day after the first start that did not
    /// name them.
    fn forget(&self) {
        let named: Vec<_> = self.files.values().map(|file| self.path(file.sha256)).collect();
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let paths: Vec<_> = entries.filter(|path| path.extension().is_none()).collect();
        for path in paths {
            let marker = path.with_extension("old");
            let forgotten = if named.contains(&path) {
                remove_if_there(&marker)
            } else {
                let age = fs::metadata(&marker).and_then(|about| about.modified()).ok();
                match age.and_then(|time| SystemTime::now().duration_since(time).ok()) {
                    None if marker.exists() => Ok(()),
                    None => fs::write(&marker, ""),
                    Some(age) if age > KEPT => fs::remove_file(&path).and_then(|()| fs::remove_file(&marker)),
                    Some(_) => Ok(()),
                }
            };
            if let Err(error) = forgotten {
                warn!(file = %path.display(), %error, "an old agent was not removed");
            }
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl AgentFiles for AgentShelf {
    fn open(&self, sha256: Sha256Digest) -> BoxFuture<'_, io::Result<Option<(u64, PushedFile)>>> {
        async move {
            let file = match tokio::fs::File::open(self.path(sha256)).await {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let length = file.metadata().await?.len();
            let file: PushedFile = Box::new(file);
            Ok(Some((length, file)))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn agents_are_taken_by_processor_and_served_by_digest() {
        let (state, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let own = std::env::current_exe().unwrap();
        let shelf = AgentShelf::open(state.path(), None, Some(&own)).unwrap();
        let digests = shelf.digests();
        let (arch, sha256) = digests.first_key_value().unwrap();
        assert_eq!(arch.as_str(), std::env::consts::ARCH);
        let (length, mut file) = AgentFiles::open(&shelf, *sha256).await.unwrap().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, fs::read(&own).unwrap());
        assert_eq!(length, u64::try_from(bytes.len()).unwrap());
        let other = Sha256Digest::from_bytes([7; 32]);
        assert!(AgentFiles::open(&shelf, other).await.unwrap().is_none());

        // One of an earlier start is kept for the machines that were told of it.
        let earlier = state.path().join("agents").join(other.to_string());
        fs::write(&earlier, "earlier").unwrap();
        drop(AgentShelf::open(state.path(), None, Some(&own)).unwrap());
        assert!(earlier.exists() && earlier.with_extension("old").exists());
        let long_ago = SystemTime::now() - 2 * KEPT;
        File::options()
            .write(true)
            .open(earlier.with_extension("old"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        drop(AgentShelf::open(state.path(), None, Some(&own)).unwrap());
        assert!(!earlier.exists() && !earlier.with_extension("old").exists());

        fs::write(from.path().join("agent"), "#!/bin/sh").unwrap();
        let error = AgentShelf::open(state.path(), Some(from.path()), None).unwrap_err();
        assert!(format!("{error:#}").contains("no program for 64-bit Linux"), "{error:#}");
        fs::copy(&own, from.path().join("agent")).unwrap();
        fs::copy(&own, from.path().join("another")).unwrap();
        let error = AgentShelf::open(state.path(), Some(from.path()), None).unwrap_err();
        assert!(error.to_string().contains("two agents for"), "{error:#}");
    }
}
