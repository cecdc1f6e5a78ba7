//! Limits of what a workload reads and writes, by the disk that its data is on.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use blueprint_agent_workload_core::PrepareFailed;
use blueprint_common_types::workload::{IoLimits, Source, WorkloadSpec};
use nix::sys::stat::{major, minor};

use crate::cgroup::Cgroups;

/// Where the kernel tells of disks by their numbers.
const DISKS: &str = "/sys/dev/block";

/// A disk as a whole: the kernel bounds no partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Its number, `MAJOR:MINOR`.
    pub(crate) number: String,
    /// Its device.
    pub(crate) device: PathBuf,
}

impl Disk {
    /// The disk that a folder is on.
    ///
    /// # Errors
    ///
    /// Why there is none that could be bounded, for people.
    pub(crate) fn of(folder: &Path) -> Result<Self, String> {
        let found = fs::metadata(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let number = format!("{}:{}", major(found.dev()), minor(found.dev()));
        let number = if major(found.dev()) == 0 { Self::below(folder, &number)? } else { number };
        let known = fs::canonicalize(Path::new(DISKS).join(&number))
            .map_err(|error| format!("the disk {number} of {} is not known: {error}", folder.display()))?;
        let whole = if known.join("partition").exists() { known.parent().unwrap_or(&known) } else { &known };
        let read = |file: &str| fs::read_to_string(whole.join(file)).map_err(|error| error.to_string());
        let uevent = read("uevent")?;
        let name =
            uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).ok_or("a disk has no name")?;
        Ok(Self { number: read("dev")?.trim().to_owned(), device: Path::new("/dev").join(name) })
    }

    /// The disk below a file system that has a number of its own, as btrfs has.
    fn below(folder: &Path, number: &str) -> Result<String, String> {
        let none = || format!("{} is on no disk of its own, but in memory or on a network", folder.display());
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let source = mounts.lines().find_map(|line| {
            let (mount, rest) = line.split_once(" - ")?;
            let is_its = mount.split(' ').nth(2) == Some(number);
            rest.split(' ').nth(1).filter(|source| is_its && source.starts_with("/dev/"))
        });
        let found = fs::metadata(source.ok_or_else(none)?).map_err(|error| error.to_string())?;
        if !found.file_type().is_block_device() {
            return Err(none());
        }
        Ok(format!("{}:{}", major(found.rdev()), minor(found.rdev())))
    }
}

/// The disk of a workload that asks for limits of it, where they would hold; `None` where it asks for none. What is no
/// container is bound by `cgroups`; an engine bounds containers, and says what it cannot.
///
/// # Errors
///
/// Why they would not hold, unless the node's owner allows that.
pub(crate) fn bound(
    spec: &WorkloadSpec,
    folder: &Path,
    cgroups: Option<&Cgroups>,
    allow_unlimited: bool,
) -> Result<Option<Disk>, PrepareFailed> {
    let io = spec.limits.io;
    if io.is_open() {
        return Ok(None);
    }
    let is_container = matches!(spec.source, Source::Container { .. });
    let held = match cgroups {
        Some(cgroups) if !is_container => cgroups.bounds_disks(&io),
        // That of an ordinary user without groups, which is refused before, or allowed.
        None if !is_container => Err("the agent has no control groups".to_owned()),
        Some(_) | None => Ok(()),
    };
    match held.and_then(|()| Disk::of(folder)) {
        Ok(disk) => Ok(Some(disk)),
        Err(_) if allow_unlimited => Ok(None),
        Err(why) => Err(PrepareFailed::here(format!(
            "it asks for a limit (io) that this node cannot hold: {why}; run it on another node, or set \
             workload.allow_unlimited = true on this one"
        ))),
    }
}

/// Each bound by the names that control groups of version 1 have for it.
pub(crate) fn throttles(io: &IoLimits) -> [(&'static str, u64); 4] {
    [
        ("blkio.throttle.read_bps_device", io.read_bytes),
        ("blkio.throttle.write_bps_device", io.write_bytes),
        ("blkio.throttle.read_iops_device", io.read_ops),
        ("blkio.throttle.write_iops_device", io.write_ops),
    ]
}

/// All bounds in one line, as control groups of version 2 take them.
pub(crate) fn maxima(io: &IoLimits) -> String {
    let bounds =
        [("rbps", io.read_bytes), ("wbps", io.write_bytes), ("riops", io.read_ops), ("wiops", io.write_ops)];
    let set = bounds.into_iter().filter(|(_, bound)| *bound > 0);
    set.map(|(name, bound)| format!(" {name}={bound}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_on_no_disk() {
        let why = Disk::of(Path::new("/proc")).unwrap_err();
        assert!(why.contains("is on no disk of its own"), "{why}");
        assert!(Disk::of(Path::new("/nonexistent/folder")).is_err());
    }

    #[test]
    fn bounds_are_written_as_each_version_wants_them() {
        let io = IoLimits { read_bytes: 1 << 20, write_ops: 50, ..IoLimits::default() };
        assert_eq!(maxima(&io), " rbps=1048576 wiops=50");
        assert_eq!(throttles(&io).map(|(_, bound)| bound), [1 << 20, 0, 0, 50]);
    }
}
