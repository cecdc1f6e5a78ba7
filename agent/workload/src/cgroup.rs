//! Control groups: what a workload may use, held by the kernel. Version 2, or version 1 where a machine has only that.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use blueprint_common_types::WorkloadUse;
use blueprint_common_types::workload::{IoLimits, ResourceLimits};

use crate::disk;

/// Length of a period of processor time, in microseconds; the kernel's default.
const PERIOD_MICROS: u64 = 100_000;

/// How long is tried to kill what is in a group.
const KILL_WITHIN: Duration = Duration::from_secs(5);

/// Bytes that all files of a group have room in which are read again and again.
const FILE_BYTES: usize = 4096;

/// Most bytes that are read of one.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Name of the group that an agent goes into where its own group is given to it.
const AGENT: &str = "agent";

/// Controllers that are used.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers of version 1 that only count; without them nothing is held.
const COUNTERS: [&str; 2] = ["cpuacct", "blkio"];

/// How this machine has control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Layout {
    /// One hierarchy; this is the folder in which workloads get theirs.
    Unified(PathBuf),
    /// One hierarchy for each controller.
    PerController(Vec<(&'static str, PathBuf)>),
}

/// The control groups of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups(Layout);

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    #[error("this machine has no control groups with {0} that the agent may change; limits cannot be held")]
    Missing(&'static str),
    #[error("the agent looks for no control groups")]
    Off,
    #[error(
        "the agent is an ordinary user, and its service has no control group of version 2 that is its own (Delegate=cpu \
         memory pids io in its unit): {0}"
    )]
    NotDelegated(String),
    #[error("cannot write {}: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
}

impl Cgroups {
    /// Finds them below `root`, which is `/sys/fs/cgroup`, and makes the folder of all workloads, of this name: agents
    /// of one machine must not end each other's.
    pub(crate) fn find(root: &Path, name: &str) -> Result<Self, CgroupError> {
        if root.join("cgroup.controllers").exists() {
            return Self::unified(root, name);
        }
        let mut folders = Vec::new();
        for controller in CONTROLLERS {
            let folder = root.join(controller).join(name);
            if !root.join(controller).join("cgroup.procs").exists() {
                return Err(CgroupError::Missing(controller));
            }
            make(&folder)?;
            folders.push((controller, folder));
        }
        for controller in COUNTERS {
            let folder = root.join(controller).join(name);
            // Its hierarchy may be that of `cpu`, by another name.
            if root.join(controller).join("cgroup.procs").exists() && make(&folder).is_ok() {
                folders.push((controller, folder));
            }
        }
        Ok(Self(Layout::PerController(folders)))
    }

    /// Those of the machine for root, where it may; else those below the group that was given to this process's service.
    pub(crate) fn of_this_process(root: &Path, name: &str) -> Result<Self, CgroupError> {
        let machine = if nix::unistd::geteuid().is_root() { Some(Self::find(root, name)) } else { None };
        match machine {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Self::delegated_here(root, name).map_err(|_| error),
            None => Self::delegated_here(root, name),
        }
    }

