//! What workloads write, on the operator's terminal: every line once, whatever is killed meanwhile, and no secret.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Process, eventually_ok, processes_naming};
use serde_json::Value;

use super::is_possible;
use super::rig::Node;
use crate::fixture::{CALL, Hub, SOON, text};

/// A secret of the workload, which it writes with every line.
const CANARY: &str = "canary-7f3a/swordfish";

/// A workload that counts, says good-bye when it is asked to end, and knows its run.
const COUNTS: [&str; 9] = [
    "run=$(cat \"$DATA_DIR/run\" 2>/dev/null || echo 0)",
    "run=$((run+1))",
    "echo $run > \"$DATA_DIR/run\"",
    "i=0",
    "trap 'echo \"run=$run bye=$i $CANARY\" >&2; exit 0' TERM",
    "while [ $i -lt 5000 ]; do",
    "echo \"run=$run n=$((i+1)) token $CANARY.\"",
    "i=$((i+1)); sleep 0.01",
    "done",
];

/// The lines of a follower that prints JSON, and of what it says beside them nothing.
fn lines(log: &str) -> Vec<Value> {
    // The last may not be whole yet.
    log.lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn wait_for(follower: &mut Process, what: &str) -> Result<()> {
    follower.wait_for_line(what, SOON).map(drop)
}

/// Numbers of a run, in the order in which they came.
fn numbers(lines: &[Value], run: u32) -> Result<Vec<u64>> {
    let begin = format!("run={run} n=");
    let texts = lines.iter().map(|line| text(line, "/text")).collect::<Result<Vec<_>>>()?;
    let all = texts.iter().filter_map(|text| text.strip_prefix(&begin)?.split(' ').next()?.parse().ok());
    Ok(all.collect())
}

/// Whether any file below a folder holds the secret.
fn holds_canary(folder: &Path) -> Result<bool> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_found = if path.is_dir() {
            holds_canary(&path)?
        } else {
            let bytes = std::fs::read(&path)?;
            bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
        };
        if is_found {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_follower_misses_no_line_while_hub_and_agent_are_killed_and_sees_no_secret() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let mut hub = Hub::start(&[])?;
    let mut node = Node::start(&hub, None, "one")?;
    let program = node.script("counts", &COUNTS)?;
    let variable = format!("CANARY={CANARY}");
    hub.json(&[
        "workload",
        "run",
        "7/42",
        "--path",
        &program,
        "--test-mode",
        "--env",
        &variable,
        "--wait",
        "20s",
    ])?;
    let mut follower = hub.command(&["logs", "7/42", "-f", "--output", "json"])?.start()?;

    // The hub is killed, and comes back.
    wait_for(&mut follower, "run=1 n=50 ")?;
    hub.kill()?;
    wait_for(&mut follower, "it goes on behind the last line")?;
    hub.start_again()?;
    wait_for(&mut follower, "run=1 n=400 ")?;

    // The agent is killed: what the workload says at its end is written when nobody but its keeper is there.
    node.agent.process()?.kill()?;
    eventually_ok(SOON, "the end of the workload", || {
        let left = processes_naming(&program);
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })?;
    node.agent.run()?;
    wait_for(&mut follower, "run=2 n=50 ")?;

    // Both at once.
    hub.kill()?;
    node.agent.process()?.kill()?;
    eventually_ok(SOON, "the end of the workload", || {
        let left = processes_naming(&program);
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })?;
    node.agent.run()?;
    hub.start_again()?;
    wait_for(&mut follower, "run=3 n=100 ")?;
    follower.kill()?;

    let seen = lines(&follower.log());
    let seqs: Vec<u64> = seen.iter().filter_map(|line| line.get("seq")?.as_u64()).collect();
    let expected: Vec<u64> = (1..=u64::try_from(seqs.len())?).collect();
    ensure!(seqs == expected, "a line is missing or came twice: {seqs:?}");
    for run in 1..=3 {
        let numbers = numbers(&seen, run)?;
        let last = u64::try_from(numbers.len())?;
        ensure!(numbers == (1..=last).collect::<Vec<_>>(), "run {run}: {numbers:?}");
        if run < 3 {
            let byes: BTreeSet<_> =
                [last, last - 1].map(|last| format!("run={run} bye={last} [redacted]")).into();
            let bye = seen.iter().find(|line| text(line, "/text").is_ok_and(|text| byes.contains(text)));
            let bye = bye.with_context(|| format!("run {run} did not say good-bye after {last}"))?;
            ensure!(text(bye, "/stream")? == "stderr" && bye["level"].is_null(), "{bye}");
        }
    }
    let first = seen.first().context("no line")?;
    ensure!(text(first, "/text")? == "run=1 n=1 token [redacted].", "{first}");
    ensure!(text(first, "/node")? == "one" && text(first, "/service")? == "7/42", "{first}");
    ensure!(text(first, "/stream")? == "stdout" && text(first, "/level")? == "info", "{first}");

    // Nowhere is the secret: on the terminal, in a log, on the disk of the node.
    ensure!(!follower.log().contains(CANARY), "the follower shows the secret");
    ensure!(!hub.log().contains(CANARY) && !node.agent.log().contains(CANARY), "a log shows the secret");
    ensure!(!holds_canary(&node.path("data/logs"))?, "the node keeps the secret");
    Ok(())
}

/// What `logs` prints for people.
fn shown(hub: &Hub<'_>, options: &[&str]) -> Result<Vec<String>> {
    let finished = hub.command(&[&["logs"], options].concat())?.run(CALL)?;
    ensure!(finished.code == Some(0), "{:?}: {}", finished.code, finished.stderr);
    Ok(finished.stdout.lines().map(str::to_owned).collect())
}

#[test]
fn lines_are_found_by_number_time_level_and_text_and_what_failed_is_shown() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let mut node = Node::start(&hub, None, "one")?;
    let script = [
        "for i in $(seq 1 100); do echo \"line $i\"; done",
        // Two pipes have no order among them.
        "sleep 0.5",
        "printf 'WARN slow\\n[error] it broke: %s\\n' \"$CANARY\" >&2",
        "printf '\\033[2Jhalf a line'",
        "exit 3",
    ];
    let program = node.script("fails", &script)?;
    let variable = format!("CANARY={CANARY}");
    let run = ["workload", "run", "7/42", "--path", &program, "--test-mode", "--env", &variable];
    hub.json(&[&run[..], &["--restart", "never"]].concat())?;
    let ended = eventually_ok(SOON, "the end of the workload", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(["ended", "failed"].contains(&text(&shown, "/state")?), "{shown}");
        Ok(shown)
    })?;
    ensure!(ended["exit_code"] == 3, "{ended}");
    let last = ended["last_lines"].to_string();
    ensure!(last.contains("it broke: [redacted]") && last.contains("line 100"), "{ended}");
    ensure!(!ended["reason"].to_string().contains(CANARY), "{ended}");

    let all = shown(&hub, &["7/42"])?;
    ensure!(all.len() == 103, "{all:?}");
    ensure!(all.iter().any(|line| line.ends_with(" one stdout info  \u{fffd}[2Jhalf a line")), "{all:?}");
    let tail = shown(&hub, &["7/42", "-n", "2", "--grep", "line 1"])?;
    ensure!(tail.len() == 2 && tail.iter().all(|line| line.contains("line 1")), "{tail:?}");
    let bad = shown(&hub, &["7/42", "--level", "warn"])?;
    ensure!(bad.len() == 2 && bad.iter().any(|line| line.contains("stderr error")), "{bad:?}");
    ensure!(shown(&hub, &["7/42", "--since", "1h"])?.len() == 103);
    ensure!(shown(&hub, &["7/42", "--since", "2999-01-01T00:00:00Z"])?.is_empty());

    // What one wrote that is gone is on its node for a while.
    hub.json(&["workload", "rm", "7/42"])?;
    let missing = hub.command(&["logs", "7/42"])?.run(CALL)?;
    ensure!(missing.code == Some(3) && missing.stderr.contains("--node"), "{}", missing.stderr);
    ensure!(shown(&hub, &["7/42", "--node", "one", "-n", "5"])?.len() == 5);
    for (options, code) in [(["--level", "loud"], 2), (["--since", "yesterday"], 2), (["--node", "two"], 3)] {
        let refused = hub.command(&[&["logs", "7/42"], &options[..]].concat())?.run(CALL)?;
        ensure!(refused.code == Some(code), "{options:?}: {:?} {}", refused.code, refused.stderr);
    }
    node.agent.process()?.kill()?;
    eventually_ok(SOON, "that the node is away", || {
        let away = hub.command(&["logs", "7/42", "--node", "one"])?.run(CALL)?;
        ensure!(away.code == Some(6) && away.stderr.contains("not connected"), "{}", away.stderr);
        Ok(())
    })
}

