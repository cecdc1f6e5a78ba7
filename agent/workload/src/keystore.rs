//! The keys of a workload, as files in memory.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

use blueprint_agent_workload_core::PrepareFailed;
use blueprint_common_types::workload::Bundle;

use crate::folders::{Folders, give};
use crate::removal::remove_tree;

/// Writes the keys, and gives them to the workload alone; an empty folder where it has none.
pub(crate) fn write(
    folders: &Folders,
    bundle: &Bundle,
    user: Option<(u32, u32)>,
) -> Result<(), PrepareFailed> {
    if !bundle.keystore.is_empty() && !folders.is_in_memory() {
        return Err(PrepareFailed::here_for_now(format!(
            "{} is not in memory, so no keys are written there: mount a tmpfs, or set workload.runtime_dir to one",
            folders.runtime.display()
        )));
    }
    try_write(folders, bundle, user)
        .map_err(|error| PrepareFailed::here_for_now(format!("the keystore cannot be written: {error}")))
}

fn try_write(folders: &Folders, bundle: &Bundle, user: Option<(u32, u32)>) -> io::Result<()> {
    remove(folders);
    fs::DirBuilder::new().mode(0o700).create(&folders.keystore)?;
    for (path, content) in &bundle.keystore {
        let path = folders.keystore.join(path);
        if let Some(folder) = path.parent()
            && folder != folders.keystore
        {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
        file.write_all(content.expose())?;
    }
    user.map_or(Ok(()), |user| give(&folders.keystore, user, &|| false))
}

/// Removes the keys; best effort, their folder in memory goes in any case. What was in memory is not overwritten first:
/// nothing of it stays there, and following paths that a workload could change would be a risk.
pub(crate) fn remove(folders: &Folders) {
    let _ = remove_tree(&folders.keystore);
}
