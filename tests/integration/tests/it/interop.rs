//! Our tunnel and foreign ends, in both roles: `wireguard-go` and `boringtun-cli` as spokes of ours, and as the hub
//! that ours dials, each with a device of ours and with the TCP/IP inside this process.
//!
//! The hub proper makes peers only of machines that join; so the tunnel of hub and agent runs in this process, with
//! its sockets and device in a namespace. `foreign_peer` has the same with the hub proper.

mod ours;
mod tap;
mod theirs;
mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blueprint_common_tunnel::{Interface, TunSettings};
use blueprint_common_tunnel_core::{Limits, OverlayPrefixes, Rate, Role};
use blueprint_common_types::OverlayLease;
use blueprint_tests_support::{Host, Lab, eventually, eventually_ok};

use self::ours::{Make, Ours};
use self::tap::Tap;
use self::theirs::{Kind, Peering, Theirs};
use self::traffic::{Place, at, exchange};
use crate::fixture::SOON;
use crate::flood::{Flood, in_turn, sockets, unknown_initiations};
use crate::ping::{Pinging, ping};
use crate::say::{pass, say};

const PORT: u16 = 51_820;
const MTU: u16 = 1420;
/// Longest time for what takes milliseconds.
const PROMPT: Duration = Duration::from_secs(5);
const PSK: [u8; 32] = [42; 32];

fn prefixes() -> Result<OverlayPrefixes> {
    Ok(OverlayPrefixes { v4: "10.99.0.0/24".parse()?, v6: "fd99::/64".parse()? })
}

fn psk_text(key: &[u8; 32]) -> String {
    STANDARD.encode(key)
}

/// Hub or spoke: the hub waits, the spoke dials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Hub,
    Spoke,
}

impl End {
    const fn other(self) -> Self {
        match self {
            Self::Hub => Self::Spoke,
            Self::Spoke => Self::Hub,
        }
    }

    const fn role(self) -> Role {
        match self {
            Self::Hub => Role::Hub,
            Self::Spoke => Role::Spoke,
        }
    }

    fn lease(self) -> OverlayLease {
        let last = match self {
            Self::Hub => 1,
            Self::Spoke => 2,
        };
        OverlayLease { v4: [10, 99, 0, last].into(), v6: [0xfd99, 0, 0, 0, 0, 0, 0, last.into()].into() }
    }

    fn addresses(self) -> [IpAddr; 2] {
        let OverlayLease { v4, v6 } = self.lease();
        [v4.into(), v6.into()]
    }

    /// What the other end may be sent from here.
    fn allowed(self) -> Vec<String> {
        self.addresses().iter().map(|ip| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })).collect()
    }
}

/// Both ends, not yet met.
#[derive(Debug)]
struct Pair<'h> {
    ours: Ours<'h>,
    theirs: Theirs<'h>,
}

impl<'h> Pair<'h> {
    fn new(make: &Make, kind: Kind, hosts: &'h [Host; 2]) -> Result<Self> {
        let [ours, theirs] = hosts;
        Ok(Self { ours: Ours::start(ours, make)?, theirs: Theirs::start(kind, theirs)? })
    }

    /// Tells each of the other, the hub first; the spoke dials at once, the hub or what relays to it.
    fn meet(&self, end: End, hub_at: Option<SocketAddr>, psk: Option<[u8; 32]>) -> Result<()> {
        match end {
            End::Hub => {
                self.tell_ours(end, hub_at, psk)?;
                self.tell_theirs(end, hub_at, psk)
            }
            End::Spoke => {
                self.tell_theirs(end, hub_at, psk)?;
                self.tell_ours(end, hub_at, psk)
            }
        }
    }

    fn tell_ours(&self, end: End, hub_at: Option<SocketAddr>, psk: Option<[u8; 32]>) -> Result<()> {
        let dial = hub_at.unwrap_or_else(|| SocketAddr::from((self.theirs.host.address(), PORT)));
        self.ours.meet(self.theirs.key(), (end == End::Spoke).then_some(dial), psk, None)
    }

