//! The output of a container, followed to its end.

use std::time::{Duration, SystemTime};

use blueprint_common_types::{LogStream, Timestamp};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep};

use super::Sink;
use crate::container::{self, Engine};

/// Pause before an engine is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// How long the keeper of an earlier container may take to let go of the ring.
const LOCKED: Duration = Duration::from_secs(10);

/// Takes in what a container writes until it has ended, also where the engine breaks off meanwhile; gives the last line.
///
/// # Cancel safety
///
/// Dropping it keeps what was taken in.
pub(crate) async fn follow(engine: &Engine, id: &str, mut sink: Sink) -> Option<String> {
    let begin = Instant::now();
    // The engine keeps what is not read yet.
    while !sink.is_open() && begin.elapsed() < LOCKED {
        sleep(AGAIN).await;
    }
    let mut last: Option<SystemTime> = None;
    let (mut has_broken_off, mut is_told) = (false, false);
    loop {
        // Not the last line again.
        let since = last.and_then(|last| last.checked_add(Duration::from_nanos(1)));
        let followed = async {
            let Some(running) = engine.find(id).await? else { return Ok(true) };
            if has_broken_off && !is_told && running.pid.is_some() {
                is_told = true;
                sink.say("the engine ended the output while the container runs; it is read on".to_owned());
            }
            let mut logs = running.logs(since).await?;
            while let Some(line) = logs.next().await {
                let line = line?;
                let stream = match line.stream {
                    container::LogStream::Stdout => LogStream::Stdout,
                    container::LogStream::Stderr => LogStream::Stderr,
                };
                let at = line.at.map(Timestamp::from);
                // As bytes: a secret need not be text.
                sink.take(stream, &line.bytes, at);
                if line.is_whole {
                    sink.take(stream, b"\n", at);
                }
                last = line.at.or(last);
            }
            // The end of the answer is not that of the container.
            Ok::<_, container::EngineError>(engine.find(id).await?.is_none_or(|found| found.pid.is_none()))
        };
        match followed.await {
            Ok(true) => {
                sink.finish();
                return sink.last().map(str::to_owned);
            }
            Ok(false) => has_broken_off = true,
            Err(_) => {}
        }
        sleep(AGAIN).await;
    }
}
