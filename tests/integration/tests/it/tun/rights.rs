//! The right to change the network is enough for a device, and nobody holds it once the device stands.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{
    Finished, Host, Lab, Launch, Need, Process, binary, eventually_ok, require, scratch,
};
use tempfile::TempDir;

use super::machine::{Machine, is_possible, run};
use crate::fixture::{CALL, Hub, SOON, TUN, json_of, text};

/// Number of `CAP_NET_ADMIN`.
const NET_ADMIN: u32 = 12;

/// The user nobody.
const NOBODY: u32 = 65_534;

/// Threads of a process that hold the right, or may take it, each with the set that says so.
fn holders(pid: u32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("status");
        // A thread may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(&path) else { continue };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).context("no capabilities")?;
            if u64::from_str_radix(line.trim(), 16)? >> NET_ADMIN & 1 == 1 {
                let name = status.lines().next().unwrap_or_default();
                found.push(format!("{name} {set}"));
            }
        }
    }
    Ok(found)
}

fn ensure_nobody_holds_it(process: &Process) -> Result<()> {
    let holders = holders(process.pid())?;
    ensure!(holders.is_empty(), "{holders:?}\n{}", process.log());
    let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid()))?.count();
    ensure!(threads > 3, "only {threads} threads: it does not run yet");
    let log = process.log();
    ensure!(log.contains("the right to change the network is given up"), "{log}");
    Ok(())
}

#[test]
fn no_thread_of_hub_and_agent_may_change_the_network_once_the_devices_stand() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?, lab.host("two")?];
    for settings in [&TUN[..], &[]] {
        let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), settings)?;
        let mut machine = Machine::start(&hub, &hosts[1], "one")?;
        ensure!(holders(std::process::id())?.len() > 2, "this test would notice");
        ensure_nobody_holds_it(&hub.process)?;
        ensure_nobody_holds_it(machine.agent.process()?)?;
        let status = machine.agent.json(&["status"])?;
        let rights = text(&status, "/data_plane/rights")?;
        ensure!(rights.starts_with("all but") && rights.contains("net_admin"), "{rights}");
        ensure!(text(&status, "/data_plane/device")? == "bp0", "{status}");

        // A machine that joins on the way: its addresses are known only then.
        let folder = scratch("line")?;
        let line = folder.path().join("line");
        std::fs::write(&line, hub.join_line(&[])?)?;
        let launch = hosts[2].launch(&binary("blueprint-agent")?).args(["run", "--state"]);
        let launch = launch.arg(folder.path().join("state")).arg("--set");
        let launch = launch.arg(format!("agent.join_file={}", line.display()));
        let joining = TUN.iter().fold(launch, |launch, setting| launch.args(["--set", setting]));
        let mut joining = joining.start()?;
        joining.wait_for_line("agent runs", SOON)?;
        ensure_nobody_holds_it(&joining)?;
        run(&hosts[2], "ip", "link show dev bp0", "")?;
        ensure!(joining.terminate(SOON)?.success(), "{}", joining.log());
    }
    Ok(())
}

/// Programs and folders that the user nobody may use.
struct Ordinary {
    folder: TempDir,
}

impl Ordinary {
    fn new() -> Result<Self> {
        let folder = scratch("ordinary")?;
        let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
        open(folder.path())?;
        for name in ["blueprint-hub", "blueprint-agent"] {
            let copy = folder.path().join(name);
            std::fs::copy(binary(name)?, &copy)?;
            open(&copy)?;
        }
        for name in ["hub", "agent"] {
            let state = folder.path().join(format!("{name}-state"));
            std::fs::create_dir(&state)?;
            std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o700))?;
            chown(&state, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `blueprint-PROGRAM` as nobody, with these rights and its own state folder.
    fn launch(&self, host: &Host, rights: &str, program: &str, words: &[&str]) -> Launch {
        let launch = host.launch(Path::new("setpriv"));
        let launch = launch.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
        let launch = launch.args(["--clear-groups", &format!("--inh-caps={rights}")]);
        let launch =
            launch.arg(format!("--ambient-caps={rights}")).arg(self.path(&format!("blueprint-{program}")));
        launch.args(words).arg("--state").arg(self.path(&format!("{program}-state")))
    }
}

const ADMIN: &str = "-all,+net_admin";
const NONE: &str = "-all";

/// `run` or `serve` with a device.
fn with_device(launch: Launch) -> Launch {
    TUN.iter().fold(launch, |launch, setting| launch.args(["--set", setting]))
}

fn done(finished: Finished) -> Result<Finished> {
    ensure!(finished.code == Some(0), "{finished:?}");
    Ok(finished)
}

#[test]
fn an_ordinary_user_needs_no_more_than_cap_net_admin() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible() && require(&[Need::Program("setpriv")])) else {
        return Ok(());
    };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let user = Ordinary::new()?;
    let advertise = hosts[0].address().to_string();
    done(user.launch(&hosts[0], NONE, "hub", &["init", "--advertise", &advertise]).run(CALL)?)?;

    let refused = with_device(user.launch(&hosts[0], NONE, "hub", &["serve"])).run(CALL)?;
    ensure!(refused.code == Some(4), "{refused:?}");
    ensure!(refused.stderr.contains("hint: give it CAP_NET_ADMIN"), "{refused:?}");

    let mut hub = with_device(user.launch(&hosts[0], ADMIN, "hub", &["serve"])).start()?;
    hub.wait_for_line("hub is up", SOON)?;
    let made = user.launch(&hosts[0], NONE, "hub", &["token", "create", "--output", "json"]).run(CALL)?;
    let made = json_of(&made)?;
    let line = text(&made, "/join_line")?;
    done(user.launch(&hosts[1], NONE, "agent", &["join", line]).run(CALL)?)?;

    let refused = with_device(user.launch(&hosts[1], NONE, "agent", &["run"])).run(CALL)?;
    ensure!(refused.code == Some(4), "{refused:?}");
    ensure!(refused.stderr.contains("hint: give it CAP_NET_ADMIN"), "{refused:?}");

    let mut agent = with_device(user.launch(&hosts[1], ADMIN, "agent", &["run"])).start()?;
    agent.wait_for_line("agent runs", SOON)?;
    let status = eventually_ok(SOON, "the tunnel", || {
        let finished = user.launch(&hosts[1], NONE, "agent", &["status", "--output", "json"]).run(CALL)?;
        let status = json_of(&finished)?;
        ensure!(status.pointer("/ready") == Some(&true.into()), "{status}");
        Ok(status)
    })?;
    ensure!(text(&status, "/data_plane/rights")? == "none", "{status}");
    for process in [&hub, &agent] {
        ensure_nobody_holds_it(process)?;
        ensure!(process.log().contains("rights=none"), "{}", process.log());
    }
    run(&hosts[1], "ping", "-c 1 -W 5 10.88.0.1", "")?;
    ensure!(agent.terminate(SOON)?.success(), "{}", agent.log());
    ensure!(hub.terminate(SOON)?.success(), "{}", hub.log());
    Ok(())
}
