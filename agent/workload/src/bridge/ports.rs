//! Ports of this machine that a workload reserved.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;
use tokio::net::TcpSocket;

/// Ports that one workload may reserve.
const MAX_PORTS: usize = 64;

/// First port that is given: those below belong to services that are known by them.
const LOWEST: u16 = 20_000;

/// Ports that are tried outside of the system's range, before the system chooses one.
const TRIES: usize = 256;

/// The system's range of ports for who asks for any: a connection of anybody may have one of them at any time.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports that some workload of this agent reserved: two of them never get the same.
static RESERVED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Where the next search begins, so that one that was given back is not given again at once.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// One port that is held.
#[derive(Debug)]
struct Held {
    port: u16,
    _socket: TcpSocket,
    /// By which other agents know: nothing else tells a socket that is bound, shared and does not listen.
    _mark: UnixDatagram,
}

/// The ports of one workload; they are free again once it is dropped.
///
/// Each is held by a socket that is bound and does not listen. Who listens with `SO_REUSEADDR`, as nearly everybody does,
/// gets it; who does not, and the system for who asks for any, does not get it meanwhile.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<BTreeMap<u16, Held>>);

impl Ports {
    /// Reserves the port where it is free, else another one; 0 is any.
    pub(super) fn reserve(&self, preferred: u16) -> Result<u16, String> {
        let mut own = self.0.lock();
        if preferred != 0 && own.contains_key(&preferred) {
            return Ok(preferred);
        }
        if own.len() >= MAX_PORTS {
            return Err(format!("this service has reserved {MAX_PORTS} ports, which is the most"));
        }
        let mut reserved = RESERVED.lock();
        let wanted = || if preferred == 0 { None } else { hold_wanted(preferred).ok() };
        let outside = || outside(&fs::read_to_string(RANGE).unwrap_or_default(), &reserved);
        let any = || (0..3).find_map(|_| hold(0).ok());
        let is_new = |held: &Held| !reserved.contains(&held.port);
        let found = wanted().filter(is_new).or_else(outside).or_else(|| any().filter(is_new));
        let held = found.ok_or("no port of this machine is free")?;
        let port = held.port;
        reserved.insert(port);
        own.insert(port, held);
        Ok(port)
    }
}

/// Holds a port that nobody else has.
fn hold(port: u16) -> io::Result<Held> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    let port = socket.local_addr()?.port();
    let mark = mark(port)?;
    // From now on: who listens shares it with this one, which nobody was to be shared with.
    socket.set_reuseaddr(true)?;
    Ok(Held { port, _socket: socket, _mark: mark })
}

/// Holds a port that was asked for; connections of an earlier listener there may still be ending.
fn hold_wanted(port: u16) -> io::Result<Held> {
    if let Ok(held) = hold(port) {
        return Ok(held);
    }
    let mark = mark(port)?;
    let socket = TcpSocket::new_v4()?;
    // Listening is the one way to know that nobody else does.
    drop(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?);
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    Ok(Held { port, _socket: socket, _mark: mark })
}

/// A name that one agent of this network has at a time, as it has the port.
fn mark(port: u16) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(format!("blueprint-agent-port-{port}"))?)
}

/// Holds the next port outside of the system's range; `None` where none is found.
fn outside(range: &str, reserved: &BTreeSet<u16>) -> Option<Held> {
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u16>().ok());
    let (low, high) = (ends.next()?, ends.next()?);
    let usable: Vec<u16> = (LOWEST..=u16::MAX).filter(|port| !(low..=high).contains(port)).collect();
    if usable.is_empty() {
        return None;
    }
    // Agents of one machine begin at different places.
    let own = u16::try_from(std::process::id() % 8192).unwrap_or(0);
    let tried = (0..TRIES).filter_map(|_| {
        let next = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        usable.get(usize::from(next) % usable.len()).copied()
    });
    tried.filter(|port| !reserved.contains(port)).find_map(|port| hold(port).ok())
}

impl Drop for Ports {
    fn drop(&mut self) {
        let own = std::mem::take(self.0.get_mut());
        RESERVED.lock().retain(|port| !own.contains_key(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_comes_back() {
        let (one, two) = (Ports::default(), Ports::default());
        let port = one.reserve(0).unwrap();
        assert_eq!(one.reserve(port).unwrap(), port, "its own port is its own");
        assert_ne!(two.reserve(port).unwrap(), port);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = taken.local_addr().map(|address| (address.port(), taken)).unwrap();
        assert_ne!(two.reserve(taken.0).unwrap(), taken.0);
        drop(one);
        assert_eq!(two.reserve(port).unwrap(), port);
        while two.0.lock().len() < MAX_PORTS {
            two.reserve(0).unwrap();
        }
        assert!(two.reserve(0).is_err());
    }

    #[test]
    fn a_port_that_is_held_is_its_workloads_to_listen_on_and_nobody_elses_by_chance() {
        let ports = Ports::default();
        let port = ports.reserve(0).unwrap();
        let range = fs::read_to_string(RANGE).unwrap();
        let ends: Vec<u16> = range.split_whitespace().map(|end| end.parse().unwrap()).collect();
        let is_all = ends[0] <= LOWEST && ends[1] == u16::MAX;
        assert!(is_all || !(ends[0]..=ends[1]).contains(&port), "{port} is one of {range}");
        // As one who does not expect anybody there.
        assert!(hold(port).is_err(), "it is not held");
        for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let listener = TcpListener::bind((address, port)).unwrap();
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            listener.accept().unwrap();
            assert!(TcpListener::bind((address, port)).is_err(), "two listen");
        }
        // Nor is one that another agent holds given.
        let other = hold(0).unwrap();
        assert!(hold(other.port).is_err() && hold_wanted(other.port).is_err());
        assert_ne!(Ports::default().reserve(other.port).unwrap(), other.port);
        let port = other.port;
        drop(other);
        assert_eq!(hold_wanted(port).unwrap().port, port);
        assert!(outside("1024 65535", &BTreeSet::new()).is_none());
        assert!(outside("", &BTreeSet::new()).is_none());
    }
}
