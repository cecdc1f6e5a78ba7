//! From a destination to a stream: the hub says where it is, and the tunnel leads there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use blueprint_common_spoke::{Caller, ControlStatus};
use blueprint_common_tunnel::ConnectError;
use blueprint_proto::v1;
use blueprint_proto::v1::find_request::What;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::Inner;
use crate::destination::Destination;
use crate::statistics::OpenStream;
use crate::stream::Stream;

/// How long the hub may be away before a stream fails.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// How long the hub may take to say where something is.
const FIND_WITHIN: Duration = Duration::from_secs(5);

/// How long one place may take to accept a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two looks at whether the tunnel echoes; its state is 250 ms old at most.
const LOOK: Duration = Duration::from_millis(20);

/// Pause before the hub is asked again over another connection.
const AGAIN: Duration = Duration::from_millis(100);

/// Places that are tried at most.
const MAX_PLACES: usize = 3;

/// Metadata key of the stable code behind a refusal.
const CODE_KEY: &str = "x-blueprint-code";

/// Longest text of the hub that is passed on, in characters.
const MAX_TEXT: usize = 512;

/// Why a stream was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The hub is away. It is searched for all the time; the same call may work later.
    #[error("the hub is not reached: {why}")]
    NotReady {
        /// What is known of it.
        why: String,
    },
    /// The hub's policy has no grant for it, or there is no such thing.
    #[error("the hub refuses: {why}")]
    Denied {
        /// The hub's words.
        why: String,
    },
    /// Nothing there is healthy now.
    #[error("{why}")]
    Unavailable {
        /// The hub's words.
        why: String,
    },
    /// The hub cannot answer.
    #[error("the hub cannot say where it is: {why}")]
    Hub {
        /// Its words, or what happened to the call.
        why: String,
    },
    /// No place took the connection.
    #[error("{place} takes no connection")]
    Connect {
        /// The last place that was tried: a machine and its overlay address.
        place: String,
        /// What it said.
        source: ConnectError,
    },
    /// This spoke has ended and never comes back: it was closed, or the hub removed it.
    #[error("the spoke has ended: {why}")]
    Ended {
        /// Why.
        why: String,
    },
}

impl OpenError {
    /// Whether the same call may work later, without anybody doing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::NotReady { .. } | Self::Unavailable { .. } | Self::Hub { .. } | Self::Connect { .. } => {
                true
            }
            Self::Denied { .. } | Self::Ended { .. } => false,
        }
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        let kind = match &error {
            OpenError::NotReady { .. } => io::ErrorKind::NotConnected,
            OpenError::Denied { .. } => io::ErrorKind::PermissionDenied,
            OpenError::Unavailable { .. } => io::ErrorKind::NotFound,
            OpenError::Hub { .. } => io::ErrorKind::Other,
            OpenError::Connect { .. } => io::ErrorKind::ConnectionRefused,
            OpenError::Ended { .. } => io::ErrorKind::BrokenPipe,
        };
        Self::new(kind, error)
    }
}

/// Where something is.
#[derive(Debug)]
struct Place {
    address: SocketAddr,
    node: String,
}

pub(super) async fn open(inner: &Inner, to: &Destination) -> Result<Stream, OpenError> {
    let places = locate(inner, to).await?;
    let turn = inner.turn.fetch_add(1, Ordering::Relaxed).checked_rem(places.len()).unwrap_or(0);
    let mut last = OpenError::Hub { why: "it names no place".to_owned() };
    for place in places.iter().cycle().skip(turn).take(places.len().min(MAX_PLACES)) {
        match inner.spoke.plane().tunnel().connect(place.address, CONNECT_WITHIN).await {
            Ok(stream) => return Ok(Stream::tunnel(stream, OpenStream::new(&inner.counters))),
            Err(source) => {
                last = OpenError::Connect { place: format!("{} ({})", place.node, place.address), source };
            }
        }
    }
    Err(last)
}

/// Has the hub say where something is; again where its connection broke, until [`READY_WITHIN`] is over.
async fn locate(inner: &Inner, to: &Destination) -> Result<Vec<Place>, OpenError> {
    let began_at = Instant::now();
    loop {
        let left = READY_WITHIN.saturating_sub(began_at.elapsed());
        let caller = ready(inner, left).await?;
        match find(caller, to).await {
            Ok(places) => return Ok(places),
            Err(Unfound::Refused(error)) => return Err(error),
            Err(Unfound::Broken(_)) if began_at.elapsed() < READY_WITHIN => sleep(AGAIN).await,
            Err(Unfound::Broken(why)) => return Err(OpenError::Hub { why }),
        }
    }
}

/// Why the hub did not say where something is.
#[derive(Debug)]
enum Unfound {
    /// It answered.
    Refused(OpenError),
    /// It did not, and may over its next connection.
    Broken(String),
}

/// Waits for both planes, and gives calls to the hub.
pub(super) async fn ready(inner: &Inner, within: Duration) -> Result<Caller, OpenError> {
    let until = Instant::now().checked_add(within);
    let mut running = inner.running.clone();
    let both = async {
        loop {
            // Nothing tells of the echo's return but the tunnel's own state.
            if let Some(caller) = inner.spoke.caller().filter(|_| inner.spoke.plane().is_alive()) {
                return caller;
            }
            sleep(LOOK).await;
        }
    };
    let waited = async {
        match until {
            Some(until) => tokio::time::timeout_at(until, both).await.ok(),
            None => Some(both.await),
        }
    };
    tokio::select! {
        biased;
        () = inner.process.drain.cancelled() => Err(OpenError::Ended { why: "it was closed".to_owned() }),
        ended = running.wait_for(|running| running.end.is_some()) => {
            let end = ended.ok().and_then(|running| running.end.clone());
            Err(OpenError::Ended { why: end.unwrap_or_else(|| "its tasks are gone".to_owned()) })
        }
        caller = waited => caller.ok_or_else(|| not_ready(inner)),
    }
}

