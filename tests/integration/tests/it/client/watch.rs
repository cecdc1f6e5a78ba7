//! Targets of services as they come and go: told to a program with the library, to one on a machine with an agent, and to one of
//! the hub's machine.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use blueprint_common_client::{OpenError, TargetEvent, TargetWatch};
use blueprint_common_types::Health;
use blueprint_proto::v1;
use blueprint_proto::v1::registry_client::RegistryClient;
use blueprint_proto::v1::watch_event::Change;
use blueprint_tests_support::{Lab, Need, eventually_ok, require};
use futures_util::future::join_all;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::{Program, allow, runtime, soon};
use crate::fixture::{Agent, CALL, Hub, Mode, SOON, Service, Spoke, text};
use crate::qos::Opened;
use crate::say::metric;

/// Reads on until an event is what is waited for; what comes before has to be one of the same target, such as a change of its
/// health on its way.
async fn until(watch: &mut TargetWatch, what: &str, is_it: impl Fn(&TargetEvent) -> bool) -> Result<()> {
    let read = async {
        loop {
            let event = watch.next().await?;
            if is_it(&event) {
                return Ok(());
            }
            ensure!(event != TargetEvent::Complete, "a second beginning");
        }
    };
    timeout(SOON, read).await.with_context(|| format!("{what}: {:?}", watch.targets().collect::<Vec<_>>()))?
}

fn is_healthy(event: &TargetEvent, node: &str) -> bool {
    matches!(event, TargetEvent::Upsert(target) if target.node == node && target.health == Health::Healthy)
}

fn is_sick(event: &TargetEvent, node: &str) -> bool {
    matches!(event, TargetEvent::Upsert(target) if target.node == node && target.health != Health::Healthy)
}

