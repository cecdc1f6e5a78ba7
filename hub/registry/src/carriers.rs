//! Links of agents that cannot send plain UDP: QUIC on a port that WireGuard shares, TLS on the control listener.
//!
//! Invariants:
//! - a link needs a certificate of this hub that is good now, of an agent that is not removed;
//! - an agent has one link of each kind: a new one ends the old one;
//! - a removed agent's links are gone before the operator is told so;
//! - a link lasts beyond its certificate's end, as plain UDP does: WireGuard inside proves who the peer is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::carrier::{CarrierError, Handshake, QuicServer, stream_sink, tune};
use blueprint_common_tunnel::{CarrierKind, Tunnel};
use blueprint_common_types::{AgentId, Timestamp};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::RegistrarHandle;
use crate::identity::{self, AgentIdentity};
use crate::metrics::ControlMetrics;
use crate::shared::Shared;

/// Frames of one TLS link that wait at most: some milliseconds of a fast path.
const OUTBOX_BYTES: usize = 512 << 10;
/// QUIC handshakes of one source, which it has proved, under way at once; there may be many agents behind one address.
const HANDSHAKES_PER_SOURCE: usize = 64;

type Key = (AgentId, CarrierKind);

/// Every link there is.
pub(crate) struct Carriers {
    tunnel: Tunnel,
    registrar: RegistrarHandle,
    metrics: ControlMetrics,
    spawner: Spawner,
    links: Arc<Mutex<BTreeMap<Key, (u64, CancellationToken)>>>,
    turns: Turns,
    next: AtomicU64,
}

/// An agent's place for one kind of link; given back on drop.
struct Place {
    links: Arc<Mutex<BTreeMap<Key, (u64, CancellationToken)>>>,
    key: Key,
    number: u64,
    stop: CancellationToken,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut links = self.links.lock();
        if links.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            links.remove(&self.key);
        }
    }
}

