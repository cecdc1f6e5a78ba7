//! The accept loop over loopback.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::tasks::{Stop, Supervisor};

/// A loop that greets each connection and holds it until the other side closes.
async fn start(limits: AcceptLimits) -> (SocketAddr, Arc<AcceptStats>, Stop, Supervisor) {
    let supervisor = Supervisor::new();
    let stop = supervisor.stop();
    let accept = AcceptLoop::bind("test", (Ipv4Addr::LOCALHOST, 0).into(), limits).await.unwrap();
    let (address, stats) = (accept.local_addr().unwrap(), accept.stats());
    let run = accept.run(supervisor.child_spawner(), stop.drain.clone(), |mut stream, _| async move {
        stream.write_all(b"hello").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    supervisor.spawn_essential("accept", run);
    (address, stats, stop, supervisor)
}

/// Connects and says whether the greeting came.
async fn greeted(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.ok().map(|_| stream)
}

/// Opens connections until one is greeted, as places are given back.
async fn greeted_at_last(address: SocketAddr) -> TcpStream {
    loop {
        if let Some(stream) = greeted(address).await {
            return stream;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn one_connection_more_than_the_total_is_closed_and_counted() {
    let limits = AcceptLimits { total: 2, per_ip: 10 };
    let (address, stats, _stop, _supervisor) = start(limits).await;
    let first = greeted(address).await.unwrap();
    let _second = greeted(address).await.unwrap();
    assert!(greeted(address).await.is_none());
    assert_eq!((stats.accepted(), stats.refused_total(), stats.refused_per_ip()), (2, 1, 0));

    drop(first);
    let _third = greeted_at_last(address).await;
    assert_eq!((stats.accepted(), stats.errors()), (3, 0));
}

#[tokio::test]
async fn one_source_cannot_take_every_place() {
    let limits = AcceptLimits { total: 10, per_ip: 1 };
    let (address, stats, _stop, _supervisor) = start(limits).await;
    let _first = greeted(address).await.unwrap();
    assert!(greeted(address).await.is_none());
    assert_eq!((stats.refused_total(), stats.refused_per_ip()), (0, 1));
}

#[tokio::test]
async fn drain_ends_accepting_and_leaves_connections_open() {
    let (address, _stats, stop, supervisor) = start(AcceptLimits::default()).await;
    let mut open = greeted(address).await.unwrap();
    let spawner = supervisor.child_spawner();
    supervisor.shutdown();
    while spawner.open() > 1 {
        tokio::task::yield_now().await;
    }
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!stop.stop.is_cancelled());
    open.write_all(b"still here").await.unwrap();
    drop(open);
    supervisor.run(Duration::from_secs(60)).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_named_in_the_error() {
    let limits = AcceptLimits::default();
    let (address, ..) = start(limits).await;
    let error = AcceptLoop::bind("test", address, limits).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_household_is_one_source() {
    let source = |text: &str| source_of(text.parse().unwrap()).to_string();
    assert_eq!(source("192.0.2.7"), "192.0.2.7");
    assert_eq!(source("::ffff:192.0.2.7"), "192.0.2.7");
    assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
}
