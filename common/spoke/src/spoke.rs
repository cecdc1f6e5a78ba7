//! One spoke: what its tasks share, and how they start.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::state::{StateDir, StateError};
use blueprint_common_runtime::tasks::{Spawner, Stop};
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_tunnel::{Engine, Interface};
use blueprint_common_types::{Carrier, Timestamp, fill_random};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::carrier::{self, Base};
use crate::control::Driver;
use crate::duties::{Duties, Says};
use crate::error::SpokeError;
use crate::identity::{Credential, Identity, IdentityError, TunnelSettings};
use crate::join::now;
use crate::plane::{PathRequest, Plane};
use crate::renewal;
use crate::session::Caller;

/// Pace of samples until the hub names one.
const DEFAULT_PACE: Duration = Duration::from_secs(5);

/// How a spoke reaches its hub.
#[derive(Debug, Clone)]
pub struct SpokeConfig {
    /// UDP address of the tunnel; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where the overlay ends on this machine.
    pub interface: Interface,
    /// Carriers that may be used.
    pub carriers: BTreeSet<Carrier>,
    /// HTTP proxy on the way to the hub.
    pub proxy: Option<ProxyUrl>,
    /// What a person does once the hub does not know this spoke any more.
    pub rejoin: &'static str,
}

/// Where the control stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ControlState {
    /// No stream; the spoke tries again by itself.
    Down,
    /// The hub welcomed the spoke.
    Up,
    /// The hub removed this spoke.
    Revoked,
}

/// The control stream.
#[derive(Debug, Clone)]
pub struct ControlStatus {
    /// Where it stands.
    pub state: ControlState,
    /// Since when.
    pub since: Timestamp,
    /// Why it is not up.
    pub reason: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// Attempts since the start.
    pub attempts: u64,
    /// Streams that the hub welcomed since the start.
    pub sessions: u64,
    /// Messages that wait for the hub.
    pub held: usize,
    /// Messages that were dropped because there were too many.
    pub dropped: u64,
    /// True once the hub acknowledged that this spoke offers nothing more, or cannot be told.
    pub is_withdrawn: bool,
    /// True once the last stream has ended for good.
    pub is_finished: bool,
}

/// A long-lived task of a spoke, which must last as long as the spoke.
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// What it does until the spoke's stop.
    pub run: BoxFuture<'static, Result<(), SpokeError>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A machine that has joined a hub: what its tasks share, each part written by one of them.
#[derive(Debug)]
pub struct Spoke {
    pub(crate) config: SpokeConfig,
    /// The folder; `None` once it was let go.
    state: Mutex<Option<StateDir>>,
    /// Asks the whole process to end.
    pub(crate) process: Stop,
    /// Ends the spoke's tasks.
    pub(crate) stop: CancellationToken,
    /// Cancelled once nothing is open any more: the control stream may end.
    pub(crate) finished: CancellationToken,
    /// Cancelled once the hub said that it removed this spoke.
    revoked: CancellationToken,
    /// Calls over the connection of the control stream, while that stands.
    pub(crate) caller: Mutex<Option<Caller>>,
    pub(crate) identity: watch::Sender<Arc<Identity>>,
    pub(crate) control: watch::Sender<ControlStatus>,
    pub(crate) path: watch::Sender<PathRequest>,
    pub(crate) pace: watch::Sender<Duration>,
    pub(crate) plane: Plane,
    is_leaving: AtomicBool,
    writing: Mutex<()>,
}

impl Spoke {
    /// Binds the tunnel of the identity in `state`; nothing happens until [`Spoke::start`]. `process` is what it ends
    /// with: its `drain` begins the withdrawal, its `stop` ends everything.
    ///
    /// Must be called on a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`SpokeError::NotJoined`] without an identity, [`SpokeError::Revoked`] with one that the hub took back, else
    /// what could not be read or bound.
    pub fn bind(
        config: SpokeConfig,
        state: StateDir,
        process: Stop,
    ) -> Result<(Arc<Self>, Engine), SpokeError> {
        let identity = Identity::load(&state)?.ok_or(SpokeError::NotJoined)?;
        if let Some(at) = identity.revoked_at {
            return Err(SpokeError::Revoked { why: format!("the hub removed it at {at}") });
        }
        let (plane, engine) = Plane::bind(&identity, config.listen, config.interface.clone())?;
        let path = PathRequest { epoch: identity.tunnel.epoch, reached: None };
        let control = ControlStatus {
            state: ControlState::Down,
            since: now(),
            reason: Some("not connected yet".to_owned()),
            hint: None,
            attempts: 0,
            sessions: 0,
            held: 0,
            dropped: 0,
            is_withdrawn: false,
            is_finished: false,
        };
        let spoke = Self {
            config,
            state: Mutex::new(Some(state)),
            // The spoke outlives the call to drain, and ends with the process at the latest.
            stop: process.stop.child_token(),
            process,
            finished: CancellationToken::new(),
            revoked: CancellationToken::new(),
            caller: Mutex::default(),
            identity: watch::Sender::new(Arc::new(identity)),
            control: watch::Sender::new(control),
            path: watch::Sender::new(path),
            pace: watch::Sender::new(DEFAULT_PACE),
            plane,
            is_leaving: AtomicBool::new(false),
            writing: Mutex::new(()),
        };
        Ok((Arc::new(spoke), engine))
    }

