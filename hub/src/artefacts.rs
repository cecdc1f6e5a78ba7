//! Artefacts that were pushed: a file each, below the state folder, named by its SHA-256.
//!
//! - What has its final name is whole, right and on disk; a push that fails or is cut off leaves nothing.
//! - The bounds hold for what is on its way, too: its bytes are counted before they are written.
//! - A push and a fetch hold one piece at a time in memory.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use blueprint_common_types::Timestamp;
use blueprint_common_types::workload::Sha256Digest;
use blueprint_hub_admin::{ArtefactBody, ArtefactLimits, ArtefactShelf, ArtefactView, PushError};
use blueprint_hub_registry::{PushedFile, PushedFiles};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use ring::digest;
use tokio::fs::{self, File};
use tokio::io::{AsyncSeekExt, AsyncWriteExt, SeekFrom};
use tracing::warn;

/// Name of the folder in the state folder.
const FOLDER: &str = "artefacts";

/// What the name of a file ends in that is not whole.
const PART: &str = ".part";

/// A push that brings no byte for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

/// What is there, and what is on its way.
#[derive(Debug, Default)]
struct Held {
    files: BTreeMap<Sha256Digest, ArtefactView>,
    /// Bytes of pushes that are under way: as many as they named, or as came.
    under_way: u64,
    /// Number of the next push.
    next: u64,
}

impl Held {
    fn taken(&self) -> u64 {
        self.files.values().map(|file| file.bytes).fold(self.under_way, u64::saturating_add)
    }
}

/// The pushed artefacts of one hub.
#[derive(Debug)]
pub(crate) struct Artefacts {
    folder: PathBuf,
    limits: ArtefactLimits,
    silence: Duration,
    held: Arc<Mutex<Held>>,
}

impl Artefacts {
    /// Makes the folder, removes what was not finished, and counts what is there.
    pub(crate) fn open(state: &Path, limits: ArtefactLimits) -> Result<Self> {
        let folder = state.join(FOLDER);
        let failed = || format!("cannot use {}", folder.display());
        private_folder(&folder).with_context(failed)?;
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&folder).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(PART) {
                std::fs::remove_file(entry.path()).with_context(failed)?;
                continue;
            }
            let about = entry.metadata().with_context(failed)?;
            let Ok(sha256) = name.parse::<Sha256Digest>() else {
                warn!(file = %entry.path().display(), "a file among the artefacts that is none");
                continue;
            };
            let pushed_at = Timestamp::from(about.modified().unwrap_or(SystemTime::UNIX_EPOCH));
            files.insert(sha256, ArtefactView { sha256, bytes: about.len(), pushed_at });
        }
        let held = Arc::new(Mutex::new(Held { files, ..Held::default() }));
        Ok(Self { folder, limits, silence: SILENCE, held })
    }

    fn path(&self, sha256: Sha256Digest) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    async fn take(
        &self,
        sha256: Sha256Digest,
        length: Option<u64>,
        body: &mut ArtefactBody,
    ) -> Result<(ArtefactView, bool), PushError> {
        if let Some(view) = self.held.lock().files.get(&sha256) {
            return Ok((*view, false));
        }
        let mut room = Room { held: Arc::clone(&self.held), limits: self.limits, reserved: 0 };
        room.grow(length.unwrap_or(0))?;
        let number = {
            let mut held = self.held.lock();
            held.next = held.next.wrapping_add(1);
            held.next
        };
        let (part, file) = Part::make(self.folder.join(format!("{number}{PART}"))).await?;
        let mut file = File::from_std(file);
        let (found, bytes) = receive(&mut file, &mut room, body, self.silence).await?;
        if found != sha256 {
            return Err(PushError::Digest { found, bytes });
        }
        file.flush().await.map_err(|error| disk("write", error))?;
        file.sync_all().await.map_err(|error| disk("write", error))?;
        drop(file);
        fs::rename(&part.path, self.path(sha256)).await.map_err(|error| disk("name", error))?;
        let view = ArtefactView { sha256, bytes, pushed_at: SystemTime::now().into() };
        // Two pushes of one file end in one file.
        self.held.lock().files.insert(sha256, view);
        let folder = File::open(&self.folder).await.map_err(|error| disk("name", error))?;
        folder.sync_all().await.map_err(|error| disk("name", error))?;
        Ok((view, true))
    }
}