    fn tell_theirs(&self, end: End, hub_at: Option<SocketAddr>, psk: Option<[u8; 32]>) -> Result<()> {
        let dial = hub_at.unwrap_or_else(|| SocketAddr::from((self.ours.host.address(), PORT)));
        self.theirs.configure(&Peering {
            end: end.other(),
            ours: self.ours.key(),
            dial: (end == End::Hub).then_some(dial),
            preshared_key: psk,
            // A foreign spoke that has nothing to send would not dial.
            keepalive: if end == End::Hub { 1 } else { 0 },
        })
    }

    fn wait_up(&self, within: Duration) -> Result<()> {
        eventually(within, "a handshake", || (self.ours.handshakes() > 0).then_some(()))
            .with_context(|| format!("{:?} {}", self.ours.tunnel.snapshot().discards, self.theirs.log()))
    }

    /// Where programs at our end send from.
    fn place(&self) -> Place<'_> {
        if self.ours.tunnel.device().is_some() {
            Place::Host(self.ours.host)
        } else {
            Place::Stack(&self.ours)
        }
    }
}

fn two_hosts(lab: &Lab) -> Result<[Host; 2]> {
    pair_of_hosts(lab, 0)
}

fn pair_of_hosts(lab: &Lab, number: usize) -> Result<[Host; 2]> {
    Ok([lab.host(&format!("ours{number}"))?, lab.host(&format!("theirs{number}"))?])
}

fn make(end: End, interface: Interface) -> Make {
    Make { end, interface, limits: Limits::default() }
}

fn device() -> Interface {
    Interface::Tun(TunSettings::default())
}

fn ping_all(host: &Host, arguments: &[&str], to: IpAddr) -> Result<()> {
    let to = to.to_string();
    let arguments: Vec<&str> = arguments.iter().copied().chain([to.as_str()]).collect();
    eventually_ok(SOON, "every echo of a series", || {
        let pings = ping(host, &arguments)?;
        ensure!(pings.sent == pings.received, "ping {arguments:?}: {pings:?}");
        Ok(())
    })
}

/// Echoes and TCP both ways, small and as large as the MTU allows, over IPv4 and IPv6, under a preshared key.
fn exchange_everything(kind: Kind) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| kind.is_possible()) else { return Ok(()) };
    for end in [End::Hub, End::Spoke] {
        for interface in [device(), Interface::Netstack] {
            let what = || format!("ours is the {end:?} with {interface:?}");
            let hosts = two_hosts(&lab).with_context(what)?;
            let pair = Pair::new(&make(end, interface.clone()), kind, &hosts).with_context(what)?;
            pair.meet(end, None, Some(PSK)).with_context(what)?;
            pair.wait_up(PROMPT).with_context(what)?;
            everything_between(&pair, end).with_context(what)?;
            ensure!(pair.ours.handshakes() == 1, "{} handshakes: {}", pair.ours.handshakes(), what());
        }
    }
    Ok(())
}

fn everything_between(pair: &Pair<'_>, end: End) -> Result<()> {
    let Pair { ours, theirs } = pair;
    // 1420 with the headers of IP and ICMP.
    let [full_v4, full_v6] = ["1392", "1372"];
    let quick = ["-c", "10", "-i", "0.02", "-W", "1", "-M", "do", "-s"];
    let pinging = |host: &Host, [v4, v6]: [IpAddr; 2]| -> Result<()> {
        for (size, to) in [("0", v4), ("56", v6), (full_v4, v4), (full_v6, v6)] {
            let arguments: Vec<&str> = quick.iter().copied().chain([size]).collect();
            ping_all(host, &arguments, to)?;
        }
        Ok(())
    };
    // Ours may find out first that the path takes full packets.
    eventually_ok(SOON, "the MTU of the path", || {
        let mtu = ours.peer()?.mtu;
        ensure!(mtu == MTU, "{mtu}");
        Ok(())
    })?;
    pinging(theirs.host, end.addresses()).context("from them")?;
    if ours.tunnel.device().is_some() {
        pinging(ours.host, end.other().addresses()).context("from us")?;
    }
    for address in at(end.addresses(), 7001) {
        exchange(Place::Host(theirs.host), pair.place(), address)?;
    }
    for address in at(end.other().addresses(), 7002) {
        exchange(pair.place(), Place::Host(theirs.host), address)?;
    }
    ensure!(ours.dropped("unauthentic") == 0, "{:?}", ours.tunnel.snapshot().discards);
    Ok(())
}

