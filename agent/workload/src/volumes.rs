//! Who uses the volumes of services: two versions of a service share them, and one must not lose them to the other, also
//! where neither runs at the moment, as after a restart of the agent.
//!
//! A file says which assignments used which volume as whom, until the hub takes them back. Where there is none yet, as with
//! an agent of an earlier version before, whoever a volume belongs to is taken to use it for the oldest assignment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blueprint_agent_workload_core::label;
use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::Seat;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{Assigned, Assignment};

/// Who a workload without a user of its own is: the engine's root.
pub(crate) const ROOT: u32 = 0;

/// Name of the file, beside the folder of data.
const FILE: &str = "volumes.json";

/// What the name of the folder of a volume begins with.
pub(crate) const PREFIX: &str = "volume-";

/// Format of the file; that of a later agent is not read.
const VERSION: u32 = 1;

/// How many instances use each volume, and as which user; and which assignments do, whether they run or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct VolumeUses(Arc<Mutex<Uses>>);

#[derive(Debug, Default)]
struct Uses {
    running: BTreeMap<(PathBuf, u32), usize>,
    kept: BTreeSet<Use>,
    /// Where `kept` is written; `None` where nothing is.
    file: Option<PathBuf>,
    /// Nothing was written yet, so that the owners of the volumes tell.
    is_unknown: bool,
}

/// That an assignment uses a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Use {
    blueprint: u64,
    service: u64,
    /// Name of its folder.
    volume: String,
    slot: u8,
    generation: u64,
    user: u32,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    uses: BTreeSet<Use>,
}

impl Use {
    fn is_of(&self, (seat, generation): (Seat, u64)) -> bool {
        let service = ServiceKey { blueprint: self.blueprint, service: self.service };
        seat == Seat { service, slot: self.slot } && self.generation == generation
    }

    /// Whether it is of the same service and volume.
    fn shares(&self, other: &Self) -> bool {
        (self.blueprint, self.service, &self.volume) == (other.blueprint, other.service, &other.volume)
    }
}

/// The volumes that an instance uses until this is dropped.
#[derive(Debug)]
pub(crate) struct VolumeLease {
    uses: VolumeUses,
    folders: Vec<PathBuf>,
    user: u32,
}

impl VolumeUses {
    /// Takes up what an earlier agent wrote; `data` is the folder of data.
    pub(crate) fn open(data: &Path) -> Self {
        let file = data.with_file_name(FILE);
        let read = match fs::read(&file) {
            Ok(text) => serde_json::from_slice::<Text>(&text).map_err(io::Error::from).and_then(of_version),
            Err(error) => Err(error),
        };
        let (kept, is_unknown) = match read {
            Ok(kept) => (kept, false),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!(file = %file.display(), %error, "who uses volumes is not known; whose they are decides");
                }
                (BTreeSet::new(), true)
            }
        };
        Self(Arc::new(Mutex::new(Uses { running: BTreeMap::new(), kept, file: Some(file), is_unknown })))
    }

    /// An assignment is to use these folders as a user, to whom they may have to be given. It is on the disk then. It blocks
    /// its thread.
    ///
    /// # Errors
    ///
    /// Another one uses one of them as somebody else, or is being given it; those of the file system.
    pub(crate) fn claim(&self, folders: Vec<PathBuf>, user: u32, of: (Seat, u64)) -> io::Result<VolumeLease> {
        let mut uses = self.0.lock();
        let wanted: Vec<Use> = folders.iter().filter_map(|folder| use_of(folder, user, of)).collect();
        // Root takes nothing away from others.
        for folder in folders.iter().filter(|_| user != ROOT) {
            let is_given = fs::symlink_metadata(folder)?.uid() == user;
            let mut others = uses.running.keys().filter(|(used, _)| used == folder).map(|(_, other)| *other);
            let other = others.find(|other| !is_given || (*other != user && *other != ROOT));
            let resting = || {
                let own = use_of(folder, user, of)?;
                let mut others = uses.kept.iter().filter(|kept| kept.shares(&own) && !kept.is_of(of));
                let is_kept = |kept: &&Use| kept.user != user && (!is_given || kept.user != ROOT);
                others.find(is_kept).map(|kept| kept.user)
            };
            if let Some(other) = other.or_else(resting) {
                return Err(io::Error::other(in_use(folder, other, user)));
            }
        }
        let before = uses.kept.clone();
        uses.kept.retain(|kept| !kept.is_of(of) || wanted.contains(kept));
        uses.kept.extend(wanted);
        if uses.kept != before
            && let Err(error) = uses.write()
        {
            uses.kept = before;
            return Err(error);
        }
        for folder in &folders {
            let count = uses.running.entry((folder.clone(), user)).or_default();
            *count = count.saturating_add(1);
        }
        drop(uses);
        Ok(VolumeLease { uses: self.clone(), folders, user })
    }

    /// These are wanted from now on: what others used is free for them. `data` is the folder of data. It blocks its thread.
    pub(crate) fn follow(&self, data: &Path, wanted: &Assigned) {
        let mut uses = self.0.lock();
        let before = uses.kept.clone();
        if uses.is_unknown {
            let found = wanted_oldest(wanted).flat_map(|of| owned(data, of));
            uses.kept.extend(found);
        }
        let is_wanted = |kept: &Use| wanted.iter().any(|(seat, it)| kept.is_of((*seat, it.generation)));
        uses.kept.retain(is_wanted);
        if uses.kept == before {
            uses.is_unknown = false;
            return;
        }
        match uses.write() {
            Ok(()) => uses.is_unknown = false,
            Err(error) => {
                warn!(%error, "who uses volumes is not written; it is tried again with the next change")
            }
        }
    }
}

