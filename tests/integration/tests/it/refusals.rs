//! Joins that must not succeed: each has its own line on the machine, in the hub's log and in the audit log.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Finished, Launch, Need, Process, binary, eventually_ok, require, scratch};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::fixture::{Agent, CALL, Hub, SOON, joining, rows, text};

/// Exit codes of the command line.
const DENIED: i32 = 4;
const UNAVAILABLE: i32 = 6;

/// Length of a token's public half, `bpj_` and 16 digits and `_`.
const ID_END: usize = 21;

/// What a machine is told that may not join.
struct Refused {
    code: Option<i32>,
    message: String,
}

/// Tries to join, and checks the form of what the machine is told.
fn refused(launch: Launch, line: &str) -> Result<Refused> {
    let Finished { code, stdout, stderr } = launch.stdin(line).run(CALL)?;
    ensure!(stdout.is_empty(), "a refused join has no result: {stdout}");
    ensure!(stderr.lines().count() == 1, "one line was expected: {stderr}");
    let error: Value = serde_json::from_str(&stderr).with_context(|| stderr.clone())?;
    ensure!(!text(&error, "/error/hint")?.is_empty(), "the next step is missing: {stderr}");
    let token = line.rsplit('/').next().unwrap_or(line);
    ensure!(!stderr.contains(token), "the token is repeated: {stderr}");
    Ok(Refused { code, message: text(&error, "/error/message")?.to_owned() })
}

/// Waits for the two traces that a refused join leaves at the hub.
fn told(hub: &Hub<'_>, logged: &str, audited: &str) -> Result<()> {
    eventually_ok(SOON, "the hub's log of a refused join", || {
        let log = hub.log();
        ensure!(log.lines().any(|line| line.contains("audit") && line.contains(logged)), "{logged:?}: {log}");
        Ok(())
    })?;
    eventually_ok(SOON, "the audit row of a refused join", || {
        let rows = hub.audit()?;
        let found = rows.iter().any(|row| row.starts_with("join.refuse") && row.contains(audited));
        ensure!(found, "{audited:?}: {rows:?}");
        Ok(())
    })
}

/// Joins from this machine into a folder below `folder`.
fn join_into(folder: &Path, name: &str) -> Result<Launch> {
    joining(None, name, &folder.join(name))
}

/// The parts `HOST:PORT`, pin and token of a line.
fn parts(line: &str) -> Result<[&str; 3]> {
    let parts: Vec<&str> = line.split('/').collect();
    parts.try_into().map_err(|parts| anyhow::anyhow!("three parts were expected: {parts:?}"))
}

#[test]
fn a_token_is_good_once_in_time_and_at_its_own_hub() -> Result<()> {
    let hub = Hub::start(&[])?;
    let other = Hub::start(&[])?;
    let folder = scratch("refused")?;
    let mut messages = Vec::new();
    let mut check = |name: &str, line: &str, code: &str| {
        let refused = refused(join_into(folder.path(), name)?, line)?;
        assert_eq!(refused.code, Some(DENIED), "{code}: {}", refused.message);
        messages.push(refused.message);
        told(&hub, code, &format!("{code}: "))
    };

    let line = hub.join_line(&[])?;
    let _joined = Agent::join(None, "first", &line)?;
    check("second", &line, "token_used")?;

    let line = hub.join_line(&["--ttl", "1s"])?;
    eventually_ok(SOON, "the end of a token", || {
        let tokens = hub.json(&["token", "ls"])?;
        let mut states = rows(&tokens, "/tokens")?.iter().filter_map(|token| text(token, "/state").ok());
        ensure!(states.any(|state| state == "expired"), "{tokens}");
        Ok(())
    })?;
    check("late", &line, "token_expired")?;

    let (line, foreign) = (hub.join_line(&[])?, other.join_line(&[])?);
    let ([address, pin, own], [_, other_pin, token]) = (parts(&line)?, parts(&foreign)?);
    check("stranger", &format!("{address}/{pin}/{token}"), "token_unknown")?;
    check("astray", &format!("{address}/{other_pin}/{token}"), "pin_mismatch")?;

    let kinds: BTreeSet<_> = messages.iter().collect();
    assert_eq!(kinds.len(), messages.len(), "each has its own words: {messages:?}");
    // Who guesses at a token that exists learns no more than who guesses at one that does not.
    let [public, secret] = [own.get(..ID_END), token.get(ID_END..)].map(Option::unwrap_or_default);
    let guess = refused(join_into(folder.path(), "guess")?, &format!("{address}/{pin}/{public}{secret}"))?;
    assert_eq!(Some(&guess.message), messages.get(2));
    told(&hub, "token_wrong_secret", "token_wrong_secret: ")?;

    let nodes = hub.json(&["node", "ls"])?;
    assert_eq!(rows(&nodes, "/nodes")?.len(), 1, "only the first has joined: {nodes}");
    // None of it has spoiled the token that was never used here.
    Agent::join(None, "fifth", &line).map(drop)
}

