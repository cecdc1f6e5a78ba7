use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use super::*;

const SEGMENT: usize = 1400;
const TEN: usize = FULL_SEGMENTS * SEGMENT;

/// One call: where to, its bytes, and the length of each datagram where there are more.
type Call = (SocketAddr, Vec<u8>, Option<usize>);

/// Stands for the kernel: keeps calls, and blocks when told so.
#[derive(Debug)]
struct Calls {
    calls: Mutex<Vec<Call>>,
    is_blocked: AtomicBool,
    segments_max: AtomicUsize,
}

#[derive(Debug)]
struct Writable(Arc<Calls>);

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.is_blocked.load(Ordering::Relaxed) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Calls {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.is_blocked.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let call = (transmit.destination, transmit.contents.to_vec(), transmit.segment_size);
        self.calls.lock().push(call);
        Ok(())
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(to(1))
    }

    fn max_transmit_segments(&self) -> usize {
        self.segments_max.load(Ordering::Relaxed)
    }
}

impl Calls {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            calls: Mutex::default(),
            is_blocked: AtomicBool::new(false),
            segments_max: AtomicUsize::new(64),
        })
    }

    /// The length of each call so far.
    fn lengths(&self) -> Vec<usize> {
        self.calls.lock().iter().map(|(_, bytes, _)| bytes.len()).collect()
    }
}

fn to(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// `length` bytes in datagrams of `SEGMENT`, each filled with `fill`.
fn send(socket: &Coalescing, destination: SocketAddr, fill: u8, length: usize) -> io::Result<()> {
    let contents = vec![fill; length];
    let segment_size = (length > SEGMENT).then_some(SEGMENT);
    socket.try_send(&Transmit { destination, ecn: None, contents: &contents, segment_size, src_ip: None })
}

#[test]
fn tens_that_follow_each_other_share_calls_in_their_order() {
    let calls = Calls::new();
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    for fill in 1..=5 {
        send(&socket, to(1), fill, TEN).unwrap();
    }
    // The fifth does not fit into 64 KiB beside the others.
    assert_eq!(calls.lengths(), [4 * TEN]);
    send(&socket, to(1), 6, 2 * SEGMENT + 100).unwrap();
    assert_eq!(calls.lengths(), [4 * TEN, TEN + 2 * SEGMENT + 100], "a short one ends a run at once");
    let sent = calls.calls.lock().iter().flat_map(|(_, bytes, _)| bytes.clone()).collect::<Vec<_>>();
    assert!(sent.is_sorted());
    assert!(calls.calls.lock().iter().all(|(at, _, segment)| *at == to(1) && *segment == Some(SEGMENT)));
}

#[test]
fn what_is_short_alone_is_sent_at_once_and_as_it_is() {
    let calls = Calls::new();
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    send(&socket, to(1), 1, 40).unwrap();
    send(&socket, to(1), 2, 3 * SEGMENT).unwrap();
    assert_eq!(calls.lengths(), [40, 3 * SEGMENT]);
    assert_eq!(calls.calls.lock()[0].2, None);
}

#[test]
fn another_destination_or_length_never_shares_a_call() {
    let calls = Calls::new();
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    send(&socket, to(1), 1, TEN).unwrap();
    send(&socket, to(2), 2, TEN).unwrap();
    assert_eq!(calls.calls.lock()[0], (to(1), vec![1; TEN], Some(SEGMENT)));
    let longer = vec![3; SEGMENT + 1];
    let transmit =
        Transmit { destination: to(2), ecn: None, contents: &longer, segment_size: None, src_ip: None };
    socket.try_send(&transmit).unwrap();
    send(&socket, to(2), 4, TEN).unwrap();
    let marked = Transmit { ecn: Some(EcnCodepoint::Ect0), contents: &[5; 9], ..transmit };
    socket.try_send(&marked).unwrap();
    assert_eq!(calls.lengths(), [TEN, TEN, SEGMENT + 1, TEN, 9]);
}

/// Sends what waits for a destination.
fn flush(socket: &Coalescing, destination: SocketAddr) -> Poll<()> {
    socket.poll_flush(destination, &mut None, &mut Context::from_waker(Waker::noop()))
}

#[test]
fn what_is_held_goes_with_the_flush_of_its_destination_alone() {
    let calls = Calls::new();
    let socket = Coalescing::for_many(Arc::<Calls>::clone(&calls));
    let place = |port| socket.place(to(port)).map(std::ptr::from_ref);
    let other = (2..1000).find(|port| place(*port) != place(1)).unwrap();
    send(&socket, to(1), 1, TEN).unwrap();
    send(&socket, to(other), 2, TEN).unwrap();
    assert_eq!(flush(&socket, to(other)), Poll::Ready(()));
    assert_eq!(calls.calls.lock()[0].0, to(other));
    assert_eq!((calls.lengths(), socket.waiting()), (vec![TEN], TEN));
    assert_eq!(flush(&socket, to(1)), Poll::Ready(()));
    assert_eq!(flush(&socket, to(1)), Poll::Ready(()), "nothing waits any more");
    assert_eq!(calls.lengths(), [TEN, TEN]);
}

#[test]
fn what_is_held_when_the_kernel_refuses_the_offload_goes_one_by_one() {
    let calls = Calls::new();
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    send(&socket, to(1), 1, TEN).unwrap();
    calls.segments_max.store(1, Ordering::Relaxed);
    send(&socket, to(1), 2, SEGMENT).unwrap();
    assert_eq!(calls.lengths(), [SEGMENT; 11]);
    assert!(calls.calls.lock().iter().all(|(_, _, segment)| segment.is_none()));
    assert_eq!(calls.calls.lock()[10].1, vec![2; SEGMENT], "in their order");
}

#[test]
fn a_socket_that_would_block_loses_nothing() {
    let calls = Calls::new();
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    calls.is_blocked.store(true, Ordering::Relaxed);
    for fill in 1..=4 {
        send(&socket, to(1), fill, TEN).unwrap();
    }
    let refused = send(&socket, to(1), 5, TEN).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(flush(&socket, to(1)), Poll::Pending);
    assert_eq!(socket.waiting(), 4 * TEN);
    calls.is_blocked.store(false, Ordering::Relaxed);
    assert_eq!(flush(&socket, to(1)), Poll::Ready(()));
    send(&socket, to(1), 5, 40).unwrap();
    assert_eq!(calls.lengths(), [4 * TEN, 40]);
}

#[test]
fn without_offload_every_call_is_passed_on() {
    let calls = Calls::new();
    calls.segments_max.store(1, Ordering::Relaxed);
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    for _ in 0..3 {
        send(&socket, to(1), 1, SEGMENT).unwrap();
    }
    assert_eq!(calls.lengths(), [SEGMENT; 3]);
}

#[test]
fn the_end_sends_the_rest() {
    let calls = Calls::new();
    let socket = Coalescing::for_one(Arc::<Calls>::clone(&calls));
    send(&socket, to(1), 1, TEN).unwrap();
    drop(socket);
    assert_eq!(calls.lengths(), [TEN]);
}
