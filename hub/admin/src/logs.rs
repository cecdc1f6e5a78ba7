//! What workloads wrote, a JSON document a line, as it comes from their node.

mod other;

use std::cmp::Ordering;
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_types::workload::Seat;
use blueprint_common_types::{AgentId, LogCursor, LogLevel, ServiceKey, Timestamp};
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_hub_registry_core::workload::{LogsAsk, LogsError, LogsLine, LogsPiece, Runs, WorkloadRecord};
use futures_util::StreamExt;
use futures_util::stream::{once, unfold};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::error::ApiError;
use crate::{AdminState, LogsStream};

/// A stream without lines says after so long that it is still there.
const ALIVE: Duration = Duration::from_secs(5);

/// Longest text that is looked for, in bytes.
const MAX_GREP: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default)]
    follow: bool,
    /// Cursor of a line.
    after: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default)]
    since: u64,
    tail: Option<u32>,
    level: Option<String>,
    #[serde(default)]
    grep: String,
    /// Name or id; the one that runs it, where not given.
    node: Option<String>,
    /// Run of the line that `after` names. Where that is of another ring, what later runs wrote comes from its start,
    run: Option<u64>,
    /// and what that run wrote from this time on, in milliseconds since 1970.
    #[serde(default)]
    at: u64,
    /// The other version: during an update the next one, else the one that was replaced or taken back.
    #[serde(default)]
    other: bool,
}

/// Which lines are another run's than those that were read.
#[derive(Debug, Clone, Copy)]
struct Later {
    /// Where the last line was read.
    ring: u64,
    /// Run that wrote it.
    run: u64,
    /// When.
    at: Timestamp,
}

impl Later {
    /// Whether a line comes after that one.
    fn is_after(self, line: &LogsLine) -> bool {
        match line.generation.cmp(&self.run) {
            Ordering::Greater => true,
            // Of the ring that was read, only what comes behind that line is asked for, also where the clock was put back.
            Ordering::Equal => line.cursor.ring == self.ring || line.at >= self.at,
            // Also of the same ring: it is named as soon as a piece of it was looked at, and holds what earlier runs wrote.
            Ordering::Less => false,
        }
    }
}

