//! What a hub does with a packet, as plainly as it can be said: lists that are searched from end to end, and fields read
//! where RFC 791, 792, 793, 4443 and 8200 put them.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "every index follows a check of the length"
)]

use std::net::IpAddr;

use super::SPOKES;
use crate::wire::{after_hop, checksum, seal_header, short_at};

/// A grant's end: everybody, or those whose bit is set.
#[derive(Debug, Clone, Copy)]
pub(super) enum Party {
    Anyone,
    Spokes([bool; SPOKES]),
}

impl Party {
    const fn has(self, spoke: usize) -> bool {
        match self {
            Self::Anyone => true,
            Self::Spokes(members) => members[spoke],
        }
    }
}

/// What a packet is to a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
    Icmp,
    Other,
}

impl Kind {
    const fn of(protocol: u8) -> Self {
        match protocol {
            6 => Self::Tcp,
            17 => Self::Udp,
            1 | 58 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// One rule of a grant; `Kind::Other` is everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) kind: Kind,
    pub(super) ports: (u16, u16),
}

impl Rule {
    fn allows(&self, kind: Kind, port: u16) -> bool {
        match self.kind {
            Kind::Other => true,
            Kind::Icmp => kind == Kind::Icmp,
            Kind::Tcp | Kind::Udp => kind == self.kind && self.ports.0 <= port && port <= self.ports.1,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) source: Party,
    pub(super) destination: Party,
    pub(super) rules: Vec<Rule>,
}

/// Protocol, source and destination with ports, as they began.
type Flow = (u8, (IpAddr, u16), (IpAddr, u16));

#[derive(Debug)]
pub(super) struct Model {
    pub(super) own: [IpAddr; 2],
    /// Prefix, its length, and who holds it.
    pub(super) prefixes: Vec<(IpAddr, u8, usize)>,
    pub(super) grants: Vec<Grant>,
    pub(super) answers_echoes: bool,
    /// What may be begun with the hub itself beside ICMP; everything where there is none.
    pub(super) own_rules: Option<Vec<Rule>>,
    /// Which spokes have a session.
    pub(super) is_joined: [bool; SPOKES],
    /// Largest packet in bytes to each spoke.
    pub(super) mtu: [usize; SPOKES],
    /// What was allowed to begin, and in which second.
    pub(super) begun: Vec<(Flow, u64)>,
}

/// What becomes of a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Drop(&'static str),
    Local(Vec<u8>),
    Relay(usize, Vec<u8>),
    /// For the tunnel itself, with what it answers.
    Core(Option<Vec<u8>>),
}

#[derive(Debug, Clone, Copy)]
struct Read {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    body_at: usize,
}

impl Model {
    /// What happens to a plaintext of `sender` in that second.
    pub(super) fn judge(&mut self, sender: usize, plaintext: &[u8], second: u64) -> Fate {
        self.try_judge(sender, plaintext, second).unwrap_or_else(Fate::Drop)
    }

    fn try_judge(&mut self, sender: usize, plaintext: &[u8], second: u64) -> Result<Fate, &'static str> {
        let packet = without_padding(plaintext)?;
        let read = read(packet)?;
        if is_special(read.source) || is_special(read.destination) {
            return Err("special address");
        }
        if self.own.contains(&read.source) || self.holder(read.source) != Some(sender) {
            return Err("not the sender's address");
        }
        if self.own.contains(&read.destination) {
            if !self.admits(&read, packet, second) {
                return Err("not to be begun with the hub");
            }
            return Ok(self.local(sender, &read, packet));
        }
        let receiver = self.holder(read.destination).filter(|receiver| *receiver != sender);
        let receiver = receiver.ok_or("nobody's address")?;
        if !self.permits(sender, receiver, &read, packet, second) {
            return Err("denied");
        }
        let hops = if packet[0] >> 4 == 4 { packet[8] } else { packet[7] };
        if hops < 2 {
            return Err("no hop left");
        }
        if !self.is_joined[receiver] {
            return Err("not there");
        }
        if packet.len() > self.mtu[receiver] {
            return Err("too big");
        }
        Ok(Fate::Relay(receiver, after_hop(packet)))
    }

    /// What happens to a packet of the hub's own stack.
    pub(super) fn judge_own(&mut self, packet: &[u8], second: u64) -> Fate {
        let mut sent = || {
            let read = read(packet)?;
            if is_special(read.source) || is_special(read.destination) {
                return Err("special address");
            }
            if !self.own.contains(&read.source) || self.own.contains(&read.destination) {
                return Err("not from here to elsewhere");
            }
            let receiver = self.holder(read.destination).ok_or("nobody's address")?;
            self.begun.push((flow(&read, packet), second));
            if packet.len() > self.mtu[receiver] || !self.is_joined[receiver] {
                return Err("too big, or not there");
            }
            Ok(Fate::Relay(receiver, packet.to_vec()))
        };
        sent().unwrap_or_else(Fate::Drop)
    }

    /// Who holds the longest prefix of an address.
    fn holder(&self, address: IpAddr) -> Option<usize> {
        let mut best: Option<(u8, usize)> = None;
        for (prefix, len, spoke) in &self.prefixes {
            if covers(*prefix, *len, address) && best.is_none_or(|(longest, _)| *len > longest) {
                best = Some((*len, *spoke));
            }
        }
        best.map(|(_, spoke)| spoke)
    }

    /// Whether a packet may reach the hub itself.
    fn admits(&self, read: &Read, packet: &[u8], second: u64) -> bool {
        let Some(rules) = &self.own_rules else { return true };
        let (_, port) = ports(read, packet);
        let kind = Kind::of(read.protocol);
        kind == Kind::Icmp
            || rules.iter().any(|rule| rule.allows(kind, port))
            || self.is_answer(read, packet, second)
    }

    /// Whether a packet answers something that was begun.
    fn is_answer(&self, read: &Read, packet: &[u8], second: u64) -> bool {
        if read.protocol == 6 {
            return packet.len() > read.body_at + 13 && opens_nothing(packet[read.body_at + 13]);
        }
        let (protocol, source, destination) = flow(read, packet);
        let reversed = (protocol, destination, source);
        self.begun.iter().any(|(begun, at)| *begun == reversed && second - at <= 180)
    }

    fn permits(&mut self, sender: usize, receiver: usize, read: &Read, packet: &[u8], second: u64) -> bool {
        let (source_port, destination_port) = ports(read, packet);
        if self.grants(sender, receiver, Kind::of(read.protocol), destination_port) {
            self.begun.push((flow(read, packet), second));
            return true;
        }
        if let Some((protocol, port)) = complaint(read, packet) {
            return self.grants(receiver, sender, Kind::of(protocol), port);
        }
        self.grants(receiver, sender, Kind::of(read.protocol), source_port)
            && self.is_answer(read, packet, second)
    }

    fn grants(&self, source: usize, destination: usize, kind: Kind, port: u16) -> bool {
        self.grants.iter().any(|grant| {
            let allows = |rule: &Rule| rule.allows(kind, port);
            grant.source.has(source) && grant.destination.has(destination) && grant.rules.iter().any(allows)
        })
    }

    /// A packet for the hub: the tunnel's own if it is an echo that the tunnel answers.
    fn local(&mut self, sender: usize, read: &Read, packet: &[u8]) -> Fate {
        let message = &packet[read.body_at..];
        let is_v4 = read.source.is_ipv4();
        let is_request = match (is_v4, read.protocol, message.get(..2)) {
            (true, 1, Some([8, 0])) | (false, 58, Some([128, 0])) => true,
            (true, 1, Some([0, 0])) | (false, 58, Some([129, 0])) => false,
            _ => return Fate::Local(packet.to_vec()),
        };
        if message.len() < 8 || checksum(&covered(packet, read.body_at)) != 0 {
            return Fate::Local(packet.to_vec());
        }
        let payload = &message[8..];
        let is_probe = payload.starts_with(b"bpprobe1");
        let is_beat = payload.len() == 28 && payload.starts_with(b"bpecho/3");
        let is_own = is_probe || is_beat;
        if !(is_own || self.answers_echoes && is_request) {
            return Fate::Local(packet.to_vec());
        }
        if !is_request {
            return Fate::Core(None);
        }
        let mut asked = packet.to_vec();
        if let Some(pace) = asked.last_chunk_mut::<2>().filter(|_| is_beat) {
            // What a hub of few asks for: an echo a second.
            *pace = 1000u16.to_be_bytes();
        }
        let answer = Some(answer(&asked, read.body_at));
        if is_probe && payload.len() >= 16 {
            return Fate::Core(answer);
        }
        if !is_beat && !self.answers_echoes {
            return Fate::Core(None);
        }
        if is_beat {
            let mtu = usize::from(short_at(payload, 24));
            if (1280..=65_440).contains(&mtu) {
                self.mtu[sender] = mtu.min(1420);
            }
        }
        Fate::Core(answer.filter(|answer| answer.len() <= self.mtu[sender]))
    }
}

/// TCP flags: an acknowledgement, or a reset that is no SYN.
const fn opens_nothing(flags: u8) -> bool {
    let (is_syn, is_reset, is_acknowledgement) = (flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
    is_acknowledgement || is_reset && !is_syn
}

/// The flow that a packet is of.
fn flow(read: &Read, packet: &[u8]) -> Flow {
    let (source, destination) = ports(read, packet);
    (read.protocol, (read.source, source), (read.destination, destination))
}

/// The packet inside a plaintext that may go on behind it.
fn without_padding(plaintext: &[u8]) -> Result<&[u8], &'static str> {
    let len = match plaintext.first().map(|first| first >> 4) {
        Some(4) if plaintext.len() >= 20 => usize::from(short_at(plaintext, 2)),
        Some(6) if plaintext.len() >= 40 => usize::from(short_at(plaintext, 4)) + 40,
        _ => return Err("no packet"),
    };
    plaintext.get(..len).ok_or("longer than what came")
}

fn read(packet: &[u8]) -> Result<Read, &'static str> {
    let Some(first) = packet.first() else { return Err("empty") };
    if first >> 4 == 4 { read_v4(packet) } else { read_v6(packet) }
}

