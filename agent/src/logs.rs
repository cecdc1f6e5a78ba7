//! What workloads wrote, for the hub: it asks in the session, the answer is a call of its own over the same connection.
//!
//! A piece is sent for a credit that the hub gave, so a reader at its far end that is slow holds up this call alone: not the
//! session, and not the calls of others.

use std::sync::Arc;
use std::time::Duration;

use blueprint_agent_workload::NodeHandle;
use blueprint_agent_workload::logs::{LogAsk, LogBatch, LogReader, LogShelf};
use blueprint_agent_workload_core::log::{Filter, Line};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_spoke::Caller;
use blueprint_common_types::workload::Seat;
use blueprint_common_types::{LogCursor, ServiceKey, Timestamp};
use blueprint_proto::v1;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use crate::shared::Shared;

/// Answers at once. The hub asks for fewer: eight for operators, one for each workload that a launcher started.
const AT_ONCE: usize = 80;

/// How long the hub may take to answer the call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the hub may take to take in the last pieces.
const LAST_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes of the lines of one piece, but for the last of them.
const PIECE_BYTES: usize = 16 << 10;

/// Pause before it is looked for new lines.
const LOOK: Duration = Duration::from_millis(200);

/// A piece without lines is sent after so long; the hub takes three of those for the end.
const ALIVE: Duration = Duration::from_secs(5);

/// Gives what workloads of this machine wrote.
#[derive(Debug)]
pub(crate) struct LogGiver {
    shared: Arc<Shared>,
    spawner: Spawner,
    places: Arc<Semaphore>,
}

impl LogGiver {
    pub(crate) fn new(shared: Arc<Shared>, spawner: Spawner) -> Self {
        Self { shared, spawner, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Begins to answer.
    pub(crate) fn give(&self, request: v1::LogRequest) {
        let Some(caller) = self.shared.spoke.caller() else { return };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            warn!(most = AT_ONCE, "the hub asks for the output of workloads too often at once");
            return;
        };
        let shelf = self.shared.node.get().map(NodeHandle::logs);
        self.spawner.spawn_base("workload logs", async move {
            let _place = place;
            let id = request.id;
            if let Err(status) = answer(caller, shelf, request).await {
                debug!(request = id, %status, "the hub does not take the output of a workload");
            }
        });
    }
}

/// What is wanted.
struct Wanted {
    shelf: LogShelf,
    seat: Seat,
    ask: LogAsk,
    reader: Option<LogReader>,
}

impl Wanted {
    fn of(shelf: LogShelf, request: &v1::LogRequest) -> Self {
        let filter = Filter {
            since: Timestamp::from_millis(request.since_millis),
            level: request.level().into(),
            grep: request.grep.clone(),
            from_run: request.from_run,
            before_run: request.before_run,
        };
        let ask = LogAsk { after: request.after.map(LogCursor::from), tail: request.tail, filter };
        let service = ServiceKey { blueprint: request.blueprint_id, service: request.service_id };
        let slot = u8::try_from(request.slot).unwrap_or(0);
        Self { shelf, seat: Seat { service, slot }, ask, reader: None }
    }

