//! `forward`: ports of a service or of its node, where the operator is, and the other way round.

mod side;

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Exit, Output, eprint_line, print_json, print_line, printable};
use blueprint_common_runtime::datagrams::Flows;
use blueprint_common_runtime::frames::{ALIVE, Frame, FrameReader, SILENCE};
use blueprint_common_runtime::local_api::LocalStream;
use blueprint_common_types::ServiceKey;
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use tokio::net::{TcpListener, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::client::{runtime, segment, upgrade};
use crate::cli::Global;
use side::{Counts, Local, Near, One};

/// Pause before a hub or node that is away is asked again, at first; each is twice the last.
const AGAIN: Duration = Duration::from_millis(500);

/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A session that stood for so long was a good one: the pauses begin anew.
const GOOD: Duration = Duration::from_secs(60);

/// Connections that this command opens at once. Others wait here, and take no places of the hub's socket meanwhile.
const OPENING: usize = 8;

/// Connections and flows at once; the hub has as many for a forward.
const AT_ONCE: usize = 256;

/// Where the operator's side is: `PORT` or `ADDRESS:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(SocketAddr);

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.parse::<u16>() {
            Ok(port) => Some((Ipv4Addr::LOCALHOST, port).into()),
            Err(_) => text.replacen("localhost:", "127.0.0.1:", 1).parse().ok(),
        };
        address.map(Self).ok_or_else(|| format!("{text:?} is neither PORT nor ADDRESS:PORT"))
    }
}

/// Brings a service's port, or one of a node, to where this command runs; or the other way round.
#[derive(Debug, Args)]
#[command(
    override_usage = "blueprint-hub forward [OPTIONS] [SERVICE] LOCAL",
    after_help = "Example: blueprint-hub forward 7/42 5432
         blueprint-hub forward --node node-1 5432 --port 5432
Listens on 127.0.0.1:5432 and carries each connection to a healthy target of service 7/42; port 0 takes a free one. With --port \
it leads to that port of the loopback of the workload's node; without a service, of the node that --node names. With --reverse the node listens on --port of its loopback, and \
each connection comes to the place named here. --udp carries datagrams, a flow for each source, which ends after 60 silent \
seconds. hub.toml (forward.enabled) and a [[session]] of the policy have to allow it, and for ports of a node its agent.toml \
(forward.connect_ports, forward.listen_ports). The listener stays while the hub is away. Ctrl-C ends it."
)]
pub(crate) struct Forward {
    /// Service, as BLUEPRINT/SERVICE, left out for a port of the node that --node names; and where this command listens, or
    /// connects to with --reverse: PORT or ADDRESS:PORT
    #[arg(required = true, num_args = 1..=2, value_names = ["SERVICE", "LOCAL"])]
    places: Vec<String>,
    /// Port of the loopback of the workload's node, or of --node
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// The node listens on --port, and what comes there comes here
    #[arg(long, requires = "port")]
    reverse: bool,
    /// Datagrams
    #[arg(long)]
    udp: bool,
    /// Name or id of the node: without a service the one that is meant, else the one that it has to be
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
}

/// The two ends of a forward.
struct Ends {
    to: To,
    local: Place,
}

/// What a forward leads to, or comes from.
enum To {
    Service(ServiceKey),
    /// A node by its name or id, whatever runs there.
    Node(String),
}

impl Forward {
    pub(crate) fn run(self, global: &Global) -> Result<(), CliError> {
        let ends = self.ends()?;
        runtime()?.block_on(Box::pin(self.serve(global, &ends)))
    }

    /// Where it leads to, or comes from, and where this side is.
    fn ends(&self) -> Result<Ends, CliError> {
        let (service, local) = match self.places.as_slice() {
            [local] => (None, local),
            [service, local] => (Some(service), local),
            _ => return Err(CliError::usage("a service and one place are expected")),
        };
        let local: Place = local.parse().map_err(|error: String| CliError::usage(error))?;
        let to = match (service, &self.node) {
            (Some(service), _) => To::Service(service.parse().map_err(|_| {
                CliError::usage(format!("{service:?} is no service"))
                    .hint("write BLUEPRINT/SERVICE, such as 7/42")
            })?),
            (None, Some(node)) if self.port.is_some() => To::Node(node.clone()),
            (None, Some(node)) => {
                return Err(CliError::usage(format!("which port of node {node}?"))
                    .hint("add --port PORT, or name a service before the place"));
            }
            (None, None) => {
                return Err(CliError::usage("neither a service nor --node is named")
                    .hint("for example blueprint-hub forward 7/42 5432"));
            }
        };
        Ok(Ends { to, local })
    }

