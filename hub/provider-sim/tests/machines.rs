//! The simulated cloud against stand-ins for agent and service: the provider contract, and what is its own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_sim::{Faults, SimCloud, SimConfig};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{
    DeploymentId, Instance, InstanceKey, InstanceSpec, InstanceState, Provider, ProviderError, Tags,
};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const CANARY: &str = "hub:7443/pin/bpj_canary";

fn stand_in(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins").join(name)
}

fn cloud_in(dir: &Path, agent: &Path, service: &str) -> SimCloud {
    SimCloud::new(SimConfig {
        dir: dir.to_owned(),
        agent_binary: agent.to_owned(),
        service_binary: Some(stand_in(service)),
        faults: Faults::default(),
        regions: 1,
    })
}

struct Sim {
    dir: TempDir,
    cloud: SimCloud,
}

impl Sim {
    fn new() -> Self {
        Self::with(&stand_in("agent"), "service")
    }

    fn with(agent: &Path, service: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cloud = cloud_in(dir.path(), agent, service);
        Self { dir, cloud }
    }

    fn path(&self, name: &str, file: &str) -> PathBuf {
        self.dir.path().join("machines").join(name).join(file)
    }

    fn text(&self, name: &str, file: &str) -> String {
        let path = self.path(name, file);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Waits until the stand-in of the agent runs, and gives its process.
    async fn agent(&self, name: &str) -> Pid {
        pid_in(&self.path(name, "state/pid")).await
    }

    fn service(&self, name: &str) -> Pid {
        Pid::from_raw(self.text(name, "service-1-1.port.pid").trim().parse().unwrap())
    }

    async fn states(&self) -> Vec<(String, InstanceState)> {
        let list = self.cloud.list().await.unwrap();
        list.instances.into_iter().map(|instance| (instance.key.to_string(), instance.state)).collect()
    }

    /// Waits until the machine fails and gives the reason.
    async fn failure(&self, name: &str) -> String {
        eventually(async || {
            self.states().await.into_iter().find_map(|(key, state)| match state {
                InstanceState::Failed { reason } if key == name => Some(reason),
                InstanceState::Failed { .. }
                | InstanceState::Starting
                | InstanceState::Running
                | InstanceState::Stopping
                | InstanceState::Stopped
                | InstanceState::Halted
                | InstanceState::Unfinished => None,
            })
        })
        .await
    }
}

fn key(name: &str) -> InstanceKey {
    name.parse().unwrap()
}

fn spec(name: &str) -> InstanceSpec {
    let user_data =
        format!(r#"{{"join_line":"{CANARY}","services":[{{"blueprint":1,"service":1}}],"name":"{name}"}}"#);
    let tags =
        Tags { hub: HubId::from_bytes([1; 16]), deployment: DeploymentId::from_bytes([2; 10]), attempt: 1 };
    InstanceSpec {
        key: key(name),
        tags: Some(tags),
        plan: "sim-small".to_owned(),
        region: "local".to_owned(),
        spot: false,
        disk_gb: 0,
        arch: Arch::X86_64,
        ttl: None,
        user_data: Secret::new(user_data),
    }
}

async fn eventually<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come about within 10 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn pid_in(path: &Path) -> Pid {
    let read = || std::fs::read_to_string(path).ok()?.trim().parse().ok();
    Pid::from_raw(eventually(async || read()).await)
}

/// True while the process runs. One that ended and was not waited for is a zombie, state Z or X; its command
/// line would not tell, since that is empty for a moment at every `exec` too.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

async fn ends(pid: Pid) {
    eventually(async || (!runs(pid)).then_some(())).await;
}

fn running(name: &str) -> (String, InstanceState) {
    (name.to_owned(), InstanceState::Running)
}

fn chain(error: &ProviderError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[tokio::test]
async fn a_machine_runs_its_service_and_its_agent() {
    let sim = Sim::new();
    let instance = sim.cloud.create(&spec("sim-1")).await.unwrap();
    assert_eq!((instance.state, instance.provider_id.as_str()), (InstanceState::Running, "sim/sim-1"));
    let (agent, service) = (sim.agent("sim-1").await, sim.service("sim-1"));
    assert!(runs(agent) && runs(service));

    let folder = sim.path("sim-1", "");
    let expected = format!(
        "[agent]\nname = \"sim-1\"\njoin_file = \"{0}join-line\"\n\n[observe]\nlisten = \"127.0.0.1:0\"\n\n[[service]]\nblueprint = 1\nservice = 1\n\
         local = \"127.0.0.1:4711\"\ncheck = \"http:/healthz\"\n",
        folder.display()
    );
    assert_eq!(sim.text("sim-1", "agent.toml"), expected);
    assert_eq!(sim.text("sim-1", "join-line"), CANARY);
    assert_eq!(sim.text("sim-1", "user-data.json"), *spec("sim-1").user_data.expose());
    let arguments =
        format!("run --config {}agent.toml --state state --exit-on-stdin-close\n", folder.display());
    assert_eq!(sim.text("sim-1", "state/arguments"), arguments);
    let log = sim.text("sim-1", "service-1-1.log");
    assert!(log.starts_with("--listen 127.0.0.1:0 --port-file ") && log.contains(" --name sim-1 "), "{log}");
}

#[tokio::test]
async fn secrets_stand_only_in_private_files() {
    let sim = Sim::new();
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    let agent = sim.agent("sim-1").await;
    for file in ["user-data.json", "join-line", "agent.toml", "console.log"] {
        let mode = std::fs::metadata(sim.path("sim-1", file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::metadata(sim.path("sim-1", "")).unwrap().permissions().mode() & 0o777, 0o700);
    for file in ["agent.toml", "console.log", "service-1-1.log", "state/arguments", "state/environment"] {
        assert!(!sim.text("sim-1", file).contains("canary"), "{file}");
    }
    let environment = std::fs::read_to_string(format!("/proc/{agent}/environ")).unwrap();
    for variable in environment.split_terminator('\0') {
        let name = variable.split('=').next().unwrap();
        // The shell of the stand-in adds the last ones itself.
        assert!(["PATH", "HOME", "PWD", "OLDPWD", "SHLVL", "_"].contains(&name), "{name}");
    }
}

#[tokio::test]
async fn a_key_that_exists_makes_no_second_machine() {
    let sim = Sim::new();
    let (one, two) = (spec("sim-1"), spec("sim-1"));
    let (first, second) = tokio::join!(sim.cloud.create(&one), sim.cloud.create(&two));
    let agent = sim.agent("sim-1").await;
    assert_eq!(first.unwrap(), second.unwrap());
    sim.cloud.create(&one).await.unwrap();
    assert_eq!(sim.agent("sim-1").await, agent);
    assert_eq!(sim.states().await, [running("sim-1")]);
}

#[tokio::test]
async fn a_machine_that_is_deleted_leaves_nothing() {
    let sim = Sim::new();
    for name in ["sim-1", "sim-2"] {
        sim.cloud.create(&spec(name)).await.unwrap();
    }
    let (agent, service) = (sim.agent("sim-1").await, sim.service("sim-1"));
    sim.cloud.delete("sim/sim-1").await.unwrap();
    assert!(!runs(agent) && !runs(service) && !sim.path("sim-1", "").exists());
    let removed = sim.path("sim-1", "").ancestors().nth(2).map(|dir| dir.join("removed")).unwrap();
    assert_eq!(std::fs::read_dir(&removed).unwrap().count(), 0);
    // A process that was killed while it deleted this one, which has lost its tags already.
    std::fs::create_dir(removed.join("sim-9")).unwrap();
    std::fs::write(removed.join("sim-9/user-data.json"), CANARY).unwrap();
    assert_eq!(sim.states().await, [running("sim-2")]);
    for id in ["sim/sim-1", "sim/never", "sim/../sim-2", "sim/", "sim-2"] {
        sim.cloud.delete(id).await.unwrap();
    }
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    assert_ne!(sim.agent("sim-1").await, agent);
}

#[tokio::test]
async fn no_machine_is_ever_seen_without_its_tags() {
    let sim = Sim::new();
    // What a process that was killed while it made one left.
    let making = sim.dir.path().join("making/sim-1");
    std::fs::create_dir_all(&making).unwrap();
    std::fs::write(making.join("join-line"), "of another").unwrap();
    let own = sim.path("sim-1", "");
    let first_sight = std::thread::Builder::new().spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !own.exists() && Instant::now() < deadline {
            std::hint::spin_loop();
        }
        // In the order in which they are written: the last one is there, or the machine was not made whole.
        ["join-line", "user-data.json", "machine.json"].map(|file| own.join(file).exists())
    });
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    assert_eq!(first_sight.unwrap().join().unwrap(), [true; 3]);
    assert!(sim.text("sim-1", "join-line").contains(CANARY) && !making.exists());
}

#[tokio::test]
async fn a_process_that_hears_no_signal_is_killed_after_its_grace() {
    let sim = Sim::with(&stand_in("stubborn-agent"), "service");
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    let agent = sim.agent("sim-1").await;
    let start = Instant::now();
    let (deleted, seen) = tokio::join!(
        sim.cloud.delete("sim/sim-1"),
        eventually(async || {
            let states = sim.states().await;
            (states == [("sim-1".to_owned(), InstanceState::Stopping)]).then_some(start.elapsed())
        })
    );
    deleted.unwrap();
    assert!(!runs(agent) && seen < Duration::from_secs(3) && start.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn an_agent_that_ends_is_a_failure_with_its_last_words() {
    let sim = Sim::with(Path::new("/bin/cat"), "service");
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    let reason = sim.failure("sim-1").await;
    assert!(reason.starts_with("agent ended (exit status: 1): "), "{reason}");
    assert!(reason.contains("cat"), "{reason}");
}

#[tokio::test]
async fn a_service_that_is_killed_is_a_failure_until_the_machine_boots_again() {
    let sim = Sim::new();
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    let (agent, service) = (sim.agent("sim-1").await, sim.service("sim-1"));
    kill(service, Signal::SIGKILL).unwrap();
    let reason = sim.failure("sim-1").await;
    assert!(reason.starts_with("service 1/1 ended (signal: 9 (SIGKILL)): --listen"), "{reason}");
    let kept = sim.cloud.create(&spec("sim-1")).await.unwrap();
    assert!(matches!(kept.state, InstanceState::Failed { .. }), "{kept:?}");

    std::fs::remove_file(sim.path("sim-1", "state/pid")).unwrap();
    sim.cloud.boot("sim/sim-1").await.unwrap();
    assert_eq!(sim.states().await, [running("sim-1")]);
    assert_ne!(sim.agent("sim-1").await, agent);
    assert!(!runs(agent) && runs(sim.service("sim-1")));
}

#[tokio::test]
async fn a_new_hub_finds_its_machines_stopped_and_boots_them_without_join_line() {
    let sim = Sim::new();
    let created = sim.cloud.create(&spec("sim-1")).await.unwrap();
    let agent = sim.agent("sim-1").await;
    sim.cloud.stop_all().await;
    assert!(!runs(agent) && !runs(sim.service("sim-1")));
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopped)]);
    let Sim { dir, cloud } = sim;
    drop(cloud);

    let cloud = cloud_in(dir.path(), &stand_in("agent"), "service");
    let sim = Sim { dir, cloud };
    let found = sim.cloud.create(&spec("sim-1")).await.unwrap();
    assert_eq!(found, Instance { state: InstanceState::Stopped, ..created.clone() });
    std::fs::remove_file(sim.path("sim-1", "state/pid")).unwrap();
    sim.cloud.boot("sim/sim-1").await.unwrap();
    assert_eq!(sim.cloud.list().await.unwrap().instances, [created]);
    let agent = sim.agent("sim-1").await;
    assert!(!sim.text("sim-1", "agent.toml").contains("join_file"));
    assert!(!sim.path("sim-1", "join-line").exists());
    sim.cloud.boot("sim/sim-1").await.unwrap();
    assert_eq!(sim.agent("sim-1").await, agent);
}

#[tokio::test]
async fn a_machine_is_stopping_while_the_agent_of_an_earlier_hub_ends() {
    let mut sim = Sim::new();
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    let agent = sim.agent("sim-1").await;
    sim.cloud = cloud_in(sim.dir.path(), &stand_in("agent"), "service");
    ends(agent).await;
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopped)]);
    // As the real one does: it has its folder for itself until it has ended its workloads.
    let file = std::fs::File::create(sim.path("sim-1", "state/lock")).unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopping)]);
    drop(held);
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopped)]);
    sim.cloud.boot("sim/sim-1").await.unwrap();
    assert_eq!(sim.states().await, [running("sim-1")]);
}

