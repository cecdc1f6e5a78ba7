//! A hostile spoke reaches nobody: not by its own agent, and not by speaking WireGuard itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab, eventually_ok};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::liar::Liar;
use super::machine::{Machine, Witness, is_possible, places};
use super::packets::{ACK, MORE_FRAGMENTS, SYN, changed, fragment, packet, tcp, udp, v4, with};
use crate::fixture::{Agent, CALL, Hub, SOON, TUN};
use crate::say::{metric, pass, say};

/// What a machine may begin in the second half of the tests.
const GRANT: &str =
    "[[grant]]\nname = \"a hole\"\nfrom = [\"liar\"]\nto = [\"victim\"]\nallow = [\"tcp/5432\"]\n";

/// Time in which a packet that was let through would have arrived.
const ARRIVES: Duration = Duration::from_millis(500);

/// Options of an IPv4 header: loose source route (RFC 791), and record route.
const SOURCE_ROUTE: [u8; 8] = [131, 7, 4, 10, 88, 0, 1, 0];
const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];

/// Addresses that play a part.
#[derive(Debug, Clone, Copy)]
struct Places {
    liar: [IpAddr; 2],
    victim: [IpAddr; 2],
    hub: [IpAddr; 2],
}

impl Places {
    fn four(addresses: [IpAddr; 2]) -> Ipv4Addr {
        match addresses {
            [IpAddr::V4(address), _] => address,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }
}

/// A packet, and the reason for which it has to be refused.
type Attempt = (&'static str, Vec<u8>);

/// Packets that are refused whatever the policy says.
fn never_allowed(places: Places) -> Vec<Attempt> {
    let Places { liar: [me, me_v6], victim: [victim, victim_v6], hub: [hub, hub_v6] } = places;
    let mut attempts = Vec::new();
    for (from, to) in [(victim, hub), (hub, victim), (hub, hub), (victim, victim), (victim_v6, hub_v6)] {
        attempts.push(("spoofed_source", udp(from, to, 53)));
        attempts.push(("spoofed_source", tcp(from, to, (5432, 22), ACK)));
    }
    for stranger in [[10, 88, 9, 9], [198, 18, 1, 2], [8, 8, 8, 8]] {
        attempts.push(("spoofed_source", udp(stranger.into(), victim, 5432)));
    }
    // Back to itself, to nobody, and out of the overlay.
    for (from, to) in [(me, me), (me_v6, me_v6), (me, [10, 88, 9, 9].into()), (me, [8, 8, 8, 8].into())] {
        attempts.push(("no_route", udp(from, to, 53)));
    }
    for special in [[127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [169, 254, 169, 254]] {
        attempts.push(("special_address", udp(me, special.into(), 53)));
        attempts.push(("special_address", udp(special.into(), victim, 53)));
    }
    for special in
        ["ff02::1", "::1", "fe80::1", "::ffff:10.88.0.1"].iter().filter_map(|text| text.parse().ok())
    {
        attempts.push(("special_address", udp(me_v6, IpAddr::V6(special), 53)));
    }
    attempts.extend(in_pieces(places));
    attempts.extend(garbage(places, [victim_v6, hub_v6]));
    attempts
}

/// Fragments, options and extension headers, to the victim on the port that may be granted, and to the hub.
fn in_pieces(places: Places) -> Vec<Attempt> {
    let Places { liar: [me, me_v6], victim, hub } = places;
    let mut attempts = Vec::new();
    for [to, to_v6] in [victim, hub] {
        let whole = tcp(me, to, (40_000, 5432), SYN);
        for field in [MORE_FRAGMENTS, MORE_FRAGMENTS | 1, 1, 0x1fff] {
            attempts.push(("fragment", fragment(&whole, field)));
        }
        // Next header, reserved, offset 0 with more to come, identification (RFC 8200, section 4.5).
        let piece = [&[6, 0, 0, 1, 0, 0, 0, 7][..], whole.get(20..).unwrap_or_default()].concat();
        attempts.push(("fragment", packet(me_v6, to_v6, 44, &piece)));
        if let (IpAddr::V4(from), IpAddr::V4(to)) = (me, to) {
            for options in [SOURCE_ROUTE, RECORD_ROUTE] {
                attempts.push(("ip_options", v4(from, to, 6, &options, whole.get(20..).unwrap_or_default())));
            }
        }
        for extension in [0, 43, 60] {
            let extended = [&[6, 0, 1, 4, 0, 0, 0, 0][..], whole.get(20..).unwrap_or_default()].concat();
            attempts.push(("ip_options", packet(me_v6, to_v6, extension, &extended)));
        }
    }
    attempts
}

/// What is no packet at all.
fn garbage(places: Places, others: [IpAddr; 2]) -> Vec<Attempt> {
    let Places { liar: [me, me_v6], victim: [victim, _], .. } = places;
    let whole = tcp(me, victim, (40_000, 5432), SYN);
    let whole_v6 = tcp(me_v6, others[0], (40_000, 5432), SYN);
    let mut attempts: Vec<Vec<u8>> = vec![
        vec![0x45],
        vec![0; 20],
        vec![0xff; 1400],
        whole.get(..19).unwrap_or_default().to_vec(),
        whole_v6.get(..39).unwrap_or_default().to_vec(),
        // A header of four words, a length beyond the end, one before it, and a wrong checksum.
        with(&whole, 0, &[0x44]),
        with(&whole, 2, &[0x05, 0xdc]),
        with(&whole, 2, &[0, 19]),
        changed(&whole, 10, &[0, 0]),
        changed(&whole_v6, 4, &[0x05, 0xdc]),
    ];
    attempts.extend([0x05, 0x15, 0x55, 0x75, 0xf5].map(|version| changed(&whole, 0, &[version])));
    attempts.into_iter().map(|bytes| ("malformed_packet", bytes)).collect()
}

/// Packets that only the policy stands against.
fn not_granted(places: Places) -> Vec<Attempt> {
    let Places { liar: [me, me_v6], victim: [victim, victim_v6], hub: [hub, hub_v6], .. } = places;
    let mut attempts = vec![
        udp(me, hub, 22),
        udp(me_v6, hub_v6, 53),
        tcp(me, hub, (40_000, 22), SYN),
        tcp(me_v6, hub_v6, (9, 9), SYN),
    ];
    for (from, to) in [(me, victim), (me_v6, victim_v6)] {
        for port in [1, 22, 53, 5431, 5433, u16::MAX] {
            attempts.push(udp(from, to, port));
            attempts.push(tcp(from, to, (5432, port), SYN));
            attempts.push(tcp(from, to, (5432, port), SYN | ACK));
            attempts.push(tcp(from, to, (5432, port), ACK));
        }
        // What lies behind the length that a packet names is padding: no ports are left.
        if from.is_ipv4() {
            attempts.push(with(&tcp(from, to, (40_000, 5432), SYN), 2, &[0, 20]));
        }
        // Echoes, errors about nothing, SCTP, an IP tunnel, and a number that is nobody's.
        for (protocol, first) in [(1, 8), (1, 3), (58, 128), (132, 0), (4, 0), (47, 0), (200, 0)] {
            attempts.push(packet(from, to, protocol, &[first, 0, 0, 0, 0, 0, 0, 0]));
        }
    }
    attempts.into_iter().map(|packet| ("denied", packet)).collect()
}

fn dropped(hub: &Hub<'_>, reason: &str) -> Result<u64> {
    metric(hub, &format!("hub_tunnel_datagrams_dropped_total{{reason=\"{reason}\"}}"))
}

/// Makes the attempts; the hub has to count each for its reason.
fn ensure_counted(
    hub: &Hub<'_>,
    attempts: &[Attempt],
    mut send: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut due: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, _) in attempts {
        if !due.contains_key(reason) {
            due.insert(reason, dropped(hub, reason)?);
        }
    }
    for (reason, packet) in attempts {
        send(packet)?;
        due.entry(reason).and_modify(|count| *count += 1);
    }
    eventually_ok(CALL, "the hub's counters", || {
        let mut found = BTreeMap::new();
        for reason in due.keys() {
            found.insert(*reason, dropped(hub, reason)?);
        }
        ensure!(found == due, "{found:?} instead of {due:?}");
        Ok(())
    })
}

/// A hub and a victim with devices and somebody who looks at both, and the host of the hostile machine.
struct Scene<'h> {
    hub: Hub<'h>,
    victim: Machine<'h>,
    witnesses: [Witness<'h>; 2],
}

impl<'h> Scene<'h> {
    fn start(hub_host: &'h Host, victim: &'h Host) -> Result<Self> {
        let settings = [&TUN[..], &["tunnel.to_hub=udp/9"]].concat();
        let hub = Hub::start_on(hub_host, &hub_host.address().to_string(), &settings)?;
        let victim = Machine::start(&hub, victim, "victim")?;
        let witnesses = [Witness::start(hub_host)?, Witness::start(victim.host)?];
        Ok(Self { hub, victim, witnesses })
    }

    fn arrived(&self) -> Result<[u64; 2]> {
        Ok([self.witnesses[0].count()?, self.witnesses[1].count()?])
    }

    /// Nothing has come to hub and victim but what is named here.
    fn ensure_arrived(&self, expected: [u64; 2]) -> Result<()> {
        pass(ARRIVES)?;
        let arrived = self.arrived()?;
        ensure!(arrived == expected, "{arrived:?} packets at hub and victim instead of {expected:?}");
        Ok(())
    }

    fn places(&self, agent: &Agent<'_>) -> Result<Places> {
        let victim = [self.victim.v4.into(), self.victim.v6.into()];
        Ok(Places { liar: places(agent, "address")?, victim, hub: places(agent, "hub")? })
    }
}

#[test]
fn a_spoke_that_speaks_wireguard_itself_reaches_nobody_and_is_counted_by_reason() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("victim")?, lab.host("liar")?];
    let scene = Scene::start(&hosts[0], &hosts[1])?;
    let hub = &scene.hub;
    let agent = Agent::join(Some(&hosts[2]), "liar", &hub.join_line(&[])?)?;
    let mut liar = Liar::start(&hosts[2], &agent, hosts[0].address())?;
    let places = scene.places(&agent)?;
    let [me, victim] = [places.liar[0], places.victim[0]];

