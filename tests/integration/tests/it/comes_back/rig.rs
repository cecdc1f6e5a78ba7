//! A hub behind a name, two machines with a service each, and what must not change about them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Lab, eventually_ok};
use serde_json::Value;

use super::UNHARMED;
use super::flow::{Flow, Pieces};
use crate::fixture::{CALL, Hub, Mode, SOON, Spoke, rows, text};
use crate::load::Load;

/// Name of the hub, as join lines carry it.
pub(super) const HUB_NAME: &str = "hub.test";

/// Longest time for one call, so that none hides the moment in which the path came back.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Lets in answers, and the questions of the neighbours of IPv6.
const WALL: &str = "table inet wall {
    chain in {
        type filter hook input priority 0; policy drop;
        iifname { lo, bp0 } accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
    }
}
";

/// The hosts. They outlive what runs on them.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) hub: Host,
    pub(super) one: Host,
    pub(super) two: Host,
}

impl Hosts {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let hosts = Self { hub: lab.host("hub")?, one: lab.host("one")?, two: lab.host("two")? };
        lab.set_name(HUB_NAME, &[IpAddr::V4(hosts.hub.address())]);
        // Machines are behind walls that let in only answers, as most are: nobody but they can mend a path.
        for machine in [&hosts.one, &hosts.two] {
            let finished = machine.launch(Path::new("nft")).args(["-f", "-"]).stdin(WALL).run(CALL)?;
            ensure!(finished.code == Some(0), "nft: {}", finished.stderr);
        }
        Ok(hosts)
    }
}

/// A machine with one service, and the right to call that.
#[derive(Debug)]
pub(super) struct Machine<'h> {
    pub(super) name: &'static str,
    pub(super) spoke: Spoke<'h>,
    service: &'static str,
    token: String,
}

impl<'h> Machine<'h> {
    fn start(
        mode: Mode,
        hub: &Hub<'_>,
        host: &'h Host,
        name: &'static str,
        service: &'static str,
    ) -> Result<Self> {
        let key = format!("7/{service}");
        let spoke = Spoke::start_in(mode, hub, Some(host), name, &key)?;
        Ok(Self { name, spoke, service, token: hub.access_token(&key)? })
    }
}

/// What the scenarios play with.
#[derive(Debug)]
pub(super) struct Rig<'h> {
    pub(super) hub: Hub<'h>,
    pub(super) one: Machine<'h>,
    pub(super) two: Machine<'h>,
    hosts: &'h Hosts,
    before: Option<Ledger>,
}

/// What a recovery must leave as it was.
#[derive(Debug, PartialEq, Eq)]
struct Ledger {
    join_tokens: Value,
    access_tokens: Value,
    /// Id, name, key and both overlay addresses of each machine.
    machines: Vec<[String; 5]>,
    /// Audit rows of joins, accepted and refused.
    joins: Vec<String>,
}

impl<'h> Rig<'h> {
    /// Starts all of it, and waits until both services answer.
    pub(super) fn start(hosts: &'h Hosts, mode: Mode, settings: &[&str]) -> Result<Self> {
        let hub = Hub::start_on(&hosts.hub, HUB_NAME, &[mode.of_hub(), settings].concat())?;
        let one = Machine::start(mode, &hub, &hosts.one, "one", "41")?;
        let two = Machine::start(mode, &hub, &hosts.two, "two", "42")?;
        let mut rig = Self { hub, one, two, hosts, before: None };
        rig.settle()?;
        rig.before = Some(rig.ledger()?);
        Ok(rig)
    }

    /// An established stream through a machine.
    pub(super) fn flow(&self, machine: &Machine<'_>) -> Result<Flow> {
        self.flow_of(machine, Pieces::SMALL)
    }

    /// The same of full packets.
    pub(super) fn large_flow(&self, machine: &Machine<'_>) -> Result<Flow> {
        self.flow_of(machine, Pieces::LARGE)
    }

    fn flow_of(&self, machine: &Machine<'_>, pieces: Pieces) -> Result<Flow> {
        let service = (machine.service, machine.token.as_str());
        Flow::start(&self.hosts.hub, self.hub.proxy(), service, pieces)
    }

    /// Requests to the service of a machine that never stop.
    pub(super) fn load(&self, machine: &Machine<'_>) -> Result<Load> {
        Load::start(&self.hosts.hub, self.hub.proxy(), (machine.service, &machine.token), PATIENCE)
    }

