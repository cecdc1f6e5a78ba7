//! What agents and keepers hold at rest: not what their start needed, and they go on.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::eventually_ok;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::is_possible;
use super::rig::Node;
use crate::fixture::{CALL, Hub, SOON};

/// Which part of the most memory that it ever had a keeper may have of its program at rest: a debug build had 12 of 16 MB before
/// and 2 after (2026-11), a release build less. What it runs then is a few pages, and each comes with fifteen around it.
const KEEPER_PART: u64 = 4;

/// The same of an agent, right after it gave back: what it works with comes again.
const AGENT_PART: u64 = 3;

/// Says that it is there, and more when it is asked.
const SAYS: [&str; 4] = ["trap 'echo later' USR1", "echo up", "while :; do sleep 0.1", "done"];

/// What a process has in its memory of the file that it runs, as it is in the file, in KiB.
fn program_kib(process: &str) -> Result<u64> {
    let program = std::fs::read_link(format!("/proc/{process}/exe")).context("it is gone")?;
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let kib = |line: &str| line.trim().trim_end_matches(" kB").parse::<u64>();
    let (mut is_program, mut sum) = (false, 0u64);
    for line in maps.lines() {
        match line.split_once(':') {
            Some(("Rss", text)) if is_program => sum += kib(text)?,
            Some(("Anonymous", text)) if is_program => sum -= kib(text)?,
            Some((name, _)) if name.contains('-') => is_program = Path::new(tail(line)) == program,
            Some(_) | None => {}
        }
    }
    Ok(sum)
}

/// The path at the end of the first line of a mapping.
fn tail(line: &str) -> &str {
    line.find('/').and_then(|begin| line.get(begin..)).unwrap_or_default()
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(process: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn an_agent_and_its_keepers_give_back_what_their_start_needed_and_go_on() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let mut node = Node::start_in_memory(&hub, "one")?;
    let program = node.script("says", &SAYS)?;
    hub.json(&["workload", "run", "7/42", "--path", &program, "--test-mode", "--wait", "20s"])?;
    let shown = hub.json(&["workload", "show", "7/42"])?;
    let pid = shown.get("pid").and_then(serde_json::Value::as_i64).context("no pid")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let keeper = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("no parent")?.trim();
    let agent = node.agent.process()?.pid().to_string();
    // The agent's least: what it works with comes again within seconds.
    let mut least = u64::MAX;
    eventually_ok(SOON, "a keeper at rest, and an agent that gave back", || {
        least = least.min(program_kib(&agent)?);
        let peak = peak_kib(&agent)?;
        ensure!(least <= peak / AGENT_PART, "an agent had {least} KiB of its program, and {peak} KiB in all");
        let (held, peak) = (program_kib(keeper)?, peak_kib(keeper)?);
        ensure!(held <= peak / KEEPER_PART, "it has {held} KiB of its program, and had {peak} KiB in all");
        Ok(())
    })?;

    // Both go on: what it writes then is kept and read, and the workload is taken back.
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGUSR1)?;
    eventually_ok(SOON, "the last line", || {
        let said = hub.command(&["logs", "7/42"])?.run(CALL)?.stdout;
        ensure!(said.trim_end().ends_with("later"), "{said}");
        Ok(())
    })?;
    hub.json(&["workload", "rm", "7/42"])?;
    eventually_ok(SOON, "the end of the keeper", || {
        ensure!(!Path::new("/proc").join(keeper).exists(), "it is there");
        Ok(())
    })
}
