//! Names and addresses that each request is compared with or told by.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

/// Some names; most of others differ from all of them by their length alone.
pub(super) struct Names<const N: usize> {
    pub(super) names: [&'static str; N],
    /// Bit L is set where one of them has L bytes.
    lengths: u64,
}

impl<const N: usize> Names<N> {
    /// Those of fewer than 64 bytes each.
    pub(super) const fn of(names: [&'static str; N]) -> Self {
        let (mut lengths, mut rest) = (0, names.as_slice());
        while let Some((name, others)) = rest.split_first() {
            lengths |= 1u64 << name.len();
            rest = others;
        }
        Self { names, lengths }
    }

    /// Whether one of them has this many bytes.
    pub(super) const fn has_length(&self, length: usize) -> bool {
        length < 64 && (self.lengths >> length) & 1 == 1
    }

    /// Whether this is one of them.
    pub(super) fn has(&self, name: &str) -> bool {
        self.has_length(name.len()) && self.names.contains(&name)
    }
}

/// The text of an address, without room of its own for each request.
pub(super) struct AddressText {
    /// As long as the longest text of an IPv6 address.
    bytes: [u8; 45],
    length: usize,
}

impl AddressText {
    pub(super) fn of(address: IpAddr) -> Self {
        let mut text = Self { bytes: [0; 45], length: 0 };
        match address {
            IpAddr::V4(address) => {
                for (place, octet) in address.octets().into_iter().enumerate() {
                    if place > 0 {
                        text.push(b'.');
                    }
                    text.push_number(octet);
                }
            }
            // Every address fits.
            IpAddr::V6(address) => drop(write!(text, "{address}")),
        }
        text
    }

    pub(super) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn push_number(&mut self, number: u8) {
        if number >= 100 {
            self.push(b'0'.wrapping_add(number / 100));
        }
        if number >= 10 {
            self.push(b'0'.wrapping_add(number / 10 % 10));
        }
        self.push(b'0'.wrapping_add(number % 10));
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length = self.length.saturating_add(1);
        }
    }
}

impl fmt::Write for AddressText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length.saturating_add(text.len());
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_address_is_told_as_the_library_tells_it() {
        let check = |address: IpAddr| assert_eq!(AddressText::of(address).as_str(), address.to_string());
        for octet in 0..=u8::MAX {
            check(Ipv4Addr::new(octet, 255 - octet, octet / 2, octet % 100).into());
        }
        let longest: Ipv6Addr = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        for address in
            [longest, Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST.to_ipv6_mapped()]
        {
            check(address.into());
        }
    }

    #[test]
    fn a_list_has_its_names_and_no_others() {
        let names = Names::of(["te", "upgrade", "x"]);
        assert!(["te", "upgrade", "x"].into_iter().all(|name| names.has(name)));
        let long = "x".repeat(64);
        assert!(
            !["", "t", "et", "upgradf", "Upgrade", "upgrade2", &long, &format!("{long}te")]
                .into_iter()
                .any(|name| names.has(name))
        );
    }
}
