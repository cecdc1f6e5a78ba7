//! A sender and a watch on virtual time.

#![expect(clippy::disallowed_methods, reason = "virtual time needs one first instant")]

use super::watch::{FOREIGN_AFTER, FOREIGN_LOST_AFTER};
use super::*;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A sender and the only clock it sees.
struct Sim {
    now: Instant,
    sender: EchoSender,
    changes: Vec<Change>,
    /// What the hub asks for.
    pace: Duration,
    beside: Beside,
    sent: u32,
    /// What a hub that is there has heard.
    heard: Heard,
}

impl Sim {
    fn new() -> Self {
        let now = Instant::now();
        let (sender, beside) = (EchoSender::new(7, now), Beside::default());
        Self { now, sender, changes: Vec::new(), pace: INTERVAL, beside, sent: 0, heard: Heard::NONE }
    }

    /// Lets time pass; every echo that is due is answered after `rtt`, if at all.
    fn run(&mut self, time: Duration, rtt: Option<Duration>) {
        let end = self.now + time;
        let mut replies = VecDeque::new();
        while self.now < end {
            self.now += ms(10);
            while replies.front().is_some_and(|(at, _)| *at <= self.now) {
                let (_, beat) = replies.pop_front().unwrap();
                self.beside.is_unanswered = false;
                self.changes.extend(self.sender.handle_reply(beat, self.now));
            }
            if self.sender.deadline() > self.now {
                continue;
            }
            self.changes.extend(self.sender.handle_timeout(self.now));
            if self.sender.is_due(self.beside, self.now) {
                self.sent += 1;
                let beat = Beat { pace: millis(self.pace), ..self.sender.send(true, 0, self.now) };
                if let Some(rtt) = rtt {
                    self.heard.handle_beat(beat, self.now);
                    replies.push_back((self.now + rtt, beat));
                }
            }
            assert!(self.sender.deadline() > self.now);
        }
    }
}

#[test]
fn a_beat_survives_its_payload_and_others_are_not_read() {
    let beat = Beat { seq: 9, acked: 8, mtu: 1420, pace: 7000 };
    assert_eq!(Beat::parse(&beat.to_payload()), Some(beat));
    assert_eq!(Beat::parse(&[0; PAYLOAD_BYTES]), None);
    assert_eq!(Beat::parse(&beat.to_payload()[1..]), None);
}

/// A sender whose hub asks for an echo every twenty seconds, and which keeps to it.
fn slow() -> Sim {
    let mut sim = Sim { pace: INTERVAL_MAX, ..Sim::new() };
    sim.run(Duration::from_secs(60), Some(ms(20)));
    assert_eq!(sim.changes, [Change::Back]);
    sim
}

#[test]
fn the_pace_grows_with_the_peers_within_its_bounds() {
    let seconds = [0, 2, 500, 2000, 10_000, 1 << 20].map(|peers| pace_for(peers).as_secs());
    assert_eq!(seconds, [1, 1, 1, 4, 20, 20]);
    let mut packet = Beat { seq: 1, acked: 1, mtu: 0, pace: 0 }.to_payload();
    for (asked, taken) in [(ms(0), INTERVAL), (ms(4000), ms(4000)), (ms(60_000), INTERVAL_MAX)] {
        Beat::write_pace(&mut packet, asked);
        assert_eq!(Beat::parse(&packet).unwrap().pace(), taken);
    }
}

#[test]
fn an_idle_spoke_keeps_the_pace_and_a_busy_one_echoes_every_second() {
    let mut sim = slow();
    sim.sent = 0;
    sim.run(Duration::from_secs(60), Some(ms(20)));
    assert_eq!(sim.sent, 3);
    for _ in 0..30 {
        sim.beside.bytes += 100;
        sim.run(ms(1000), Some(ms(20)));
    }
    assert!((30..=40).contains(&sim.sent), "{}", sim.sent);
    sim.sent = 0;
    sim.run(Duration::from_secs(60), Some(ms(20)));
    assert!((3..=7).contains(&sim.sent), "{}", sim.sent);
    assert_eq!(sim.changes, [Change::Back]);
}

#[test]
fn at_the_slowest_pace_a_path_in_use_is_still_lost_within_three_seconds() {
    for quiet in 0..80 {
        let mut sim = slow();
        sim.run(ms(quiet * 250), Some(ms(20)));
        sim.beside = Beside { bytes: 1000, is_unanswered: true };
        sim.run(ms(3000), None);
        assert_eq!(sim.changes, [Change::Back, Change::Lost], "after {quiet} quarters");
    }
}

#[test]
fn at_the_slowest_pace_an_idle_path_is_lost_within_the_pace_and_three_seconds() {
    let mut sim = slow();
    sim.run(INTERVAL_MAX + ms(3000), None);
    assert_eq!(sim.changes, [Change::Back, Change::Lost]);
}

#[test]
fn a_hub_that_is_back_hears_at_any_pace_within_seconds_that_its_answers_come() {
    let mut sim = slow();
    sim.run(INTERVAL_MAX + ms(3000), None);
    sim.run(ms(2000), Some(ms(20)));
    assert_eq!(sim.changes, [Change::Back, Change::Lost, Change::Back]);
    assert!(sim.sender.acked + 1 >= sim.sender.seq, "the last echo said that the one before came back");
    assert!(sim.sender.window.iter().rev().nth(1).is_some_and(|sent| matches!(sent.fate, Fate::Back(_))));
}

