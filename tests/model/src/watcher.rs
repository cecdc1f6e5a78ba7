//! Who follows the registry by its changes, and takes a snapshot only where it must.

use blueprint_hub_registry_core::{Change, ChangeBody, Registry};

use crate::fault::{Checked, require, require_equal};
use crate::naive::{View, seen, view_of};

/// A watcher, which outlives hubs.
#[derive(Debug, Default)]
pub(crate) struct Watcher {
    index: u64,
    view: View,
}

impl Watcher {
    /// One that saw `view` at `index`.
    pub(crate) const fn at(index: u64, view: View) -> Self {
        Self { index, view }
    }

    /// Comes up to date, and must then see what everybody sees.
    pub(crate) fn follow(&mut self, registry: &mut Registry) -> Checked {
        let before = self.index;
        let snapshot = registry.snapshot();
        match registry.changes_after(self.index) {
            Some(changes) => self.apply(&changes)?,
            None => {
                self.index = snapshot.index;
                self.view = view_of(&snapshot);
            }
        }
        require(self.index >= before, || {
            format!("the watch index went from {before} back to {}", self.index)
        })?;
        require_equal(&self.index, &snapshot.index, "a watcher is not at the index of the snapshot")?;
        require_equal(&self.view, &view_of(&snapshot), "a watcher's changes do not lead to the snapshot")
    }

    fn apply(&mut self, changes: &[Change]) -> Checked {
        for change in changes {
            require_equal(&change.index, &(self.index + 1), "changes have a gap")?;
            self.index = change.index;
            match &change.body {
                ChangeBody::Upsert(record) => {
                    self.view.insert(record.key, seen(record));
                }
                ChangeBody::Remove(record) => {
                    let known = self.view.remove(&record.key).is_some();
                    require(known, || format!("a target is removed that nobody saw: {record:?}"))?;
                }
                ChangeBody::Claim { .. } | ChangeBody::Unclaim { .. } => {}
            }
        }
        Ok(())
    }
}
