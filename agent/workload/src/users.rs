//! Users of workloads: each workload of a machine has one that nobody else has, also where two agents run there.
//!
//! The owner of a data folder is the record of who has which user. A file for each user, shared by all agents of the
//! machine that are root, says which folder that is below, and is locked as long as its agent lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use parking_lot::Mutex;
use tracing::warn;

use crate::tree;
use crate::volumes::VolumeUses;

/// Users that services of a machine get, as systemd gives them to services without a user of their own.
pub(crate) const USERS: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Where the files of users are, in the first that can be written.
const PLACES: [&str; 2] = ["/var/lib", "/run"];

/// Name of their folder.
const NAME: &str = "blueprint-agent-users";

/// Longest path of a data folder that is read, in bytes.
const MAX_PATH_BYTES: u64 = 4096;

/// The users of one agent.
#[derive(Debug)]
pub(crate) struct Users {
    /// Folder of data below which its workloads have theirs.
    base: PathBuf,
    /// Folder of locks; `None` where there is none, so that two agents do not know of each other.
    locks: Option<PathBuf>,
    /// Users are given one after the other, from the look at who has which to the mark on the folder.
    giving: Mutex<()>,
    held: Mutex<BTreeMap<u32, File>>,
    volumes: VolumeUses,
    /// How many instances run as each user: two versions of a service share one.
    running: Arc<Mutex<BTreeMap<u32, usize>>>,
}

/// An instance that runs as a user of workloads, until it is dropped.
#[derive(Debug)]
pub(crate) struct UserRun {
    user: u32,
    running: Arc<Mutex<BTreeMap<u32, usize>>>,
    is_over: bool,
}

/// Says whether anything runs as a user on purpose.
#[derive(Debug, Clone)]
pub(crate) struct UserWatch {
    user: u32,
    running: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl UserRun {
    /// The instance is over, and does not count any more.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            let mut running = self.running.lock();
            let left = running.get(&self.user).copied().unwrap_or_default().saturating_sub(1);
            if left == 0 {
                running.remove(&self.user);
            } else {
                running.insert(self.user, left);
            }
        }
    }

    pub(crate) fn watch(&self) -> UserWatch {
        UserWatch { user: self.user, running: Arc::clone(&self.running) }
    }
}

impl Drop for UserRun {
    fn drop(&mut self) {
        self.end();
    }
}

impl UserWatch {
    /// Whether no instance runs as the user, so that whatever does was left.
    pub(crate) fn is_free(&self) -> bool {
        !self.running.lock().contains_key(&self.user)
    }
}

impl Users {
    /// An instance is started as a user.
    pub(crate) fn run(&self, user: u32) -> UserRun {
        let mut running = self.running.lock();
        let count = running.entry(user).or_default();
        *count = count.saturating_add(1);
        UserRun { user, running: Arc::clone(&self.running), is_over: false }
    }

    /// Whose a data folder is, where that is a user of workloads.
    pub(crate) fn of(data: &Path) -> Option<u32> {
        fs::metadata(data).ok().map(|found| found.uid()).filter(|user| USERS.contains(user))
    }

    /// Whether no instance runs as a user.
    pub(crate) fn is_free(&self, user: u32) -> bool {
        !self.running.lock().contains_key(&user)
    }

    /// Finds the folder of locks, and takes the users whose data is below `base`.
    pub(crate) fn new(base: PathBuf) -> Self {
        let made = PLACES.iter().map(|place| Path::new(place).join(NAME)).find(|folder| is_ours(folder));
        if made.is_none() {
            warn!(
                "no folder for locks of users; agents of this machine may give the same user to two workloads"
            );
        }
        let volumes = VolumeUses::open(&base);
        Self { volumes, ..Self::with_locks(base, made) }
    }

    fn with_locks(base: PathBuf, locks: Option<PathBuf>) -> Self {
        let users = Self {
            base,
            locks,
            giving: Mutex::default(),
            held: Mutex::default(),
            volumes: VolumeUses::default(),
            running: Arc::default(),
        };
        for user in users.owners() {
            // One that another agent has is said where it is asked for.
            let _ = users.hold(user);
        }
        users
    }

