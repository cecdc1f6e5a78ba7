//! Tests of the link on virtual time.
#![expect(clippy::disallowed_methods, reason = "virtual time needs an instant to start from")]

use proptest::prelude::*;

use super::*;

const BEAT: Duration = Duration::from_secs(5);

struct Sim {
    link: Link,
    now: Instant,
}

impl Sim {
    fn new() -> Self {
        let now = Instant::now();
        Self { link: Link::new(LinkConfig::new(42), now), now }
    }

    /// Lets `span` pass, calling the link whenever it asks to be, and gives the events of that time.
    fn advance(&mut self, span: Duration) -> Vec<LinkEvent> {
        let end = self.now + span;
        let mut events = Vec::new();
        while let Some(at) = self.link.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.link.handle_timeout(self.now);
            assert!(self.link.poll_timeout().is_none_or(|next| next > self.now), "the driver would spin");
            events.extend(std::iter::from_fn(|| self.link.poll_event()));
        }
        self.now = end;
        events
    }

    fn up() -> Self {
        let mut sim = Self::new();
        assert_eq!(sim.advance(Duration::ZERO), [LinkEvent::Connect { attempt: 1 }]);
        sim.link.handle_welcome(BEAT, sim.now);
        sim
    }

    fn end(&mut self, end: LinkEnd) -> Option<Duration> {
        self.link.handle_end(end, self.now);
        assert_eq!(self.link.poll_event(), Some(LinkEvent::Disconnect(end)));
        match self.link.state() {
            LinkState::Down { retry_at } => retry_at.map(|at| at - self.now),
            state @ (LinkState::Connecting { .. } | LinkState::Up { .. }) => panic!("{state:?} after an end"),
        }
    }
}

