//! Everything comes back by itself: processes killed, addresses changed, a path cut, certificates renewed.
//!
//! Each scenario runs under load on both machines, prints how long the affected one was without an answer after
//! the path was there again, and demands less than [`BACK_WITHIN`]. No join token may be used, no machine may
//! become another one, and what streams through a machine that nothing happened to goes on.

mod black_hole;
mod carriers;
mod flow;
mod many;
mod rig;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, eventually_ok};

use self::rig::{HUB_NAME, Hosts, Rig};
use crate::fixture::{CALL, Mode, SOON};
use crate::say::{metric, pass, say, seconds_from};

/// Time from the path being there again to the first answer.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// Longest pause of a stream that nothing happened to. Its pieces come every 50 ms; the rest is the noise of a
/// machine that runs other things too.
const UNHARMED: Duration = Duration::from_secs(2);

/// How often an address changes.
const ROUNDS: u32 = 3;

/// How long a process stays away, one round each: not at all, longer than the other side believes in it, and
/// longer than its targets' leases.
const AWAY: [Duration; 3] = [Duration::ZERO, Duration::from_secs(6), Duration::from_secs(35)];

/// How long the path stays cut: `BLUEPRINT_TEST_CUT_SECS`, or the two minutes that an operator is promised.
fn cut_time() -> Result<Duration> {
    seconds_from("BLUEPRINT_TEST_CUT_SECS", 120)
}

fn hub_killed(mode: Mode, times: &[Duration]) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| mode.is_possible()) else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let mut rig = Rig::start(&hosts, mode, &[])?;
    for &away in times {
        let flows = [rig.flow(&rig.one)?, rig.flow(&rig.two)?];
        let loads = [rig.load(&rig.one)?, rig.load(&rig.two)?];
        for load in &loads {
            load.wait_for_calls(10)?;
        }
        rig.hub.kill()?;
        for flow in flows {
            ensure!(flow.finish().is_err(), "a stream through a killed hub ends with an error");
        }
        pass(away)?;
        let begin = Instant::now();
        rig.hub.start_again()?;
        for (load, machine) in loads.iter().zip([&rig.one, &rig.two]) {
            let took = load.first_answer_after(begin, SOON)?;
            say(format_args!("{mode:?}, hub away for {away:?}: {} answers after {took:.3?}", machine.name));
            ensure!(took < BACK_WITHIN, "{} took {took:?}\n{}", machine.name, rig.logs());
        }
        rig.settle()?;
        rig.ensure_same()?;
    }
    Ok(())
}

#[test]
fn a_hub_killed_under_running_requests_and_started_again() -> Result<()> {
    hub_killed(Mode::Netstack, &AWAY)
}

#[test]
fn a_hub_killed_under_running_requests_and_started_again_with_devices() -> Result<()> {
    Mode::WITH_DEVICES.into_iter().try_for_each(|mode| hub_killed(mode, &[Duration::ZERO]))
}

fn agent_killed(mode: Mode, times: &[Duration]) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| mode.is_possible()) else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let mut rig = Rig::start(&hosts, mode, &[])?;
    for &away in times {
        let untouched = (rig.flow(&rig.two)?, rig.load(&rig.two)?);
        let load = rig.load(&rig.one)?;
        load.wait_for_calls(10)?;
        rig.one.spoke.agent.process()?.kill()?;
        load.wait_for_failure()?;
        pass(away)?;
        let begin = Instant::now();
        rig.one.spoke.agent.run()?;
        let took = load.first_answer_after(begin, SOON)?;
        rig.settle()?;
        let pause = rig.ensure_unharmed(untouched)?;
        say(format_args!(
            "{mode:?}, agent away for {away:?}: it answers after {took:.3?}; longest pause of the other's stream {pause:.3?}"
        ));
        ensure!(took < BACK_WITHIN, "it took {took:?}\n{}", rig.logs());
        rig.ensure_same()?;
    }
    Ok(())
}

#[test]
fn an_agent_killed_and_started_again() -> Result<()> {
    agent_killed(Mode::Netstack, &AWAY)
}

#[test]
fn an_agent_killed_and_started_again_with_devices() -> Result<()> {
    Mode::WITH_DEVICES.into_iter().try_for_each(|mode| agent_killed(mode, &[Duration::ZERO]))
}

fn agent_moved(mode: Mode, rounds: u32) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| mode.is_possible()) else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let rig = Rig::start(&hosts, mode, &[])?;
    for round in 1..=rounds {
        let untouched = (rig.flow(&rig.two)?, rig.load(&rig.two)?);
        let (moved, load) = (rig.flow(&rig.one)?, rig.load(&rig.one)?);
        load.wait_for_calls(10)?;
        let begin = Instant::now();
        let address = hosts.one.change_address()?;
        let took = load.first_answer_after(begin, SOON)?;
        rig.wait_for_endpoint(&rig.one, address)?;
        rig.settle()?;
        let pause = rig.ensure_unharmed(untouched)?;
        let own = moved.finish().context("the stream through the machine that moved")?;
        say(format_args!(
            "{mode:?}, agent moved, round {round}: it answers after {took:.3?}, longest pause of its own stream {:.3?}, \
             of the other's {pause:.3?}",
            own.longest_pause
        ));
        ensure!(took < BACK_WITHIN, "it took {took:?}\n{}", rig.logs());
        rig.ensure_same()?;
    }
    Ok(())
}