/// A workload that writes numbered lines of a name.
fn writes(node: &Node<'_>, name: &str) -> Result<String> {
    let line = format!("while :; do i=$((i+1)); echo \"{name} n=$i\"; sleep 0.02; done");
    node.script(name, &["i=0", &line])
}

/// Numbers of the lines of a name, in the order in which they came.
fn of_name(lines: &[Value], name: &str) -> Vec<u64> {
    let begin = format!("{name} n=");
    let number = |line: &Value| line["text"].as_str()?.strip_prefix(&begin)?.parse().ok();
    lines.iter().filter_map(number).collect()
}

#[test]
fn a_follower_misses_no_line_of_the_next_version_and_a_cursor_goes_on_behind_its_line() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let (old, next) = (writes(&node, "old")?, writes(&node, "next")?);
    let small = ["--cpu-millis", "500", "--memory-bytes", "268435456", "--wait", "20s"];
    hub.json(&[&["workload", "run", "7/42", "--path", &old, "--test-mode"][..], &small].concat())?;
    let mut follower = hub.command(&["logs", "7/42", "-f", "--output", "json"])?.start()?;
    wait_for(&mut follower, "old n=20\"")?;

    // Both versions write for seconds before the next one alone serves.
    let update = ["update", "7/42", "--path", &next, "--health-time", "3s", "--pause", "2s"];
    hub.json(&update)?;
    let beside = eventually_ok(SOON, "lines of the next version", || {
        let beside = shown(&hub, &["7/42", "--other"])?;
        ensure!(beside.iter().any(|line| line.ends_with(" next n=5")), "{beside:?}");
        Ok(beside)
    })?;
    ensure!(!beside.iter().any(|line| line.contains(" old n=")), "{beside:?}");
    ensure!(shown(&hub, &["7/42", "-n", "1"])?.iter().all(|line| line.contains(" old n=")), "who serves");
    wait_for(&mut follower, "next n=300\"")?;
    follower.kill()?;

    let seen = lines(&follower.log());
    for name in ["old", "next"] {
        let numbers = of_name(&seen, name);
        ensure!(
            numbers.len() >= 20 && numbers.iter().copied().eq((1..).take(numbers.len())),
            "{name}: {numbers:?}"
        );
    }
    ensure!(shown(&hub, &["7/42", "--other"])?.iter().any(|line| line.ends_with(" old n=1")), "the old one");

    let at = seen.iter().find(|line| line["text"] == "next n=100").context("no such line")?;
    let after = shown(&hub, &["7/42", "--after", text(at, "/cursor")?])?;
    ensure!(after.first().is_some_and(|line| line.ends_with(" next n=101")), "{:?}", after.first());
    let refused = hub.command(&["logs", "7/42", "--after", "x"])?.run(CALL)?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("--after"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn lines_of_the_version_before_a_recreate_are_told_from_those_of_the_next_one() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let (old, next) = (writes(&node, "old")?, writes(&node, "next")?);
    let broken = node.script("broken", &["echo broken n=1", "exit 3"])?;
    hub.json(&["workload", "run", "7/42", "--path", &old, "--test-mode", "--wait", "20s"])?;
    let none = hub.command(&["logs", "7/42", "--other"])?.run(CALL)?;
    ensure!(
        none.stdout.is_empty() && none.stderr.contains("no such lines of another version"),
        "{}",
        none.stderr
    );
    let update =
        ["update", "7/42", "--strategy", "recreate", "--health-time", "1s", "--wait", "60s", "--path"];
    hub.json(&[&update[..], &[&next]].concat())?;
    let has_all = |of: &[&str], wanted: &str, other: &str| {
        eventually_ok(SOON, "the lines of one version", || {
            let lines = shown(&hub, of)?;
            ensure!(lines.iter().any(|line| line.contains(&format!(" {wanted} n=1"))), "{lines:?}");
            ensure!(!lines.iter().any(|line| line.contains(&format!(" {other} n="))), "{lines:?}");
            Ok(())
        })
    };
    has_all(&["7/42", "--other"], "old", "next")?;
    let last = shown(&hub, &["7/42", "--other", "-n", "1"])?;
    ensure!(last.len() == 1 && last.iter().all(|line| line.contains(" old n=")), "{last:?}");
    // Taken back: the other one is the one that failed.
    let failed = hub.command(&[&update[..], &[&broken]].concat())?.run(std::time::Duration::from_secs(90))?;
    ensure!(failed.code != Some(0), "{}", failed.stdout);
    has_all(&["7/42", "--other"], "broken", "next")
}

