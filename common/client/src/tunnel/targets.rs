//! Targets of services as they come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use blueprint_common_types::{Health, ServiceKey};
use blueprint_proto::v1;
use blueprint_proto::v1::watch_event::Change;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, Streaming};

use super::open::{OpenError, ready, text};
use super::{Inner, TunnelHandle};

/// Most services of one watch; the hub takes no more.
const MAX_SERVICES: usize = 64;

/// Most targets that a watch keeps.
const MAX_TARGETS: usize = 4096;

/// How long the hub may take to begin its answer, and how long one try waits for a hub that is away.
const BEGIN_WITHIN: Duration = Duration::from_secs(10);

/// Pause before the next try, from the first to the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// One place of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedTarget {
    /// The service.
    pub service: ServiceKey,
    /// Its machine's name.
    pub node: String,
    /// Its machine's id at the hub.
    pub node_id: String,
    /// Overlay address and port.
    pub address: SocketAddr,
    /// What its machine's checks and the tunnel say of it. Only a healthy target is worth a connection.
    pub health: Health,
    /// Share of new requests that it gets, 0 to 100: 0 for one that is about to go.
    pub weight: u8,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetEvent {
    /// A target is there that was not, or is not what it was.
    Upsert(WatchedTarget),
    /// A target is gone, or the policy does not lead there any more.
    Remove(WatchedTarget),
    /// Everything that there is has been told: once at the beginning.
    Complete,
}

/// A target's key: service, machine, address.
type Key = (ServiceKey, String, SocketAddr);

/// A watch of some services; see [`TunnelHandle::watch`].
#[derive(Debug)]
pub struct TargetWatch {
    tunnel: TunnelHandle,
    services: BTreeSet<ServiceKey>,
    stream: Option<Streaming<v1::WatchEvent>>,
    view: View,
    pause: Duration,
}

/// What the program was told, and is to be told.
#[derive(Debug, Default)]
struct View {
    known: BTreeMap<Key, WatchedTarget>,
    /// What the hub says since its reset, until it is complete.
    fresh: Option<BTreeMap<Key, WatchedTarget>>,
    pending: VecDeque<TargetEvent>,
    is_begun: bool,
}

impl TunnelHandle {
    /// Watches the targets of 1 to 64 services: those that the hub's policy lets this spoke begin TCP with. Nothing is asked
    /// before the first [`TargetWatch::next`].
    #[must_use]
    pub fn watch(&self, services: impl IntoIterator<Item = ServiceKey>) -> TargetWatch {
        TargetWatch {
            tunnel: self.clone(),
            services: services.into_iter().collect(),
            stream: None,
            view: View::default(),
            pause: AGAIN.0,
        }
    }
}

impl TargetWatch {
    /// The next change. Where the hub is away, or its connection breaks, it waits for it and goes on with what is different
    /// then: nothing is told twice, and nothing that lasts is missed. What comes and goes meanwhile is not told.
    ///
    /// # Errors
    ///
    /// [`OpenError::Ended`] where the spoke has ended; [`OpenError::Hub`] where the hub takes no such watch: it is of an older
    /// version, or the services are none or too many, or there are more than 4096 targets.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses no event.
    pub async fn next(&mut self) -> Result<TargetEvent, OpenError> {
        loop {
            if let Some(event) = self.view.pending.pop_front() {
                return Ok(event);
            }
            let Some(stream) = self.stream.as_mut() else {
                self.begin().await?;
                continue;
            };
            let said = tokio::select! {
                biased;
                () = self.tunnel.inner.process.drain.cancelled() => {
                    return Err(OpenError::Ended { why: "it was closed".to_owned() });
                }
                said = stream.message() => said,
            };
            match said {
                Ok(Some(event)) => {
                    self.pause = AGAIN.0;
                    self.view.take(event.change)?;
                }
                Ok(None) => self.stream = None,
                Err(status) => {
                    self.stream = None;
                    self.broke(&status).await?;
                }
            }
        }
    }

    /// What is known now, of what was told: also while the hub is away.
    pub fn targets(&self) -> impl Iterator<Item = &WatchedTarget> {
        self.view.known.values()
    }

