//! A hub killed under twenty machines whose transfers are running.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab};
use serde_json::Value;

use super::BACK_WITHIN;
use super::flow::{Flow, Pieces};
use super::rig::PATIENCE;
use crate::fixture::{Hub, Mode, SOON, Spoke, text};
use crate::load::Load;
use crate::say::say;
use crate::tun::mesh::{Running, echo, set_policy};

const MACHINES: u16 = 20;

/// Every machine may reach this port of every other.
const GRANT: &str = "[[grant]]\nname = \"mesh\"\nfrom = [\"*\"]\nto = [\"*\"]\nallow = [\"tcp/5432\"]\n";

/// Number of the service of a machine.
fn service(number: u16) -> String {
    (100 + number).to_string()
}

/// From each odd machine to the next one, through devices and the hub.
fn transfers<'h>(hub: &Hub<'_>, hosts: &'h [Host], spokes: &[Spoke<'h>]) -> Result<Vec<Running>> {
    set_policy(hub, GRANT)?;
    let mut running = Vec::new();
    for pair in hosts.iter().zip(spokes).collect::<Vec<_>>().chunks_exact(2) {
        let [(from, _), (to, spoke)] = pair else { continue };
        let path = spoke.agent.state().join("identity.json");
        let identity: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let address: IpAddr = text(&identity, "/tunnel/address/v4")?.parse()?;
        echo(to, SocketAddr::new(address, 5432))?;
        running.push(Running::start(from, SocketAddr::new(address, 5432))?);
    }
    Ok(running)
}

fn killed_under_many(mode: Mode) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| mode.is_possible()) else { return Ok(()) };
    let hub_host = lab.host("hub")?;
    let hosts = (1..=MACHINES).map(|number| lab.host(&format!("m{number}"))).collect::<Result<Vec<_>>>()?;
    let mut hub = Hub::start_on(&hub_host, &hub_host.address().to_string(), mode.of_hub())?;
    let mut spokes = Vec::new();
    for (number, host) in (1..).zip(&hosts) {
        let key = format!("7/{}", service(number));
        spokes.push(Spoke::start_in(mode, &hub, Some(host), &format!("m{number}"), &key)?);
    }
    let token = text(&hub.json(&["access", "create", "--all"])?, "/access_token")?.to_owned();
    for number in 1..=MACHINES {
        hub.wait_served(&service(number), &token, SOON)?;
    }
    let running = if mode == Mode::Netstack { Vec::new() } else { transfers(&hub, &hosts, &spokes)? };
    let flow = |number| Flow::start(&hub_host, hub.proxy(), (&service(number), &token), Pieces::SMALL);
    let flows = (1..=MACHINES).map(flow).collect::<Result<Vec<_>>>()?;

    hub.kill()?;
    for flow in flows {
        ensure!(flow.finish().is_err(), "a stream through a killed hub ends with an error");
    }
    let load = |number| Load::start(&hub_host, hub.proxy(), (&service(number), &token), PATIENCE);
    let loads = (1..=MACHINES).map(load).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    hub.start_again()?;
    let mut slowest = Duration::ZERO;
    for load in &loads {
        slowest = slowest.max(load.first_answer_after(begin, SOON).with_context(|| hub.log())?);
    }
    drop(loads);
    let mut longest = Duration::ZERO;
    for transfer in &running {
        longest = longest.max(transfer.first_move_after(begin, SOON)?.saturating_duration_since(begin));
    }
    say(format_args!(
        "{mode:?}: hub killed under {MACHINES} machines: all answer after {slowest:.3?}; {} transfers between \
         machines go on after {longest:.3?}",
        running.len()
    ));
    ensure!(slowest < BACK_WITHIN && longest < BACK_WITHIN, "{slowest:?}, {longest:?}\n{}", hub.log());
    running.into_iter().try_for_each(Running::finish)
}

#[test]
fn a_hub_killed_under_twenty_machines_with_running_transfers() -> Result<()> {
    killed_under_many(Mode::Netstack)
}

#[test]
fn a_hub_killed_under_twenty_machines_with_running_transfers_and_devices() -> Result<()> {
    killed_under_many(Mode::Devices)
}
