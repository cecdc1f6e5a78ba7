//! What was acknowledged is there after a kill at any moment; and the state folder has one owner.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use blueprint_common_types::fill_random;
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{eventually, eventually_ok};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::fixture::{Agent, CALL, Hub, SOON, rows, text};

/// Kills of the hub in one test.
const KILLS: u16 = 5;

/// Services that the agent is told to offer between two kills.
const SERVICES: u16 = 4;

/// Most acknowledged tokens before a kill; the number is random.
const MOST_TOKENS: u32 = 150;

/// Everything that the hub said it keeps.
#[derive(Debug, Default)]
struct Acknowledged {
    join_tokens: BTreeSet<String>,
    access_tokens: BTreeSet<String>,
    nodes: BTreeSet<String>,
    services: BTreeSet<String>,
}

/// Writers beside each other; each notes what was acknowledged, and ends at the first that was not.
struct Writers<'a> {
    hub: &'a Hub<'a>,
    noted: &'a Mutex<Acknowledged>,
    count: AtomicU32,
}

impl Writers<'_> {
    fn note(&self, add: impl FnOnce(&mut Acknowledged)) {
        add(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Makes tokens until the hub is gone.
    fn make(
        &self,
        path: &str,
        body: &Value,
        set: fn(&mut Acknowledged) -> &mut BTreeSet<String>,
    ) -> Result<()> {
        let request = Request::new("POST", path).header("content-type", "application/json");
        let request = request.body(body.to_string());
        while let Ok(response) = self.hub.api(&request) {
            ensure!(response.status == 201, "{}: {}", response.status, response.text());
            let id = text(&response.json()?, "/token/id")?.to_owned();
            self.note(|noted| set(noted).extend([id]));
        }
        Ok(())
    }

    /// Notes the services that the hub shows, until it is gone: what it shows it has stored.
    fn look(&self) -> Result<()> {
        let request = Request::get("/v1/services");
        while let Ok(response) = self.hub.api(&request) {
            let shown = services(&response.json()?)?;
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).services.extend(shown);
        }
        Ok(())
    }
}

fn services(answer: &Value) -> Result<BTreeSet<String>> {
    rows(answer, "/services")?.iter().map(|row| Ok(text(row, "/service")?.to_owned())).collect()
}

fn ids(answer: &Value, list: &str) -> Result<BTreeSet<String>> {
    rows(answer, list)?.iter().map(|row| Ok(text(row, "/id")?.to_owned())).collect()
}

fn random(most: u32) -> Result<u32> {
    let mut bytes = [0; 4];
    fill_random(&mut bytes)?;
    Ok(1 + u32::from_ne_bytes(bytes) % most)
}

/// One life of the hub: writes go on until it is killed in the middle of them.
fn write_and_kill(
    hub: &mut Hub<'static>,
    agent: &mut Agent<'_>,
    round: u16,
    noted: &Mutex<Acknowledged>,
) -> Result<()> {
    let enough = random(MOST_TOKENS)?;
    agent.run()?;
    let newcomer = Agent::join(None, &format!("newcomer-{round}"), &hub.join_line(&[])?)?;
    let pid = Pid::from_raw(i32::try_from(hub.process.pid())?);
    let writers = Writers { hub, noted, count: AtomicU32::new(0) };
    writers.note(|noted| noted.nodes.extend([newcomer.id().to_owned()]));
    let join = json!({ "label": format!("round {round}") });
    let access = json!({ "services": "7/42" });
    let offering: &Agent<'_> = agent;
    std::thread::scope(|scope| {
        let scoped = [
            scope.spawn(|| writers.make("/v1/tokens", &join, |noted| &mut noted.join_tokens)),
            scope.spawn(|| writers.make("/v1/access", &access, |noted| &mut noted.access_tokens)),
            scope.spawn(|| writers.look()),
            scope.spawn(|| offer_all(offering, round)),
        ];
        let reached = eventually(SOON, "enough acknowledged writes", || {
            (writers.count.load(Ordering::Relaxed) > enough).then_some(())
        });
        // The writers end with the hub, so it is killed before anything is asked of them.
        kill(pid, Signal::SIGKILL)?;
        for writer in scoped {
            writer.join().map_err(|_| anyhow!("a writer panicked"))??;
        }
        reached.with_context(|| format!("round {round}, kill after {enough} writes"))
    })?;
    agent.process()?.kill()?;
    hub.process.wait(SOON).map(drop)
}

