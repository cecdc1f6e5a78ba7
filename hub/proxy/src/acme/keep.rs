//! What came from the ACME server, on its way into the state folder.
//!
//! What is here counts at once, whether or not the disk takes it: a certificate and an account are dear, and the
//! server gives only so many. What could not be written is kept in memory and tried again.

use std::collections::BTreeMap;
use std::sync::Arc;

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::state::{Mode, StateDir, StateError};
use blueprint_common_types::Secret;
use parking_lot::Mutex;
use tracing::{error, info};

/// Contents by the name of their file.
type Unsaved = BTreeMap<&'static str, Secret<Vec<u8>>>;

/// Files of the state folder, and what of them is not on the disk yet.
#[derive(Clone)]
pub(super) struct Files {
    state: StateDir,
    unsaved: Arc<Mutex<Unsaved>>,
}

impl Files {
    pub(super) fn new(state: StateDir) -> Self {
        Self { state, unsaved: Arc::default() }
    }

    /// What the file `name` holds, or is to hold; `None` where there is none.
    pub(super) fn read(&self, name: &'static str) -> Result<Option<Secret<Vec<u8>>>, StateError> {
        if let Some(unsaved) = self.unsaved.lock().get(name) {
            return Ok(Some(unsaved.clone()));
        }
        Ok(self.state.read(name)?.map(Secret::new))
    }

    /// Writes the file `name`, now or, where the disk refuses, at a [`retry`](Self::retry).
    pub(super) fn write(&self, name: &'static str, bytes: Secret<Vec<u8>>) {
        if let Err(error) = self.state.write(name, bytes.expose(), Mode::Secret) {
            error!(
                file = name, error = %Chain(&error),
                "what came by acme is in use and cannot be stored; it is tried again each minute"
            );
            self.unsaved.lock().insert(name, bytes);
        } else {
            self.unsaved.lock().remove(name);
        }
    }

    /// Tries again to write what is not on the disk; what of it is not there now, as `FILE: WHY`.
    pub(super) fn retry(&self) -> Option<String> {
        let mut why = None;
        self.unsaved.lock().retain(|&name, bytes| {
            let written = self.state.write(name, bytes.expose(), Mode::Secret);
            match &written {
                Ok(()) => info!(file = name, "what came by acme is stored now"),
                Err(error) => why = Some(format!("{name}: {}", Chain(error))),
            }
            written.is_err()
        });
        why
    }
}