impl Uses {
    /// Writes it beside the old one, and lets it take its place.
    fn write(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = serde_json::to_vec(&Text { version: VERSION, uses: self.kept.clone() })?;
        let beside = file.with_extension("json.new");
        let mut options = OpenOptions::new();
        let mut written = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        written.write_all(&text)?;
        written.sync_all()?;
        fs::rename(&beside, file)?;
        file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

fn of_version(text: Text) -> io::Result<BTreeSet<Use>> {
    if text.version == VERSION {
        return Ok(text.uses);
    }
    let version = text.version;
    Err(io::Error::other(format!("it has the version {version}, and {VERSION} is known")))
}

fn use_of(folder: &Path, user: u32, (seat, generation): (Seat, u64)) -> Option<Use> {
    let volume = folder.file_name()?.to_str()?.to_owned();
    let ServiceKey { blueprint, service } = seat.service;
    Some(Use { blueprint, service, volume, slot: seat.slot, generation, user })
}

/// Of each service the oldest assignment: where two versions run, it is the one that served first.
fn wanted_oldest(wanted: &Assigned) -> impl Iterator<Item = (Seat, u64)> {
    let mut oldest: BTreeMap<ServiceKey, (Seat, u64)> = BTreeMap::new();
    for (seat, Assignment { generation, .. }) in wanted {
        let known = oldest.entry(seat.service).or_insert((*seat, *generation));
        if *generation < known.1 {
            *known = (*seat, *generation);
        }
    }
    oldest.into_values()
}

/// The volumes that a service has by now, by whom they belong to.
fn owned(data: &Path, of: (Seat, u64)) -> Vec<Use> {
    let folders = fs::read_dir(data.join(label(Seat::first(of.0.service)))).into_iter().flatten().flatten();
    let volumes = folders.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    let owners = volumes.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.uid())));
    owners.filter_map(|(path, user)| use_of(&path, user, of)).collect()
}

fn in_use(folder: &Path, other: u32, user: u32) -> String {
    let folder = folder.display();
    if other == user {
        return format!("{folder} is being given to user {user}; it is tried again");
    }
    format!(
        "{folder} is in use by another version of this service, which runs as user {other}, so user {user} does not \
         get it: end that version first, as an update by `recreate` does, or keep the name and `own_user` of the \
         document as they were"
    )
}

impl VolumeLease {
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

impl Drop for VolumeLease {
    fn drop(&mut self) {
        let mut uses = self.uses.0.lock();
        for folder in &self.folders {
            let key = (folder.clone(), self.user);
            let left = uses.running.get(&key).copied().unwrap_or_default().saturating_sub(1);
            if left == 0 {
                uses.running.remove(&key);
            } else {
                uses.running.insert(key, left);
            }
        }
    }
}

#[cfg(test)]
mod tests;
