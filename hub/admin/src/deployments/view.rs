//! What deployments look like in answers.

use blueprint_common_types::{AgentId, Micros};
use blueprint_hub_provision_core::Candidate;
use blueprint_hub_provision_core::catalogue::CpuShare;
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

/// How many machines have joined and are not switched off.
fn active(deployment: &Deployment, records: &Records) -> usize {
    let is_on = |record: &&Record| record.state == RecordState::Active && !record.is_off;
    own(deployment, records).filter(is_on).count()
}

/// One word for all of it.
fn state(deployment: &Deployment, records: &Records) -> &'static str {
    let active = active(deployment, records);
    let is_whole = u32::try_from(active).is_ok_and(|active| active >= deployment.replicas);
    // Its cloud has to say so: what was asked to stop runs and is billed until then.
    let is_off = |record: &Record| match record.state {
        RecordState::Created | RecordState::Active => record.is_off,
        RecordState::Calling | RecordState::Deleting => false,
        RecordState::Planned | RecordState::Gone | RecordState::Lost | RecordState::Failed => true,
    };
    match deployment.wanted {
        Wanted::Gone if is_over(deployment, records) => "gone",
        Wanted::Gone => "terminating",
        Wanted::Stopped if own(deployment, records).all(is_off) => "stopped",
        Wanted::Stopped => "stopping",
        Wanted::Running if is_whole => "running",
        Wanted::Running => "starting",
    }
}

/// A deployment without its machines.
pub(super) fn summary(deployment: &Deployment, records: &Records) -> Value {
    // What stands at the cloud or may is paid for.
    let is_paid = |record: &&Record| {
        matches!(
            record.state,
            RecordState::Calling | RecordState::Created | RecordState::Active | RecordState::Deleting
        )
    };
    let price = |record: &Record| {
        if record.is_off { record.candidate.stopped_hourly } else { record.candidate.hourly }
    };
    let hourly: Micros = own(deployment, records).filter(is_paid).map(price).sum();
    let stopped: Micros =
        own(deployment, records).filter(is_paid).map(|record| record.candidate.stopped_hourly).sum();
    let last =
        own(deployment, records).filter(|record| !record.reason.is_empty()).max_by_key(|record| record.since);
    json!({
        "id": deployment.id.as_str(),
        "name": deployment.name,
        "state": state(deployment, records),
        "wanted": deployment.wanted.label(),
        "replicas": deployment.replicas,
        "spread": deployment.spread.label(),
        "active": active(deployment, records),
        "service": deployment.service,
        "hourly": hourly.to_string(),
        "stopped_hourly": stopped.to_string(),
        "created_at": time(deployment.created_at),
        "expires_at": deployment.expires_at.map(time),
        "changed_at": time(deployment.changed_at),
        "reason": last.map(|record| record.reason.as_str()).unwrap_or_default(),
    })
}

/// Other deployments that are called the same and are not over.
pub(super) fn others(deployment: &Deployment, records: &Records) -> Vec<Value> {
    let is_other = |it: &&Deployment| {
        it.id != deployment.id && it.name == deployment.name && !it.name.is_empty() && !is_over(it, records)
    };
    let view = |it: &Deployment| json!({ "id": it.id.as_str(), "state": state(it, records) });
    records.deployments.values().filter(is_other).map(view).collect()
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
                "made_at": record.made_at.map(time),
                "is_off": record.is_off,
                "switched_at": record.switched_at.map(time),
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
        fields.insert("others".to_owned(), json!(others(deployment, records)));
    }
    shown
}

/// Something that could be ordered, with the price of an hour in US dollars.
pub(super) fn offer(offer: &Candidate) -> Value {
    let Candidate { provider, plan, region, spot, disk_gb, arch, hourly, stopped_hourly, egress } = offer;
    let share = CpuShare::of(provider, plan);
    json!({
        "provider": provider,
        "plan": plan,
        "region": region,
        "spot": spot,
        "disk_gb": disk_gb,
        "arch": arch.as_str(),
        "cpu_share": share.map(CpuShare::code),
        "cpu_promised_permille": share.and_then(|share| share.promised_millis(1)),
        "hourly": hourly.to_string(),
        "stopped_hourly": stopped_hourly.to_string(),
        "egress_gb": egress.map(|egress| egress.gb.to_string()),
        "egress_included_gb": egress.map(|egress| egress.included_gb),
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

#[cfg(test)]
pub(super) mod tests {
    use blueprint_common_types::Timestamp;
    use blueprint_hub_provision_core::resource::Arch;
    use blueprint_hub_provision_core::{DeploymentId, InstanceKey};

    use super::*;

    pub(crate) fn records(wanted: Wanted, machines: &[(RecordState, bool)]) -> (Deployment, Records) {
        let (id, now) = (DeploymentId::from_bytes([1; 10]), Timestamp::default());
        let candidate = Candidate {
            provider: "aws".to_owned(),
            plan: "small".to_owned(),
            region: "here".to_owned(),
            spot: false,
            disk_gb: 8,
            arch: Arch::X86_64,
            hourly: Micros::new(5000),
            stopped_hourly: Micros::new(700),
            egress: None,
        };
        let deployment = Deployment {
            id: id.clone(),
            name: "demo".to_owned(),
            request_key: "key".to_owned(),
            asked: String::new(),
            replicas: 1,
            plan: vec![candidate.clone()],
            spread: blueprint_hub_provision_core::lifecycle::Spread::None,
            service: None,
            wanted,
            created_at: now,
            expires_at: None,
            changed_at: now,
        };
        let record = |(number, &(state, is_off)): (u32, &(RecordState, bool))| Record {
            key: InstanceKey::of(&id, number),
            deployment: id.clone(),
            number,
            candidate: candidate.clone(),
            state,
            attempt: 1,
            created_at: now,
            since: now,
            called_at: Some(now),
            made_at: Some(now),
            is_off,
            switched_at: None,
            deleted_at: None,
            provider_id: None,
            agent: None,
            agent_attempt: 0,
            reason: String::new(),
        };
        let instances = (1..).zip(machines).map(record).map(|record| (record.key.clone(), record)).collect();
        let mut records = Records { instances, ..Records::default() };
        records.deployments.insert(id, deployment.clone());
        (deployment, records)
    }

    fn state_of(wanted: Wanted, machines: &[(RecordState, bool)]) -> &'static str {
        let (deployment, records) = records(wanted, machines);
        state(&deployment, &records)
    }

    #[test]
    fn a_deployment_is_stopped_and_runs_when_its_cloud_says_so() {
        use RecordState::{Active, Calling, Created, Deleting, Gone};
        for machine in [(Active, false), (Created, false), (Calling, false), (Deleting, true)] {
            assert_eq!(state_of(Wanted::Stopped, &[(Active, true), machine]), "stopping", "{machine:?}");
        }
        assert_eq!(state_of(Wanted::Stopped, &[(Active, true), (Gone, false)]), "stopped");
        assert_eq!(state_of(Wanted::Running, &[(Active, true)]), "starting");
        assert_eq!(state_of(Wanted::Running, &[(Active, false)]), "running");
    }

    #[test]
    fn what_is_off_is_summed_at_its_own_price() {
        use RecordState::{Active, Gone};
        let (deployment, records) =
            records(Wanted::Stopped, &[(Active, true), (Active, false), (Gone, true)]);
        let shown = summary(&deployment, &records);
        assert_eq!(shown.get("active"), Some(&json!(1)), "what is off is not active");
        assert_eq!(
            (shown.get("hourly"), shown.get("stopped_hourly")),
            (Some(&json!("0.0057")), Some(&json!("0.0014")))
        );
    }
}
