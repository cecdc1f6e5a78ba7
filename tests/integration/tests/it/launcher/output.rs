//! What a blueprint writes comes out of its launcher, every line once; and why it has no node.

use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Launch, binary, eventually_ok, processes_naming};
use nix::libc::O_NONBLOCK;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::relay::Relay;
use super::{SOON, Scene, code, open_to_all};
use crate::fixture::text;

/// A blueprint that counts, says good-bye when it is asked to end, and knows its run.
const COUNTS: &str = "#!/bin/sh
run=$(($(cat \"$DATA_DIR/run\" 2>/dev/null || echo 0)+1))
echo $run >\"$DATA_DIR/run\"
i=0
trap 'echo \"run=$run bye=$i\" >&2; exit 9' TERM
while [ $i -lt 100000 ]; do i=$((i+1)); echo \"run=$run n=$i\"; sleep 0.01; done
";

/// The same, but without a pause.
const FLOODS: &str = "#!/bin/sh
trap 'exit 9' TERM
while :; do echo 'a line that nobody reads, of about sixty letters or a few more'; done
";

/// How long the hub is away; longer than the blueprint waits for a node.
const HUB_AWAY: Duration = Duration::from_secs(13);

impl Scene<'_> {
    fn script(&self, name: &str, text: &str) -> Result<()> {
        std::fs::write(self.path(name), text)?;
        open_to_all(&self.path(name))
    }

    /// Writes a line before the sections of `launcher.toml`.
    fn set(&self, line: &str) -> Result<()> {
        let text = std::fs::read_to_string(self.path("launcher.toml"))?;
        Ok(std::fs::write(self.path("launcher.toml"), format!("{line}\n{text}"))?)
    }
}

/// What the blueprint wrote, out of the launcher's log.
fn lines(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.starts_with("run=")).collect()
}

#[test]
fn every_line_of_a_blueprint_comes_out_of_its_launcher_once_and_before_its_exit_code() -> Result<()> {
    let mut scene = Scene::start()?;
    let relay = Relay::start(&scene.path("relay.sock"), &scene.hub.state().join("registry.sock"))?;
    scene.script("counts", COUNTS)?;
    scene.configure_at(&scene.path("relay.sock"), "counts", "")?;
    let mut launcher = scene.launcher()?.start()?;
    launcher.wait_for_line("run=1 n=50", SOON)?;
    // Its connections break, its hub is killed, and at last the agent with it.
    ensure!(relay.cut() > 0, "nothing was open");
    launcher.wait_for_line("run=1 n=250", SOON)?;
    scene.hub.kill()?;
    launcher.wait_for_line("it is tried again", SOON)?;
    scene.hub.start_again()?;
    launcher.wait_for_line("run=1 n=800", SOON)?;
    scene.agents[0].process()?.kill()?;
    let program = scene.path("counts").display().to_string();
    eventually_ok(SOON, "the end of the blueprint", || {
        let left = processes_naming(&program);
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })?;
    scene.agents[0].run()?;
    launcher.wait_for_line("run=2 n=50", SOON)?;
    launcher.signal(Signal::SIGTERM)?;
    ensure!(code(&mut launcher)? == 9, "{}", launcher.log());

    let log = launcher.log();
    let seen = lines(&log);
    for run in 1..=2 {
        let of_run: Vec<_> = seen.iter().filter(|line| line.starts_with(&format!("run={run} "))).collect();
        let numbers: Vec<u64> =
            of_run.iter().filter_map(|line| line.split_once(" n=")?.1.parse().ok()).collect();
        let last = u64::try_from(numbers.len())?;
        ensure!(numbers == (1..=last).collect::<Vec<_>>(), "run {run}: {numbers:?}");
        // The trap runs between a line and the next, or within one.
        let byes = [last, last + 1].map(|last| format!("run={run} bye={last}"));
        let bye = of_run.iter().filter(|line| byes.contains(&(**line).to_string())).count();
        ensure!(bye == 1 && of_run.len() == numbers.len() + 1, "run {run} ends with {:?}", of_run.last());
    }
    let end = log.find("ended with code 9").context("no end")?;
    ensure!(log.rfind("run=2 ").is_some_and(|line| line < end), "lines behind the end");
    Ok(())
}

#[test]
fn a_manager_that_does_not_read_holds_up_neither_launcher_nor_hub() -> Result<()> {
    let scene = Scene::start()?;
    scene.script("floods", FLOODS)?;
    scene.configure("floods", "")?;
    let pipe = scene.path("pipe");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o600))?;
    // Open, and never read.
    let _reader = std::fs::OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(&pipe)?;
    let shell = Launch::new("sh").args(["-c", "exec \"$0\" run >\"$1\" 2>\"$1\""]);
    let mut launcher = scene.given_to(shell.arg(binary("blueprint-launcher")?).arg(&pipe))?.start()?;
    let begin = Instant::now();
    let state = || -> Result<String> {
        let rows = scene.workloads()?;
        Ok(text(rows.first().context("no workload")?, "/state")?.to_owned())
    };
    eventually_ok(SOON, "a blueprint that floods", || {
        ensure!(["starting", "running"].contains(&state()?.as_str()), "{}", state()?);
        Ok(())
    })?;
    // A second reader gets what the first does not take: the hub and the node are not held up.
    let mut other = scene.hub.command(&["logs", "7/42", "-f"])?.start()?;
    other.wait_for_line("a line that nobody reads", SOON)?;
    launcher.signal(Signal::SIGTERM)?;
    let code = code(&mut launcher)?;
    ensure!(code == 9, "{code} after {:?}: {}", begin.elapsed(), scene.hub.log());
    ensure!(scene.workloads()?.is_empty(), "the workload is left");
    Ok(())
}