    /// The spoke's tasks, for the caller to run until [`Spoke::stop`]: each ends early only where the spoke cannot go
    /// on.
    ///
    /// # Errors
    ///
    /// [`SpokeError::Random`] where the system has no randomness.
    pub fn start(
        self: &Arc<Self>,
        engine: Engine,
        says: Says,
        duties: Arc<dyn Duties>,
        spawner: Spawner,
    ) -> Result<Vec<Part>, SpokeError> {
        let (kicks, heard) = mpsc::channel(8);
        let mut seed = [0u8; 8];
        fill_random(&mut seed).map_err(SpokeError::Random)?;
        let driver = Driver::new(Arc::clone(self), says, duties, heard).map_err(SpokeError::Random)?;
        let stop = self.stop.clone();
        let tunnel = async move {
            engine.run(stop).await;
            Ok(())
        };
        let renewal = renewal::run(Arc::clone(self), u64::from_le_bytes(seed));
        Ok(vec![
            Part { name: "tunnel", run: tunnel.boxed() },
            Part { name: "path", run: carrier::run(Arc::clone(self), spawner, kicks).boxed() },
            Part { name: "control", run: driver.run().boxed() },
            Part { name: "renewal", run: renewal.boxed() },
        ])
    }

    /// Who this machine is to its hub, as it is now.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// The tunnel.
    #[must_use]
    pub const fn plane(&self) -> &Plane {
        &self.plane
    }

    /// How the spoke reaches its hub.
    #[must_use]
    pub const fn config(&self) -> &SpokeConfig {
        &self.config
    }

    /// The control stream, and its changes.
    #[must_use]
    pub fn control(&self) -> watch::Receiver<ControlStatus> {
        self.control.subscribe()
    }

    /// Pace of samples, as the hub names it.
    #[must_use]
    pub fn pace(&self) -> watch::Receiver<Duration> {
        self.pace.subscribe()
    }

    /// Calls over the connection of the control stream; `None` while that does not stand.
    #[must_use]
    pub fn caller(&self) -> Option<Caller> {
        self.caller.lock().clone()
    }

    /// Ends the spoke's tasks once cancelled.
    #[must_use]
    pub const fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// To be cancelled once nothing is open any more: the control stream says goodbye.
    #[must_use]
    pub const fn finished(&self) -> &CancellationToken {
        &self.finished
    }

    /// Cancelled once the hub said that it removed this spoke.
    #[must_use]
    pub const fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    /// What a try of a carrier beside the running tunnel needs.
    #[must_use]
    pub fn base(&self, spawner: Spawner) -> Base {
        Base::of(self, spawner)
    }

    /// Ready is who echoes: a control stream alone carries no request.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.plane.is_alive() && !self.is_draining()
    }

    /// True once the process was asked to finish what is open.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.process.drain.is_cancelled()
    }

    /// From here on nothing brings the identity's file back; `false` takes that back.
    pub fn set_leaving(&self, is_leaving: bool) {
        let _writing = self.writing.lock();
        self.is_leaving.store(is_leaving, Ordering::Release);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Removes the identity's file, once the hub knows the spoke no more.
    ///
    /// # Errors
    ///
    /// [`StateError`] where the disk refuses.
    pub fn forget(&self) -> Result<(), StateError> {
        self.state.lock().as_ref().map_or(Ok(()), Identity::forget)
    }

    /// Lets the folder go, for another spoke: from here on nothing is stored.
    pub fn release(&self) {
        *self.state.lock() = None;
    }

    /// Stores a renewed certificate and then lets everybody use it.
    pub(crate) fn set_credential(&self, credential: Credential) -> Result<(), IdentityError> {
        self.change_identity(|identity| identity.credential = credential)
    }

    /// Stores what the hub said of the tunnel.
    pub(crate) fn set_tunnel(&self, tunnel: TunnelSettings) -> Result<(), IdentityError> {
        self.change_identity(|identity| identity.tunnel = tunnel)
    }

    /// Notes that the hub removed this spoke, also for the next start, and ends it.
    pub(crate) fn revoke(&self) {
        if self.is_leaving() {
            return;
        }
        if let Err(error) = self.change_identity(|identity| identity.revoked_at = Some(now())) {
            error!(error = %Chain(&error), "removal by the hub is not stored");
        }
        self.control.send_modify(|control| {
            control.state = ControlState::Revoked;
            control.since = now();
            control.reason = Some("the hub removed this agent".to_owned());
            control.hint = Some(self.config.rejoin.to_owned());
        });
        self.revoked.cancel();
    }

    fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
        let _writing = self.writing.lock();
        if self.is_leaving() {
            return Ok(());
        }
        let mut identity = Identity::clone(&self.identity());
        change(&mut identity);
        match &*self.state.lock() {
            Some(state) => identity.store(state)?,
            None => return Ok(()),
        }
        self.identity.send_replace(Arc::new(identity));
        Ok(())
    }
}
