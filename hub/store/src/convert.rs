//! Values of ours as columns, and back.
//!
//! Ids of agents, keys and hashes are blobs; token ids and sets of services are text; times are
//! milliseconds. Identities of blueprints and services use all 64 bits, so they are stored as the
//! signed number with the same bits: equality is all the database is asked of them.

use std::fmt::Display;
use std::str::FromStr;

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use rusqlite::Row;

use crate::error::{DbError, DbResult};

/// A time as a column. Times past the year 292 million are stored as that.
pub(crate) fn time(at: Timestamp) -> i64 {
    i64::try_from(at.as_millis()).unwrap_or(i64::MAX)
}

/// The time in column `index`.
pub(crate) fn read_time(row: &Row<'_>, index: usize) -> DbResult<Timestamp> {
    millis(row.get(index)?)
}

/// The time in column `index`, where there is one.
pub(crate) fn read_optional_time(row: &Row<'_>, index: usize) -> DbResult<Option<Timestamp>> {
    row.get::<_, Option<i64>>(index)?.map(millis).transpose()
}

fn millis(value: i64) -> DbResult<Timestamp> {
    let millis = u64::try_from(value).map_err(|_| DbError::Damaged(format!("{value} is not a time")))?;
    Ok(Timestamp::from_millis(millis))
}

/// The two columns of a service.
pub(crate) const fn service(key: ServiceKey) -> (i64, i64) {
    (key.blueprint.cast_signed(), key.service.cast_signed())
}

/// The service in columns `index` and `index + 1`.
pub(crate) fn read_service(row: &Row<'_>, index: usize) -> DbResult<ServiceKey> {
    let (blueprint, service): (i64, i64) = (row.get(index)?, row.get(index + 1)?);
    Ok(ServiceKey { blueprint: blueprint.cast_unsigned(), service: service.cast_unsigned() })
}

/// The agent's id in column `index`.
pub(crate) fn read_agent_id(row: &Row<'_>, index: usize) -> DbResult<AgentId> {
    Ok(AgentId::from_bytes(row.get(index)?))
}

/// The text in column `index` as whatever it stands for.
pub(crate) fn read_text<T: FromStr<Err: Display>>(row: &Row<'_>, index: usize) -> DbResult<T> {
    let text: String = row.get(index)?;
    parse(&text)
}

/// The text in column `index` as whatever it stands for, where there is one.
pub(crate) fn read_optional_text<T: FromStr<Err: Display>>(
    row: &Row<'_>,
    index: usize,
) -> DbResult<Option<T>> {
    row.get::<_, Option<String>>(index)?.as_deref().map(parse).transpose()
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> DbResult<T> {
    text.parse().map_err(|error: T::Err| DbError::Damaged(error.to_string()))
}
