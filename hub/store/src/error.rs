//! What goes wrong between us and the database, and what callers are told of it.

use blueprint_hub_registry_core::StoreError;
use rusqlite::ErrorCode;

/// Result of a piece of work on the connection.
pub(crate) type DbResult<T> = Result<T, DbError>;

/// Why a piece of work failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DbError {
    /// The database said no.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    /// A column holds what this version never writes.
    #[error("{0}")]
    Damaged(String),
}

impl DbError {
    /// Puts the failure of `action` into the caller's terms.
    pub(crate) fn into_store_error(self, action: &'static str) -> StoreError {
        let error = match self {
            Self::Damaged(what) => return StoreError::Damaged(what),
            Self::Sql(error) => error,
        };
        let code = error.sqlite_error_code();
        if code == Some(ErrorCode::DiskFull) {
            StoreError::Full
        } else if matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) {
            StoreError::Busy
        } else if matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) {
            StoreError::Damaged(error.to_string())
        } else {
            StoreError::Other { action, source: Box::new(error) }
        }
    }
}
