#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use std::collections::BTreeMap;
use std::time::Duration;

use blueprint_common_types::WgPublicKey;
use boringtun::noise::Tunn;
use proptest::prelude::*;
use x25519_dalek::StaticSecret;

use super::*;

/// A hub's admission, the only clock it sees, and initiations that anybody who knows the hub's key can make.
struct Sim {
    now: Instant,
    own: PublicKey,
    gate: MacGate,
    admission: Admission,
    spoke: Tunn,
    junk: Vec<u8>,
}

fn initiation(spoke: &mut Tunn) -> Vec<u8> {
    let mut buffer = [0u8; 148];
    let TunnResult::WriteToNetwork(datagram) = spoke.format_handshake_initiation(&mut buffer, true) else {
        unreachable!("the library has no reason to refuse");
    };
    datagram.to_vec()
}

fn source(ip: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((ip, port))
}

/// Any of 2^24 addresses.
fn anywhere(number: u32) -> SocketAddr {
    let [_, b, c, d] = number.to_be_bytes();
    source([100, b, c, d], 1000)
}

const HONEST: ([u8; 4], u16) = ([192, 0, 2, 9], 51_820);
const KNOWN: ([u8; 4], u16) = ([192, 0, 2, 77], 40_000);

impl Sim {
    fn new() -> Self {
        let (hub, spoke) = (StaticSecret::from([3; 32]), StaticSecret::from([5; 32]));
        let own = PublicKey::from(&hub);
        let mut spoke = Tunn::new(spoke, own, None, None, 1, None);
        Self {
            now: Instant::now(),
            own,
            gate: MacGate::new(&WgPublicKey::from_bytes(own.to_bytes())),
            admission: Admission::new(&own, Role::Hub, [1; 32], Limits::default()),
            junk: initiation(&mut spoke),
            spoke,
        }
    }

    fn judge(&mut self, from: SocketAddr, datagram: &[u8]) -> Verdict {
        if !self.gate.check(from.ip(), datagram) {
            return Verdict::Refuse(Discard::InvalidMac);
        }
        self.admission.judge(from, datagram, self.now)
    }

    fn is_admitted(&mut self, from: SocketAddr) -> bool {
        let junk = std::mem::take(&mut self.junk);
        let verdict = self.judge(from, &junk);
        self.junk = junk;
        verdict == Verdict::Admit
    }

