//! Downloads: from one server, from gateways in turn, from the hub; and whether it is what was asked for.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};
use url::Url;

use super::cache::Cache;
use super::client::{Answer, Client, Patience, Rest, chain};
use super::locate::{Location, gateways, locate, shown};
use super::sink::{Part, Sink};
use super::{ArtefactConfig, ArtefactError, NativeArtefact, OpenError, Progress, Pushed};

/// Breaks in a row without a new byte, and breaks altogether, after which a download is given up.
const MAX_BREAKS: (u32, u32) = (4, 100);

/// Bytes that are read at once of what the hub gives.
const CHUNK_BYTES: usize = 64 * 1024;

/// Progress is told so often at most.
const TELL_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

/// Who is told of progress.
pub(super) type Told<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// Fetches artefacts.
pub(super) struct Fetcher {
    client: Client,
    cache: Arc<Cache>,
    gateways: Vec<Url>,
    hub: Option<Arc<dyn Pushed>>,
    max_bytes: u64,
}

impl Fetcher {
    pub(super) fn new(
        config: ArtefactConfig,
        cache: Arc<Cache>,
        patience: Patience,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            client: Client::new(config.extra_roots, config.proxy, patience)?,
            cache,
            gateways: gateways(&config.ipfs_gateways)?,
            hub: config.hub,
            max_bytes: config.max_download_bytes,
        })
    }

    /// Fetches an artefact, all of it, with every digest that was asked for.
    pub(super) async fn fetch(
        &self,
        source: &NativeArtefact<'_>,
        told: Told<'_>,
    ) -> Result<Part, ArtefactError> {
        let within = self.client.patience.whole;
        let late = || ArtefactError::TimedOut { url: shown(source.url), what: "whole file", within };
        timeout(within, self.fetch_untimed(source, told)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn fetch_untimed(
        &self,
        source: &NativeArtefact<'_>,
        told: Told<'_>,
    ) -> Result<Part, ArtefactError> {
        match locate(source.url, &self.gateways)? {
            Location::Server(url) => verify(source, &url, self.download(&url, told).await?),
            Location::Gateways { cid, urls } => self.ask_gateways(source, cid, &urls, told).await,
            Location::Hub => {
                let part = self.pushed(source, told).await?;
                check(source, source.url.to_owned(), part)
            }
        }
    }

    /// Asks one gateway after the other, also when one gives something else than what was asked for.
    async fn ask_gateways(
        &self,
        source: &NativeArtefact<'_>,
        cid: String,
        urls: &[Url],
        told: Told<'_>,
    ) -> Result<Part, ArtefactError> {
        let (mut why, mut may_pass) = (Vec::new(), false);
        for url in urls {
            let fetched = self.download(url, told).await.and_then(|part| verify(source, url, part));
            match fetched {
                Ok(part) => return Ok(part),
                Err(error @ (ArtefactError::DiskFull { .. } | ArtefactError::Cache { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    may_pass |= error.may_pass();
                    why.push(error.to_string());
                }
            }
        }
        if why.is_empty() {
            why.push("none is configured".to_owned());
        }
        Err(ArtefactError::Gateways { cid, why: why.join("; "), may_pass })
    }

    /// Takes what was pushed to the hub.
    async fn pushed(&self, source: &NativeArtefact<'_>, told: Told<'_>) -> Result<Part, ArtefactError> {
        let sha256 = source.sha256.to_string();
        let failed = |why: String, may_pass| ArtefactError::Pushed { sha256: sha256.clone(), why, may_pass };
        let hub =
            self.hub.as_ref().ok_or_else(|| failed("this agent takes nothing from it".to_owned(), false))?;
        let within = self.client.patience;
        let late = |what, within| ArtefactError::TimedOut { url: source.url.to_owned(), what, within };
        let opened = timeout(within.head, hub.open(source.sha256)).await;
        let opened = opened.map_err(|_| late("answer", within.head))?;
        let mut reader = opened.map_err(|error| failed(error.reason, error.may_pass))?;
        let mut sink = self.sink(source.url, None).await?;
        let taken = async {
            let mut teller = Teller::new(told, None);
            loop {
                let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
                let read = timeout(within.silence, reader.read_buf(&mut chunk)).await;
                let read = read.map_err(|_| late("byte", within.silence))?;
                if read.map_err(|error| failed(error.to_string(), true))? == 0 {
                    teller.end(sink.bytes());
                    return Ok(());
                }
                sink.push(chunk.freeze()).await?;
                teller.tell(sink.bytes());
            }
        };
        match taken.await {
            Ok(()) => sink.finish().await,
            Err(error) => {
                sink.abandon().await;
                Err(error)
            }
        }
    }

    /// Downloads a file; goes on where it broke off, if the server has a name for this version of the file.
    async fn download(&self, url: &Url, told: Told<'_>) -> Result<Part, ArtefactError> {
        let mut download = Download { fetcher: self, url, told, sink: None, validator: None, total: None };
        let (mut in_a_row, mut altogether) = (0, 0);
        let mut pause = self.client.patience.pause;
        loop {
            let before = download.bytes();
            let Err(error) = download.attempt().await else { break };
            if download.bytes() > before {
                in_a_row = 0;
                pause = self.client.patience.pause;
            }
            in_a_row = u32::saturating_add(in_a_row, 1);
            altogether = u32::saturating_add(altogether, 1);
            let is_over = in_a_row > MAX_BREAKS.0 || altogether > MAX_BREAKS.1;
            if is_over || !download.can_go_on() || !is_break(&error) {
                if let Some(sink) = download.sink {
                    sink.abandon().await;
                }
                return Err(error);
            }
            tracing::debug!(%error, bytes = download.bytes(), "a download of an artefact goes on");
            sleep(pause).await;
            pause = pause.saturating_mul(2);
        }
        match download.sink {
            Some(sink) => sink.finish().await,
            None => Err(ArtefactError::Stopped { url: shown(url.as_str()) }),
        }
    }

    /// Makes room for a file of this length, and the file.
    async fn sink(&self, url: &str, length: Option<u64>) -> Result<Sink, ArtefactError> {
        if length.is_some_and(|length| length > self.max_bytes) {
            return Err(ArtefactError::TooLarge { url: shown(url), limit: self.max_bytes });
        }
        let cache = Arc::clone(&self.cache);
        super::blocking(url, move || cache.make_room(length.unwrap_or_default())).await?;
        Sink::new(&self.cache, shown(url), self.max_bytes)
    }
}

/// Whether a download may go on after this.
const fn is_break(error: &ArtefactError) -> bool {
    match error {
        ArtefactError::Unreachable { .. }
        | ArtefactError::TimedOut { .. }
        | ArtefactError::Broken { .. }
        | ArtefactError::Status { .. } => error.may_pass(),
        ArtefactError::Url { .. }
        | ArtefactError::Redirect { .. }
        | ArtefactError::TooLarge { .. }
        | ArtefactError::Gateways { .. }
        | ArtefactError::Pushed { .. }
        | ArtefactError::Digest { .. }
        | ArtefactError::DiskFull { .. }
        | ArtefactError::Cache { .. }
        | ArtefactError::Refused { .. }
        | ArtefactError::Archive { .. }
        | ArtefactError::NotAProgram { .. }
        | ArtefactError::Program { .. }
        | ArtefactError::OtherMachine { .. }
        | ArtefactError::Interpreter { .. }
        | ArtefactError::Stopped { .. } => false,
    }
}

/// One file that is downloaded.
struct Download<'a> {
    fetcher: &'a Fetcher,
    url: &'a Url,
    told: Told<'a>,
    /// What came so far.
    sink: Option<Sink>,
    /// The server's name for the version that came; without one what broke off cannot go on.
    validator: Option<HeaderValue>,
    total: Option<u64>,
}

impl Download<'_> {
    fn bytes(&self) -> u64 {
        self.sink.as_ref().map_or(0, Sink::bytes)
    }

    fn can_go_on(&self) -> bool {
        self.bytes() > 0 && self.validator.is_some()
    }

    /// Asks for what is missing and takes what comes.
    async fn attempt(&mut self) -> Result<(), ArtefactError> {
        let from = self.bytes();
        let rest = self.validator.clone().filter(|_| from > 0).map(|validator| Rest { from, validator });
        let mut answer = self.fetcher.client.ask(self.url, rest.as_ref()).await?;
        match answer.head.status.as_u16() {
            // The whole of it: at first, or since the server has another version by now.
            200 => {
                let length = answer.length();
                if let Some(sink) = self.sink.take() {
                    sink.abandon().await;
                }
                self.sink = Some(self.fetcher.sink(self.url.as_str(), length).await?);
                self.total = length;
                self.validator = validator(&answer.head.headers);
            }
            206 if rest.is_some() && starts_at(&answer.head.headers, from, self.total) => {}
            206 | 416 => {
                self.validator = None;
                return Err(self.broken("the server gave another part than the one asked for".to_owned()));
            }
            status => {
                return Err(ArtefactError::Status { url: answer.url, status, hint: hint(status) });
            }
        }
        self.take(&mut answer).await
    }

    async fn take(&mut self, answer: &mut Answer) -> Result<(), ArtefactError> {
        let within = self.fetcher.client.patience.silence;
        let mut teller = Teller::new(self.told, self.total);
        loop {
            let Ok(chunk) = timeout(within, answer.chunk()).await else {
                return Err(ArtefactError::TimedOut { url: answer.url.clone(), what: "byte", within });
            };
            let chunk = chunk.map_err(|error| self.broken(chain(&error)))?;
            let (Some(chunk), Some(sink)) = (chunk, self.sink.as_mut()) else { break };
            sink.push(chunk).await?;
            teller.tell(sink.bytes());
        }
        if self.total.is_some_and(|total| self.bytes() < total) {
            return Err(self.broken("that was not all".to_owned()));
        }
        teller.end(self.bytes());
        Ok(())
    }

    fn broken(&self, why: String) -> ArtefactError {
        ArtefactError::Broken { url: shown(self.url.as_str()), bytes: self.bytes(), why }
    }
}

/// What names this version of the file (RFC 9110, section 13.1.5): a weak tag does not.
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    if headers.get(ACCEPT_RANGES).is_some_and(|units| units.as_bytes() == b"none") {
        return None;
    }
    let tag = headers.get(ETAG).filter(|tag| tag.as_bytes().starts_with(b"\""));
    tag.or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

/// Whether a part begins at this byte, and is of a file of this length: `bytes FROM-TO/TOTAL`.
fn starts_at(headers: &HeaderMap, from: u64, total: Option<u64>) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let Some((first, rest)) = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')) else {
        return false;
    };
    let whole = rest.split_once('/').and_then(|(_, whole)| whole.parse::<u64>().ok());
    first.parse() == Ok(from) && (total.is_none() || whole.is_none() || whole == total)
}

const fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 | 407 => {
            "it wants credentials, and none are sent; make the file public or push it through the hub"
        }
        404 | 410 => "there is no such file; correct the URL",
        408 | 425 | 429 | 503 => "it has too much to do; it is asked again",
        500.. => "it has failed; look at its log",
        0..=499 => "that is no file; correct the URL",
    }
}

/// Compares the digests.
fn verify(source: &NativeArtefact<'_>, url: &Url, part: Part) -> Result<Part, ArtefactError> {
    check(source, shown(url.as_str()), part)
}

fn check(source: &NativeArtefact<'_>, url: String, part: Part) -> Result<Part, ArtefactError> {
    let bytes = part.bytes;
    let differs = |function, expected: String, found: String| {
        Err(ArtefactError::Digest { url, function, bytes, expected, found })
    };
    if part.sha256 != *source.sha256 {
        return differs("SHA-256", source.sha256.to_string(), part.sha256.to_string());
    }
    match source.blake3 {
        Some(blake3) if part.blake3 != *blake3 => {
            differs("BLAKE3", blake3.to_string(), part.blake3.to_string())
        }
        Some(_) | None => Ok(part),
    }
}

/// Tells of progress, not too often.
struct Teller<'a> {
    told: Told<'a>,
    total: Option<u64>,
    last: Option<Instant>,
}

impl<'a> Teller<'a> {
    const fn new(told: Told<'a>, total: Option<u64>) -> Self {
        Self { told, total, last: None }
    }

    fn tell(&mut self, bytes: u64) {
        let now = Instant::now();
        if self.last.is_none_or(|last| now.saturating_duration_since(last) >= TELL_EVERY) {
            self.last = Some(now);
            (self.told)(Progress { bytes, total: self.total });
        }
    }

    fn end(&self, bytes: u64) {
        (self.told)(Progress { bytes, total: self.total });
    }
}
