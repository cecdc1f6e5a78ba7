//! What the hub's operator begins on this machine: commands beside workloads, and connections from and to loopback.
//!
//! One port of the overlay takes connections of the hub's own addresses. Those are any program's of the hub's host, so the
//! connection names a ticket first that the hub gave over the control stream (`tickets`), and this side proves that it has
//! it. The next line says what is asked for (`DoorAsk`), and this machine's own configuration whether it may be: nothing,
//! where that says nothing.

mod ports;
mod tickets;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::{Listener, TcpStream};
use blueprint_common_types::{
    AGENT_DOOR_PORT, DoorAnswer, DoorAsk, DoorRefusal, DoorTicket, MAX_DOOR_LINE, Secret,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::agent::AgentError;
use crate::forward::LISTEN_PAUSE;
use crate::service::ServiceTable;
use crate::shared::Shared;
use ports::Arrivals;

pub(crate) use tickets::Tickets;

/// Connections of the hub at once. The hub has fewer.
const CONNECTIONS: usize = 1024;

/// Tries to open the port after which a person is told.
const TOLD_AFTER: u32 = 20;

/// How long the first line may take.
const LINE_WITHIN: Duration = Duration::from_secs(5);

/// Takes what the hub asks for until the agent ends, while no service has the port.
pub(crate) async fn run(shared: Arc<Shared>, spawner: Spawner) -> Result<(), AgentError> {
    let _ = shared.stop.run_until_cancelled(serve(&shared, &spawner)).await;
    Ok(())
}

async fn serve(shared: &Arc<Shared>, spawner: &Spawner) {
    let (places, arrivals) = (Arc::new(Semaphore::new(CONNECTIONS)), Arrivals::default());
    let mut changes = shared.watch_services();
    let mut failures = 0u32;
    let is_taken = |table: &Arc<ServiceTable>| table.iter().any(|entry| entry.spec.port == AGENT_DOOR_PORT);
    loop {
        if changes.wait_for(|table| !is_taken(table)).await.is_err() {
            return;
        }
        match shared.spoke.plane().tunnel().listen(AGENT_DOOR_PORT).await {
            Ok(listener) => tokio::select! {
                () = accept(shared, listener, (&places, &arrivals), spawner) => {}
                _ = changes.wait_for(is_taken) => {
                    info!(port = AGENT_DOOR_PORT, "a service has the port of exec and forward: there is none");
                }
            },
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures == TOLD_AFTER {
                    warn!(port = AGENT_DOOR_PORT, %error, "no exec and no forward: another program has the port");
                }
            }
        }
        sleep(LISTEN_PAUSE).await;
    }
}

async fn accept(
    shared: &Arc<Shared>,
    mut listener: Listener,
    (places, arrivals): (&Arc<Semaphore>, &Arrivals),
    spawner: &Spawner,
) {
    while let Some(stream) = listener.accept().await {
        let source = stream.peer_addr();
        if !shared.spoke.identity().tunnel.hub.contains(source.ip()) {
            debug!(%source, "connection for exec or forward refused: it is not the hub's");
            continue;
        }
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            debug!(most = CONNECTIONS, "connection for exec or forward refused, too many");
            continue;
        };
        let (shared, arrivals, inner) = (Arc::clone(shared), arrivals.clone(), spawner.clone());
        // Not for the grace: what an operator does here does not hold the end of the agent up.
        spawner.spawn_base("exec or forward", async move {
            let work = Box::pin(answer(&shared, stream, &arrivals, &inner));
            let _ = shared.stop.run_until_cancelled(shared.idle.run_until_cancelled(work)).await;
            drop(place);
        });
    }
}

async fn answer(shared: &Arc<Shared>, mut stream: TcpStream, arrivals: &Arrivals, spawner: &Spawner) {
    let Some(ticket) = shake(&mut stream, &shared.tickets).await else { return };
    let ask = match timeout(LINE_WITHIN, read_line(&mut stream)).await {
        Ok(Ok(line)) if !ticket.is_for(&line) => Err("it is not what was announced".to_owned()),
        Ok(Ok(line)) => serde_json::from_slice::<DoorAsk>(&line).map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it did not come in time".to_owned()),
    };
    let begun = match ask {
        Ok(ask) => begin(shared, ask, arrivals).await,
        Err(why) => {
            let hint = "hub and agent may be of different versions";
            Err(DoorRefusal::new("invalid", format!("the node cannot read what is asked for: {why}"), hint))
        }
    };
    match begun {
        Ok(Begun::Exec(session)) => {
            if say(&mut stream, &DoorAnswer::Open { listener: 0 }).await {
                session.carry(stream).await;
            }
        }
        Ok(Begun::Port(port)) => port.carry(stream, arrivals, spawner).await,
        Err(refusal) => {
            info!(code = refusal.code, reason = refusal.message, "exec or forward refused");
            if say(&mut stream, &DoorAnswer::Refused(refusal)).await {
                let _ = stream.shutdown().await;
            }
        }
    }
}

