//! Requests at an even pace: latency of a proxy that is not at its limit.
//!
//! Where all connections send at the same moments, what is measured is how long the last of them waits for the
//! others. Here each has a place of its own in the interval. All are of one thread, which never sleeps: timers go
//! by the millisecond, and all that is due within one would be sent at once. So it needs a processor for itself.
//!
//! Where a host gives the processors of this machine to others for some milliseconds, what waited then is most of the
//! slowest hundredth, whatever is measured. So percentiles are those of short windows, without the windows in which
//! time was stolen (proc_stat(5)), and the middle one of them; those of all requests are told beside.

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

use crate::stats::{Spread, millis, percentile};

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

/// Length of a window.
const WINDOW: Duration = Duration::from_millis(250);

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
    let (answers, stolen) = runtime.block_on(async {
        let start = Instant::now() + Duration::from_millis(300);
        let end = start + Duration::from_secs(pace.secs);
        let one = |number| send(pace, start + (interval / pace.connections) * number, interval, end);
        let all = try_join_all((0..pace.connections).map(one));
        let (answers, stolen) = tokio::try_join!(all, watch_stolen(start, end))?;
        Ok::<_, anyhow::Error>((windows(&answers.concat(), start, stolen.len()), stolen))
    })?;
    let clean = answers.iter().zip(&stolen).filter(|(answers, ticks)| **ticks == 0 && !answers.is_empty());
    let clean: Vec<&[Duration]> = clean.map(|(answers, _)| answers.as_slice()).collect();
    let middle = |percent| {
        (!clean.is_empty()).then(|| Spread::of(clean.iter().map(|window| micros(window, percent))).median)
    };
    let all = answers.concat();
    let rate = all.len() / usize::try_from(pace.secs)?;
    print_line(
        &json!({
            "rate": rate, "p50_us": middle(50), "p99_us": middle(99),
            "all_p50_us": micros(&all, 50), "all_p99_us": micros(&all, 99),
            "windows": answers.len(), "stolen_windows": stolen.iter().filter(|ticks| **ticks > 0).count(),
        })
        .to_string(),
    );
    Ok(())
}

fn micros(latencies: &[Duration], percent: usize) -> f64 {
    millis(percentile(latencies, percent)) * 1000.0
}

/// Latencies by the window in which each request was sent.
fn windows(answers: &[(Instant, Duration)], start: Instant, count: usize) -> Vec<Vec<Duration>> {
    let mut windows = vec![Vec::new(); count];
    for (sent_at, latency) in answers {
        let number = sent_at.saturating_duration_since(start).as_nanos() / WINDOW.as_nanos();
        if let Some(window) = usize::try_from(number).ok().and_then(|number| windows.get_mut(number)) {
            window.push(*latency);
        }
    }
    windows
}

/// Ticks (10 ms) that the host took from all processors of this machine in each window.
async fn watch_stolen(start: Instant, end: Instant) -> Result<Vec<u64>> {
    let (mut windows, mut at) = (Vec::new(), start);
    let mut before = None;
    while at <= end {
        while Instant::now() < at {
            yield_now().await;
        }
        let now = stolen_ticks(&std::fs::read_to_string("/proc/stat")?);
        windows.extend(before.map(|before| now.saturating_sub(before)));
        (before, at) = (Some(now), at + WINDOW);
    }
    Ok(windows)
}

/// Of `/proc/stat`: 0 where the kernel does not tell.
fn stolen_ticks(stat: &str) -> u64 {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    all.and_then(|all| all.split_whitespace().nth(7)?.parse().ok()).unwrap_or(0)
}

/// Everything of one connection.
async fn send(
    pace: &Pace,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> Result<Vec<(Instant, Duration)>> {
    let mut connection = Connection::open(pace).await?;
    let (mut answers, mut due, mut free_at) = (Vec::new(), first, first);
    while due < end {
        while Instant::now() < due {
            yield_now().await;
        }
        let sent_at = if free_at > due { due } else { Instant::now() };
        connection.ask(pace).await?;
        free_at = Instant::now();
        answers.push((sent_at, free_at - sent_at));
        due += interval;
    }
    Ok(answers)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_go_to_the_window_in_which_they_were_asked() {
        let start = Instant::now();
        let answer = |at, took| (start + Duration::from_millis(at), Duration::from_millis(took));
        let answers = [answer(0, 1), answer(249, 400), answer(250, 2), answer(760, 3)];
        let windows = windows(&answers, start, 3);
        let millis = |number: usize| windows[number].iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!((millis(0), millis(1), millis(2)), (vec![1, 400], vec![2], vec![]));
    }

    #[test]
    fn stolen_ticks_are_the_eighth_figure_of_all_processors() {
        assert_eq!(stolen_ticks("cpu  1 2 3 4 5 6 7 42 9 10\ncpu0 1 2 3 4 5 6 7 21 9 10\n"), 42);
        assert_eq!(stolen_ticks("cpu  1 2 3\n"), 0);
    }
}
