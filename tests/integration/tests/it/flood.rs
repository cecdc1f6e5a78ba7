//! A sender of many datagrams from many addresses, which counts what comes back. Bounded in rate and time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use blueprint_common_types::WgPublicKey;
use blueprint_tests_support::Host;
use boringtun::noise::{Tunn, TunnResult};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::fixture::CALL;

/// The most that is ever sent, in datagrams per second.
const MOST_PER_SECOND: u32 = 50_000;
/// The longest that a flood lasts, whatever its owner does.
const LONGEST: Duration = Duration::from_secs(60);
/// How often a burst is sent.
const BURST_EVERY: Duration = Duration::from_millis(20);

/// What a flood sends next, from the source of this number.
pub(crate) type Source = Box<dyn FnMut(u32, &mut Vec<u8>) + Send>;

/// What was sent and what came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) sent: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) answers: u64,
    pub(crate) answer_bytes: u64,
    /// Answers that are no cookie replies.
    pub(crate) no_cookies: u64,
}

/// A running flood.
#[derive(Debug)]
pub(crate) struct Flood {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Counts>>,
}

impl Flood {
    /// Sends what `source` says to `target`, in turn from each of `sockets`, `per_second` datagrams.
    pub(crate) fn start(
        sockets: Vec<UdpSocket>,
        target: SocketAddr,
        per_second: u32,
        source: Source,
    ) -> Result<Self> {
        ensure!(per_second <= MOST_PER_SECOND && !sockets.is_empty(), "no flood of {per_second} per second");
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        let (stop, stopped) = channel();
        let work = move || run(&sockets, target, per_second, source, &stopped);
        let thread = Builder::new().name("flood".to_owned()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Ends it, and counts.
    pub(crate) fn finish(mut self) -> Result<Counts> {
        drop(self.stop.take());
        let thread = self.thread.take().context("the flood has ended")?;
        thread.join().map_err(|_| anyhow!("the flood panicked"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    sockets: &[UdpSocket],
    target: SocketAddr,
    per_second: u32,
    mut source: Source,
    stopped: &Receiver<()>,
) -> Counts {
    let (begin, mut counts, mut datagram) = (Instant::now(), Counts::default(), Vec::new());
    let mut numbered = (0u32..).zip(sockets.iter().cycle());
    while begin.elapsed() < LONGEST {
        // What a busy machine made late is caught up with, but in no burst of more than five.
        let due = begin.elapsed().as_millis() * u128::from(per_second) / 1000;
        let burst = per_second / 10;
        let missing = due.saturating_sub(counts.sent.into()).min(burst.into());
        for _ in 0..missing {
            let Some((number, socket)) = numbered.next() else { break };
            datagram.clear();
            source(number, &mut datagram);
            if socket.send_to(&datagram, target).is_ok() {
                counts.sent += 1;
                counts.sent_bytes += u64::try_from(datagram.len()).unwrap_or(0);
            }
        }
        counts.hear(sockets);
        match stopped.recv_timeout(BURST_EVERY) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // What is still on its way.
    let _ = channel::<()>().1.recv_timeout(BURST_EVERY * 5);
    counts.hear(sockets);
    counts
}

impl Counts {
    fn hear(&mut self, sockets: &[UdpSocket]) {
        let mut buffer = [0; 2048];
        for socket in sockets {
            while let Ok((len, _)) = socket.recv_from(&mut buffer) {
                self.answers += 1;
                self.answer_bytes += u64::try_from(len).unwrap_or(0);
                self.no_cookies += u64::from(buffer.first() != Some(&3));
            }
        }
    }
}

/// Sockets at `count` addresses of a host that it is given for this: 198.19.LINK.1 and on, reached over its own.
pub(crate) fn sockets(host: &Host, count: u8) -> Result<Vec<UdpSocket>> {
    let [_, _, link, _] = host.address().octets();
    let run = |words: String| -> Result<()> {
        let finished = host.launch(Path::new("ip")).args(words.split_whitespace()).run(CALL)?;
        ensure!(finished.code == Some(0), "ip {words}: {}", finished.stderr);
        Ok(())
    };
    run(format!("route replace local 198.19.{link}.0/24 dev lo"))?;
    host.route_to_it(&format!("198.19.{link}.0/24"))?;
    let bind = |last| UdpSocket::bind((IpAddr::V4(Ipv4Addr::new(198, 19, link, last)), 0));
    host.enter(|| (1..=count).map(bind).collect::<Result<Vec<_>, _>>())?.context("cannot bind the flood")
}

/// Well-formed initiations for `to`, of keys that nobody knows.
pub(crate) fn unknown_initiations(to: WgPublicKey, count: u8) -> Result<Vec<Vec<u8>>> {
    let to = PublicKey::from(*to.as_bytes());
    let make = |number: u8| {
        let secret = StaticSecret::from([number.wrapping_add(100); 32]);
        let mut tunn = Tunn::new(secret, to, None, None, number.into(), None);
        let mut out = [0; 148];
        let TunnResult::WriteToNetwork(datagram) = tunn.format_handshake_initiation(&mut out, true) else {
            bail!("the library made no initiation");
        };
        Ok(datagram.to_vec())
    };
    (0..count).map(make).collect()
}

/// Sends these in turn.
pub(crate) fn in_turn(datagrams: Vec<Vec<u8>>) -> Source {
    let mut turn = 0usize;
    Box::new(move |_, out| {
        out.extend_from_slice(datagrams.get(turn).map_or(&[], Vec::as_slice));
        turn = (turn + 1) % datagrams.len().max(1);
    })
}
