//! Machines that are containers of a real Docker engine: the contract of providers, and a hub with a real agent.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests; JSON is indexed by name"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_common_engine::Place;
use blueprint_common_types::{HubId, Secret};
use blueprint_hub_provider_docker::{AgentProgram, Docker as Provider, DockerConfig, EngineHost, Patience};
use blueprint_hub_provision_core::resource::Arch;
use blueprint_hub_provision_core::{InstanceSpec, Provider as _};
use blueprint_tests_cloud::FakeCloud;
use blueprint_tests_cloud::contract::{self, Lab as ContractLab, LeftOut};
use blueprint_tests_support::{Host, Lab, Launch, binary, eventually_ok, scratch};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::containers::archive;
use crate::containers::docker::Docker;
use crate::fixture::{CALL, Hub, SOON, json_of, rows, text};

/// Longest wait for a container with a debug build of the agent, on a busy host.
const SETTLED: Duration = Duration::from_secs(90);

/// What an engine has: containers, volumes, and networks that it did not make for itself.
fn left(docker: &Docker) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let containers = docker.raw("GET", "/containers/json?all=1")?;
    left.extend(rows(&containers, "")?.iter().map(|row| format!("container {}", row["Names"])));
    let volumes = docker.raw("GET", "/volumes")?;
    let volumes = volumes["Volumes"].as_array().cloned().unwrap_or_default();
    left.extend(volumes.iter().map(|row| format!("volume {}", row["Name"])));
    let networks = docker.raw("GET", "/networks")?;
    let own = ["bridge", "host", "none"];
    let names = rows(&networks, "")?.iter().filter_map(|row| row["Name"].as_str());
    left.extend(names.filter(|name| !own.contains(name)).map(|name| format!("network {name}")));
    let images = docker.raw("GET", "/images/json")?;
    let tags = rows(&images, "")?.iter().map(|row| row["RepoTags"].to_string());
    left.extend(tags.filter(|tags| tags.contains("blueprint-machine")).map(|tags| format!("image {tags}")));
    Ok(left)
}

/// A real engine, empty for each promise.
struct Engine {
    provider: Provider,
}

fn owner() -> HubId {
    HubId::from_bytes([3; 16])
}

/// Why promises about faults are not tried here.
const ELSEWHERE: &str = "a real engine does nothing wrong when it is told to: the provider keeps this before a fake one in tests/cloud";

impl ContractLab for Engine {
    fn provider(&self) -> &dyn blueprint_hub_provision_core::Provider {
        &self.provider
    }

    fn order(&self, number: u32) -> InstanceSpec {
        contract::order(owner(), number, ("docker-small", "here"), contract::join_document(number))
    }

    fn wrong_orders(&self) -> Vec<InstanceSpec> {
        vec![
            InstanceSpec { plan: "docker-none".to_owned(), ..self.order(1) },
            InstanceSpec { region: "mars".to_owned(), ..self.order(1) },
            InstanceSpec { user_data: Secret::new("canary".to_owned()), ..self.order(1) },
        ]
    }

    fn absent(&self) -> String {
        format!("here/{}", "f".repeat(64))
    }

    fn secrets(&self) -> Vec<String> {
        vec!["canary".to_owned()]
    }

    fn fake(&self) -> Option<&FakeCloud> {
        None
    }

    fn left_out(&self) -> &'static [LeftOut] {
        &[
            LeftOut { promises: contract::OF_FAKES, reason: ELSEWHERE },
            LeftOut { promises: &[contract::OF_SHUT_FAKES], reason: ELSEWHERE },
        ]
    }

    async fn shut(&mut self) {}

    fn settled_after(&self) -> Duration {
        Duration::from_secs(2)
    }
}

/// A program that needs nothing but the kernel, and waits for its end.
fn stand_in(docker: &Docker) -> Result<AgentProgram> {
    let folder = docker.folder("agent")?;
    let (source, path) = (folder.join("agent.c"), folder.join("agent"));
    std::fs::write(
        &source,
        "#include <signal.h>\n#include <unistd.h>\nstatic void end(int n) { _exit(n - n); }\n\
         int main(void) { signal(SIGTERM, end); for (;;) pause(); }\n",
    )?;
    let made = Launch::new("cc").args(["-static", "-O1", "-o"]).arg(&path).arg(&source).run(SETTLED)?;
    ensure!(made.code == Some(0), "cc: {}", made.stderr);
    Ok(AgentProgram { path, is_static: true })
}

fn provider(place: Place, agent: &AgentProgram) -> Provider {
    Provider::new(DockerConfig {
        name: "docker",
        hub: owner(),
        hosts: vec![EngineHost { region: "here".to_owned(), place }],
        image: None,
        agents: BTreeMap::from([(Arch::X86_64, agent.clone())]),
        patience: Patience::default(),
    })
}

