//! The one thread that owns the connection, and the bounded queue before it.

use std::fs::File;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use blueprint_hub_registry_core::{StoreError, StoreResult};
use nix::fcntl::Flock;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::error::{DbError, DbResult};

/// Pieces of work that may wait; one more is refused as busy.
pub const QUEUE_LENGTH: usize = 1024;

/// Most pieces of work that share one sync of the disk.
const BATCH_LENGTH: usize = 128;

/// Sends the answer, once it is known why the batch was not committed, or that it was.
type Answer = Box<dyn FnOnce(Option<&DbError>) + Send>;
type Work = Box<dyn FnOnce(&Connection) -> Answer + Send>;

/// Handle of the thread; dropping it finishes what is queued.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: Option<SyncSender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Queue {
    /// Starts the thread, which holds `lock` for as long as it lives.
    pub(crate) fn start(connection: Connection, lock: Flock<File>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        let body = move || {
            serve(&connection, &receiver);
            if let Err((_, error)) = connection.close() {
                tracing::error!(%error, "database not closed in order");
            }
            drop(lock);
        };
        let thread = std::thread::Builder::new().name("hub-store".to_owned()).spawn(body)?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Runs `work` in a transaction of its own; it takes effect only if it gives `Ok`.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the work runs whether or not the future is dropped.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> DbResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |db| {
            let result = in_savepoint(db, work);
            Box::new(move |uncommitted| {
                let result = match (result, uncommitted) {
                    (Ok(value), None) => Ok(value),
                    (Ok(_), Some(error)) => Err(commit_error(error)),
                    (Err(error), _) => Err(error.into_store_error(action)),
                };
                // Whoever asked may be gone.
                let _ = answer.send(result);
            })
        });
        let sender = self.sender.as_ref().ok_or(StoreError::Closed)?;
        sender.try_send(work).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Closed,
        })?;
        answered.await.unwrap_or(Err(StoreError::Closed))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

fn serve(db: &Connection, receiver: &Receiver<Work>) {
    while let Ok(first) = receiver.recv() {
        let mut waiting = Some(first);
        let mut taken = 0;
        let next = || {
            taken += 1;
            if taken > BATCH_LENGTH { None } else { waiting.take().or_else(|| receiver.try_recv().ok()) }
        };
        run_batch(db, std::iter::from_fn(next));
    }
}

/// Runs pieces of work and answers all of them after the commit that they share.
fn run_batch(db: &Connection, batch: impl Iterator<Item = Work>) {
    let mut outcome = db.execute_batch("BEGIN IMMEDIATE").map_err(DbError::from);
    let mut answers = Vec::new();
    for work in batch {
        // Where there is no transaction (any more), the savepoint's own check refuses the work.
        answers.push(work(db));
    }
    if outcome.is_ok() {
        outcome = commit(db);
    }
    if let Err(error) = &outcome {
        tracing::error!(error = %error, works = answers.len(), "batch not committed");
    }
    for answer in answers {
        answer(outcome.as_ref().err());
    }
}

fn commit(db: &Connection) -> DbResult<()> {
    // A full disk makes SQLite roll the whole transaction back by itself.
    if db.is_autocommit() {
        return Err(DbError::Sql(sqlite_failure(rusqlite::ffi::SQLITE_FULL)));
    }
    db.execute_batch("COMMIT").map_err(|error| {
        if !db.is_autocommit()
            && let Err(error) = db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "transaction not rolled back");
        }
        error.into()
    })
}

fn in_savepoint<T>(db: &Connection, work: impl FnOnce(&Connection) -> DbResult<T>) -> DbResult<T> {
    // Outside a transaction a savepoint would commit by itself, ahead of its batch.
    if db.is_autocommit() {
        return Err(DbError::Sql(sqlite_failure(rusqlite::ffi::SQLITE_BUSY)));
    }
    db.execute_batch("SAVEPOINT work")?;
    let result = work(db).and_then(|value| {
        db.execute_batch("RELEASE work")?;
        Ok(value)
    });
    if result.is_err()
        && !db.is_autocommit()
        && let Err(error) = db.execute_batch("ROLLBACK TO work; RELEASE work")
    {
        // Half a piece of work must not be committed: the whole batch goes instead.
        tracing::error!(%error, "savepoint not rolled back");
        db.execute_batch("ROLLBACK")?;
    }
    result
}

