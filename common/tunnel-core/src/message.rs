//! The four outer messages, as far as they can be read without keys (WireGuard paper, section 5.4).

const INITIATION_BYTES: usize = 148;
const RESPONSE_BYTES: usize = 92;
const COOKIE_BYTES: usize = 64;
const LEAST_DATA_BYTES: usize = 32;

/// One outer message's kind and its clear fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation { sender: u32 },
    Response { sender: u32, receiver: u32 },
    Cookie { receiver: u32 },
    Data { receiver: u32, counter: u64 },
}

impl Message {
    /// Reads type, length and clear fields; `None` where the datagram is no WireGuard message.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        match (u32_at(datagram, 0)?, datagram.len()) {
            (1, INITIATION_BYTES) => Some(Self::Initiation { sender: u32_at(datagram, 4)? }),
            (2, RESPONSE_BYTES) => {
                Some(Self::Response { sender: u32_at(datagram, 4)?, receiver: u32_at(datagram, 8)? })
            }
            (3, COOKIE_BYTES) => Some(Self::Cookie { receiver: u32_at(datagram, 4)? }),
            (4, LEAST_DATA_BYTES..) => {
                let counter = datagram.get(8..16)?.try_into().ok().map(u64::from_le_bytes)?;
                Some(Self::Data { receiver: u32_at(datagram, 4)?, counter })
            }
            _ => None,
        }
    }
}

/// The peer's slot inside a receiver index: the library puts 8 bits of session number below it.
pub(crate) const fn slot(receiver: u32) -> u32 {
    receiver >> 8
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn length_and_reserved_bytes_are_part_of_the_type() {
        let mut datagram = vec![0u8; 148];
        datagram[0] = 1;
        datagram[4] = 7;
        assert_eq!(Message::parse(&datagram), Some(Message::Initiation { sender: 7 }));
        assert_eq!(Message::parse(&datagram[..147]), None);
        datagram[2] = 1;
        assert_eq!(Message::parse(&datagram), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&bytes);
        }
    }
}
