//! TLS profiles of services, and certificates of their clients.

use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::{
    AuditEvent, AuditKind, ClientCertificateError, ClientCertificateRecord, StoreResult, TlsProfileRecord,
    TlsStore,
};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};

use crate::convert::{read_optional_time, read_service, read_time, service, time};
use crate::error::DbResult;
use crate::{SqliteStore, audit};

/// How long a certificate that ended is kept in the list.
const KEEP_ENDED: Duration = Duration::from_secs(30 * 24 * 3600);

impl TlsStore for SqliteStore {
    fn list_tls_profiles(&self) -> BoxFuture<'_, StoreResult<Vec<TlsProfileRecord>>> {
        Box::pin(self.queue.call("list tls profiles", list_profiles))
    }

    fn set_tls_profile(&self, record: TlsProfileRecord, summary: String) -> BoxFuture<'_, StoreResult<()>> {
        Box::pin(self.queue.call("save a tls profile", move |db| set_profile(db, &record, &summary)))
    }

    fn remove_tls_profile(&self, service: ServiceKey, now: Timestamp) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("remove a tls profile", move |db| remove_profile(db, service, now)))
    }

    fn create_client_certificate(
        &self,
        record: ClientCertificateRecord,
        most: u32,
    ) -> BoxFuture<'_, Result<(), ClientCertificateError>> {
        Box::pin(async move {
            self.queue.call("save a client certificate", move |db| create(db, &record, most)).await?
        })
    }

    fn list_client_certificates(&self) -> BoxFuture<'_, StoreResult<Vec<ClientCertificateRecord>>> {
        Box::pin(self.queue.call("list client certificates", list))
    }

    fn revoke_client_certificate(
        &self,
        service: ServiceKey,
        serial: String,
        now: Timestamp,
    ) -> BoxFuture<'_, StoreResult<bool>> {
        Box::pin(self.queue.call("revoke a client certificate", move |db| revoke(db, service, &serial, now)))
    }
}

fn list_profiles(db: &Connection) -> DbResult<Vec<TlsProfileRecord>> {
    let sql = "SELECT blueprint, service, document, sealed, changed_at FROM tls_profiles";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(TlsProfileRecord {
            service: read_service(row, 0)?,
            document: row.get(2)?,
            sealed: row.get(3)?,
            changed_at: read_time(row, 4)?,
        });
    }
    records.sort_by_key(|record| record.service);
    Ok(records)
}

fn set_profile(db: &Connection, record: &TlsProfileRecord, summary: &str) -> DbResult<()> {
    let (blueprint, number) = service(record.service);
    let sql = "INSERT INTO tls_profiles (blueprint, service, document, sealed, changed_at) \
               VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT (blueprint, service) DO UPDATE SET document = excluded.document, \
               sealed = excluded.sealed, changed_at = excluded.changed_at";
    db.execute(sql, params![blueprint, number, record.document, record.sealed, time(record.changed_at)])?;
    audit::append(db, AuditEvent::new(AuditKind::TlsProfileSet, record.service, summary), record.changed_at)?;
    Ok(())
}

fn remove_profile(db: &Connection, key: ServiceKey, now: Timestamp) -> DbResult<bool> {
    let (blueprint, number) = service(key);
    let of = params![blueprint, number];
    if db.execute("DELETE FROM tls_profiles WHERE blueprint = ?1 AND service = ?2", of)? == 0 {
        return Ok(false);
    }
    let count = db.execute("DELETE FROM client_certificates WHERE blueprint = ?1 AND service = ?2", of)?;
    let detail = format_args!("with {count} client certificates");
    audit::append(db, AuditEvent::new(AuditKind::TlsProfileRemove, key, detail), now)?;
    Ok(true)
}

fn create(
    db: &Connection,
    record: &ClientCertificateRecord,
    most: u32,
) -> DbResult<Result<(), ClientCertificateError>> {
    let now = record.created_at;
    let epoch = Timestamp::default();
    let gone = epoch.plus(now.since(epoch.plus(KEEP_ENDED)));
    db.execute("DELETE FROM client_certificates WHERE expires_at < ?1", params![time(gone)])?;
    let (blueprint, number) = service(record.service);
    let sql = "SELECT count(*) FROM client_certificates WHERE blueprint = ?1 AND service = ?2 \
               AND revoked_at IS NULL AND expires_at > ?3";
    let live: u32 = db.query_row(sql, params![blueprint, number, time(now)], |row| row.get(0))?;
    if live >= most {
        return Ok(Err(ClientCertificateError::TooMany { live }));
    }
    insert(db, record)?;
    let until = record.expires_at.unwrap_or_default();
    let detail = format_args!("service {}, {}, until {until}", record.service, record.name);
    audit::append(db, AuditEvent::new(AuditKind::ClientCertificateIssue, &record.serial, detail), now)?;
    Ok(Ok(()))
}

fn insert(db: &Connection, record: &ClientCertificateRecord) -> DbResult<()> {
    let (blueprint, number) = service(record.service);
    let sql = "INSERT INTO client_certificates \
               (blueprint, service, serial, name, created_at, expires_at, revoked_at) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let values = params![
        blueprint,
        number,
        record.serial,
        record.name,
        time(record.created_at),
        record.expires_at.map(time),
        record.revoked_at.map(time),
    ];
    db.execute(sql, values)?;
    Ok(())
}

fn list(db: &Connection) -> DbResult<Vec<ClientCertificateRecord>> {
    let sql = "SELECT blueprint, service, serial, name, created_at, expires_at, revoked_at \
               FROM client_certificates ORDER BY created_at, serial";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(ClientCertificateRecord {
            service: read_service(row, 0)?,
            serial: row.get(2)?,
            name: row.get(3)?,
            created_at: read_time(row, 4)?,
            expires_at: read_optional_time(row, 5)?,
            revoked_at: read_optional_time(row, 6)?,
        });
    }
    Ok(records)
}

fn revoke(db: &Connection, key: ServiceKey, serial: &str, now: Timestamp) -> DbResult<bool> {
    let (blueprint, number) = service(key);
    let sql = "SELECT revoked_at IS NOT NULL FROM client_certificates \
               WHERE blueprint = ?1 AND service = ?2 AND serial = ?3";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![blueprint, number, serial])?;
    let known: Option<bool> = rows.next()?.map(|row| row.get(0)).transpose()?;
    match known {
        Some(true) => return Ok(false),
        Some(false) => {
            let sql = "UPDATE client_certificates SET revoked_at = ?4 \
                       WHERE blueprint = ?1 AND service = ?2 AND serial = ?3";
            db.execute(sql, params![blueprint, number, serial, time(now)])?;
        }
        None => insert(
            db,
            &ClientCertificateRecord {
                service: key,
                serial: serial.to_owned(),
                name: String::new(),
                created_at: now,
                expires_at: None,
                revoked_at: Some(now),
            },
        )?,
    }
    let detail = format_args!("service {key}");
    audit::append(db, AuditEvent::new(AuditKind::ClientCertificateRevoke, serial, detail), now)?;
    Ok(true)
}
