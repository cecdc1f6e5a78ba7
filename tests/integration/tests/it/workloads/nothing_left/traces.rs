//! What there is of some workloads on a machine: files, processes, control groups, mounts and ports.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use blueprint_tests_support::processes_naming;

use super::super::rig::Node;

/// Folders that all of a machine write to.
const SHARED: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

/// Deepest control group that is looked for below the root.
const DEEP: usize = 4;

/// What there is, one line for each.
pub(super) struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks for what the workloads of one blueprint have on a node, and for files that carry their mark.
    pub(super) fn of(node: &mut Node<'_>, blueprint: u64, mark: &str) -> Result<Self> {
        let mut found = BTreeSet::new();
        for place in node.places()? {
            files(&place, &mut found);
        }
        for place in SHARED {
            for path in entries(Path::new(place)) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if name.contains(mark) {
                    found.insert(format!("file {}", path.display()));
                }
            }
        }
        let label = format!("svc-{blueprint}-");
        groups(Path::new("/sys/fs/cgroup"), &label, DEEP, &mut found);
        found.extend(processes_naming(&label).iter().map(|pid| format!("process {pid} by its arguments")));
        found.extend(workers(blueprint)?.iter().map(|pid| format!("process {pid} by its variables")));
        let pid = node.agent.process()?.pid();
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mounts"))?;
        found.extend(mounts.lines().filter(|line| line.contains(&label)).map(|line| format!("mount {line}")));
        for port in listening(pid)? {
            found.insert(format!("port {port}"));
        }
        Ok(Self(found))
    }

    /// What was not there before.
    pub(super) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// All files below a folder, and all folders but those that workloads share.
fn files(folder: &Path, found: &mut BTreeSet<String>) {
    for path in entries(folder) {
        let is_folder = path.is_dir() && !path.is_symlink();
        let name = path.file_name().unwrap_or_default();
        let is_shared = is_folder && (name == "data" || name == "logs" || name == "artefacts");
        if !is_shared {
            found.insert(format!("file {}", path.display()));
        }
        if is_folder {
            files(&path, found);
        }
    }
}

fn groups(folder: &Path, label: &str, deep: usize, found: &mut BTreeSet<String>) {
    for path in entries(folder).into_iter().filter(|path| path.is_dir() && !path.is_symlink()) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(label)) {
            found.insert(format!("group {}", path.display()));
        }
        if deep > 0 {
            groups(&path, label, deep - 1, found);
        }
    }
}

/// Processes whose environment is that of a workload of a blueprint.
fn workers(blueprint: u64) -> Result<Vec<u32>> {
    let wanted = format!("BLUEPRINT_ID={blueprint}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Addresses on which a process listens, by TCP.
fn listening(pid: u32) -> Result<BTreeSet<String>> {
    let sockets: BTreeSet<String> = entries(Path::new(&format!("/proc/{pid}/fd")))
        .iter()
        .filter_map(|path| std::fs::read_link(path).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        for line in text.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (at, state) = (fields.get(1).context("no address")?, fields.get(3).context("no state")?);
            let inode = fields.get(9).context("no socket")?;
            if *state == "0A" && sockets.contains(*inode) {
                found.insert((*at).to_owned());
            }
        }
    }
    Ok(found)
}