#[tokio::test]
async fn a_machine_that_is_not_there_does_not_boot() {
    let sim = Sim::new();
    assert_eq!(sim.states().await, []);
    let error = sim.cloud.boot("sim/sim-1").await.unwrap_err();
    assert!(matches!(error, ProviderError::Reject { .. }), "{error}");
    assert_eq!(sim.states().await, []);
}

#[tokio::test]
async fn programs_that_do_not_start_are_named_and_the_key_can_be_used_again() {
    let sim = Sim::with(Path::new("/nowhere/blueprint-agent"), "service");
    let error = chain(&sim.cloud.create(&spec("sim-1")).await.unwrap_err());
    assert_eq!(error, "boot failed: cannot start /nowhere/blueprint-agent");
    ends(sim.service("sim-1")).await;
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopped)]);
    let Sim { dir, cloud } = sim;
    drop(cloud);

    let silent = cloud_in(dir.path(), &stand_in("agent"), "silent-service");
    let error = chain(&silent.create(&spec("sim-1")).await.unwrap_err());
    assert!(
        error.contains("service 1/1 ended before it listened (exit status: 3): no such model"),
        "{error}"
    );

    let cloud = cloud_in(dir.path(), &stand_in("agent"), "service");
    let sim = Sim { dir, cloud };
    assert_eq!(sim.cloud.create(&spec("sim-1")).await.unwrap().state, InstanceState::Running);
}