pub(crate) async fn read(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let shape = "docs/api.md lists what may be asked for";
    let Query(mut asked) = asked.map_err(|error| ApiError::invalid(error.body_text(), shape))?;
    let key = ServiceKey { blueprint, service };
    let invalid = |error: &dyn Display| ApiError::invalid(error.to_string(), shape);
    let after: Option<Result<LogCursor, _>> = asked.after.as_deref().map(str::parse);
    let level: Option<Result<LogLevel, _>> = asked.level.as_deref().map(str::parse);
    if asked.grep.len() > MAX_GREP {
        return Err(invalid(&format!("grep has more than {MAX_GREP} bytes")));
    }
    let mut ask = LogsAsk {
        service: key,
        slot: 0,
        after: after.transpose().map_err(|error| invalid(&error))?,
        since: Timestamp::from_millis(asked.since),
        tail: asked.tail,
        level: level.transpose().map_err(|error| invalid(&error))?,
        grep: std::mem::take(&mut asked.grep),
        follow: asked.follow,
        runs: Runs::default(),
    };
    let at = Timestamp::from_millis(asked.at);
    let later = ask.after.zip(asked.run).map(|(after, run)| Later { ring: after.ring, run, at });
    let snapshot = state.hub.snapshot();
    let node;
    (node, ask.slot) = place(&state, &snapshot, key, &asked)?;
    if let Some((slot, runs)) = shared_place(&state, key, &asked).await? {
        (ask.slot, ask.runs) = (slot, runs);
    }
    let name = snapshot.agents.get(&node).map_or_else(|| node.to_string(), |view| view.agent.name.clone());
    let (slot, runs) = (ask.slot, ask.runs);
    let pieces = state.hub.logs(node, ask).await?;
    let begin = bytes(&[json!({ "notice": "node", "node": name })]);
    let begin = once(async { Ok::<_, Infallible>(begin) });
    let (hub, is_watched) = (Arc::clone(&state.hub), asked.follow && asked.node.is_none() && !asked.other);
    let left = move || {
        let view = hub.workloads();
        match view.records.get(&key).filter(|_| is_watched) {
            Some(record) => {
                (record.node != Some(node) || record.slot != slot).then_some("the workload moved")
            }
            None => is_watched.then_some("the workload was removed"),
        }
    };
    let body = begin.chain(lines(pieces, left, (later, runs), (key, name)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

/// Node and seat of the lines that are asked for.
fn place(
    state: &AdminState,
    snapshot: &RegistrySnapshot,
    key: ServiceKey,
    asked: &Asked,
) -> Result<(AgentId, u8), ApiError> {
    let view = state.hub.workloads();
    let named = asked.node.as_ref().map(|node| crate::nodes::find(snapshot, node)).transpose()?;
    let named = named.map(|view| view.agent.id);
    let record = view.records.get(&key);
    let is_there = |record: &&Arc<WorkloadRecord>| named.is_none() || record.node == named;
    let mut next = view.updates.get(&key).into_iter().flat_map(|update| &update.next).map(|(next, _)| next);
    if let Some(next) = next.find(|next| asked.other && is_there(next))
        && let Some(node) = next.node
    {
        return Ok((node, next.slot));
    }
    let slot = match (record, asked.other) {
        (Some(record), true) => Seat::other_slot(record.slot),
        (Some(record), false) if is_there(&record) => record.slot,
        (Some(_) | None, _) => 0,
    };
    if let Some(node) = named {
        return Ok((node, slot));
    }
    let record = record.ok_or_else(|| {
        let hint = "blueprint-hub workload ls shows them; what one wrote that was removed is still on its node: \
                    name that with --node";
        ApiError::not_found(format!("there is no workload for {key}"), hint)
    })?;
    let none = || ApiError::unavailable(format!("the workload {key} has no node, and so no output yet"));
    Ok((record.node.ok_or_else(none)?, slot))
}

/// Seat and runs of the other version, where its lines stand in the ring of the one that serves.
async fn shared_place(
    state: &AdminState,
    key: ServiceKey,
    asked: &Asked,
) -> Result<Option<(u8, Runs)>, ApiError> {
    let view = state.hub.workloads();
    let Some(record) = view.records.get(&key).filter(|_| asked.other) else { return Ok(None) };
    let update = view.updates.get(&key).map(|shown| &shown.update);
    let versions = if update.is_some() { Vec::new() } else { state.hub.workload_versions(key).await? };
    Ok(other::in_the_same_place(record, update, &versions).map(|runs| (record.slot, runs)))
}

/// What is on its way out.
struct Flow<L> {
    pieces: LogsStream,
    /// Why the workload is of this node no longer.
    left: L,
    /// Since when that is known.
    left_since: Option<Instant>,
}

impl<L: Fn() -> Option<&'static str>> Flow<L> {
    /// Whether to end here. What the workload writes on its way to its end comes before, but not for long.
    fn has_left(&mut self, is_quiet: bool) -> Option<&'static str> {
        let why = (self.left)();
        let since = *self.left_since.get_or_insert_with(Instant::now);
        if why.is_none() {
            self.left_since = None;
        }
        why.filter(|_| is_quiet || since.elapsed() >= ALIVE)
    }
}

/// The lines as they go out. The last says whether that is all.
fn lines<L: Fn() -> Option<&'static str>>(
    pieces: LogsStream,
    left: L,
    (later, runs): (Option<Later>, Runs),
    (service, node): (ServiceKey, String),
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    unfold(Some(Flow { pieces, left, left_since: None }), move |flow| {
        let node = node.clone();
        async move {
            let mut flow = flow?;
            let (mut documents, is_quiet) = match timeout(ALIVE, flow.pieces.next()).await {
                Err(_) => (vec![json!({ "notice": "alive" })], true),
                Ok(Some(Ok(LogsPiece { mut lines, missed, reached, is_last }))) => {
                    // Agents of an earlier version give those of all runs.
                    lines.retain(|line| runs.has(line.generation));
                    lines.retain(|line| later.is_none_or(|later| later.is_after(line)));
                    let is_quiet = lines.is_empty();
                    // Lines have cursors of their own.
                    let reached = reached.filter(|_| is_quiet && !is_last);
                    let reached =
                        reached.map(|reached| json!({ "notice": "alive", "cursor": reached.to_string() }));
                    let missed = (missed > 0).then(|| json!({ "notice": "missed", "lines": missed }));
                    let lines = lines.into_iter().map(|line| document(line, service, &node));
                    let end = is_last.then(|| json!({ "notice": "end" }));
                    let documents: Vec<_> =
                        missed.into_iter().chain(lines).chain(reached).chain(end).collect();
                    if is_last {
                        return Some((Ok(bytes(&documents)), None));
                    }
                    (documents, is_quiet)
                }
                Ok(Some(Err(error))) => return Some((Ok(bytes(&[broken(&error)])), None)),
                Ok(None) => return Some((Ok(bytes(&[broken(&LogsError::Stopping)])), None)),
            };
            let left = flow.has_left(is_quiet);
            documents.extend(left.map(|why| broken(&why)));
            Some((Ok(bytes(&documents)), left.is_none().then_some(flow)))
        }
    })
}

fn broken(why: &dyn Display) -> Value {
    json!({ "notice": "broken", "reason": why.to_string() })
}

fn bytes(documents: &[Value]) -> Bytes {
    documents.iter().map(|document| format!("{document}\n")).collect::<String>().into()
}

fn document(line: LogsLine, service: ServiceKey, node: &str) -> Value {
    json!({
        "cursor": line.cursor.to_string(),
        "seq": line.cursor.seq,
        "time": humantime::format_rfc3339_millis(SystemTime::from(bounded(line.at))).to_string(),
        "stream": line.stream.label(),
        "level": line.level.map(LogLevel::label),
        "text": line.text,
        "goes_on": line.goes_on,
        "service": service,
        "generation": line.generation,
        "node": node,
    })
}

