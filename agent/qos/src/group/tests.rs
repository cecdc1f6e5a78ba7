//! Tests of processes that belong together, on folders that look like `/proc`, and on processes of this machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Process `pid` with so many ticks of its own and of children that ended; it holds socket 999 where `holds` says so.
fn write(root: &Path, pid: u32, (ticks, waited): (u64, u64), holds: bool, children: &[u32]) {
    let folder = root.join(pid.to_string());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("fd")).unwrap();
    fs::create_dir_all(folder.join("task").join(pid.to_string())).unwrap();
    if holds {
        symlink("socket:[999]", folder.join("fd/3")).unwrap();
    }
    let stat = format!("{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 {waited} 0 20 0 1 0 {pid} 1 10 0");
    fs::write(folder.join("stat"), stat).unwrap();
    let text: String = children.iter().map(|child| format!("{child} ")).collect();
    fs::write(folder.join("task").join(pid.to_string()).join("children"), text).unwrap();
}

#[test]
fn workers_that_were_forked_count_and_so_do_those_that_ended() {
    let root = tempfile::tempdir().unwrap();
    let (proc, now) = (ProcFs::new(root.path()), Instant::now());
    write(root.path(), 50, (100, 0), true, &[51, 52]);
    write(root.path(), 51, (1000, 0), true, &[]);
    write(root.path(), 52, (2000, 0), false, &[]);
    let mut group = Group::default();
    assert!(group.find(&proc, vec![999], now));
    let first = group.look(&proc, 100, now).unwrap();
    assert_eq!((first.pid, first.cpu_percent, first.pages), (50, 0.0, 30));
    // The parent used nothing, and each worker half a processor.
    write(root.path(), 51, (1050, 0), true, &[]);
    write(root.path(), 52, (2050, 0), false, &[]);
    assert_eq!(group.look(&proc, 100, now + SECOND).unwrap().cpu_percent, 100.0);
    // One ended after ten ticks more, another came and used twenty, and one came and went.
    fs::remove_dir_all(root.path().join("51")).unwrap();
    write(root.path(), 53, (20, 0), true, &[]);
    write(root.path(), 50, (100, 1050 + 10 + 5), true, &[52, 53]);
    assert!(group.is_known(&proc, now + SECOND));
    assert_eq!(group.look(&proc, 100, now + SECOND * 2).unwrap().cpu_percent, 35.0);
    // One that ended with nobody to wait for it takes nothing from the others.
    fs::remove_dir_all(root.path().join("53")).unwrap();
    write(root.path(), 52, (2080, 0), false, &[]);
    assert_eq!(group.look(&proc, 100, now + SECOND * 3).unwrap().cpu_percent, 30.0);
    for pid in [50, 52] {
        fs::remove_dir_all(root.path().join(pid.to_string())).unwrap();
    }
    assert_eq!(group.look(&proc, 100, now + SECOND * 4), None);
}

#[test]
fn one_that_is_new_counts_as_one_processor_at_the_most_and_their_number_is_bounded() {
    let root = tempfile::tempdir().unwrap();
    let (proc, now) = (ProcFs::new(root.path()), Instant::now());
    write(root.path(), 50, (0, 0), true, &[]);
    let mut group = Group::default();
    assert!(group.find(&proc, vec![999], now));
    group.look(&proc, 100, now).unwrap();
    write(root.path(), 50, (0, 0), true, &[60]);
    write(root.path(), 60, (1_000_000, 0), true, &[]);
    assert_eq!(group.look(&proc, 100, now + SECOND).unwrap().cpu_percent, 100.0);
    let many: Vec<u32> = (1000..1400).collect();
    write(root.path(), 50, (0, 0), true, &many);
    for pid in many {
        write(root.path(), pid, (0, 0), false, &[50]);
    }
    assert_eq!(group.members(&proc).len(), MOST);
}

#[test]
fn what_init_holds_for_a_service_is_the_services() {
    let root = tempfile::tempdir().unwrap();
    let (proc, now) = (ProcFs::new(root.path()), Instant::now());
    write(root.path(), 1, (0, 0), true, &[50, 70]);
    write(root.path(), 50, (0, 0), true, &[]);
    write(root.path(), 70, (0, 0), false, &[]);
    let mut group = Group::default();
    assert!(group.find(&proc, vec![999], now));
    assert_eq!(group.members(&proc).into_keys().collect::<Vec<_>>(), [50]);
    // Nobody else has it yet.
    fs::remove_dir_all(root.path().join("50")).unwrap();
    assert!(group.find(&proc, vec![999], now));
    assert_eq!(group.members(&proc).into_keys().collect::<Vec<_>>(), [1]);
}

#[test]
fn children_of_a_real_process_are_found() {
    let proc = ProcFs::new("/proc");
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let children = proc.children(std::process::id());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(children.contains(&child.id()), "{children:?}");
}

#[test]
fn a_percentage_of_nothing_is_zero_and_large_numbers_saturate() {
    assert_eq!(percent(1, 0), 0.0);
    assert_eq!(percent(1, 3), 33.33);
    assert!(percent(u64::MAX, 1) > 60_000.0);
}
