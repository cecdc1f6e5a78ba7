//! What a client certificate opens, and what it does not.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use blueprint_common_types::{AccessToken, AgentId, Health, Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{SealingKey, tenant_id};
use blueprint_hub_proxy_core::tls::{
    Bound, CertificateFacts, Channel, ClientCertificate, Serial, ServiceTls,
};
use blueprint_hub_proxy_core::{
    AccessGrant, AccessTable, Admission, CanonicalRequest, Downstream, Refusal, RouteTable, Scope, Target,
    Trust, decide, upstream_headers,
};
use http::{HeaderMap, Request};
use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

const A: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
const B: ServiceKey = ServiceKey { blueprint: 7, service: 43 };
const OPEN: ServiceKey = ServiceKey { blueprint: 7, service: 44 };
const SEEN: [u8; 32] = [1; 32];

/// A certificate of `acme` with the serial 0x4001 that ends in the year 2100.
fn certificate() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "acme");
    params.distinguished_name.push(DnType::OrganizationName, "a, b\r\nx-tenant-id: c");
    params.serial_number = Some(SerialNumber::from_slice(&[0x40, 0x01]));
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2100, 1, 1);
    params.subject_alt_names = vec![SanType::DnsName("Acme.example".try_into().unwrap())];
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn now() -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000)
}

struct World {
    trust: Trust,
    token: AccessToken,
    client: ClientCertificate,
}

impl World {
    fn new() -> Self {
        let token = AccessToken::random().unwrap();
        let grant = AccessGrant {
            hash: token.hash(),
            label: "operator".to_owned(),
            scope: Scope::All,
            expires_at: None,
            is_revoked: false,
        };
        let target = |key| {
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2)), 80);
            let agent = AgentId::from_bytes([1; 16]);
            (key, Target { address, health: Health::Healthy, reason: String::new(), agent, weight: 100 })
        };
        let mut trust = Trust::empty(Arc::new(SealingKey::new(&Secret::new([9; 32])).unwrap()));
        trust.access = AccessTable::new([(token.id(), grant)]);
        trust.routes = RouteTable::new([], [target(A), target(B), target(OPEN)]);
        let asks = ServiceTls { requires_client: true, authorities: SEEN, revoked: BTreeSet::new() };
        trust.tls = BTreeMap::from([(A, asks.clone()), (B, ServiceTls { authorities: [2; 32], ..asks })]);
        Self { trust, token, client: ClientCertificate::of_verified(&certificate()).unwrap() }
    }

    fn channel(&self) -> Channel {
        Channel::tls(Some(Bound { service: A, authorities: SEEN, client: Some(self.client.clone()) }))
    }

    fn request(&self, service: Option<ServiceKey>, with_token: bool, channel: &Channel) -> CanonicalRequest {
        let mut builder = Request::builder().uri("/").header("host", "hub.example");
        if let Some(service) = service {
            builder = builder.header("x-service-id", service.to_string());
        }
        if with_token {
            let token = self.token.expose_text();
            builder = builder.header("authorization", format!("Bearer {}", token.expose()));
        }
        let parts = builder.body(()).unwrap().into_parts().0;
        let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let downstream = Downstream { source, tls: true, domain: "", request_id: "1" };
        CanonicalRequest::parse(&parts, &downstream).unwrap().on_channel(channel.clone())
    }

    fn ask(
        &self,
        service: Option<ServiceKey>,
        with_token: bool,
        channel: &Channel,
    ) -> Result<Admission, Refusal> {
        decide(&self.request(service, with_token, channel), &self.trust, now())
    }
}

#[test]
fn a_certificate_says_who_it_is_for_in_one_way() {
    let facts = CertificateFacts::read(&certificate()).unwrap();
    assert_eq!(facts.serial.as_str(), "4001");
    assert_eq!(facts.common_name.as_deref(), Some("acme"));
    assert_eq!(facts.hosts, ["acme.example"]);
    assert_eq!(facts.not_after.as_secs(), 4_102_444_800);
    assert!(facts.subject.contains("CN=acme") && facts.subject.contains("O=a\\2C b\\0D\\0Ax-tenant-id: c"));
}

#[test]
fn a_certificate_alone_opens_its_service_and_no_other() {
    let world = World::new();
    let admission = world.ask(None, false, &world.channel()).unwrap();
    assert_eq!((admission.service(), admission.identity().id()), (A, world.client.id().as_str()));
    assert_eq!(world.ask(Some(A), false, &world.channel()).unwrap(), admission);
    for other in [B, OPEN] {
        let refused = world.ask(Some(other), false, &world.channel()).unwrap_err();
        assert!(matches!(refused, Refusal::ServiceNotAllowed { .. }), "{refused:?}");
        // Nor does it lend its connection to a token that may.
        assert_eq!(
            world.ask(Some(other), true, &world.channel()),
            Err(Refusal::Misdirected { service: other })
        );
    }
}

#[test]
fn two_authorities_that_give_the_same_number_name_two_callers() {
    // Each call makes an authority of its own; the serial number is the same.
    let [one, two] = [certificate(), certificate()].map(|der| ClientCertificate::of_verified(&der).unwrap());
    assert_eq!(one.facts().serial, two.facts().serial);
    assert!(one.id() != two.id() && one.id().starts_with("certificate:4001."));
}

