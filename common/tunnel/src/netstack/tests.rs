use std::future::Future;
use std::io;
use std::mem::take;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::*;

const BUFFER: usize = 64 << 10;

/// Two stacks with a wire between them, on virtual time.
pub(super) struct Sim {
    pub(super) now: Instant,
    pub(super) hub: Netstack,
    pub(super) spoke: Netstack,
    /// Packets on their way, by destination.
    to_hub: VecDeque<Vec<u8>>,
    to_spoke: VecDeque<Vec<u8>>,
    pub(super) is_cut: bool,
    /// One packet in so many is lost, by chance.
    lose_one_in: Option<u32>,
    chance: u32,
}

pub(super) fn lease(last: u8) -> OverlayLease {
    OverlayLease { v4: [10, 0, 0, last].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, last.into()].into() }
}

fn stack(last: u8, max_flows: usize, now: Instant) -> Netstack {
    let config = NetstackConfig {
        addresses: lease(last),
        mtu: 1420,
        max_flows,
        buffer_bytes: BUFFER,
        growth_bytes: 64 << 20,
        backlog: 4,
        seed: last.into(),
    };
    Netstack::new(config, now)
}

impl Sim {
    pub(super) fn new(max_flows: usize) -> Self {
        let now = Instant::now();
        Self {
            now,
            hub: stack(1, 4096, now),
            spoke: stack(2, max_flows, now),
            to_hub: VecDeque::new(),
            to_spoke: VecDeque::new(),
            is_cut: false,
            lose_one_in: None,
            chance: 7,
        }
    }

    /// Lets both stacks work until neither has anything to do at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut is_busy = false;
            is_busy |= !self.to_hub.is_empty() || !self.to_spoke.is_empty();
            let (mut at_hub, mut at_spoke) = (take(&mut self.to_hub), take(&mut self.to_spoke));
            let (is_cut, to_hub, to_spoke) = (self.is_cut, &mut self.to_hub, &mut self.to_spoke);
            let (lose_one_in, chance) = (self.lose_one_in, &mut self.chance);
            let mut send = |queue: &mut VecDeque<Vec<u8>>, packet: &[u8]| {
                *chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let is_lost = lose_one_in.is_some_and(|count| (*chance >> 16).is_multiple_of(count));
                if !is_cut && !is_lost {
                    queue.push_back(packet.to_vec());
                }
            };
            let mut sink = Copying::new(|packet: &[u8]| send(to_spoke, packet));
            self.hub.handle_batch(at_hub.iter_mut().map(Vec::as_mut_slice), self.now, &mut sink);
            is_busy |= self.hub.handle_work(self.now, &mut sink);
            let mut sink = Copying::new(|packet: &[u8]| send(to_hub, packet));
            self.spoke.handle_batch(at_spoke.iter_mut().map(Vec::as_mut_slice), self.now, &mut sink);
            is_busy |= self.spoke.handle_work(self.now, &mut sink);
            if !is_busy && self.to_hub.is_empty() && self.to_spoke.is_empty() {
                return;
            }
        }
        unreachable!("the stacks never come to rest");
    }

    /// Moves the time on, stopping at every deadline.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        self.settle();
        for _ in 0..100_000 {
            let next = [self.hub.poll_timeout(), self.spoke.poll_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.settle();
        }
        unreachable!("a deadline never passes");
    }

    fn open(&mut self, listener: &mut FlowListener) -> (TcpFlowStream, TcpFlowStream) {
        let remote = SocketAddr::new(lease(2).v4.into(), listener.port());
        let dialed = self.hub.connect(remote, self.now).unwrap();
        self.settle();
        (dialed, ready(listener.accept()).unwrap().unwrap())
    }
}

/// Polls once.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn read(stream: &mut TcpFlowStream) -> Option<io::Result<Vec<u8>>> {
    let mut buffer = vec![0; 64 << 10];
    ready(stream.read(&mut buffer)).map(|result| {
        result.map(|count| {
            buffer.truncate(count);
            buffer
        })
    })
}

#[test]
fn bytes_arrive_in_order_in_both_versions() {
    let mut sim = Sim::new(64);
    let mut listener = sim.spoke.listen(80).unwrap();
    for remote in [SocketAddr::new(lease(2).v4.into(), 80), SocketAddr::new(lease(2).v6.into(), 80)] {
        let mut dialed = sim.hub.connect(remote, sim.now).unwrap();
        sim.settle();
        assert_eq!(ready(dialed.opened()), Some(true));
        let mut accepted = ready(listener.accept()).unwrap().unwrap();
        assert_eq!(accepted.peer_addr(), dialed.local_addr());
        assert_eq!(accepted.local_addr(), remote);

        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let (mut written, mut received) = (0, Vec::new());
        while received.len() < sent.len() {
            if let Some(count) = ready(dialed.write(&sent[written..])) {
                written += count.unwrap();
            }
            sim.advance(ACK_DELAY);
            if let Some(part) = read(&mut accepted) {
                received.extend(part.unwrap());
            }
        }
        assert_eq!(received, sent);
    }
}

