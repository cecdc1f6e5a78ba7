use super::*;

/// The names of version 2, on plain files: what is written, not what a kernel makes of it.
#[test]
fn version_2_gets_every_limit_under_its_own_name() {
    let root = tempfile::tempdir().unwrap();
    let group = root.path().join("ours").join("svc-7-42");
    fs::create_dir_all(&group).unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpuset cpu io memory pids").unwrap();
    let cgroups = Cgroups::find(root.path(), "ours").unwrap();
    cgroups.create("svc-7-42", &ResourceLimits { cpu_millis: 1500, ..ResourceLimits::default() }).unwrap();
    let read = |name: &str| fs::read_to_string(group.join(name)).unwrap();
    assert_eq!(read("cpu.max"), "150000 100000");
    assert_eq!(read("memory.max"), (4u64 << 30).to_string());
    assert_eq!(read("pids.max"), "1024");
    assert_eq!(fs::read_to_string(root.path().join("cgroup.subtree_control")).unwrap(), "+cpu +memory +pids");
    fs::write(group.join("memory.events"), "low 0\noom 2\noom_kill 3\n").unwrap();
    assert_eq!(cgroups.at("svc-7-42").out_of_memory(), 3);
    assert_eq!(cgroups.labels(), ["svc-7-42"]);
    assert_eq!(cgroups.at("svc-7-42").uses(), None, "nothing is counted");
    for (file, text) in [
        ("cpu.stat", "usage_usec 1500\nuser_usec 1000\n"),
        ("memory.current", "5000\n"),
        ("memory.stat", "anon 1\ninactive_file 2000\n"),
        ("pids.current", "3\n"),
        ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=1\n8:16 rbytes=1 wbytes=2 rios=1 wios=1\n"),
    ] {
        fs::write(group.join(file), text).unwrap();
    }
    let (cpu, pids) = (Duration::from_micros(1500), 3);
    let expected = WorkloadUse { cpu, memory_bytes: 3000, pids, read_bytes: 11, written_bytes: 22 };
    assert_eq!(cgroups.at("svc-7-42").uses(), Some(expected));
}

/// The names of version 1, as well on plain files.
#[test]
fn version_1_counts_by_controllers_that_hold_nothing() {
    let root = tempfile::tempdir().unwrap();
    for controller in CONTROLLERS.into_iter().chain(COUNTERS) {
        fs::create_dir_all(root.path().join(controller)).unwrap();
        fs::write(root.path().join(controller).join("cgroup.procs"), "").unwrap();
    }
    let cgroups = Cgroups::find(root.path(), "ours").unwrap();
    let group = cgroups.create("svc-7-42", &ResourceLimits::default()).unwrap();
    assert_eq!(group.entries().len(), 5, "a process enters all of them");
    for (file, text) in [
        ("cpuacct/ours/svc-7-42/cpuacct.usage", "1500000\n"),
        ("memory/ours/svc-7-42/memory.usage_in_bytes", "5000\n"),
        ("memory/ours/svc-7-42/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n"),
        ("pids/ours/svc-7-42/pids.current", "3\n"),
        ("blkio/ours/svc-7-42/blkio.throttle.io_service_bytes_recursive", "Total 0\n"),
        (
            "blkio/ours/svc-7-42/blkio.bfq.io_service_bytes_recursive",
            "8:0 Read 10\n8:0 Write 20\n8:16 Read 1\n8:16 Write 2\nTotal 33\n",
        ),
    ] {
        fs::write(root.path().join(file), text).unwrap();
    }
    let (cpu, pids) = (Duration::from_micros(1500), 3);
    let expected = WorkloadUse { cpu, memory_bytes: 3000, pids, read_bytes: 11, written_bytes: 22 };
    assert_eq!(group.uses(), Some(expected));
}

/// As systemd gives a service its group, on plain files.
#[test]
fn an_ordinary_user_works_below_the_group_that_its_service_was_given() {
    let root = tempfile::tempdir().unwrap();
    let base = root.path().join("system.slice/blueprint-agent.service");
    fs::create_dir_all(base.join("ours/svc-7-42")).unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
    fs::write(base.join("cgroup.controllers"), "cpu io memory pids").unwrap();
    fs::write(base.join("cgroup.procs"), "4711\n").unwrap();
    let own = "0::/system.slice/blueprint-agent.service\n";
    let cgroups = Cgroups::delegated(root.path(), "ours", own).unwrap();
    cgroups.create("svc-7-42", &ResourceLimits::default()).unwrap();
    let read = |name: &str| fs::read_to_string(base.join(name)).unwrap();
    assert_eq!(read("agent/cgroup.procs"), "4711");
    assert_eq!(read("cgroup.subtree_control"), "+cpu +memory +pids");
    assert_eq!(read("ours/svc-7-42/memory.max"), (4u64 << 30).to_string());
    let again = format!("0::/{}", "system.slice/blueprint-agent.service/agent");
    assert_eq!(Cgroups::delegated(root.path(), "ours", &again).unwrap().labels(), ["svc-7-42"]);

    fs::write(base.join("cgroup.controllers"), "memory").unwrap();
    let lacks = Cgroups::delegated(root.path(), "ours", own).unwrap_err().to_string();
    assert!(lacks.contains("cpu"), "{lacks}");
    let old = Cgroups::delegated(root.path(), "ours", "5:memory:/x\n").unwrap_err().to_string();
    assert!(old.contains("version 2"), "{old}");
    let other = Cgroups::delegated(root.path(), "ours", "0::/other.service").unwrap_err().to_string();
    assert!(other.contains("cannot write"), "{other}");
}

#[test]
fn a_machine_without_control_groups_says_which_is_missing() {
    let root = tempfile::tempdir().unwrap();
    assert!(Cgroups::find(root.path(), "ours").unwrap_err().to_string().contains("cpu"));
    fs::write(root.path().join("cgroup.controllers"), "cpu memory").unwrap();
    assert!(Cgroups::find(root.path(), "ours").unwrap_err().to_string().contains("pids"));
}
