//! What machines sent, by day.

use std::collections::BTreeMap;

use blueprint_hub_provision_core::InstanceKey;
use blueprint_hub_provision_core::catalogue::Day;
use blueprint_hub_provision_core::cost::egress::{Egress, EgressPrice};
use rusqlite::{Connection, Row, params};

use super::{amount, column, number};
use crate::convert::read_text;
use crate::error::DbResult;

/// The two columns of a price.
pub(crate) fn columns(price: Option<EgressPrice>) -> (Option<i64>, Option<u32>) {
    (price.map(|price| column(price.gb.get())), price.map(|price| price.included_gb))
}

/// The price in columns `first` and `first + 1`.
pub(crate) fn price(row: &Row<'_>, first: usize) -> DbResult<Option<EgressPrice>> {
    let (gb, included_gb): (Option<i64>, Option<u32>) = (row.get(first)?, row.get(first + 1)?);
    let (Some(gb), Some(included_gb)) = (gb, included_gb) else { return Ok(None) };
    Ok(Some(EgressPrice { gb: amount(gb)?, included_gb }))
}

/// Adds bytes to what is stored; whose machine is unknown is left out.
pub(super) fn add(db: &Connection, bytes: &BTreeMap<InstanceKey, u64>, day: Day) -> DbResult<()> {
    let sql = "INSERT INTO machine_egress (key, day, deployment, provider, bytes, egress_gb, egress_included_gb) \
               SELECT key, ?2, deployment, provider, ?3, egress_gb, egress_included_gb FROM instances WHERE key = ?1 \
               ON CONFLICT (key, day) DO UPDATE SET bytes = min(bytes, 4611686018427387903) + min(excluded.bytes, 4611686018427387903)";
    for (key, bytes) in bytes {
        db.execute(sql, params![key.as_str(), day.to_string(), column(*bytes)])?;
    }
    Ok(())
}

/// What was sent from a day on.
pub(super) fn load(db: &Connection, since: Day) -> DbResult<Vec<Egress>> {
    let sql = "SELECT key, day, deployment, provider, bytes, egress_gb, egress_included_gb FROM machine_egress \
               WHERE day >= ?1 ORDER BY key, day";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![since.to_string()])?;
    let mut sent = Vec::new();
    while let Some(row) = rows.next()? {
        sent.push(Egress {
            key: read_text(row, 0)?,
            day: read_text(row, 1)?,
            deployment: read_text(row, 2)?,
            provider: row.get(3)?,
            bytes: number(row.get(4)?)?,
            price: price(row, 5)?,
        });
    }
    Ok(sent)
}

/// Forgets what was sent before a day.
pub(super) fn forget(db: &Connection, before: Day) -> DbResult<()> {
    db.execute("DELETE FROM machine_egress WHERE day < ?1", params![before.to_string()])?;
    Ok(())
}
