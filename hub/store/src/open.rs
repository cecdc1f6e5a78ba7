//! Opening the database: the folder, the lock, the connection.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags};

use crate::error::DbError;
use crate::{counters, migrate};

/// Name of the database inside the state folder.
pub const DATABASE_FILE: &str = "hub.db";

/// Name of the file whose lock says that a hub is running; it holds the process id.
pub const LOCK_FILE: &str = "hub.lock";

/// Oldest SQLite that may open the database, as SQLite counts: 3.51.3.
///
/// Releases from 3.7.0 to 3.51.2 can corrupt a database when the write-ahead log is reset.
pub const MIN_SQLITE_VERSION: i32 = 3_051_003;

/// How long a write waits for another process that reads, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder.
    #[error("{} is in use by another hub{}", .dir.display(), pid_text(*.pid))]
    InUse {
        /// The state folder.
        dir: PathBuf,
        /// Process id that the holder wrote down, where it can be read.
        pid: Option<u32>,
    },
    /// A newer version of the hub wrote the database.
    #[error("the database has schema {found}, this hub knows {known}; use the newer hub again")]
    Newer {
        /// Schema of the database.
        found: i64,
        /// Newest schema that this version knows.
        known: i64,
    },
    /// The SQLite linked in can corrupt databases.
    #[error("sqlite {0} is too old: 3.51.3 or newer is needed")]
    OldSqlite(&'static str),
    /// The file system cannot hold a write-ahead log, as network file systems cannot.
    #[error("{} is on a file system without shared memory; use a local disk", .0.display())]
    NoWriteAheadLog(PathBuf),
    /// A file or folder could not be used.
    #[error("could not use {}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database refused; it may be damaged.
    #[error("could not open the database")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl OpenError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<DbError> for OpenError {
    fn from(error: DbError) -> Self {
        Self::Database(Box::new(error))
    }
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Opens everything; the lock is held for as long as the second value lives.
pub(crate) fn open(dir: &Path) -> Result<(Connection, Flock<File>), OpenError> {
    if rusqlite::version_number() < MIN_SQLITE_VERSION {
        return Err(OpenError::OldSqlite(rusqlite::version()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| OpenError::io(dir, e))?;
    let lock = lock(dir)?;
    let path = dir.join(DATABASE_FILE);
    // SQLite gives its side files the mode of the database, so this one file settles them all.
    drop(private_file(&path)?);
    File::open(dir).and_then(|folder| folder.sync_all()).map_err(|e| OpenError::io(dir, e))?;
    let mut connection = connect(&path)?;
    migrate::migrate(&mut connection)?;
    counters::jump_index(&connection)?;
    Ok((connection, lock))
}

fn private_file(path: &Path) -> Result<File, OpenError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(|e| OpenError::io(path, e))
}

fn lock(dir: &Path) -> Result<Flock<File>, OpenError> {
    let path = dir.join(LOCK_FILE);
    let file = private_file(&path)?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            let read = file.take(32).read_to_string(&mut text);
            let pid = read.ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::InUse { dir: dir.to_owned(), pid });
        }
        Err((_, errno)) => return Err(OpenError::io(&path, errno.into())),
    };
    let written =
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()));
    written.map_err(|e| OpenError::io(&path, e))?;
    Ok(lock)
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(OpenError::NoWriteAheadLog(path.to_owned()));
    }
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA foreign_keys = ON;
         PRAGMA trusted_schema = OFF;
         PRAGMA temp_store = MEMORY;",
    )?;
    // This one answers with its new value: 64 MiB, where a log that grew is cut back to.
    connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(()))?;
    Ok(connection)
}
