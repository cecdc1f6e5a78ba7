//! Access to the registrar from everywhere else: every call is a command and its answer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use blueprint_common_types::{AgentId, OverlayLease, ServiceKey, Timestamp, TokenId};
use blueprint_hub_registry_core::workload::Assignments;
use blueprint_hub_registry_core::{
    Agent, Change, PromiseError, QosSample, RegistrySnapshot, ReserveError, Weights,
};
use blueprint_proto::v1::hub_message::Body;
use tokio::sync::{mpsc, oneshot, watch};

use super::{Command, LateTaken, Opening, QosView, Recorded, Report, SessionRef, Stopping};

/// Access to the registrar; cheap to clone.
#[derive(Debug, Clone)]
pub struct RegistrarHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshots: watch::Receiver<Arc<RegistrySnapshot>>,
}

impl RegistrarHandle {
    /// The newest published state.
    #[must_use]
    pub fn snapshot(&self) -> Arc<RegistrySnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    /// A receiver that wakes at every publication.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<RegistrySnapshot>> {
        self.snapshots.clone()
    }

    /// The last report of an agent and at most `points` of its history; `None` for an unknown agent.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub async fn qos(&self, agent: AgentId, points: usize) -> Result<Option<QosView>, Stopping> {
        self.ask(|reply| Command::Qos(agent, points, reply)).await
    }

    /// Takes samples that an agent could not send when it took them.
    pub(crate) async fn late(
        &self,
        agent: AgentId,
        samples: Vec<QosSample>,
        recorded: Recorded,
    ) -> Result<LateTaken, Stopping> {
        self.ask(|reply| Command::Late(agent, samples, recorded, reply)).await
    }

    /// Tells whether the data plane of an agent echoes.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub async fn set_data_plane(&self, agent: AgentId, alive: bool) -> Result<(), Stopping> {
        self.commands.send(Command::DataPlane(agent, alive)).await.map_err(|_| Stopping)
    }

    /// Says which agents are to go, and no others: their targets get no new requests. Resolves once that is stored or is
    /// about to be, and published then.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub async fn set_leaving(&self, leaving: BTreeSet<AgentId>) -> Result<(), Stopping> {
        self.ask(|reply| Command::Leaving(leaving, reply)).await
    }

    /// Drops a removed agent from memory, ends its session and frees its addresses; gives what it was.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub(crate) async fn removed(&self, agent: AgentId) -> Result<Option<Arc<Agent>>, Stopping> {
        self.ask(|reply| Command::Removed(agent, reply)).await
    }

    /// Says who runs what; resolves once every agent that is there is being told.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub(crate) async fn assign(
        &self,
        assignments: Assignments,
        unplaced: BTreeSet<ServiceKey>,
        weights: Weights,
    ) -> Result<(), Stopping> {
        self.ask(|reply| Command::Assign(assignments, unplaced, weights, reply)).await
    }

    /// Says something to an agent; false where it has no session.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub(crate) async fn tell(&self, agent: AgentId, body: Body) -> Result<bool, Stopping> {
        self.ask(|reply| Command::Tell(agent, body, reply)).await
    }

    /// Keeps an overlay address for whoever joins with `token` before `until`.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops; inside, why the address is not to be had.
    ///
    /// # Cancel safety
    ///
    /// Dropping it leaves open whether the address is kept.
    pub async fn promise(
        &self,
        address: Ipv4Addr,
        token: TokenId,
        until: Timestamp,
    ) -> Result<Result<(), PromiseError>, Stopping> {
        self.ask(|reply| Command::Promise(address, token, until, reply)).await
    }

    /// Takes back what was promised to a token that is gone.
    ///
    /// # Errors
    ///
    /// [`Stopping`] where the hub stops.
    pub async fn forget(&self, token: TokenId) -> Result<(), Stopping> {
        self.commands.send(Command::Forget(token)).await.map_err(|_| Stopping)
    }

    pub(crate) async fn reserve(
        &self,
        token: TokenId,
    ) -> Result<Result<OverlayLease, ReserveError>, Stopping> {
        self.ask(|reply| Command::Reserve(token, reply)).await
    }

    pub(crate) async fn release(&self, lease: OverlayLease) -> Result<(), Stopping> {
        self.commands.send(Command::Release(lease)).await.map_err(|_| Stopping)
    }

    pub(crate) async fn joined(&self, agent: Agent) -> Result<(), Stopping> {
        self.ask(|reply| Command::Joined(Box::new(agent), reply)).await
    }

    pub(crate) async fn renewed(&self, agent: AgentId, generation: u32) -> Result<(), Stopping> {
        self.commands.send(Command::Renewed(agent, generation)).await.map_err(|_| Stopping)
    }

    /// Begins a session and welcomes the agent; `None` for one that was removed.
    pub(crate) async fn open(&self, opening: Opening) -> Result<Option<()>, Stopping> {
        self.ask(|reply| Command::Open(Box::new(opening), reply)).await
    }

    pub(crate) async fn close(&self, session: SessionRef) -> Result<(), Stopping> {
        self.commands.send(Command::Close(session)).await.map_err(|_| Stopping)
    }

    pub(crate) async fn report(&self, session: SessionRef, seq: u64, report: Report) -> Result<(), Stopping> {
        self.commands.send(Command::Report(session, seq, report)).await.map_err(|_| Stopping)
    }

    /// Changes after `index`; `None` where it is too old or of another life.
    pub(crate) async fn changes_after(&self, index: u64) -> Result<Option<Vec<Change>>, Stopping> {
        self.ask(|reply| Command::ChangesAfter(index, reply)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }
}
