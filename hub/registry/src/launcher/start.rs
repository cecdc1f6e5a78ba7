//! A launcher's first message: whether it may have the workload, and storing it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use blueprint_common_types::workload::{
    Bundle, DEFAULT_LEASE_SECS, Lease, RegistryLogin, Source, WorkloadSpec,
};
use blueprint_common_types::{AgentId, Secret, ServiceKey};
use blueprint_hub_registry_core::RegistrySnapshot;
use blueprint_hub_registry_core::workload::{WorkloadChange, WorkloadChangeError, WorkloadRecord};
use blueprint_proto::v1;
use tonic::Status;
use tracing::error;

use super::LauncherParts;
use crate::launchers::Attached;
use crate::status;
use crate::workloads::lease_of;

/// Longest document, in bytes; agents take no longer ones.
const MAX_DOCUMENT: usize = 256 * 1024;

/// A launcher that holds its workload.
pub(super) struct Started {
    pub(super) service: ServiceKey,
    pub(super) launcher: String,
    pub(super) attached: Attached,
}

/// Lets the launcher hold the workload, and stores that where it is new.
pub(super) async fn begin(
    parts: &LauncherParts,
    snapshot: &RegistrySnapshot,
    start: v1::LauncherStart,
) -> Result<Started, Status> {
    let service = ServiceKey { blueprint: start.blueprint_id, service: start.service_id };
    let (spec, lease) = read(&start)?;
    let document = serde_json::to_string(&spec).map_err(|error| status::bad_request(error.to_string()))?;
    if document.len() > MAX_DOCUMENT {
        return Err(status::bad_request(format!("the document has more than {MAX_DOCUMENT} bytes")));
    }
    let nodes = start.nodes.iter().map(|name| find(snapshot, name)).collect::<Result<BTreeSet<_>, _>>()?;
    let bundle = bundle(&start, &spec.source)?;
    // Who may not have it does not get as far as to hold it.
    known(parts, service, start.take_over)?;
    let attached = parts.launchers.attach(service, lease.clone(), start.take_over).await;
    let attached = attached.map_err(|_| status::stopping())?.map_err(|held| {
        Status::failed_precondition(format!(
            "{service}: {held}; end that one first, or set take_over = true for blueprint {} in launcher.toml",
            service.blueprint,
        ))
    })?;
    let wanted = Wanted { kind: spec.source.kind(), document, nodes, bundle };
    if let Err(status) = wanted.store(parts, service, start.take_over).await {
        parts.launchers.forget(service, attached.connection).await;
        return Err(status);
    }
    Ok(Started { service, launcher: lease.launcher, attached })
}

fn read(start: &v1::LauncherStart) -> Result<(WorkloadSpec, Lease), Status> {
    let bad = |error: &dyn std::fmt::Display| status::bad_request(format!("the document: {error}"));
    let mut spec: WorkloadSpec = serde_json::from_str(&start.document).map_err(|error| bad(&error))?;
    if spec.lease.is_some() {
        return Err(bad(&"it has a lease, which the hub gives"));
    }
    let secs = if start.lease_secs == 0 { DEFAULT_LEASE_SECS } else { start.lease_secs };
    let lease = Lease { launcher: start.launcher.clone(), secs };
    spec.lease = Some(lease.clone());
    spec.check().map_err(|error| bad(&error))?;
    Ok((spec, lease))
}

fn bundle(start: &v1::LauncherStart, source: &Source) -> Result<Bundle, Status> {
    let mut bundle = Bundle::default();
    for file in &start.keystore {
        let added = bundle.add(&file.path, Secret::new(file.content.clone()));
        added.map_err(|error| status::bad_request(format!("keystore: {error}")))?;
    }
    if !start.envelope_key.is_empty() {
        let key = <[u8; 32]>::try_from(start.envelope_key.as_slice());
        let key = key.map_err(|_| status::bad_request("envelope_key does not have 32 bytes"))?;
        bundle.envelope_key = Some(Secret::new(key));
    }
    if let Some(v1::RegistryLogin { user, password }) = &start.registry_login {
        let Source::Container { image, .. } = source else {
            let text =
                format!("registry_login: a source of the kind {} comes from no registry", source.kind());
            return Err(status::bad_request(text));
        };
        let registry = RegistryLogin::registry_of(image);
        let login = RegistryLogin::new(registry, user, Secret::new(password.clone()));
        let login = login.map_err(|error| status::bad_request(format!("registry_login: {error}")))?;
        bundle.registry = Some(login);
    }
    Ok(bundle)
}

