//! Commands beside workloads.

use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::response::Response;
use blueprint_common_runtime::frames::{ALIVE, ExitFrame, Frame, FrameReader, SILENCE};
use blueprint_common_runtime::local_api::LocalStream;
use blueprint_common_runtime::places::Place;
use blueprint_common_types::{AgentId, DoorAsk, ExecAsk, ServiceKey, TerminalSize};
use blueprint_hub_registry_core::policy::SessionKind;
use futures_util::future::{BoxFuture, FutureExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{interval, sleep, timeout};
use tracing::info;

use super::{
    Asker, EXECS, EXECS_OF_NODE, Of, Refusal, SessionStream, answer_of, cut, door, parts, runner,
    session_name, switching,
};
use crate::AdminState;
use crate::error::ApiError;
use crate::policy::Way;

/// Longest time that a command may have, in seconds.
const LONGEST: u64 = 24 * 3600;

/// How much longer than its time a command may take to be ended and to say what it had written.
const OVERTIME: Duration = Duration::from_secs(20);

/// Characters of a command that the audit log keeps beside its hash.
const SHOWN: usize = 512;

/// How long the client may take to make its connection a stream, and a stream to take the last frame.
const CLIENT_WITHIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    argv: Vec<String>,
    #[serde(default)]
    stdin: bool,
    terminal: Option<TerminalSize>,
    timeout_secs: u64,
    /// Name or id of the node that it has to be.
    node: Option<String>,
}

pub(crate) async fn exec(
    State(state): State<AdminState>,
    way: Option<Extension<Way>>,
    Path((blueprint, service)): Path<(u64, u64)>,
    request: Request,
) -> Result<Response, ApiError> {
    let (upgrade, asked) = parts::<Asked>(request).await?;
    if asked.timeout_secs == 0 || asked.timeout_secs > LONGEST {
        let text = format!("timeout_secs is not within 1 and {LONGEST}");
        return Err(ApiError::invalid(text, "a command that runs for longer belongs into a workload"));
    }
    let service = ServiceKey { blueprint, service };
    let asker = Asker::new(Of::Service(service), way.map(|Extension(way)| way), SessionKind::Exec);
    let (answered, answer) = oneshot::channel();
    let spawner = state.spawner.clone();
    spawner.spawn("exec", async move {
        let begun = match begin(&state, (&asker, service), asked).await {
            Ok(begun) => begun,
            Err(refusal) => return drop(answered.send(asker.refuse(&state, refusal).await)),
        };
        state.sessions.began("exec");
        // Where nobody waits for it the connection is gone, which `run` finds.
        let _ = answered.send(switching());
        Box::pin(run(state, asker, begun, upgrade)).await;
    });
    answer_of(answer).await
}

/// A command that its node has started.
struct Begun {
    name: String,
    node: Box<dyn SessionStream>,
    longest: Duration,
    _places: (OwnedSemaphorePermit, Place<AgentId>),
}

async fn begin(
    state: &AdminState,
    (asker, service): (&Asker, ServiceKey),
    asked: Asked,
) -> Result<Begun, Refusal> {
    let grant = asker.pass(state).await?;
    let runner = runner(state, &asker.of, asked.node.as_deref())?;
    let sessions = &state.sessions;
    let place = std::sync::Arc::clone(&sessions.execs).try_acquire_owned();
    let place = place.map_err(|_| Refusal::too_many(format!("{EXECS} commands run on this hub already")))?;
    let of_node = sessions.execs_of.begin(runner.node).ok_or_else(|| {
        Refusal::too_many(format!("{EXECS_OF_NODE} commands run on node {} already", runner.name))
    })?;
    let name = session_name()?;
    let hash = hash(&asked.argv);
    let (who, node, id) = (asker.who, &runner.name, runner.node);
    let limit = asked.timeout_secs;
    let shown = shown(&asked.argv);
    asker
        .begin(
            state,
            format!("session {name} by {who}, grant {grant:?}, on node {node} ({id}), for {limit} s at most, argv sha256 {hash}: {shown}"),
        )
        .await?;
    let ask = DoorAsk::Exec(ExecAsk {
        service,
        generation: runner.generation,
        argv: asked.argv,
        stdin: asked.stdin,
        terminal: asked.terminal,
        timeout_secs: limit,
    });
    let (stream, _) = match door::open(state, &runner, &ask).await {
        Ok(opened) => opened,
        Err(refusal) => return Err(asker.not_begun(state, &name, refusal).await),
    };
    info!(%service, node, session = name, "a command runs beside a workload");
    let longest = Duration::from_secs(limit).saturating_add(OVERTIME);
    Ok(Begun { name, node: stream, longest, _places: (place, of_node) })
}

