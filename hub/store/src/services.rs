//! Settings of services, and the API keys of their owners.

use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::{
    ApiKeyError, ApiKeyRecord, ApiKeyRotateError, ApiKeyRotation, AuditEvent, AuditKind, ServiceChange,
    ServiceChangeError, ServiceRecord,
};
use rusqlite::{Connection, params};

use crate::audit;
use crate::convert::{read_optional_time, read_service, read_time, service, time};
use crate::error::{DbError, DbResult};

/// How long a key that ended is kept, so that who still shows it is told what happened to it.
const KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) fn list(db: &Connection) -> DbResult<Vec<ServiceRecord>> {
    let sql = "SELECT blueprint, service, version, document, changed_at FROM services";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let version: i64 = row.get(2)?;
        let wrong = || DbError::Damaged(format!("the settings of a service have version {version}"));
        records.push(ServiceRecord {
            service: read_service(row, 0)?,
            version: u64::try_from(version).map_err(|_| wrong())?,
            document: row.get(3)?,
            changed_at: read_time(row, 4)?,
        });
    }
    records.sort_by_key(|record| record.service);
    Ok(records)
}

/// Replaces the settings of a service, unless somebody did since `change` was made.
pub(crate) fn change(
    db: &Connection,
    change: ServiceChange,
) -> DbResult<Result<ServiceRecord, ServiceChangeError>> {
    let ServiceChange { service: key, document, replaces, revoke_owners, summary, now } = change;
    let current =
        list(db)?.into_iter().find(|record| record.service == key).map_or(0, |record| record.version);
    if replaces.is_some_and(|version| version != current) {
        return Ok(Err(ServiceChangeError::Conflict { current }));
    }
    let record =
        ServiceRecord { service: key, version: current.saturating_add(1), document, changed_at: now };
    let (blueprint, number) = service(key);
    let sql = "INSERT INTO services (blueprint, service, version, document, changed_at) VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT (blueprint, service) DO UPDATE SET version = excluded.version, \
               document = excluded.document, changed_at = excluded.changed_at";
    let version = i64::try_from(record.version).unwrap_or(i64::MAX);
    db.execute(sql, params![blueprint, number, version, record.document, time(now)])?;
    audit::append(db, AuditEvent::new(AuditKind::ServiceSet, key, summary), now)?;
    for owner in revoke_owners {
        let sql = "UPDATE api_keys SET revoked_at = ?4 WHERE blueprint = ?1 AND service = ?2 AND owner = ?3 \
                   AND revoked_at IS NULL AND expires_at > ?4";
        let count = db.execute(sql, params![blueprint, number, owner, time(now)])?;
        let detail = format_args!("{count} keys of {owner}, who is no owner any more");
        audit::append(db, AuditEvent::new(AuditKind::ApiKeyRevoke, key, detail), now)?;
    }
    Ok(Ok(record))
}

/// Keeps a key, unless its owner has `most` live ones of the service already.
pub(crate) fn create_key(
    db: &Connection,
    record: &ApiKeyRecord,
    most: u32,
) -> DbResult<Result<(), ApiKeyError>> {
    let now = record.created_at;
    let epoch = Timestamp::default();
    let gone = epoch.plus(now.since(epoch.plus(KEEP_ENDED)));
    db.execute("DELETE FROM api_keys WHERE expires_at < ?1 OR revoked_at < ?1", params![time(gone)])?;
    let live = count_live(db, record)?;
    if live >= most {
        return Ok(Err(ApiKeyError::TooMany { live }));
    }
    insert_key(db, record)?;
    let detail =
        format_args!("service {}, owner {}, until {}", record.service, record.owner, record.expires_at);
    audit::append(db, AuditEvent::new(AuditKind::ApiKeyCreate, &record.id, detail), now)?;
    Ok(Ok(()))
}

/// Live keys that the owner of `record` has of its service.
fn count_live(db: &Connection, record: &ApiKeyRecord) -> DbResult<u32> {
    let (blueprint, number) = service(record.service);
    let sql = "SELECT count(*) FROM api_keys WHERE blueprint = ?1 AND service = ?2 AND owner = ?3 \
               AND revoked_at IS NULL AND expires_at > ?4";
    let values = params![blueprint, number, record.owner, time(record.created_at)];
    Ok(db.query_row(sql, values, |row| row.get(0))?)
}

fn insert_key(db: &Connection, record: &ApiKeyRecord) -> DbResult<()> {
    let (blueprint, number) = service(record.service);
    let sql = "INSERT INTO api_keys \
               (id, hash, blueprint, service, owner, headers, created_at, expires_at, revoked_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let values = params![
        record.id,
        record.hash,
        blueprint,
        number,
        record.owner,
        record.headers,
        time(record.created_at),
        time(record.expires_at),
        record.revoked_at.map(time),
    ];
    db.execute(sql, values)?;
    Ok(())
}

/// Keeps a key in place of another one, which has to be a live one of the same owner and service.
pub(crate) fn rotate_key(
    db: &Connection,
    rotation: &ApiKeyRotation,
    most: u32,
) -> DbResult<Result<(), ApiKeyRotateError>> {
    let ApiKeyRotation { replaces, ends_at, record } = rotation;
    let now = record.created_at;
    let (blueprint, number) = service(record.service);
    // What lives on for a while has an end; what goes at once is revoked, so that who shows it is told so.
    let column = if *ends_at > now { "expires_at = min(expires_at, ?2)" } else { "revoked_at = ?2" };
    let others = count_live(db, record)?.saturating_sub(1);
    if others >= most {
        return Ok(Err(ApiKeyRotateError::TooMany { live: others }));
    }
    let sql = format!(
        "UPDATE api_keys SET {column} WHERE id = ?1 AND revoked_at IS NULL AND expires_at > ?3 \
         AND blueprint = ?4 AND service = ?5 AND owner = ?6"
    );
    let values = params![replaces, time((*ends_at).max(now)), time(now), blueprint, number, record.owner];
    if db.execute(&sql, values)? == 0 {
        return Ok(Err(ApiKeyRotateError::NotLive));
    }
    insert_key(db, record)?;
    let detail = format_args!(
        "service {}, owner {}: {} takes its place until {}; it ends at {}",
        record.service,
        record.owner,
        record.id,
        record.expires_at,
        (*ends_at).max(now)
    );
    audit::append(db, AuditEvent::new(AuditKind::ApiKeyRotate, replaces, detail), now)?;
    Ok(Ok(()))
}

pub(crate) fn list_keys(db: &Connection) -> DbResult<Vec<ApiKeyRecord>> {
    let sql = "SELECT id, hash, blueprint, service, owner, headers, created_at, expires_at, revoked_at \
               FROM api_keys ORDER BY created_at, id";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        keys.push(ApiKeyRecord {
            id: row.get(0)?,
            hash: row.get(1)?,
            service: read_service(row, 2)?,
            owner: row.get(4)?,
            headers: row.get(5)?,
            created_at: read_time(row, 6)?,
            expires_at: read_time(row, 7)?,
            revoked_at: read_optional_time(row, 8)?,
        });
    }
    Ok(keys)
}

pub(crate) fn revoke_key(db: &Connection, id: &str, now: Timestamp) -> DbResult<Option<ServiceKey>> {
    let sql = "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND revoked_at IS NULL \
               RETURNING blueprint, service";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![id, time(now)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let key = read_service(row, 0)?;
    audit::append(db, AuditEvent::new(AuditKind::ApiKeyRevoke, id, format_args!("service {key}")), now)?;
    Ok(Some(key))
}
