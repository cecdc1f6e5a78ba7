//! The accept loop over loopback.

use std::net::Ipv4Addr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

use super::places::source_of;
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
async fn this_machine_may_be_exempt_from_the_cap_of_a_source_and_never_from_the_total() {
    let supervisor = Supervisor::new();
    let limits = AcceptLimits { total: 2, per_ip: 1 };
    let accept = AcceptLoop::bind("test", (Ipv4Addr::LOCALHOST, 0).into(), limits).await.unwrap();
    let (address, stats) = (accept.local_addr().unwrap(), accept.stats());
    let hold = |mut stream: TcpStream, _| async move {
        stream.write_all(b"hello").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    };
    let run = accept.exempting_loopback().run(supervisor.child_spawner(), supervisor.stop().drain, hold);
    supervisor.spawn_essential("accept", run);
    let _held = (greeted(address).await.unwrap(), greeted(address).await.unwrap());
    assert!(greeted(address).await.is_none());
    assert_eq!((stats.open(), stats.refused_total(), stats.refused_per_ip()), (2, 1, 0));
}

/// Says in the environment of the test's own child that it is the child.
const CHILD: &str = "BLUEPRINT_TEST_FEW_FILES";

/// The child: a loop in a process of 40 files, until its input ends; then it tells how often accepting failed.
async fn serve_with_few_files() {
    let few = 40;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, few, few).unwrap();
    let (address, stats, ..) = start(AcceptLimits { total: 1000, per_ip: 1000 }).await;
    let mut stdout = tokio::io::stdout();
    stdout.write_all(format!("\nport {}\n", address.port()).as_bytes()).await.unwrap();
    stdout.flush().await.unwrap();
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    stdout.write_all(format!("\nerrors {}\n", stats.errors()).as_bytes()).await.unwrap();
    stdout.flush().await.unwrap();
}

#[tokio::test]
async fn a_process_without_files_left_waits_and_goes_on() {
    if std::env::var_os(CHILD).is_some() {
        return serve_with_few_files().await;
    }
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "accept::tests::a_process_without_files_left_waits_and_goes_on", "--nocapture"])
        .env(CHILD, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = async |name: &str| loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some(value) = line.strip_prefix(name) {
            return value.trim().parse::<u16>().unwrap();
        }
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, told("port").await));
    let mut open = Vec::new();
    for _ in 0..80 {
        open.push(TcpStream::connect(address).await.unwrap());
    }
    // The last one waits in the kernel's queue: nobody can accept it.
    let last = open.last_mut().unwrap();
    let greeting = tokio::time::timeout(Duration::from_millis(300), last.read_u8()).await;
    assert!(greeting.is_err(), "{greeting:?}");
    assert!(child.try_wait().unwrap().is_none(), "the process ended");
    drop(open);
    let again = tokio::time::timeout(Duration::from_secs(1), greeted_at_last(address)).await;
    assert!(again.is_ok(), "a second after files are there again nobody is accepted");
    drop(child.stdin.take());
    let errors = told("errors").await;
    assert!((1..100).contains(&errors), "{errors} errors: none, or a loop that spins");
    assert!(child.wait().await.unwrap().success());
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
