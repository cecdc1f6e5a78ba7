//! Two bare UDP sockets on loopback: what the machine itself can do, for scale.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host::TUNNEL_MTU;
use crate::report::Figure;
use crate::stats::{float, millis, percentile};

/// Round trips measured.
const ROUND_TRIPS: usize = 5000;

/// How long datagrams are sent in one direction.
const FLOOD: Duration = Duration::from_secs(1);

/// Silence after which nothing more will come.
const SILENCE: Duration = Duration::from_millis(200);

/// Measures round trips, and how many bytes arrive.
///
/// # Errors
///
/// Fails where sockets do.
pub(crate) async fn measure() -> Result<Vec<Figure>> {
    tokio::task::spawn_blocking(|| {
        let samples = round_trips()?;
        Ok(vec![
            Figure::once("udp.round_trip_p50", "ms", millis(percentile(&samples, 50))),
            Figure::once("udp.round_trip_p99", "ms", millis(percentile(&samples, 99))),
            Figure::once("udp.throughput", "MiB/s", flood()?),
        ])
    })
    .await?
}

fn pair() -> Result<(UdpSocket, UdpSocket)> {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot open a UDP socket");
    let (one, other) = (bind()?, bind()?);
    one.connect(other.local_addr()?)?;
    other.connect(one.local_addr()?)?;
    one.set_read_timeout(Some(SILENCE))?;
    other.set_read_timeout(Some(SILENCE))?;
    Ok((one, other))
}

fn round_trips() -> Result<Vec<Duration>> {
    let (one, other) = pair()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0u8; 64];
            while let Ok(length) = other.recv(&mut buffer) {
                let _ = other.send(buffer.get(..length).unwrap_or_default());
            }
        });
        let mut buffer = [0u8; 64];
        let mut samples = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            one.send(&buffer)?;
            one.recv(&mut buffer).context("a datagram was lost on loopback")?;
            samples.push(began.elapsed());
        }
        Ok(samples)
    })
}

/// MiB/s that arrive of datagrams as large as the tunnel's packets, sent as fast as one thread can.
fn flood() -> Result<f64> {
    let (one, other) = pair()?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let payload = vec![0u8; usize::from(TUNNEL_MTU)];
            let began = Instant::now();
            while began.elapsed() < FLOOD {
                // A full buffer loses datagrams; what arrives is counted.
                let _ = one.send(&payload);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let mut buffer = [0u8; 2048];
        let (began, mut bytes) = (Instant::now(), 0u64);
        while !is_over.load(Ordering::Relaxed) {
            match other.recv(&mut buffer) {
                Ok(length) => bytes = bytes.saturating_add(u64::try_from(length)?),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(float(bytes) / f64::from(1u32 << 20) / began.elapsed().as_secs_f64())
    })
}
