//! Long, lossy and fast paths, many connections and much memory, on virtual time where time matters.

#![expect(
    clippy::as_conversions,
    clippy::print_stdout,
    reason = "test helpers; figures are what some of these tests are for"
)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tests::{lease, ready};
use super::*;
use crate::budget::BASE_BYTES;

/// One direction of a path: packets leave it in order, after its delay, at its rate.
pub(super) struct Lane {
    delay: Duration,
    /// Bytes per second.
    rate: u64,
    /// Most bytes that wait for their turn.
    queue_bytes: u64,
    pub(super) lose_one_in: Option<u32>,
    chance: u32,
    free_at: Instant,
    packets: VecDeque<(Instant, Vec<u8>)>,
    lost: u64,
}

impl Lane {
    fn new(now: Instant, delay: Duration, rate: u64, lose_one_in: Option<u32>) -> Self {
        let queue_bytes = (rate / 10).max(64 << 10);
        let packets = VecDeque::new();
        Self { delay, rate, queue_bytes, lose_one_in, chance: 7, free_at: now, packets, lost: 0 }
    }

    fn push(&mut self, packet: &[u8], now: Instant) {
        self.chance = self.chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let start = self.free_at.max(now);
        let waiting = u64::try_from((start - now).as_nanos()).unwrap() * self.rate / 1_000_000_000;
        let by_chance = self.lose_one_in.is_some_and(|count| (self.chance >> 8).is_multiple_of(count));
        if by_chance || waiting > self.queue_bytes {
            self.lost += 1;
            return;
        }
        self.free_at = start + Duration::from_nanos(packet.len() as u64 * 1_000_000_000 / self.rate);
        self.packets.push_back((self.free_at + self.delay, packet.to_vec()));
    }

    fn due(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut due = Vec::new();
        while let Some((_, packet)) = self.packets.pop_front_if(|(at, _)| *at <= now) {
            due.push(packet);
        }
        due
    }
}

/// Two stacks at the ends of a path.
pub(super) struct Path {
    pub(super) now: Instant,
    near: Netstack,
    far: Netstack,
    there: Lane,
    pub(super) back: Lane,
    /// The clock ticks as often as an engine that takes batches looks at its socket.
    tick: Duration,
}

fn netstack(last: u8, buffer_bytes: usize, growth_bytes: usize, now: Instant) -> Netstack {
    let addresses = lease(last);
    let (max_flows, backlog, seed) = (4096, 4096, last.into());
    Netstack::new(
        NetstackConfig { addresses, mtu: 1420, max_flows, buffer_bytes, growth_bytes, backlog, seed },
        now,
    )
}

impl Path {
    pub(super) fn new(round_trip: Duration, megabits: u64, lose_one_in: Option<u32>) -> Self {
        let now = Instant::now();
        let rate = megabits * 1_000_000 / 8;
        Self {
            now,
            near: netstack(1, 4 << 20, 512 << 20, now),
            far: netstack(2, 4 << 20, 512 << 20, now),
            there: Lane::new(now, round_trip / 2, rate, lose_one_in),
            back: Lane::new(now, round_trip / 2, rate, lose_one_in),
            tick: Duration::from_micros(500),
        }
    }

    /// Moves on to the next tick at which something happens, and lets it happen.
    pub(super) fn step(&mut self) {
        let events = [
            self.there.packets.front().map(|(at, _)| *at),
            self.back.packets.front().map(|(at, _)| *at),
            self.near.poll_timeout(),
            self.far.poll_timeout(),
        ];
        let next = events.into_iter().flatten().min().unwrap_or(self.now);
        self.now = next.max(self.now + self.tick);
        let now = self.now;
        let mut arrived = self.there.due(now);
        let mut sink = Copying::new(|packet: &[u8]| self.back.push(packet, now));
        self.far.handle_batch(arrived.iter_mut().map(Vec::as_mut_slice), now, &mut sink);
        while self.far.handle_work(now, &mut sink) {}
        let mut arrived = self.back.due(now);
        let mut sink = Copying::new(|packet: &[u8]| self.there.push(packet, now));
        self.near.handle_batch(arrived.iter_mut().map(Vec::as_mut_slice), now, &mut sink);
        while self.near.handle_work(now, &mut sink) {}
    }

    pub(super) fn open(&mut self) -> (TcpFlowStream, TcpFlowStream) {
        let mut listener = self.far.listen(80).unwrap();
        let dialed = self.near.connect(SocketAddr::new(lease(2).v4.into(), 80), self.now).unwrap();
        for _ in 0..10_000 {
            self.step();
            if let Some(accepted) = ready(listener.accept()) {
                return (dialed, accepted.unwrap());
            }
        }
        unreachable!("the connection never opens");
    }