#[test]
fn lost_packets_are_sent_again() {
    for lose_one_in in [7, 20, 50] {
        let mut sim = Sim::new(64);
        let mut listener = sim.spoke.listen(80).unwrap();
        let (mut dialed, mut accepted) = sim.open(&mut listener);
        sim.lose_one_in = Some(lose_one_in);
        let sent = vec![7; 100_000];
        let (mut written, mut received) = (0, Vec::new());
        while received.len() < sent.len() {
            if let Some(count) = ready(dialed.write(&sent[written..])) {
                written += count.unwrap();
            }
            sim.advance(Duration::from_secs(1));
            if let Some(part) = read(&mut accepted) {
                received.extend(part.unwrap());
            }
        }
        assert_eq!(received, sent);
        drop((dialed, accepted));
        sim.advance(Duration::from_secs(180));
        assert_eq!((sim.hub.flow_count(), sim.spoke.flow_count()), (0, 0));
    }
}

#[test]
fn a_port_without_a_listener_refuses() {
    let mut sim = Sim::new(64);
    let remote = SocketAddr::new(lease(2).v4.into(), 81);
    let dialed = sim.hub.connect(remote, sim.now).unwrap();
    sim.settle();
    assert_eq!(ready(dialed.opened()), Some(false));
    assert_eq!(sim.hub.flow_count(), 0);
    assert_eq!(sim.spoke.refusals().no_flow, 1);
}

#[test]
fn each_half_ends_by_itself() {
    let mut sim = Sim::new(64);
    let mut listener = sim.spoke.listen(80).unwrap();
    let (mut dialed, mut accepted) = sim.open(&mut listener);
    ready(dialed.write_all(b"question")).unwrap().unwrap();
    ready(dialed.shutdown()).unwrap().unwrap();
    sim.settle();
    assert_eq!(read(&mut accepted).unwrap().unwrap(), b"question");
    assert_eq!(read(&mut accepted).unwrap().unwrap(), b"");
    assert_eq!(ready(dialed.write(b"x")).unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);

    ready(accepted.write_all(b"answer")).unwrap().unwrap();
    drop(accepted);
    sim.settle();
    // The connection is over on the wire long before this side reads.
    sim.advance(Duration::from_secs(30));
    assert_eq!((sim.hub.flow_count(), sim.spoke.flow_count()), (0, 0));
    assert_eq!(read(&mut dialed).unwrap().unwrap(), b"answer");
    assert_eq!(read(&mut dialed).unwrap().unwrap(), b"");
}

