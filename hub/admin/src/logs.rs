//! What workloads wrote, a JSON document a line, as it comes from their node.

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use blueprint_common_types::{LogCursor, LogLevel, ServiceKey, Timestamp};
use blueprint_hub_registry_core::workload::{LogsAsk, LogsError, LogsLine, LogsPiece};
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
}

pub(crate) async fn read(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response, ApiError> {
    let shape = "docs/api.md lists what may be asked for";
    let Query(asked) = asked.map_err(|error| ApiError::invalid(error.body_text(), shape))?;
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
        grep: asked.grep,
        follow: asked.follow,
    };
    let snapshot = state.hub.snapshot();
    let node = match &asked.node {
        Some(node) => {
            let node = crate::nodes::find(&snapshot, node)?.agent.id;
            let view = state.hub.workloads();
            let serving = view.records.get(&key).filter(|record| record.node == Some(node));
            ask.slot = serving.map_or(0, |record| record.slot);
            node
        }
        None => {
            let view = state.hub.workloads();
            let record = view.records.get(&key).ok_or_else(|| {
                let hint = "blueprint-hub workload ls shows them; what one wrote that was removed is still on its node: \
                            name that with --node";
                ApiError::not_found(format!("there is no workload for {key}"), hint)
            })?;
            ask.slot = record.slot;
            record.node.ok_or_else(|| {
                ApiError::unavailable(format!("the workload {key} has no node, and so no output yet"))
            })?
        }
    };
    let name = snapshot.agents.get(&node).map_or_else(|| node.to_string(), |view| view.agent.name.clone());
    let slot = ask.slot;
    let pieces = state.hub.logs(node, ask).await?;
    let begin = bytes(&[json!({ "notice": "node", "node": name })]);
    let begin = once(async { Ok::<_, Infallible>(begin) });
    let (hub, is_watched) = (Arc::clone(&state.hub), asked.follow && asked.node.is_none());
    let left = move || {
        let view = hub.workloads();
        match view.records.get(&key).filter(|_| is_watched) {
            Some(record) => {
                (record.node != Some(node) || record.slot != slot).then_some("the workload moved")
            }
            None => is_watched.then_some("the workload was removed"),
        }
    };
    let body = begin.chain(lines(pieces, left, key, name));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
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
    service: ServiceKey,
    node: String,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    unfold(Some(Flow { pieces, left, left_since: None }), move |flow| {
        let node = node.clone();
        async move {
            let mut flow = flow?;
            let (mut documents, is_quiet) = match timeout(ALIVE, flow.pieces.next()).await {
                Err(_) => (vec![json!({ "notice": "alive" })], true),
                Ok(Some(Ok(LogsPiece { lines, missed, reached, is_last }))) => {
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
        let out = lines(pieces, left, ServiceKey { blueprint: 7, service: 42 }, "one".to_owned());
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
