//! What is acknowledged is stored: against a store that can be told to fail.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use blueprint_common_types::workload::Seat;
use blueprint_common_types::{
    Health, MachineSample, ServiceKey, ServiceSample, TokenId, TunnelSample, WgPublicKey,
};
use blueprint_hub_registry_core::qos::PagePoint;
use blueprint_hub_registry_core::workload::Assignment;
use blueprint_hub_registry_core::{
    AccessTokenRecord, ApiKeyError, ApiKeyRecord, ApiKeyRotateError, ApiKeyRotation, AssertionRecord,
    AuditCheck, AuditKind, AuditRow, IdentityRecord, JoinCommit, JoinError, JoinTokenRecord, Loaded,
    OfferedTarget, PolicyChange, PolicyChangeError, PolicyRecord, QosSample, RenewError, ServiceChange,
    ServiceChangeError, ServiceGrant, ServiceRecord, StoreError, StoreResult, Weights,
};
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;

use super::*;

/// Keeps changes in memory, and fails on demand; what the registrar never calls is closed.
#[derive(Default)]
pub(crate) struct Disk {
    is_full: AtomicBool,
    saved: Mutex<Vec<Change>>,
    audited: Mutex<Vec<AuditEvent>>,
}

fn closed<T: Send + 'static, E: From<StoreError> + Send + 'static>() -> BoxFuture<'static, Result<T, E>> {
    async { Err(StoreError::Closed.into()) }.boxed()
}

impl Store for Disk {
    fn load(&self) -> BoxFuture<'_, StoreResult<Loaded>> {
        closed()
    }
    fn epoch_next(&self) -> BoxFuture<'_, StoreResult<u64>> {
        closed()
    }
    fn join(&self, _: JoinCommit) -> BoxFuture<'_, Result<Agent, JoinError>> {
        closed()
    }
    fn renew(
        &self,
        _: AgentId,
        _: u32,
        _: Vec<u8>,
        _: Timestamp,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<u32, RenewError>> {
        closed()
    }
    fn remove_agent(&self, _: AgentId, _: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        closed()
    }
    fn save_changes<'a>(&'a self, changes: &'a [Change], _: u64) -> BoxFuture<'a, StoreResult<()>> {
        async move {
            if self.is_full.load(Ordering::Relaxed) {
                return Err(StoreError::Full);
            }
            self.saved.lock().extend_from_slice(changes);
            Ok(())
        }
        .boxed()
    }
    fn create_join_token(&self, _: JoinTokenRecord) -> BoxFuture<'_, StoreResult<()>> {
        closed()
    }
    fn list_join_tokens(&self) -> BoxFuture<'_, StoreResult<Vec<JoinTokenRecord>>> {
        closed()
    }
    fn revoke_join_token(&self, _: TokenId, _: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        closed()
    }
    fn list_identities(&self) -> BoxFuture<'_, StoreResult<Vec<IdentityRecord>>> {
        closed()
    }
    fn forget_identity(
        &self,
        _: String,
        _: String,
        _: String,
        _: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        closed()
    }
    fn create_access_token(&self, _: AccessTokenRecord) -> BoxFuture<'_, StoreResult<()>> {
        closed()
    }
    fn list_access_tokens(&self) -> BoxFuture<'_, StoreResult<Vec<AccessTokenRecord>>> {
        closed()
    }
    fn revoke_access_token(&self, _: TokenId, _: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        closed()
    }
    fn policy(&self) -> BoxFuture<'_, StoreResult<Option<PolicyRecord>>> {
        closed()
    }
    fn change_policy(&self, _: PolicyChange) -> BoxFuture<'_, Result<PolicyRecord, PolicyChangeError>> {
        closed()
    }
    fn list_services(&self) -> BoxFuture<'_, StoreResult<Vec<ServiceRecord>>> {
        closed()
    }
    fn change_service(&self, _: ServiceChange) -> BoxFuture<'_, Result<ServiceRecord, ServiceChangeError>> {
        closed()
    }
    fn create_api_key(&self, _: ApiKeyRecord, _: u32) -> BoxFuture<'_, Result<(), ApiKeyError>> {
        closed()
    }
    fn rotate_api_key(&self, _: ApiKeyRotation, _: u32) -> BoxFuture<'_, Result<(), ApiKeyRotateError>> {
        closed()
    }
    fn list_api_keys(&self) -> BoxFuture<'_, StoreResult<Vec<ApiKeyRecord>>> {
        closed()
    }
    fn revoke_api_key(&self, _: String, _: Timestamp) -> BoxFuture<'_, StoreResult<Option<ServiceKey>>> {
        closed()
    }
    fn use_assertion(&self, _: AssertionRecord, _: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        closed()
    }
    fn list_assertions(&self, _: Timestamp) -> BoxFuture<'_, StoreResult<Vec<AssertionRecord>>> {
        closed()
    }
    fn audit(&self, event: AuditEvent, _: Timestamp) -> BoxFuture<'_, StoreResult<()>> {
        self.audited.lock().push(event);
        async { Ok(()) }.boxed()
    }
    fn audit_tail(&self, _: u32) -> BoxFuture<'_, StoreResult<Vec<AuditRow>>> {
        closed()
    }
    fn audit_find(
        &self,
        _: blueprint_hub_registry_core::AuditFilter,
    ) -> BoxFuture<'_, StoreResult<Vec<AuditRow>>> {
        closed()
    }
    fn audit_verify(&self) -> BoxFuture<'_, StoreResult<AuditCheck>> {
        closed()
    }
    fn recorded_targets(
        &self,
        _: AgentId,
        _: BTreeSet<(ServiceKey, u16)>,
    ) -> BoxFuture<'_, StoreResult<BTreeSet<(ServiceKey, u16)>>> {
        closed()
    }
    fn write_late_pages(
        &self,
        _: Vec<(ServiceKey, PagePoint)>,
        _: Duration,
        _: (u32, u32),
    ) -> BoxFuture<'_, StoreResult<()>> {
        closed()
    }
    fn meta_get<'a>(&'a self, _: &'a str) -> BoxFuture<'a, StoreResult<Option<String>>> {
        closed()
    }
    fn meta_set<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        closed()
    }
}