#[tokio::test]
async fn a_creation_that_is_dropped_shows_in_the_list_and_runs_nothing() {
    let sim = Sim::with(&stand_in("agent"), "mute-service");
    let wanted = spec("sim-1");
    let mut creation = sim.cloud.create(&wanted);
    let pid_file = sim.path("sim-1", "service-1-1.port.pid");
    tokio::select! {
        biased;
        _ = eventually(async || pid_file.exists().then_some(())) => {}
        created = &mut creation => panic!("created before it could be dropped: {created:?}"),
    }
    drop(creation);
    ends(pid_in(&pid_file).await).await;
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopped)]);
    let Sim { dir, cloud } = sim;
    drop(cloud);
    let cloud = cloud_in(dir.path(), &stand_in("agent"), "service");
    assert_eq!(cloud.create(&wanted).await.unwrap().state, InstanceState::Running);
}

#[tokio::test]
async fn a_machine_whose_agent_did_not_join_boots_with_its_join_line_again() {
    let sim = Sim::new();
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    sim.agent("sim-1").await;
    sim.cloud.stop("sim/sim-1").await.unwrap();
    assert_eq!(sim.states().await, [("sim-1".to_owned(), InstanceState::Stopped)]);
    std::fs::remove_file(sim.path("sim-1", "state/identity.json")).unwrap();
    sim.cloud.boot("sim/sim-1").await.unwrap();
    assert!(sim.text("sim-1", "agent.toml").contains("join_file"));
    assert_eq!(sim.text("sim-1", "join-line"), CANARY);
}

