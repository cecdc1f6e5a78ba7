//! What workloads wrote, on its way from a node to an operator.
//!
//! The hub asks in the agent's session; the agent answers by a call of its own, which names the question. It sends a piece for
//! each credit, and gets one back when the operator's side has taken a piece: so at most [`WINDOW`] pieces of a reader are
//! in this process, and none that was sent is ever left unread, which would hold up the agent's whole connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{AgentId, LogCursor, Timestamp};
use blueprint_hub_registry_core::Agent;
use blueprint_hub_registry_core::workload::{LogsAsk, LogsError, LogsLine, LogsPiece};
use blueprint_proto::v1;
use blueprint_proto::v1::hub_message::Body;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{info, warn};

use crate::shared::Shared;
use crate::status;
use blueprint_common_runtime::places::{Place, Places};

/// Readers of operators at once.
const READERS: usize = 32;

/// Of them, readers of one agent.
const OF_AGENT: u32 = 8;

/// Launchers that read at once: one for each workload of a few nodes that are full.
const LAUNCHERS: usize = 256;

/// Of them, launchers of one agent: one for each workload that it may have.
const LAUNCHERS_OF_AGENT: u32 = 64;

/// Pieces on their way.
const WINDOW: u32 = 2;

/// How long an agent may take to begin its answer.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// An agent that is silent for so long is gone; it says every five seconds that it is there.
const SILENCE: Duration = Duration::from_secs(20);

/// A reader that takes nothing for so long loses its place, and may come back with its cursor.
const SLOWEST: Duration = Duration::from_secs(60);

/// Most lines of one piece.
const MAX_LINES: usize = 2048;

/// Longest reason of an agent that is told, in characters.
const MAX_REASON: usize = 300;

/// The hub's answer to an agent's call: credits.
pub(crate) type Credits = Pin<Box<dyn Stream<Item = Result<v1::LogCredit, Status>> + Send>>;

type Pieces = mpsc::Sender<Result<LogsPiece, LogsError>>;

/// Questions that no agent has begun to answer, and places of readers.
#[derive(Debug)]
pub(crate) struct LogsDesk {
    asked: Mutex<Asked>,
    operators: Room,
    launchers: Room,
}

/// Who reads. The ones take no place from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReaderKind {
    /// Somebody at a terminal.
    Operator,
    /// A launcher, for as long as its workload runs.
    Launcher,
}

/// How many read at once.
#[derive(Debug)]
struct Room {
    most: usize,
    places: Arc<Semaphore>,
    most_of_agent: u32,
    of_agent: Arc<Places<AgentId>>,
}

impl Room {
    fn new(most: usize, most_of_agent: u32) -> Self {
        let (places, of_agent) = (Arc::new(Semaphore::new(most)), Places::new(most_of_agent));
        Self { most, places, most_of_agent, of_agent }
    }

    /// Finds room for one more reader.
    fn take(&self, agent: AgentId) -> Result<Taken, LogsError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| LogsError::TooMany { of: "the hub", most: self.most })?;
        let most = usize::try_from(self.most_of_agent).unwrap_or(0);
        let of_agent = self.of_agent.begin(agent).ok_or(LogsError::TooMany { of: "the node", most })?;
        Ok(Taken { _place: place, _of_agent: of_agent })
    }
}

#[derive(Debug, Default)]
struct Asked {
    last: u64,
    waiting: BTreeMap<u64, Waiting>,
}

/// A question.
#[derive(Debug)]
struct Waiting {
    agent: AgentId,
    pieces: Pieces,
    /// Told once the agent begins.
    begun: oneshot::Sender<()>,
    room: Taken,
}

/// A place of the hub and one of the agent. Who carries the answer has them: a reader that is stalled may stay for long.
#[derive(Debug)]
struct Taken {
    _place: OwnedSemaphorePermit,
    _of_agent: Place<AgentId>,
}

impl Default for LogsDesk {
    fn default() -> Self {
        let (operators, launchers) = (Room::new(READERS, OF_AGENT), Room::new(LAUNCHERS, LAUNCHERS_OF_AGENT));
        Self { asked: Mutex::default(), operators, launchers }
    }
}

impl LogsDesk {
    const fn room(&self, kind: ReaderKind) -> &Room {
        match kind {
            ReaderKind::Operator => &self.operators,
            ReaderKind::Launcher => &self.launchers,
        }
    }