#[test]
fn dropping_a_stream_closes_it_and_unread_data_resets_it() {
    let mut sim = Sim::new(64);
    let mut listener = sim.spoke.listen(80).unwrap();
    let (mut dialed, accepted) = sim.open(&mut listener);
    drop(accepted);
    sim.settle();
    assert_eq!(read(&mut dialed).unwrap().unwrap(), b"");

    let (mut dialed, accepted) = sim.open(&mut listener);
    ready(dialed.write_all(b"never read")).unwrap().unwrap();
    sim.settle();
    drop(accepted);
    sim.settle();
    assert_eq!(read(&mut dialed).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    // Data for a stream that is gone resets the connection too.
    let (mut dialed, accepted) = sim.open(&mut listener);
    drop(accepted);
    sim.settle();
    ready(dialed.write_all(b"too late")).unwrap().unwrap();
    sim.settle();
    assert_eq!(ready(dialed.write(b"x")).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_half_closed_connection_without_a_stream_ends_by_itself() {
    let mut sim = Sim::new(64);
    let mut listener = sim.spoke.listen(80).unwrap();
    let (mut dialed, accepted) = sim.open(&mut listener);
    drop(accepted);
    sim.advance(ORPHAN_TIMEOUT - Duration::from_secs(1));
    assert_eq!(sim.spoke.flow_count(), 1);
    sim.advance(Duration::from_secs(2));
    assert_eq!((sim.hub.flow_count(), sim.spoke.flow_count()), (0, 0));
    assert_eq!(ready(dialed.write(b"x")).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_dead_path_ends_an_idle_connection_and_keepalives_keep_a_living_one() {
    let mut sim = Sim::new(64);
    let mut listener = sim.spoke.listen(80).unwrap();
    let (mut dialed, mut accepted) = sim.open(&mut listener);
    sim.advance(Duration::from_secs(600));
    assert!(read(&mut dialed).is_none());
    assert!(read(&mut accepted).is_none());
    sim.is_cut = true;
    sim.advance(Duration::from_secs(61));
    assert_eq!(read(&mut dialed).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(read(&mut accepted).unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((sim.hub.flow_count(), sim.spoke.flow_count()), (0, 0));
}

#[test]
fn a_full_backlog_and_a_full_table_refuse_and_are_counted() {
    let mut sim = Sim::new(6);
    let mut listener = sim.spoke.listen(80).unwrap();
    let remote = SocketAddr::new(lease(2).v4.into(), 80);
    let dialed: Vec<_> = (0..6).map(|_| sim.hub.connect(remote, sim.now).unwrap()).collect();
    sim.settle();
    let opened = dialed.iter().filter(|stream| ready(stream.opened()) == Some(true)).count();
    assert_eq!((opened, sim.spoke.refusals().backlog_full), (4, 2));

    let accepted: Vec<_> = (0..4).map(|_| ready(listener.accept()).unwrap().unwrap()).collect();
    let more: Vec<_> = (0..3).map(|_| sim.hub.connect(remote, sim.now).unwrap()).collect();
    sim.settle();
    let opened = more.iter().filter(|stream| ready(stream.opened()) == Some(true)).count();
    assert_eq!((opened, sim.spoke.refusals().flows_full), (2, 1));

    // Everything comes back.
    drop((dialed, more, accepted, listener));
    sim.advance(Duration::from_secs(1));
    let mut listener = sim.spoke.listen(80).unwrap();
    assert_eq!((sim.hub.flow_count(), sim.spoke.flow_count()), (0, 0));
    for _ in 0..100 {
        drop(sim.open(&mut listener));
        sim.advance(LEAVE_AFTER + ACK_DELAY);
    }
    assert_eq!((sim.hub.flow_count(), sim.spoke.flow_count()), (0, 0));
}

#[test]
fn a_port_opens_once_and_again_after_its_listener_is_gone() {
    let mut sim = Sim::new(6);
    let listener = sim.spoke.listen(80).unwrap();
    assert_eq!(sim.spoke.listen(80).unwrap_err(), ListenError::InUse { port: 80 });
    assert_eq!(sim.spoke.listen(0).unwrap_err(), ListenError::Zero);
    drop(listener);
    let dialed = sim.hub.connect(SocketAddr::new(lease(2).v4.into(), 80), sim.now).unwrap();
    sim.settle();
    assert_eq!(ready(dialed.opened()), Some(false));
    assert!(sim.spoke.listen(80).is_ok());
}

#[test]
fn an_abandoned_attempt_leaves_nothing_behind() {
    let mut sim = Sim::new(6);
    sim.is_cut = true;
    let dialed = sim.hub.connect(SocketAddr::new(lease(2).v4.into(), 80), sim.now).unwrap();
    sim.advance(Duration::from_secs(3));
    assert_eq!(ready(dialed.opened()), None);
    drop(dialed);
    sim.settle();
    assert_eq!(sim.hub.flow_count(), 0);
    assert_eq!(sim.hub.poll_timeout(), None);
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_waiting_task_is_woken_once_per_batch_and_at_the_end() {
    let mut sim = Sim::new(6);
    let mut listener = sim.spoke.listen(80).unwrap();
    let (mut dialed, mut accepted) = sim.open(&mut listener);
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut cx = Context::from_waker(&waker);
    let mut room = [0; 64 << 10];

    assert!(Pin::new(&mut accepted).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
    ready(dialed.write_all(&[7; 2000])).unwrap().unwrap();
    sim.settle();
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    while read(&mut accepted).is_some() {}

    // A writer whose peer does not read waits, and is woken when it does.
    while ready(dialed.write(&[7; 4096])).is_some() {
        sim.advance(ACK_DELAY);
    }
    assert!(Pin::new(&mut dialed).poll_write(&mut cx, b"x").is_pending());
    sim.advance(Duration::from_secs(120));
    assert_eq!(count.0.load(Ordering::Relaxed), 1);
    while read(&mut accepted).is_some() {
        sim.settle();
    }
    sim.advance(Duration::from_secs(1));
    assert_eq!(count.0.load(Ordering::Relaxed), 2);

    while read(&mut accepted).is_some() {}
    assert!(Pin::new(&mut accepted).poll_read(&mut cx, &mut ReadBuf::new(&mut room)).is_pending());
    drop(sim);
    assert_eq!(count.0.load(Ordering::Relaxed), 3);
    assert!(read(&mut accepted).unwrap().is_err());
}

#[test]
fn noise_reaches_no_flow_and_breaks_nothing() {
    let mut sim = Sim::new(6);
    let mut listener = sim.spoke.listen(80).unwrap();
    let (mut dialed, mut accepted) = sim.open(&mut listener);
    let mut random = 7_u32;
    for length in 0..2000 {
        let mut packet: Vec<u8> = (0..length % 97)
            .map(|position| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if position == 0 { [0x45, 0x60][length % 2] } else { random.to_be_bytes()[0] }
            })
            .collect();
        sim.spoke.handle_batch([packet.as_mut_slice()], sim.now, &mut Copying::new(|_: &[u8]| ()));
    }
    sim.settle();
    ready(dialed.write_all(b"still here")).unwrap().unwrap();
    sim.settle();
    assert_eq!(read(&mut accepted).unwrap().unwrap(), b"still here");
}
