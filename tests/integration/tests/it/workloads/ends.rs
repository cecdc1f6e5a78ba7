//! What is left of workloads: nothing, however they, their keepers and their agents end.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{eventually_ok, processes_naming};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::is_possible;
use super::rig::Node;
use crate::fixture::{Hub, SOON, text};

/// Any user without an entry in the system's list.
const USER: u32 = 59_142;

/// Processes that leave the group and the session of a workload, and that no shell waits for.
const WANDERERS: [&str; 3] = [
    "setsid sleep \"$MARK\" &",
    "(setsid setsid sh -c 'sleep \"$MARK\" & sleep \"$MARK\"' &)",
    "sleep \"$MARK\"",
];

/// How many they are: `setsid` becomes what it starts.
const COUNT: usize = 4;

/// Runs one whose processes carry this mark, and waits for them.
fn wander(hub: &Hub<'_>, node: &Node<'_>, service: &str, mark: &str) -> Result<String> {
    let program = node.script("wander", &WANDERERS)?;
    let variable = format!("MARK={mark}");
    hub.json(&["workload", "run", service, "--path", &program, "--test-mode", "--env", &variable])?;
    let sleeping = format!("sleep {mark}");
    eventually_ok(SOON, "the processes of the workload", || {
        let running = processes_naming(&sleeping).len();
        ensure!(running >= COUNT, "{running} processes: {}", hub.json(&["workload", "show", service])?);
        Ok(())
    })?;
    Ok(sleeping)
}

fn wait_gone(sleeping: &str) -> Result<()> {
    eventually_ok(SOON, "the end of all of them", || {
        let left = processes_naming(sleeping);
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
}

/// A number of seconds that names this test's processes.
fn mark(part: u32) -> String {
    format!("600.{}{part}", std::process::id())
}

/// Number of a workload's own process.
fn pid_of(hub: &Hub<'_>, service: &str) -> Result<Pid> {
    let shown = hub.json(&["workload", "show", service])?;
    let pid = shown.get("pid").and_then(serde_json::Value::as_i64).context("no pid")?;
    Ok(Pid::from_raw(i32::try_from(pid)?))
}

fn what_wanders_ends(hub: &Hub<'_>, node: &mut Node<'_>, part: u32) -> Result<()> {
    // Taken back.
    let sleeping = wander(hub, node, "7/42", &mark(part))?;
    hub.json(&["workload", "rm", "7/42"])?;
    wait_gone(&sleeping)?;

    // Its own process ends; what it left ends with it, and it is started anew.
    let sleeping = wander(hub, node, "7/43", &mark(part + 1))?;
    let before = processes_naming(&sleeping);
    kill(pid_of(hub, "7/43")?, Signal::SIGKILL)?;
    eventually_ok(SOON, "others in their place", || {
        let now = processes_naming(&sleeping);
        ensure!(now.len() >= COUNT && now.iter().all(|pid| !before.contains(pid)), "{before:?} {now:?}");
        let shown = hub.json(&["workload", "show", "7/43"])?;
        ensure!(text(&shown, "/reason")?.contains("signal 9") || shown.get("restarts") == Some(&1.into()));
        Ok(())
    })?;

    // The agent is killed and stays away.
    node.agent.process()?.kill()?;
    wait_gone(&sleeping)?;

    // The next one starts it, once.
    node.agent.run()?;
    eventually_ok(SOON, "those of the next agent", || {
        let running = processes_naming(&sleeping).len();
        ensure!(running >= COUNT, "{running} processes");
        Ok(())
    })?;
    hub.json(&["workload", "rm", "7/43"])?;
    wait_gone(&sleeping)
}

#[test]
fn what_left_the_group_of_a_workload_ends_with_it_and_with_its_agent() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let mut node = Node::start(&hub, None, "one")?;
    what_wanders_ends(&hub, &mut node, 10)
}

#[test]
fn what_left_the_group_ends_under_an_agent_that_is_an_ordinary_user_too() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let mut node = Node::start_as(&hub, USER, "one")?;
    what_wanders_ends(&hub, &mut node, 30)
}

#[test]
fn a_keeper_that_is_killed_leaves_nothing_either() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let sleeping = wander(&hub, &node, "7/42", &mark(50))?;
    let before = processes_naming(&sleeping);
    let pid = pid_of(&hub, "7/42")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no parent")?;
    kill(Pid::from_raw(keeper.trim().parse()?), Signal::SIGKILL)?;
    eventually_ok(SOON, "others in their place", || {
        let now = processes_naming(&sleeping);
        ensure!(now.len() >= COUNT && now.iter().all(|pid| !before.contains(pid)), "{before:?} {now:?}");
        Ok(())
    })?;
    hub.json(&["workload", "rm", "7/42"])?;
    wait_gone(&sleeping)
}

/// What a workload whose user is the agent's, too, tries on its neighbour, its keeper and its agent.
const TRIES: [&str; 7] = [
    "try() { if \"$@\" >/dev/null 2>&1; then touch \"$DATA_DIR/did-$N\"; else touch \"$DATA_DIR/no-$N\"; fi; }",
    "N=agent; try kill -0 \"$AGENT\"",
    "N=keeper; try kill -0 \"$PPID\"",
    "N=neighbour; try kill -9 \"$NEIGHBOUR\"",
    "N=abstract; try python3 -c 'import socket,sys; socket.socket(socket.AF_UNIX).connect(chr(0)+sys.argv[1])' \"$NAME\"",
    "sleep 600 & N=own; try kill -9 $!",
    "sleep 600",
];

#[test]
fn a_blueprint_of_an_ordinary_user_signals_neither_its_neighbours_nor_its_agent() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let mut node = Node::start_as(&hub, USER, "one")?;
    let sleeping = wander(&hub, &node, "7/42", &mark(60))?;
    let before = processes_naming(&sleeping);
    let name = format!("blueprint-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    let _listener = UnixListener::bind_addr(&address)?;
    let variables = [
        format!("AGENT={}", node.agent.process()?.pid()),
        format!("NEIGHBOUR={}", pid_of(&hub, "7/42")?),
        format!("NAME={name}"),
    ];
    let program = node.script("tries", &TRIES)?;
    let mut arguments = vec!["workload", "run", "7/43", "--path", &program, "--test-mode"];
    for variable in &variables {
        arguments.extend(["--env", variable]);
    }
    hub.json(&arguments)?;
    let data = node.folder("data/data/svc-7-43")?.join("blueprint-7-service");
    eventually_ok(SOON, "the tries", || {
        let entries = std::fs::read_dir(&data)?.flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        ensure!(names == ["did-own", "no-abstract", "no-agent", "no-keeper", "no-neighbour"], "{names:?}");
        Ok(())
    })?;
    ensure!(processes_naming(&sleeping) == before, "the neighbour was ended");
    Ok(())
}
