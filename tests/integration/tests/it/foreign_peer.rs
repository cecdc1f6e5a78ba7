//! Debian's `wireguard-go`, set up with `wg`, as a spoke of the hub; and our own agent over as many rekeys.
//!
//! The foreign machine joins like any other and then never runs its agent: what the join left in
//! `identity.json` is all that the two programs are given.

mod wireguard;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Lab, Need, eventually, eventually_ok, require};

use self::wireguard::{Foreign, is_possible};
use crate::fixture::{Agent, Hub, SOON, Spoke, text};
use crate::say::{metric, pass, say, seconds_from};

/// Longest time from one rekey of the foreign peer to the next: WireGuard's 120 s, and noise.
const REKEY_WITHIN: Duration = Duration::from_secs(140);

/// Time between two requests of an agent that has little to do.
const SPARSE: Duration = Duration::from_secs(3);

/// A request over a tunnel that works takes a few milliseconds; one that a deaf session delays takes seconds.
const PROMPT: Duration = Duration::from_secs(1);

fn hub_and_foreign<'h>(hub: &'h Host, foreign: &'h Host) -> Result<(Hub<'h>, Foreign<'h>)> {
    let hub_process = Hub::start_on(hub, &hub.address().to_string(), &[])?;
    let agent = Agent::join(Some(foreign), "foreign", &hub_process.join_line(&[])?)?;
    let peer = Foreign::start(foreign, agent, hub.address())?;
    Ok((hub_process, peer))
}

fn dropped(hub: &Hub<'_>, reason: &str) -> Result<u64> {
    metric(hub, &format!("hub_tunnel_datagrams_dropped_total{{reason=\"{reason}\"}}"))
}

#[test]
fn a_foreign_peer_exchanges_traffic_in_every_size() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("foreign")?];
    let (hub, mut foreign) = hub_and_foreign(&hosts[0], &hosts[1])?;
    for arguments in [
        &["-c", "50", "-i", "0.2", foreign.hub_v4.as_str()][..],
        &["-c", "50", "-i", "0.02", "-s", "1200", foreign.hub_v4.as_str()],
        &["-c", "50", "-i", "0.02", "-s", "0", foreign.hub_v4.as_str()],
        &["-c", "50", "-i", "0.02", "-s", "1200", foreign.hub_v6.as_str()],
    ] {
        let pings = foreign.ping(arguments)?;
        ensure!((pings.sent, pings.received) == (50, 50), "ping {arguments:?}: {pings:?}\n{}", foreign.log());
    }
    ensure!(metric(&hub, "hub_tunnel_handshakes_total")? == 1, "one handshake was enough");
    eventually_ok(SOON, "the hub to believe the foreign peer", || {
        let node = hub.api(&Request::get("/v1/nodes/foreign"))?.json()?;
        ensure!(text(&node, "/node/state")? == "no-control", "{node}");
        Ok(())
    })?;
    ensure!(foreign.is_running(), "wireguard-go still runs");
    Ok(())
}

#[test]
fn a_foreign_peer_reaches_no_other_spoke_and_speaks_for_nobody_else() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("foreign")?, lab.host("victim")?];
    let (hub, foreign) = hub_and_foreign(&hosts[0], &hosts[1])?;
    let victim = Spoke::start(&hub, Some(&hosts[2]), "victim", "7/42")?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    let node = || hub.api(&Request::get(&format!("/v1/nodes/{}", victim.agent.id())))?.json();
    let before = node()?;
    let [v4, v6] = ["/node/address_v4", "/node/address_v6"].map(|field| text(&before, field));
    let (v4, v6) = (v4?, v6?);

    foreign.take_address(v4, v6)?;
    for (from, to) in [(v4, &foreign.hub_v4), (v6, &foreign.hub_v6)] {
        let count = dropped(&hub, "spoofed_source")?;
        let pings = foreign.ping(&["-c", "5", "-i", "0.02", "-W", "1", "-I", from, to])?;
        ensure!((pings.sent, pings.received) == (5, 0), "from {from}: {pings:?}");
        ensure!(
            dropped(&hub, "spoofed_source")? == count + 5,
            "{} of 5 counted",
            dropped(&hub, "spoofed_source")? - count
        );
    }
    foreign.give_back(v4, v6)?;
    for to in [v4, v6] {
        let count = dropped(&hub, "denied")?;
        let pings = foreign.ping(&["-c", "5", "-i", "0.02", "-W", "1", to])?;
        ensure!((pings.sent, pings.received) == (5, 0), "to {to}: {pings:?}");
        ensure!(dropped(&hub, "denied")? == count + 5, "{} of 5 counted", dropped(&hub, "denied")? - count);
    }
    ensure!(metric(&hub, "hub_tunnel_relayed_packets_total")? == 0, "nothing was passed on");

    let pings = foreign.ping(&["-c", "5", "-i", "0.02", &foreign.hub_v4])?;
    ensure!(pings.received == 5, "under its own address it is heard: {pings:?}");
    let after = node()?;
    // The port may be another: an agent that saw no echo for a moment tries a new socket.
    let endpoint: SocketAddr = text(&after, "/node/tunnel/endpoint")?.parse()?;
    ensure!(endpoint.ip() == hosts[2].address(), "the tunnel of the other spoke was taken over: {after}");
    ensure!(hub.get("42", &token, "/")?.status == 200, "the other spoke is unharmed");
    Ok(())
}