#[test]
fn wireguard_go_exchanges_everything_in_both_roles() -> Result<()> {
    exchange_everything(Kind::WireguardGo)
}

#[test]
fn boringtun_exchanges_everything_in_both_roles() -> Result<()> {
    exchange_everything(Kind::Boringtun)
}

#[test]
fn another_preshared_key_keeps_foreign_ends_apart_until_it_is_right() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    for kind in kinds {
        for end in [End::Hub, End::Spoke] {
            let hosts = two_hosts(&lab)?;
            let pair = Pair::new(&make(end, Interface::Netstack), kind, &hosts)?;
            pair.tell_ours(end, None, Some([43; 32]))?;
            pair.tell_theirs(end, None, Some(PSK))?;
            pass(Duration::from_secs(2))?;
            ensure!(pair.ours.handshakes() == 0, "{kind:?}, ours is the {end:?}: another key was good");
            pair.tell_ours(end, None, Some(PSK))?;
            pair.wait_up(SOON)?;
            ping_all(pair.theirs.host, &["-c", "3", "-i", "0.02", "-W", "1"], end.addresses()[0])?;
        }
    }
    Ok(())
}

#[test]
fn keepalives_pass_both_ways_without_any_traffic() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    let hosts = [pair_of_hosts(&lab, 0)?, pair_of_hosts(&lab, 1)?];
    let pairs = kinds
        .into_iter()
        .zip(&hosts)
        .map(|(kind, hosts)| {
            let pair = Pair::new(&make(End::Hub, Interface::Netstack), kind, hosts)?;
            let tap = Tap::start(&hosts[1], SocketAddr::from((hosts[0].address(), PORT)))?;
            pair.meet(End::Hub, Some(tap.address), None)?;
            pair.wait_up(PROMPT)?;
            // Ours is a hub, which sends nothing unless asked.
            pair.ours.meet(pair.theirs.key(), None, None, Some(Duration::from_secs(1)))?;
            Ok((pair, tap))
        })
        .collect::<Result<Vec<_>>>()?;
    pass(Duration::from_secs(1))?;
    // An empty message is 32 bytes. Ours are up to a second late.
    let count = |tap: &Tap, is_from_dialler| {
        let seen = tap.seen();
        seen.iter().filter(|seen| seen.is_from_dialler == is_from_dialler && seen.bytes.len() == 32).count()
    };
    let counts = |tap: &Tap| [true, false].map(|is_from_dialler| count(tap, is_from_dialler));
    let before: Vec<_> = pairs.iter().map(|(_, tap)| counts(tap)).collect();
    pass(Duration::from_secs(6))?;
    for ((pair, tap), [theirs_before, ours_before]) in pairs.iter().zip(before) {
        let [theirs, ours] = counts(tap);
        let grown = [theirs - theirs_before, ours - ours_before];
        ensure!(grown.iter().all(|count| (2..=9).contains(count)), "{:?}: {grown:?}", pair.theirs.kind);
        ensure!(pair.ours.handshakes() == 1, "{:?}", pair.theirs.kind);
    }
    Ok(())
}

/// Longest silence after a move (P5 of the promises).
const MOVED: Duration = Duration::from_secs(3);