    /// Sends so many bytes one way, and says how long that takes.
    fn send(&mut self, streams: &mut (TcpFlowStream, TcpFlowStream), total: usize) -> Duration {
        let (dialed, accepted) = streams;
        let (data, mut room) = (vec![7; 1 << 20], vec![0; 1 << 20]);
        let (mut written, mut received, began_at) = (0, 0, self.now);
        for _ in 0..10_000_000 {
            while written < total
                && let Some(count) = ready(dialed.write(&data[..data.len().min(total - written)]))
            {
                written += count.unwrap();
            }
            self.step();
            while let Some(count) = ready(accepted.read(&mut room)) {
                received += count.unwrap();
            }
            if received == total {
                return self.now - began_at;
            }
        }
        unreachable!("the transfer never ends");
    }
}

fn megabits(bytes: usize, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64()
}

#[test]
fn one_stream_fills_a_long_path() {
    let mut path = Path::new(Duration::from_millis(100), 200, None);
    let mut streams = path.open();
    let total = 64 << 20;
    let speed = megabits(total, path.send(&mut streams, total));
    println!("100 ms, 200 Mbit/s, no loss but its own: {speed:.0} Mbit/s, lost {}", path.there.lost);
    assert!(speed > 100.0, "{speed}");
}

#[test]
fn loss_slows_a_stream_and_does_not_stop_it() {
    for (one_in, least) in [(10_000, 20.0), (1000, 4.0), (100, 1.0), (20, 0.2)] {
        let mut path = Path::new(Duration::from_millis(100), 200, Some(one_in));
        let mut streams = path.open();
        let total = 4 << 20;
        let speed = megabits(total, path.send(&mut streams, total));
        println!("100 ms, one in {one_in} lost: {speed:.2} Mbit/s");
        assert!(speed > least, "{speed}");
    }
}

#[test]
fn a_lost_last_segment_comes_again_within_a_few_round_trips() {
    let mut path = Path::new(Duration::from_millis(20), 1000, None);
    let mut streams = path.open();
    path.send(&mut streams, 1 << 20);
    // The last segment of an answer has no successor whose acknowledgement could tell of its loss.
    path.there.lose_one_in = Some(1);
    ready(streams.0.write_all(b"tail")).unwrap().unwrap();
    path.step();
    path.there.lose_one_in = None;
    let began_at = path.now;
    let mut room = [0; 16];
    while ready(streams.1.read(&mut room)).is_none() {
        path.step();
    }
    assert!(path.now - began_at < Duration::from_millis(300), "{:?}", path.now - began_at);
}

#[test]
fn two_thousand_connections_open_echo_and_close() {
    let now = Instant::now();
    let mut path = Path::new(Duration::from_millis(10), 10_000, Some(1000));
    path.now = now;
    let mut listener = path.far.listen(80).unwrap();
    let remote = SocketAddr::new(lease(2).v4.into(), 80);
    let question: Vec<u8> = (0..1024_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
    let mut open: BTreeMap<usize, (TcpFlowStream, Option<Vec<u8>>)> = BTreeMap::new();
    for number in 0..2000 {
        let stream = path.near.connect(remote, path.now).unwrap();
        open.insert(number, (stream, None));
        if number % 50 == 0 {
            path.step();
        }
    }
    let mut served = Vec::new();
    for _ in 0..20_000 {
        path.step();
        while let Some(Some(stream)) = ready(listener.accept()) {
            served.push((stream, 0));
        }
        served.retain_mut(|(stream, echoed)| {
            let mut room = [0; 2048];
            while let Some(Ok(count @ 1..)) = ready(stream.read(&mut room)) {
                ready(stream.write_all(&room[..count])).unwrap().unwrap();
                *echoed += count;
            }
            *echoed < question.len()
        });
        open.retain(|_, (stream, answer)| {
            let Some(answer) = answer else {
                if ready(stream.opened()) == Some(true) {
                    ready(stream.write_all(&question)).unwrap().unwrap();
                    *answer = Some(Vec::new());
                }
                return true;
            };
            let mut room = [0; 2048];
            while let Some(Ok(count @ 1..)) = ready(stream.read(&mut room)) {
                answer.extend_from_slice(&room[..count]);
            }
            assert_eq!(answer[..], question[..answer.len()]);
            answer.len() < question.len()
        });
        if open.is_empty() && path.near.flow_count() + path.far.flow_count() == 0 {
            break;
        }
    }
    assert_eq!((open.len(), served.len()), (0, 0));
    assert_eq!((path.near.flow_count(), path.far.flow_count()), (0, 0));
    assert_eq!(path.near.budget.left(), 512 << 20);
}

#[test]
fn a_reader_that_sleeps_holds_no_more_than_the_budget_allows() {
    let now = Instant::now();
    let mut path = Path::new(Duration::from_millis(1), 10_000, None);
    path.far = netstack(2, 4 << 20, 4 * BASE_BYTES, now);
    let mut streams = path.open();
    let data = vec![9; 1 << 20];
    let mut written = 0;
    let until = path.now + Duration::from_secs(300);
    while path.now < until {
        if let Some(count) = ready(streams.0.write(&data)) {
            written += count.unwrap();
        }
        path.step();
    }
    // Nothing got on for minutes, and yet the connection lives.
    let held = streams.1.held();
    assert!(held > BASE_BYTES && held <= 5 * BASE_BYTES, "{held}");
    assert!(path.far.refusals().growth > 0);

    // Once it wakes, everything comes.
    let (mut received, mut room) = (0, vec![0; 1 << 20]);
    for _ in 0..100_000 {
        while let Some(count) = ready(streams.1.read(&mut room)) {
            received += count.unwrap();
        }
        if received == written {
            break;
        }
        path.step();
    }
    assert_eq!(received, written);

    // And a flow at rest keeps nothing.
    let until = path.now + REST_AFTER * 3;
    while path.now < until {
        path.step();
    }
    assert_eq!((path.far.budget.left(), path.near.budget.left()), (4 * BASE_BYTES, 512 << 20));
    path.send(&mut streams, 1 << 20);
}

/// Takes packets into memory that lies ready, as the engine seals them, and has room for so many at once.
#[derive(Default)]
struct Slots {
    used: Vec<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    max: usize,
}

impl Sink for Slots {
    fn has_room(&mut self) -> bool {
        self.used.len() < self.max
    }

    fn emit<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut slot = self.spare.pop().unwrap_or_default();
        slot.resize(length, 0);
        let result = write(&mut slot);
        self.used.push(slot);
        result
    }
}