#[test]
fn a_foreign_peer_keeps_its_path_over_two_rekeys_soak() -> Result<()> {
    const REKEYS: u32 = 2;
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("foreign")?];
    let (hub, foreign) = hub_and_foreign(&hosts[0], &hosts[1])?;
    let pinging = foreign.start_ping(&["-i", "0.2", &foreign.hub_v4])?;
    let begin = Instant::now();
    let mut last = eventually(SOON, "the first handshake", || foreign.latest_handshake())?;
    for rekey in 1..=REKEYS {
        let mut looked = Instant::now();
        last = eventually(REKEY_WITHIN, "a rekey", || {
            (looked.elapsed() >= Duration::from_secs(1)).then_some(())?;
            looked = Instant::now();
            foreign.latest_handshake().filter(|at| *at != last)
        })
        .with_context(|| format!("{}\n{}", foreign.log(), hub.log()))?;
        say(format_args!("foreign peer: rekey {rekey} after {:.0?}", begin.elapsed()));
    }
    // Some more under the last key.
    pass(Duration::from_secs(5))?;
    let pings = pinging.finish()?;
    let handshakes = metric(&hub, "hub_tunnel_handshakes_total")?;
    say(format_args!(
        "foreign peer: {} of {} pings answered in {:.0?}, {handshakes} handshakes at the hub",
        pings.received,
        pings.sent,
        begin.elapsed()
    ));
    ensure!(pings.sent - pings.received <= REKEYS, "{pings:?}\n{}", foreign.log());
    ensure!((3..=4).contains(&handshakes), "{handshakes} handshakes");
    Ok(())
}

/// Whether sessions of the pinned boringtun go deaf (its issue 495): sparse requests over several rekeys.
///
/// The agent's echo notices a deaf session after 2 s and would hide it, so every echo that is missed counts.
#[test]
fn an_agent_with_little_traffic_never_goes_deaf_soak() -> Result<()> {
    if !require(&[Need::Soak]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("agent")?];
    let time = seconds_from("BLUEPRINT_TEST_SOAK_SECS", 400)?;
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let spoke = Spoke::start(&hub, Some(&hosts[1]), "sparse", "7/42")?;
    let token = hub.access_token("7/42")?;
    hub.wait_served("42", &token, SOON)?;
    let before = metric(&hub, "hub_tunnel_handshakes_total")?;
    let (begin, mut answered, mut slowest) = (Instant::now(), 0u32, Duration::ZERO);
    while begin.elapsed() < time {
        let due = begin + SPARSE * answered;
        eventually(SPARSE * 2, "the next request to be due", || (Instant::now() >= due).then_some(()))?;
        let sent = Instant::now();
        let response = hub.get("42", &token, "/").with_context(|| format!("after {answered} requests"))?;
        ensure!(response.status == 200, "after {answered} requests: {}", response.text());
        slowest = slowest.max(sent.elapsed());
        answered += 1;
        let log = spoke.agent.log();
        ensure!(
            !log.contains("does not echo"),
            "after {answered} requests and {:?}:\n{log}",
            begin.elapsed()
        );
    }
    let rekeys = metric(&hub, "hub_tunnel_handshakes_total")? - before;
    say(format_args!(
        "sparse traffic: {answered} of {answered} requests answered in {:.0?} over {rekeys} rekeys, the slowest in \
         {slowest:.3?}; no echo was missed",
        begin.elapsed()
    ));
    ensure!(slowest < PROMPT, "a request took {slowest:?}");
    ensure!(rekeys >= time.as_secs() / 130, "only {rekeys} rekeys in {time:?}");
    Ok(())
}
