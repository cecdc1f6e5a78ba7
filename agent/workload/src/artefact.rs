//! Programs of native workloads: fetched, checked, unpacked and kept in a cache.
//!
//! [`Artefacts::get`] turns a URL and a digest into the path of a program. What an archive may hold and what this
//! machine can run is decided by `blueprint_agent_workload_core::{archive, program}`.
//!
//! - Nothing is unpacked, may be run or has its final name before every digest is right.
//! - What has its final name is whole, on disk and read-only; a crash leaves temporary files alone, which the next
//!   start removes.
//! - What is in use is not removed, and one digest is fetched once at a time.
//! - Hashing, writing and unpacking happen on threads of their own; downloads are bounded in bytes, and in time
//!   without a byte.

mod cache;
mod client;
mod error;
mod fetch;
mod install;
mod locate;
mod pack;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use blueprint_agent_workload_core::archive::ArchiveLimits;
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::workload::{Blake3Digest, Sha256Digest, Source};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncRead;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use cache::{Cache, Hold};
pub use error::{ArtefactError, OpenError, PushedError};
use fetch::Fetcher;
use install::Install;

/// What was pushed to the hub for nodes that reach nothing else.
pub trait Pushed: Send + Sync {
    /// Opens the file of this digest; the digest is checked by the caller.
    fn open<'a>(
        &'a self,
        sha256: &'a Sha256Digest,
    ) -> BoxFuture<'a, Result<Box<dyn AsyncRead + Send + Unpin>, PushedError>>;
}

/// Where artefacts come from, where they are kept, and how large they may be.
#[derive(Clone)]
pub struct ArtefactConfig {
    /// Folder of the cache, made where it is missing, mode 0700. One agent uses it at a time.
    pub cache: PathBuf,
    /// Most bytes of a file that is fetched; 2 GiB by default.
    pub max_download_bytes: u64,
    /// Most bytes that come out of an archive; 8 GiB by default.
    pub max_unpacked_bytes: u64,
    /// Most files and folders of an archive; 100,000 by default.
    pub max_entries: u32,
    /// Bytes of the cache above which what was used least recently is removed; 20 GiB by default. What is in use
    /// stays, so the cache may be larger.
    pub max_cache_bytes: u64,
    /// Gateways for `ipfs://`, asked in turn; `https://ipfs.io` and `https://dweb.link` by default.
    pub ipfs_gateways: Vec<String>,
    /// Gives what `hub://` means; without it such an artefact is refused.
    pub hub: Option<Arc<dyn Pushed>>,
    /// Certificate authorities that are trusted beside the public ones (those of Mozilla).
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// HTTP proxy through which servers are reached, by CONNECT; none by default.
    pub proxy: Option<ProxyUrl>,
}

impl ArtefactConfig {
    /// The defaults, with this folder.
    #[must_use]
    pub fn new(cache: PathBuf) -> Self {
        Self {
            cache,
            max_download_bytes: 2 << 30,
            max_unpacked_bytes: 8 << 30,
            max_entries: 100_000,
            max_cache_bytes: 20 << 30,
            ipfs_gateways: vec!["https://ipfs.io".to_owned(), "https://dweb.link".to_owned()],
            hub: None,
            extra_roots: Vec::new(),
            proxy: None,
        }
    }
}

impl fmt::Debug for ArtefactConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArtefactConfig")
            .field("cache", &self.cache)
            .field("max_download_bytes", &self.max_download_bytes)
            .field("max_unpacked_bytes", &self.max_unpacked_bytes)
            .field("max_entries", &self.max_entries)
            .field("max_cache_bytes", &self.max_cache_bytes)
            .field("ipfs_gateways", &self.ipfs_gateways)
            .field("hub", &self.hub.is_some())
            .field("extra_roots", &self.extra_roots.len())
            .field("proxy", &self.proxy)
            .finish()
    }
}

/// What to get: the fields of [`Source::Native`].
#[derive(Debug, Clone, Copy)]
pub struct NativeArtefact<'a> {
    /// `https://`, `http://`, `ipfs://CID/PATH`, `github://OWNER/REPOSITORY/TAG/FILE`, or `hub://`.
    pub url: &'a str,
    /// What the file has to be.
    pub sha256: &'a Sha256Digest,
    /// What it has to be by another function, where that is known.
    pub blake3: Option<&'a Blake3Digest>,
    /// Path of the program within an archive; empty where the archive has one program only. Of a file that is the
    /// program itself it says nothing.
    pub binary: &'a str,
}