/// Lets the hub prove who it is, and proves to it who this is; `None`, and counted, where it does not.
async fn shake<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, tickets: &Tickets) -> Option<DoorTicket> {
    let hello = timeout(LINE_WITHIN, read_line(stream)).await.ok().and_then(Result::ok);
    let ticket = match hello {
        Some(hello) => tickets.take(&hello).await,
        None => None,
    };
    let Some(ticket) = ticket else {
        tickets.refuse();
        debug!("connection for exec or forward refused: the hub announced none such");
        return None;
    };
    let proof = Secret::new(format!("{}\n", ticket.proof().expose()));
    stream.write_all(proof.expose().as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    Some(ticket)
}

/// What was begun, and waits for its session.
enum Begun {
    Exec(Box<blueprint_agent_workload::Session>),
    Port(ports::Port),
}

async fn begin(shared: &Shared, ask: DoorAsk, arrivals: &Arrivals) -> Result<Begun, DoorRefusal> {
    let settings = &shared.config.door;
    match ask {
        DoorAsk::Exec(ask) => {
            if !settings.exec {
                let hint =
                    "whoever owns the node sets exec.enabled = true in agent.toml and starts its agent again";
                return Err(DoorRefusal::new("exec_off_node", "the node does not allow exec", hint));
            }
            let Some(node) = shared.node.get() else {
                let text = "this node runs no workloads: workload.enabled is false there";
                return Err(DoorRefusal::new("not_running", text, "name another node"));
            };
            let (service, words) = (ask.service, ask.argv.len());
            let session = node.exec(ask).await?;
            info!(%service, words, "the operator runs a command beside a workload");
            Ok(Begun::Exec(Box::new(session)))
        }
        DoorAsk::Connect(ask) => ports::connect(ask, &settings.connect).await.map(Begun::Port),
        DoorAsk::Listen(ask) => ports::listen(ask, &settings.listen).await.map(Begun::Port),
        DoorAsk::Take { listener, connection } => arrivals.take(listener, connection).map(Begun::Port),
    }
}

/// Sends an answer; false where the hub is gone.
pub(crate) async fn say<S: AsyncWrite + Unpin>(stream: &mut S, answer: &DoorAnswer) -> bool {
    let Ok(mut line) = serde_json::to_vec(answer) else { return false };
    line.push(b'\n');
    stream.write_all(&line).await.is_ok() && stream.flush().await.is_ok()
}

/// Reads the first line. Nothing comes behind it before it is answered.
async fn read_line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut buffer = vec![0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(buffer.get(..count).unwrap_or_default());
        match line.iter().position(|byte| *byte == b'\n') {
            Some(end) if end.saturating_add(1) == line.len() => {
                line.truncate(end);
                return Ok(line);
            }
            Some(_) => return Err(io::Error::other("something comes behind the first line")),
            None if line.len() > MAX_DOOR_LINE => return Err(io::Error::other("the first line is too long")),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_no_ticket_of_the_hub_is_told_nothing_and_counted() {
        let tickets = Tickets::default();
        let [real, forged] = [b"ask", b"ask"].map(|ask| DoorTicket::new(ask).unwrap());
        tickets.put(real.clone(), tokio::time::Instant::now());
        let greet = |ticket: DoorTicket| {
            let tickets = &tickets;
            async move {
                let (mut near, mut far) = tokio::io::duplex(1000);
                let hello = format!("{}\n", ticket.hello().expose());
                far.write_all(hello.as_bytes()).await.unwrap();
                let shaken = shake(&mut near, tickets).await;
                drop(near);
                let mut told = String::new();
                far.read_to_string(&mut told).await.unwrap();
                (shaken, told)
            }
        };
        let (shaken, told) = greet(real.clone()).await;
        assert_eq!(shaken, Some(real.clone()));
        assert!(real.is_proof(told.trim_end().as_bytes()));
        // It is good once; both are waited for, since they could be on their way.
        let (again, other) = tokio::join!(greet(real), greet(forged));
        assert_eq!((again, other), ((None, String::new()), (None, String::new())));
        assert_eq!(tickets.refused(), 2);
    }

    #[tokio::test]
    async fn a_first_line_is_whole_alone_and_bounded() {
        let read = |text: Vec<u8>| async move { read_line(&mut text.as_slice()).await };
        assert_eq!(read(b"{}\n".to_vec()).await.unwrap(), b"{}");
        for bad in [b"{}".to_vec(), b"{}\nx".to_vec(), vec![b'x'; MAX_DOOR_LINE + 5000]] {
            assert!(read(bad).await.is_err());
        }
    }
}
