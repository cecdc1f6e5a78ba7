//! Connections to the port where agents take what the operator begins.
//!
//! Who takes the connection proves to be the agent before it hears what is asked for, and the agent learns over the control
//! stream that it comes from here: another program of either machine may have the address.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_types::{AGENT_DOOR_PORT, DoorAnswer, DoorAsk, DoorRefusal, DoorTicket, MAX_DOOR_LINE};
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
    let line = serde_json::to_vec(ask).map_err(|error| broken(&error))?;
    let ticket = DoorTicket::new(&line).map_err(|error| broken(&error))?;
    if !state.hub.door_ticket(runner.node, &ticket).await {
        return Err(broken(&"it is not connected to this hub"));
    }
    let mut stream = state.hub.overlay().connect(address).await.map_err(|error| broken(&error))?;
    let proven = timeout(ANSWER_WITHIN, prove(&mut stream, &ticket)).await;
    let proven = proven.map_err(|_| broken(&"it does not answer"))?.map_err(|error| broken(&error))?;
    if !proven {
        let text = format!("what answers at port {AGENT_DOOR_PORT} of node {node} is not its agent");
        let hint = "look on the node at what has the port; or its agent is older than this hub";
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_the_agent", text, hint));
    }
    let asked = async {
        say(&mut stream, &line).await?;
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

/// Shows the ticket; says whether the other side proves that it was given the same.
async fn prove<S: SessionStream>(stream: &mut S, ticket: &DoorTicket) -> io::Result<bool> {
    say(stream, ticket.hello().expose().as_bytes()).await?;
    Ok(ticket.is_proof(&read_line(stream).await?))
}

async fn say<S: SessionStream>(stream: &mut S, line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    stream.write_all(b"\n").await?;
    stream.flush().await
}

/// Reads up to the first line feed, byte by byte: what comes behind it is the session's.
async fn read_line<S: SessionStream>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return Ok(line),
            byte if line.len() < MAX_DOOR_LINE => line.push(byte),
            _ => return Err(io::Error::other("its answer is too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_was_given_the_ticket_proves_it() {
        let [ticket, other] = [b"ask", b"ask"].map(|ask| DoorTicket::new(ask).unwrap());
        for (answer, is_it) in [(ticket.proof(), true), (other.proof(), false), (ticket.hello(), false)] {
            let (mut near, mut far) = tokio::io::duplex(1000);
            say(&mut far, answer.expose().as_bytes()).await.unwrap();
            assert_eq!(prove(&mut near, &ticket).await.unwrap(), is_it);
            // It has heard the ticket, and nothing of what is asked for.
            assert!(ticket.is_hello(&read_line(&mut far).await.unwrap()));
        }
    }
}
