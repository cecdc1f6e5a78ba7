//! What workloads wrote, a JSON document a line, as it comes from their node.

use std::convert::Infallible;
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
use tokio::time::timeout;

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
    let invalid = |error: &dyn std::fmt::Display| ApiError::invalid(error.to_string(), shape);
    let after: Option<Result<LogCursor, _>> = asked.after.as_deref().map(str::parse);
    let level: Option<Result<LogLevel, _>> = asked.level.as_deref().map(str::parse);
    if asked.grep.len() > MAX_GREP {
        return Err(invalid(&format!("grep has more than {MAX_GREP} bytes")));
    }
    let ask = LogsAsk {
        service: key,
        after: after.transpose().map_err(|error| invalid(&error))?,
        since: Timestamp::from_millis(asked.since),
        tail: asked.tail,
        level: level.transpose().map_err(|error| invalid(&error))?,
        grep: asked.grep,
        follow: asked.follow,
    };
    let snapshot = state.hub.snapshot();
    let node = match &asked.node {
        Some(node) => crate::nodes::find(&snapshot, node)?.agent.id,
        None => {
            let view = state.hub.workloads();
            let record = view.records.get(&key).ok_or_else(|| {
                let hint = "blueprint-hub workload ls shows them; what one wrote that was removed is still on its node: \
                            name that with --node";
                ApiError::not_found(format!("there is no workload for {key}"), hint)
            })?;
            record.node.ok_or_else(|| {
                ApiError::unavailable(format!("the workload {key} has no node, and so no output yet"))
            })?
        }
    };
    let name = snapshot.agents.get(&node).map_or_else(|| node.to_string(), |view| view.agent.name.clone());
    let pieces = state.hub.logs(node, ask).await?;
    let begin = bytes(&[json!({ "notice": "node", "node": name })]);
    let begin = once(async { Ok::<_, Infallible>(begin) });
    let body = begin.chain(lines(pieces, key, name));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(body)).into_response())
}

/// The lines as they go out. The last says whether that is all.
fn lines(
    pieces: LogsStream,
    service: ServiceKey,
    node: String,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    unfold(Some(pieces), move |pieces| {
        let node = node.clone();
        async move {
            let mut pieces = pieces?;
            let (documents, rest) = match timeout(ALIVE, pieces.next()).await {
                Err(_) => (vec![json!({ "notice": "alive" })], Some(pieces)),
                Ok(Some(Ok(LogsPiece { lines, missed, is_last }))) => {
                    let missed = (missed > 0).then(|| json!({ "notice": "missed", "lines": missed }));
                    let lines = lines.into_iter().map(|line| document(line, service, &node));
                    let end = is_last.then(|| json!({ "notice": "end" }));
                    (missed.into_iter().chain(lines).chain(end).collect(), (!is_last).then_some(pieces))
                }
                Ok(Some(Err(error))) => (broken(&error), None),
                Ok(None) => (broken(&LogsError::Stopping), None),
            };
            Some((Ok(bytes(&documents)), rest))
        }
    })
}

fn broken(error: &LogsError) -> Vec<Value> {
    vec![json!({ "notice": "broken", "reason": error.to_string() })]
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