    fn put(&self, waiting: Waiting) -> u64 {
        let mut asked = self.asked.lock();
        asked.last = asked.last.saturating_add(1);
        let id = asked.last;
        asked.waiting.insert(id, waiting);
        id
    }

    /// Takes a question of this agent; nobody else's.
    fn take(&self, id: u64, agent: AgentId) -> Option<Waiting> {
        let mut asked = self.asked.lock();
        asked.waiting.get(&id).filter(|waiting| waiting.agent == agent)?;
        asked.waiting.remove(&id)
    }

    fn forget(&self, id: u64) {
        self.asked.lock().waiting.remove(&id);
    }
}

/// Reads the answer of a node. Dropping it ends the answer.
pub struct LogsReader {
    shared: Arc<Shared>,
    id: u64,
    pieces: mpsc::Receiver<Result<LogsPiece, LogsError>>,
}

impl std::fmt::Debug for LogsReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogsReader").field("id", &self.id).finish_non_exhaustive()
    }
}

impl LogsReader {
    /// The next piece; `None` behind the last, or behind an error.
    ///
    /// # Errors
    ///
    /// Why the answer broke off.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<LogsPiece, LogsError>> {
        self.pieces.recv().await
    }
}

impl Drop for LogsReader {
    fn drop(&mut self) {
        self.shared.logs.forget(self.id);
        self.shared.metrics.log_reader_left();
    }
}

/// Asks an agent, and waits until it begins to answer.
pub(crate) async fn ask(
    shared: &Arc<Shared>,
    agent: AgentId,
    ask: LogsAsk,
    kind: ReaderKind,
) -> Result<LogsReader, LogsError> {
    let desk = &shared.logs;
    let room = desk.room(kind).take(agent)?;
    let (sender, pieces) = mpsc::channel(usize::try_from(WINDOW).unwrap_or(1));
    let (begun, has_begun) = oneshot::channel();
    let id = desk.put(Waiting { agent, pieces: sender, begun, room });
    let reader = LogsReader { shared: Arc::clone(shared), id, pieces };
    shared.metrics.log_reader_came();
    let service = ask.service;
    let told = shared.registrar.tell(agent, Body::Logs(request(id, ask))).await;
    if !told.map_err(|_| LogsError::Stopping)? {
        return Err(LogsError::Away);
    }
    match timeout(BEGIN_WITHIN, has_begun).await {
        Ok(Ok(())) => {
            info!(%service, %agent, request = id, "output of a workload is read");
            Ok(reader)
        }
        Ok(Err(_)) | Err(_) => Err(LogsError::NoAnswer),
    }
}

fn request(id: u64, ask: LogsAsk) -> v1::LogRequest {
    v1::LogRequest {
        id,
        blueprint_id: ask.service.blueprint,
        service_id: ask.service.service,
        after: ask.after.map(v1::LogCursor::from),
        since_millis: ask.since.as_millis(),
        tail: ask.tail,
        level: v1::LogLevel::from(ask.level).into(),
        grep: ask.grep,
        follow: ask.follow,
        slot: ask.slot.into(),
        from_run: ask.runs.from,
        before_run: ask.runs.before,
    }
}

/// Takes an answer in, if it is one.
pub(crate) async fn take(
    shared: &Arc<Shared>,
    agent: &Agent,
    mut inbound: Streaming<v1::LogPiece>,
) -> Result<Credits, Status> {
    let first = timeout(BEGIN_WITHIN, inbound.message()).await;
    let first = first.map_err(|_| status::bad_request("the first piece did not come"))??;
    let id = first.map_or(0, |piece| piece.request_id);
    let Some(Waiting { pieces, begun, room, .. }) = shared.logs.take(id, agent.id) else {
        shared.metrics.refused("logs_not_asked");
        if shared.is_news(agent.id, "logs_not_asked") {
            warn!(target: "audit", agent = %agent.id, "agent gives output of workloads that nobody asked for");
        }
        return Err(Status::permission_denied("nobody waits for this answer"));
    };
    let (credits, given) = mpsc::channel(usize::try_from(WINDOW).unwrap_or(1));
    // Both channels are new: the first credits fit, and who asked may be gone already, which is seen below.
    let _ = credits.try_send(v1::LogCredit { pieces: WINDOW });
    let _ = begun.send(());
    let drain = shared.spawner.stop().drain;
    shared.spawner.spawn_base("workload logs", async move {
        if let Err(broken) = Box::pin(carry(inbound, &pieces, &credits, &drain)).await {
            // A reader that is slow finds it at the end, or is gone.
            let _ = timeout(SLOWEST, pieces.send(Err(broken))).await;
        }
        drop(room);
    });
    Ok(Box::pin(ReceiverStream::new(given).map(Ok)))
}

