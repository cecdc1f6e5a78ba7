//! Targets of services as they come and go, for machines: those that the packets of the asker may reach, and its own.
//!
//! A machine's view depends on the registry and on the policy, so no index of the registry says what it has seen. Each watch
//! begins with `reset`, everything that is, and `complete`; after that, differences. A watcher that is slow gets the
//! difference to what is then, not all that was between: so what is kept of it is bounded by what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::places::{Place, Places};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{AgentId, ServiceKey, TargetKey, WgPublicKey};
use blueprint_hub_registry_core::{RegistrySnapshot, TargetRecord};
use blueprint_proto::v1;
use blueprint_proto::v1::watch_event::Change;
use futures_util::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{RegistrarHandle, status};

/// Watches at once: of one machine, and of all.
const OF_MACHINE: u32 = 8;
const OF_ALL: usize = 1024;

/// Most services of one watch.
pub(crate) const MAX_SERVICES: usize = 64;

/// Events that wait for one watcher; past it the watcher is waited for.
const BUFFER: usize = 256;

/// Least pause between two looks, and how often is looked where the registry is the same: the policy may be another.
const PAUSE: Duration = Duration::from_millis(50);
const POLICY_LOOK: Duration = Duration::from_millis(500);

/// A watcher that takes nothing for so long loses its place, and may come back.
const SLOWEST: Duration = Duration::from_secs(60);

/// What a machine is sent.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<v1::WatchEvent, Status>> + Send>>;

/// Whether the packets of one key may begin TCP with a port of another.
pub(crate) type MayConnect = Arc<dyn Fn(&WgPublicKey, &WgPublicKey, u16) -> bool + Send + Sync>;

/// Who watches. Clones share the bounds.
#[derive(Debug, Clone)]
pub(crate) struct Watches {
    each: Arc<Places<AgentId>>,
    all: Arc<Semaphore>,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Self { each: Places::new(OF_MACHINE), all: Arc::new(Semaphore::new(OF_ALL)) }
    }

    /// Begins a watch of a machine.
    ///
    /// # Errors
    ///
    /// `resource_exhausted` where there is no place, `bad_request` where no services or too many are named.
    pub(crate) fn begin(
        &self,
        request: &v1::WatchRequest,
        agent: AgentId,
        (registrar, may_connect): (RegistrarHandle, MayConnect),
        spawner: &Spawner,
    ) -> Result<Events, Status> {
        let services = services_of(request);
        if services.is_empty() || services.len() > MAX_SERVICES {
            return Err(status::bad_request(format!("name 1 to {MAX_SERVICES} services to watch")));
        }
        let (Some(own), Ok(place)) = (self.each.begin(agent), Arc::clone(&self.all).try_acquire_owned())
        else {
            return Err(status::watch_too_many(format!(
                "no place for another watch: {OF_MACHINE} of one machine and {OF_ALL} in all are taken"
            )));
        };
        let (events, receiver) = mpsc::channel(BUFFER);
        let watch = Watch {
            registrar,
            may_connect,
            agent,
            services,
            events,
            sent: BTreeMap::new(),
            index: 0,
            _places: (own, place),
        };
        let drain = spawner.stop().drain;
        spawner.spawn("target watch", async move {
            let events = watch.events.clone();
            if drain.run_until_cancelled(watch.run()).await.is_none() {
                // Whoever does not read is gone as well.
                let _ = events.try_send(Err(status::stopping()));
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// The services that a request names.
pub(crate) fn services_of(request: &v1::WatchRequest) -> BTreeSet<ServiceKey> {
    // One more than may be is enough to refuse.
    let named = request.services.iter().take(MAX_SERVICES + 1);
    named.map(|it| ServiceKey { blueprint: it.blueprint_id, service: it.service_id }).collect()
}

/// One watch of a machine.
struct Watch {
    registrar: RegistrarHandle,
    may_connect: MayConnect,
    agent: AgentId,
    services: BTreeSet<ServiceKey>,
    events: mpsc::Sender<Result<v1::WatchEvent, Status>>,
    sent: BTreeMap<TargetKey, v1::RegisteredTarget>,
    index: u64,
    _places: (Place<AgentId>, OwnedSemaphorePermit),
}

/// The watcher went away, or is to be treated so.
struct Gone;

impl Watch {
    async fn run(mut self) {
        let mut published = self.registrar.snapshots();
        let mut is_first = true;
        loop {
            let snapshot = Arc::clone(&published.borrow_and_update());
            let Some(own) = snapshot.agents.get(&self.agent) else {
                let _ = self.events.try_send(Err(status::revoked()));
                return;
            };
            let key = own.agent.wireguard_key;
            self.index = snapshot.index;
            let seen = self.seen(&snapshot, &key);
            drop(snapshot);
            if self.tell(seen, std::mem::take(&mut is_first)).await.is_err() {
                return;
            }
            sleep(PAUSE).await;
            tokio::select! {
                () = self.events.closed() => return,
                changed = published.changed() => if changed.is_err() { return },
                () = sleep(POLICY_LOOK) => {}
            }
        }
    }

    /// What the machine may know now.
    fn seen(
        &self,
        snapshot: &RegistrySnapshot,
        own: &WgPublicKey,
    ) -> BTreeMap<TargetKey, v1::RegisteredTarget> {
        let targets = self.services.iter().flat_map(|service| snapshot.targets_of(*service));
        let may = |target: &TargetRecord| {
            let holder = snapshot.agents.get(&target.key.agent);
            target.key.agent == self.agent
                || holder
                    .is_some_and(|it| (self.may_connect)(own, &it.agent.wireguard_key, target.address.port()))
        };
        targets.filter(|target| may(target)).map(|target| (target.key, shown(target))).collect()
    }

    async fn tell(
        &mut self,
        seen: BTreeMap<TargetKey, v1::RegisteredTarget>,
        is_first: bool,
    ) -> Result<(), Gone> {
        let before = std::mem::take(&mut self.sent);
        if is_first {
            self.send(Change::Reset(v1::Reset {})).await?;
        }
        for (key, target) in &before {
            if !seen.contains_key(key) {
                self.send(Change::Remove(target.clone())).await?;
            }
        }
        for (key, target) in &seen {
            if before.get(key) != Some(target) {
                self.send(Change::Upsert(target.clone())).await?;
            }
        }
        if is_first {
            self.send(Change::Complete(v1::Complete {})).await?;
        }
        self.sent = seen;
        Ok(())
    }

    async fn send(&self, change: Change) -> Result<(), Gone> {
        let event = v1::WatchEvent { index: self.index, change: Some(change) };
        match timeout(SLOWEST, self.events.send(Ok(event))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }
}

/// What a machine is told of a target: why it is not healthy is its own machine's matter, and so is its lease.
fn shown(target: &TargetRecord) -> v1::RegisteredTarget {
    v1::RegisteredTarget { reason: String::new(), expires_millis: 0, ..registered(target) }
}

/// Everything of a target.
pub(crate) fn registered(record: &TargetRecord) -> v1::RegisteredTarget {
    v1::RegisteredTarget {
        blueprint_id: record.key.service.blueprint,
        service_id: record.key.service.service,
        agent_id: record.key.agent.to_string(),
        agent_name: record.agent_name.clone(),
        address: record.address.to_string(),
        health: v1::Health::from(record.health).into(),
        reason: record.reason.clone(),
        expires_millis: record.expires_at.as_millis(),
        weight: Some(record.weight.into()),
    }
}