#[tokio::test]
async fn faults_lose_answers_make_machines_twice_and_hide_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = |faults: &str| SimConfig {
        dir: dir.path().to_owned(),
        agent_binary: stand_in("agent"),
        service_binary: None,
        faults: faults.parse().unwrap(),
        regions: 1,
    };
    let cloud = SimCloud::new(config("lost=100,doubles=100,quota=2"));
    for _ in 0..2 {
        let error = cloud.create(&spec("sim-1")).await.unwrap_err();
        assert!(matches!(error, ProviderError::Other { .. }), "{error}");
    }
    let quota = cloud.create(&spec("sim-2")).await.unwrap_err();
    assert!(matches!(quota, ProviderError::Quota { limit: Some(2), .. }), "{quota}");
    let listed = cloud.list().await.unwrap().instances;
    let ids: Vec<_> = listed.iter().map(|instance| instance.provider_id.as_str()).collect();
    assert_eq!(ids, ["sim/sim-1", "sim/sim-1~2"]);
    assert!(listed.iter().all(|instance| instance.key == key("sim-1") && instance.tags == spec("x").tags));
    cloud.delete("sim/sim-1").await.unwrap();
    cloud.stop_all().await;
    let late = SimCloud::new(config("late_ms=3600000"));
    assert_eq!(late.list().await.unwrap().instances, []);
    let unsold = InstanceSpec { plan: "sim-huge".to_owned(), ..spec("sim-3") };
    let error = late.create(&unsold).await.unwrap_err();
    assert!(matches!(error, ProviderError::NotSold { .. }), "{error}");
    assert_eq!(late.offers().await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_dropped_cloud_takes_its_processes_with_it() {
    let sim = Sim::new();
    sim.cloud.create(&spec("sim-1")).await.unwrap();
    let (agent, service) = (sim.agent("sim-1").await, sim.service("sim-1"));
    drop(sim.cloud);
    ends(agent).await;
    ends(service).await;
}

/// Not a test: what `a_hub_that_is_killed_takes_its_machines_with_it` starts and kills.
#[tokio::test]
#[ignore = "runs only as a process of another test"]
async fn a_hub_to_be_killed() {
    let Some(dir) = std::env::var_os("SIM_DIR_OF_A_HUB_TO_BE_KILLED") else { return };
    let cloud = cloud_in(Path::new(&dir), &stand_in("agent"), "service");
    cloud.create(&spec("sim-1")).await.unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_hub_that_is_killed_takes_its_machines_with_it() {
    let sim = Sim::new();
    let mut hub = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_hub_to_be_killed", "--ignored"])
        .env("SIM_DIR_OF_A_HUB_TO_BE_KILLED", sim.dir.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("this test binary starts");
    let agent = sim.agent("sim-1").await;
    let service = sim.service("sim-1");
    assert_eq!(hub.try_wait().unwrap(), None);
    assert!(runs(agent) && runs(service));
    hub.kill().await.unwrap();
    ends(agent).await;
    ends(service).await;
}