#[test]
fn a_foreign_spoke_that_roams_is_followed() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    for kind in kinds {
        let hosts = two_hosts(&lab)?;
        let pair = Pair::new(&make(End::Hub, device()), kind, &hosts)?;
        pair.meet(End::Hub, None, None)?;
        pair.wait_up(PROMPT)?;
        let followed = |to: SocketAddr| -> Result<()> {
            let begin = Instant::now();
            eventually_ok(MOVED, "the hub to follow", || {
                let endpoint = pair.ours.peer()?.endpoint.context("no endpoint")?;
                ensure!(endpoint.remote == to, "{endpoint} is not {to}");
                Ok(())
            })
            .with_context(|| format!("{kind:?}: {}", pair.theirs.log()))?;
            ping_all(pair.ours.host, &["-c", "3", "-i", "0.02", "-W", "1"], End::Spoke.addresses()[0])?;
            say(format_args!("{kind:?}: followed to {to} within {:.1?}", begin.elapsed()));
            Ok(())
        };
        followed(SocketAddr::from((pair.theirs.host.address(), PORT)))?;
        pair.theirs.set_port(PORT + 1)?;
        followed(SocketAddr::from((pair.theirs.host.address(), PORT + 1)))?;
        let moved = pair.theirs.host.change_address()?;
        // Left alone, wireguard-go sends from the address that is gone for 15 s more; a new socket forgets it.
        pair.theirs.set_port(PORT)?;
        followed(SocketAddr::from((moved, PORT)))?;
        ensure!(pair.ours.handshakes() == 1, "{kind:?}: {} handshakes", pair.ours.handshakes());
    }
    Ok(())
}

#[test]
fn a_foreign_hub_follows_our_spoke_when_it_roams() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    for kind in kinds {
        let hosts = two_hosts(&lab)?;
        let pair = Pair::new(&make(End::Spoke, device()), kind, &hosts)?;
        pair.meet(End::Spoke, None, None)?;
        pair.wait_up(PROMPT)?;
        let moved = SocketAddr::from((pair.ours.host.change_address()?, PORT));
        let begin = Instant::now();
        eventually_ok(MOVED, "the foreign hub to follow", || {
            let endpoint = pair.theirs.endpoint()?;
            ensure!(endpoint == moved, "{endpoint} is not {moved}");
            Ok(())
        })
        .with_context(|| format!("{kind:?}: {}", pair.theirs.log()))?;
        say(format_args!("{kind:?}: it followed within {:.1?}", begin.elapsed()));
        ping_all(pair.theirs.host, &["-c", "3", "-i", "0.02", "-W", "1"], End::Spoke.addresses()[0])?;
    }
    Ok(())
}

/// The dialler was sent a cookie, showed it, and was answered.
fn had_its_cookie(tap: &Tap) -> Result<()> {
    let seen = tap.seen();
    let position = |what: &str, from: usize, is: &dyn Fn(&tap::Seen) -> bool| {
        let later = seen.iter().enumerate().skip(from);
        let found = later.filter(|(_, seen)| is(seen)).map(|(at, _)| at).next();
        found.with_context(|| format!("no {what} among {} datagrams from {from}", seen.len()))
    };
    let cookie = position("cookie reply", 0, &|seen| seen.is(3) && !seen.is_from_dialler)?;
    let shown =
        position("initiation with a cookie", cookie, &|seen| seen.shows_cookie() && seen.is_from_dialler)?;
    position("response", shown, &|seen| seen.is(2) && !seen.is_from_dialler).map(drop)
}

/// A flood has used up what ours gives to sources without a cookie.
#[test]
fn a_foreign_spoke_comes_in_by_our_cookie() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    let attacker = lab.host("attacker")?;
    for kind in kinds {
        let hosts = two_hosts(&lab)?;
        let limits = Limits { unverified: Rate::new(1, 1), ..Limits::default() };
        let pair = Pair::new(&Make { limits, ..make(End::Hub, Interface::Netstack) }, kind, &hosts)?;
        let hub = SocketAddr::from((pair.ours.host.address(), PORT));
        let initiations = in_turn(unknown_initiations(pair.ours.key(), 16)?);
        let flood = Flood::start(sockets(&attacker, 16)?, hub, 2000, initiations)?;
        eventually(PROMPT, "the flood", || (pair.ours.dropped("cookie_sent") > 10).then_some(()))?;
        let tap = Tap::start(pair.theirs.host, hub)?;
        pair.meet(End::Hub, Some(tap.address), None)?;
        // It retries every 5 s.
        pair.wait_up(SOON)?;
        had_its_cookie(&tap).with_context(|| format!("{kind:?}: {}", pair.theirs.log()))?;
        let counts = flood.finish()?;
        ensure!(counts.no_cookies == 0 && counts.answers > 0, "strangers get cookies, no more: {counts:?}");
        ensure!(counts.answer_bytes < counts.sent_bytes / 2, "{counts:?}");
    }
    Ok(())
}

