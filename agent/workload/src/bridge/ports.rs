//! Ports of this machine that a workload reserved.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use parking_lot::Mutex;

/// Ports that one workload may reserve.
const MAX_PORTS: usize = 64;

/// Ports that some workload of this machine reserved: two of them never get the same.
static RESERVED: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The ports of one workload; they are free again once it is dropped.
#[derive(Debug, Default)]
pub(super) struct Ports(Mutex<BTreeSet<u16>>);

impl Ports {
    /// Reserves the port where it is free, else another one; 0 is any.
    pub(super) fn reserve(&self, preferred: u16) -> Result<u16, String> {
        let mut own = self.0.lock();
        if preferred != 0 && own.contains(&preferred) {
            return Ok(preferred);
        }
        if own.len() >= MAX_PORTS {
            return Err(format!("this service has reserved {MAX_PORTS} ports, which is the most"));
        }
        let mut reserved = RESERVED.lock();
        for wanted in [preferred, 0, 0, 0] {
            // Listening is the one way to know that nobody else does.
            let Ok(listener) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, wanted)) else { continue };
            let Ok(address) = listener.local_addr() else { continue };
            if reserved.insert(address.port()) {
                own.insert(address.port());
                return Ok(address.port());
            }
        }
        Err("no port of this machine is free".to_owned())
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        let own = std::mem::take(self.0.get_mut());
        RESERVED.lock().retain(|port| !own.contains(port));
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
}
