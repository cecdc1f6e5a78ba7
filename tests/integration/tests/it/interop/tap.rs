//! A relay between two ends that keeps what passes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use blueprint_tests_support::Host;

/// Datagrams that are kept.
const KEPT: usize = 10_000;
/// How long a thread may not notice that it is to end.
const WAIT: Duration = Duration::from_millis(50);

/// A datagram that passed.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Whether the one who dialled sent it.
    pub(super) is_from_dialler: bool,
    pub(super) bytes: Vec<u8>,
}

impl Seen {
    /// Whether it is a message of this type.
    pub(super) fn is(&self, kind: u8) -> bool {
        self.bytes.first() == Some(&kind)
    }

    /// Whether it is an initiation with a second MAC, which only a cookie gives.
    pub(super) fn shows_cookie(&self) -> bool {
        self.is(1) && self.bytes.get(132..148).is_some_and(|mac| mac.iter().any(|byte| *byte != 0))
    }
}

/// A running relay.
#[derive(Debug)]
pub(super) struct Tap {
    /// Where the dialler has to send to.
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tap {
    /// Starts one on `host` that relays to `target`.
    pub(super) fn start(host: &Host, target: SocketAddr) -> Result<Self> {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        let (front, back) = host.enter(|| Ok::<_, std::io::Error>((bind()?, bind()?)))??;
        back.connect(target)?;
        for socket in [&front, &back] {
            socket.set_read_timeout(Some(WAIT))?;
        }
        let address = SocketAddr::from((host.address(), front.local_addr()?.port()));
        let (seen, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let dialler: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let mut tap = Self { address, seen, stop, threads: Vec::new() };
        let (in_front, behind) = (front.try_clone()?, back.try_clone()?);
        let found = Arc::clone(&dialler);
        tap.relay(true, move |buffer| {
            let (len, from) = front.recv_from(buffer)?;
            *found.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
            let _ = back.send(buffer.get(..len).unwrap_or_default());
            Ok(len)
        })?;
        tap.relay(false, move |buffer| {
            let len = behind.recv(buffer)?;
            if let Some(dialler) = *dialler.lock().unwrap_or_else(PoisonError::into_inner) {
                let _ = in_front.send_to(buffer.get(..len).unwrap_or_default(), dialler);
            }
            Ok(len)
        })?;
        Ok(tap)
    }

    /// What passed so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn relay(
        &mut self,
        is_from_dialler: bool,
        mut pass: impl FnMut(&mut [u8]) -> std::io::Result<usize> + Send + 'static,
    ) -> Result<()> {
        let (seen, stop) = (Arc::clone(&self.seen), Arc::clone(&self.stop));
        let work = move || {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                // Fails where nothing came for a while, or nobody listens behind.
                let Ok(len) = pass(&mut buffer) else { continue };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.len() < KEPT {
                    seen.push(Seen {
                        is_from_dialler,
                        bytes: buffer.get(..len).unwrap_or_default().to_vec(),
                    });
                }
            }
        };
        self.threads.push(Builder::new().name("tap".to_owned()).spawn(work)?);
        Ok(())
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