/// A machine with an example service as one of the targets of 7/42.
fn offering(hub: &Hub<'_>, name: &str) -> Result<Spoke<'static>> {
    let mut agent = Agent::join(None, name, &hub.join_line(&["--services", "7/42"])?)?;
    let service = Service::start(None, name)?;
    agent.run()?;
    agent.offer("7/42", service.address)?;
    Ok(Spoke { agent, service })
}

#[test]
fn a_program_is_told_of_targets_that_it_may_reach_as_they_come_and_go() -> Result<()> {
    let mut hub = Hub::start(&["session.heartbeat=1s"])?;
    let (mut one, two) = (offering(&hub, "alpha")?, offering(&hub, "beta")?);
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let (port, other) = (one.service.address.port(), two.service.address.port());
    runtime()?.block_on(async {
        let program = Program::join(&hub, "program").await?;
        let mut watch = program.tunnel.watch(["7/42".parse()?, "9/9".parse()?]);

        // Without a grant there is nothing, which is said at once; with one, and only what it leads to.
        let first = timeout(SOON, watch.next()).await??;
        ensure!(first == TargetEvent::Complete && watch.is_current(), "{first:?}");
        allow(&hub, "program", "alpha", &[port])?;
        until(&mut watch, "alpha", |event| is_healthy(event, "alpha")).await?;
        ensure!(watch.targets().all(|target| target.node == "alpha" && target.address.port() == port));
        allow(&hub, "program", "*", &[port, other])?;
        until(&mut watch, "beta", |event| is_healthy(event, "beta")).await?;

        // A service that dies, and one that is back.
        one.service.process.kill()?;
        until(&mut watch, "the death", |event| is_sick(event, "alpha")).await?;
        one.agent.json(&["service", "rm", "7/42"])?;
        let is_gone = |event: &TargetEvent, node: &str| {
            matches!(event, TargetEvent::Remove(target) if target.node == node)
        };
        until(&mut watch, "the end", |event| is_gone(event, "alpha")).await?;

        // Over a restart of the hub what is as before is not told again, and what is different is.
        hub.kill()?;
        hub.start_again()?;
        // The first news are of beta, whose data plane the new hub has to see, or of the change below.
        let again = Service::start(None, "alpha")?;
        one.agent.offer("7/42", again.address)?;
        allow(&hub, "program", "*", &[again.address.port(), other])?;
        until(&mut watch, "another target", |event| is_healthy(event, "alpha")).await?;
        ensure!(watch.targets().any(|target| target.node == "beta"), "beta was lost");

        // A grant that is taken back takes the target.
        allow(&hub, "program", "beta", &[other])?;
        until(&mut watch, "the revocation", |event| is_gone(event, "alpha")).await?;

        // Bounded: so many watches of one machine, and services of one watch.
        let mut more: Vec<TargetWatch> = (0..7).map(|_| program.tunnel.watch(watch_key())).collect();
        for one in &mut more {
            ensure!(matches!(timeout(SOON, one.next()).await??, TargetEvent::Upsert(_) | TargetEvent::Complete));
        }
        let mut ninth = program.tunnel.watch(watch_key());
        ensure!(timeout(Duration::from_secs(1), ninth.next()).await.is_err(), "a ninth watch");
        let refused = metric(&hub, "hub_control_calls_refused_total{reason=\"watch_too_many\"}")?;
        ensure!(refused >= 1, "{refused}");
        drop(more);
        timeout(SOON, ninth.next()).await.context("a place that is free again")??;
        let mut none = program.tunnel.watch([]);
        ensure!(none.next().await.is_err_and(|error| error.to_string().contains("name 1 to 64")));
        program.tunnel.close().await;
        // What was told before may still wait.
        let end = async {
            loop {
                if let Err(error) = watch.next().await {
                    return error;
                }
            }
        };
        let end = timeout(SOON, end).await.context("a watch of a spoke that was closed")?;
        ensure!(matches!(end, OpenError::Ended { .. }), "{end:?}");
        Ok(())
    })
}

#[test]
fn a_program_that_asks_without_end_begins_no_watch_until_it_may_ask_again() -> Result<()> {
    let hub = Hub::start(&["session.heartbeat=1s"])?;
    let refused = || metric(&hub, "hub_control_calls_refused_total{reason=\"watch_too_often\"}");
    runtime()?.block_on(async {
        let program = Program::join(&hub, "program").await?;
        let ask = async {
            loop {
                join_all((0..64).map(|_| program.tunnel.open_node("nobody", 80))).await;
            }
        };
        let begin = soon("a watch that is refused", async || {
            let mut watch = program.tunnel.watch(watch_key());
            let _ = timeout(Duration::from_millis(100), watch.next()).await;
            refused()
        });
        let refused = tokio::select! {
            () = ask => bail!("it asks without end"),
            refused = begin => refused?,
        };
        ensure!(refused >= 1, "{refused}");
        let mut watch = program.tunnel.watch(watch_key());
        let first = timeout(SOON, watch.next()).await.context("a watch of one that asks no more")??;
        ensure!(first == TargetEvent::Complete, "{first:?}");
        program.tunnel.close().await;
        Ok(())
    })
}

fn watch_key() -> [blueprint_common_types::ServiceKey; 1] {
    [blueprint_common_types::ServiceKey { blueprint: 7, service: 42 }]
}

/// A client over a stream that is open.
async fn client(stream: std::net::TcpStream) -> Result<RegistryClient<Channel>> {
    let channel = Endpoint::from_static("http://hub.test").connect_with_connector(Opened::of(stream)).await?;
    Ok(RegistryClient::new(channel))
}

#[test]
fn any_program_on_a_machine_watches_over_grpc_what_its_machine_may_reach() -> Result<()> {
    if !require(&[Need::Device("/dev/net/tun")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, db_host, web_host) = (lab.host("hub")?, lab.host("db")?, lab.host("web")?);
    let hub = Hub::start_on(&public, &public.address().to_string(), &["session.heartbeat=1s"])?;
    let mut db = Spoke::start(&hub, Some(&db_host), "db", "7/42")?;
    let agent = Agent::join(Some(&web_host), "web", &hub.join_line(&[])?)?;
    let mut web = Mode::MachineDevices.of_machine().iter().fold(agent, |agent, setting| agent.set(setting));
    web.run()?;
    let address = text(&hub.json(&["node", "show", "db"])?, "/node/address_v4")?.to_owned();
    let at = "10.88.0.1:9615".parse()?;
    let stream = eventually_ok(SOON, "the port of the hub", || web_host.connect(at, CALL))?;
    let service = v1::ServiceRef { blueprint_id: 7, service_id: 42 };
    runtime()?.block_on(async {
        let mut client = client(stream).await?;
        let nothing = client.watch(v1::WatchRequest::default()).await;
        ensure!(nothing.is_err_and(|status| status.code() == Code::InvalidArgument), "all services");
        let ask = v1::WatchRequest { after_index: 0, services: vec![service] };
        let mut events = client.watch(ask).await?.into_inner();
        let mut next = async || -> Result<Change> {
            let event = timeout(SOON, events.message()).await??.context("the end")?;
            event.change.context("no change")
        };
        // Default deny, said at once.
        ensure!(matches!(next().await?, Change::Reset(_)) && matches!(next().await?, Change::Complete(_)));
        allow(&hub, "web", "db", &[db.service.address.port()])?;
        loop {
            match next().await? {
                Change::Upsert(target) if target.health() == v1::Health::Healthy => {
                    ensure!(target.address.starts_with(&format!("{address}:")), "{target:?}");
                    break;
                }
                Change::Upsert(_) => {}
                other @ (Change::Reset(_) | Change::Remove(_) | Change::Complete(_)) => bail!("{other:?}"),
            }
        }
        db.service.process.kill()?;
        match next().await? {
            Change::Upsert(target) => {
                ensure!(target.health() == v1::Health::Unhealthy && target.reason.is_empty(), "{target:?}");
            }
            other @ (Change::Reset(_) | Change::Remove(_) | Change::Complete(_)) => bail!("{other:?}"),
        }
        // What it serves itself it sees, too; a machine that is removed sees nothing any more.
        hub.json(&["node", "rm", "db"])?;
        ensure!(matches!(next().await?, Change::Remove(_)));
        hub.json(&["node", "rm", "web"])?;
        ensure!(next().await.is_err(), "a removed machine is told");
        Ok(())
    })?;

    // The hub's own programs see everything, and resume by an index.
    let socket = hub.state().join("registry.sock");
    runtime()?.block_on(async {
        let connector = blueprint_common_client::Connector::new(
            blueprint_common_client::TransportType::UnixSocket(socket),
        );
        let channel = Endpoint::from_static("http://hub.test").connect_with_connector(connector).await?;
        let mut client = RegistryClient::new(channel);
        let list = client.list(v1::ListRequest {}).await?.into_inner();
        let one = v1::ServiceRef { blueprint_id: 7, service_id: 43 };
        let ask = v1::WatchRequest { after_index: list.index, services: vec![one] };
        let mut events = client.watch(ask).await?.into_inner();
        let _other = Spoke::start(&hub, Some(&db_host), "other", "7/44")?;
        let _wanted = Spoke::start(&hub, Some(&web_host), "wanted", "7/43")?;
        let event = timeout(SOON, events.message()).await??.context("the end")?;
        match event.change {
            Some(Change::Upsert(target)) => ensure!(target.service_id == 43, "{target:?}"),
            other => bail!("{other:?}"),
        }
        Ok(())
    })
}
