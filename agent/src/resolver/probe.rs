//! Whether the hub's DNS answers for the domain: the question for `hub.DOMAIN`, which every machine may ask.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use blueprint_common_types::fill_random;
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// Port of DNS: what `/etc/resolv.conf` cannot name is not used elsewhere either.
const PORT: u16 = 53;

/// Longest wait for the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest answer over UDP, in bytes.
const MAX_ANSWER: usize = 512;

const HEADER_BYTES: usize = 12;

/// Asks once.
///
/// # Errors
///
/// Why the hub cannot be asked for names of this domain, in words.
pub(super) async fn ask(hub: Ipv4Addr, domain: &str) -> Result<(), String> {
    let mut id = [0u8; 2];
    fill_random(&mut id).map_err(|error| format!("no randomness: {error}"))?;
    let question = question(id, domain);
    let asked = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        socket.connect(SocketAddr::from((hub, PORT))).await?;
        socket.send(&question).await?;
        let mut answer = [0u8; MAX_ANSWER];
        let length = socket.recv(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.get(..length).unwrap_or_default().to_vec())
    };
    let answer = match timeout(PATIENCE, asked).await {
        Err(_) => return Err(format!("nobody answers at {hub} port {PORT}")),
        Ok(Err(error)) => return Err(format!("nobody serves DNS at {hub} port {PORT}: {error}")),
        Ok(Ok(answer)) => answer,
    };
    match code(id, &answer) {
        Some(0) => Ok(()),
        Some(code) => Err(format!("the hub does not know hub.{domain} (DNS code {code})")),
        None => Err(format!("what answers at {hub} port {PORT} is no DNS")),
    }
}

/// The question for the address of `hub.DOMAIN`; labels have at most 63 bytes each.
fn question(id: [u8; 2], domain: &str) -> Vec<u8> {
    let mut bytes = vec![id[0], id[1], 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["hub"].into_iter().chain(domain.split('.')) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.bytes().take(63));
    }
    // The root, type A, class IN.
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The code of an answer to the question with this number; `None` where it is none.
fn code(id: [u8; 2], answer: &[u8]) -> Option<u8> {
    let header = answer.get(..HEADER_BYTES)?;
    let is_answer = header.starts_with(&id) && header.get(2)? & 0x80 != 0;
    is_answer.then_some(header.get(3)? & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_of_dns_and_only_its_answer_counts() {
        let asked = question([1, 2], "bp.internal");
        assert_eq!(&asked[..HEADER_BYTES], [1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&asked[HEADER_BYTES..], b"\x03hub\x02bp\x08internal\x00\x00\x01\x00\x01");
        assert_eq!(code([1, 2], &asked), None, "a question is no answer");
        let mut answer = asked;
        answer[2] = 0x84;
        assert_eq!(code([1, 2], &answer), Some(0));
        answer[3] = 5;
        assert_eq!(code([1, 2], &answer), Some(5));
        assert_eq!(code([1, 3], &answer), None);
        assert_eq!(code([1, 2], &answer[..11]), None);
    }
}
