//! Machines whose overlay ends in a network device, and what is seen on that device.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Need, eventually_ok, require};
use serde_json::Value;

use crate::fixture::{Agent, CALL, Hub, SOON, TUN, text};

/// Name of every device: each machine has a network of its own.
pub(super) const DEVICE: &str = "bp0";

/// Whether this machine has devices; where not, the test is skipped aloud.
pub(super) fn is_possible() -> bool {
    require(&[Need::Root, Need::Program("ip"), Need::Program("nft"), Need::Device("/dev/net/tun")])
}

/// Runs a program on a host; what it printed.
pub(super) fn run(host: &Host, program: &str, words: &str, input: &str) -> Result<String> {
    let launch = host.launch(Path::new(program)).args(words.split_whitespace());
    let finished = launch.stdin(input).run(CALL)?;
    ensure!(finished.code == Some(0), "{program} {words}: {}{}", finished.stdout, finished.stderr);
    Ok(finished.stdout)
}

/// A machine that has joined and whose agent runs, with its places in the overlay.
#[derive(Debug)]
pub(super) struct Machine<'h> {
    pub(super) agent: Agent<'h>,
    pub(super) host: &'h Host,
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl<'h> Machine<'h> {
    /// Joins, and runs the agent with a device.
    pub(super) fn start(hub: &Hub<'_>, host: &'h Host, name: &str) -> Result<Self> {
        let mut machine = Self::joined(hub, host, name)?;
        machine.agent.run()?;
        machine.wait_until_ready()?;
        Ok(machine)
    }

    /// Joins alone.
    pub(super) fn joined(hub: &Hub<'_>, host: &'h Host, name: &str) -> Result<Self> {
        let agent = Agent::join(Some(host), name, &hub.join_line(&[])?)?;
        let [v4, v6] = places(&agent, "address")?;
        let agent = TUN.iter().fold(agent, |agent, setting| agent.set(setting));
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (v4, v6) else { anyhow::bail!("{v4} and {v6}") };
        Ok(Self { agent, host, v4, v6 })
    }

    /// Waits until the hub echoes through the tunnel.
    pub(super) fn wait_until_ready(&self) -> Result<()> {
        eventually_ok(SOON, "the tunnel", || {
            let status = self.agent.json(&["status"])?;
            ensure!(status.pointer("/ready") == Some(&Value::Bool(true)), "{status}");
            Ok(())
        })
        .with_context(|| self.agent.log())
    }

    /// How often its agent refused a packet of its own machine, or of the hub's, for this reason.
    pub(super) fn refused(&mut self, reason: &str) -> Result<u64> {
        let address = self.agent.observe()?;
        let page = Request::get("/metrics").send_from(self.host, address, CALL)?.text();
        let name = format!("agent_tunnel_discards_total{{reason=\"{reason}\"}} ");
        let value = page.lines().find_map(|line| line.strip_prefix(&name));
        Ok(value.with_context(|| format!("no {name} in {page}"))?.parse()?)
    }
}

/// Both addresses at `/tunnel/WHAT` of what joining left.
pub(super) fn places(agent: &Agent<'_>, what: &str) -> Result<[IpAddr; 2]> {
    let path = agent.state().join("identity.json");
    let identity: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    let place =
        |family| -> Result<IpAddr> { Ok(text(&identity, &format!("/tunnel/{what}/{family}"))?.parse()?) };
    Ok([place("v4")?, place("v6")?])
}

/// Counts the packets that the tunnel hands to a machine, before its kernel looks at them.
#[derive(Debug)]
pub(super) struct Witness<'h>(&'h Host);

impl<'h> Witness<'h> {
    /// Looks at the device of a machine from now on.
    pub(super) fn start(host: &'h Host) -> Result<Self> {
        let rules = format!(
            "table netdev witness {{
                counter seen {{ }}
                chain arrived {{
                    type filter hook ingress device \"{DEVICE}\" priority 0;
                    counter name seen
                }}
            }}
            "
        );
        run(host, "nft", "-f -", &rules)?;
        Ok(Self(host))
    }

    /// Packets so far.
    pub(super) fn count(&self) -> Result<u64> {
        let listed = run(self.0, "nft", "list counter netdev witness seen", "")?;
        let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).with_context(|| format!("no count in {listed}"))?.parse().context("no number")
    }
}
