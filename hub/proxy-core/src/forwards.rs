//! Raw forwards: ports of the hub that lead to a service which does not speak HTTP.
//!
//! A forward names the networks it is for; one without any is refused, and so is a port outside the range that the
//! operator of the hub gave. Nobody shows a credential there but a client certificate, where the hub ends TLS on the
//! port: whose certificates count is what the TLS profile of the service says, as for requests.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;

use blueprint_common_types::{ServiceKey, Timestamp};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use crate::tls::{Channel, ServiceTls};
use crate::trust::{Service, Trust};

/// Most forwards of one service.
pub(crate) const MAX_FORWARDS: usize = 16;

/// Most networks of one forward.
const MAX_SOURCES: usize = 64;

/// Longest name, in bytes.
const MAX_NAME: usize = 32;

/// What a forward carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Streams.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// `tcp` or `udp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One port of the hub that leads to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Name for people, unique in its service: letters, digits and `-`.
    pub name: String,
    /// What it carries.
    pub protocol: Transport,
    /// Port of the hub.
    pub listen_port: u16,
    /// Who may use it; everybody is `0.0.0.0/0` and `::/0`.
    pub sources: Vec<IpNetwork>,
    /// The hub ends TLS on it, with the certificate of the service's TLS profile, and asks for those of clients where
    /// that does. Default no: bytes pass as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
}

/// What is wrong with a forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Not a name.
    #[error("name has 1 to {MAX_NAME} lower-case letters, digits and '-'")]
    Name,
    /// No source.
    #[error("sources is empty: name the networks that may use it, or 0.0.0.0/0 and ::/0 for everybody")]
    NoSource,
    /// Too many sources.
    #[error("sources has more than {MAX_SOURCES} networks")]
    TooManySources,
    /// Port 0.
    #[error("listen_port is 0")]
    Port,
    /// TLS for datagrams.
    #[error("tls is for streams: protocol is tcp with it")]
    TlsOfDatagrams,
    /// Another forward of the service has its name or its port.
    #[error("another forward of the service has its name, or its protocol and port")]
    Twice,
}

impl Forward {
    fn check(&self) -> Result<(), ForwardError> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=MAX_NAME).contains(&self.name.len()) || !self.name.bytes().all(is_plain) {
            return Err(ForwardError::Name);
        }
        if self.tls && self.protocol == Transport::Udp {
            return Err(ForwardError::TlsOfDatagrams);
        }
        match self.sources.len() {
            0 => Err(ForwardError::NoSource),
            1..=MAX_SOURCES if self.listen_port == 0 => Err(ForwardError::Port),
            1..=MAX_SOURCES => Ok(()),
            _ => Err(ForwardError::TooManySources),
        }
    }

    /// Whether a service may have it whose callers must show a certificate.
    #[must_use]
    pub const fn asks_for_certificates(&self) -> bool {
        self.tls
    }

    /// Whether who comes from `source` may use it.
    #[must_use]
    pub fn admits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.sources.iter().any(|network| network.contains(source))
    }
}

/// Checks all forwards of one service; gives the place of the first that is wrong, from 0.
pub(crate) fn check(forwards: &[Forward]) -> Result<(), (usize, ForwardError)> {
    let mut before: Vec<&Forward> = Vec::new();
    for (position, forward) in forwards.iter().enumerate() {
        forward.check().map_err(|error| (position, error))?;
        let same = |other: &&Forward| {
            other.name == forward.name
                || (other.protocol, other.listen_port) == (forward.protocol, forward.listen_port)
        };
        if before.iter().any(same) {
            return Err((position, ForwardError::Twice));
        }
        before.push(forward);
    }
    Ok(())
}

/// A text is no range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not FIRST-LAST with ports from 1 to 65535, such as 20000-20999")]
pub struct ParsePortsError;

/// Ports that forwards may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardPorts(RangeInclusive<u16>);

impl FromStr for ForwardPorts {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, ParsePortsError> {
        let (first, last) = text.split_once('-').ok_or(ParsePortsError)?;
        let read = |port: &str| port.trim().parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = read(first).zip(read(last)).ok_or(ParsePortsError)?;
        if first <= last { Ok(Self(first..=last)) } else { Err(ParsePortsError) }
    }
}