const AGENT: AgentId = AgentId::from_bytes([1; 16]);
const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

fn agent(pool: &mut AddressPool) -> Agent {
    Agent {
        id: AGENT,
        name: "rack-7".to_owned(),
        wireguard_key: WgPublicKey::from_bytes([2; 32]),
        lease: pool.reserve().unwrap(),
        joined_at: Timestamp::from_millis(1),
        generation: 1,
        token: TokenId::from_bytes([3; 8]),
        services: ServiceGrant::FirstClaim,
        agent_version: String::new(),
    }
}

/// A registrar with one agent, running until the token is cancelled.
pub(crate) fn start(
    disk: &Arc<Disk>,
    stop: &CancellationToken,
) -> (RegistrarHandle, impl Future<Output = ()> + use<>) {
    let mut pool = AddressPool::new("10.88.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()).unwrap();
    let agents = vec![agent(&mut pool)];
    let now = Timestamp::from(SystemTime::now());
    let ttl = Duration::from_secs(30);
    let registry = Registry::restore(agents, Vec::new(), BTreeMap::new(), 1, now, ttl);
    let store: Arc<dyn Store> = Arc::<Disk>::clone(disk);
    let (registrar, handle) = Registrar::new(registry, pool, store);
    (handle, registrar.run(stop.clone()))
}

pub(crate) fn session(number: u64) -> SessionRef {
    SessionRef { agent: AGENT, session: number }
}

pub(crate) async fn open(
    handle: &RegistrarHandle,
    number: u64,
    process: u64,
) -> (Option<u64>, mpsc::Receiver<Box<v1::HubMessage>>) {
    let (outbox, mut messages) = mpsc::channel(32);
    let opening = Opening {
        session: session(number),
        process,
        agent_version: "0.1.0".to_owned(),
        runs_workloads: true,
        inventory: None,
        outbox,
        welcome: v1::Welcome::default(),
    };
    if handle.open(opening).await.unwrap().is_none() {
        return (None, messages);
    }
    // The welcome is the first message whatever else happens, and says what is stored; then what is assigned.
    let Some(Body::Welcome(welcome)) = messages.recv().await.unwrap().body else {
        unreachable!("no welcome")
    };
    let Some(Body::Workloads(_)) = messages.recv().await.unwrap().body else { unreachable!("no workloads") };
    (Some(welcome.agent_seq), messages)
}

pub(crate) fn targets() -> Report {
    Report::Targets(vec![OfferedTarget {
        service: SERVICE,
        port: 8080,
        health: Health::Healthy,
        reason: String::new(),
        generation: 0,
    }])
}

async fn acknowledged(messages: &mut mpsc::Receiver<Box<v1::HubMessage>>) -> u64 {
    loop {
        if let Some(Body::Ack(ack)) = messages.recv().await.unwrap().body {
            return ack.agent_seq;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_or_published_before_it_is_stored() {
    let (disk, stop) = (Arc::new(Disk::default()), CancellationToken::new());
    let (handle, run) = start(&disk, &stop);
    let test = async {
        let (applied, mut messages) = open(&handle, 1, 9).await;
        assert_eq!(applied, Some(0));
        disk.is_full.store(true, Ordering::Relaxed);
        handle.report(session(1), 1, targets()).await.unwrap();
        // An answer to a later question shows that the report was applied.
        assert!(!handle.changes_after(1).await.unwrap().unwrap().is_empty());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(messages.try_recv().is_err(), "acknowledged while the disk is full");
        assert!(handle.snapshot().targets.is_empty(), "published while the disk is full");
        let (stored, mut messages) = open(&handle, 2, 9).await;
        assert_eq!(stored, Some(0), "a new session is told what is stored, not what is applied");

        disk.is_full.store(false, Ordering::Relaxed);
        assert_eq!(acknowledged(&mut messages).await, 1);
        assert_eq!(handle.snapshot().targets.len(), 1);
        assert!(!disk.saved.lock().is_empty());
        stop.cancel();
    };
    tokio::join!(run, test);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_is_applied_once_and_a_new_process_starts_anew() {
    let (disk, stop) = (Arc::new(Disk::default()), CancellationToken::new());
    let (handle, run) = start(&disk, &stop);
    let test = async {
        let (_, mut first) = open(&handle, 1, 9).await;
        handle.report(session(1), 1, targets()).await.unwrap();
        assert_eq!(acknowledged(&mut first).await, 1);
        let index = handle.snapshot().index;

        let (applied, _second) = open(&handle, 2, 9).await;
        assert_eq!(applied, Some(1), "the same process goes on where it was");
        let goodbye = first.recv().await.unwrap().body;
        assert!(matches!(goodbye, Some(Body::Goodbye(bye)) if bye.reason() == Reason::Replaced));
        handle.report(session(2), 1, Report::Targets(Vec::new())).await.unwrap();
        handle.report(session(1), 2, Report::Targets(Vec::new())).await.unwrap();
        assert!(handle.changes_after(index).await.unwrap().unwrap().is_empty());

        let (applied, _third) = open(&handle, 3, 10).await;
        assert_eq!(applied, Some(0));
        stop.cancel();
    };
    tokio::join!(run, test);
}

#[tokio::test(start_paused = true)]
async fn a_removed_agent_is_told_and_cannot_come_back() {
    let (disk, stop) = (Arc::new(Disk::default()), CancellationToken::new());
    let (handle, run) = start(&disk, &stop);
    let test = async {
        let (_, mut messages) = open(&handle, 1, 9).await;
        assert!(handle.removed(AGENT).await.unwrap().is_some());
        let goodbye = messages.recv().await.unwrap().body;
        assert!(matches!(goodbye, Some(Body::Goodbye(bye)) if bye.reason() == Reason::Revoked));
        let (applied, _) = open(&handle, 2, 9).await;
        assert_eq!(applied, None);
        stop.cancel();
    };
    tokio::join!(run, test);
}

/// An agent that offers what it may not, each time by another process and at other ports.
#[tokio::test(start_paused = true)]
async fn refused_targets_have_a_budget_in_the_audit_log_and_what_is_left_out_is_told() {
    let (disk, stop) = (Arc::new(Disk::default()), CancellationToken::new());
    let (handle, run) = start(&disk, &stop);
    let test = async {
        handle.assign(Assignments::new(), BTreeSet::from([SERVICE]), Weights::new()).await.unwrap();
        for process in 1..=10u16 {
            let (_, messages) = open(&handle, process.into(), process.into()).await;
            let offered = (0..64).map(|port| OfferedTarget {
                service: SERVICE,
                port: process * 100 + port,
                health: Health::Healthy,
                reason: String::new(),
                generation: 0,
            });
            handle.report(session(process.into()), 1, Report::Targets(offered.collect())).await.unwrap();
            handle.changes_after(1).await.unwrap();
            drop(messages);
        }
        let refused = |row: &&AuditEvent| row.kind == AuditKind::TargetRefuse;
        let rows = disk.audited.lock().iter().filter(refused).count();
        assert_eq!(rows, usize::try_from(REFUSAL_ROWS_PER_MINUTE).unwrap());
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (_, _messages) = open(&handle, 11, 11).await;
        handle.report(session(11), 1, targets()).await.unwrap();
        handle.changes_after(1).await.unwrap();
        let last = disk.audited.lock().iter().rfind(refused).map(|row| row.detail.clone()).unwrap();
        assert!(last.ends_with("; 520 refusals before it are only counted"), "{last}");
        stop.cancel();
    };
    tokio::join!(run, test);
}

fn service_sample(service: ServiceKey, port: u16) -> ServiceSample {
    ServiceSample {
        service,
        port,
        health: Health::Healthy,
        pid: None,
        cpu_percent: 1.0,
        memory_bytes: 1,
        check_micros: 1,
        whole: None,
    }
}

#[tokio::test(start_paused = true)]
async fn late_samples_of_what_became_anothers_are_taken_as_far_as_they_were_recorded() {
    let (disk, stop) = (Arc::new(Disk::default()), CancellationToken::new());
    let (handle, run) = start(&disk, &stop);
    let test = async {
        let (_, _messages) = open(&handle, 1, 9).await;
        handle.report(session(1), 1, targets()).await.unwrap();
        let own = ServiceKey { blueprint: 8, service: 1 };
        let late = |services: Vec<ServiceSample>| QosSample {
            at: Timestamp::from(SystemTime::now()),
            machine: MachineSample::default(),
            tunnel: TunnelSample::default(),
            services,
        };
        let all = || {
            let of = [(SERVICE, 8080), (SERVICE, 8080), (SERVICE, 9), (own, 80)];
            late(of.map(|(service, port)| service_sample(service, port)).into())
        };
        let taken = handle.late(AGENT, vec![all()], Recorded::new()).await.unwrap();
        assert_eq!(taken.not_offered, 2, "one twice, and one that it never claimed");

        // The service fails over to another node.
        let seat = Seat { service: SERVICE, slot: 0 };
        let assignment = Assignment { generation: 1, ends: false };
        let other = BTreeMap::from([(AgentId::from_bytes([2; 16]), BTreeMap::from([(seat, assignment)]))]);
        handle.assign(other, BTreeSet::new(), Weights::new()).await.unwrap();
        let taken = handle.late(AGENT, vec![all()], Recorded::new()).await.unwrap();
        assert_eq!(taken.not_offered, 4, "nothing is known of it");
        let recorded = Recorded::from([(SERVICE, 8080)]);
        let taken = handle.late(AGENT, vec![all()], recorded).await.unwrap();
        assert_eq!(taken.not_offered, 3, "what it was counts, once");
        stop.cancel();
    };
    tokio::join!(run, test);
}
