//! `Launcher.Logs`: what a blueprint wrote, for the launcher that holds it.
//!
//! Lines come from the node as they do for an operator, a piece for each credit. A launcher that does not read holds up
//! nothing but this answer: after a minute it is ended, and the launcher goes on behind its last line. Whose the lines are
//! is asked again for every piece: one that lost its service to another launcher gets no line of that.

use blueprint_common_types::{AgentId, LogCursor, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{LogsAsk, LogsError, LogsLine, LogsPiece, Runs};
use blueprint_proto::v1;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use tonic::Status;

use super::{LauncherParts, LinesStream};
use crate::{ControlPlane, LaunchersHandle, LogsReader, status};

/// Letters of a launcher's name at most, as its lease has them.
const MAX_NAME: usize = 64;

/// What a node gives, until the last piece or an error.
pub type LogPieces = BoxStream<'static, Result<LogsPiece, LogsError>>;

/// Asks nodes for what workloads wrote.
pub trait LogSource: Send + Sync {
    /// Asks one node for a launcher. Dropping what it gives ends the answer.
    ///
    /// # Errors
    ///
    /// See [`LogsError`].
    fn read(&self, node: AgentId, ask: LogsAsk) -> BoxFuture<'_, Result<LogPieces, LogsError>>;
}

impl LogSource for ControlPlane {
    fn read(&self, node: AgentId, ask: LogsAsk) -> BoxFuture<'_, Result<LogPieces, LogsError>> {
        async move {
            let reader = self.logs_for_launcher(node, ask).await?;
            let next = |mut reader: LogsReader| async move { Some((reader.next().await?, reader)) };
            Ok(unfold(reader, next).boxed())
        }
        .boxed()
    }
}

/// Begins to give lines, where they are the launcher's.
pub(super) async fn read(parts: &LauncherParts, asked: v1::LauncherLogs) -> Result<LinesStream, Status> {
    let v1::LauncherLogs { blueprint_id, service_id, launcher, node, generation, after, follow } = asked;
    let service = ServiceKey { blueprint: blueprint_id, service: service_id };
    if launcher.len() > MAX_NAME {
        return Err(status::bad_request("the name of the launcher is too long"));
    }
    let node: AgentId =
        node.parse().map_err(|_| status::bad_request("the node is not named by its id, as a state does"))?;
    may_read(&parts.launchers, service, &launcher).await?;
    let ask = LogsAsk {
        service,
        // A launcher's workload has one version, which has the first place.
        slot: 0,
        after: after.map(LogCursor::from),
        since: Timestamp::from_millis(0),
        tail: None,
        level: None,
        grep: String::new(),
        follow,
        runs: Runs::default(),
    };
    let pieces = parts.logs.read(node, ask).await.map_err(|error| refused(&error))?;
    let launchers = parts.launchers.clone();
    let given = pieces.then(move |piece| {
        let (launchers, launcher) = (launchers.clone(), launcher.clone());
        async move {
            let piece = piece.map_err(|error| refused(&error))?;
            may_read(&launchers, service, &launcher).await?;
            Ok(wire(piece, generation))
        }
    });
    Ok(given.boxed())
}

/// Whether the lines are this launcher's to read now.
async fn may_read(launchers: &LaunchersHandle, service: ServiceKey, launcher: &str) -> Result<(), Status> {
    let may_read = launchers.may_read(service, launcher.to_owned()).await;
    if may_read.map_err(|_| status::stopping())? {
        return Ok(());
    }
    Err(Status::permission_denied(format!("{service} is not held by this launcher")))
}

fn refused(error: &LogsError) -> Status {
    match error {
        LogsError::TooMany { .. } => Status::resource_exhausted(error.to_string()),
        LogsError::Away | LogsError::NoAnswer | LogsError::Broken(_) | LogsError::Stopping => {
            Status::unavailable(error.to_string())
        }
    }
}

/// A piece without what was written before the launcher had the workload.
fn wire(piece: LogsPiece, generation: u64) -> v1::LogPiece {
    let LogsPiece { lines, missed, reached, is_last } = piece;
    let reached = lines.last().map(|line| line.cursor).or(reached);
    let is_its = |line: &LogsLine| line.generation >= generation;
    v1::LogPiece {
        request_id: 0,
        ring: reached.map_or(0, |cursor| cursor.ring),
        lines: lines.into_iter().filter(is_its).map(line).collect(),
        missed,
        failure: String::new(),
        is_last,
        reached: reached.map(|cursor| cursor.seq),
    }
}

fn line(line: LogsLine) -> v1::LogLine {
    v1::LogLine {
        seq: line.cursor.seq,
        time_millis: line.at.as_millis(),
        generation: line.generation,
        stream: v1::LogStream::from(line.stream).into(),
        level: v1::LogLevel::from(line.level).into(),
        text: line.text,
        goes_on: line.goes_on,
    }
}
