//! From options to a running spoke.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use blueprint_common_runtime::state::{StateDir, StateError};
use blueprint_common_runtime::tasks::{Spawner, Stop, Supervisor};
use blueprint_common_spoke::{
    Identity, IdentityError, JoinError, JoinOptions, Part, Says, Spoke, SpokeConfig, SpokeError,
};
use blueprint_common_tunnel::Interface;
use blueprint_common_tunnel::carrier::ProxyUrl;
use blueprint_common_types::{Carrier, JoinLine};
use blueprint_proto::v1;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Inner, Running, TunnelHandle, end_text};
use crate::duties::{Bystander, REJOIN};
use crate::statistics::Counters;

/// How a process becomes a spoke.
#[derive(Debug, Clone)]
pub struct TunnelOptions {
    /// Folder of the identity, private to this process (mode 0700); made where it does not exist.
    pub state: PathBuf,
    /// What `blueprint-hub token create` printed. Needed once, while the folder holds no identity.
    pub line: Option<JoinLine>,
    /// Name at the hub, at most 63 characters of a-z, 0-9 and '-'; the host name where `None`.
    pub name: Option<String>,
    /// Carriers that may be used; all of them by default.
    pub carriers: BTreeSet<Carrier>,
    /// HTTP proxy on the way to the hub; none by default.
    pub proxy: Option<ProxyUrl>,
    /// UDP address of the tunnel; `0.0.0.0:0` by default, where the system chooses the port.
    pub listen: SocketAddr,
}

impl TunnelOptions {
    /// The identity in `state`, with the defaults.
    #[must_use]
    pub fn new(state: impl Into<PathBuf>) -> Self {
        Self {
            state: state.into(),
            line: None,
            name: None,
            carriers: Carrier::ALL.into(),
            proxy: None,
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        }
    }

    /// Joins with `line` where the folder holds no identity.
    #[must_use]
    pub fn line(mut self, line: JoinLine) -> Self {
        self.line = Some(line);
        self
    }

    /// Joins under this name.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// Why a process did not become a spoke.
#[derive(Debug, thiserror::Error)]
pub enum EstablishError {
    /// The folder cannot be used, or another process or handle uses it.
    #[error("the spoke's folder cannot be used")]
    State(#[from] StateError),
    /// There is no identity, and no line to join with.
    #[error(
        "{} holds no identity: give the line that `blueprint-hub token create` prints", state.display()
    )]
    NotJoined {
        /// The folder.
        state: PathBuf,
    },
    /// The hub was not joined.
    #[error("cannot join the hub")]
    Join(#[source] JoinError),
    /// The hub removed this spoke before.
    #[error("{why}; {REJOIN}")]
    Revoked {
        /// The hub's words.
        why: String,
    },
    /// The tunnel or the identity.
    #[error("cannot become a spoke")]
    Spoke(#[source] SpokeError),
}

impl From<IdentityError> for EstablishError {
    fn from(error: IdentityError) -> Self {
        Self::Spoke(error.into())
    }
}

pub(super) async fn establish(options: TunnelOptions) -> Result<TunnelHandle, EstablishError> {
    let TunnelOptions { state: folder, line, name, carriers, proxy, listen } = options;
    let state = StateDir::open(&folder)?;
    if Identity::load(&state)?.is_none() {
        let line = line.ok_or(EstablishError::NotJoined { state: folder })?;
        let joining = JoinOptions { line, name, state: state.clone(), proxy: proxy.clone() };
        let identity = blueprint_common_spoke::join(joining).await.map_err(EstablishError::Join)?;
        info!(hub = %identity.hub, agent = %identity.agent_id, "joined");
    }
    let config = SpokeConfig { listen, interface: Interface::Netstack, carriers, proxy, rejoin: REJOIN };
    let process = Stop::default();
    let ends = process.stop.clone().drop_guard();
    let (spoke, engine) = Spoke::bind(config, state, process.clone()).map_err(spoke_error)?;
    let spawner = Supervisor::new().child_spawner();
    let (report, reports) = watch::channel(v1::WorkloadReport::default());
    let says = Says {
        workloads: WatchStream::from_changes(reports).boxed(),
        ..Says::nothing(env!("CARGO_PKG_VERSION"))
    };
    let duties = Arc::new(Bystander { report });
    let parts = spoke.start(engine, says, duties, spawner.clone()).map_err(spoke_error)?;
    let running = run(parts, &spoke, &spawner);
    let inner = Inner {
        spoke,
        counters: Arc::new(Counters::default()),
        turn: 0.into(),
        running,
        process,
        _ends: ends,
    };
    Ok(TunnelHandle { inner: Arc::new(inner) })
}

fn spoke_error(error: SpokeError) -> EstablishError {
    match error {
        SpokeError::Revoked { why } => EstablishError::Revoked { why },
        SpokeError::NotJoined
        | SpokeError::Moved
        | SpokeError::Tunnel(_)
        | SpokeError::Peer(_)
        | SpokeError::Random(_)
        | SpokeError::Identity(_)
        | SpokeError::Call(_) => EstablishError::Spoke(error),
    }
}

/// Runs the parts; where one ends by itself, so do the others.
fn run(parts: Vec<Part>, spoke: &Arc<Spoke>, spawner: &Spawner) -> watch::Receiver<Running> {
    let (sender, running) = watch::channel(Running { tasks: parts.len(), end: None });
    let sender = Arc::new(sender);
    for Part { name, run } in parts {
        let (sender, stop) = (Arc::clone(&sender), spoke.stop().clone());
        let guard = Guard { sender, stop, end: Some(format!("its {name} broke off")) };
        spawner.spawn_base(name, async move {
            let mut guard = guard;
            let result = run.await;
            guard.end = (!guard.stop.is_cancelled()).then(|| end_text(name, &result));
        });
    }
    running
}

/// Counts a task down when its future is dropped, for whatever reason, and ends the others.
struct Guard {
    sender: Arc<watch::Sender<Running>>,
    stop: CancellationToken,
    /// Why the task ended by itself.
    end: Option<String>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let end = self.end.take().filter(|_| !self.stop.is_cancelled());
        if let Some(why) = &end {
            warn!(why, "the spoke ends");
        }
        self.sender.send_modify(|running| {
            running.tasks = running.tasks.saturating_sub(1);
            if running.end.is_none() {
                running.end = end;
            }
        });
        self.stop.cancel();
    }
}
