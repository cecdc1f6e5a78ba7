//! The name server of a lab: addresses of names that a test sets, and "no such name" for all others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// Longest question over UDP that is read, in bytes (RFC 1035, section 2.3.4).
const MAX_QUESTION: usize = 512;

const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];
const TYPE_AAAA: [u8; 2] = [0, 28];

type Table = BTreeMap<String, Vec<IpAddr>>;

/// Answers on port 53 of a namespace until dropped.
#[derive(Debug)]
pub(crate) struct Dns {
    names: Arc<Mutex<Table>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Dns {
    pub(crate) fn start(namespace: &Namespace) -> Result<Self> {
        let socket = namespace
            .enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)))?
            .context("cannot bind the lab's name server")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let names = Arc::new(Mutex::new(Table::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (table, stopped) = (Arc::clone(&names), Arc::clone(&stop));
        let thread = Builder::new().name("lab-dns".to_owned()).spawn(move || {
            let mut buffer = [0; MAX_QUESTION];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let names = table.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(answer) = buffer.get(..length).and_then(|question| answer(question, &names)) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        })?;
        Ok(Self { names, stop, thread: Some(thread) })
    }

    pub(crate) fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(name.trim_end_matches('.').to_lowercase(), addresses.to_vec());
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to one question (RFC 1035, section 4); `None` where it is damaged.
fn answer(message: &[u8], names: &Table) -> Option<Vec<u8>> {
    let id = message.get(..2)?;
    let (name, length) = question_name(message.get(HEADER_BYTES..)?)?;
    let question = message.get(HEADER_BYTES..HEADER_BYTES + length + 4)?;
    let kind = question.get(length..length + 2)?;
    let known = names.get(&name);
    let mut records = Vec::new();
    let mut count: u16 = 0;
    for address in known.into_iter().flatten() {
        let data = match address {
            IpAddr::V4(v4) if kind == TYPE_A => v4.octets().to_vec(),
            IpAddr::V6(v6) if kind == TYPE_AAAA => v6.octets().to_vec(),
            IpAddr::V4(_) | IpAddr::V6(_) => continue,
        };
        count += 1;
        // Pointer to the question's name, its type, class IN, TTL 0, length, address.
        records.extend([0xc0, 12]);
        records.extend(kind);
        records.extend([0, 1, 0, 0, 0, 0]);
        records.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        records.extend(data);
    }
    let code = if known.is_some() { 0 } else { 3 };
    let mut reply = id.to_vec();
    // Response, authoritative, recursion desired and available; one question.
    reply.extend([0x85, 0x80 | code, 0, 1]);
    reply.extend(count.to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(question);
    reply.extend(records);
    Some(reply)
}

/// The name at the start of `bytes`, lower case, with its length in the message.
fn question_name(bytes: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = bytes.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(kind: u8, names: &Table) -> Option<Vec<u8>> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3];
        message.extend(b"Hub\x04test\x00");
        message.extend([0, kind, 0, 1]);
        answer(&message, names)
    }

    #[test]
    fn a_known_name_has_its_address_and_no_other_kind() {
        let names = Table::from([("hub.test".to_owned(), vec![IpAddr::from([198, 18, 1, 2])])]);
        let reply = ask(1, &names).unwrap();
        assert_eq!(reply.get(..8), Some(&[7, 9, 0x85, 0x80, 0, 1, 0, 1][..]));
        assert!(reply.ends_with(&[0, 4, 198, 18, 1, 2]));
        assert_eq!(ask(28, &names).unwrap().get(6..8), Some(&[0, 0][..]));
    }

    #[test]
    fn an_unknown_name_does_not_exist_and_garbage_has_no_answer() {
        assert_eq!(ask(1, &Table::new()).unwrap().get(3), Some(&0x83));
        assert_eq!(answer(&[1, 2, 3], &Table::new()), None);
        assert_eq!(answer(&[63; 20], &Table::new()), None);
    }
}