impl Slots {
    fn deliver(&mut self, to: &mut Netstack, back: &mut Self, now: Instant) -> usize {
        let count = self.used.len();
        to.handle_batch(self.used.iter_mut().map(Vec::as_mut_slice), now, back);
        self.spare.append(&mut self.used);
        count
    }
}

/// Moves `total` bytes between two stacks without a path between them; says how long and how many packets.
fn race(total: usize, window: usize, room: usize) -> (Duration, usize) {
    let now = Instant::now();
    let (mut near, mut far) = (netstack(1, window, 512 << 20, now), netstack(2, window, 512 << 20, now));
    let mut listener = far.listen(80).unwrap();
    let mut dialed = near.connect(SocketAddr::new(lease(2).v4.into(), 80), now).unwrap();
    let mut accepted = None;
    let slots = || Slots { max: room, ..Slots::default() };
    let (mut there, mut back) = (slots(), slots());
    let (data, mut buffer) = (vec![7; 256 << 10], vec![0; 256 << 10]);
    let (mut written, mut received, mut packets) = (0, 0, 0);
    while received < total {
        let now = Instant::now();
        if written < total
            && accepted.is_some()
            && let Some(count) = ready(dialed.write(&data[..data.len().min(total - written)]))
        {
            written += count.unwrap();
        }
        near.handle_work(now, &mut there);
        packets += there.deliver(&mut far, &mut back, now);
        far.handle_work(now, &mut back);
        packets += back.deliver(&mut near, &mut there, now);
        if accepted.is_none() {
            accepted = ready(listener.accept()).flatten();
        }
        while let Some(stream) = &mut accepted
            && let Some(count) = ready(stream.read(&mut buffer))
        {
            received += count.unwrap();
        }
    }
    (now.elapsed(), packets)
}

#[test]
fn a_sink_with_little_room_loses_nothing() {
    for room in [1, 3, 64] {
        race(1 << 20, 1 << 20, room);
    }
}

#[test]
#[ignore = "measures; run it alone in a release build"]
fn netstack_speed() {
    for window in [256 << 10, 1 << 20, 4 << 20] {
        for _ in 0..3 {
            let (time, packets) = race(2 << 30, window, 1024);
            let nanos = time.as_nanos() / packets as u128;
            println!(
                "window {} KiB: {:.1} Gbit/s, both ends on one core, {nanos} ns per packet",
                window >> 10,
                megabits(2 << 30, time) / 1e3,
            );
        }
    }
}

#[test]
#[ignore = "measures; run it alone in a release build"]
fn netstack_memory() {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let kib = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
        };
        kib("VmRSS:") + kib("VmPTE:")
    };
    let mut path = Path::new(Duration::from_millis(1), 10_000, None);
    let mut listener = path.far.listen(80).unwrap();
    let remote = SocketAddr::new(lease(2).v4.into(), 80);
    let before = resident();
    let mut streams = Vec::new();
    for _ in 0..2000 {
        let mut dialed = path.near.connect(remote, path.now).unwrap();
        let mut accepted = loop {
            path.step();
            if let Some(stream) = ready(listener.accept()) {
                break stream.unwrap();
            }
        };
        let mut room = [0; 4096];
        ready(dialed.write_all(&room)).unwrap().unwrap();
        let mut received = 0;
        while received < room.len() {
            path.step();
            received += ready(accepted.read(&mut room)).map_or(0, Result::unwrap);
        }
        streams.push((dialed, accepted));
    }
    println!("{} KiB per idle end that moved 4 KiB", (resident() - before) / 4000);
    for pair in &mut streams {
        path.send(pair, 1 << 20);
    }
    println!("{} KiB per end just after 1 MiB each", (resident() - before) / 4000);
    let until = path.now + REST_AFTER * 3;
    while path.now < until {
        path.step();
    }
    println!("{} KiB per end at rest after that", (resident() - before) / 4000);
}