/// Holds a provider to the contract at this engine, and looks what is left behind.
fn hold(docker: &Docker, place: &Place) -> Result<()> {
    let agent = stand_in(docker)?;
    let emptied = async || {
        let provider = provider(place.clone(), &agent);
        for machine in provider.list().await.unwrap().instances {
            provider.delete(&machine.provider_id).await.unwrap();
        }
        Engine { provider }
    };
    Runtime::new()?.block_on(async {
        contract::run(emptied).await;
        emptied().await;
    });
    let left = left(docker)?;
    ensure!(left.is_empty(), "left: {left:?}");
    Ok(())
}

#[test]
fn a_real_engine_holds_the_contract_over_its_socket() -> Result<()> {
    let Some(docker) = Docker::start()? else { return Ok(()) };
    hold(&docker, &Place::unix(&docker.socket()))
}

/// An authority, and what it signs for an engine and for a hub, as PEM files.
fn certificates(folder: &Path, host: &Host) -> Result<()> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    for (name, purpose) in
        [("engine", ExtendedKeyUsagePurpose::ServerAuth), ("hub", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host.address().to_string()])?;
        params.extended_key_usages = vec![purpose];
        std::fs::write(folder.join(format!("{name}.pem")), params.signed_by(&key, &authority)?.pem())?;
        let path = folder.join(format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

#[test]
fn an_engine_is_reached_by_mutual_tls_and_by_nothing_else() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("rack")?];
    let folder = scratch("engines")?;
    let (own, other) = (folder.path().join("own"), folder.path().join("other"));
    for path in [&own, &other] {
        std::fs::create_dir(path)?;
        certificates(path, &hosts[1])?;
    }
    let path = own.display();
    let options = format!(
        "-H tcp://{}:2376 --tlsverify --tlscacert {path}/ca.pem --tlscert {path}/engine.pem --tlskey {path}/engine.key",
        hosts[1].address()
    );
    let Some(docker) = Docker::start_with(&hosts[1], &options)? else { return Ok(()) };
    let before = left(&docker)?;
    let inventory = |shown: &str, name: &str| -> Result<String> {
        let entry = format!(
            "[[host]]\nname = \"rack-1\"\naddress = \"{}\"\nauthority = \"{path}/ca.pem\"\ncertificate = \"{shown}.pem\"\nkey = \"{shown}.key\"\n",
            hosts[1].address()
        );
        let file = folder.path().join(name);
        std::fs::write(&file, entry)?;
        Ok(format!("providers.docker.hosts={}", file.display()))
    };
    let (right, wrong) = (inventory("own/hub", "right.toml")?, inventory("other/hub", "wrong.toml")?);
    let image = format!("providers.docker.image={}", push_libraries(&docker)?);
    let order = ["deploy", "--name", "web", "--provider", "docker", "--yes", "--output", "json"];

    // A certificate of somebody else's authority is shown: nothing is ordered, and it is said why.
    {
        let hub = start(&hosts[0], &["providers.docker.enabled=true", &image, &wrong])?;
        let finished = hub.command(&order)?.run(SETTLED)?;
        ensure!(finished.code != Some(0), "{}", finished.stdout);
        ensure!(finished.stderr.contains("does not take the certificate"), "{}", finished.stderr);
    }
    let hub = start(&hosts[0], &["providers.docker.enabled=true", &image, &right])?;
    json_of(&hub.command(&order)?.run(SETTLED)?)?;
    let is_node = |shown: &Value| shown.pointer("/instances/0/node/connected") == Some(&true.into());
    until(&hub, &docker, "a node", is_node)?;
    is_closed(&container(&docker)?)?;
    let ended = hub.command(&["deployment", "terminate", "web", "--yes", "--wait"])?.run(SETTLED)?;
    ensure!(ended.code == Some(0), "{}\n{}", ended.stderr, hub.log());
    eventually_ok(SOON, "an engine as before", || {
        let left = left(&docker)?;
        ensure!(left == before, "left: {left:?}");
        Ok(())
    })
}

/// The C library of this host and nothing else, as an image: what a debug build of the agent needs.
fn push_libraries(docker: &Docker) -> Result<String> {
    let files = docker.folder("libraries")?;
    for program in ["blueprint-agent", "blueprint-example-service"] {
        let needs = Launch::new("ldd").arg(binary(program)?).run(SETTLED)?;
        ensure!(needs.code == Some(0), "ldd: {}", needs.stderr);
        for library in needs.stdout.split_whitespace().filter(|word| word.starts_with('/')) {
            let inside = files.join(library.trim_start_matches('/'));
            std::fs::create_dir_all(inside.parent().context("no folder")?)?;
            std::fs::copy(library, inside)?;
        }
    }
    std::fs::create_dir_all(files.join("tmp"))?;
    let layer = archive(&files, &docker.folder("layers")?.join("libraries.tar"))?;
    let digest = docker.registry.push("test/machine", &layer, &json!({}))?;
    Ok(format!("{}@sha256:{digest}", docker.registry.name("test/machine")?))
}

/// The one container.
fn container(docker: &Docker) -> Result<Value> {
    let listed = docker.raw("GET", "/containers/json?all=1")?;
    let [one] = rows(&listed, "")? else { anyhow::bail!("{listed}") };
    docker.raw("GET", &format!("/containers/{}/json", text(one, "/Id")?))
}