/// What is stored of the service, if the launcher may take its place.
fn known(
    parts: &LauncherParts,
    service: ServiceKey,
    take_over: bool,
) -> Result<Option<Arc<WorkloadRecord>>, Status> {
    let known = parts.workloads.view().records.get(&service).cloned();
    if known.as_deref().is_some_and(is_operators) && !take_over {
        return Err(Status::already_exists(format!(
            "{service} is a workload of the operator; remove it with `blueprint-hub workload rm {service}`, or set take_over = true for blueprint {} in launcher.toml",
            service.blueprint,
        )));
    }
    Ok(known)
}

fn is_operators(record: &WorkloadRecord) -> bool {
    lease_of(record).is_none()
}

/// What the launcher wants to have run.
struct Wanted {
    kind: &'static str,
    document: String,
    nodes: BTreeSet<AgentId>,
    bundle: Bundle,
}

impl Wanted {
    /// Stores it where it is new. For a launcher that holds the service: what is stored is read by it and not before, since
    /// an earlier connection may have had it forgotten until then.
    async fn store(self, parts: &LauncherParts, service: ServiceKey, take_over: bool) -> Result<(), Status> {
        let known = known(parts, service, take_over)?;
        if known.as_ref().is_some_and(|record| record.document == self.document) {
            return Ok(());
        }
        store(parts, service, self, known.as_deref()).await
    }
}

async fn store(
    parts: &LauncherParts,
    service: ServiceKey,
    wanted: Wanted,
    known: Option<&WorkloadRecord>,
) -> Result<(), Status> {
    let Wanted { kind, document, nodes, bundle } = wanted;
    let keys = bundle.keystore.len();
    let whose = if known.is_some_and(is_operators) { " in place of the operator" } else { "" };
    let login = if bundle.registry.is_some() { ", a login of its registry" } else { "" };
    let summary = format!("{kind} source, {keys} keys{login}, by a launcher{whose}");
    let is_empty = bundle.keystore.is_empty() && bundle.envelope_key.is_none() && bundle.registry.is_none();
    let keystore = if is_empty {
        None
    } else {
        let sealed = parts.blueprints.seal_keystore(service, &bundle);
        Some(sealed.ok_or_else(|| status::busy("the hub cannot seal the keystore now"))?)
    };
    let change = WorkloadChange {
        service,
        document,
        nodes,
        keystore,
        replaces: Some(known.map_or(0, |record| record.generation)),
        by: None,
        summary,
        now: SystemTime::now().into(),
    };
    match parts.workloads.set(change).await {
        Ok(_) => Ok(()),
        Err(WorkloadChangeError::Conflict { .. }) => {
            Err(status::busy("the workload was changed at the same moment; try again"))
        }
        Err(WorkloadChangeError::Updating { .. }) => {
            Err(status::busy("the operator updates the workload; try again when that is through"))
        }
        Err(WorkloadChangeError::Store(error)) => {
            error!(%service, %error, "the workload of a launcher is not stored");
            Err(status::busy("the hub cannot write to its store now"))
        }
    }
}

/// A node by its id or name.
fn find(snapshot: &RegistrySnapshot, text: &str) -> Result<AgentId, Status> {
    let text: String = text.chars().take(64).collect();
    if let Some(id) = text.parse().ok().filter(|id| snapshot.agents.contains_key(id)) {
        return Ok(id);
    }
    let mut named = snapshot.agents.values().filter(|view| view.agent.name == text);
    match (named.next(), named.next()) {
        (Some(view), None) => Ok(view.agent.id),
        (Some(_), Some(_)) => {
            Err(status::bad_request(format!("more than one node is called {text:?}; name it by its id")))
        }
        (None, _) => Err(Status::not_found(format!(
            "no node is called {text:?}; `blueprint-hub node ls` lists all of them"
        ))),
    }
}
