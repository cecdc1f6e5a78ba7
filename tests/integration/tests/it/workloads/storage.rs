//! What workloads keep on the disk of their node, and what happens where that is too much.

use anyhow::{Result, ensure};
use blueprint_tests_support::{eventually_ok, processes_naming};

use super::is_possible;
use super::rig::Node;
use crate::fixture::{Hub, SOON, text};

const MIB: u64 = 1 << 20;

/// A workload that fills its folder, unless it finds that it did, and goes on.
const FILLS: [&str; 6] = [
    "cd \"$DATA_DIR\"",
    "ln -s / everything",
    "[ -e fill ] || [ -e enough ] || while [ $(stat -c %s fill 2>/dev/null || echo 0) -lt 67108864 ]; do",
    "head -c 1048576 /dev/zero >>fill; sleep 0.05; done",
    "touch enough",
    "while :; do sleep 1; done",
];

#[test]
fn a_workload_over_its_storage_limit_is_ended_says_so_and_comes_back_once_there_is_room() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let (fills, calm) = (node.script("fills", &FILLS)?, node.script("calm", &["while :; do sleep 1; done"])?);
    let limit = (16 * MIB).to_string();
    let run = |service: &str, program: &str| {
        let run = ["workload", "run", service, "--path", program, "--test-mode", "--storage-bytes", &limit];
        hub.json(&run)
    };
    run("7/42", &fills)?;
    run("7/43", &calm)?;
    let why = format!("of {limit} bytes");
    let over = || -> Result<()> {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        let (state, reason) = (text(&shown, "/state")?, text(&shown, "/reason")?);
        ensure!(state == "backing-off", "{shown}");
        ensure!(reason.starts_with("over its storage limit: ") && reason.contains(&why), "{shown}");
        Ok(())
    };
    eventually_ok(SOON, "the end of a workload that fills its folder", over)?;
    ensure!(processes_naming(&fills).is_empty(), "it runs on");
    // What it could write between two looks, and no more.
    let fill = node.path("data/data/svc-7-42/blueprint-7-service/fill");
    let bytes = std::fs::metadata(&fill)?.len();
    ensure!((16 * MIB..64 * MIB).contains(&bytes), "{bytes} bytes");
    let calm = hub.json(&["workload", "show", "7/43"])?;
    ensure!(text(&calm, "/state")? == "running" && calm["restarts"] == 0, "{calm}");
    // It is not started again as it is.
    eventually_ok(SOON, "a second look", || {
        let refused = node.agent.log().matches("workload not started").count();
        ensure!(refused >= 1, "{}", node.agent.log());
        over()
    })?;

    // A file without a name takes as much room as any other.
    let hides = [
        "cd \"$DATA_DIR\"; exec 3>hidden; rm hidden",
        "for i in $(seq 64); do head -c 1048576 /dev/zero >&3; sleep 0.05; done",
        "while :; do sleep 1; done",
    ];
    run("7/44", &node.script("hides", &hides)?)?;
    eventually_ok(SOON, "the end of a workload that hides what it keeps", || {
        let shown = hub.json(&["workload", "show", "7/44"])?;
        ensure!(text(&shown, "/reason")?.starts_with("over its storage limit: "), "{shown}");
        Ok(())
    })?;

    std::fs::write(fill.with_file_name("enough"), "")?;
    std::fs::remove_file(&fill)?;
    eventually_ok(SOON, "the workload after its folder was emptied", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(text(&shown, "/state")? == "running", "{shown}");
        Ok(())
    })
}