/// A flood has driven the foreign hub to ask for cookies.
#[test]
fn our_spoke_comes_in_by_the_cookie_of_a_foreign_hub() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    let attacker = lab.host("attacker")?;
    for kind in kinds {
        let hosts = two_hosts(&lab)?;
        let pair = Pair::new(&make(End::Spoke, Interface::Netstack), kind, &hosts)?;
        let hub = SocketAddr::from((pair.theirs.host.address(), PORT));
        let tap = Tap::start(pair.ours.host, hub)?;
        pair.tell_theirs(End::Spoke, None, None)?;
        // boringtun answers the first 100 of a second without a cookie, wireguard-go while fewer than 128 wait.
        let initiations = in_turn(unknown_initiations(pair.theirs.key(), 16)?);
        let _flood = Flood::start(sockets(&attacker, 16)?, hub, 20_000, initiations)?;
        pass(Duration::from_millis(500))?;
        pair.tell_ours(End::Spoke, Some(tap.address), None)?;
        let mut dialled = Instant::now();
        eventually_ok(SOON, "a cookie of the foreign hub to be of use", || {
            if dialled.elapsed() > Duration::from_millis(2500) {
                pair.ours.dial(pair.theirs.key());
                dialled = Instant::now();
            }
            had_its_cookie(&tap)
        })
        .with_context(|| format!("{kind:?}"))?;
        pair.wait_up(PROMPT).with_context(|| format!("{kind:?}: the answer was not taken"))?;
    }
    Ok(())
}

/// Every foreign end in both roles at the same time: none loses more than an echo when keys are made anew.
#[test]
fn rekeys_with_foreign_ends_lose_nothing_soak() -> Result<()> {
    let kinds = [Kind::WireguardGo, Kind::Boringtun];
    let Some(lab) = Lab::new()?.filter(|_| kinds.into_iter().all(Kind::is_possible)) else { return Ok(()) };
    let cases: Vec<_> = kinds.into_iter().flat_map(|kind| [(kind, End::Hub), (kind, End::Spoke)]).collect();
    let hosts = (0..cases.len()).map(|number| pair_of_hosts(&lab, number)).collect::<Result<Vec<_>>>()?;
    let pairs = cases
        .iter()
        .zip(&hosts)
        .map(|(&(kind, end), hosts)| {
            let interface = if kind == Kind::Boringtun { device() } else { Interface::Netstack };
            let pair = Pair::new(&make(end, interface), kind, hosts)?;
            pair.meet(end, None, Some(PSK))?;
            pair.wait_up(PROMPT)?;
            let pinging = Pinging::start(pair.theirs.host, &["-i", "0.2", &end.addresses()[0].to_string()])?;
            Ok((pair, pinging, end))
        })
        .collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    eventually(Duration::from_secs(140), "a rekey of each", || {
        pairs.iter().all(|(pair, ..)| pair.ours.handshakes() >= 2).then_some(())
    })?;
    // Some more under the new keys.
    pass(Duration::from_secs(3))?;
    for (pair, pinging, end) in pairs {
        let pings = pinging.finish()?;
        let (kind, handshakes) = (pair.theirs.kind, pair.ours.handshakes());
        say(format_args!(
            "{kind:?}, ours is the {end:?}: {} of {} echoes answered in {:.0?}, {handshakes} handshakes",
            pings.received,
            pings.sent,
            begin.elapsed()
        ));
        ensure!(
            pings.sent - pings.received <= 1,
            "{kind:?}, ours is the {end:?}: {pings:?}\n{}",
            pair.theirs.log()
        );
        ensure!(handshakes == 2, "{kind:?}, ours is the {end:?}: {handshakes} handshakes");
    }
    Ok(())
}
