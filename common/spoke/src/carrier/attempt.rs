//! One try of one way to the hub.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::Tunnel;
use blueprint_common_tunnel::carrier::{ProxyUrl, QuicError};
use blueprint_common_tunnel_core::Endpoint;
use blueprint_common_types::{Carrier, WgPublicKey};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Names;
use super::link::{LiveLink, Watcher, open_quic, open_tls};
use crate::dial::{DialError, HubAddress};
use crate::identity::{Identity, Offer, split_endpoint};
use crate::plane::Plane;
use crate::spoke::Spoke;

/// Questions of one try, the pause between them, and how long each waits for its answer.
const QUESTIONS: u32 = 4;
const QUESTION_PAUSE: Duration = Duration::from_millis(250);
const ANSWER_WITHIN: Duration = Duration::from_millis(1200);
/// How soon a question is asked again that could not leave, because no handshake has completed yet.
const SESSION_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of the inner packet of a question.
const QUESTION_BYTES: u16 = 64;

/// Everything that a try needs.
#[derive(Debug, Clone)]
pub struct Base {
    pub(crate) tunnel: Tunnel,
    pub(crate) hub: WgPublicKey,
    pub(crate) identity: Arc<Identity>,
    pub(crate) proxy: Option<ProxyUrl>,
    pub(crate) is_v4_only: bool,
    /// The hub's address that the control stream reached.
    pub(crate) reached: Option<IpAddr>,
    pub(crate) names: Arc<Names>,
    pub(crate) spawner: Spawner,
    /// Ends the links.
    pub(crate) stop: CancellationToken,
}

/// A way that works.
#[derive(Debug)]
pub struct Reached {
    /// Where it leads.
    pub endpoint: Endpoint,
    /// Its connection, where the carrier has one.
    pub link: Option<Arc<LiveLink>>,
    /// How long the first answer took.
    pub round_trip: Duration,
}

