//! Raw forwards with TLS: who shows a certificate of the service's authority comes in, and nobody else.

use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::limits::Limits;
use blueprint_hub_proxy_core::{Forward, ServiceSettings, Transport};

use super::*;
use crate::forwards::{connect, forward, free_port, talker, usual};
use crate::seen::Lines;

async fn rig(handle: &TlsHandle, ledger: &Ledger) -> Rig {
    let (handle, ledger) = (handle.clone(), ledger.clone());
    let rig = Rig::with(|config| {
        config.tls = Some(handle);
        config.forwards = Some(usual());
        config.ledger = ledger;
        config.handshake_timeout = Duration::from_secs(1);
    })
    .await;
    rig.route(&[talker(&rig)]);
    rig
}

/// Opens a forward with TLS; gives its port.
async fn open(rig: &Rig) -> u16 {
    let port = free_port().await;
    let with_tls = Forward { tls: true, ..forward(Transport::Tcp, port, &["127.0.0.0/8"]) };
    rig.settle(ServiceSettings { forwards: vec![with_tls], ..ServiceSettings::default() });
    port
}

async fn shake(port: u16, client: &Client) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(HOST).unwrap();
    TlsConnector::from(client.config()).connect(name, connect(port).await).await
}

/// What the service says first, where it is reached.
async fn hello(port: u16, client: &Client) -> io::Result<TlsStream<TcpStream>> {
    let mut stream = shake(port, client).await?;
    let mut said = [0; 6];
    timeout(LONG, stream.read_exact(&mut said)).await.unwrap()?;
    assert_eq!(&said, b"hello ");
    Ok(stream)
}

#[tokio::test]
async fn a_certificate_opens_a_forward_with_tls_as_long_as_it_counts() {
    let (lines, ledger) = (Lines::read(), Ledger::default());
    let (server, clients, others) = (Ca::new(), Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle, &ledger).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, clients.authorities(true))]);
    let port = open(&rig).await;
    let trusted = || Client::trusting(&[&server]);
    for versions in VERSIONS {
        let stranger = Client { versions, ..trusted() };
        assert!(hello(port, &stranger).await.is_err(), "no certificate");
        assert!(hello(port, &stranger.showing(&others)).await.is_err(), "one of somebody else");
        let mut stream = hello(port, &Client { versions, ..trusted().showing(&clients) }).await.unwrap();
        stream.write_all(b"to and fro").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        timeout(LONG, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, "to and fro bye");
    }
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"tls_failed\"} 4");
    let found = lines.requests(2).await;
    let line = found.iter().find(|line| line["forward"] == "raw").unwrap();
    let identity = line["identity"].as_str().unwrap();
    assert!(identity.starts_with("certificate:") && line["credential"] == "4001", "{line}");
    let used = ledger.usage(SERVICE).unwrap();
    assert_eq!(used.by_key.keys().collect::<Vec<_>>(), [identity], "one sum for all connections");

    // A client that does not even speak TLS is cut after its time.
    let mut plain = connect(port).await;
    plain.write_all(b"GET ").await.unwrap();
    assert!(matches!(timeout(LONG, plain.read(&mut [0; 64])).await.unwrap(), Ok(_) | Err(_)));

    // Revoked: what is open ends, and what comes is refused although its handshake is good.
    let client = trusted().showing(&clients);
    let mut live = hello(port, &client).await.unwrap();
    let mut trust = Trust::clone(&rig.trust.load());
    trust.tls.get_mut(&SERVICE).unwrap().revoked.insert("4001".parse().unwrap());
    rig.trust.store(Arc::new(trust));
    let begun = Instant::now();
    assert!(matches!(timeout(LONG, live.read(&mut [0; 8])).await.unwrap(), Ok(0) | Err(_)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(hello(port, &client).await.is_err());
    rig.assert_metric("hub_proxy_forward_ended_total{protocol=\"tcp\",reason=\"certificate\"} 1");
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"certificate\"} 1");
    let codes: BTreeSet<_> = ledger.take_refused().iter().map(|row| row.by.code).collect();
    for code in ["forward_certificate", "forward_cut"] {
        assert!(codes.contains(code), "{codes:?}");
    }
}

#[tokio::test]
async fn a_forward_with_tls_lets_nobody_in_before_its_service_has_a_profile() {
    let (server, clients) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle, &Ledger::default()).await;
    let port = open(&rig).await;
    let client = Client::trusting(&[&server]);
    assert!(hello(port, &client).await.is_err(), "the fallback is not for it");

    // A profile that asks for no certificate lets everybody in of the networks that may come.
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, clients.authorities(false))]);
    let mut open = hello(port, &client).await.unwrap();
    hello(port, &client.showing(&clients)).await.unwrap();

    // One that does cuts who has shown none.
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, clients.authorities(true))]);
    assert!(matches!(timeout(LONG, open.read(&mut [0; 8])).await.unwrap(), Ok(0) | Err(_)));
}

#[tokio::test]
async fn who_shows_no_certificate_takes_nothing_of_the_limits() {
    let (server, clients) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle, &Ledger::default()).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, clients.authorities(true))]);
    let port = free_port().await;
    let with_tls = Forward { tls: true, ..forward(Transport::Tcp, port, &["127.0.0.0/8"]) };
    let limits = Limits { concurrent: 1, ..Limits::default() };
    rig.settle(ServiceSettings { forwards: vec![with_tls], limits, ..ServiceSettings::default() });
    let _silent = connect(port).await;
    let client = Client::trusting(&[&server]).showing(&clients);
    let _open = hello(port, &client).await.unwrap();
    assert!(hello(port, &client).await.is_err(), "one at once");
    rig.assert_metric("hub_proxy_forward_refused_total{reason=\"limit_reached\"} 1");
}

#[tokio::test]
async fn a_client_of_postgresql_gets_the_protocol_that_it_asks_for_and_others_need_none() {
    let (server, clients) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle, &Ledger::default()).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, clients.authorities(false))]);
    let port = open(&rig).await;
    for (offered, agreed) in [("postgresql", Some("postgresql")), ("h2", None)] {
        let mut config = ClientConfig::clone(&Client::trusting(&[&server]).config());
        config.alpn_protocols = vec![offered.into()];
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, connect(port).await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes), "{offered}");
    }
}