    async fn serve(self, global: &Global, Ends { to, local }: &Ends) -> Result<(), CliError> {
        let mut local = self.listen(*local).await?;
        let counts = Arc::new(Counts::default());
        let failed = |error: std::io::Error| CliError::failure(format!("cannot listen to signals: {error}"));
        let mut interrupted = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut ended = signal(SignalKind::terminate()).map_err(failed)?;
        let done = tokio::select! {
            done = Box::pin(self.sessions(global, to, &mut local, &counts)) => done,
            _ = interrupted.recv() => Ok(()),
            _ = ended.recv() => Ok(()),
        };
        if counts.has_begun() {
            match global.output {
                Output::Json => print_json(&counts.json()),
                Output::Table => eprint_line(&counts.line()),
            }
        }
        done
    }

    /// Listens here, where that is the side that does.
    async fn listen(&self, Place(place): Place) -> Result<Local, CliError> {
        let failed = |error: std::io::Error| {
            CliError::conflict(format!("cannot listen on {place}: {error}"))
                .hint("name another port, or 0 for a free one")
        };
        if self.reverse {
            return Ok(Local::Reverse(place, self.udp));
        }
        if self.udp {
            let socket = UdpSocket::bind(place).await.map_err(failed)?;
            return Ok(Local::Udp(socket.local_addr().map_err(failed)?, Flows::new(socket, AT_ONCE)));
        }
        TcpListener::bind(place).await.map(Local::Tcp).map_err(failed)
    }