#[test]
fn a_flood_is_cut_counted_and_holds_up_nobody_else() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let node = Node::start(&hub, None, "one")?;
    let flood = node.script("flood", &["timeout 3 yes \"all of it $CANARY\""])?;
    let calm = node.script("calm", &["while true; do echo calm; sleep 0.05; done"])?;
    let variable = format!("CANARY={CANARY}");
    let run = ["workload", "run", "7/42", "--path", &flood, "--test-mode", "--env", &variable];
    hub.json(&[&run[..], &["--restart", "never"]].concat())?;
    hub.json(&["workload", "run", "7/43", "--path", &calm, "--test-mode", "--wait", "20s"])?;
    // What it floods stays with it: another one is followed meanwhile.
    let mut follower = hub.command(&["logs", "7/43", "-f"])?.start()?;
    follower.wait_for_line("calm", CALL)?;
    eventually_ok(SOON, "the end of the flood", || {
        let shown = hub.json(&["workload", "show", "7/42"])?;
        ensure!(["ended", "failed"].contains(&text(&shown, "/state")?), "{shown}");
        Ok(())
    })?;
    let all = shown(&hub, &["7/42"])?;
    // Ten seconds' worth at once, and what the three seconds give.
    ensure!((10_000..=15_000).contains(&all.len()), "{} lines", all.len());
    let last = all.last().context("no line")?;
    ensure!(last.contains(" node ") && last.contains("lines left out"), "{last}");
    ensure!(
        !all.join("\n").contains(CANARY) && !holds_canary(&node.path("data/logs"))?,
        "the secret is shown"
    );
    Ok(())
}