fn read_v4(packet: &[u8]) -> Result<Read, &'static str> {
    if packet.len() < 20 || packet[0] != 0x45 {
        return Err("short or with options");
    }
    if usize::from(short_at(packet, 2)) != packet.len() || checksum(&packet[..20]) != 0 {
        return Err("wrong length or checksum");
    }
    let more_fragments = packet[6] & 0x20 != 0;
    let offset = short_at(packet, 6) % 0x2000;
    if more_fragments || offset != 0 {
        return Err("fragment");
    }
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
    Ok(Read { source: address(12), destination: address(16), protocol: packet[9], body_at: 20 })
}

fn read_v6(packet: &[u8]) -> Result<Read, &'static str> {
    if packet.len() < 40 || packet[0] >> 4 != 6 || usize::from(short_at(packet, 4)) + 40 != packet.len() {
        return Err("short or wrong length");
    }
    if [0, 43, 44, 60, 135, 139, 140, 253, 254].contains(&packet[6]) {
        return Err("fragment or extension header");
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    Ok(Read { source: address(8), destination: address(24), protocol: packet[6], body_at: 40 })
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// True where the first `len` bits are the same.
pub(super) fn covers(prefix: IpAddr, len: u8, address: IpAddr) -> bool {
    let (prefix, address) = (bytes_of(prefix), bytes_of(address));
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    prefix.len() == address.len() && (0..usize::from(len)).all(|at| bit(&prefix, at) == bit(&address, at))
}

/// Addresses that no machine of an overlay has.
fn is_special(address: IpAddr) -> bool {
    let within = |prefix: &str, len| covers(prefix.parse().unwrap(), len, address);
    match address {
        IpAddr::V4(_) => {
            within("0.0.0.0", 8)
                || within("127.0.0.0", 8)
                || within("169.254.0.0", 16)
                || within("224.0.0.0", 3)
        }
        IpAddr::V6(_) => {
            let embeds_v4 = within("::", 96)
                || within("::ffff:0:0", 96)
                || within("64:ff9b::", 32)
                || within("2002::", 16);
            embeds_v4 || within("fe80::", 10) || within("ff00::", 8)
        }
    }
}

/// Ports of TCP and UDP, the identifier of an echo twice, else zeros; what is cut off is zero.
fn ports(read: &Read, packet: &[u8]) -> (u16, u16) {
    let body = &packet[read.body_at..];
    let field = |at: usize| if body.len() >= at + 2 { short_at(body, at) } else { 0 };
    match (read.protocol, body.len() >= 2, body.first()) {
        (6 | 17, _, _) => (field(0), field(2)),
        (1, true, Some(0 | 8)) | (58, true, Some(128 | 129)) => (field(4), field(4)),
        _ => (0, 0),
    }
}

/// Protocol and destination port of the packet that an ICMP error is about, if that went the other way.
fn complaint(read: &Read, packet: &[u8]) -> Option<(u8, u16)> {
    let body = &packet[read.body_at..];
    let is_error = match read.protocol {
        1 => matches!(body.first()?, 3 | 11 | 12),
        58 => matches!(body.first()?, 1..=4),
        _ => false,
    };
    let is_v4 = read.source.is_ipv4();
    let (addresses_at, address_len, protocol_at) = if is_v4 { (12, 4, 9) } else { (8, 16, 6) };
    let header_len = addresses_at + 2 * address_len;
    // Without the source port of what is quoted there is no telling.
    if !is_error || body.len() < 8 + header_len + 2 {
        return None;
    }
    let quoted = &body[8..];
    let (source, destination) = quoted[addresses_at..header_len].split_at(address_len);
    if source != bytes_of(read.destination) || destination != bytes_of(read.source) {
        return None;
    }
    let port = if quoted.len() >= header_len + 4 { short_at(quoted, header_len + 2) } else { 0 };
    Some((quoted[protocol_at], port))
}

/// What an ICMP checksum is over.
fn covered(packet: &[u8], body_at: usize) -> Vec<u8> {
    let body = &packet[body_at..];
    let mut bytes = Vec::new();
    if packet[0] >> 4 == 6 {
        bytes.extend_from_slice(&packet[8..40]);
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(&[0, 0, 0, 58]);
    }
    bytes.extend_from_slice(body);
    bytes
}

/// The answer to an echo request.
fn answer(packet: &[u8], body_at: usize) -> Vec<u8> {
    let mut answer = packet.to_vec();
    let is_v4 = packet[0] >> 4 == 4;
    let (at, len) = if is_v4 { (12, 4) } else { (8, 16) };
    answer[at..at + len].copy_from_slice(&packet[at + len..at + 2 * len]);
    answer[at + len..at + 2 * len].copy_from_slice(&packet[at..at + len]);
    answer[if is_v4 { 8 } else { 7 }] = 64;
    if is_v4 {
        seal_header(&mut answer);
    }
    answer[body_at] = if is_v4 { 0 } else { 129 };
    answer[body_at + 2..body_at + 4].fill(0);
    let sum = checksum(&covered(&answer, body_at));
    answer[body_at + 2..body_at + 4].copy_from_slice(&sum.to_be_bytes());
    answer
}