#[test]
fn a_clock_that_is_far_off_is_told_on_both_sides() -> Result<()> {
    if !require(&[Need::Program("faketime")]) {
        return Ok(());
    }
    let hub = Hub::start(&[])?;
    let folder = scratch("clock")?;
    let line = hub.join_line(&[])?;
    for (name, offset) in [("fast", "+1h"), ("slow", "-1h")] {
        let agent = binary("blueprint-agent")?;
        let launch = Launch::new("faketime").args(["-f", offset]).arg(agent);
        let launch = launch.args(["join", "-", "--output", "json", "--name", name, "--state"]);
        let refused = refused(launch.arg(folder.path().join(name)), &line)?;
        assert_eq!(refused.code, Some(DENIED), "{}", refused.message);
        assert!(refused.message.contains("clock"), "{}", refused.message);
        told(&hub, &format!("name={name} reason=\"clock_skew\""), &format!("name \"{name}\""))?;
    }
    let rows = hub.audit()?;
    assert_eq!(rows.iter().filter(|row| row.contains("clock_skew: ")).count(), 2, "{rows:?}");
    // A clock that is only a little off is no obstacle, and the token is still there.
    let agent = binary("blueprint-agent")?;
    let launch = Launch::new("faketime").args(["-f", "-4m"]).arg(agent).args(["join", "-", "--state"]);
    let joined = launch.arg(folder.path().join("near")).stdin(&line).run(CALL)?;
    assert_eq!(joined.code, Some(0), "{}", joined.stderr);
    Ok(())
}

#[test]
fn a_hub_that_is_not_there_is_unavailable() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let folder = scratch("unreachable")?;
    let line = hub.join_line(&[])?;
    hub.kill()?;
    let down = refused(join_into(folder.path(), "early")?, &line)?;
    assert_eq!(down.code, Some(UNAVAILABLE), "{}", down.message);
    assert!(down.message.contains("cannot connect to 127.0.0.1:"), "{}", down.message);

    let [_, pin, token] = parts(&line)?;
    let nowhere = format!("no-such-hub.invalid:7443/{pin}/{token}");
    let lost = refused(join_into(folder.path(), "lost")?, &nowhere)?;
    assert_eq!(lost.code, Some(UNAVAILABLE), "{}", lost.message);
    assert!(lost.message.contains("cannot resolve no-such-hub.invalid"), "{}", lost.message);

    // The failed attempt has spent nothing: the same line works once the hub is back.
    hub.start_again()?;
    Agent::join(None, "early", &line).map(drop)
}

/// An agent that waits for its line at a pipe.
struct Waiting {
    process: Process,
    pipe: File,
}

impl Waiting {
    fn start(folder: &Path, number: u32) -> Result<Self> {
        let name = format!("agent-{number}");
        let path = folder.join(format!("{name}.line"));
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let launch = Launch::new(binary("blueprint-agent")?).args(["join", "--name", &name]);
        let launch = launch.args(["--output", "json", "--line-file"]).arg(&path);
        let process = launch.arg("--state").arg(folder.join(&name)).start()?;
        // Without a reader there is nothing to open for writing.
        let pipe = eventually_ok(Duration::from_secs(30), "an agent that waits for its line", || {
            let mut options = OpenOptions::new();
            Ok(options.write(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path)?)
        })?;
        Ok(Self { process, pipe })
    }
}

#[test]
fn of_a_hundred_joins_at_once_with_one_token_exactly_one_succeeds() -> Result<()> {
    let hub = Hub::start(&[])?;
    let folder = scratch("hundred")?;
    let line = hub.join_line(&[])?;
    let mut waiting =
        (0..100).map(|number| Waiting::start(folder.path(), number)).collect::<Result<Vec<_>>>()?;
    for agent in &mut waiting {
        agent.pipe.write_all(line.as_bytes())?;
    }
    // The end of the pipe is what they wait for, so all of them go at once.
    let mut processes: Vec<Process> = waiting.into_iter().map(|agent| agent.process).collect();
    let (mut joined, mut denied) = (0, 0);
    for process in &mut processes {
        match process.wait(Duration::from_secs(40))?.code() {
            Some(0) => joined += 1,
            Some(DENIED) => {
                assert!(process.log().contains("used already"), "{}", process.log());
                denied += 1;
            }
            // The hub takes only so many at once; a machine that came too late may try again.
            Some(UNAVAILABLE) => {}
            code => panic!("exit code {code:?}: {}", process.log()),
        }
    }
    assert_eq!(joined, 1);
    let nodes = hub.json(&["node", "ls"])?;
    assert_eq!(rows(&nodes, "/nodes")?.len(), 1, "{nodes}");
    let audit = hub.audit()?;
    let rows = |kind: &str| audit.iter().filter(|row| row.starts_with(kind)).count();
    assert_eq!((rows("join.accept"), rows("join.refuse")), (1, denied));
    Ok(())
}