#[test]
fn it_connects_at_once_and_then_sends_a_heartbeat_each_interval() {
    let mut sim = Sim::up();
    assert_eq!(sim.link.state(), LinkState::Up { since: sim.now });
    for _ in 0..10 {
        assert_eq!(sim.advance(BEAT), [LinkEvent::Heartbeat]);
        sim.link.handle_message(sim.now);
    }
    assert_eq!(sim.link.stats(), LinkStats { attempts: 1, sessions: 1 });
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up_and_tried_again() {
    let mut sim = Sim::new();
    let events = sim.advance(Duration::from_millis(3130));
    let expected = [
        LinkEvent::Connect { attempt: 1 },
        LinkEvent::Disconnect(LinkEnd::TimedOut),
        LinkEvent::Connect { attempt: 2 },
    ];
    assert_eq!(events, expected);
}

#[test]
fn without_a_hub_an_attempt_starts_at_least_every_six_seconds() {
    let mut sim = Sim::new();
    let attempts = sim
        .advance(Duration::from_secs(120))
        .iter()
        .filter(|e| matches!(e, LinkEvent::Connect { .. }))
        .count();
    assert!(attempts >= 120 / 6, "{attempts}");
}

#[test]
fn a_refused_connection_waits_at_most_two_and_a_half_seconds() {
    let mut sim = Sim::new();
    for _ in 0..50 {
        while !matches!(sim.link.state(), LinkState::Connecting { .. }) {
            sim.advance(Duration::from_millis(50));
        }
        let wait = sim.end(LinkEnd::Broken).unwrap();
        assert!(wait <= Duration::from_millis(2500), "{wait:?}");
    }
}

#[test]
fn a_silent_hub_is_left_after_three_heartbeats() {
    let mut sim = Sim::up();
    let events = sim.advance(3 * BEAT);
    let expected = [LinkEvent::Heartbeat, LinkEvent::Heartbeat, LinkEvent::Disconnect(LinkEnd::Silent)];
    assert_eq!(events, expected);
}

#[test]
fn a_data_plane_that_is_back_ends_an_attempt_that_hangs_and_every_wait() {
    let again = |attempt: u32| {
        [LinkEvent::Disconnect(LinkEnd::TimedOut), LinkEvent::Connect { attempt: attempt + 1 }]
    };
    let mut sim = Sim::new();
    sim.advance(Duration::from_millis(400));
    sim.link.handle_path_back(sim.now);
    assert_eq!(sim.advance(Duration::from_millis(599)), [], "it may still come about");
    assert_eq!(sim.advance(Duration::from_millis(1 + 125)), again(1));
    sim.advance(Duration::from_secs(20));
    while !matches!(sim.link.state(), LinkState::Connecting { .. }) {
        sim.advance(Duration::from_millis(50));
    }
    sim.advance(Duration::from_secs(2));
    sim.link.handle_path_back(sim.now);
    assert_eq!(sim.advance(Duration::from_millis(125)), again(1), "it hangs already");

    sim.link.handle_welcome(BEAT, sim.now);
    sim.link.handle_path_back(sim.now);
    assert_eq!(sim.advance(BEAT), [LinkEvent::Heartbeat], "a stream that stands stays");
    sim.end(LinkEnd::Broken);
    sim.link.handle_path_back(sim.now);
    assert_eq!(sim.advance(Duration::ZERO), [LinkEvent::Connect { attempt: 1 }]);
}

#[test]
fn a_lost_data_plane_makes_a_dead_stream_show_within_two_seconds() {
    let mut sim = Sim::up();
    sim.advance(Duration::from_secs(1));
    sim.link.handle_path_change(sim.now);
    let events = sim.advance(Duration::from_secs(2));
    assert_eq!(events, [LinkEvent::Heartbeat, LinkEvent::Disconnect(LinkEnd::Silent)]);

    let mut alive = Sim::up();
    alive.link.handle_path_change(alive.now);
    assert_eq!(alive.advance(Duration::ZERO), [LinkEvent::Heartbeat]);
    alive.link.handle_message(alive.now);
    assert_eq!(alive.advance(BEAT - Duration::from_millis(1)), []);
}

#[test]
fn a_path_change_cuts_a_wait_short() {
    let mut sim = Sim::up();
    sim.end(LinkEnd::Replaced).unwrap();
    sim.link.handle_path_change(sim.now);
    assert_eq!(sim.advance(Duration::ZERO), [LinkEvent::Connect { attempt: 1 }]);
}

#[test]
fn a_session_that_stood_starts_the_back_off_anew() {
    let mut sim = Sim::up();
    let first = sim.end(LinkEnd::Broken).unwrap();
    sim.advance(first);
    sim.link.handle_welcome(BEAT, sim.now);
    let second = sim.end(LinkEnd::Broken).unwrap();
    assert!(second >= Duration::from_millis(150), "{second:?}");

    sim.advance(second);
    sim.link.handle_welcome(BEAT, sim.now);
    sim.advance(BEAT);
    assert!(sim.end(LinkEnd::Shutdown).unwrap() <= Duration::from_millis(125));
}

#[test]
fn a_replaced_session_waits_the_longest_and_a_revoked_one_for_ever() {
    let mut sim = Sim::up();
    assert!(sim.end(LinkEnd::Replaced).unwrap() >= Duration::from_millis(1500));
    let mut sim = Sim::up();
    assert_eq!(sim.end(LinkEnd::Revoked), None);
    assert_eq!(sim.link.poll_timeout(), None);
    sim.link.handle_path_change(sim.now);
    assert_eq!(sim.advance(Duration::from_secs(3600)), []);
}

#[test]
fn a_welcome_that_comes_late_does_not_bring_the_link_up() {
    let mut sim = Sim::new();
    sim.advance(Duration::from_secs(3));
    assert!(matches!(sim.link.state(), LinkState::Down { .. }));
    sim.link.handle_welcome(BEAT, sim.now);
    assert!(matches!(sim.link.state(), LinkState::Down { .. }));
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Welcome(u64),
    Message,
    Path,
    Back,
    End(LinkEnd),
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop::sample::select(vec![
        LinkEnd::Broken,
        LinkEnd::TimedOut,
        LinkEnd::Silent,
        LinkEnd::Shutdown,
        LinkEnd::Replaced,
        LinkEnd::Expired,
    ]);
    prop_oneof![
        3 => (0u64..20_000).prop_map(Step::Wait),
        2 => (0u64..100_000).prop_map(Step::Welcome),
        1 => Just(Step::Message),
        1 => Just(Step::Path),
        1 => Just(Step::Back),
        1 => end.prop_map(Step::End),
    ]
}

proptest! {
    #[test]
    fn connects_and_disconnects_alternate_and_the_driver_never_spins(
        seed: u64,
        cap in 0u64..10_000,
        connect in 0u64..10_000,
        steps in prop::collection::vec(step(), 0..100),
    ) {
        let config = LinkConfig {
            backoff_cap: Duration::from_millis(cap),
            connect_timeout: Duration::from_millis(connect),
            seed,
        };
        let now = Instant::now();
        let mut sim = Sim { link: Link::new(config, now), now };
        let mut open = false;
        for step in steps {
            let mut events = Vec::new();
            match step {
                Step::Wait(millis) => events = sim.advance(Duration::from_millis(millis)),
                Step::Welcome(millis) => sim.link.handle_welcome(Duration::from_millis(millis), sim.now),
                Step::Message => sim.link.handle_message(sim.now),
                Step::Path => sim.link.handle_path_change(sim.now),
                Step::Back => sim.link.handle_path_back(sim.now),
                Step::End(end) => sim.link.handle_end(end, sim.now),
            }
            events.extend(std::iter::from_fn(|| sim.link.poll_event()));
            for event in events {
                match event {
                    LinkEvent::Connect { .. } => {
                        prop_assert!(!open);
                        open = true;
                    }
                    LinkEvent::Disconnect(_) => {
                        prop_assert!(open);
                        open = false;
                    }
                    LinkEvent::Heartbeat => prop_assert!(open),
                }
            }
            prop_assert!(sim.link.poll_timeout().is_some());
        }
    }
}
