//! A path that begins to lose large packets without a word.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Fault, Lab, Need, require};
use serde_json::Value;

use super::rig::{Hosts, Rig};
use crate::fixture::Mode;
use crate::say::say;

/// Longest pause of a flow.
const PAUSE: Duration = Duration::from_secs(3);
/// What passes in bytes with the outer headers: less than a tunnel of MTU 1420 sends, more than one of 1280.
const PASSES: u16 = 1400;

fn a_hole_under_a_flow(mode: Mode) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| mode.is_possible() && require(&[Need::Program("ethtool")])) else {
        return Ok(());
    };
    let hosts = Hosts::new(&lab)?;
    let rig = Rig::start(&hosts, mode, &[])?;
    let flow = rig.large_flow(&rig.one)?;
    flow.wait_while_it_flows(Duration::from_secs(5))?;
    let before = flow.seen();
    hosts.one.spoil(Fault::MtuHole(PASSES))?;
    flow.wait_while_it_flows(Duration::from_secs(10)).with_context(|| rig.logs())?;
    let after = flow.seen();
    say(format_args!(
        "{mode:?}: {} pieces before, longest pause {:.3?}; {} with a hole, longest pause {:.3?}",
        before.pieces,
        before.longest_pause,
        after.pieces - before.pieces,
        after.longest_pause,
    ));
    let status = rig.one.spoke.agent.json(&["status"])?;
    let mtu = status.pointer("/data_plane/mtu").and_then(Value::as_u64);
    ensure!(mtu == Some(1340), "the largest step that passes: {status}");
    ensure!(after.longest_pause < PAUSE, "the stream paused for {:?}\n{}", after.longest_pause, rig.logs());
    ensure!(after.pieces > before.pieces + 100, "it does not flow\n{}", rig.logs());
    flow.finish().with_context(|| rig.logs())?;
    rig.ensure_same()
}

#[test]
fn a_hole_for_large_packets_holds_no_flow_up() -> Result<()> {
    a_hole_under_a_flow(Mode::Netstack)
}

#[test]
fn a_hole_for_large_packets_holds_no_flow_up_with_devices() -> Result<()> {
    a_hole_under_a_flow(Mode::Devices)
}
