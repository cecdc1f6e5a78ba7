//! Databases of earlier schemas, made by taking the steps since then back.

use std::path::Path;

use blueprint_hub_store::DATABASE_FILE;
use rusqlite::Connection;

/// What takes each step back, the newest first. A new step stands at the top.
const UNDO: [(i64, &str); 21] = [
    (
        22,
        "DROP TABLE qos_samples; DROP TABLE qos_node_objectives; ALTER TABLE qos_minutes DROP COLUMN late_up; \
         ALTER TABLE qos_minutes DROP COLUMN late_down; ALTER TABLE qos_minutes DROP COLUMN unreached; \
         ALTER TABLE qos_hours DROP COLUMN late_up; ALTER TABLE qos_hours DROP COLUMN late_down; \
         ALTER TABLE qos_hours DROP COLUMN unreached",
    ),
    (21, "ALTER TABLE leaving_instances DROP COLUMN given_up"),
    (20, "DROP TABLE used_assertions"),
    (
        19,
        "DROP TABLE deployment_sizes; DROP TABLE leaving_instances; DROP TABLE service_scaling; DROP TABLE scale_events; \
         ALTER TABLE deployments DROP COLUMN spread",
    ),
    (18, "DROP TABLE cloud_identities"),
    (17, "DROP TABLE usage"),
    (16, "DROP TABLE workload_events"),
    (
        15,
        "DROP TABLE qos_first; DROP TABLE qos_subjects; DROP TABLE qos_minutes; DROP TABLE qos_hours; \
         DROP TABLE qos_pages; DROP TABLE qos_objectives",
    ),
    (
        14,
        "DROP TABLE workload_versions; DROP TABLE workload_updates; ALTER TABLE targets DROP COLUMN generation; \
         ALTER TABLE workloads DROP COLUMN version; ALTER TABLE workloads DROP COLUMN slot",
    ),
    (13, "DROP TABLE price_lists"),
    (12, "DROP TABLE provider_credentials"),
    (
        11,
        "DROP TABLE machine_egress; DROP TABLE cost_alerts; DROP TABLE cost_alert_events; \
         ALTER TABLE deployment_plan DROP COLUMN egress_gb; ALTER TABLE deployment_plan DROP COLUMN egress_included_gb; \
         ALTER TABLE instances DROP COLUMN egress_gb; ALTER TABLE instances DROP COLUMN egress_included_gb",
    ),
    (10, "DROP TABLE machine_spans"),
    (
        9,
        "ALTER TABLE instances DROP COLUMN made_at; ALTER TABLE instances DROP COLUMN is_off; \
         ALTER TABLE instances DROP COLUMN switched_at; ALTER TABLE instances DROP COLUMN deleted_at; \
         ALTER TABLE instances DROP COLUMN stopped_hourly; ALTER TABLE deployment_plan DROP COLUMN stopped_hourly",
    ),
    (
        8,
        "ALTER TABLE deployment_plan DROP COLUMN disk_gb; ALTER TABLE deployment_plan DROP COLUMN arch; \
         ALTER TABLE instances DROP COLUMN disk_gb; ALTER TABLE instances DROP COLUMN arch",
    ),
    (
        7,
        "DROP TABLE lifecycle_events; DROP TABLE instances; DROP TABLE deployment_plan; DROP TABLE deployments; \
         ALTER TABLE join_tokens DROP COLUMN instance; ALTER TABLE join_tokens DROP COLUMN attempt",
    ),
    (6, "DROP TABLE workloads"),
    (5, "DROP TABLE tls_profiles; DROP TABLE client_certificates"),
    (4, "DROP TABLE services; DROP TABLE api_keys"),
    (3, "DROP TABLE policy"),
    (2, "ALTER TABLE join_tokens DROP COLUMN address"),
];

/// The newest schema.
pub(crate) const NEWEST: i64 = 22;

/// Makes the database in `folder`, which nobody has open, one of `version`.
pub(crate) fn take_back_to(folder: &Path, version: i64) {
    let db = Connection::open(folder.join(DATABASE_FILE)).unwrap();
    for (_, undo) in UNDO.iter().filter(|(step, _)| *step > version) {
        db.execute_batch(undo).unwrap();
    }
    db.execute("DELETE FROM schema_version WHERE version > ?1", [version]).unwrap();
}
