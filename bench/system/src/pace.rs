//! Requests at an even pace: latency of a proxy that is not at its limit.
//!
//! Where all connections send at the same moments, what is measured is how long the last of them waits for the
//! others. Here each has a place of its own in the interval. All are of one thread, which never sleeps: timers go
//! by the millisecond, and all that is due within one would be sent at once. So it needs a processor for itself.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use blueprint_common_runtime::cli::print_line;
use bytes::Bytes;
use clap::Args;
use futures_util::future::try_join_all;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::Instant;

/// What is sent, where, and how fast.
#[derive(Debug, Clone, Args)]
pub(crate) struct Pace {
    /// Where requests go
    #[arg(long)]
    to: SocketAddr,
    /// Path of all requests
    #[arg(long, default_value = "/")]
    path: String,
    /// `NAME: VALUE`, sent with each
    #[arg(long)]
    header: Vec<String>,
    /// Requests a second, of all connections together
    #[arg(long)]
    rate: f64,
    /// Connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=512))]
    connections: u32,
    /// How long
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    secs: u64,
    /// HTTP/2 without TLS
    #[arg(long)]
    http2: bool,
}

/// Sends, and prints how many were answered in a second, and two percentiles of their latency in microseconds.
///
/// A latency counts from the moment at which a request was to be sent where its connection was still busy then,
/// else from when it was sent: what the generator is late by is not the proxy's.
///
/// # Errors
///
/// Fails where a request does, or is not answered with 200.
pub(crate) fn run(pace: &Pace) -> Result<()> {
    ensure!(pace.rate > 0.0, "--rate has to be more than 0");
    let interval = Duration::try_from_secs_f64(f64::from(pace.connections) / pace.rate)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut micros = runtime.block_on(async {
        let start = Instant::now() + Duration::from_millis(300);
        let end = start + Duration::from_secs(pace.secs);
        let one = |number| send(pace, start + (interval / pace.connections) * number, interval, end);
        Ok::<_, anyhow::Error>(try_join_all((0..pace.connections).map(one)).await?.concat())
    })?;
    micros.sort_unstable();
    let at = |share: usize| micros.get(micros.len() * share / 100).copied();
    let rate = micros.len() / usize::try_from(pace.secs)?;
    print_line(&json!({ "rate": rate, "p50_us": at(50), "p99_us": at(99) }).to_string());
    Ok(())
}

/// Everything of one connection.
async fn send(pace: &Pace, first: Instant, interval: Duration, end: Instant) -> Result<Vec<u128>> {
    let mut connection = Connection::open(pace).await?;
    let (mut micros, mut due, mut free_at) = (Vec::new(), first, first);
    while due < end {
        while Instant::now() < due {
            yield_now().await;
        }
        let sent_at = if free_at > due { due } else { Instant::now() };
        connection.ask(pace).await?;
        free_at = Instant::now();
        micros.push((free_at - sent_at).as_micros());
        due += interval;
    }
    Ok(micros)
}

/// One of either version; nobody but [`Connection::ask`] drives it.
enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>, Driver),
    Http2(http2::SendRequest<Empty<Bytes>>, Driver),
}

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

impl Connection {
    async fn open(pace: &Pace) -> Result<Self> {
        let stream =
            TcpStream::connect(pace.to).await.with_context(|| format!("cannot reach {}", pace.to))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        if pace.http2 {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
            return Ok(Self::Http2(sender, Box::pin(driver)));
        }
        let (sender, driver) = http1::handshake(io).await?;
        Ok(Self::Http1(sender, Box::pin(driver)))
    }

    async fn ask(&mut self, pace: &Pace) -> Result<()> {
        let request = request(pace)?;
        let (answer, driver): (Pin<Box<dyn Future<Output = _>>>, _) = match self {
            Self::Http1(sender, driver) => (Box::pin(sender.send_request(request)), driver),
            Self::Http2(sender, driver) => (Box::pin(sender.send_request(request)), driver),
        };
        let mut whole = pin!(async {
            let answer = answer.await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            Ok::<_, hyper::Error>(status)
        });
        let status = tokio::select! {
            biased;
            status = whole.as_mut() => status.context("a request failed")?,
            ended = driver.as_mut() => bail!(anyhow!("the connection ended early: {ended:?}")),
        };
        if status != StatusCode::OK {
            bail!("a request was answered with {status}");
        }
        Ok(())
    }
}

fn request(pace: &Pace) -> Result<Request<Empty<Bytes>>> {
    let target = if pace.http2 { format!("http://{}{}", pace.to, pace.path) } else { pace.path.clone() };
    let mut request = Request::get(target);
    if !pace.http2 {
        request = request.header("host", pace.to.to_string());
    }
    for header in &pace.header {
        let (name, value) = header.split_once(": ").context("a header is NAME: VALUE")?;
        request = request.header(name.parse::<HeaderName>()?, value.parse::<HeaderValue>()?);
    }
    Ok(request.body(Empty::new())?)
}
