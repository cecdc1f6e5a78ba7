//! Slow clients, many at once: others are served, memory has a bound for each of them, and their time ends.
//!
//! What they do to the latency of others is measured, not tested: `bench-system --only slow`.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blueprint_common_runtime::accept::AcceptLimits;
use rig::{LONG, Rig, empty, mirror, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Mutex;
use tokio::time::timeout;

#[expect(dead_code, reason = "these tests need only some of it")]
#[path = "../proxy/rig.rs"]
mod rig;

/// Slow clients in all, and from one address.
const CLIENTS: usize = 2000;
const PER_SOURCE: usize = 100;

/// How long a head may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a slow client may cost this process, in bytes: both ends of its connection, and for a body both ends of the
/// one to the service.
const MEMORY_EACH: [usize; 2] = [64 * 1024, 256 * 1024];

/// Memory is that of the process, so tests that share one take turns.
static TURN: Mutex<()> = Mutex::const_new(());

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    Head,
    Body,
    Nothing,
}

/// What the clients do together.
#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    over: AtomicUsize,
}

/// Starts slow clients; each drips until the proxy ends it.
async fn start(rig: &Rig, slow: Slow, count: usize, counts: &Arc<Counts>) {
    let beginning: Arc<str> = match slow {
        Slow::Head => "GET / HTTP/1.1\r\nHost: hub\r\nX-Slow: ".into(),
        Slow::Body => format!("POST / HTTP/1.1\r\n{}Content-Length: 1000000\r\n\r\n", rig.admitted()).into(),
        Slow::Nothing => "".into(),
    };
    for number in 0..count {
        let (counts, beginning, proxy) = (Arc::clone(counts), Arc::clone(&beginning), rig.proxy);
        let source = Ipv4Addr::from_bits(0x7f09_0001 + u32::try_from(number / PER_SOURCE).unwrap());
        rig.spawner.spawn("slow client", async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((source, 0).into()).unwrap();
            let mut stream = socket.connect(proxy).await.unwrap();
            stream.write_all(beginning.as_bytes()).await.unwrap();
            counts.open.fetch_add(1, Ordering::SeqCst);
            let mut byte = [0];
            // An answer and an end are the same here: its time is over.
            while timeout(Duration::from_millis(500), stream.read(&mut byte)).await.is_err() {
                if slow != Slow::Nothing && stream.write_all(b"a").await.is_err() {
                    break;
                }
            }
            counts.over.fetch_add(1, Ordering::SeqCst);
        });
        if number % PER_SOURCE == 0 {
            // Who is answered behind them in the queue knows that they have come as far.
            ask(rig).await;
        }
    }
}

/// Memory of this process that is in RAM, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

async fn rig() -> Rig {
    Rig::with(|config| {
        config.header_timeout = PATIENCE;
        config.limits = AcceptLimits { total: 2 * CLIENTS, per_ip: 2 * PER_SOURCE };
    })
    .await
}

/// One request of a client in no way slow, over a connection of its own.
async fn ask(rig: &Rig) {
    let mut client = rig.http1().await;
    let answer = client.send_request(rig.request("GET", "/normal", empty())).await.unwrap();
    assert!(text(answer).await.starts_with("GET /normal"));
}

/// Starts the clients and asks as they come, stay and go; gives the largest growth of memory for each of them.
async fn endure(slow: Slow, count: usize) -> usize {
    let _turn = TURN.lock().await;
    let rig = rig().await;
    rig.route(&[rig.service(mirror)]);
    ask(&rig).await;
    let (before, counts, began) = (resident(), Arc::new(Counts::default()), Instant::now());
    start(&rig, slow, count, &counts).await;
    let mut most = 0;
    // Bodies take as long as they like; heads and silence do not.
    let is_done = |counts: &Counts| match slow {
        Slow::Body => counts.open.load(Ordering::SeqCst) == count && began.elapsed() > PATIENCE,
        Slow::Head | Slow::Nothing => counts.over.load(Ordering::SeqCst) == count,
    };
    while !is_done(&counts) {
        assert!(began.elapsed() < 2 * LONG, "{counts:?}");
        timeout(LONG, ask(&rig)).await.unwrap();
        most = resident().saturating_sub(before).max(most);
    }
    assert_eq!(counts.open.load(Ordering::SeqCst), count);
    most / count
}

async fn endured(slow: Slow, count: usize) {
    let each = endure(slow, count).await;
    let [of_head, of_body] = MEMORY_EACH;
    let limit = if slow == Slow::Body { of_body } else { of_head };
    assert!(each < limit, "{slow:?}: {each} bytes each");
}

#[tokio::test]
async fn heads_that_drip_hold_nobody_up_and_end() {
    endured(Slow::Head, CLIENTS).await;
}

#[tokio::test]
async fn silence_holds_nobody_up_and_ends() {
    endured(Slow::Nothing, CLIENTS).await;
}

#[tokio::test]
async fn bodies_that_drip_hold_nobody_up() {
    endured(Slow::Body, CLIENTS / 4).await;
}
