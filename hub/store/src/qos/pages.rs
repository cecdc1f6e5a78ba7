//! What services said of themselves.

use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::PagePoint;
use blueprint_hub_registry_core::{StoreError, StoreResult};
use rusqlite::{Connection, params};

use super::prune::back;
use crate::convert::{read_time, service, time};
use crate::error::{DbError, DbResult};

/// Deletes so many pages, each time the oldest of the service that has most, so that nobody's pages push out those of others. The
/// n-th newest page of one service counts like the n-th newest of every other, and the last in that order go.
const TRIM: &str = "DELETE FROM qos_pages WHERE id IN (SELECT id FROM (SELECT id, at, \
                    row_number() OVER (PARTITION BY blueprint, service ORDER BY at DESC) AS place FROM qos_pages) \
                    ORDER BY place DESC, at LIMIT ?1)";

/// Keeps pages, and forgets what is too old or too much.
pub(super) fn write(
    db: &Connection,
    pages: &[(ServiceKey, PagePoint)],
    keep: Duration,
    (of_service, in_all): (u32, u32),
) -> DbResult<()> {
    let mut newest = Timestamp::default();
    for (key, (at, page)) in pages {
        let (blueprint, number) = service(*key);
        let text = serde_json::to_string(page).map_err(|error| DbError::Damaged(error.to_string()))?;
        let sql = "INSERT OR REPLACE INTO qos_pages (blueprint, service, at, page) VALUES (?1, ?2, ?3, ?4)";
        db.prepare(sql)?.execute(params![blueprint, number, time(*at), text])?;
        newest = newest.max(*at);
        let sql = "DELETE FROM qos_pages WHERE blueprint = ?1 AND service = ?2 AND at <= (SELECT at FROM qos_pages \
                   WHERE blueprint = ?1 AND service = ?2 ORDER BY at DESC LIMIT 1 OFFSET ?3)";
        db.prepare(sql)?.execute(params![blueprint, number, of_service])?;
    }
    db.execute("DELETE FROM qos_pages WHERE at < ?1", params![time(back(newest, keep))])?;
    // The ranking reads an index of all of them, so it is asked only where it has to be.
    let count: i64 = db.query_row("SELECT count(*) FROM qos_pages", [], |row| row.get(0))?;
    let too_many = count.saturating_sub(i64::from(in_all));
    if too_many > 0 {
        db.execute(TRIM, params![too_many])?;
    }
    Ok(())
}

/// The newest pages of a service as they are stored, oldest first.
pub(super) fn read(
    db: &Connection,
    key: ServiceKey,
    (from, until): (Timestamp, Timestamp),
    most: u32,
) -> DbResult<Vec<(Timestamp, String)>> {
    let (blueprint, number) = service(key);
    let sql = "SELECT at, page FROM qos_pages WHERE blueprint = ?1 AND service = ?2 AND at >= ?3 AND at < ?4 \
               ORDER BY at DESC LIMIT ?5";
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(params![blueprint, number, time(from), time(until), most])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((read_time(row, 0)?, row.get(1)?));
    }
    found.reverse();
    Ok(found)
}

/// Pages as they are read.
pub(super) fn parse(pages: Vec<(Timestamp, String)>) -> StoreResult<Vec<PagePoint>> {
    let page = |(at, text): (Timestamp, String)| {
        let page = serde_json::from_str(&text).map_err(|error| StoreError::Damaged(error.to_string()))?;
        Ok((at, page))
    };
    pages.into_iter().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);

    fn database() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("../schema/0015_qos.sql")).unwrap();
        db
    }

    fn of(number: u64) -> ServiceKey {
        ServiceKey { blueprint: 1, service: number }
    }

    fn at(minute: u32) -> Timestamp {
        Timestamp::default().plus(10 * DAY).plus(MINUTE * minute)
    }

    fn add(db: &Connection, key: ServiceKey, minutes: std::ops::Range<u32>, in_all: u32) {
        let point = |minute| -> PagePoint { (at(minute), [("up".to_owned(), "1".to_owned())].into()) };
        let pages: Vec<(ServiceKey, PagePoint)> = minutes.map(|minute| (key, point(minute))).collect();
        write(db, &pages, DAY, (50, in_all)).unwrap();
    }

    fn times(db: &Connection, key: ServiceKey) -> Vec<Timestamp> {
        let ever = (Timestamp::default(), at(100_000));
        read(db, key, ever, 1000).unwrap().into_iter().map(|(at, _)| at).collect()
    }

    #[test]
    fn where_it_is_full_the_service_that_has_most_loses_its_oldest() {
        let db = database();
        for number in 1..=3 {
            add(&db, of(number), 0..10, 60);
        }
        // Newer than all others, and as many as may be of one service: there is room for 30 of them.
        add(&db, of(9), 100..150, 60);
        for number in 1..=3 {
            assert_eq!(times(&db, of(number)), (0..10).map(at).collect::<Vec<_>>(), "{number}");
        }
        assert_eq!(times(&db, of(9)), (120..150).map(at).collect::<Vec<_>>());
        // Two that have as many lose in turn, and one that comes last has its part.
        add(&db, of(8), 50..100, 60);
        let left = [8, 9].map(|number| times(&db, of(number)).len());
        assert_eq!(left, [15, 15]);
        assert_eq!(times(&db, of(8)).last(), Some(&at(99)));
        assert_eq!(times(&db, of(1)).len(), 10);
    }
}