fn start<'h>(host: &'h Host, settings: &[&str]) -> Result<Hub<'h>> {
    let always = [
        "provision.every=1s",
        "provision.second_look=1s",
        "session.heartbeat=1s",
        "tunnel.carrier_listen=off",
    ];
    Hub::start_on(host, &host.address().to_string(), &[&always[..], settings].concat())
}

fn until(hub: &Hub<'_>, docker: &Docker, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let found = eventually_ok(SETTLED, what, || {
        let shown = hub.json(&["deployment", "show", "web"])?;
        ensure!(is_it(&shown), "{shown}");
        Ok(shown)
    });
    found.with_context(|| {
        let told = container(docker).map(|one| one["State"].to_string());
        format!("the hub logged:\n{}\nthe container: {told:?}", hub.log())
    })
}

/// Nothing that it does not need, and nothing secret where everybody looks who may ask the engine.
fn is_closed(shown: &Value) -> Result<()> {
    let host = &shown["HostConfig"];
    ensure!(host["CapDrop"] == json!(["ALL"]) && host["CapAdd"].is_null(), "{host}");
    ensure!(host["SecurityOpt"] == json!(["no-new-privileges"]) && host["Privileged"] == false, "{host}");
    ensure!(host["ReadonlyRootfs"] == true && host["Binds"].is_null(), "{host}");
    ensure!(host["Memory"] == 1_u64 << 30 && host["NanoCpus"] == 1_000_000_000, "{host}");
    let ports = shown.pointer("/NetworkSettings/Ports").cloned().unwrap_or_default();
    ensure!(ports.as_object().is_none_or(serde_json::Map::is_empty), "{ports}");
    ensure!(!shown.to_string().contains("bpj_"), "a join token can be inspected");
    Ok(())
}

#[test]
fn a_container_joins_serves_is_switched_and_leaves_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let host = lab.host("hub")?;
    let Some(docker) = Docker::start_at(&host)? else { return Ok(()) };
    let before = left(&docker)?;
    let image = format!("providers.local_docker.image={}", push_libraries(&docker)?);
    let socket = format!("providers.local_docker.socket={}", docker.socket().display());
    let mut hub = start(&host, &["providers.local_docker.enabled=true", &image, &socket])?;

    let checked = hub.json(&["provider", "check", "local-docker"])?;
    ensure!(text(&checked, "/regions/0/name")? == "local", "{checked}");
    let order = ["deploy", "--name", "web", "--provider", "local-docker", "--yes", "--output", "json"];
    json_of(&hub.command(&order)?.run(CALL)?)?;
    let is_connected = |shown: &Value| shown.pointer("/instances/0/node/connected") == Some(&true.into());
    let shown = until(&hub, &docker, "a node", |shown| shown["state"] == "running" && is_connected(shown))?;
    let node = text(&shown, "/instances/0/node/id")?.to_owned();
    is_closed(&container(&docker)?)?;

    // What a workload needs is there: a native one of the example runs in it.
    let program = binary("blueprint-example-service")?.display().to_string();
    let pushed = hub.json(&["artefact", "push", &program])?;
    let digest = text(&pushed, "/sha256")?;
    let run = ["workload", "run", "7/42", "--url", "hub://", "--sha256", digest, "--cpu-millis", "500"];
    let options = ["--memory-bytes", "268435456", "--wait", "60s", "--output", "json"];
    let ran = hub.command(&[&run[..], &options].concat())?.run(SETTLED)?;
    let shown = json_of(&ran)?;
    ensure!(text(&shown, "/state")? == "running", "{shown}");
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SETTLED)?;

    // The hub is killed, and the machine is the same node again.
    hub.kill()?;
    hub.start_again()?;
    let is_same = |shown: &Value| {
        is_connected(shown)
            && shown.pointer("/instances/0/node/id").and_then(Value::as_str) == Some(node.as_str())
    };
    until(&hub, &docker, "the node again", is_same)?;

    // It is switched off and on.
    let switch = |verb: &str| hub.command(&["deployment", verb, "web", "--wait"])?.run(SETTLED);
    ensure!(switch("stop")?.code == Some(0), "{}", hub.log());
    ensure!(container(&docker)?["State"]["Status"] == "exited", "it still runs");
    ensure!(switch("start")?.code == Some(0), "{}", hub.log());
    until(&hub, &docker, "the node after its second start", is_same)?;
    hub.wait_served("42", &token, SETTLED)?;

    let ended = hub.command(&["deployment", "terminate", "web", "--yes", "--wait"])?.run(SETTLED)?;
    ensure!(ended.code == Some(0), "{}\n{}", ended.stderr, hub.log());
    eventually_ok(SOON, "an engine as before", || {
        let left = left(&docker)?;
        ensure!(left == before, "left: {left:?}");
        Ok(())
    })?;
    ensure!(rows(&hub.json(&["node", "ls"])?, "/nodes")?.is_empty(), "a node is left");
    ensure!(!hub.log().contains("bpj_"), "the log holds a join token");
    Ok(())
}