impl<'a> NativeArtefact<'a> {
    /// Of a source; `None` where that is of another kind.
    #[must_use]
    pub fn of(source: &'a Source) -> Option<Self> {
        match source {
            Source::Native { url, sha256, blake3, binary } => {
                Some(Self { url, sha256, blake3: blake3.as_ref(), binary })
            }
            Source::Container { .. } | Source::Testing { .. } | Source::Wasm {} => None,
        }
    }
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes that came.
    pub bytes: u64,
    /// Bytes of the whole, where the server says so.
    pub total: Option<u64>,
}

/// A program that is ready to be started. Its files stay as long as this lives.
#[derive(Debug)]
pub struct Artefact {
    /// Absolute path of the program, mode 0555. A process that is started at the same time may hold the file open
    /// for a moment, so that `ETXTBSY` is no reason not to try again.
    pub program: PathBuf,
    /// Absolute path of the read-only folder of everything that came with it.
    pub folder: PathBuf,
    _hold: Hold,
}

/// The artefacts of one agent; clones share the cache.
#[derive(Clone)]
pub struct Artefacts {
    shared: Arc<Shared>,
}

impl fmt::Debug for Artefacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artefacts").field("cache", &self.shared.cache.folder()).finish_non_exhaustive()
    }
}

struct Shared {
    cache: Arc<Cache>,
    fetcher: Fetcher,
    limits: ArchiveLimits,
    /// What is being fetched: at most one entry per caller of [`Artefacts::get`].
    flights: Mutex<BTreeMap<Sha256Digest, Weak<Flight>>>,
}

/// One digest that somebody waits for.
struct Flight {
    /// Held by who fetches it.
    turn: Arc<tokio::sync::Mutex<()>>,
    progress: watch::Sender<Progress>,
}

impl Artefacts {
    /// Opens the cache and removes what a crash left in it.
    ///
    /// # Errors
    ///
    /// Fails where the folder cannot be used or is used by another agent, or the configuration has a certificate or a
    /// gateway that is none.
    pub fn new(config: ArtefactConfig) -> Result<Self, OpenError> {
        Self::with_patience(config, client::Patience::default())
    }