fn offer_all(agent: &Agent<'_>, round: u16) -> Result<()> {
    for number in 0..SERVICES {
        let service = 100 + round * SERVICES + number;
        // Nobody listens there: an unhealthy target is registered all the same.
        let arguments =
            ["service", "add", &format!("7/{service}"), "--local", &format!("127.0.0.1:{service}")];
        agent.json(&arguments)?;
    }
    Ok(())
}

#[test]
fn everything_acknowledged_is_there_after_kills_at_random_moments() -> Result<()> {
    let mut hub = Hub::start(&["session.heartbeat=1s", "session.target_ttl=1h"])?;
    let mut agent = Agent::join(None, "writer", &hub.join_line(&[])?)?;
    let noted = Mutex::new(Acknowledged::default());
    for round in 0..KILLS {
        write_and_kill(&mut hub, &mut agent, round, &noted)?;
        // The agent is down, so nobody tells the hub again what it has lost.
        hub.start_again()?;
        let noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = ids(&hub.json(&["token", "ls"])?, "/tokens")?;
        assert!(kept.is_superset(&noted.join_tokens), "round {round}");
        let kept = ids(&hub.json(&["access", "ls"])?, "/tokens")?;
        assert!(kept.is_superset(&noted.access_tokens), "round {round}");
        let kept = ids(&hub.json(&["node", "ls"])?, "/nodes")?;
        assert!(kept.is_superset(&noted.nodes), "round {round}");
        let kept = services(&hub.json(&["service", "ls"])?)?;
        assert!(kept.is_superset(&noted.services), "round {round}: {kept:?} of {:?}", noted.services);
    }
    let noted = noted.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(!noted.services.is_empty() && noted.nodes.len() == usize::from(KILLS), "{noted:?}");
    // Also what was registered at the very last moment comes back once the agent does.
    agent.run()?;
    eventually_ok(SOON, "all services of the agent", || {
        let kept = services(&hub.json(&["service", "ls"])?)?;
        ensure!(kept.len() == usize::from(KILLS * SERVICES), "{kept:?}");
        Ok(())
    })
}

#[test]
fn a_second_hub_on_the_same_state_is_refused() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let second = hub.another()?.run(CALL)?;
    assert_eq!(second.code, Some(5), "{}", second.stderr);
    let said = second.stderr.lines().find(|line| line.starts_with("error: "));
    let pid = format!("pid {}", hub.process.pid());
    assert!(said.is_some_and(|line| line.contains("in use") && line.contains(&pid)), "{}", second.stderr);
    // The first one is not disturbed, and its end leaves the folder free.
    assert_eq!(text(&hub.json(&["status"])?, "/proxy")?, format!("http://{}", hub.proxy()));
    hub.kill()?;
    hub.start_again()
}

#[test]
fn state_folders_are_for_their_owner_alone() -> Result<()> {
    let hub = Hub::start(&[])?;
    let mut agent = Agent::join(None, "private", &hub.join_line(&[])?)?;
    agent.run()?;
    agent.json(&["service", "add", "7/42", "--local", "127.0.0.1:1"])?;
    eventually(Duration::from_secs(5), "the hub's database", || {
        hub.state().join("hub.db-wal").exists().then_some(())
    })?;
    for (folder, least) in [(hub.state(), 10), (agent.state(), 3)] {
        let files = check_modes(&folder)?;
        assert!(files >= least, "only {files} files in {}", folder.display());
    }
    Ok(())
}

/// Checks a folder and all in it; gives the number of files.
fn check_modes(folder: &Path) -> Result<usize> {
    let mode = |path: &Path| Ok::<_, anyhow::Error>(std::fs::symlink_metadata(path)?.mode() & 0o7777);
    assert_eq!(mode(folder)?, 0o700, "{}", folder.display());
    let mut files = 0;
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
        let kind = kind?;
        if kind.is_dir() {
            files += check_modes(&path)?;
        } else {
            assert!(kind.is_file() || kind.is_socket(), "{}", path.display());
            assert_eq!(mode(&path)?, 0o600, "{}", path.display());
            files += 1;
        }
    }
    Ok(files)
}
