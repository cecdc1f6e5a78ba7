//! The process beside a container: it ends the container once its agent is gone.
//!
//! Engines keep containers whatever becomes of who started them. This holds a socket to the agent like the keeper of a
//! native workload; where the agent does not say that the container is removed before that closes, it asks the engine to
//! end and to remove it, by its id, until it has, and removes the container's keys. The next agent may do so at the same time. It also takes in what the
//! container writes, and keeps that, as other keepers do.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::{Either, select};
use nix::unistd::setsid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::{LONGEST_GRACE, Wipe, at_rest, pair};
use crate::container::{Engine, EngineError};
use crate::launch::{ARGUMENT, EXIT_CODE, MAX_BYTES, say};
use crate::logs::{LogErrand, Sink, follow};

/// Second argument of such a process.
pub(crate) const KEEP_CONTAINER: &str = "keep-container";

/// How long an engine that is away is waited for. Then what is left waits for the next agent.
const TRY_WITHIN: Duration = Duration::from_secs(3600);

/// Pause before an engine is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// Told once the container is removed.
const REMOVED: &[u8] = b"removed\n";

/// Tells that all that the container wrote is kept; behind it stands the last line.
const KEPT: &str = "kept ";

/// How long the last lines may take once the container has ended.
const LAST_LINES: Duration = Duration::from_secs(3);

/// What it is told first, as one line.
#[derive(Debug, Serialize, Deserialize)]
struct Errand {
    /// The engine's socket.
    engine: PathBuf,
    /// The engine's name for the container.
    id: String,
    grace_secs: u64,
    /// Where what it writes is kept.
    log: LogErrand,
    /// What it has in memory.
    wipe: Wipe,
}

/// The agent's end of it. Where it is dropped, the container is ended.
#[derive(Debug)]
pub(crate) struct ContainerKeeper {
    child: tokio::process::Child,
    news: Lines<BufReader<OwnedReadHalf>>,
    orders: OwnedWriteHalf,
    /// Whether all that the container wrote is kept, and its last line.
    kept: Option<String>,
}

impl ContainerKeeper {
    /// Starts one; `agent` is the agent's own program. Without one a container outlives an agent that is killed, until
    /// the next one starts.
    pub(crate) async fn start(
        agent: &Path,
        engine: &Path,
        (id, grace_secs, wipe): (&str, u64, Wipe),
        log: LogErrand,
    ) -> io::Result<Self> {
        let (stream, theirs) = pair()?;
        let child = Command::new(agent)
            .args([ARGUMENT, KEEP_CONTAINER])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let errand = Errand { engine: engine.to_owned(), id: id.to_owned(), grace_secs, log, wipe };
        let mut text = serde_json::to_vec(&errand)?;
        text.push(b'\n');
        let (read, mut orders) = stream.into_split();
        orders.write_all(&text).await?;
        Ok(Self { child, news: BufReader::new(read).lines(), orders, kept: None })
    }

    /// Waits until all that the container wrote is kept, which has ended; not for long.
    ///
    /// # Cancel safety
    ///
    /// May be dropped and called again.
    pub(crate) async fn keep_all(&mut self) {
        if self.kept.is_none() {
            let line = timeout(LAST_LINES, self.news.next_line()).await.ok().and_then(Result::ok).flatten();
            let last = line.as_deref().and_then(|line| line.strip_prefix(KEPT)).map(str::to_owned);
            self.kept = Some(last.unwrap_or_default());
        }
    }

    /// The last line that the container wrote, once that is known.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.kept.clone().filter(|line| !line.is_empty())
    }

    /// Says that the container is removed, and waits for the end of the process.
    pub(crate) async fn dismiss(mut self) {
        if let Err(error) = self.orders.write_all(REMOVED).await {
            warn!(%error, "the keeper of a container is not told that it is removed");
        }
        drop((self.orders, self.news));
        let _ = self.child.wait().await;
    }
}

/// Waits for the end of the agent or of the container; gives the exit code of this process.
pub(crate) fn keep_container() -> u8 {
    match try_keep() {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("cannot keep a container: {error}"));
            EXIT_CODE
        }
    }
}

fn try_keep() -> io::Result<()> {
    setsid()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stream = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        stream.set_nonblocking(true)?;
        let (read, agent) = UnixStream::from_std(stream)?.into_split();
        let mut reader = BufReader::new(read);
        let mut line = Vec::new();
        (&mut reader).take(MAX_BYTES).read_until(b'\n', &mut line).await?;
        let errand: Errand = serde_json::from_slice(&line)?;
        Box::pin(at_rest(keep(errand, reader, agent))).await
    })
}

/// Takes in what the container writes until it is removed, or the agent is gone; then it is ended here.
async fn keep(errand: Errand, reader: BufReader<OwnedReadHalf>, mut agent: OwnedWriteHalf) -> io::Result<()> {
    let Errand { engine, id, grace_secs, log, wipe } = errand;
    let engine = Engine::new(engine);
    let mut following = pin!(follow(&engine, &id, Sink::new(log)));
    let mut is_removed = pin!(is_removed(reader));
    tokio::select! {
        biased;
        last = &mut following => {
            // Nobody reads it where the agent is gone.
            let _ = agent.write_all(format!("{KEPT}{}\n", last.unwrap_or_default()).as_bytes()).await;
            if !is_removed.await {
                let grace = Duration::from_secs(grace_secs).min(LONGEST_GRACE);
                until_done(|| engine.stop(&id, grace)).await?;
                until_done(|| engine.remove(&id)).await?;
                wipe.all();
            }
        }
        is_removed = &mut is_removed => {
            if is_removed {
                let _ = timeout(LAST_LINES, following).await;
            } else {
                let grace = Duration::from_secs(grace_secs).min(LONGEST_GRACE);
                // What it writes on its way to its end is taken in meanwhile.
                let stop = pin!(until_done(|| engine.stop(&id, grace)));
                match select(stop, &mut following).await {
                    Either::Left((stopped, _)) => {
                        stopped?;
                        let _ = timeout(LAST_LINES, following).await;
                    }
                    Either::Right((_, stop)) => stop.await?,
                }
                until_done(|| engine.remove(&id)).await?;
                wipe.all();
            }
        }
    }
    Ok(())
}

/// Waits for the agent to say that the container is removed; false where it is gone without.
async fn is_removed(reader: BufReader<OwnedReadHalf>) -> bool {
    let mut line = Vec::new();
    // A connection that broke says no more than one that ended.
    let _ = reader.take(MAX_BYTES).read_until(b'\n', &mut line).await;
    line == REMOVED
}

/// Asks the engine until it has done it.
async fn until_done<F: Future<Output = Result<(), EngineError>>>(ask: impl Fn() -> F) -> io::Result<()> {
    let begin = Instant::now();
    loop {
        match ask().await {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() >= TRY_WITHIN => return Err(io::Error::other(error)),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