    /// The user of a data folder: the one that has it already, else the first that nobody has. It is this agent's as
    /// long as that lives, or the folder is there. It blocks its thread.
    ///
    /// # Errors
    ///
    /// Those of the file system; none is left; another agent that runs has the user of the folder.
    pub(crate) fn assign(&self, data: &Path) -> io::Result<u32> {
        let _giving = self.giving.lock();
        let owner = fs::metadata(data)?.uid();
        if USERS.contains(&owner) {
            if self.hold(owner)? {
                return Ok(owner);
            }
            return Err(io::Error::other(format!(
                "{} belongs to user {owner}, which another agent of this machine has in use; stop that agent, or give \
                 the folder to root with `chown -R`",
                data.display()
            )));
        }
        let (taken, running) = (self.owners(), tree::users());
        for user in USERS.filter(|user| !taken.contains(user) && !running.contains(user)) {
            if self.hold_new(user)? {
                let given = std::os::unix::fs::lchown(data, Some(user), Some(user));
                if given.is_err() {
                    self.held.lock().remove(&user);
                }
                return given.map(|()| user);
            }
        }
        Err(io::Error::other("no user is left for another workload"))
    }

    /// Removes a data folder where nothing is in it and nothing runs as its user, who is free for others then; says
    /// whether it did.
    pub(crate) fn remove_unused(&self, data: &Path) -> bool {
        let _giving = self.giving.lock();
        let Some(user) = Self::of(data).filter(|user| self.is_free(*user)) else { return false };
        if fs::remove_dir(data).is_err() {
            return false;
        }
        if !self.owners().contains(&user) {
            self.held.lock().remove(&user);
        }
        true
    }

    /// Who uses the volumes of services.
    pub(crate) fn volumes(&self) -> &VolumeUses {
        &self.volumes
    }

    /// Whether a user is this agent's from now on, where it may be.
    pub(crate) fn hold(&self, user: u32) -> io::Result<bool> {
        self.lock(user, |_| true)
    }

    /// The same for one whose data is nobody's, and who is not held for another workload.
    fn hold_new(&self, user: u32) -> io::Result<bool> {
        if self.held.lock().contains_key(&user) {
            return Ok(false);
        }
        self.lock(user, |other| other.as_os_str().is_empty() || other == self.base || !other.exists())
    }