    fn advance(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// One datagram repeated from one source: how many are admitted.
    fn flood(&mut self, from: SocketAddr, count: usize) -> usize {
        (0..count).filter(|_| self.is_admitted(from)).count()
    }

    /// Spends the unverified lane from as many sources as messages.
    fn flood_from_everywhere(&mut self) {
        let admitted = (0..2000).filter(|number| self.is_admitted(anywhere(*number))).count();
        assert!(admitted <= 1000);
    }

    /// Asks for a cookie and makes an initiation that shows it.
    fn initiation_with_cookie(&mut self, from: SocketAddr) -> Vec<u8> {
        let first = initiation(&mut self.spoke);
        let Verdict::Cookie(reply) = self.judge(from, &first) else { unreachable!("the lane is not spent") };
        assert_eq!(reply.len(), 64);
        assert!(matches!(self.spoke.decapsulate(None, &reply, &mut [0u8; 148]), TunnResult::Done));
        initiation(&mut self.spoke)
    }
}

#[test]
fn a_message_for_another_key_gets_silence() {
    let mut sim = Sim::new();
    let mut datagram = sim.junk.clone();
    datagram[117] ^= 1;
    assert_eq!(sim.judge(HONEST.into(), &datagram), Verdict::Refuse(Discard::InvalidMac));
    sim.flood_from_everywhere();
    let verdict = sim.admission.judge(HONEST.into(), &datagram, sim.now);
    assert_eq!(verdict, Verdict::Refuse(Discard::InvalidMac), "nor one that passed the gate by mistake");
}

#[test]
fn the_mac_gate_passes_handshakes_for_our_key_alone() {
    let sim = Sim::new();
    let gate = MacGate::new(&WgPublicKey::from_bytes(sim.own.to_bytes()));
    let ip = IpAddr::from(HONEST.0);
    let check = |datagram: &[u8]| {
        let clone = gate.clone();
        std::thread::scope(|scope| scope.spawn(|| clone.check(ip, datagram)).join().unwrap())
    };
    assert!(check(&sim.junk));
    for at in [0, 4, 40, 115, 116, 131] {
        let mut damaged = sim.junk.clone();
        damaged[at] ^= 1;
        assert!(!check(&damaged), "byte {at}");
    }
    let mut data = vec![0u8; 96];
    data[0] = 4;
    assert!(!check(&data), "data has no first MAC");
    assert!(!check(&sim.junk[..147]) && !check(&[]));
    let other = MacGate::new(&WgPublicKey::from_bytes([9; 32]));
    assert!(!other.check(ip, &sim.junk));
}

#[test]
fn one_source_spends_its_own_share() {
    let mut sim = Sim::new();
    assert_eq!(sim.flood(HONEST.into(), 2000), 500);
    assert_eq!(sim.flood(source([192, 0, 2, 2], 1), 10), 10, "another source is not harmed");
    sim.advance(1000);
    assert_eq!(sim.flood(HONEST.into(), 2000), 250);
}

#[test]
fn an_ipv6_source_is_its_prefix_and_a_mapped_one_its_ipv4_address() {
    let mut sim = Sim::new();
    let v6 = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
    assert_eq!(sim.flood(v6("2001:db8:1:2::3"), 600), 500);
    assert_eq!(sim.flood(v6("2001:db8:1:2:ffff::9"), 10), 0, "the same /64");
    assert_eq!(sim.flood(v6("2001:db8:1:3::3"), 10), 10);
    assert_eq!(sim.flood(source([192, 0, 2, 5], 1), 400), 400);
    let mut sim = Sim::new();
    assert_eq!(sim.flood(v6("::ffff:192.0.2.5"), 400), 400);
    assert_eq!(sim.flood(source([192, 0, 2, 5], 1), 400), 100);
}

#[test]
fn w3_in_a_flood_from_everywhere_a_cookie_opens_the_verified_lane() {
    let mut sim = Sim::new();
    sim.flood_from_everywhere();
    let honest = SocketAddr::from(HONEST);
    let second = sim.initiation_with_cookie(honest);
    assert_eq!(sim.judge(honest, &second), Verdict::Admit);
    let elsewhere = sim.judge(source([192, 0, 2, 10], 1), &second);
    assert!(matches!(elsewhere, Verdict::Cookie(_)), "a cookie holds for its address only");
    let repeated = (0..200).filter(|_| sim.judge(honest, &second) == Verdict::Admit).count();
    assert_eq!(repeated, 99, "the verified lane has a share per source too");
    assert_eq!(sim.judge(honest, &second), Verdict::Refuse(Discard::SourceHandshakeBudget));
}

#[test]
fn w4_a_cookie_holds_for_every_port_of_its_address() {
    let mut sim = Sim::new();
    sim.flood_from_everywhere();
    let second = sim.initiation_with_cookie(HONEST.into());
    assert_eq!(sim.judge(source(HONEST.0, 9), &second), Verdict::Admit);
}

#[test]
fn in_a_flood_from_everywhere_a_known_peer_needs_no_cookie() {
    let mut sim = Sim::new();
    sim.admission.note_known(KNOWN.into(), sim.now);
    sim.flood_from_everywhere();
    assert!(sim.is_admitted(KNOWN.into()));
    assert!(!sim.is_admitted(source(KNOWN.0, 1)), "another port is not known");
    sim.advance(24 * 3600 * 1000);
    sim.flood_from_everywhere();
    assert!(!sim.is_admitted(KNOWN.into()), "a day later it is not known any more");
}

#[test]
fn who_forges_a_known_source_spends_its_part_alone_and_the_true_one_has_the_cookie() {
    let mut sim = Sim::new();
    let other = source([198, 51, 100, 1], 7);
    sim.admission.note_known(KNOWN.into(), sim.now);
    sim.admission.note_known(other, sim.now);
    for _ in 0..50 {
        sim.flood_from_everywhere();
        sim.flood(KNOWN.into(), 50);
        sim.advance(200);
    }
    sim.flood_from_everywhere();
    assert!(sim.flood(KNOWN.into(), 50) <= 1);
    assert!(sim.is_admitted(other), "the lane of the others is whole");
    let second = sim.initiation_with_cookie(KNOWN.into());
    assert_eq!(sim.judge(KNOWN.into(), &second), Verdict::Admit);
}

#[test]
fn many_real_attackers_fill_the_verified_lane_but_not_the_known_one() {
    let mut sim = Sim::new();
    sim.admission.note_known(KNOWN.into(), sim.now);
    sim.flood_from_everywhere();
    let bots: Vec<_> = (0..20).map(|number| source([203, 0, 113, number], 1)).collect();
    let armed: BTreeMap<_, _> = bots.iter().map(|bot| (*bot, sim.initiation_with_cookie(*bot))).collect();
    let honest = sim.initiation_with_cookie(HONEST.into());
    let admitted = armed.iter().map(|(bot, datagram)| {
        (0..200).filter(|_| sim.admission.judge(*bot, datagram, sim.now) == Verdict::Admit).count()
    });
    assert_eq!(admitted.sum::<usize>(), 500);
    assert_eq!(sim.judge(HONEST.into(), &honest), Verdict::Refuse(Discard::HandshakeBudget));
    assert!(sim.is_admitted(KNOWN.into()));
    sim.advance(1);
    assert_eq!(sim.judge(HONEST.into(), &honest), Verdict::Admit, "the lane goes on for who comes first");
}

#[test]
fn five_hundred_agents_behind_one_address_come_back() {
    let mut sim = Sim::new();
    let behind = |agent: u16| source([192, 0, 2, 200], 10_000 + agent);
    assert_eq!((0..500).filter(|agent| sim.is_admitted(behind(*agent))).count(), 500, "in peace: at once");

    let mut sim = Sim::new();
    sim.flood_from_everywhere();
    let second = sim.initiation_with_cookie(behind(0));
    let mut waiting: Vec<u16> = (0..500).collect();
    let start = sim.now;
    while !waiting.is_empty() {
        sim.flood_from_everywhere();
        waiting.retain(|agent| sim.judge(behind(*agent), &second) != Verdict::Admit);
        sim.advance(500);
    }
    assert!(sim.now - start <= Duration::from_secs(10), "in a flood after a restart: by cookies");

    let mut sim = Sim::new();
    (0..500).for_each(|agent| sim.admission.note_known(behind(agent), sim.now));
    sim.flood_from_everywhere();
    let back = (0..500).filter(|agent| sim.is_admitted(behind(*agent))).count();
    assert!(back >= 495, "in a flood while the hub knows them: at once, but {back}");
}

#[test]
fn ten_thousand_peers_are_back_within_thirty_seconds_and_no_second_takes_more_than_a_core() {
    let mut sim = Sim::new();
    let mut due: Vec<(u64, u32)> = (0..10_000u32).map(|peer| (u64::from(peer) * 7919 % 1000, peer)).collect();
    let mut by_second: BTreeMap<u64, u32> = BTreeMap::new();
    let mut millis = 0;
    while !due.is_empty() {
        due.retain_mut(|(at, peer)| {
            let is_due = *at <= millis;
            let back = is_due && sim.is_admitted(anywhere(*peer));
            if back {
                *by_second.entry(millis / 1000).or_default() += 1;
            } else if is_due {
                *at += 1000 + u64::from(*peer) * 31 % 1000;
            }
            !back
        });
        sim.advance(20);
        millis += 20;
    }
    assert!(millis <= 30_000, "{millis} ms");
    assert!(by_second.values().all(|count| *count <= 4000), "{by_second:?}");
}

/// A tenth of the peers in a tenth of the lane.
#[test]
fn in_a_flood_after_a_restart_cookies_bring_all_back_within_thirty_seconds() {
    let mut sim = Sim::new();
    sim.admission.limits.verified = Rate::new(150, 50);
    sim.flood_from_everywhere();
    let peer = |number: u16| source([10, 1, number.to_be_bytes()[0], number.to_be_bytes()[1]], 9);
    let mut waiting = Vec::new();
    for number in 0..1000 {
        waiting.push((peer(number), sim.initiation_with_cookie(peer(number))));
        sim.advance(1);
        sim.flood(anywhere(u32::from(number)), 2);
    }
    let start = sim.now;
    while !waiting.is_empty() {
        sim.flood_from_everywhere();
        waiting.retain(|(from, datagram)| sim.judge(*from, datagram) != Verdict::Admit);
        sim.advance(1500);
    }
    assert!(sim.now - start <= Duration::from_secs(30), "{:?}", sim.now - start);
}

#[derive(Debug, Clone)]
enum Step {
    Judge { from: SocketAddr, bytes: Vec<u8>, checked: bool },
    Junk { from: SocketAddr, count: u8, damaged: Option<usize> },
    Known { from: SocketAddr },
    Wait { millis: u64 },
}

fn from() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        Just(IpAddr::from(KNOWN.0)),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        (from(), bytes, any::<bool>()).prop_map(|(from, bytes, checked)| Step::Judge {
            from,
            bytes,
            checked
        }),
        (from(), any::<u8>(), proptest::option::of(0usize..132))
            .prop_map(|(from, count, damaged)| Step::Junk { from, count, damaged }),
        from().prop_map(|from| Step::Known { from }),
        (0u64..100_000).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No run of calls panics, grows a table, answers what has no valid first MAC (R3), or admits beyond the lanes.
    #[test]
    fn any_run_of_calls_stays_within_its_bounds(steps in proptest::collection::vec(step(), 1..60)) {
        let mut sim = Sim::new();
        let sizes = |admission: &Admission| (admission.sources.capacity(), admission.known_sources.capacity());
        let (before, start, mut admitted) = (sizes(&sim.admission), sim.now, 0u128);
        for step in steps {
            match step {
                Step::Judge { from, bytes, checked } => {
                    let verdict = if checked {
                        sim.admission.judge(from, &bytes, sim.now)
                    } else {
                        sim.judge(from, &bytes)
                    };
                    prop_assert!(!matches!(verdict, Verdict::Cookie(_)));
                    prop_assert!(checked || verdict == Verdict::Refuse(Discard::InvalidMac));
                    admitted += u128::from(verdict == Verdict::Admit);
                }
                Step::Junk { from, count, damaged } => {
                    let mut datagram = sim.junk.clone();
                    if let Some(at) = damaged { datagram[at] ^= 1; }
                    for _ in 0..count {
                        let verdict = sim.judge(from, &datagram);
                        let is_refused = verdict == Verdict::Refuse(Discard::InvalidMac);
                        prop_assert_eq!(is_refused, damaged.is_some());
                        admitted += u128::from(verdict == Verdict::Admit);
                    }
                }
                Step::Known { from } => sim.admission.note_known(from, sim.now),
                Step::Wait { millis } => sim.advance(millis),
            }
            prop_assert_eq!(sizes(&sim.admission), before);
        }
        prop_assert!(admitted <= 2000 + (sim.now - start).as_millis() * 15 / 4);
    }
}
