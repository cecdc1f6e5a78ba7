//! Credentials of providers, sealed by the caller.

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::lifecycle::RecordsResult;
use blueprint_hub_provision_core::{CredentialRecord, CredentialStore};
use blueprint_hub_registry_core::{AuditEvent, AuditKind};
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};

use crate::convert::{read_time, time};
use crate::error::DbResult;
use crate::lifecycle::told;
use crate::{SqliteStore, audit};

impl CredentialStore for SqliteStore {
    fn credentials(&self) -> BoxFuture<'_, RecordsResult<Vec<CredentialRecord>>> {
        const ACTION: &str = "read the credentials of providers";
        Box::pin(async { told(ACTION, self.queue.call(ACTION, list).await) })
    }

    fn set_credentials(&self, record: CredentialRecord, summary: String) -> BoxFuture<'_, RecordsResult<()>> {
        const ACTION: &str = "store the credentials of a provider";
        Box::pin(
            async move { told(ACTION, self.queue.call(ACTION, move |db| set(db, &record, &summary)).await) },
        )
    }

    fn forget_credentials(
        &self,
        provider: String,
        by: String,
        now: Timestamp,
    ) -> BoxFuture<'_, RecordsResult<bool>> {
        const ACTION: &str = "forget the credentials of a provider";
        Box::pin(async move {
            told(ACTION, self.queue.call(ACTION, move |db| forget(db, &provider, &by, now)).await)
        })
    }
}

fn list(db: &Connection) -> DbResult<Vec<CredentialRecord>> {
    let sql =
        "SELECT provider, sealed, shown, changed_at, changed_by FROM provider_credentials ORDER BY provider";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(CredentialRecord {
            provider: row.get(0)?,
            sealed: row.get(1)?,
            shown: row.get(2)?,
            changed_at: read_time(row, 3)?,
            changed_by: row.get(4)?,
        });
    }
    Ok(records)
}

fn set(db: &Connection, record: &CredentialRecord, summary: &str) -> DbResult<()> {
    let sql = "INSERT INTO provider_credentials (provider, sealed, shown, changed_at, changed_by) \
               VALUES (?1, ?2, ?3, ?4, ?5) \
               ON CONFLICT (provider) DO UPDATE SET sealed = excluded.sealed, shown = excluded.shown, \
               changed_at = excluded.changed_at, changed_by = excluded.changed_by";
    let CredentialRecord { provider, sealed, shown, changed_at, changed_by } = record;
    db.execute(sql, params![provider, sealed, shown, time(*changed_at), changed_by])?;
    audit::append(db, AuditEvent::new(AuditKind::ProviderConfigure, provider, summary), *changed_at)
}

fn forget(db: &Connection, provider: &str, by: &str, now: Timestamp) -> DbResult<bool> {
    if db.execute("DELETE FROM provider_credentials WHERE provider = ?1", params![provider])? == 0 {
        return Ok(false);
    }
    audit::append(db, AuditEvent::new(AuditKind::ProviderForget, provider, format_args!("by {by}")), now)?;
    Ok(true)
}
