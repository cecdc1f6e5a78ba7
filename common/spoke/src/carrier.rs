//! The ways to the hub: tries them as the ladder says, and moves the tunnel to the one it takes.
//!
//! Invariants:
//! - one task owns the ladder; a try is a future of that task, and only a link that stands is a task of its own;
//! - a link that is neither in use nor tried is closed after [`LINGER`], when nothing is on its way in it any more.

mod attempt;
mod link;
mod names;

use std::sync::Arc;
use std::time::{Duration, Instant};

use blueprint_common_link_core::{Ladder, LadderEvent};
use blueprint_common_runtime::Chain;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel_core::{Endpoint, Event};
use blueprint_common_types::Carrier;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use attempt::attempt;
pub use attempt::{Base, Reached, TryError, largest, try_way};
pub use link::LiveLink;

use link::Gone;
pub(crate) use names::Names;

use crate::error::SpokeError;
use crate::identity::Offer;
use crate::plane::{Kick, Plane};
use crate::spoke::Spoke;

/// How long a link stays after it was left: what the hub sent over it still arrives.
const LINGER: Duration = Duration::from_secs(10);
/// The longest sleep, so that a change that nobody tells of is seen.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// Links whose end may wait to be noticed.
const GONE: usize = 16;

/// One way to the hub, and what is known of it.
#[derive(Debug, Clone)]
pub struct Way {
    /// The way, as the hub offers it.
    pub offer: Offer,
    /// Its connection, where it has one.
    pub link: Option<Arc<LiveLink>>,
    /// Where it led when it last worked.
    pub endpoint: Option<Endpoint>,
    /// Why it did not work when it was last tried.
    pub(crate) trouble: Option<String>,
    /// Which of the hub's addresses is next.
    turn: usize,
    idle_since: Instant,
    is_tried: bool,
}

impl Way {
    fn new(offer: Offer, now: Instant) -> Self {
        Self { offer, link: None, endpoint: None, trouble: None, turn: 0, idle_since: now, is_tried: false }
    }
}

type Tries = FuturesUnordered<BoxFuture<'static, (u64, usize, Result<Reached, TryError>)>>;

struct Driver {
    spoke: Arc<Spoke>,
    spawner: Spawner,
    names: Arc<Names>,
    ladder: Ladder,
    offers: Vec<Offer>,
    /// Changes with the offers: what an older try found is of no use.
    generation: u64,
    tries: Tries,
    gone: mpsc::Sender<Gone>,
    /// Snapshots from before say nothing of where the tunnel is now.
    moved_at: Instant,
}

/// Keeps the tunnel on the best way to the hub, and tells the control stream when the echo stops or comes back.
pub(crate) async fn run(
    spoke: Arc<Spoke>,
    spawner: Spawner,
    kicks: mpsc::Sender<Kick>,
) -> Result<(), SpokeError> {
    let mut events = spoke.plane.tunnel().events();
    let mut requests = spoke.path.subscribe();
    spoke.plane.upsert_hub(&spoke.identity().tunnel).await?;
    let mut epoch = requests.borrow_and_update().epoch;
    let (gone, mut ended) = mpsc::channel(GONE);
    let mut driver = Driver::new(Arc::clone(&spoke), spawner, gone);
    loop {
        let deadline = driver.turn().await;
        tokio::select! {
            biased;
            () = spoke.stop.cancelled() => return Ok(()),
            changed = requests.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let request = *requests.borrow_and_update();
                let is_new = std::mem::replace(&mut epoch, request.epoch) != request.epoch;
                driver.use_request(is_new).await;
            }
            Some((generation, rung, result)) = driver.tries.next(), if !driver.tries.is_empty() => {
                if generation == driver.generation {
                    driver.tried(rung, result);
                }
            }
            Some(gone) = ended.recv() => driver.lose(&gone),
            event = events.recv() => match event {
                Ok(Event::EchoLost { .. }) => {
                    warn!("the hub's data plane does not echo");
                    // Full means that the control stream knows already.
                    let _ = kicks.try_send(Kick::Lost);
                }
                Ok(Event::EchoBack { .. }) => {
                    info!("the hub's data plane echoes");
                    let _ = kicks.try_send(Kick::Back);
                }
                // Of many events the oldest are lost, so the last word on the echo is not.
                Ok(Event::Handshake { .. } | Event::Roam { .. } | Event::Probed { .. }) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            () = sleep_until(deadline.into()) => {}
        }
    }
}

impl Driver {
    fn new(spoke: Arc<Spoke>, spawner: Spawner, gone: mpsc::Sender<Gone>) -> Self {
        let now = Instant::now();
        let mut driver = Self {
            spoke,
            spawner,
            names: Arc::default(),
            ladder: Ladder::new([], now),
            offers: Vec::new(),
            generation: 0,
            tries: FuturesUnordered::new(),
            gone,
            moved_at: now,
        };
        driver.reset();
        driver
    }

    fn plane(&self) -> &Plane {
        &self.spoke.plane
    }

    /// Begins anew with the ways that the hub offers and the configuration allows.
    fn reset(&mut self) {
        let now = Instant::now();
        self.offers.clone_from(&self.spoke.identity().tunnel.carriers);
        let allowed = &self.spoke.config.carriers;
        let offers: Vec<Offer> =
            self.offers.iter().filter(|offer| allowed.contains(&offer.carrier)).cloned().collect();
        if offers.is_empty() {
            warn!(?allowed, "the hub offers none of the carriers that tunnel.carriers allows");
        }
        self.generation = self.generation.wrapping_add(1);
        self.ladder = Ladder::new(offers.iter().map(|offer| offer.carrier == Carrier::Udp), now);
        *self.plane().ways.lock() = offers.into_iter().map(|offer| Way::new(offer, now)).collect();
    }