impl ArtefactShelf for Artefacts {
    fn limits(&self) -> ArtefactLimits {
        self.limits
    }

    fn list(&self) -> Vec<ArtefactView> {
        self.held.lock().files.values().copied().collect()
    }

    fn push<'a>(
        &'a self,
        sha256: Sha256Digest,
        length: Option<u64>,
        body: &'a mut ArtefactBody,
    ) -> BoxFuture<'a, Result<(ArtefactView, bool), PushError>> {
        self.take(sha256, length, body).boxed()
    }

    fn remove(&self, sha256: Sha256Digest) -> BoxFuture<'_, io::Result<bool>> {
        async move {
            let is_there = match fs::remove_file(self.path(sha256)).await {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            self.held.lock().files.remove(&sha256);
            Ok(is_there)
        }
        .boxed()
    }
}

impl PushedFiles for Artefacts {
    fn open(&self, sha256: Sha256Digest, offset: u64) -> BoxFuture<'_, io::Result<Option<PushedFile>>> {
        async move {
            let mut file = match File::open(self.path(sha256)).await {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            file.seek(SeekFrom::Start(offset)).await?;
            let file: PushedFile = Box::new(file);
            Ok(Some(file))
        }
        .boxed()
    }
}

/// Writes and hashes what comes, as far as there is room.
async fn receive(
    file: &mut File,
    room: &mut Room,
    body: &mut ArtefactBody,
    silence: Duration,
) -> Result<(Sha256Digest, u64), PushError> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut bytes = 0u64;
    loop {
        let broken = |why: String| PushError::Broken { bytes, why };
        let piece = tokio::time::timeout(silence, body.next()).await;
        let piece = piece.map_err(|_| broken(format!("nothing came for {} s", silence.as_secs())))?;
        let Some(piece) = piece.transpose().map_err(broken)? else { break };
        bytes = bytes.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        room.grow(bytes)?;
        hash.update(&piece);
        file.write_all(&piece).await.map_err(|error| disk("write", error))?;
    }
    Ok((finish(hash), bytes))
}

/// What a hash over all bytes says.
pub(crate) fn finish(hash: digest::Context) -> Sha256Digest {
    let mut found = [0u8; 32];
    for (byte, from) in found.iter_mut().zip(hash.finish().as_ref()) {
        *byte = *from;
    }
    Sha256Digest::from_bytes(found)
}

/// Bytes that a push may take; given back at its end, when what it left is counted as a file.
struct Room {
    held: Arc<Mutex<Held>>,
    limits: ArtefactLimits,
    reserved: u64,
}

impl Room {
    /// Has room for `bytes` in all, or says why not.
    fn grow(&mut self, bytes: u64) -> Result<(), PushError> {
        if bytes > self.limits.one {
            return Err(PushError::TooLarge { limit: self.limits.one });
        }
        let more = bytes.saturating_sub(self.reserved);
        let mut held = self.held.lock();
        let taken = held.taken();
        if taken.saturating_add(more) > self.limits.all {
            return Err(PushError::Full { limit: self.limits.all, taken });
        }
        held.under_way = held.under_way.saturating_add(more);
        self.reserved = self.reserved.saturating_add(more);
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        held.under_way = held.under_way.saturating_sub(self.reserved);
    }
}

/// A file that is not whole; gone with this, unless it got another name.
struct Part {
    path: PathBuf,
}

impl Part {
    /// Makes the file. Where nobody waits for it any more, it goes with the guard that comes back with it.
    async fn make(path: PathBuf) -> Result<(Self, std::fs::File), PushError> {
        let make = move || {
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            Ok((Self { path }, file))
        };
        let made =
            tokio::task::spawn_blocking(make).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        made.map_err(|error| disk("make", error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(file = %self.path.display(), %error, "a part of an artefact is left; the next start removes it");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))
}

fn disk(what: &'static str, source: io::Error) -> PushError {
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return PushError::DiskFull;
    }
    PushError::Disk { what, source }
}

#[cfg(test)]
mod tests;