    let attempts: Vec<_> = [never_allowed(places), not_granted(places)].concat();
    ensure_counted(hub, &attempts, |packet| liar.say(packet).map(drop))?;
    scene.ensure_arrived([0, 0])?;
    ensure!(metric(hub, "hub_tunnel_relayed_packets_total")? == 0, "something was passed on");

    // A hole of one port lets through one port.
    hub.command(&["policy", "set", "-"])?.stdin(GRANT).run(CALL)?;
    let granted = tcp(me, victim, (40_000, 5432), SYN);
    liar.say(&granted)?;
    eventually_ok(SOON, "what was granted", || {
        ensure!(scene.arrived()? == [0, 1], "{:?}", scene.arrived()?);
        Ok(())
    })?;
    ensure_counted(hub, &attempts, |packet| liar.say(packet).map(drop))?;
    ensure_counted(
        hub,
        &[("hop_limit", with(&granted, 8, &[1])), ("hop_limit", with(&granted, 8, &[0]))],
        |packet| liar.say(packet).map(drop),
    )?;
    scene.ensure_arrived([0, 1])?;
    say(format_args!("{} kinds of packets were refused, each twice", attempts.len()));
    Ok(())
}

#[test]
fn datagrams_that_are_forged_replayed_or_damaged_reach_nobody() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("victim")?, lab.host("liar")?];
    let scene = Scene::start(&hosts[0], &hosts[1])?;
    let hub = &scene.hub;
    let agent = Agent::join(Some(&hosts[2]), "liar", &hub.join_line(&[])?)?;
    let mut liar = Liar::start(&hosts[2], &agent, hosts[0].address())?;
    let places = scene.places(&agent)?;

    // To this port of the hub it may speak; what it says once is heard once.
    let message = liar.say(&udp(places.liar[0], places.hub[0], 9))?;
    eventually_ok(SOON, "the honest packet", || {
        ensure!(scene.arrived()? == [1, 0], "{:?}", scene.arrived()?);
        Ok(())
    })?;
    let mut attempts = vec![("replay", message.clone()), ("replay", message.clone())];
    // The counter lies at 8, what is sealed from 16 on.
    attempts.push(("unauthentic", changed(&message, 8, &[200])));
    attempts.push(("unknown_index", changed(&message, 4, &[0xde, 0xad, 0xbe, 0xef])));
    attempts.push(("counter_limit", changed(&message, 8, &[0xff; 8])));
    attempts.push(("invalid_mac", [&[1, 0, 0, 0][..], &[7; 144]].concat()));
    for size in [1, 3, 31, 149, 1400] {
        attempts.push(("not_wireguard", vec![0x17; size]));
    }
    ensure_counted(hub, &attempts, |datagram| liar.throw(datagram))?;
    scene.ensure_arrived([1, 0])?;

    ensure!(
        liar.hear(ARRIVES)?.is_none_or(|packet| packet.first() == Some(&0x45)),
        "only the hub speaks to it"
    );
    Ok(())
}

