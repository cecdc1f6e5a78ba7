use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const WIREGUARD: &str = "0.0.0.0:51820";

/// Where HTTP/3 comes in, or the key that is refused.
fn chosen(wanted: &str, tls: &str, tunnel: &str, carrier: Option<&str>) -> Result<Http3Listen, &'static str> {
    Http3Listen::choose(wanted, at(tls), at(tunnel), carrier.map(at)).map_err(|(key, _)| key)
}

#[test]
fn http3_shares_the_carriers_port_where_it_is_the_same() {
    let carrier = Some("0.0.0.0:443");
    assert_eq!(chosen("auto", "0.0.0.0:443", WIREGUARD, carrier), Ok(Http3Listen::CarrierOrOwn));
    assert_eq!(chosen("false", "0.0.0.0:443", WIREGUARD, carrier), Err(KEY));
    assert_eq!(chosen("auto", "[::]:443", WIREGUARD, Some("[::]:443")), Ok(Http3Listen::CarrierOrOwn));
    let one = Some("192.0.2.1:443");
    assert_eq!(chosen("auto", "192.0.2.1:443", WIREGUARD, one), Ok(Http3Listen::CarrierOrOwn));
    for wanted in ["auto", "false"] {
        assert_eq!(chosen(wanted, "0.0.0.0:8277", WIREGUARD, carrier), Ok(Http3Listen::Own));
        assert_eq!(chosen(wanted, "[2001:db8::1]:443", WIREGUARD, carrier), Ok(Http3Listen::Own));
        assert_eq!(chosen(wanted, "0.0.0.0:443", WIREGUARD, None), Ok(Http3Listen::Own));
    }
    assert_eq!(chosen("true", "0.0.0.0:8277", WIREGUARD, carrier), Ok(Http3Listen::Carrier));
    assert_eq!(chosen("true", "0.0.0.0:443", WIREGUARD, None), Err(KEY));
}

#[test]
fn http3_is_on_more_addresses_than_the_proxy_only_where_that_is_said() {
    for (tls, carrier) in [
        ("192.0.2.1:443", "0.0.0.0:443"),
        ("192.0.2.1:443", "[::]:443"),
        ("0.0.0.0:443", "[::]:443"),
        ("[2001:db8::1]:443", "[::]:443"),
    ] {
        for wanted in ["auto", "false"] {
            assert_eq!(chosen(wanted, tls, WIREGUARD, Some(carrier)), Err(KEY), "{wanted} {tls} {carrier}");
        }
        assert_eq!(
            chosen("true", tls, WIREGUARD, Some(carrier)),
            Ok(Http3Listen::Carrier),
            "{tls} {carrier}"
        );
    }
    let refused = Http3Listen::choose("auto", at("192.0.2.1:443"), at(WIREGUARD), Some(at("0.0.0.0:443")));
    let (_, why) = refused.unwrap_err();
    assert!(why.contains("proxy.http3_on_carrier = \"true\""), "{why}");
}

#[test]
fn addresses_that_meet_only_in_part_are_refused() {
    assert_eq!(chosen("auto", "[::]:443", WIREGUARD, Some("0.0.0.0:443")), Err(KEY));
    assert_eq!(chosen("auto", "0.0.0.0:443", WIREGUARD, Some("192.0.2.1:443")), Err(KEY));
    assert_eq!(chosen("true", "0.0.0.0:443", WIREGUARD, Some("192.0.2.1:443")), Ok(Http3Listen::Carrier));
    assert_eq!(chosen("auto", "192.0.2.2:443", WIREGUARD, Some("192.0.2.1:443")), Ok(Http3Listen::Own));
}

#[test]
fn wireguards_own_port_is_not_shared() {
    assert_eq!(chosen("auto", "0.0.0.0:443", "0.0.0.0:443", None), Err("tunnel.listen"));
    assert_eq!(chosen("auto", "192.0.2.1:443", "[::]:443", None), Err("tunnel.listen"));
    assert_eq!(chosen("auto", "127.0.0.1:0", "127.0.0.1:0", None), Ok(Http3Listen::Own));
}
