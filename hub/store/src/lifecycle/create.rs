//! New deployments, and what stands in their way.

use std::collections::BTreeSet;

use blueprint_hub_provision_core::cost::alert::Held;
use blueprint_hub_provision_core::cost::{Limits, OverLimit, committed};
use blueprint_hub_provision_core::lifecycle::{CreateDeploymentError, Deployment, Wanted};
use blueprint_hub_provision_core::{Candidate, DeploymentId};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use rusqlite::{Connection, OptionalExtension, params};

use super::{event, find, load, micros, recent_spans};
use crate::audit;
use crate::convert::{service, time};
use crate::costs::{self, egress_columns};
use crate::error::DbResult;

/// Why a deployment is not stored.
pub(super) enum Refused {
    OverLimit(OverLimit),
    Held(Held),
    Named { name: String, id: DeploymentId },
}

impl From<Refused> for CreateDeploymentError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::OverLimit(over) => Self::OverLimit(over),
            Refused::Held(held) => Self::Held(held),
            Refused::Named { name, id } => Self::Named { name, id },
        }
    }
}

/// The deployment that has a name and is not being ended; where no name is given, none has it.
fn holder(db: &Connection, name: &str) -> DbResult<Option<DeploymentId>> {
    let sql =
        "SELECT id FROM deployments WHERE name = ?1 AND name <> '' AND wanted <> ?2 ORDER BY id LIMIT 1";
    let ended = Wanted::Gone.label();
    let id = db.query_row(sql, params![name, ended], |row| row.get::<_, String>(0)).optional()?;
    Ok(id.and_then(|id| id.parse().ok()))
}

/// The deployment and whether it is new, or what stands in its way.
pub(super) type Created = Result<(Deployment, bool), Refused>;

pub(super) fn create(db: &Connection, deployment: Deployment, limits: Limits) -> DbResult<Created> {
    let sql = "SELECT id FROM deployments WHERE request_key = ?1";
    let known =
        db.query_row(sql, params![deployment.request_key], |row| row.get::<_, String>(0)).optional()?;
    let known = known.and_then(|id| id.parse().ok()).map(|id| find(db, &id)).transpose()?.flatten();
    if let Some(known) = known {
        return Ok(Ok((known, false)));
    }
    if let Some(id) = holder(db, &deployment.name)? {
        return Ok(Err(Refused::Named { name: deployment.name, id }));
    }
    let now = deployment.created_at;
    let recent = recent_spans(db, now)?;
    // Where machines are spread, each may be at another provider.
    let layout = deployment.spread.layout(&deployment.plan, deployment.replicas.max(1));
    let providers: BTreeSet<&str> = layout.into_iter().map(|offer| offer.provider.as_str()).collect();
    for provider in providers {
        if let Some(held) = costs::holds(db, (&deployment.id, provider), &limits, &recent, now)? {
            return Ok(Err(Refused::Held(held)));
        }
    }
    let used = committed(&load(db)?, &recent, &limits, now);
    if let Err(over) = limits.check(used, limits.asked(&deployment, now)) {
        return Ok(Err(Refused::OverLimit(over)));
    }
    let sql = "INSERT INTO deployments \
               (id, name, request_key, asked, replicas, wanted, blueprint, service, created_at, expires_at, changed_at, \
                spread) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let key = deployment.service.map(service);
    let values = params![
        deployment.id.as_str(),
        deployment.name,
        deployment.request_key,
        deployment.asked,
        deployment.replicas,
        deployment.wanted.label(),
        key.map(|(blueprint, _)| blueprint),
        key.map(|(_, service)| service),
        time(deployment.created_at),
        deployment.expires_at.map(time),
        time(deployment.changed_at),
        deployment.spread.label(),
    ];
    db.execute(sql, values)?;
    for (candidate, step) in deployment.plan.iter().zip(0i64..) {
        let Candidate { provider, plan, region, spot, disk_gb, arch, hourly, stopped_hourly, egress } =
            candidate;
        let sql = "INSERT INTO deployment_plan (deployment, step, provider, plan, region, spot, hourly, disk_gb, arch, stopped_hourly, \
                    egress_gb, egress_included_gb) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        let id = deployment.id.as_str();
        let (hourly, stopped, arch) = (micros(*hourly), micros(*stopped_hourly), arch.as_str());
        let (gb, included) = egress_columns(*egress);
        let values =
            params![id, step, provider, plan, region, spot, hourly, disk_gb, arch, stopped, gb, included];
        db.execute(sql, values)?;
    }
    let end = deployment.expires_at.map_or_else(|| "without end".to_owned(), |end| format!("until {end}"));
    let detail = format!("{:?}, {}, {end}", deployment.name, deployment.asked);
    audit::append(db, AuditEvent::new(AuditKind::DeploymentCreate, &deployment.id, detail), now)?;
    event(db, now, deployment.id.as_str(), None, deployment.wanted.label(), "deployed")?;
    Ok(Ok((deployment, true)))
}