#[test]
fn a_hub_that_is_back_after_any_time_believes_a_spoke_within_seconds_of_its_first_echo() {
    for outage in (0..24_000).step_by(50) {
        let mut sim = slow();
        // A slow answer makes it patient: it then sends four echoes before two are missing.
        sim.run(INTERVAL_MAX + ms(2000), Some(ms(600)));
        sim.run(ms(outage), None);
        sim.heard = Heard::NONE;
        sim.run(ms(2500), Some(ms(20)));
        let mut watch = EchoWatch::new();
        watch.look(sim.heard, sim.now);
        assert!(sim.heard == Heard::NONE || watch.is_alive(), "after {outage} ms: {:?}", sim.sender);
    }
}

#[test]
fn a_hub_waits_as_long_as_an_echo_promised_and_no_longer() {
    let (start, mut heard, mut watch) = (Instant::now(), Heard::NONE, EchoWatch::new());
    let at = |millis| start + ms(millis);
    let mut beat = |watch: &mut EchoWatch, seq, pace, now| {
        heard.handle_beat(Beat { seq, acked: seq - 1, mtu: 0, pace }, now);
        (watch.look(heard, now), heard)
    };
    let (change, heard) = beat(&mut watch, 2, 10_000, start);
    assert_eq!((change, watch.deadline(start)), (Some(Change::Back), Some(at(13_000))));
    assert_eq!(watch.look(heard, at(12_999)), None);
    let (change, heard) = beat(&mut watch, 3, 1000, at(12_999));
    assert_eq!((change, watch.look(heard, at(16_999))), (None, Some(Change::Lost)));
    let (change, _) = beat(&mut watch, 4, u16::MAX, at(17_000));
    assert_eq!(change, Some(Change::Back));
    assert_eq!(watch.deadline(at(17_000)), Some(at(40_000)), "no promise is longer than the slowest pace");
}

#[test]
fn echoes_that_come_back_give_the_figures() {
    let mut sim = Sim::new();
    sim.run(Duration::from_secs(30), Some(ms(20)));
    let stats = sim.sender.stats(sim.now);
    assert_eq!((stats.rtt_micros, stats.jitter_micros), (20_000, 0));
    assert!(stats.alive && stats.loss_percent == 0.0);
    assert_eq!(sim.changes, [Change::Back]);
}

#[test]
fn a_loss_shows_within_three_seconds_and_ends_with_the_first_answer() {
    let mut sim = Sim::new();
    sim.run(Duration::from_secs(5), Some(ms(20)));
    sim.run(Duration::from_secs(3), None);
    assert_eq!(sim.changes, [Change::Back, Change::Lost]);
    assert!(sim.sender.take_loss() && !sim.sender.take_loss());
    assert!(sim.sender.stats(sim.now).loss_percent > 0.0);
    sim.run(ms(600), Some(ms(20)));
    assert_eq!(sim.changes, [Change::Back, Change::Lost, Change::Back]);
}

#[test]
fn echoes_from_before_the_first_session_are_no_loss() {
    let mut sim = Sim::new();
    for _ in 0..3 {
        sim.sender.send(false, 0, sim.now);
    }
    sim.run(Duration::from_secs(5), Some(ms(20)));
    assert!(sim.sender.stats(sim.now).loss_percent == 0.0);
}

#[test]
fn a_slow_path_is_not_a_lost_one() {
    let mut sim = Sim::new();
    sim.run(Duration::from_secs(30), Some(ms(900)));
    assert_eq!(sim.changes, [Change::Back]);
}

fn heard_at(at: Instant) -> Heard {
    let mut heard = Heard::NONE;
    heard.last_rx = Some(at);
    heard
}

#[test]
fn a_hub_believes_only_echoes_that_show_answers() {
    let (start, mut watch) = (Instant::now(), EchoWatch::new());
    let mut heard = heard_at(start);
    let at = |millis| start + ms(millis);
    watch.handle_handshake(start);
    let mut beat = |seq, acked, now| {
        heard.handle_beat(Beat { seq, acked, mtu: 0, pace: 1000 }, now);
        heard
    };
    assert_eq!(watch.look(beat(1, 0, at(10)), at(10)), None, "nothing came back yet");
    assert_eq!(watch.look(beat(2, 1, at(20)), at(20)), Some(Change::Back));
    let half_seconds = (3..12).map(|seq| (seq, at(20 + (seq - 2) * 500)));
    let turns: Vec<_> =
        half_seconds.filter_map(|(seq, now)| Some((seq, watch.look(beat(seq, 1, now), now)?))).collect();
    // Echo 4, at 1.02 s, is the last that lies no more than three behind.
    assert_eq!(turns, [], "four seconds have not passed");
    let last = beat(12, 1, at(1020 + 4000));
    assert_eq!(watch.look(last, at(1020 + 4000)), Some(Change::Lost));
    assert!(!watch.stats(last, at(5000)).alive);
    assert_eq!(watch.look(beat(2, 9, at(6000)), at(6000)), None, "nonsense");
}

#[test]
fn a_foreign_peer_lives_by_its_traffic() {
    let (start, mut watch) = (Instant::now(), EchoWatch::new());
    let heard = heard_at(start);
    watch.handle_handshake(start);
    assert_eq!(watch.look(heard, start), None);
    assert_eq!(watch.look(heard, start + FOREIGN_AFTER), Some(Change::Back));
    assert_eq!(watch.deadline(start + FOREIGN_AFTER), Some(start + FOREIGN_LOST_AFTER));
    assert_eq!(watch.look(heard, start + FOREIGN_LOST_AFTER), Some(Change::Lost));
}