/// QUIC handshakes under way, by source.
#[derive(Clone, Default)]
struct Turns(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of the handshakes that a source has under way.
struct Turn {
    turns: Turns,
    /// `None` for one that nobody has proved.
    source: Option<IpAddr>,
}

impl Turns {
    /// A turn for a handshake; `None` where its source has too many.
    ///
    /// A source that is not proved takes none of its turns: whoever names an agent's address would use them up. The
    /// server has a bound of its own for those.
    fn take(&self, source: IpAddr, is_proved: bool) -> Option<Turn> {
        if !is_proved {
            return Some(Turn { turns: self.clone(), source: None });
        }
        let mut handshakes = self.0.lock();
        let count = handshakes.entry(source).or_default();
        if *count >= HANDSHAKES_PER_SOURCE {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Turn { turns: self.clone(), source: Some(source) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(source) = self.source else { return };
        let mut handshakes = self.turns.0.lock();
        if let Some(count) = handshakes.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                handshakes.remove(&source);
            }
        }
    }
}

impl Carriers {
    pub(crate) fn new(
        tunnel: Tunnel,
        registrar: RegistrarHandle,
        metrics: ControlMetrics,
        spawner: Spawner,
    ) -> Self {
        Self {
            tunnel,
            registrar,
            metrics,
            spawner,
            links: Arc::default(),
            turns: Turns::default(),
            next: AtomicU64::new(0),
        }
    }

    pub(crate) const fn metrics(&self) -> &ControlMetrics {
        &self.metrics
    }

    /// Ends every link of an agent that was removed.
    pub(crate) fn cut(&self, agent: AgentId) {
        let links = self.links.lock();
        for kind in [CarrierKind::Quic, CarrierKind::Tls] {
            if let Some((_, stop)) = links.get(&(agent, kind)) {
                stop.cancel();
            }
        }
    }

    /// Why an agent may have no link now; `None` where it may.
    fn refusal(&self, identity: AgentIdentity) -> Option<&'static str> {
        let snapshot = self.registrar.snapshot();
        let Some(view) = snapshot.agents.get(&identity.agent) else { return Some("revoked") };
        if identity.not_after <= Timestamp::from(SystemTime::now()) {
            Some("certificate_expired")
        } else if identity.generation.saturating_add(1) < view.agent.generation {
            Some("certificate_outdated")
        } else {
            None
        }
    }

    /// Takes the place of an agent's link, and ends the link that had it.
    fn enter(&self, identity: AgentIdentity, kind: CarrierKind) -> Result<Place, &'static str> {
        let key = (identity.agent, kind);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stop = CancellationToken::new();
        if let Some((_, old)) = self.links.lock().insert(key, (number, stop.clone())) {
            old.cancel();
        }
        let place = Place { links: Arc::clone(&self.links), key, number, stop };
        // Asked only now: whoever removes the agent meanwhile finds the link, or this finds it removed.
        match self.refusal(identity) {
            None => Ok(place),
            Some(reason) => Err(reason),
        }
    }

    fn refused(&self, source: SocketAddr, agent: AgentId, reason: &'static str) {
        self.metrics.refused(reason);
        warn!(target: "audit", %source, %agent, reason, "carrier refused");
    }

    /// Carries a link over a TLS stream whose handshake is done, in a task of its own.
    pub(crate) fn serve_tls(
        shared: &Arc<Shared>,
        stream: TlsStream<TcpStream>,
        source: SocketAddr,
        identity: Option<AgentIdentity>,
    ) {
        let this = &shared.carriers;
        let Some(identity) = identity else {
            this.metrics.refused("no_certificate");
            debug!(%source, "carrier without a certificate");
            return;
        };
        let place = match this.enter(identity, CarrierKind::Tls) {
            Ok(place) => place,
            Err(reason) => return this.refused(source, identity.agent, reason),
        };
        if let Err(error) = tune(stream.get_ref().0) {
            debug!(%source, %error, "connection is gone already");
            return;
        }
        let (sink, pump) = stream_sink(OUTBOX_BYTES);
        let Some(link) = this.tunnel.attach(CarrierKind::Tls, source, sink) else {
            return this.refused(source, identity.agent, "full");
        };
        // The tunnel outlives the drain, because open requests go through it.
        this.spawner.spawn_base("tls carrier", async move {
            opened(identity.agent, source, "tls");
            let ended = Box::pin(pump.run(stream, link, place.stop.clone())).await;
            closed(identity.agent, source, "tls", &ended);
        });
    }

    /// Accepts links over QUIC until the server is closed.
    pub(crate) async fn accept_quic(shared: Arc<Shared>, server: Arc<QuicServer>) {
        while let Some(handshake) = server.accept().await {
            let source = handshake.remote().ip();
            let Some(turn) = shared.carriers.turns.take(source, handshake.is_proved()) else {
                shared.metrics.refused("quic_source_handshakes");
                continue;
            };
            let all = Arc::clone(&shared);
            let serve = Box::pin(async move { all.carriers.serve_quic(&all, handshake, turn).await });
            shared.spawner.spawn_base("quic carrier link", serve);
        }
    }

    async fn serve_quic(&self, shared: &Shared, handshake: Handshake, turn: Turn) {
        let source = handshake.remote();
        let quic = match handshake.finish().await {
            Ok(quic) => quic,
            Err(error) => {
                self.metrics.handshake_failed("quic");
                debug!(%source, error = %blueprint_common_runtime::Chain(&error), "QUIC handshake failed");
                return;
            }
        };
        drop(turn);
        let certificates = quic.peer_certificates();
        let identity = certificates.first().map(|first| identity::read(first, shared.authority.hub()));
        let Some(Ok(identity)) = identity else {
            self.metrics.refused("no_certificate");
            return;
        };
        let place = match self.enter(identity, CarrierKind::Quic) {
            Ok(place) => place,
            Err(reason) => return self.refused(source, identity.agent, reason),
        };
        let Some(link) = self.tunnel.attach(CarrierKind::Quic, source, quic.sink()) else {
            return self.refused(source, identity.agent, "full");
        };
        opened(identity.agent, source, "quic");
        let ended = Box::pin(quic.run(link, place.stop.clone())).await;
        closed(identity.agent, source, "quic", &ended);
    }
}

impl std::fmt::Debug for Carriers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carriers").field("links", &self.links.lock().len()).finish_non_exhaustive()
    }
}

fn opened(agent: AgentId, source: SocketAddr, carrier: &'static str) {
    info!(%agent, %source, carrier, "carrier opened");
}

fn closed(agent: AgentId, source: SocketAddr, carrier: &'static str, ended: &Result<(), CarrierError>) {
    let reason = ended.as_ref().err().map(|error| blueprint_common_runtime::Chain(error).to_string());
    info!(%agent, %source, carrier, reason = reason.as_deref().unwrap_or("told to"), "carrier closed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_an_agents_address_does_not_use_up_its_turns() {
        let turns = Turns::default();
        let agent = IpAddr::from([192, 0, 2, 1]);
        let forged: Vec<_> = (0..10 * HANDSHAKES_PER_SOURCE).map(|_| turns.take(agent, false)).collect();
        assert!(forged.iter().all(Option::is_some), "the server bounds those");
        let mut own: Vec<_> = (0..HANDSHAKES_PER_SOURCE).map(|_| turns.take(agent, true)).collect();
        assert!(own.iter().all(Option::is_some) && turns.take(agent, true).is_none());
        assert!(turns.take(IpAddr::from([192, 0, 2, 2]), true).is_some());
        own.pop();
        assert!(turns.take(agent, true).is_some(), "a turn that is over is free again");
        drop((own, forged));
        assert!(turns.0.lock().is_empty());
    }
}