#[test]
fn an_agent_whose_address_changes() -> Result<()> {
    agent_moved(Mode::Netstack, ROUNDS)
}

#[test]
fn an_agent_whose_address_changes_with_devices() -> Result<()> {
    Mode::WITH_DEVICES.into_iter().try_for_each(|mode| agent_moved(mode, 1))
}

#[test]
fn a_hub_whose_address_changes_behind_its_name() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let rig = Rig::start(&hosts, Mode::Netstack, &[])?;
    for away in AWAY {
        let flows = [rig.flow(&rig.one)?, rig.flow(&rig.two)?];
        let loads = [rig.load(&rig.one)?, rig.load(&rig.two)?];
        for load in &loads {
            load.wait_for_calls(10)?;
        }
        let address = hosts.hub.change_address()?;
        for load in &loads {
            load.wait_for_failure()?;
        }
        pass(away)?;
        let begin = Instant::now();
        lab.set_name(HUB_NAME, &[IpAddr::V4(address)]);
        for (load, machine) in loads.iter().zip([&rig.one, &rig.two]) {
            let took = load.first_answer_after(begin, SOON)?;
            say(format_args!("hub moved, name {away:?} late: {} answers after {took:.3?}", machine.name));
            ensure!(took < BACK_WITHIN, "{} took {took:?}\n{}", machine.name, rig.logs());
        }
        for flow in flows {
            // Nobody promises that it lives, but it must not hang.
            match flow.finish() {
                Ok(seen) => say(format_args!("  a stream through it paused for {:.3?}", seen.longest_pause)),
                Err(error) => say(format_args!("  a stream through it ended: {error:#}")),
            }
        }
        rig.settle()?;
        rig.ensure_same()?;
    }
    Ok(())
}

#[test]
fn a_path_cut_for_two_minutes_soak() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let rig = Rig::start(&hosts, Mode::Netstack, &[])?;
    let cut = cut_time()?;
    let untouched = (rig.flow(&rig.two)?, rig.load(&rig.two)?);
    let load = rig.load(&rig.one)?;
    load.wait_for_calls(10)?;
    hosts.one.cut()?;
    untouched.0.wait_while_it_flows(cut)?;
    load.wait_for_failure()?;
    let begin = Instant::now();
    hosts.one.heal()?;
    let took = load.first_answer_after(begin, SOON)?;
    rig.settle()?;
    let pause = rig.ensure_unharmed(untouched)?;
    say(format_args!(
        "path cut for {cut:?}: it answers after {took:.3?}; longest pause of the other's stream {pause:.3?}"
    ));
    ensure!(took < BACK_WITHIN, "it took {took:?}\n{}", rig.logs());
    rig.ensure_same()
}

#[test]
fn certificates_are_renewed_and_no_stream_notices() -> Result<()> {
    const RENEWALS: u64 = 4;
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = Hosts::new(&lab)?;
    let mut rig = Rig::start(&hosts, Mode::Netstack, &["join.certificate_ttl=20s"])?;
    let flows = [rig.flow(&rig.one)?, rig.flow(&rig.two)?];
    // Carriers that lost the race at the start may end it with a handshake of their own until they are let go.
    eventually_ok(SOON, "two carriers of each machine to be let go", || {
        let log = rig.hub.log();
        ensure!(log.lines().filter(|line| line.contains("carrier closed")).count() >= 4, "{log}");
        Ok(())
    })?;
    // The page shows the tunnel as it was a quarter of a second ago.
    pass(Duration::from_secs(1))?;
    let handshakes = metric(&rig.hub, "hub_tunnel_handshakes_total")?;
    let loads = [rig.load(&rig.one)?, rig.load(&rig.two)?];
    let begin = Instant::now();
    eventually_ok(Duration::from_secs(90), "renewals", || {
        let generations = [rig.generation(&rig.one)?, rig.generation(&rig.two)?];
        ensure!(generations.iter().all(|generation| *generation > RENEWALS), "{generations:?}");
        Ok(())
    })?;
    let took = begin.elapsed();
    // The last certificate is in use, too, before all is counted.
    rig.wait_for_log(&rig.one, "control stream replaced", RENEWALS)?;
    rig.wait_for_log(&rig.two, "control stream replaced", RENEWALS)?;
    for untouched in flows.into_iter().zip(loads) {
        let pause = rig.ensure_unharmed(untouched)?;
        say(format_args!("{RENEWALS} renewals in {took:.1?}: longest pause of a stream {pause:.3?}"));
    }
    let later = metric(&rig.hub, "hub_tunnel_handshakes_total")?;
    ensure!(later == handshakes, "{later} handshakes instead of {handshakes}\n{}", rig.logs());
    for machine in [&rig.one, &rig.two] {
        let log = machine.spoke.agent.log();
        ensure!(!log.contains("control stream ended"), "{log}");
    }
    rig.ensure_same()?;
    ensure!(rig.hub.process.terminate(CALL)?.success(), "the hub drains");
    Ok(())
}