/// Why a way does not work.
#[derive(Debug, thiserror::Error)]
pub enum TryError {
    /// The hub cannot be found or connected to, or is another one.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// No QUIC connection.
    #[error("no QUIC connection")]
    Quic(#[from] QuicError),
    /// The socket.
    #[error("cannot open a socket")]
    Socket(#[source] std::io::Error),
    /// Nothing that this socket can reach.
    #[error("the hub has no address that tunnel.listen can send to")]
    NoAddress,
    /// TLS without our protocol: somebody in between ends TLS, or it is an older hub.
    #[error("what answers speaks TLS but carries no tunnel")]
    NoCarrier,
    /// Too many links.
    #[error("too many connections")]
    Full,
    /// Nothing came back through it.
    #[error("no answer from {0}")]
    Silent(SocketAddr),
}

impl Base {
    /// What a try without a running spoke needs: a tunnel of its own.
    #[must_use]
    pub fn alone(
        plane: &Plane,
        identity: Arc<Identity>,
        proxy: Option<ProxyUrl>,
        spawner: Spawner,
        stop: CancellationToken,
    ) -> Self {
        Self {
            tunnel: plane.tunnel().clone(),
            hub: plane.hub,
            identity,
            proxy,
            is_v4_only: plane.is_v4_only,
            reached: None,
            names: Arc::default(),
            spawner,
            stop,
        }
    }

    /// Who tries.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// HTTP proxy on the way to the hub.
    #[must_use]
    pub const fn proxy(&self) -> Option<&ProxyUrl> {
        self.proxy.as_ref()
    }

    /// What a try beside the running spoke needs.
    pub(crate) fn of(spoke: &Spoke, spawner: Spawner) -> Self {
        Self {
            tunnel: spoke.plane.tunnel().clone(),
            hub: spoke.plane.hub,
            identity: spoke.identity(),
            proxy: spoke.config.proxy.clone(),
            is_v4_only: spoke.plane.is_v4_only,
            reached: spoke.path.borrow().reached,
            names: Arc::default(),
            spawner,
            stop: spoke.stop.clone(),
        }
    }

    /// The hub's addresses, the one that works for the control stream first.
    pub(super) async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DialError> {
        let mut found = self.names.resolve(host).await?;
        if host == self.identity.hub.host
            && let Some(reached) = self.reached
        {
            found.sort_by_key(|ip| *ip != reached);
            if found.first() != Some(&reached) {
                found.push(reached);
            }
        }
        Ok(found)
    }

    fn place(&self, offer: &Offer) -> HubAddress {
        // The form was checked when the hub sent it.
        let (host, port) = split_endpoint(&offer.endpoint).unwrap_or_default();
        let host = if host.is_empty() { &self.identity.hub.host } else { host };
        HubAddress { host: host.to_owned(), port }
    }

    async fn remote(&self, offer: &Offer, turn: usize) -> Result<SocketAddr, TryError> {
        let HubAddress { host, port } = self.place(offer);
        let mut found = self.addresses(&host).await?;
        let needs_v4 = self.is_v4_only && offer.carrier == Carrier::Udp;
        found.retain(|ip| ip.is_ipv4() || !needs_v4);
        let chosen = turn.checked_rem(found.len()).and_then(|turn| found.get(turn));
        chosen.map(|ip| SocketAddr::new(*ip, port)).ok_or(TryError::NoAddress)
    }

    fn is_alive(&self) -> bool {
        self.tunnel.snapshot().peers.get(&self.hub).is_some_and(|stats| stats.echo.alive)
    }
}

/// Tries the first address of a way beside whatever runs, with a handshake unless the data plane answers; `link` is the
/// connection of the way, where there is one already.
///
/// # Errors
///
/// Each variant of [`TryError`] says its case.
///
/// # Cancel safety
///
/// Dropping it closes what it opened.
pub async fn try_way(base: Base, offer: &Offer, link: Option<Arc<LiveLink>>) -> Result<Reached, TryError> {
    attempt(base, offer, link, 0, true, None).await
}

/// Tries a way: connects where that is needed, and asks the hub through it.
///
/// `turn` says which of the hub's addresses is used. With `is_urgent` a handshake goes that way, too, unless the
/// data plane answers; else nothing is changed.
///
/// # Cancel safety
///
/// Dropping it closes what it opened.
pub(crate) async fn attempt(
    base: Base,
    offer: &Offer,
    link: Option<Arc<LiveLink>>,
    turn: usize,
    is_urgent: bool,
    watcher: Watcher,
) -> Result<Reached, TryError> {
    let link = link.filter(|link| !link.is_over());
    let link = match (offer.carrier, link) {
        (Carrier::Udp, _) => None,
        (Carrier::Quic | Carrier::Tls, Some(link)) => Some(link),
        (Carrier::Quic, None) => {
            let remote = base.remote(offer, turn).await?;
            Some(Arc::new(Box::pin(open_quic(&base, remote, watcher)).await?))
        }
        (Carrier::Tls, None) => Some(Arc::new(Box::pin(open_tls(&base, &base.place(offer), watcher)).await?)),
    };
    let endpoint = match &link {
        Some(link) => link.endpoint,
        None => base.remote(offer, turn).await?.into(),
    };
    let round_trip = ask(&base, endpoint, is_urgent).await.ok_or(TryError::Silent(endpoint.remote))?;
    Ok(Reached { endpoint, link, round_trip })
}

/// Asks the hub through `endpoint` several times; how long the first answer took.
async fn ask(base: &Base, endpoint: Endpoint, is_urgent: bool) -> Option<Duration> {
    let question = |number: u32| async move {
        sleep(QUESTION_PAUSE.saturating_mul(number)).await;
        if is_urgent && number.is_multiple_of(2) && !base.is_alive() {
            base.tunnel.greet(base.hub, endpoint).await;
        }
        let asked_at = Instant::now();
        loop {
            let answer = base.tunnel.probe(base.hub, endpoint, QUESTION_BYTES, ANSWER_WITHIN).await;
            if answer.is_some() || number > 0 || asked_at.elapsed() >= ANSWER_WITHIN {
                return answer;
            }
            sleep(SESSION_PAUSE).await;
        }
    };
    let mut questions: FuturesUnordered<_> = (0..QUESTIONS).map(question).collect();
    while let Some(answer) = questions.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// The largest of `sizes`, in bytes of the inner packet, that comes through and back; `None` where none does.
///
/// # Cancel safety
///
/// Dropping it forgets the questions.
pub async fn largest(base: &Base, endpoint: Endpoint, sizes: &[u16]) -> Option<u16> {
    let question = |size: u16| async move {
        for _ in 0..2 {
            if base.tunnel.probe(base.hub, endpoint, size, ANSWER_WITHIN).await.is_some() {
                return Some(size);
            }
        }
        None
    };
    let answers: Vec<_> =
        sizes.iter().map(|size| question(*size)).collect::<FuturesUnordered<_>>().collect().await;
    answers.into_iter().flatten().max()
}