    fn delegated_here(root: &Path, name: &str) -> Result<Self, CgroupError> {
        let refused = |reason: &dyn std::fmt::Display| CgroupError::NotDelegated(reason.to_string());
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| refused(&error))?;
        Self::delegated(root, name, &own).map_err(|error| refused(&error))
    }

    /// Those of version 2 below the group of this process, which `own` tells as `/proc/self/cgroup` does. A group that has
    /// groups of its own with limits may hold no process, so this one goes into a group beside those of workloads.
    fn delegated(root: &Path, name: &str, own: &str) -> Result<Self, CgroupError> {
        let path = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let path = path.filter(|_| root.join("cgroup.controllers").exists());
        let path = Path::new(path.ok_or(CgroupError::Missing("version 2"))?);
        // It is there already after an earlier look.
        let path = path.parent().filter(|_| path.ends_with(AGENT)).unwrap_or(path);
        let base = root.join(path);
        let (leaf, procs) = (base.join(AGENT), base.join("cgroup.procs"));
        make(&leaf)?;
        let inside = fs::read_to_string(&procs);
        let inside = inside.map_err(|error| CgroupError::Write { path: procs, error })?;
        for pid in inside.lines() {
            put(&leaf.join("cgroup.procs"), pid)?;
        }
        Self::unified(&base, name)
    }

    fn unified(root: &Path, name: &str) -> Result<Self, CgroupError> {
        let has = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        for controller in CONTROLLERS {
            if !has.split_whitespace().any(|name| name == controller) {
                return Err(CgroupError::Missing(controller));
            }
        }
        let folder = root.join(name);
        let enable = format!("+{}", CONTROLLERS.join(" +"));
        // It only counts here, and not every machine has it.
        let _ = put(&root.join("cgroup.subtree_control"), "+io");
        put(&root.join("cgroup.subtree_control"), &enable)?;
        make(&folder)?;
        let _ = put(&folder.join("cgroup.subtree_control"), "+io");
        put(&folder.join("cgroup.subtree_control"), &enable)?;
        Ok(Self(Layout::Unified(folder)))
    }

    /// Makes the group of one workload, with its limits; of an older one nothing is left. It blocks its thread as
    /// [`Cgroup::kill`].
    pub(crate) fn create(&self, label: &str, limits: &ResourceLimits) -> Result<Cgroup, CgroupError> {
        let quota = u64::from(limits.cpu_millis).saturating_mul(PERIOD_MICROS) / 1000;
        let (memory, pids) = (limits.memory_bytes.to_string(), limits.pids.to_string());
        let group = self.at(label);
        group.kill();
        match &self.0 {
            Layout::Unified(base) => {
                let folder = base.join(label);
                make(&folder)?;
                put(&folder.join("cpu.max"), &format!("{quota} {PERIOD_MICROS}"))?;
                put(&folder.join("memory.max"), &memory)?;
                // Not everywhere; without it a workload could leave its memory limit for the disk.
                let _ = put(&folder.join("memory.swap.max"), "0");
                let _ = put(&folder.join("memory.oom.group"), "1");
                put(&folder.join("pids.max"), &pids)?;
            }
            Layout::PerController(bases) => {
                for (controller, base) in bases {
                    let folder = base.join(label);
                    make(&folder)?;
                    match *controller {
                        "cpu" => {
                            put(&folder.join("cpu.cfs_period_us"), &PERIOD_MICROS.to_string())?;
                            put(&folder.join("cpu.cfs_quota_us"), &quota.to_string())?;
                        }
                        "memory" => {
                            put(&folder.join("memory.limit_in_bytes"), &memory)?;
                            let _ = put(&folder.join("memory.memsw.limit_in_bytes"), &memory);
                        }
                        "pids" => put(&folder.join("pids.max"), &pids)?,
                        _ => {}
                    }
                }
            }
        }
        Ok(group)
    }

    /// Whether what a workload reads and writes of a disk can be bounded here.
    ///
    /// # Errors
    ///
    /// Why it cannot, for people.
    pub(crate) fn bounds_disks(&self, io: &IoLimits) -> Result<(), String> {
        match &self.0 {
            Layout::Unified(base) => {
                let has = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
                if has.split_whitespace().any(|name| name == "io") {
                    return Ok(());
                }
                Err("the agent has no control groups with io".to_owned())
            }
            Layout::PerController(bases) if !bases.iter().any(|(name, _)| *name == "blkio") => {
                Err("this machine has no control groups with blkio".to_owned())
            }
            // What is written to a file is the kernel's own doing later, and in nobody's group.
            Layout::PerController(_) if io.bounds_writes() => {
                Err("control groups of version 1 do not bound what is written".to_owned())
            }
            Layout::PerController(_) => Ok(()),
        }
    }

    /// Bounds what a workload reads and writes of a disk; its group is there.
    pub(crate) fn bound_disk(&self, label: &str, disk: &str, io: &IoLimits) -> Result<(), CgroupError> {
        match &self.0 {
            Layout::Unified(base) => {
                put(&base.join(label).join("io.max"), &format!("{disk}{}", disk::maxima(io)))
            }
            Layout::PerController(bases) => {
                let Some((_, base)) = bases.iter().find(|(name, _)| *name == "blkio") else {
                    return Err(CgroupError::Missing("blkio"));
                };
                for (file, bound) in disk::throttles(io).into_iter().filter(|(_, bound)| *bound > 0) {
                    put(&base.join(label).join(file), &format!("{disk} {bound}"))?;
                }
                Ok(())
            }
        }
    }

    /// Removes the folder of all workloads, where none has a group there any more.
    pub(crate) fn leave(&self) {
        let folders: Vec<&PathBuf> = match &self.0 {
            Layout::Unified(folder) => vec![folder],
            Layout::PerController(folders) => folders.iter().map(|(_, folder)| folder).collect(),
        };
        for folder in folders {
            // What is still in use stays, and the next agent sees to it.
            let _ = fs::remove_dir(folder);
        }
    }

    /// The group of one workload, whether it is there or not.
    pub(crate) fn at(&self, label: &str) -> Cgroup {
        let folders = match &self.0 {
            Layout::Unified(base) => vec![base.join(label)],
            Layout::PerController(bases) => bases.iter().map(|(_, base)| base.join(label)).collect(),
        };
        let controllers = match &self.0 {
            Layout::Unified(_) => Vec::new(),
            Layout::PerController(bases) => bases.iter().map(|(controller, _)| *controller).collect(),
        };
        Cgroup { folders, controllers }
    }

    /// Labels of all groups that are there.
    pub(crate) fn labels(&self) -> Vec<String> {
        let base = match &self.0 {
            Layout::Unified(base) => Some(base),
            Layout::PerController(bases) => bases.first().map(|(_, base)| base),
        };
        let entries = base.and_then(|base| fs::read_dir(base).ok()).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// The control group of one workload.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    folders: Vec<PathBuf>,
    /// The controller of each folder; none where one folder has all.
    controllers: Vec<&'static str>,
}