    /// Opens the forward, again and again: the listener stays while the hub is away.
    async fn sessions(
        &self,
        global: &Global,
        to: &To,
        local: &mut Local,
        counts: &Arc<Counts>,
    ) -> Result<(), CliError> {
        let (path, node) = match to {
            To::Service(ServiceKey { blueprint, service }) => {
                (format!("/v1/services/{blueprint}/{service}/forward"), self.node.as_deref())
            }
            To::Node(node) => (format!("/v1/nodes/{}/forward", segment(node)?), None),
        };
        let body = json!({"port": self.port, "reverse": self.reverse, "udp": self.udp, "node": node});
        let mut trouble: Option<String> = None;
        let mut pause = AGAIN;
        loop {
            let begun = Instant::now();
            let error = match upgrade(global, Method::POST, &path, &body).await {
                Ok(stream) => {
                    let is_back = trouble.take().is_some();
                    let opened = |local: &Local| self.say_open(global, to, local, is_back);
                    match Box::pin(hold(global, stream, local, counts, opened)).await {
                        Ok(never) => match never {},
                        Err(error) => error,
                    }
                }
                // The first answer says whether there is anything to wait for.
                Err(error)
                    if !counts.has_begun()
                        || error.exit != Exit::Unavailable && error.exit != Exit::NotFound =>
                {
                    return Err(error);
                }
                Err(error) => error,
            };
            if trouble.as_ref() != Some(&error.message) {
                eprint_line(&format!("{}; new connections work again once that is over", error.message));
                trouble = Some(error.message);
            }
            counts.begin();
            // Nobody is left waiting for what does not come.
            let refuse = async {
                while let Ok(one) = local.next().await {
                    drop(one);
                }
                std::future::pending::<()>().await;
            };
            if begun.elapsed() >= GOOD {
                pause = AGAIN;
            }
            tokio::select! {
                () = refuse => {}
                () = sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    fn say_open(&self, global: &Global, to: &To, local: &Local, is_back: bool) {
        let to = match (self.port, to) {
            (None, To::Service(service)) => format!("service {service}"),
            (None, To::Node(node)) => format!("node {node}"),
            (Some(port), To::Service(service)) => format!("127.0.0.1:{port} of the node of {service}"),
            (Some(port), To::Node(node)) => format!("127.0.0.1:{port} of node {node}"),
        };
        let protocol = if self.udp { "udp" } else { "tcp" };
        let here = local.place();
        match global.output {
            Output::Json => print_line(
                &json!({"listen": here, "to": to, "protocol": protocol, "reverse": self.reverse}).to_string(),
            ),
            Output::Table if is_back => eprint_line("the forward is open again"),
            Output::Table if self.reverse => eprint_line(&format!("{to} leads to {here} ({protocol})")),
            Output::Table => eprint_line(&format!("{here} leads to {to} ({protocol})")),
        }
    }
}

/// Takes connections for as long as the session stands.
async fn hold(
    global: &Global,
    stream: LocalStream,
    local: &mut Local,
    counts: &Arc<Counts>,
    opened: impl FnOnce(&Local),
) -> Result<std::convert::Infallible, CliError> {
    let gone = || CliError::unavailable("the hub is gone");
    let (reader, mut writer) = tokio::io::split(stream);
    let mut frames = FrameReader::new(reader);
    let first = timeout(SILENCE, frames.next()).await.map_err(|_| gone())?;
    let Ok(Some(Frame::Session(session))) = first else { return Err(gone()) };
    opened(local);
    counts.begin();
    let path = format!("/v1/forwards/{session}/connections");
    let mut open = JoinSet::new();
    let opening = Arc::new(Semaphore::new(OPENING));
    let mut ticks = interval(ALIVE);
    let mut heard = Instant::now();
    loop {
        let one = tokio::select! {
            biased;
            frame = frames.next() => {
                heard = Instant::now();
                match frame {
                    Ok(Some(Frame::Alive)) => continue,
                    Ok(Some(Frame::Arrived(_))) if open.len() >= AT_ONCE => {
                        counts.fail();
                        eprint_line(&format!("a connection is closed: {AT_ONCE} are open already"));
                        continue;
                    }
                    Ok(Some(Frame::Arrived(number))) => One::Arrived(number),
                    Ok(Some(Frame::Exit(exit))) => {
                        let why = printable(&exit.reason);
                        return Err(CliError::unavailable(format!("the forward is closed: {why}")));
                    }
                    Ok(Some(_) | None) | Err(_) => return Err(gone()),
                }
            }
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            _ = ticks.tick() => {
                if heard.elapsed() > SILENCE || Frame::Alive.write(&mut writer).await.is_err() {
                    return Err(gone());
                }
                continue;
            }
            // Flows are bounded by their source, and what comes for those that are open comes this way.
            one = local.next(), if open.len() < AT_ONCE || local.is_udp() => match one {
                Ok(one) => one,
                Err(error) => {
                    eprint_line(&format!("no connection can be taken: {error}"));
                    sleep(AGAIN).await;
                    continue;
                }
            },
        };
        let path = match &one {
            One::Arrived(number) => format!("{path}/{number}"),
            One::Tcp(_) | One::Udp(_) => path.clone(),
        };
        let (global, counts, far) = (global.clone(), Arc::clone(counts), local.far());
        let opening = Arc::clone(&opening);
        open.spawn(async move {
            if let Err(error) = carry(&global, (&path, &opening), one, far, &counts).await {
                counts.fail();
                eprint_line(&format!("a connection is closed: {}", printable(&error)));
            }
        });
    }
}

/// Carries a connection to its end.
async fn carry(
    global: &Global,
    (path, opening): (&str, &Semaphore),
    one: One,
    far: Option<(SocketAddr, bool)>,
    counts: &Counts,
) -> Result<(), String> {
    let near = match (one, far) {
        (One::Arrived(_), Some((place, is_udp))) => {
            let reached = Near::reach(place, is_udp).await;
            reached.map_err(|error| format!("cannot connect to {place}: {error}"))?
        }
        (One::Arrived(_), None) => return Err("this side is the one that listens".to_owned()),
        (One::Tcp(stream), _) => Near::Tcp(stream),
        (One::Udp(flow), _) => Near::Flow(flow),
    };
    let place = opening.acquire().await;
    let hub = upgrade(global, Method::GET, path, &Value::Null).await.map_err(|error| error.message)?;
    drop(place);
    near.carry(hub, counts).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_port_of_loopback_or_what_was_written() {
        for (text, place) in [
            ("5432", "127.0.0.1:5432"),
            ("localhost:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().0, place.parse::<SocketAddr>().unwrap());
        }
        for bad in ["", "65536", "host:80", "1.2.3.4"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
