//! Where downloaded bytes go: hashed and written by a thread of their own, into a file without a name.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use blueprint_common_types::workload::{Blake3Digest, Sha256Digest};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::ArtefactError;
use super::cache::{Cache, Temporary};

/// Chunks, of at most some 100 KiB, that wait for the disk.
const WAITING: usize = 8;

/// A whole download. The file is removed with it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) file: File,
    pub(super) temporary: Temporary,
    pub(super) bytes: u64,
    pub(super) sha256: Sha256Digest,
    pub(super) blake3: Blake3Digest,
}

/// Takes a download. Dropping it removes what came.
#[derive(Debug)]
pub(super) struct Sink {
    chunks: mpsc::Sender<Bytes>,
    /// Until its end was seen.
    writer: Option<JoinHandle<Result<Part, ArtefactError>>>,
    bytes: u64,
    limit: u64,
    url: String,
}

impl Sink {
    /// An empty file in the cache for at most `limit` bytes.
    pub(super) fn new(cache: &Cache, url: String, limit: u64) -> Result<Self, ArtefactError> {
        let (file, temporary) = cache.new_file()?;
        let folder = cache.folder().to_owned();
        let (chunks, receiver) = mpsc::channel(WAITING);
        let writer = tokio::task::spawn_blocking(move || write(file, temporary, folder, receiver));
        Ok(Self { chunks, writer: Some(writer), bytes: 0, limit, url })
    }

    /// Bytes that were taken.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes more bytes.
    ///
    /// # Cancel safety
    ///
    /// The bytes may be lost, so the sink is to be dropped, too.
    pub(super) async fn push(&mut self, chunk: Bytes) -> Result<(), ArtefactError> {
        self.bytes = self.bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        if self.bytes > self.limit {
            return Err(ArtefactError::TooLarge { url: self.url.clone(), limit: self.limit });
        }
        if self.chunks.send(chunk).await.is_ok() {
            return Ok(());
        }
        // The writer ended, so it failed; it is not asked again.
        let stopped = || ArtefactError::Stopped { url: self.url.clone() };
        let writer = self.writer.take().ok_or_else(stopped)?;
        Err(writer.await.ok().and_then(Result::err).unwrap_or_else(stopped))
    }

    /// Waits until all is written.
    pub(super) async fn finish(self) -> Result<Part, ArtefactError> {
        drop(self.chunks);
        let stopped = ArtefactError::Stopped { url: self.url };
        match self.writer {
            Some(writer) => writer.await.unwrap_or(Err(stopped)),
            None => Err(stopped),
        }
    }

    /// Removes what came, and waits until it is gone.
    pub(super) async fn abandon(self) {
        drop(self.finish().await);
    }
}

fn write(
    mut file: File,
    temporary: Temporary,
    folder: PathBuf,
    mut chunks: mpsc::Receiver<Bytes>,
) -> Result<Part, ArtefactError> {
    let (mut sha256, mut blake3, mut bytes) = (Sha256::new(), blake3::Hasher::new(), 0u64);
    while let Some(chunk) = chunks.blocking_recv() {
        let written = file.write_all(&chunk);
        written.map_err(|why: io::Error| super::disk_error("write", &folder.join("file"), why))?;
        sha256.update(&chunk);
        blake3.update(&chunk);
        bytes = bytes.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
    }
    Ok(Part {
        file,
        temporary,
        bytes,
        sha256: Sha256Digest::from_bytes(sha256.finalize().into()),
        blake3: Blake3Digest::from_bytes(*blake3.finalize().as_bytes()),
    })
}