/// SHA-256 of the words with a zero byte behind each, as `/proc/PID/cmdline` has them.
fn hash(argv: &[String]) -> String {
    let mut hasher = Sha256::new();
    for word in argv {
        hasher.update(word);
        hasher.update([0]);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The words of a command for a log: quoted, so that none of them steers anything, and cut.
fn shown(argv: &[String]) -> String {
    let all = argv.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(" ");
    if all.chars().count() <= SHOWN { all } else { all.chars().take(SHOWN).chain(['\u{2026}']).collect() }
}

/// What passed of a command.
#[derive(Debug, Default)]
struct Counts {
    stdin: usize,
    stdout: usize,
    stderr: usize,
}

async fn run(state: AdminState, asker: Asker, begun: Begun, upgrade: OnUpgrade) {
    let Begun { name, node, longest, _places } = begun;
    let mut counts = Counts::default();
    let end = match timeout(CLIENT_WITHIN, upgrade).await {
        Ok(Ok(upgraded)) => {
            let client = TokioIo::new(upgraded);
            let drain = state.spawner.stop().drain;
            Box::pin(carry(
                client,
                node,
                &mut counts,
                [drain.cancelled().boxed(), asker.shut(&state).boxed(), sleep(longest).boxed()],
            ))
            .await
        }
        Ok(Err(_)) | Err(_) => ExitFrame { code: None, reason: "its client left at once".to_owned() },
    };
    let how = match (end.code, end.reason.as_str()) {
        (Some(code), "") => format!("exit code {code}"),
        (Some(code), reason) => format!("exit code {code}; {}", cut(reason)),
        (None, "") => "no exit code is known".to_owned(),
        (None, reason) => cut(reason),
    };
    let Counts { stdin, stdout, stderr } = counts;
    info!(service = %asker.of, session = name, how, "a command beside a workload is over");
    let detail = format!("session {name}: {how}; bytes in {stdin}, out {stdout}, err {stderr}");
    asker.end(&state, detail).await;
}

fn over(reason: &str) -> ExitFrame {
    ExitFrame { code: None, reason: reason.to_owned() }
}

/// Passes frames on until the command is over, or one side is gone.
async fn carry(
    client: LocalStream,
    node: Box<dyn SessionStream>,
    counts: &mut Counts,
    [drain, shut, late]: [BoxFuture<'_, ()>; 3],
) -> ExitFrame {
    let (client_reader, mut client_writer) = tokio::io::split(client);
    let (node_reader, mut node_writer) = tokio::io::split(node);
    let (mut from_client, mut from_node) = (FrameReader::new(client_reader), FrameReader::new(node_reader));
    let Counts { stdin, stdout, stderr } = counts;
    let up = async {
        let mut ticks = interval(ALIVE);
        loop {
            let frame = tokio::select! {
                _ = ticks.tick() => Frame::Alive,
                frame = from_client.next() => match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) | Err(_) => return over("its client is gone"),
                },
            };
            match &frame {
                Frame::Stdin(bytes) => *stdin = stdin.saturating_add(bytes.len()),
                Frame::Alive | Frame::StdinEnd | Frame::Resize(..) | Frame::Signal(_) => {}
                Frame::Stdout(_)
                | Frame::Stderr(_)
                | Frame::Taken(_)
                | Frame::Exit(_)
                | Frame::Arrived(_)
                | Frame::Session(_) => return over("its client sent what only a node says"),
            }
            if frame.write(&mut node_writer).await.is_err() {
                // What the node said before is read by the other direction, or its silence.
                return std::future::pending().await;
            }
        }
    };
    let down = async {
        loop {
            let frame = match timeout(SILENCE, from_node.next()).await {
                Ok(Ok(Some(frame))) => frame,
                Ok(Ok(None)) => return over("its node or its workload is gone"),
                Ok(Err(error)) => return over(&format!("its node is gone: {error}")),
                Err(_) => return over("its node is silent"),
            };
            match &frame {
                Frame::Stdout(bytes) => *stdout = stdout.saturating_add(bytes.len()),
                Frame::Stderr(bytes) => *stderr = stderr.saturating_add(bytes.len()),
                Frame::Exit(exit) => return exit.clone(),
                Frame::Alive | Frame::Taken(_) => {}
                Frame::Stdin(_)
                | Frame::StdinEnd
                | Frame::Resize(..)
                | Frame::Signal(_)
                | Frame::Arrived(_)
                | Frame::Session(_) => return over("its node sent what only a client says"),
            }
            if frame.write(&mut client_writer).await.is_err() {
                return over("its client is gone");
            }
        }
    };
    let end = tokio::select! {
        biased;
        () = drain => over("the hub is stopping"),
        () = shut => over("the policy does not allow it any more"),
        () = late => over("its time is up, and its node did not end it in time"),
        end = down => end,
        end = up => end,
    };
    let last = async {
        let _ = Frame::Exit(end.clone()).write(&mut client_writer).await;
        let _ = client_writer.shutdown().await;
    };
    // Who is gone does not take it.
    let _ = timeout(CLIENT_WITHIN, last).await;
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_cut_and_steers_nothing() {
        let words = ["sh", "-c", "printf '\u{1b}[2J'\n"].map(str::to_owned);
        assert_eq!(shown(&words), "\"sh\" \"-c\" \"printf '\\u{1b}[2J'\\n\"");
        let long = shown(&["x".repeat(10_000)]);
        assert!(long.chars().count() == SHOWN + 1 && long.ends_with('\u{2026}'), "{long}");
    }
}