    /// The next lines, with how far they reach. Blocks its thread.
    fn read(&mut self) -> std::io::Result<(Option<LogCursor>, LogBatch)> {
        if self.reader.is_none() {
            self.reader = self.shelf.open(self.seat, &self.ask)?;
        }
        match &mut self.reader {
            Some(reader) => {
                let batch = reader.read(PIECE_BYTES)?;
                Ok((Some(LogCursor { ring: reader.ring(), seq: reader.reached() }), batch))
            }
            None => Ok((None, LogBatch { is_end: true, ..LogBatch::default() })),
        }
    }
}

async fn answer(mut caller: Caller, shelf: Option<LogShelf>, request: v1::LogRequest) -> Result<(), Status> {
    let (pieces, stream) = mpsc::channel(1);
    // The channel is new and empty.
    let _ = pieces.try_send(v1::LogPiece { request_id: request.id, ..v1::LogPiece::default() });
    let called = timeout(CALL_TIMEOUT, caller.logs(ReceiverStream::new(stream))).await;
    let credits = called.map_err(|_| Status::deadline_exceeded("the hub did not answer in time"))??;
    let mut way = Way { pieces, credits: credits.into_inner(), left: 0, sent: Instant::now() };
    let Some(shelf) = shelf else {
        return way.fail("this node runs no workloads: workload.enabled is false there").await;
    };
    let mut wanted = Wanted::of(shelf, &request);
    let mut has_begun = false;
    loop {
        let read = spawn_blocking(move || {
            let read = wanted.read();
            (wanted, read)
        });
        let (back, read) = read.await.map_err(|error| Status::internal(error.to_string()))?;
        wanted = back;
        let (reached, batch) = match read {
            Ok(read) => read,
            Err(error) => return way.fail(&format!("the node cannot read what it keeps: {error}")).await,
        };
        let LogBatch { lines, missed, is_end } = batch;
        // Who follows has to know where it begins, also where no line fits yet.
        let begins = request.follow && is_end && reached.is_some() && !has_begun;
        if begins || missed > 0 || !lines.is_empty() {
            has_begun = true;
            let lines = lines.into_iter().map(line).collect();
            way.send(v1::LogPiece { lines, missed, ..piece(reached) }).await?;
        }
        match (is_end, request.follow) {
            (false, _) => {}
            (true, true) => way.rest(reached).await?,
            (true, false) => {
                return way.finish(v1::LogPiece { is_last: true, ..v1::LogPiece::default() }).await;
            }
        }
    }
}

/// A piece without lines.
fn piece(reached: Option<LogCursor>) -> v1::LogPiece {
    let (ring, reached) = (reached.map_or(0, |reached| reached.ring), reached.map(|reached| reached.seq));
    v1::LogPiece { ring, reached, ..v1::LogPiece::default() }
}

fn line(line: Line) -> v1::LogLine {
    v1::LogLine {
        seq: line.seq,
        time_millis: line.at.as_millis(),
        generation: line.generation,
        stream: v1::LogStream::from(line.stream).into(),
        level: v1::LogLevel::from(line.level).into(),
        text: line.text,
        goes_on: line.goes_on,
    }
}

/// The way to the hub.
struct Way {
    pieces: mpsc::Sender<v1::LogPiece>,
    credits: Streaming<v1::LogCredit>,
    left: u32,
    sent: Instant,
}

impl Way {
    /// Waits for a credit, and sends.
    async fn send(&mut self, piece: v1::LogPiece) -> Result<(), Status> {
        while self.left == 0 {
            self.hear().await?;
        }
        self.left = self.left.saturating_sub(1);
        self.sent = Instant::now();
        self.pieces.send(piece).await.map_err(|_| gone())
    }

    async fn fail(self, why: &str) -> Result<(), Status> {
        self.finish(v1::LogPiece { failure: why.to_owned(), ..v1::LogPiece::default() }).await
    }

    /// Sends the last piece, and waits until the hub has it: what ends its side ends the call, and what is on its way.
    async fn finish(mut self, last: v1::LogPiece) -> Result<(), Status> {
        self.send(last).await?;
        let Self { pieces, mut credits, .. } = self;
        drop(pieces);
        let ended = async { while let Ok(Some(_)) = credits.message().await {} };
        timeout(LAST_TIMEOUT, ended)
            .await
            .map_err(|_| Status::deadline_exceeded("the hub does not end the call"))
    }

    async fn hear(&mut self) -> Result<(), Status> {
        let credit = self.credits.message().await?.ok_or_else(gone)?;
        self.left = self.left.saturating_add(credit.pieces);
        Ok(())
    }

    /// Waits until it is time to look for new lines; says now and then that this side is there.
    async fn rest(&mut self, reached: Option<LogCursor>) -> Result<(), Status> {
        if self.sent.elapsed() >= ALIVE && self.left > 0 {
            self.send(piece(reached)).await?;
        }
        tokio::select! {
            heard = self.hear() => heard,
            () = sleep(LOOK) => Ok(()),
        }
    }
}

fn gone() -> Status {
    Status::cancelled("the hub wants no more")
}
