//! A spoke in this process, and the streams that it opens.

mod establish;
mod open;
mod targets;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::tasks::Stop;
use blueprint_common_spoke::{ControlState, Identity, Spoke, SpokeError};
use blueprint_common_types::ServiceKey;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

pub use self::establish::{EstablishError, TunnelOptions};
pub use self::open::OpenError;
pub use self::targets::{TargetEvent, TargetWatch, WatchedTarget};
use crate::destination::Destination;
use crate::statistics::{Counters, Statistics};
use crate::stream::Stream;

/// How long the hub may take to hear that a spoke goes, and the spoke's tasks to end.
const GOODBYE: Duration = Duration::from_secs(1);

/// A spoke of a hub inside this process. Clones are the same one; it ends with the last of them.
///
/// It reconnects, takes other carriers and renews its certificate by itself, as an agent does, and goes on while the
/// tokio runtime runs on which it was established. The hub lists it as a node; it offers nothing and runs no workloads.
#[derive(Clone)]
pub struct TunnelHandle {
    inner: Arc<Inner>,
}

struct Inner {
    spoke: Arc<Spoke>,
    counters: Arc<Counters>,
    /// Which of several places is tried first.
    turn: std::sync::atomic::AtomicUsize,
    /// How many of the spoke's tasks run, and why the first of them ended by itself.
    running: watch::Receiver<Running>,
    process: Stop,
    _ends: DropGuard,
}

/// The tasks of a spoke.
#[derive(Debug, Clone, Default)]
struct Running {
    tasks: usize,
    end: Option<String>,
}

impl fmt::Debug for TunnelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelHandle")
            .field("agent", &self.inner.spoke.identity().agent_id)
            .finish_non_exhaustive()
    }
}

impl TunnelHandle {
    /// Makes this process a spoke: with the identity in the state folder, or, where there is none, by joining with the
    /// line. The spoke's tasks run on the current tokio runtime; connecting goes on after this returns.
    ///
    /// # Errors
    ///
    /// Each variant of [`EstablishError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it may leave the line's token spent.
    pub async fn establish(options: TunnelOptions) -> Result<Self, EstablishError> {
        Box::pin(establish::establish(options)).await
    }

    /// Opens a stream to a healthy target of a service; where there are several, each gets its turn.
    ///
    /// Waits up to 10 s for the hub where it is away, and up to 5 s for each target.
    ///
    /// # Errors
    ///
    /// Each variant of [`OpenError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing open.
    pub async fn open(&self, service: ServiceKey) -> Result<Stream, OpenError> {
        self.open_to(&Destination::Service(service)).await
    }

    /// Opens a stream to a TCP port of a machine, which is called by its name, id or overlay address.
    ///
    /// # Errors
    ///
    /// Each variant of [`OpenError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing open.
    pub async fn open_node(&self, node: &str, port: u16) -> Result<Stream, OpenError> {
        self.open_to(&Destination::Node { node: node.to_owned(), port }).await
    }

    /// Opens a stream to either.
    ///
    /// # Errors
    ///
    /// Each variant of [`OpenError`] says its case.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves nothing open.
    pub async fn open_to(&self, to: &Destination) -> Result<Stream, OpenError> {
        let opened = open::open(&self.inner, to).await;
        match &opened {
            Ok(_) => {}
            Err(OpenError::Denied { .. }) => self.inner.counters.denied(),
            Err(
                OpenError::NotReady { .. }
                | OpenError::Unavailable { .. }
                | OpenError::Hub { .. }
                | OpenError::Connect { .. }
                | OpenError::Ended { .. },
            ) => self.inner.counters.failed(),
        }
        opened
    }

    /// Waits until streams can be opened: the hub answers on both planes.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotReady`] where it does not within `within`, [`OpenError::Ended`] where it never will.
    ///
    /// # Cancel safety
    ///
    /// Dropping it changes nothing.
    pub async fn ready(&self, within: Duration) -> Result<(), OpenError> {
        open::ready(&self.inner, within).await.map(drop)
    }

    /// What the streams did and how the tunnel is.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let plane = self.inner.spoke.plane();
        let sample = plane.sample();
        Statistics {
            is_alive: plane.is_alive(),
            is_connected: self.inner.spoke.control().borrow().state == ControlState::Up,
            carrier: plane.carrier(),
            round_trip: Duration::from_micros(sample.rtt_micros.into()),
            loss_percent: sample.loss_percent,
            tunnel_received_bytes: sample.rx_bytes,
            tunnel_sent_bytes: sample.tx_bytes,
            ..self.inner.counters.read()
        }
    }

    /// Who this process is to its hub: name, id, overlay addresses and more.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.inner.spoke.identity()
    }

    /// Ends the spoke for all clones: says goodbye to the hub, cuts the open streams, and lets the state folder go. The
    /// identity stays, for the next time.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves the spoke on its way out, at the latest with the last handle.
    pub async fn close(&self) {
        let inner = &self.inner;
        inner.process.drain.cancel();
        let mut control = inner.spoke.control();
        let _ = timeout(GOODBYE, control.wait_for(|control| control.is_withdrawn)).await;
        inner.spoke.finished().cancel();
        let _ = timeout(GOODBYE, control.wait_for(|control| control.is_finished)).await;
        inner.process.stop.cancel();
        let mut running = inner.running.clone();
        let _ = timeout(GOODBYE, running.wait_for(|running| running.tasks == 0)).await;
        inner.spoke.release();
    }

    /// Gives the identity up at the hub, and ends the spoke: it cannot be established again without a new line.
    ///
    /// # Errors
    ///
    /// [`OpenError::Hub`] where the hub could not be told; everything is then as it was. [`OpenError::Ended`] of a spoke
    /// that was closed: its folder is no longer its own.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the hub knows the identity.
    pub async fn leave(&self) -> Result<(), OpenError> {
        let spoke = &self.inner.spoke;
        if spoke.is_draining() {
            return Err(OpenError::Ended { why: "it was closed".to_owned() });
        }
        let identity = spoke.identity();
        // The hub's goodbye to the control stream comes before its answer here.
        spoke.set_leaving(true);
        let told = blueprint_common_spoke::leave(&identity, spoke.config().proxy.as_ref()).await;
        if let Err(error) = told {
            spoke.set_leaving(false);
            return Err(OpenError::Hub { why: Chain(&error).to_string() });
        }
        let forgotten = spoke.forget().map_err(|error| OpenError::Hub { why: Chain(&error).to_string() });
        self.close().await;
        forgotten
    }
}

/// Why the tasks ended, for people.
fn end_text(part: &str, result: &Result<(), SpokeError>) -> String {
    match result {
        Ok(()) => format!("its {part} ended"),
        Err(error) => Chain(error).to_string(),
    }
}
