//! The schema, step by step.
//!
//! Every step runs once, in one transaction with its row in `schema_version`. Steps that were
//! released never change; a new need is a new step at the end.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::open::OpenError;

/// The steps, in order; the first makes version 1.
const STEPS: &[&str] = &[
    include_str!("schema/0001_first.sql"),
    include_str!("schema/0002_token_address.sql"),
    include_str!("schema/0003_policy.sql"),
    include_str!("schema/0004_services.sql"),
    include_str!("schema/0005_tls.sql"),
    include_str!("schema/0006_workloads.sql"),
    include_str!("schema/0007_deployments.sql"),
    include_str!("schema/0008_disk_arch.sql"),
    include_str!("schema/0009_machine_times.sql"),
    include_str!("schema/0010_costs.sql"),
    include_str!("schema/0011_alerts.sql"),
    include_str!("schema/0012_credentials.sql"),
    include_str!("schema/0013_prices.sql"),
    include_str!("schema/0014_versions.sql"),
    include_str!("schema/0015_qos.sql"),
    include_str!("schema/0016_workload_events.sql"),
    include_str!("schema/0017_usage.sql"),
    include_str!("schema/0018_identities.sql"),
    include_str!("schema/0019_scaling.sql"),
    include_str!("schema/0020_used_assertions.sql"),
    include_str!("schema/0021_given_up.sql"),
    include_str!("schema/0022_qos_late.sql"),
];

/// Brings the schema up to date.
pub(crate) fn migrate(db: &mut Connection) -> Result<(), OpenError> {
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let found = version(db)?;
    if found > known {
        return Err(OpenError::Newer { found, known });
    }
    for (step, number) in STEPS.iter().zip(1i64..).filter(|(_, number)| *number > found) {
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version (
                version INTEGER PRIMARY KEY,
                applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
            ) STRICT",
        )?;
        transaction.execute_batch(step)?;
        transaction.execute("INSERT INTO schema_version (version) VALUES (?1)", params![number])?;
        transaction.commit()?;
        tracing::debug!(version = number, "schema step applied");
    }
    if found < known {
        tracing::info!(from = found, to = known, "schema brought up to date");
    }
    Ok(())
}

fn version(db: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_version'";
    if db.query_row(sql, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    db.query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))
}