    /// Gets so many bytes from the service of a machine, in one answer.
    pub(super) fn fetch(&self, machine: &Machine<'_>, bytes: usize) -> Result<()> {
        let response = self.hub.get(machine.service, &machine.token, &format!("/bytes/{bytes}"))?;
        ensure!(
            response.status == 200 && response.body.len() == bytes,
            "{}: {} bytes",
            response.status,
            response.body.len()
        );
        Ok(())
    }

    /// Waits until both machines are up in every respect and answer.
    pub(super) fn settle(&self) -> Result<()> {
        for machine in [&self.one, &self.two] {
            self.hub.wait_served(machine.service, &machine.token, SOON)?;
        }
        eventually_ok(SOON, "both machines up", || {
            let nodes = self.nodes()?;
            let states: Result<Vec<_>> =
                rows(&nodes, "/nodes")?.iter().map(|row| text(row, "/state")).collect();
            ensure!(states? == ["up", "up"], "{nodes}");
            Ok(())
        })
        .with_context(|| self.logs())
    }

    /// Ends what ran through a machine that nothing happened to: all of it has to be there, without a pause.
    pub(super) fn ensure_unharmed(&self, (flow, load): (Flow, Load)) -> Result<Duration> {
        let seen = flow.finish().context("the stream through a machine that nothing happened to")?;
        let (calls, slowest) = load.summary();
        ensure!(calls > 0 && load.failures().is_empty(), "of {calls} calls failed: {:?}", load.failures());
        ensure!(
            seen.longest_pause < UNHARMED,
            "the stream paused for {:?}, the slowest of {calls} calls took {slowest:?}",
            seen.longest_pause
        );
        Ok(seen.longest_pause)
    }

    /// No token was used or made, no machine became another one, nobody joined.
    pub(super) fn ensure_same(&self) -> Result<()> {
        let now = self.ledger()?;
        ensure!(Some(&now) == self.before.as_ref(), "{now:#?}\ninstead of {:#?}", self.before);
        Ok(())
    }

    /// How often the certificate of a machine was made.
    pub(super) fn generation(&self, machine: &Machine<'_>) -> Result<u64> {
        let nodes = self.nodes()?;
        let node = node(&nodes, machine.name)?;
        node.get("certificate_generation").and_then(Value::as_u64).context("no generation")
    }

    /// Waits until the hub's tunnel leads to a machine at this outer address.
    pub(super) fn wait_for_endpoint(&self, machine: &Machine<'_>, address: Ipv4Addr) -> Result<()> {
        eventually_ok(SOON, "the new endpoint", || {
            let nodes = self.nodes()?;
            let endpoint = text(node(&nodes, machine.name)?, "/tunnel/endpoint")?;
            ensure!(endpoint.starts_with(&format!("{address}:")), "still {endpoint}");
            Ok(())
        })
    }

    /// Waits until the agent of a machine has logged this that often.
    pub(super) fn wait_for_log(&self, machine: &Machine<'_>, words: &str, times: u64) -> Result<()> {
        eventually_ok(SOON, words, || {
            let log = machine.spoke.agent.log();
            let count = log.lines().filter(|line| line.contains(words)).count();
            ensure!(u64::try_from(count)? >= times, "{count} times:\n{log}");
            Ok(())
        })
    }

    /// What the processes logged.
    pub(super) fn logs(&self) -> String {
        let [one, two] = [&self.one, &self.two].map(|machine| machine.spoke.agent.log());
        format!("--- hub\n{}\n--- agent one\n{one}\n--- agent two\n{two}", self.hub.log())
    }

    fn nodes(&self) -> Result<Value> {
        self.hub.api(&Request::get("/v1/nodes"))?.json()
    }

    fn ledger(&self) -> Result<Ledger> {
        let api = |path| self.hub.api(&Request::get(path))?.json();
        let nodes = self.nodes()?;
        let mut machines: Vec<_> = rows(&nodes, "/nodes")?
            .iter()
            .map(|row| {
                ["/id", "/name", "/wireguard_key", "/address_v4", "/address_v6"]
                    .map(|field| text(row, field).unwrap_or("-").to_owned())
            })
            .collect();
        machines.sort();
        let mut joins = self.hub.audit()?;
        joins.retain(|row| row.starts_with("join"));
        Ok(Ledger { join_tokens: api("/v1/tokens")?, access_tokens: api("/v1/access")?, machines, joins })
    }
}

fn node<'v>(nodes: &'v Value, name: &str) -> Result<&'v Value> {
    let found = rows(nodes, "/nodes")?.iter().find(|row| text(row, "/name").is_ok_and(|is| is == name));
    found.with_context(|| format!("no node {name} in {nodes}"))
}
