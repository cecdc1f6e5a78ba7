//! One end of a tunnel in netstack mode that sends or takes one TCP stream, in a process of its own.
//!
//! Number 0 is the hub; it listens. Number 1 is the spoke; it connects, and then either end sends.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::cli::print_line;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::{TcpStream, Tunnel, TunnelConfig};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use crate::plane;

/// Port of the stream inside the overlay.
const PORT: u16 = 5201;

/// Longest wait for the other end.
const SOON: Duration = Duration::from_secs(15);

/// Bytes of one read or write.
const PIECE: usize = 128 << 10;

/// What one end does.
#[derive(Debug, Clone, Args)]
pub(crate) struct End {
    /// Which end this is
    #[arg(long, value_enum)]
    side: Side,
    /// UDP address of the tunnel
    #[arg(long)]
    listen: SocketAddr,
    /// Where the hub's tunnel is, for the spoke
    #[arg(long)]
    hub: Option<SocketAddr>,
    /// Sends; the other end takes
    #[arg(long)]
    send: bool,
    /// Seconds of the stream
    #[arg(long)]
    secs: u64,
}

/// Ends of the star.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Side {
    /// Listens.
    Hub,
    /// Connects.
    Spoke,
}

/// Runs one stream and, on the side that takes it, prints how much came in what time.
///
/// # Errors
///
/// Fails where the other end does not come in time.
pub(crate) async fn run(end: &End, spawner: &Spawner) -> Result<()> {
    let (own, other) = if end.side == Side::Hub { (0, 1) } else { (1, 0) };
    let (tunnel, engine) = Tunnel::bind(TunnelConfig::new(end.listen, plane::core(own)?))?;
    spawner.spawn("tunnel", engine.run(spawner.stop().stop));
    tunnel.upsert_peer(plane::peer(other, end.hub)?).await?;
    let stream = match end.side {
        Side::Hub => accept(&tunnel).await?,
        Side::Spoke => connect(&tunnel).await?,
    };
    let span = Duration::from_secs(end.secs);
    if end.send { send(stream, span).await } else { take(stream, span).await }
}

async fn accept(tunnel: &Tunnel) -> Result<TcpStream> {
    let mut listener = tunnel.listen(PORT).await?;
    print_line(&json!({ "listening": true }).to_string());
    timeout(SOON, listener.accept()).await.context("nobody connects")?.context("the tunnel has ended")
}

async fn connect(tunnel: &Tunnel) -> Result<TcpStream> {
    let hub = SocketAddr::new(IpAddr::V4(plane::lease(0).v4), PORT);
    let began = Instant::now();
    loop {
        match tunnel.connect(hub, SOON).await {
            Ok(stream) => return Ok(stream),
            Err(error) if began.elapsed() > SOON => return Err(error).context("the hub takes no connection"),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn send(mut stream: TcpStream, span: Duration) -> Result<()> {
    let piece = vec![b'x'; PIECE];
    let began = Instant::now();
    while began.elapsed() < span {
        stream.write_all(&piece).await?;
    }
    stream.shutdown().await?;
    // The other end closes once it has everything, or is told to end before that reaches us.
    let _ = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
    wait().await
}

/// Takes everything; what counts is the time from the first byte to the end of the span or of the stream.
async fn take(mut stream: TcpStream, span: Duration) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let (mut bytes, mut began, mut last) = (0u64, None, Instant::now());
    let deadline = span.saturating_add(SOON);
    loop {
        let read = timeout(deadline, stream.read(&mut piece)).await.context("the stream hangs")?;
        let length = read.context("the stream broke off")?;
        if length == 0 {
            break;
        }
        began.get_or_insert_with(Instant::now);
        last = Instant::now();
        bytes = bytes.saturating_add(u64::try_from(length)?);
    }
    let secs = began.map_or(0.0, |began| last.saturating_duration_since(began).as_secs_f64());
    print_line(&json!({ "bytes": bytes, "secs": secs }).to_string());
    stream.shutdown().await?;
    wait().await
}

/// Until it is told to end: processor time is read from the outside.
async fn wait() -> Result<()> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