impl fmt::Display for ForwardPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl ForwardPorts {
    /// Whether a forward may have this port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

/// Whether who has shown what `channel` holds may use a forward of `service` with TLS now.
///
/// # Errors
///
/// Those of requests on such a connection: no certificate, one that is revoked, expired, or of authorities that do not
/// count any more.
pub fn check_forward(
    channel: &Channel,
    service: ServiceKey,
    trust: &Trust,
    now: Timestamp,
) -> Result<(), Refusal> {
    channel.check(service, trust, now)
}

/// Every port to listen on, with the service that it leads to.
///
/// Of two services that want one port the one with the smaller key has it, whichever came first, so that a restart
/// changes nothing. What is outside of `ports` is left out, what leads to a hidden service, and what leads to one
/// whose callers must show a certificate where nobody is asked for one.
#[must_use]
pub fn plan_forwards(
    services: &BTreeMap<ServiceKey, Arc<Service>>,
    tls: &BTreeMap<ServiceKey, ServiceTls>,
    ports: &ForwardPorts,
) -> BTreeMap<(Transport, u16), (ServiceKey, Forward)> {
    let mut plan = BTreeMap::new();
    for (key, service) in services.iter().filter(|(_, service)| !service.settings().hidden) {
        let requires = tls.get(key).is_some_and(|tls| tls.requires_client);
        let is_open =
            |it: &&Forward| ports.contains(it.listen_port) && (it.asks_for_certificates() || !requires);
        for forward in service.settings().forwards.iter().filter(is_open) {
            let place = (forward.protocol, forward.listen_port);
            plan.entry(place).or_insert_with(|| (*key, forward.clone()));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServiceSettings;

    fn forward(name: &str, protocol: Transport, listen_port: u16) -> Forward {
        let sources = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        Forward { name: name.to_owned(), protocol, listen_port, sources, tls: false }
    }

    #[test]
    fn only_named_networks_are_admitted() {
        let it = forward("db", Transport::Tcp, 20_000);
        for (source, admitted) in [
            ("192.0.2.7", true),
            ("::ffff:192.0.2.7", true),
            ("192.0.3.7", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(it.admits(source.parse().unwrap()), admitted, "{source}");
        }
        let everybody = Forward { sources: vec!["0.0.0.0/0".parse().unwrap()], ..it };
        assert!(everybody.admits("8.8.8.8".parse().unwrap()) && !everybody.admits("::1".parse().unwrap()));
    }

    #[test]
    fn forwards_that_cannot_be_are_refused() {
        let good = forward("db", Transport::Tcp, 20_000);
        let with = |change: fn(&mut Forward)| {
            let mut it = good.clone();
            change(&mut it);
            check(&[it])
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|it| it.sources.clear()), Err((0, ForwardError::NoSource)));
        assert_eq!(with(|it| it.listen_port = 0), Err((0, ForwardError::Port)));
        assert_eq!(with(|it| it.name.clear()), Err((0, ForwardError::Name)));
        assert_eq!(with(|it| it.name = "a b".to_owned()), Err((0, ForwardError::Name)));
        let network = good.sources.first().copied().unwrap();
        let many = Forward { sources: vec![network; 65], ..good.clone() };
        assert_eq!(check(&[many]), Err((0, ForwardError::TooManySources)));
        let udp = forward("udp", Transport::Udp, 20_000);
        let with_tls = Forward { tls: true, ..udp.clone() };
        assert_eq!(check(&[with_tls]), Err((0, ForwardError::TlsOfDatagrams)));
        assert_eq!(check(&[good.clone(), udp]), Ok(()));
        for twice in [forward("db", Transport::Udp, 20_001), forward("x", Transport::Tcp, 20_000)] {
            assert_eq!(check(&[good.clone(), twice]), Err((1, ForwardError::Twice)));
        }
        assert!(serde_json::from_str::<Forward>(r#"{"name":"a","protocol":"tcp","listen_port":1}"#).is_err());
    }

    #[test]
    fn a_port_leads_to_one_service_and_stays_in_its_range() {
        let settings = |forwards| ServiceSettings { forwards, ..ServiceSettings::default() };
        let service = |forwards| Arc::new(Service::new(settings(forwards)).unwrap());
        let (one, two) = (ServiceKey { blueprint: 1, service: 1 }, ServiceKey { blueprint: 1, service: 2 });
        let services = BTreeMap::from([
            (two, service(vec![forward("a", Transport::Tcp, 20_000), forward("b", Transport::Tcp, 20_001)])),
            (one, service(vec![forward("c", Transport::Tcp, 20_000), forward("d", Transport::Udp, 80)])),
        ]);
        let ports: ForwardPorts = "20000-20999".parse().unwrap();
        let plan = plan_forwards(&services, &BTreeMap::new(), &ports);
        let seen: Vec<_> =
            plan.iter().map(|((_, port), (key, it))| (*port, *key, it.name.as_str())).collect();
        assert_eq!(seen, [(20_000, one, "c"), (20_001, two, "b")]);
        let mut hidden = services.clone();
        let settings = ServiceSettings { hidden: true, ..services[&two].settings().clone() };
        hidden.insert(two, Arc::new(Service::new(settings).unwrap()));
        let plan = plan_forwards(&hidden, &BTreeMap::new(), &ports);
        assert_eq!(plan.keys().map(|(_, port)| *port).collect::<Vec<_>>(), [20_000], "hidden has none");

        let tls = |requires_client| {
            let revoked = std::collections::BTreeSet::new();
            BTreeMap::from([(one, ServiceTls { requires_client, authorities: [1; 32], revoked })])
        };
        let plan = plan_forwards(&services, &tls(true), &ports);
        let seen: Vec<_> = plan.iter().map(|((_, port), (key, _))| (*port, *key)).collect();
        assert_eq!(seen, [(20_000, two), (20_001, two)], "who wants certificates has none");
        assert_eq!(plan_forwards(&services, &tls(false), &ports).len(), 2);
        let asking = Forward { tls: true, ..forward("c", Transport::Tcp, 20_000) };
        let mut services = services;
        services.insert(one, service(vec![asking, forward("d", Transport::Udp, 20_002)]));
        let plan = plan_forwards(&services, &tls(true), &ports);
        let seen: Vec<_> = plan.iter().map(|((_, port), (key, _))| (*port, *key)).collect();
        assert_eq!(seen, [(20_000, one), (20_001, two)], "but where it can ask for them");
    }

    #[test]
    fn a_range_of_ports_has_two_ends() {
        assert_eq!("20000-20999".parse::<ForwardPorts>().unwrap().to_string(), "20000-20999");
        for wrong in ["", "20000", "0-1", "2-1", "1-65536", "a-b", "-"] {
            assert_eq!(wrong.parse::<ForwardPorts>(), Err(ParsePortsError), "{wrong}");
        }
    }
}
