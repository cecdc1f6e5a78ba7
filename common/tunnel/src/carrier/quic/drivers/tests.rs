use std::future::{pending, ready};
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Drivers of a socket of loopback.
fn keeping() -> (Arc<Keeping>, Arc<Coalescing>, SocketAddr) {
    let keeping = Keeping::start(2).unwrap();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = Coalescing::for_one(keeping.wrap_udp_socket(socket).unwrap());
    (keeping, socket, at)
}

#[test]
fn of_several_threads_the_first_has_half_as_many_connections() {
    let turns = |count: usize| {
        let keeping = Keeping::start(count).unwrap();
        let place = |thread| keeping.threads.iter().position(|other| Arc::ptr_eq(other, thread)).unwrap();
        let next = || {
            let at = place(keeping.thread());
            keeping.go_round();
            at
        };
        std::iter::repeat_with(next).take(6).collect::<Vec<_>>()
    };
    assert_eq!(turns(1), [0; 6]);
    assert_eq!(turns(2), [0, 1, 1, 0, 1, 1]);
    assert_eq!(turns(3), [0, 1, 2, 1, 2, 0]);
}

#[tokio::test]
async fn a_driver_that_wakes_itself_has_its_rounds_in_one_turn() {
    let (keeping, socket, at) = keeping();
    let rounds = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&rounds);
    keeping.spawn(Box::pin(poll_fn(move |context| {
        counted.fetch_add(1, Ordering::Relaxed);
        context.waker().wake_by_ref();
        Poll::Pending
    })));
    let mut drivers = keeping.take(&socket, at);
    let mut work = pin!(drivers.beside(|| None, pending::<()>()));
    assert!(poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await.is_pending());
    assert_eq!(rounds.load(Ordering::Relaxed), ROUNDS, "no turn is without end");
    assert!(poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await.is_pending());
    assert_eq!(rounds.load(Ordering::Relaxed), 2 * ROUNDS);
}

#[tokio::test]
async fn what_another_thread_wakes_is_polled_again() {
    let (keeping, socket, at) = keeping();
    let (sender, receiver) = oneshot::channel::<()>();
    keeping.spawn(Box::pin(ready(())));
    let mut drivers = keeping.take(&socket, at);
    let work = drivers.beside(|| Some(at), receiver);
    let waker = std::thread::Builder::new().spawn(move || sender.send(())).unwrap();
    timeout(PATIENCE, work).await.unwrap().unwrap();
    waker.join().unwrap().unwrap();
}

#[tokio::test]
async fn drivers_that_are_dropped_go_on_and_the_thread_ends_after_them() {
    let (keeping, socket, at) = keeping();
    let thread = Arc::downgrade(keeping.thread());
    let (sender, receiver) = oneshot::channel::<()>();
    let (done, is_done) = oneshot::channel();
    keeping.spawn(Box::pin(async move {
        let _ = receiver.await;
        let _ = done.send(std::thread::current().name().map(str::to_owned));
    }));
    drop(keeping.take(&socket, at));
    drop((keeping, socket));
    assert!(thread.upgrade().is_some());
    sender.send(()).unwrap();
    let name = timeout(PATIENCE, is_done).await.unwrap().unwrap();
    assert_eq!(name.as_deref(), Some("tunnel-quic"));
    let wait = async {
        while thread.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("the thread ends");
}
