//! The process beside a container: it ends the container once its agent is gone.
//!
//! Engines keep containers whatever becomes of who started them. This holds a socket to the agent like the keeper of a
//! native workload; where the agent does not say that the container is removed before that closes, it asks the engine to
//! end and to remove it, by its id, until it has. The next agent may do so at the same time.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::setsid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{LONGEST_GRACE, pair};
use crate::container::Engine;
use crate::launch::{ARGUMENT, EXIT_CODE, MAX_BYTES, say};

/// Second argument of such a process.
pub(crate) const KEEP_CONTAINER: &str = "keep-container";

/// How long an engine that is away is waited for. Then what is left waits for the next agent.
const TRY_WITHIN: Duration = Duration::from_secs(3600);

/// Pause before an engine is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// Told once the container is removed.
const REMOVED: &[u8] = b"removed\n";

/// What it is told first, as one line.
#[derive(Debug, Serialize, Deserialize)]
struct Errand {
    /// The engine's socket.
    engine: PathBuf,
    /// The engine's name for the container.
    id: String,
    grace_secs: u64,
}

/// The agent's end of it. Where it is dropped, the container is ended.
#[derive(Debug)]
pub(crate) struct ContainerKeeper {
    child: tokio::process::Child,
    stream: UnixStream,
}

impl ContainerKeeper {
    /// Starts one; `agent` is the agent's own program. Without one a container outlives an agent that is killed, until
    /// the next one starts.
    pub(crate) async fn start(agent: &Path, engine: &Path, id: &str, grace_secs: u64) -> io::Result<Self> {
        let (mut stream, theirs) = pair()?;
        let child = Command::new(agent)
            .args([ARGUMENT, KEEP_CONTAINER])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        let errand = Errand { engine: engine.to_owned(), id: id.to_owned(), grace_secs };
        let mut text = serde_json::to_vec(&errand)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        Ok(Self { child, stream })
    }

    /// Says that the container is removed, and waits for the end of the process.
    pub(crate) async fn dismiss(mut self) {
        if let Err(error) = self.stream.write_all(REMOVED).await {
            warn!(%error, "the keeper of a container is not told that it is removed");
        }
        drop(self.stream);
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
        let mut reader = BufReader::new(UnixStream::from_std(stream)?);
        let mut line = Vec::new();
        (&mut reader).take(MAX_BYTES).read_until(b'\n', &mut line).await?;
        let errand: Errand = serde_json::from_slice(&line)?;
        line.clear();
        // A connection that broke says no more than one that ended.
        let _ = (&mut reader).take(MAX_BYTES).read_until(b'\n', &mut line).await;
        if line != REMOVED {
            Box::pin(end(&errand)).await?;
        }
        Ok(())
    })
}

/// Ends and removes the container.
async fn end(errand: &Errand) -> io::Result<()> {
    let engine = Engine::new(errand.engine.clone());
    let grace = Duration::from_secs(errand.grace_secs).min(LONGEST_GRACE);
    let begin = Instant::now();
    loop {
        let ended = async {
            engine.stop(&errand.id, grace).await?;
            engine.remove(&errand.id).await
        };
        match ended.await {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() >= TRY_WITHIN => return Err(io::Error::other(error)),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