/// Hands pieces on until the last, or until one side is gone.
async fn carry(
    mut inbound: Streaming<v1::LogPiece>,
    pieces: &Pieces,
    credits: &mpsc::Sender<v1::LogCredit>,
    drain: &CancellationToken,
) -> Result<(), LogsError> {
    loop {
        let read = tokio::select! {
            biased;
            () = drain.cancelled() => return Err(LogsError::Stopping),
            () = pieces.closed() => return Ok(()),
            read = timeout(SILENCE, inbound.message()) => read,
        };
        let broken = |why: &str| LogsError::Broken(why.to_owned());
        let piece = match read {
            Ok(Ok(Some(piece))) => to_piece(piece)?,
            Ok(Ok(None)) => return Err(broken("it ended without a last piece")),
            Ok(Err(status)) => return Err(broken(&cut(status.message()))),
            Err(_) => return Err(broken("it is silent")),
        };
        let is_last = piece.is_last;
        match timeout(SLOWEST, pieces.send(Ok(piece))).await {
            Ok(Ok(())) if is_last => return Ok(()),
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(broken("nobody took it for a minute")),
        }
        // An agent that takes no credits has enough of them.
        let _ = credits.try_send(v1::LogCredit { pieces: 1 });
    }
}

fn to_piece(piece: v1::LogPiece) -> Result<LogsPiece, LogsError> {
    if !piece.failure.is_empty() {
        return Err(LogsError::Broken(cut(&piece.failure)));
    }
    if piece.lines.len() > MAX_LINES {
        return Err(LogsError::Broken(format!("{} lines in one piece", piece.lines.len())));
    }
    let ring = piece.ring;
    let line = |line: v1::LogLine| LogsLine {
        cursor: LogCursor { ring, seq: line.seq },
        at: Timestamp::from_millis(line.time_millis),
        generation: line.generation,
        stream: line.stream().into(),
        level: line.level().into(),
        text: line.text,
        goes_on: line.goes_on,
    };
    Ok(LogsPiece {
        lines: piece.lines.into_iter().map(line).collect(),
        missed: piece.missed,
        reached: piece.reached.map(|seq| LogCursor { ring, seq }),
        is_last: piece.is_last,
    })
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_by_the_agent_that_was_asked_and_once() {
        let desk = LogsDesk::default();
        let [asked, other] = [1, 2].map(|byte| AgentId::from_bytes([byte; 16]));
        let waiting = || Waiting {
            agent: asked,
            pieces: mpsc::channel(1).0,
            begun: oneshot::channel().0,
            room: desk.room(ReaderKind::Operator).take(asked).unwrap(),
        };
        let [first, second] = [waiting(), waiting()].map(|waiting| desk.put(waiting));
        assert!(desk.take(first, other).is_none());
        let taken = desk.take(first, asked).unwrap();
        assert!(desk.take(first, asked).is_none());
        // The room goes with the answer, not with who reads it.
        assert_eq!(desk.operators.places.available_permits(), READERS - 2);
        drop(taken);
        assert_eq!(desk.operators.places.available_permits(), READERS - 1);
        assert_eq!(desk.launchers.places.available_permits(), LAUNCHERS, "operators take none of theirs");
        desk.forget(second);
        assert!(desk.take(second, asked).is_none() && desk.asked.lock().waiting.is_empty());
    }

    #[test]
    fn what_an_agent_sends_is_bounded_and_its_reasons_steer_nothing() {
        let many =
            v1::LogPiece { lines: vec![v1::LogLine::default(); MAX_LINES + 1], ..v1::LogPiece::default() };
        assert!(to_piece(many).is_err());
        let failure = format!("\u{1b}[31m{}", "x".repeat(1000));
        let Err(LogsError::Broken(why)) = to_piece(v1::LogPiece { failure, ..v1::LogPiece::default() })
        else {
            unreachable!("it failed")
        };
        assert!(why.len() == MAX_REASON && why.starts_with("[31m"));
    }
}