/// The formatter refuses years past 9999, which a node can say.
fn bounded(at: Timestamp) -> Timestamp {
    at.min(Timestamp::from_millis(253_402_300_799_999))
}

impl From<LogsError> for ApiError {
    fn from(error: LogsError) -> Self {
        let (text, wait) =
            (error.to_string(), "try again in a moment; with -f the command does so by itself");
        match error {
            LogsError::Away | LogsError::NoAnswer | LogsError::Broken(_) | LogsError::Stopping => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text, wait)
            }
            LogsError::TooMany { .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many",
                text,
                "end another `blueprint-hub logs -f` first",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use blueprint_common_types::LogStream;
    use futures_util::stream::{self, iter};

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    /// A line of a ring.
    fn of(ring: u64, seq: u64, generation: u64) -> LogsLine {
        LogsLine {
            cursor: LogCursor { ring, seq },
            at: Timestamp::from_millis(0),
            generation,
            stream: LogStream::Stdout,
            level: None,
            text: format!("line {seq} of run {generation}"),
            goes_on: false,
        }
    }

    #[tokio::test]
    async fn where_the_ring_is_another_only_later_runs_are_shown_and_from_their_start() {
        let piece = |lines: Vec<LogsLine>| LogsPiece {
            reached: lines.last().map(|line| line.cursor),
            lines,
            ..LogsPiece::default()
        };
        let read = async |pieces: Vec<LogsPiece>| {
            let pieces = iter(pieces.into_iter().map(Ok)).chain(stream::pending()).boxed();
            let later = Some(Later { ring: 1, run: 5, at: Timestamp::from_millis(1) });
            let wanted = (later, Runs::default());
            let out = lines(pieces, || None::<&'static str>, wanted, (SERVICE, "one".to_owned()));
            let out: Vec<_> = out.take(2).map(|bytes| bytes.unwrap()).collect().await;
            out.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect::<Vec<_>>()
        };
        let same = read(vec![piece(vec![of(1, 8, 5)]), piece(vec![of(1, 9, 6)])]).await;
        assert!(same[0].contains("line 8 of run 5") && same[1].contains("line 9 of run 6"), "{same:?}");
        let other =
            read(vec![piece(vec![of(2, 1, 3), of(2, 2, 4)]), piece(vec![of(2, 3, 4), of(2, 4, 6)])]).await;
        assert!(!other[0].contains("line") && other[0].contains(&LogCursor { ring: 2, seq: 2 }.to_string()));
        assert!(!other[1].contains("line 3") && other[1].contains("line 4 of run 6"), "{other:?}");
        // The answer broke off behind the first of these pieces: who asks again names the other ring, and the same run.
        let again =
            read(vec![piece(vec![of(1, 3, 3), of(1, 4, 4)]), piece(vec![of(1, 5, 4), of(1, 6, 6)])]).await;
        assert!(!again[0].contains("line") && !again[1].contains("line 5"), "{again:?}");
        assert!(again[1].contains("line 6 of run 6"), "{again:?}");
    }

    #[tokio::test]
    async fn a_follower_is_told_that_the_workload_left_behind_its_last_lines() {
        let line = LogsLine {
            cursor: LogCursor { ring: 1, seq: 7 },
            at: Timestamp::from_millis(0),
            generation: 1,
            stream: LogStream::Stdout,
            level: None,
            text: "bye".to_owned(),
            goes_on: false,
        };
        let lines_piece = LogsPiece { lines: vec![line], ..LogsPiece::default() };
        let reached = LogsPiece { reached: Some(LogCursor { ring: 1, seq: 9 }), ..LogsPiece::default() };
        let pieces = [lines_piece.clone(), reached, lines_piece, LogsPiece::default()].map(Ok);
        // Its node stays connected, and gives empty pieces for ever.
        let pieces = iter(pieces).chain(stream::pending()).boxed();
        let looks = Cell::new(0);
        // The third piece is the first that comes after it moved.
        let left = || (looks.replace(looks.get() + 1) >= 2).then_some("the workload moved");
        let out = lines(pieces, left, (None, Runs::default()), (SERVICE, "one".to_owned()));
        let out: Vec<_> =
            out.map(|bytes| String::from_utf8(bytes.unwrap().to_vec()).unwrap()).collect().await;
        assert_eq!(out.len(), 4, "{out:?}");
        let alive: Value = serde_json::from_str(&out[1]).unwrap();
        let cursor = LogCursor { ring: 1, seq: 9 }.to_string();
        assert_eq!(alive, json!({ "notice": "alive", "cursor": cursor }), "who follows goes on behind it");
        assert!(out[2].contains("bye") && !out[2].contains("broken"), "{out:?}");
        let last: Value = serde_json::from_str(&out[3]).unwrap();
        assert_eq!(last, json!({ "notice": "broken", "reason": "the workload moved" }));
    }
}