impl Cgroup {
    /// Files that a process enters it by.
    pub(crate) fn entries(&self) -> Vec<PathBuf> {
        self.folders.iter().map(|folder| folder.join("cgroup.procs")).collect()
    }

    /// How often the kernel killed a process here for its memory.
    pub(crate) fn out_of_memory(&self) -> u64 {
        let count = |path: PathBuf| {
            let text = fs::read_to_string(path).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
            line.trim().parse::<u64>().ok()
        };
        let files = ["memory.events", "memory.oom_control"];
        let all = self.folders.iter().flat_map(|folder| files.map(|file| folder.join(file)));
        all.filter_map(count).max().unwrap_or(0)
    }

    /// What all in it use, and used since it was made; `None` where this machine does not count processor time or memory.
    pub(crate) fn uses(&self) -> Option<WorkloadUse> {
        let micros = || field(&self.read("cpu.stat")?, "usage_usec").map(Duration::from_micros);
        let nanos = || self.read("cpuacct.usage")?.trim().parse().ok().map(Duration::from_nanos);
        let cpu = micros().or_else(nanos)?;
        let number = |file: &str| self.read(file)?.trim().parse::<u64>().ok();
        let memory = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
        let parts = self.read("memory.stat").unwrap_or_default();
        // What the kernel only caches of files, and takes back first.
        let cached = field(&parts, "total_inactive_file").or_else(|| field(&parts, "inactive_file"));
        let (read_bytes, written_bytes) = self.disk();
        Some(WorkloadUse {
            cpu,
            memory_bytes: memory.saturating_sub(cached.unwrap_or(0)),
            pids: number("pids.current").unwrap_or(0),
            read_bytes,
            written_bytes,
        })
    }

    /// Bytes read from and written to disks; zeros where the kernel does not count them.
    fn disk(&self) -> (u64, u64) {
        if let Some(text) = self.read("io.stat") {
            let sum = |name: &str| {
                let found = text.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse().ok());
                found.fold(0, u64::saturating_add)
            };
            return (sum("rbytes="), sum("wbytes="));
        }
        // Which of them counts is the scheduler of the disk's to say.
        let files = ["blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive"];
        let text: Vec<String> = files.into_iter().filter_map(|file| self.read(file)).collect();
        let of = |text: &str, kind: &str| {
            let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let bytes = lines.filter_map(|words| match words.as_slice() {
                [_, found, bytes] if *found == kind => bytes.parse::<u64>().ok(),
                _ => None,
            });
            bytes.fold(0, u64::saturating_add)
        };
        let most = |kind: &str| text.iter().map(|text| of(text, kind)).max().unwrap_or(0);
        (most("Read"), most("Write"))
    }

    /// A file of it, from the folder of the controller that the file is named after.
    fn read(&self, file: &str) -> Option<String> {
        let (controller, _) = file.split_once('.')?;
        let at = |wanted: &str| self.controllers.iter().position(|name| *name == wanted);
        let folder = match at(controller) {
            None if self.controllers.is_empty() => self.folders.first(),
            // Both are one hierarchy where the second has no folder of its own.
            None if controller == "cpuacct" => self.folders.get(at("cpu")?),
            found => self.folders.get(found?),
        };
        // No file has a size here: what asks for it first, and begins with little room, takes twice as many calls.
        let mut text = String::with_capacity(FILE_BYTES);
        File::open(folder?.join(file)).ok()?.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Kills everything in it, also what a fork adds meanwhile. It blocks its thread, for 5 s at most.
    pub(crate) fn kill(&self) {
        for folder in &self.folders {
            // Newer kernels: all at once. Others, and who waits for the end: until a look finds nobody.
            let _ = fs::write(folder.join("cgroup.kill"), "1");
        }
        let left = crate::tree::kill_until_none(|| self.pids(), KILL_WITHIN);
        if left > 0 {
            let group = self.folders.first().map(|folder| folder.display().to_string());
            tracing::warn!(
                group,
                left,
                "processes of a workload cannot be killed; look at what they wait for"
            );
        }
    }

    /// One of its folders is enough, they hold the same processes.
    fn pids(&self) -> Vec<i32> {
        let Some(folder) = self.folders.last() else { return Vec::new() };
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Removes it; what is still in it is killed first. It blocks its thread as [`Cgroup::kill`].
    pub(crate) fn remove(&self) {
        self.kill();
        for folder in &self.folders {
            for _ in 0..50 {
                match fs::remove_dir(folder) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Ok(()) | Err(_) => break,
                }
            }
        }
    }
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn make(folder: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::Write { path: folder.to_owned(), error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn put(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|error| CgroupError::Write { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests;