/// Sends packets with their IPv4 header from a program of a machine, by the routes that its kernel has.
fn write_raw(host: &Host, attempts: &[Attempt]) -> Result<()> {
    let work = || -> Result<()> {
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        for (reason, packet) in attempts {
            let to: [u8; 4] = packet.get(16..20).context("no IPv4 packet")?.try_into()?;
            let to = SockaddrIn::from(SocketAddrV4::new(to.into(), 0));
            sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty())
                .with_context(|| format!("{reason}: {packet:?}"))?;
        }
        Ok(())
    };
    host.enter(work)?
}

#[test]
fn a_program_on_a_machine_with_an_honest_agent_reaches_nobody() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("victim")?, lab.host("liar")?];
    let scene = Scene::start(&hosts[0], &hosts[1])?;
    let mut machine = Machine::start(&scene.hub, &hosts[2], "liar")?;
    let places = scene.places(&machine.agent)?;
    let to_overlay = |packet: &[u8]| packet.len() >= 40 && packet.get(16..18) == Some(&[10, 88]);
    let is_v4 =
        |(_, packet): &Attempt| packet.first().is_some_and(|byte| byte >> 4 == 4) && to_overlay(packet);

    // The agent refuses what is no plain packet of its own machine; the hub need not.
    let mut due: BTreeMap<&str, u64> = BTreeMap::new();
    let mut own = Vec::new();
    for (reason, packet) in never_allowed(places).into_iter().filter(is_v4) {
        let reason = match reason {
            "spoofed_source" => "foreign_source",
            "fragment" | "ip_options" => reason,
            // The kernel mends lengths and checksums, and sends what is for itself or nobody elsewhere.
            _ => continue,
        };
        // What the kernel itself takes for its own mistakes does not even leave it.
        if packet.get(12..16) == packet.get(16..20)
            || packet.get(16..20) == Some(&Places::four(places.liar).octets())
        {
            continue;
        }
        *due.entry(reason).or_default() += 1;
        own.push((reason, packet));
    }
    let mut before = BTreeMap::new();
    for reason in due.keys() {
        before.insert(*reason, machine.refused(reason)?);
    }
    write_raw(&hosts[2], &own)?;
    eventually_ok(CALL, "the agent's counters", || {
        for (reason, count) in &due {
            let found = machine.refused(reason)? - before.get(reason).copied().unwrap_or(0);
            ensure!(found >= *count, "{found} of {count} counted as {reason}");
        }
        Ok(())
    })?;
    // What is well-formed and its own goes to the hub, and there against the policy.
    let denied: Vec<_> = not_granted(places).into_iter().filter(is_v4).collect();
    let count = dropped(&scene.hub, "denied")?;
    write_raw(&hosts[2], &denied)?;
    eventually_ok(CALL, "the hub's counter", || {
        let found = dropped(&scene.hub, "denied")? - count;
        ensure!(found == u64::try_from(denied.len())?, "{found} of {}", denied.len());
        Ok(())
    })?;
    scene.ensure_arrived([0, 0])?;
    say(format_args!("{} packets were refused by the agent, {} by the hub", own.len(), denied.len()));
    Ok(())
}