    fn lock(&self, user: u32, may: impl Fn(&Path) -> bool) -> io::Result<bool> {
        let mut held = self.held.lock();
        let Some(locks) = self.locks.as_ref().filter(|_| !held.contains_key(&user)) else { return Ok(true) };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(locks.join(user.to_string()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = Vec::new();
        (&file).take(MAX_PATH_BYTES).read_to_end(&mut text)?;
        if !may(Path::new(std::ffi::OsStr::from_bytes(&text))) {
            return Ok(false);
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(self.base.as_os_str().as_bytes())?;
        held.insert(user, file);
        Ok(true)
    }

    /// Users who have data here.
    fn owners(&self) -> BTreeSet<u32> {
        let services = fs::read_dir(&self.base).into_iter().flatten().flatten();
        let folders =
            services.flat_map(|service| fs::read_dir(service.path()).into_iter().flatten().flatten());
        let users = folders.filter_map(|folder| folder.metadata().ok()).map(|metadata| metadata.uid());
        users.filter(|user| USERS.contains(user)).collect()
    }
}

/// Makes a folder that nobody else may change; false where that cannot be.
fn is_ours(folder: &Path) -> bool {
    // One that is there is looked at below.
    let _ = DirBuilder::new().mode(0o700).create(folder);
    fs::symlink_metadata(folder)
        .is_ok_and(|found| found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Option<Self> {
            // Only root gives folders away.
            nix::unistd::geteuid().is_root().then(|| Self(tempfile::tempdir().unwrap()))
        }

        fn agent(&self, name: &str) -> Users {
            let locks = self.0.path().join("locks");
            let _ = fs::create_dir(&locks);
            Users::with_locks(self.0.path().join(name), Some(locks))
        }

        fn data(&self, agent: &str, service: &str) -> PathBuf {
            let folder = self.0.path().join(agent).join(service).join("data");
            fs::create_dir_all(&folder).unwrap();
            folder
        }
    }

    #[test]
    fn two_agents_give_no_user_twice_also_while_one_is_away() {
        let Some(machine) = Machine::new() else { return };
        let (one, two) = (machine.agent("one"), machine.agent("two"));
        let first = one.assign(&machine.data("one", "svc-7-1")).unwrap();
        let second = two.assign(&machine.data("two", "svc-7-1")).unwrap();
        let third = one.assign(&machine.data("one", "svc-7-2")).unwrap();
        assert!(first != second && second != third && first != third, "{first} {second} {third}");
        assert_eq!(one.assign(&machine.data("one", "svc-7-1")).unwrap(), first, "it stays");
        // Its data is there still, and its users are it again.
        drop(one);
        let fourth = two.assign(&machine.data("two", "svc-7-2")).unwrap();
        assert!(fourth != first && fourth != third, "{fourth}");
        let one = machine.agent("one");
        assert_eq!(one.assign(&machine.data("one", "svc-7-2")).unwrap(), third);
        // With its data its users are free.
        drop(one);
        fs::remove_dir_all(machine.0.path().join("one")).unwrap();
        assert_eq!(two.assign(&machine.data("two", "svc-7-3")).unwrap(), first.min(third));
    }

    #[test]
    fn workloads_that_start_at_once_get_a_user_each() {
        let Some(machine) = Machine::new() else { return };
        let locked = machine.agent("one");
        let unlocked = Users::with_locks(machine.0.path().join("two"), None);
        for (agent, users) in [("one", &locked), ("two", &unlocked)] {
            let folders: Vec<PathBuf> =
                (0..16).map(|number| machine.data(agent, &format!("svc-7-{number}"))).collect();
            let given: BTreeSet<u32> = std::thread::scope(|scope| {
                let starts: Vec<_> =
                    folders.iter().map(|data| scope.spawn(move || users.assign(data).unwrap())).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            assert_eq!(given.len(), folders.len(), "{agent}: {given:?}");
        }
    }

    #[test]
    fn the_user_of_a_folder_that_was_never_used_is_free_again() {
        let Some(machine) = Machine::new() else { return };
        let users = machine.agent("one");
        let data = machine.data("one", "svc-7-1");
        let user = users.assign(&data).unwrap();
        assert!(!users.hold_new(user).unwrap(), "it is another's");
        let run = users.run(user);
        assert!(!users.remove_unused(&data) && data.exists());
        drop(run);
        fs::write(data.join("file"), "x").unwrap();
        assert!(!users.remove_unused(&data));
        fs::remove_file(data.join("file")).unwrap();
        assert!(users.remove_unused(&data) && !data.exists());
        assert_eq!(users.assign(&machine.data("one", "svc-7-2")).unwrap(), user);
    }

    #[test]
    fn a_folder_whose_user_another_agent_has_is_refused_and_said() {
        let Some(machine) = Machine::new() else { return };
        let one = machine.agent("one");
        let user = one.assign(&machine.data("one", "svc-7-1")).unwrap();
        let data = machine.data("two", "svc-7-1");
        std::os::unix::fs::chown(&data, Some(user), Some(user)).unwrap();
        let two = machine.agent("two");
        let error = two.assign(&data).unwrap_err().to_string();
        assert!(error.contains(&format!("user {user}")) && error.contains("chown"), "{error}");
        assert!(!two.hold(user).unwrap());
        drop(one);
        assert_eq!(two.assign(&data).unwrap(), user);
    }

    #[test]
    fn a_user_is_free_once_the_last_of_its_instances_is_over() {
        let users = Users::with_locks(PathBuf::from("/nonexistent"), None);
        let (mut old, next) = (users.run(61_200), users.run(61_200));
        let (watch, other) = (old.watch(), users.run(61_201).watch());
        assert!(other.is_free() && !watch.is_free());
        old.end();
        old.end();
        assert!(!watch.is_free(), "the other one counts");
        drop(next);
        assert!(watch.is_free());
        drop(old);
        assert!(watch.is_free());
    }

    #[test]
    fn a_user_whose_processes_run_is_not_given() {
        use std::os::unix::process::CommandExt;
        let Some(machine) = Machine::new() else { return };
        let one = machine.agent("one");
        let next = USERS.clone().find(|user| !tree::users().contains(user)).unwrap();
        let mut other = std::process::Command::new("sleep").arg("60").uid(next).spawn().unwrap();
        let given = one.assign(&machine.data("one", "svc-7-1")).unwrap();
        assert_ne!(given, next);
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
