use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};

use super::*;
use crate::carrier::crypto_provider;

/// The first datagrams of a client that offers these protocols.
fn first_of(protocols: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
    let at = "127.0.0.1:443".parse().unwrap();
    let (_, mut connection) = endpoint.connect(Instant::now(), config, at, "hub.test").unwrap();
    let mut datagrams = Vec::new();
    let mut datagram = Vec::new();
    while connection.poll_transmit(Instant::now(), 1, &mut datagram).is_some() {
        datagrams.push(std::mem::take(&mut datagram));
    }
    datagrams
}

fn ask(datagram: &[u8]) -> Asked {
    FirstPackets::new().unwrap().read(datagram)
}

#[test]
fn the_protocol_that_a_client_offers_is_read_from_its_first_packet() {
    let cases: [(&[&[u8]], Asked); 5] = [
        (&[ALPN], Asked::Link),
        (&[b"h3", ALPN], Asked::Link),
        (&[b"h3"], Asked::Other),
        (&[b"bp-wg/2", b"bp-wg"], Asked::Other),
        (&[], Asked::Other),
    ];
    for (offered, asked) in cases {
        let datagrams = first_of(offered);
        let [first] = datagrams.as_slice() else { panic!("{} datagrams", datagrams.len()) };
        assert!(is_first(first) && destination(first).is_some_and(|id| id.len() >= 8));
        assert_eq!(ask(first), asked, "{offered:?}");
    }
}

#[test]
fn a_first_message_of_two_datagrams_is_no_links() {
    let many: Vec<Vec<u8>> = (0..200).map(|number| format!("protocol {number}").into_bytes()).collect();
    let mut many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    many.insert(0, ALPN);
    let datagrams = first_of(&many);
    assert!(datagrams.len() > 1);
    for datagram in datagrams {
        assert!(is_first(&datagram));
        assert_eq!(ask(&datagram), Asked::Other);
    }
}

#[test]
fn what_was_changed_on_its_way_is_broken() {
    let whole = first_of(&[ALPN]).remove(0);
    for at in [6, 20, 30, 100, 1199] {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        assert_ne!(ask(&changed), Asked::Link, "byte {at}");
    }
    let mut changed = whole.clone();
    changed[600] ^= 1;
    assert_eq!(ask(&changed), Asked::Broken);
    assert!(!is_first(&whole[..1199]), "too short to begin a connection");
    let mut other_version = whole;
    other_version[4] = 2;
    assert!(!is_first(&other_version));
}

#[test]
fn pieces_are_put_together_whatever_their_order() {
    // CRYPTO frames at 4, 0 and, again, 2; PADDING and PING between.
    let frames = [&[6, 4, 3][..], b"efg", &[0, 1], &[6, 0, 3], b"abc", &[6, 2, 3], b"cde", &[0]].concat();
    assert_eq!(message(&frames).unwrap(), b"abcdefg");
    let gap = [&[6, 4, 1][..], b"e", &[6, 0, 3], b"abc"].concat();
    assert_eq!(message(&gap), None);
    assert_eq!(message(&[6, 0, 9, 1]), None, "shorter than it says");
    assert_eq!(message(&[2, 0, 0, 0, 0]), None, "an ACK of nothing");
    assert_eq!(message(&[6, 0, 0].repeat(PIECES_MAX + 1)), None, "too many pieces");
    assert_eq!(message(&[6, 0, 0].repeat(PIECES_MAX)).unwrap(), b"");
}

#[test]
fn a_destination_is_found_in_both_forms_of_head() {
    assert_eq!(destination(&[0x40, 1, 2, 3, 4, 5, 6, 7, 8, 9]), Some(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
    assert_eq!(destination(&[0x40, 1, 2, 3]), None);
    assert_eq!(destination(&[0xc0, 0, 0, 0, 1, 2, 7, 8, 0]), Some(&[7, 8][..]));
    assert_eq!(destination(&[0xc0, 0, 0, 0, 1, 21]), None);
    assert_eq!(destination(&[]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1500), is_long in any::<bool>()) {
        if let Some(head) = bytes.first_chunk_mut::<5>().filter(|_| is_long) {
            *head = [0xc0 | (head[0] & 0x0f), 0, 0, 0, 1];
        }
        let _ = destination(&bytes);
        prop_assert_ne!(ask(&bytes), Asked::Link);
        let _ = offers_link(&bytes);
    }
}
