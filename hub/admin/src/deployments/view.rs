//! What deployments look like in answers.

use blueprint_common_types::{AgentId, Micros};
use blueprint_hub_provision_core::Candidate;
use blueprint_hub_provision_core::lifecycle::{
    Alarm, Cloud, Deployment, Record, RecordState, Records, Wanted,
};
use serde_json::{Value, json};

use crate::AdminState;
use crate::views::time;

/// True where a deployment is to be gone and nothing of it is left.
pub(super) fn is_over(deployment: &Deployment, records: &Records) -> bool {
    deployment.wanted == Wanted::Gone && own(deployment, records).all(|record| record.state.is_ended())
}

fn own<'r>(deployment: &'r Deployment, records: &'r Records) -> impl Iterator<Item = &'r Record> {
    records.instances.values().filter(|record| record.deployment == deployment.id)
}

/// One word for all of it.
fn state(deployment: &Deployment, records: &Records) -> &'static str {
    let active = own(deployment, records).filter(|record| record.state == RecordState::Active).count();
    let is_whole = u32::try_from(active).is_ok_and(|active| active >= deployment.replicas);
    match deployment.wanted {
        Wanted::Gone if is_over(deployment, records) => "gone",
        Wanted::Gone => "terminating",
        Wanted::Stopped => "stopped",
        Wanted::Running if is_whole => "running",
        Wanted::Running => "starting",
    }
}

/// A deployment without its machines.
pub(super) fn summary(deployment: &Deployment, records: &Records) -> Value {
    let count = |state| own(deployment, records).filter(|record| record.state == state).count();
    // What stands at the cloud or may is paid for.
    let is_paid = |record: &&Record| {
        matches!(
            record.state,
            RecordState::Calling | RecordState::Created | RecordState::Active | RecordState::Deleting
        )
    };
    let hourly: Micros = own(deployment, records).filter(is_paid).map(|record| record.candidate.hourly).sum();
    let last =
        own(deployment, records).filter(|record| !record.reason.is_empty()).max_by_key(|record| record.since);
    json!({
        "id": deployment.id.as_str(),
        "name": deployment.name,
        "state": state(deployment, records),
        "wanted": deployment.wanted.label(),
        "replicas": deployment.replicas,
        "active": count(RecordState::Active),
        "service": deployment.service,
        "hourly": hourly.to_string(),
        "created_at": time(deployment.created_at),
        "expires_at": deployment.expires_at.map(time),
        "changed_at": time(deployment.changed_at),
        "reason": last.map(|record| record.reason.as_str()).unwrap_or_default(),
    })
}

/// A deployment with its machines.
pub(super) fn whole(state: &AdminState, deployment: &Deployment, records: &Records) -> Value {
    let snapshot = state.hub.snapshot();
    let node = |agent: AgentId| {
        let view = snapshot.agents.get(&agent)?;
        Some(
            json!({ "id": agent, "name": view.agent.name, "connected": view.connected, "data_plane": view.data_plane }),
        )
    };
    let mut own: Vec<_> = own(deployment, records).collect();
    own.sort_by_key(|record| record.number);
    let instances: Vec<_> = own
        .into_iter()
        .map(|record| {
            json!({
                "key": record.key.as_str(),
                "number": record.number,
                "state": record.state.label(),
                "since": time(record.since),
                "reason": record.reason,
                "offer": offer(&record.candidate),
                "attempt": record.attempt,
                "provider_id": record.provider_id,
                "agent": record.agent,
                "node": record.agent.and_then(node),
            })
        })
        .collect();
    let mut shown = summary(deployment, records);
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("plan".to_owned(), deployment.plan.iter().map(offer).collect());
        fields.insert("asked".to_owned(), json!(deployment.asked));
        fields.insert("request_key".to_owned(), json!(deployment.request_key));
        fields.insert("instances".to_owned(), json!(instances));
    }
    shown
}

/// Something that could be ordered, with the price of an hour in US dollars.
pub(super) fn offer(offer: &Candidate) -> Value {
    let Candidate { provider, plan, region, spot, disk_gb, arch, hourly } = offer;
    json!({
        "provider": provider,
        "plan": plan,
        "region": region,
        "spot": spot,
        "disk_gb": disk_gb,
        "arch": arch.as_str(),
        "hourly": hourly.to_string(),
    })
}

/// How a cloud is doing.
pub(super) fn cloud(cloud: &Cloud) -> Value {
    json!({
        "name": cloud.name,
        "listed_at": cloud.listed_at.map(time),
        "machines": cloud.machines,
        "error": cloud.error,
        "paused": !cloud.is_closed,
    })
}

/// What a person should look at.
pub(super) fn alarm(alarm: &Alarm) -> Value {
    json!({ "subject": alarm.subject, "about": alarm.why.label(), "text": alarm.text })
}