fn not_ready(inner: &Inner) -> OpenError {
    let control = inner.spoke.control();
    let ControlStatus { reason, hint, .. } = control.borrow().clone();
    let trouble = || inner.spoke.plane().trouble();
    let why = reason.or_else(trouble).unwrap_or_else(|| "its data plane does not echo".to_owned());
    let why = hint.map_or(why.clone(), |hint| format!("{why}; {hint}"));
    OpenError::NotReady { why }
}

/// Asks the hub where something is.
async fn find(mut caller: Caller, to: &Destination) -> Result<Vec<Place>, Unfound> {
    let what = match to {
        Destination::Service(service) => {
            What::Service(v1::ServiceRef { blueprint_id: service.blueprint, service_id: service.service })
        }
        Destination::Node { node, port } => {
            What::Port(v1::PortRef { node: node.clone(), port: (*port).into() })
        }
    };
    let answer = timeout(FIND_WITHIN, caller.find(v1::FindRequest { what: Some(what) })).await;
    let answer = answer.map_err(|_| Unfound::Broken("it did not answer in time".to_owned()))?;
    let places = answer.map_err(|status| refused(&status))?.into_inner().places;
    Ok(places.into_iter().filter_map(place).collect())
}

fn place(place: v1::Place) -> Option<Place> {
    let ip: IpAddr = place.address.parse().ok()?;
    let port = u16::try_from(place.port).ok().filter(|port| *port != 0)?;
    Some(Place { address: SocketAddr::new(ip, port), node: text(&place.node) })
}

fn refused(status: &Status) -> Unfound {
    let why = text(status.message());
    let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());
    match code {
        Some("find_denied" | "find_ambiguous") => Unfound::Refused(OpenError::Denied { why }),
        Some("find_not_healthy") => Unfound::Refused(OpenError::Unavailable { why }),
        Some("busy" | "stopping") => Unfound::Broken(why),
        Some(_) => Unfound::Refused(OpenError::Hub { why }),
        None if status.code() == Code::Unimplemented => {
            let why = "it is of an older version, which opens no streams".to_owned();
            Unfound::Refused(OpenError::Hub { why })
        }
        None if why.is_empty() => Unfound::Broken(format!("{:?}", status.code())),
        None => Unfound::Broken(why),
    }
}

/// A text of the hub as one line that cannot steer a terminal.
pub(super) fn text(text: &str) -> String {
    blueprint_common_runtime::cli::printable(text).chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn status(code: Code, name: &'static str) -> Status {
        let mut status = Status::new(code, "the hub's words\nand more");
        if !name.is_empty() {
            status.metadata_mut().insert(CODE_KEY, MetadataValue::from_static(name));
        }
        status
    }

    #[test]
    fn what_the_hub_refuses_is_told_apart_from_what_broke() {
        let refused = |code, name| match refused(&status(code, name)) {
            Unfound::Refused(error) => Some(error),
            Unfound::Broken(_) => None,
        };
        let denied = refused(Code::PermissionDenied, "find_denied");
        assert!(matches!(&denied, Some(OpenError::Denied { why }) if !why.contains('\n')), "{denied:?}");
        assert!(denied.is_some_and(|error| !error.is_transient()));
        let ambiguous = refused(Code::FailedPrecondition, "find_ambiguous");
        assert!(matches!(ambiguous, Some(OpenError::Denied { .. })));
        let sick = refused(Code::Unavailable, "find_not_healthy");
        assert!(matches!(&sick, Some(OpenError::Unavailable { .. })));
        assert!(sick.is_some_and(|error| error.is_transient()));
        // A hub that removed this spoke is no policy that refuses it.
        assert!(matches!(refused(Code::PermissionDenied, "revoked"), Some(OpenError::Hub { .. })));
        assert!(matches!(refused(Code::Unimplemented, ""), Some(OpenError::Hub { .. })));
        for (code, name) in [(Code::Unavailable, ""), (Code::Unavailable, "stopping"), (Code::Unknown, "")] {
            assert!(refused(code, name).is_none(), "{code:?} {name}");
        }
    }

    #[test]
    fn a_place_that_is_none_is_left_out() {
        let wire = |address: &str, port| {
            place(v1::Place { address: address.to_owned(), port, node: "gpu-1".to_owned() })
        };
        assert_eq!(
            wire("10.88.0.2", 80).map(|place| place.address.to_string()).as_deref(),
            Some("10.88.0.2:80")
        );
        for (address, port) in [("hub", 80), ("10.88.0.2", 0), ("10.88.0.2", 70_000), ("", 80)] {
            assert!(wire(address, port).is_none(), "{address}:{port}");
        }
    }

    #[test]
    fn an_error_of_a_tunnel_is_one_of_io_with_its_kind() {
        let error = io::Error::from(OpenError::Denied { why: "no".to_owned() });
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.get_ref().is_some_and(|inner| inner.is::<OpenError>()));
    }
}
