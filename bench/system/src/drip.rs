//! Ten thousand clients in no hurry, in a process apart from the one that measures.
//!
//! Most send the head of a request a byte at a time, some a body, some nothing at all. Who is cut comes again.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::cli::print_line;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::spoke::SERVICE;

/// Clients of one address, fewer than a hub lets in from one.
const PER_SOURCE: u32 = 100;

/// A byte of a client comes after this long.
const DRIP: Duration = Duration::from_secs(2);

/// How long a client that was cut stays away.
const AWAY: Duration = Duration::from_secs(1);

/// Longest time in which all of them connect.
const UP: Duration = Duration::from_secs(30);

/// How many do what.
#[derive(Debug, Default)]
struct Counts {
    open: AtomicU64,
    opened: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
}

impl Counts {
    fn say(&self) -> Value {
        let [open, opened, cut, refused] =
            [&self.open, &self.opened, &self.cut, &self.refused].map(|count| count.load(Ordering::Relaxed));
        json!({ "open": open, "opened": opened, "cut": cut, "refused": refused })
    }
}

/// What a client sends slowly.
#[derive(Debug, Clone, Copy)]
enum Slow {
    Head,
    Body,
    Nothing,
}

impl Slow {
    /// Of ten, seven send heads, one a body, two nothing.
    const fn of(number: u32) -> Self {
        match number % 10 {
            0..=6 => Self::Head,
            7 => Self::Body,
            _ => Self::Nothing,
        }
    }
}

/// Connects, says so in one line of JSON once all are there, and drips until standard input ends.
///
/// # Errors
///
/// Fails where standard input does not begin with an access token.
pub(crate) async fn run(proxy: SocketAddr, count: u32, spawner: &Spawner) -> Result<()> {
    let mut stdin = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    stdin.read_line(&mut line).await.context("cannot read the access token")?;
    let token = Arc::new(Secret::new(line.trim().to_owned()));
    let counts = Arc::new(Counts::default());
    for number in 0..count {
        let (counts, token) = (Arc::clone(&counts), Arc::clone(&token));
        spawner.spawn("slow client", async move {
            loop {
                client(proxy, number, &token, &counts).await;
                sleep(AWAY).await;
            }
        });
    }
    let began = Instant::now();
    while counts.open.load(Ordering::Relaxed) < u64::from(count) && began.elapsed() < UP {
        sleep(Duration::from_millis(50)).await;
    }
    print_line(&counts.say().to_string());
    let mut rest = Vec::new();
    stdin.read_to_end(&mut rest).await?;
    print_line(&counts.say().to_string());
    Ok(())
}

/// One connection, until the proxy ends it.
async fn client(proxy: SocketAddr, number: u32, token: &Secret<String>, counts: &Counts) {
    let Some(stream) = connect(proxy, number).await else {
        counts.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    counts.opened.fetch_add(1, Ordering::Relaxed);
    counts.open.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    drip(stream, Slow::of(number), token).await;
    counts.open.fetch_sub(1, Ordering::Relaxed);
    // Closed at once is not cut for being slow: there was no room.
    let which = if began.elapsed() < DRIP { &counts.refused } else { &counts.cut };
    which.fetch_add(1, Ordering::Relaxed);
}

async fn connect(proxy: SocketAddr, number: u32) -> Option<TcpStream> {
    let [.., third, fourth] = (number / PER_SOURCE).to_be_bytes();
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((Ipv4Addr::new(127, 9, third, fourth), 0).into()).ok()?;
    let stream = socket.connect(proxy).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

async fn drip(mut stream: TcpStream, slow: Slow, token: &Secret<String>) {
    let beginning = match slow {
        Slow::Head => "GET /healthz HTTP/1.1\r\nHost: hub\r\nX-Slow: ".to_owned(),
        Slow::Body => format!(
            "POST /echo HTTP/1.1\r\nHost: hub\r\nX-Service-Id: {SERVICE}\r\nAuthorization: Bearer {}\r\n\
             Content-Length: 1000000\r\n\r\n",
            token.expose()
        ),
        Slow::Nothing => String::new(),
    };
    if stream.write_all(beginning.as_bytes()).await.is_err() {
        return;
    }
    let mut answer = [0; 1024];
    loop {
        // What comes back is let go by; its end is what counts.
        match timeout(DRIP, stream.read(&mut answer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => continue,
            Err(_) => {}
        }
        if !matches!(slow, Slow::Nothing) && stream.write_all(b"a").await.is_err() {
            return;
        }
    }
}