    /// Whether the hub is heard: where not, what is known may be old.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        self.stream.is_some() && self.view.fresh.is_none() && self.view.is_begun
    }

    /// Opens the stream, once the hub is there.
    async fn begin(&mut self) -> Result<(), OpenError> {
        if self.services.is_empty() || self.services.len() > MAX_SERVICES {
            return Err(OpenError::Hub { why: format!("name 1 to {MAX_SERVICES} services to watch") });
        }
        let inner: &Inner = &self.tunnel.inner;
        let mut caller = match ready(inner, BEGIN_WITHIN).await {
            Ok(caller) => caller,
            // It is searched for all the time.
            Err(OpenError::NotReady { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let service =
            |key: &ServiceKey| v1::ServiceRef { blueprint_id: key.blueprint, service_id: key.service };
        let request =
            v1::WatchRequest { after_index: 0, services: self.services.iter().map(service).collect() };
        match timeout(BEGIN_WITHIN, caller.watch(request)).await {
            Ok(Ok(answer)) => {
                self.view.fresh = Some(BTreeMap::new());
                self.stream = Some(answer.into_inner());
                Ok(())
            }
            Ok(Err(status)) => self.broke(&status).await,
            Err(_) => Ok(()),
        }
    }

    /// Waits a little before the next try; an error where no try helps.
    async fn broke(&mut self, status: &Status) -> Result<(), OpenError> {
        let why = text(status.message());
        match status.code() {
            Code::Unimplemented => {
                return Err(OpenError::Hub {
                    why: "it is of an older version, which has no watch".to_owned(),
                });
            }
            Code::InvalidArgument => return Err(OpenError::Hub { why }),
            Code::Ok
            | Code::Cancelled
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated => {}
        }
        tracing::debug!(why, "the watch of targets broke; it goes on over the next connection");
        let pause = self.pause;
        self.pause = pause.saturating_mul(2).min(AGAIN.1);
        sleep(pause).await;
        Ok(())
    }
}

impl View {
    /// Takes what the hub says.
    fn take(&mut self, change: Option<Change>) -> Result<(), OpenError> {
        match change {
            Some(Change::Reset(_)) => self.fresh = Some(BTreeMap::new()),
            Some(Change::Upsert(said)) => {
                let Some((key, target)) = read(&said) else { return Ok(()) };
                let into = self.fresh.as_mut().unwrap_or(&mut self.known);
                if into.len() >= MAX_TARGETS && !into.contains_key(&key) {
                    return Err(OpenError::Hub {
                        why: format!("it tells of more than {MAX_TARGETS} targets"),
                    });
                }
                let is_news = into.insert(key, target.clone()).as_ref() != Some(&target);
                if is_news && self.fresh.is_none() {
                    self.pending.push_back(TargetEvent::Upsert(target));
                }
            }
            Some(Change::Remove(said)) => {
                let Some((key, _)) = read(&said) else { return Ok(()) };
                match self.fresh.as_mut() {
                    Some(fresh) => drop(fresh.remove(&key)),
                    None => self.pending.extend(self.known.remove(&key).map(TargetEvent::Remove)),
                }
            }
            Some(Change::Complete(_)) => self.complete(),
            None => {}
        }
        Ok(())
    }

    /// Goes on with what the hub told in one piece: only what is different is news.
    fn complete(&mut self) {
        let Some(fresh) = self.fresh.take() else { return };
        let before = std::mem::replace(&mut self.known, fresh);
        let gone = before.iter().filter(|(key, _)| !self.known.contains_key(*key));
        self.pending.extend(gone.map(|(_, target)| TargetEvent::Remove(target.clone())));
        let news = self.known.iter().filter(|(key, target)| before.get(*key) != Some(*target));
        self.pending.extend(news.map(|(_, target)| TargetEvent::Upsert(target.clone())));
        if !std::mem::replace(&mut self.is_begun, true) {
            self.pending.push_back(TargetEvent::Complete);
        }
    }
}

/// A target of the hub; what is none is left out.
fn read(said: &v1::RegisteredTarget) -> Option<(Key, WatchedTarget)> {
    let service = ServiceKey { blueprint: said.blueprint_id, service: said.service_id };
    let address: SocketAddr = said.address.parse().ok()?;
    let target = WatchedTarget {
        service,
        node: text(&said.agent_name),
        node_id: text(&said.agent_id),
        address,
        health: said.health().into(),
        weight: u8::try_from(said.weight.unwrap_or(100)).unwrap_or(100),
    };
    Some(((service, target.node_id.clone(), address), target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16, health: v1::Health) -> v1::RegisteredTarget {
        v1::RegisteredTarget {
            blueprint_id: 7,
            service_id: 42,
            agent_id: "a1".to_owned(),
            agent_name: "gpu-1".to_owned(),
            address: format!("10.88.0.2:{port}"),
            health: health.into(),
            weight: Some(100),
            ..v1::RegisteredTarget::default()
        }
    }

    fn told(view: &mut View, changes: Vec<Change>) -> Vec<String> {
        for change in changes {
            view.take(Some(change)).unwrap();
        }
        let text = |event| match event {
            TargetEvent::Upsert(target) => format!("+{} {}", target.address.port(), target.health),
            TargetEvent::Remove(target) => format!("-{}", target.address.port()),
            TargetEvent::Complete => "complete".to_owned(),
        };
        view.pending.drain(..).map(text).collect()
    }

    #[test]
    fn after_a_break_only_what_is_different_is_told() {
        use v1::Health::{Healthy, Unhealthy};
        let up = |port, health| Change::Upsert(target(port, health));
        let (reset, complete) = (Change::Reset(v1::Reset {}), Change::Complete(v1::Complete {}));
        let mut view = View::default();
        let first = vec![reset.clone(), up(80, Healthy), up(81, Healthy), up(82, Healthy)];
        assert_eq!(told(&mut view, first), [""; 0], "nothing before it is complete");
        assert_eq!(
            told(&mut view, vec![complete.clone()]),
            ["+80 healthy", "+81 healthy", "+82 healthy", "complete"]
        );
        let more = vec![
            up(80, Healthy),
            up(81, Unhealthy),
            Change::Remove(target(82, Healthy)),
            Change::Remove(target(9, Healthy)),
        ];
        assert_eq!(told(&mut view, more), ["+81 unhealthy", "-82"]);
        // Another stream: 80 is as it was, 81 is gone, 83 is new.
        let again = vec![reset, up(80, Healthy), up(83, Healthy), complete];
        assert_eq!(told(&mut view, again), ["-81", "+83 healthy"]);
        assert_eq!(view.known.len(), 2);
    }

    #[test]
    fn what_is_no_target_is_left_out_and_there_is_a_bound() {
        let mut view = View::default();
        let strange =
            v1::RegisteredTarget { address: "nowhere".to_owned(), ..target(80, v1::Health::Healthy) };
        assert_eq!(told(&mut view, vec![Change::Upsert(strange)]), [""; 0]);
        for port in 1..=4096 {
            view.take(Some(Change::Upsert(target(port, v1::Health::Healthy)))).unwrap();
        }
        let more = view.take(Some(Change::Upsert(target(5000, v1::Health::Healthy))));
        assert!(more.is_err_and(|error| error.to_string().contains("4096")));
        view.take(Some(Change::Upsert(target(7, v1::Health::Unhealthy)))).unwrap();
    }
}