#[test]
fn a_service_that_asks_for_certificates_is_not_reached_without() {
    let world = World::new();
    assert_eq!(
        world.ask(Some(A), true, &Channel::default()),
        Err(Refusal::CertificateRequired { service: A })
    );
    assert_eq!(world.ask(Some(A), true, &Channel::tls(None)), Err(Refusal::Misdirected { service: A }));
    let silent = Channel::tls(Some(Bound { service: A, authorities: SEEN, client: None }));
    assert_eq!(world.ask(Some(A), true, &silent), Err(Refusal::CertificateRequired { service: A }));
    assert_eq!(world.ask(Some(A), false, &silent), Err(Refusal::MissingToken));
    assert_eq!(world.ask(Some(OPEN), true, &Channel::default()).unwrap().service(), OPEN);
    assert!(world.ask(Some(A), true, &world.channel()).is_ok());
}

#[test]
fn other_authorities_a_revocation_and_the_end_count_on_open_connections_too() {
    let mut world = World::new();
    let admission = world.ask(Some(A), true, &world.channel()).unwrap();
    let holds = |world: &World, now| admission.identity().still_holds(A, &world.trust, now);
    assert_eq!(holds(&world, now()), Ok(()));
    let end = Timestamp::from_millis(4_102_444_800_000);
    assert_eq!(holds(&world, end), Err(Refusal::ExpiredCertificate { at: end }));

    let revoked = BTreeSet::from(["40:01".parse().unwrap()]);
    world.trust.tls.get_mut(&A).unwrap().revoked = revoked;
    assert_eq!(holds(&world, now()), Err(Refusal::RevokedCertificate));
    assert_eq!(world.ask(None, false, &world.channel()), Err(Refusal::RevokedCertificate));

    let changed = ServiceTls { requires_client: true, authorities: [3; 32], revoked: BTreeSet::new() };
    world.trust.tls.insert(A, changed);
    assert_eq!(holds(&world, now()), Err(Refusal::Misdirected { service: A }));
    world.trust.tls.remove(&A);
    assert_eq!(holds(&world, now()), Err(Refusal::Misdirected { service: A }));
    assert_eq!(holds(&world, now().plus(Duration::from_secs(1))), Err(Refusal::Misdirected { service: A }));
}

#[test]
fn the_service_is_told_who_showed_it_and_no_client_can_say_so_itself() {
    let world = World::new();
    let mut sent = HeaderMap::new();
    for name in ["x-client-cert-subject", "x_client_cert_serial", "x-client-cert-other", "x-auth-method"] {
        sent.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "forged".parse().unwrap());
    }
    for with_token in [false, true] {
        let request = world.request(Some(A), with_token, &world.channel());
        let admission = decide(&request, &world.trust, now()).unwrap();
        let built = upstream_headers(&request, &sent, &admission, None);
        let facts = CertificateFacts::read(&certificate()).unwrap();
        assert_eq!(built["x-auth-method"], "mtls");
        assert_eq!(built["x-client-cert-serial"], "4001");
        assert_eq!(built["x-client-cert-subject"], facts.subject.as_str());
        assert_eq!(built["x-client-cert-issuer"], facts.issuer.as_str());
        assert!(built.values().all(|value| value != "forged"), "{built:?}");
        let tenant = if with_token { world.token.id().to_string() } else { tenant_id(&facts.subject) };
        assert_eq!(built["x-tenant-id"], tenant.as_str());
    }
    let request = world.request(Some(OPEN), true, &Channel::tls(None));
    let admission = decide(&request, &world.trust, now()).unwrap();
    let built = upstream_headers(&request, &sent, &admission, None);
    assert!(built.keys().all(|name| !name.as_str().contains("cert")), "{built:?}");
}

proptest! {
    #[test]
    fn no_bytes_of_a_certificate_are_too_odd_to_be_read(
        cut in 0usize..700,
        flips in proptest::collection::vec((0usize..700, any::<u8>()), 0..8),
        noise in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        static CERTIFICATE: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = CERTIFICATE.get_or_init(certificate).clone();
        for (position, value) in flips {
            if let Some(byte) = bytes.get_mut(position) {
                *byte = value;
            }
        }
        for read in [CertificateFacts::read(&bytes), CertificateFacts::read(bytes.get(..cut).unwrap_or(&bytes)), CertificateFacts::read(&noise)] {
            // What is read is fit for a header and for a log.
            let Some(facts) = read else { continue };
            for text in [&facts.subject, &facts.issuer] {
                prop_assert!(text.len() <= 512 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
            }
            let serial = facts.serial.as_str();
            prop_assert!(serial.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }

    #[test]
    fn a_serial_number_that_is_read_is_read_again_as_the_same(text in "[0-9a-fA-F:]{0,44}") {
        if let Ok(serial) = text.parse::<Serial>() {
            prop_assert_eq!(serial.as_str().parse::<Serial>(), Ok(serial.clone()));
        }
    }
}