/// The same failure for every piece of work of a batch: a database error cannot be copied whole.
fn commit_error(error: &DbError) -> StoreError {
    let copy = match error {
        DbError::Sql(rusqlite::Error::SqliteFailure(failure, text)) => {
            DbError::Sql(rusqlite::Error::SqliteFailure(*failure, text.clone()))
        }
        DbError::Sql(other) => DbError::Damaged(other.to_string()),
        DbError::Damaged(text) => DbError::Damaged(text.clone()),
    };
    copy.into_store_error("commit")
}

fn sqlite_failure(code: std::ffi::c_int) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A database of at most 40 pages with one empty table.
    fn small() -> Connection {
        let Ok(db) = Connection::open_in_memory() else { unreachable!() };
        let sql = "CREATE TABLE t (v BLOB NOT NULL); PRAGMA cache_size = 5;";
        assert!(db.execute_batch(sql).is_ok());
        assert!(db.query_row("PRAGMA max_page_count = 40", [], |_| Ok(())).is_ok());
        db
    }

    /// Inserts `size` bytes, and says in `log` whether the caller was told that it is there.
    fn insert(size: i64, fail: bool, log: &Arc<Mutex<Vec<bool>>>) -> Work {
        let log = Arc::clone(log);
        Box::new(move |db| {
            let result = in_savepoint(db, |db| {
                db.execute("INSERT INTO t (v) VALUES (zeroblob(?1))", [size])?;
                if fail { Err(DbError::Damaged(String::new())) } else { Ok(()) }
            });
            Box::new(move |uncommitted| {
                if let Ok(mut log) = log.lock() {
                    log.push(result.is_ok() && uncommitted.is_none());
                }
            })
        })
    }

    fn sizes(db: &Connection) -> rusqlite::Result<Vec<i64>> {
        db.prepare("SELECT length(v) FROM t ORDER BY rowid")?.query_map([], |row| row.get(0))?.collect()
    }

    #[test]
    fn a_piece_of_work_that_fails_leaves_the_others_alone() {
        let (db, log) = (small(), Arc::default());
        let batch = [insert(1, false, &log), insert(2, true, &log), insert(3, false, &log)];
        run_batch(&db, batch.into_iter());
        assert_eq!(*log.lock().unwrap(), [true, false, true]);
        assert_eq!(sizes(&db).unwrap(), [1, 3]);
    }

    #[test]
    fn on_a_full_disk_nobody_is_told_what_is_not_so() {
        let (db, log) = (small(), Arc::default());
        let batch = [insert(1, false, &log), insert(10_000_000, false, &log), insert(3, false, &log)];
        run_batch(&db, batch.into_iter());
        let told = [1, 10_000_000, 3].into_iter().zip(log.lock().unwrap().clone());
        let there: Vec<_> = told.filter(|(_, told)| *told).map(|(size, _)| size).collect();
        assert_eq!(sizes(&db).unwrap(), there);
        assert!(!there.contains(&10_000_000));
        run_batch(&db, [insert(5, false, &log)].into_iter());
        assert_eq!(sizes(&db).unwrap().last(), Some(&5), "the next batch goes on");
    }

    #[test]
    fn a_transaction_that_went_away_fails_everything_before_and_after() {
        let (db, log) = (small(), Arc::default());
        let vanish: Work = Box::new(|db| {
            assert!(db.execute_batch("ROLLBACK").is_ok());
            Box::new(|uncommitted| assert!(uncommitted.is_some()))
        });
        let batch = [insert(1, false, &log), vanish, insert(3, false, &log)];
        run_batch(&db, batch.into_iter());
        assert_eq!(*log.lock().unwrap(), [false, false]);
        assert_eq!(sizes(&db).unwrap(), Vec::<i64>::new());
    }
}