    fn with_patience(config: ArtefactConfig, patience: client::Patience) -> Result<Self, OpenError> {
        let cache = Arc::new(Cache::open(&config.cache, config.max_cache_bytes)?);
        let limits = ArchiveLimits { max_entries: config.max_entries, max_bytes: config.max_unpacked_bytes };
        let fetcher = Fetcher::new(config, Arc::clone(&cache), patience)?;
        let shared = Shared { cache, fetcher, limits, flights: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The program of an artefact, from the cache or from where `source` says.
    ///
    /// `progress` is told of a download a few times a second; of what is in the cache it is told nothing.
    ///
    /// # Errors
    ///
    /// See [`ArtefactError`]; nothing of what failed is left in the cache.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the download or the unpacking and removes what there is of it; somebody else who
    /// waits for the same begins again.
    pub async fn get(
        &self,
        source: &NativeArtefact<'_>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Artefact, ArtefactError> {
        if let Some(found) = self.cached(source).await? {
            return Ok(found);
        }
        let flight = self.flight(*source.sha256);
        let turn = flight.turn(&progress).await;
        if let Some(found) = self.cached(source).await? {
            return Ok(found);
        }
        self.bring(&flight, turn, source, &progress).await
    }

    /// Like [`Self::get`], but what is in the cache is fetched, checked and unpacked anew. Where others use it, or it cannot
    /// be had, the one in the cache is given.
    ///
    /// # Errors
    ///
    /// See [`Self::get`].
    ///
    /// # Cancel safety
    ///
    /// That of [`Self::get`].
    pub async fn get_anew(
        &self,
        source: &NativeArtefact<'_>,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<Artefact, ArtefactError> {
        let flight = self.flight(*source.sha256);
        let turn = flight.turn(&progress).await;
        if self.shared.cache.is_in_use(source.sha256) {
            info!(url = %locate::shown(source.url), "an artefact that others use is not fetched anew");
            drop(turn);
            return self.get(source, progress).await;
        }
        match self.bring(&flight, turn, source, &progress).await {
            Ok(artefact) => Ok(artefact),
            Err(error) => {
                let Some(found) = self.cached(source).await? else { return Err(error) };
                warn!(%error, "an artefact cannot be fetched anew; the one in the cache is used");
                Ok(found)
            }
        }
    }

    /// Fetches, checks and unpacks it; the turn is the caller's.
    async fn bring(
        &self,
        flight: &Flight,
        turn: OwnedMutexGuard<()>,
        source: &NativeArtefact<'_>,
        progress: &(impl Fn(Progress) + Send + Sync),
    ) -> Result<Artefact, ArtefactError> {
        flight.progress.send_replace(Progress::default());
        let told = |now| {
            flight.progress.send_replace(now);
            progress(now);
        };
        let part = self.shared.fetcher.fetch(source, &told).await?;
        let stop = CancellationToken::new();
        let install = Install {
            cache: Arc::clone(&self.shared.cache),
            limits: self.shared.limits,
            url: locate::shown(source.url),
            stop: stop.clone(),
        };
        let _stopped = stop.drop_guard();
        let binary = source.binary.to_owned();
        // The turn goes along: until this is over nobody else may begin, even if this future is dropped.
        blocking(source.url, move || {
            let _turn = turn;
            install.run(part, &binary)
        })
        .await
    }

    async fn cached(&self, source: &NativeArtefact<'_>) -> Result<Option<Artefact>, ArtefactError> {
        let cache = Arc::clone(&self.shared.cache);
        let (sha256, blake3) = (*source.sha256, source.blake3.copied());
        let (url, binary) = (locate::shown(source.url), source.binary.to_owned());
        blocking(source.url, move || {
            let Some(hold) = cache.look_up(sha256) else { return Ok(None) };
            if let Some(expected) = blake3.filter(|blake3| *blake3 != hold.about().blake3) {
                return Err(ArtefactError::Digest {
                    url,
                    function: "BLAKE3",
                    bytes: hold.about().file_bytes,
                    expected: expected.to_string(),
                    found: hold.about().blake3.to_string(),
                });
            }
            let program = install::resolve(&url, &hold.files(), hold.about(), &binary)?;
            Ok(Some(Artefact { program, folder: hold.files(), _hold: hold }))
        })
        .await
    }

    fn flight(&self, sha256: Sha256Digest) -> Arc<Flight> {
        let mut flights = self.shared.flights.lock();
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(&sha256).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight { turn: Arc::default(), progress: watch::Sender::default() });
        flights.insert(sha256, Arc::downgrade(&flight));
        flight
    }
}

impl Flight {
    /// Waits until nobody else fetches it, and tells of their progress meanwhile.
    async fn turn(&self, progress: &(impl Fn(Progress) + Send + Sync)) -> OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.turn).lock_owned();
        let mut changes = self.progress.subscribe();
        let told = async {
            while changes.changed().await.is_ok() {
                let now = *changes.borrow_and_update();
                progress(now);
            }
            std::future::pending::<OwnedMutexGuard<()>>().await
        };
        tokio::select! {
            biased;
            turn = turn => turn,
            turn = told => turn,
        }
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    url: &str,
    run: impl FnOnce() -> Result<T, ArtefactError> + Send + 'static,
) -> Result<T, ArtefactError> {
    let ran = tokio::task::spawn_blocking(run).await;
    ran.unwrap_or_else(|_| Err(ArtefactError::Stopped { url: locate::shown(url) }))
}

/// An error of the cache's file system: full, or otherwise.
fn disk_error(what: &'static str, path: &Path, why: std::io::Error) -> ArtefactError {
    use std::io::ErrorKind;
    if matches!(why.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
        let folder = path.parent().unwrap_or(path).to_owned();
        return ArtefactError::DiskFull { folder, what: format!("cannot {what} a file of an artefact") };
    }
    ArtefactError::Cache { what, path: path.to_owned(), why }
}