    /// Does everything that is due, and says until when nothing is.
    async fn turn(&mut self) -> Instant {
        self.look();
        self.ladder.handle_timeout(Instant::now());
        while let Some(event) = self.ladder.poll_event() {
            match event {
                LadderEvent::Try { rung, is_urgent } => self.try_way(rung, is_urgent),
                LadderEvent::Move { rung } => self.take(rung).await,
            }
        }
        let now = Instant::now();
        let idle = self.close_idle(now);
        let longest = now.checked_add(LONGEST_SLEEP);
        [self.ladder.poll_timeout(), idle, longest].into_iter().flatten().min().unwrap_or(now)
    }

    /// Tells the ladder what the tunnel knows: when it last echoed, and where it is.
    fn look(&mut self) {
        let snapshot = self.plane().tunnel().snapshot();
        if snapshot.taken_at < self.moved_at {
            return;
        }
        let Some(stats) = self.plane().hub_stats() else { return };
        let now = Instant::now();
        let here = stats.endpoint.and_then(|endpoint| {
            let ways = self.plane().ways.lock();
            let is_it = |way: &Way| way.endpoint.is_some_and(|known| known.is_same_way(&endpoint));
            ways.iter().position(is_it)
        });
        if let Some(rung) = here.filter(|_| stats.echo.alive) {
            self.ladder.handle_moved(rung, now);
        }
        let at = stats.echo.last_reply_age.and_then(|age| snapshot.taken_at.checked_sub(age));
        if let Some(at) = at.filter(|_| here.is_some() && here == self.ladder.current()) {
            self.ladder.handle_echo(at, Duration::from_micros(stats.echo.rtt_micros.into()), now);
        }
    }

    async fn use_request(&mut self, is_new: bool) {
        if self.offers != self.spoke.identity().tunnel.carriers {
            self.reset();
        }
        if is_new {
            // The hub lost its sessions.
            self.plane().tunnel().start_handshake(self.plane().hub).await;
        }
        if self.ladder.is_searching() {
            self.ladder.handle_path_change(Instant::now());
        }
    }

    fn base(&self) -> Base {
        Base { names: Arc::clone(&self.names), ..Base::of(&self.spoke, self.spawner.clone()) }
    }

    fn try_way(&mut self, rung: usize, is_urgent: bool) {
        let way = {
            let mut ways = self.plane().ways.lock();
            let Some(way) = ways.get_mut(rung) else { return };
            way.is_tried = true;
            way.clone()
        };
        let (base, generation, gone) = (self.base(), self.generation, self.gone.clone());
        self.tries.push(Box::pin(async move {
            let result = attempt(base, &way.offer, way.link, way.turn, is_urgent, Some((gone, rung))).await;
            (generation, rung, result)
        }));
    }

    fn tried(&mut self, rung: usize, result: Result<Reached, TryError>) {
        let now = Instant::now();
        let is_good = result.is_ok();
        let used = self.plane().hub_stats().and_then(|stats| stats.endpoint);
        let answered = result.as_ref().ok().map(|reached| reached.endpoint);
        let is_elsewhere = used.zip(answered).is_some_and(|(used, answered)| !used.is_same_way(&answered));
        if let Some(way) = self.spoke.plane.ways.lock().get_mut(rung) {
            way.is_tried = false;
            way.idle_since = now;
            match result {
                Ok(reached) => {
                    way.endpoint = Some(reached.endpoint);
                    way.link = reached.link;
                    way.trouble = None;
                }
                Err(error) => {
                    let text = Chain(&error).to_string();
                    debug!(carrier = %way.offer.carrier, endpoint = way.offer.endpoint, error = text, "carrier does not work");
                    way.trouble = Some(text);
                    way.turn = way.turn.wrapping_add(1);
                }
            }
        }
        if is_elsewhere {
            self.ladder.handle_answer_elsewhere(rung, now);
        } else if is_good {
            self.ladder.handle_answer(rung, now);
        } else {
            self.ladder.handle_failure(rung, now);
        }
    }

    async fn take(&mut self, rung: usize) {
        let way = self.plane().ways.lock().get(rung).cloned();
        let Some((way, endpoint)) = way.and_then(|way| Some((way.clone(), way.endpoint?))) else { return };
        info!(carrier = %way.offer.carrier, remote = %endpoint.remote, "tunnel takes this carrier");
        self.plane().tunnel().switch(self.plane().hub, endpoint).await;
        self.moved_at = Instant::now();
        for way in &mut *self.plane().ways.lock() {
            way.idle_since = self.moved_at;
        }
    }

    fn lose(&mut self, gone: &Gone) {
        let is_it = {
            let mut ways = self.plane().ways.lock();
            let way = ways.get_mut(gone.rung);
            way.is_some_and(|way| way.link.take_if(|link| link.number == gone.number).is_some())
        };
        if is_it {
            debug!(rung = gone.rung, reason = gone.reason, "carrier's connection ended");
            self.ladder.handle_gone(gone.rung, Instant::now());
        }
    }

    /// Closes links that nobody needs; when to look again.
    fn close_idle(&self, now: Instant) -> Option<Instant> {
        let current = self.ladder.current();
        let mut next = None;
        for (rung, way) in self.plane().ways.lock().iter_mut().enumerate() {
            if way.link.is_none() || way.is_tried || current == Some(rung) || current.is_none() {
                continue;
            }
            let until = way.idle_since.checked_add(LINGER).unwrap_or(now);
            if until <= now {
                way.link = None;
            } else {
                next = next.into_iter().chain([until]).min();
            }
        }
        next
    }
}