#[test]
fn a_blueprint_that_no_node_can_take_says_why_and_ends_after_the_wait() -> Result<()> {
    let mut scene = Scene::start()?;
    scene.configure("example", "limits = { memory_bytes = 1000000000000000 }")?;
    scene.set("unplaced_secs = 12")?;
    let mut launcher = scene.launcher()?.start()?;
    let told = launcher.wait_for_line("7/42 is unplaced: no node that it may run on has enough", SOON)?;
    ensure!(told.contains("MiB of memory"), "{told}");
    // Another reason is told, too.
    scene.agents[0].process()?.kill()?;
    launcher.wait_for_line("7/42 is unplaced: no node that it may run on is connected", SOON)?;
    ensure!(code(&mut launcher)? == 124, "{}", launcher.log());
    ensure!(launcher.log().contains("is given up: it had no node for 12 s"), "{}", launcher.log());
    ensure!(scene.workloads()?.is_empty(), "the workload is left");

    // One that waits for ever takes the first node that comes.
    scene.configure("example", "")?;
    scene.set("unplaced_secs = 0")?;
    let mut launcher = scene.launcher()?.start()?;
    launcher.wait_for_line("7/42 is unplaced: no node that it may run on is connected", SOON)?;
    scene.agents[0].run()?;
    scene.served(1)?;
    launcher.signal(Signal::SIGTERM)?;
    ensure!(code(&mut launcher)? == 0, "{}", launcher.log());
    Ok(())
}

#[test]
fn a_hub_that_was_away_gives_no_blueprint_up() -> Result<()> {
    let mut scene = Scene::start()?;
    scene.agents[0].process()?.kill()?;
    scene.configure("example", "")?;
    scene.set("unplaced_secs = 12")?;
    let mut launcher = scene.launcher()?.start()?;
    launcher.wait_for_line("7/42 is unplaced: no node that it may run on is connected", SOON)?;
    let begin = Instant::now();
    scene.hub.kill()?;
    launcher.wait_for_line("it is tried again", SOON)?;
    std::thread::sleep(HUB_AWAY.saturating_sub(begin.elapsed()));
    // The wait would be over by now. The node comes after the hub, which says first that there is none.
    scene.hub.start_again()?;
    scene.agents[0].run()?;
    scene.served(1)?;
    ensure!(!launcher.log().contains("is given up"), "{}", launcher.log());
    launcher.signal(Signal::SIGTERM)?;
    ensure!(code(&mut launcher)? == 0, "{}", launcher.log());
    Ok(())
}
