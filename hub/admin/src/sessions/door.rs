//! Connections to the port where agents take what the operator begins.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_types::{AGENT_DOOR_PORT, DoorAnswer, DoorAsk, DoorRefusal, MAX_DOOR_LINE};
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Refusal, Runner, SessionStream, cut};
use crate::AdminState;

/// How long an agent may take to answer; it starts a process before it does.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Asks the agent of a node; gives the stream behind its yes, and the number of its listener.
pub(super) async fn open(
    state: &AdminState,
    runner: &Runner,
    ask: &DoorAsk,
) -> Result<(Box<dyn SessionStream>, u64), Refusal> {
    let node = &runner.name;
    let broken = |error: &dyn std::fmt::Display| {
        let hint = "it may be away: `blueprint-hub node ls` says so; else exec.enabled and forward.* are off in its agent.toml, as \
                    by default, or its agent is older than this hub";
        Refusal::unavailable(format!("node {node} takes no exec and no forward: {error}"), hint)
    };
    let address = SocketAddr::from((runner.lease.v4, AGENT_DOOR_PORT));
    let mut stream = state.hub.overlay().connect(address).await.map_err(|error| broken(&error))?;
    let mut line = serde_json::to_vec(ask).map_err(|error| broken(&error))?;
    line.push(b'\n');
    let asked = async {
        stream.write_all(&line).await?;
        stream.flush().await?;
        read_line(&mut stream).await
    };
    let answer = timeout(ANSWER_WITHIN, asked).await;
    let answer = answer.map_err(|_| broken(&"it does not answer"))?.map_err(|error| broken(&error))?;
    match serde_json::from_slice::<DoorAnswer>(&answer).map_err(|error| broken(&error))? {
        DoorAnswer::Open { listener } => Ok((stream, listener)),
        DoorAnswer::Refused(DoorRefusal { code, message, hint }) => {
            let status = match code.as_str() {
                "exec_off_node" | "forward_off_node" | "reverse_off_node" => StatusCode::FORBIDDEN,
                "not_running" | "gone" => StatusCode::NOT_FOUND,
                "exec_too_many" => StatusCode::TOO_MANY_REQUESTS,
                "invalid" | "exec_container" => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            Err(Refusal::new(status, &cut(&code), format!("node {node}: {}", cut(&message)), cut(&hint)))
        }
    }
}

/// Reads up to the first line feed, byte by byte: what comes behind it is the session's.
async fn read_line(stream: &mut Box<dyn SessionStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(line),
            byte if line.len() < MAX_DOOR_LINE => line.push(byte),
            _ => return Err(io::Error::other("its answer is too long")),
        }
    }
}
