//! Certificates by host name, and who is asked for one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy::Pressure;
use blueprint_hub_proxy::tls::{
    CertificateFiles, ClientAuthorities, Material, Neighbour, ServiceHandshake, TlsHandle,
};
use blueprint_hub_proxy_core::tls::ServiceTls;
use blueprint_hub_proxy_core::{RouteTable, Trust};
use futures_util::future::{BoxFuture, FutureExt};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use sha3::{Digest, Keccak256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{StartHandshake, TlsConnector};

use crate::rig::{LONG, Rig, SERVICE, empty, mirror};

mod forwards;

const OTHER: ServiceKey = ServiceKey { blueprint: 7, service: 43 };
const HOST: &str = "s42.b7.bp.example";
const OTHER_HOST: &str = "s43.b7.bp.example";

/// One version of TLS at a time.
const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&rustls::version::TLS12], &[&rustls::version::TLS13]];

/// An authority for servers and clients.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.sign_number(names, usage, [0x40, 0x01])
    }

    fn sign_number(
        &self,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        serial: [u8; 2],
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "acme");
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(serial.to_vec().into());
        let der = params.signed_by(&key, &self.0).unwrap().der().clone();
        (der, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn server(&self, names: &[&str]) -> Material {
        let (certificate, key) = self.sign(names, ExtendedKeyUsagePurpose::ServerAuth);
        Material::from_der(vec![certificate], key).unwrap()
    }

    fn authorities(&self, required: bool) -> ClientAuthorities {
        let digest = Keccak256::digest(self.0.der()).into();
        ClientAuthorities { certificates: vec![self.0.der().clone()], digest, required }
    }
}

/// How a client of these tests connects.
struct Client {
    roots: RootCertStore,
    versions: &'static [&'static SupportedProtocolVersion],
    certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    resumption: Resumption,
}

impl Client {
    fn trusting(cas: &[&Ca]) -> Self {
        let mut roots = RootCertStore::empty();
        for ca in cas {
            roots.add(ca.0.der().clone()).unwrap();
        }
        let versions = rustls::ALL_VERSIONS;
        Self { roots, versions, certificate: None, resumption: Resumption::disabled() }
    }

    fn showing(self, ca: &Ca) -> Self {
        self.showing_number(ca, [0x40, 0x01])
    }

    fn showing_number(mut self, ca: &Ca, serial: [u8; 2]) -> Self {
        self.certificate = Some(ca.sign_number(&[], ExtendedKeyUsagePurpose::ClientAuth, serial));
        self
    }

    fn config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_protocol_versions(self.versions)
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap()
            }
        };
        config.resumption = self.resumption.clone();
        Arc::new(config)
    }

    async fn connect(&self, rig: &Rig, host: &str) -> io::Result<TlsStream<TcpStream>> {
        connect(rig, host, self.config()).await
    }

    /// What the proxy answers to one request, or why there was no answer.
    async fn ask(&self, rig: &Rig, host: &str, headers: &str) -> io::Result<String> {
        ask(&mut self.connect(rig, host).await?, host, headers).await
    }
}

async fn connect(rig: &Rig, host: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, rig.connect().await).await
}

async fn ask(stream: &mut TlsStream<TcpStream>, host: &str, headers: &str) -> io::Result<String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    match timeout(LONG, stream.read_to_end(&mut answer)).await {
        Ok(read) => read?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn status(answer: io::Result<String>) -> u16 {
    answer.ok().and_then(|answer| answer.split(' ').nth(1)?.parse().ok()).unwrap_or(0)
}

fn bearer(rig: &Rig) -> String {
    format!("Authorization: Bearer {}\r\n", rig.token.expose_text().expose())
}

async fn rig(handle: &TlsHandle) -> Rig {
    let handle = handle.clone();
    let rig = Rig::with(|config| {
        config.tls = Some(handle);
        config.domain = "bp.example".to_owned();
    })
    .await;
    rig.route(&[rig.service(mirror)]);
    let mut trust = Trust::clone(&rig.trust.load());
    let target = trust.routes.targets(&SERVICE).unwrap().first().unwrap().clone();
    trust.routes = RouteTable::new([], [(SERVICE, target.clone()), (OTHER, target)]);
    rig.trust.store(Arc::new(trust));
    rig
}

/// Gives the services TLS profiles: names, authorities of clients.
fn profiles(rig: &Rig, handle: &TlsHandle, server: &Ca, of: &[(ServiceKey, &str, ClientAuthorities)]) {
    let services = of.iter().map(|(service, name, clients)| ServiceHandshake {
        service: *service,
        names: vec![(*name).to_owned()],
        material: Some(server.server(&[name])),
        clients: Some(clients.clone()),
    });
    handle.set_services(services.collect());
    let mut trust = Trust::clone(&rig.trust.load());
    trust.tls = of
        .iter()
        .map(|(service, _, clients)| {
            let tls = ServiceTls {
                requires_client: clients.required,
                authorities: clients.digest,
                revoked: BTreeSet::new(),
            };
            (*service, tls)
        })
        .collect::<BTreeMap<_, _>>();
    rig.trust.store(Arc::new(trust));
}

#[tokio::test]
async fn a_host_name_gets_its_certificate_in_both_versions_of_tls() {
    let (first, second) = (Ca::new(), Ca::new());
    let metrics = Metrics::new();
    let handle = TlsHandle::new(None, &metrics).unwrap();
    let rig = rig(&handle).await;
    assert_eq!(status(Client::trusting(&[&first]).ask(&rig, "hub.example", "").await), 0, "there is none");

    handle.set_configured(vec![first.server(&["hub.example"]), second.server(&["*.b7.bp.example"])]);
    for versions in VERSIONS {
        for (ca, host, expected) in [
            (&first, "hub.example", 200),
            (&second, HOST, 200),
            (&first, HOST, 0),
            (&second, "hub.example", 0),
        ] {
            let client = Client { versions, ..Client::trusting(&[ca]) };
            let headers = format!("{}X-Service-Id: 7/42\r\n", bearer(&rig));
            assert_eq!(status(client.ask(&rig, host, &headers).await), expected, "{host}");
        }
        let stream = Client { versions, ..Client::trusting(&[&first]) }.connect(&rig, "hub.example").await;
        let version = stream.unwrap().get_ref().1.protocol_version();
        let expected = versions[0].version;
        assert!(version == Some(expected) && expected != ProtocolVersion::TLSv1_1);
    }
    let text = metrics.encode();
    assert!(text.contains("hub_proxy_tls_handshakes_total{version=\"1.2\",resumed=\"no\"}"), "{text}");
    assert!(!text.contains("hub_proxy_certificate_expiry_timestamp_seconds 0.0"), "{text}");
}

/// Counts who comes, and does no more.
#[derive(Default)]
struct Door(AtomicUsize);

impl Neighbour for Door {
    fn serve(&self, _: StartHandshake<TcpStream>, _: SocketAddr) -> BoxFuture<'static, ()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        async {}.boxed()
    }
}

#[tokio::test]
async fn neighbours_are_let_in_while_clients_are_refused_for_want_of_memory() {
    let (ca, door, pressure) = (Ca::new(), Arc::new(Door::default()), Pressure::default());
    let handle = TlsHandle::new(None, &Metrics::new()).unwrap();
    handle.set_configured(vec![ca.server(&["hub.example"])]);
    handle.share("agents.example", Arc::<Door>::clone(&door));
    let (tls, short) = (handle.clone(), pressure.clone());
    let rig = Rig::with(|config| (config.tls, config.pressure) = (Some(tls), short)).await;
    rig.route(&[rig.service(mirror)]);
    let headers = format!("{}X-Service-Id: 7/42\r\n", bearer(&rig));
    let client = Client::trusting(&[&ca]);
    for (is_short, expected) in [(false, 200), (true, 0), (false, 200)] {
        pressure.set(is_short);
        assert_eq!(status(client.ask(&rig, "hub.example", &headers).await), expected);
        let before = door.0.load(Ordering::Relaxed);
        // The door closes without a word of TLS.
        assert!(client.connect(&rig, "agents.example").await.is_err());
        assert_eq!(door.0.load(Ordering::Relaxed), before + 1, "short of memory: {is_short}");
    }
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"overloaded\"} 1");
}

#[tokio::test]
async fn a_hub_short_of_memory_waits_for_few_first_words_and_not_for_long() {
    let (ca, pressure) = (Ca::new(), Pressure::default());
    let handle = TlsHandle::new(None, &Metrics::new()).unwrap();
    handle.set_configured(vec![ca.server(&["hub.example"])]);
    let (tls, short) = (handle.clone(), pressure.clone());
    let rig = Rig::with(|config| (config.tls, config.pressure) = (Some(tls), short)).await;
    pressure.set(true);
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(rig.connect().await);
    }
    let begun = Instant::now();
    for stream in &mut silent {
        let closed = timeout(Duration::from_secs(4), stream.read(&mut [0; 8])).await;
        assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
    }
    // Less than the five seconds that a handshake has.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"overloaded\"} 80");
    rig.assert_metric("hub_proxy_connections_cut_total{reason=\"tls\"} 0");
}

#[tokio::test]
async fn files_that_change_are_in_use_with_the_next_handshake() {
    let (old, new) = (Ca::new(), Ca::new());
    let folder = tempfile::tempdir().unwrap();
    let paths = (folder.path().join("c.pem"), folder.path().join("c.key"));
    let put = |ca: &Ca| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["hub.example".to_owned()]).unwrap();
        std::fs::write(&paths.0, params.signed_by(&key, &ca.0).unwrap().pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    };
    put(&old);
    let metrics = Metrics::new();
    let handle = TlsHandle::new(None, &metrics).unwrap();
    let mut files = CertificateFiles::new(Some(paths.clone()), None);
    handle.set_configured(files.load().unwrap());
    let rig = rig(&handle).await;
    let headers = format!("{}X-Service-Id: 7/42\r\n", bearer(&rig));
    let mut open = Client::trusting(&[&old]).connect(&rig, "hub.example").await.unwrap();
    put(&new);
    files.refresh(&handle, false);
    assert_eq!(status(Client::trusting(&[&new]).ask(&rig, "hub.example", &headers).await), 200);
    assert_eq!(status(ask(&mut open, "hub.example", &headers).await), 200, "open connections go on");
    std::fs::write(&paths.0, "no certificate").unwrap();
    files.refresh(&handle, false);
    assert_eq!(status(Client::trusting(&[&new]).ask(&rig, "hub.example", &headers).await), 200);
    let text = metrics.encode();
    for line in ["{result=\"used\"} 1", "{result=\"refused\"} 1"] {
        assert!(text.contains(&format!("hub_proxy_certificate_reloads_total{line}")), "{text}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_where_nobody_is_asked_for_a_certificate_and_nowhere_else() {
    let (server, clients) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, clients.authorities(true))]);
    for versions in VERSIONS {
        for (host, is_resumed) in [("hub.example", true), (HOST, false)] {
            let mut client = Client { versions, ..Client::trusting(&[&server]).showing(&clients) };
            client.resumption = Resumption::in_memory_sessions(8);
            let headers = format!("{}X-Service-Id: 7/42\r\n", bearer(&rig));
            let config = client.config();
            let mut first = connect(&rig, host, Arc::clone(&config)).await.unwrap();
            let _ = ask(&mut first, host, &headers).await.unwrap();
            let second = connect(&rig, host, config).await.unwrap();
            let kind = second.get_ref().1.handshake_kind();
            let is_expected = (kind == Some(HandshakeKind::Resumed)) == is_resumed;
            assert!(is_expected, "{host}: {kind:?}");
        }
    }
}

#[tokio::test]
async fn only_who_shows_a_certificate_of_the_service_reaches_it() {
    let (server, ours, theirs) = (Ca::new(), Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    let both = [(SERVICE, HOST, ours.authorities(true)), (OTHER, OTHER_HOST, theirs.authorities(true))];
    profiles(&rig, &handle, &server, &both);
    let (plain, shown) = (Client::trusting(&[&server]), Client::trusting(&[&server]).showing(&ours));
    let token = bearer(&rig);

    let answer = shown.ask(&rig, HOST, "X-Client-Cert-Subject: CN=forged\r\n").await.unwrap();
    for line in ["x-auth-method: mtls", "x-client-cert-serial: 4001", "x-tenant-name: acme"] {
        assert!(answer.contains(line), "{line} is not in {answer}");
    }
    assert!(answer.contains("CN=acme") && !answer.contains("forged"), "{answer}");
    assert_eq!(status(shown.ask(&rig, HOST, &token).await), 200, "with a token, too");

    assert_eq!(status(plain.ask(&rig, HOST, &token).await), 0, "no certificate");
    let of_theirs = Client::trusting(&[&server]).showing(&theirs);
    assert_eq!(status(of_theirs.ask(&rig, HOST, &token).await), 0, "a certificate of another authority");
    let as_server = ours.sign(&[], ExtendedKeyUsagePurpose::ServerAuth);
    let wrong_use = Client { certificate: Some(as_server), ..Client::trusting(&[&server]) };
    assert_eq!(status(wrong_use.ask(&rig, HOST, &token).await), 0, "a certificate for servers");

    // Connections for one service, requests for another.
    let mut stream = shown.connect(&rig, HOST).await.unwrap();
    assert_eq!(status(ask(&mut stream, OTHER_HOST, &token).await), 421);
    let by_header = format!("{token}X-Service-Id: 7/43\r\n");
    assert_eq!(status(shown.ask(&rig, HOST, &by_header).await), 400, "two names for two services");
    let mut stream = plain.connect(&rig, "hub.example").await.unwrap();
    assert_eq!(status(ask(&mut stream, HOST, &token).await), 421);
    let by_header = format!("{token}X-Service-Id: 7/42\r\n");
    assert_eq!(status(plain.ask(&rig, "hub.example", &by_header).await), 421);
    let mut stream = shown.connect(&rig, HOST).await.unwrap();
    assert_eq!(status(ask(&mut stream, "hub.example", &by_header).await), 200, "the same service");
}

/// What the signed statement in a mirrored request says of the certificate.
fn stated(answer: &str) -> serde_json::Value {
    let statement = answer.lines().find_map(|line| line.strip_prefix("x-blueprint-identity: ")).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(statement.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    claims.get("cert").cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_signed_statement_says_which_certificate_was_shown() {
    let (server, ours) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, ours.authorities(false))]);
    let client = || Client::trusting(&[&server]);
    let clients = [client().showing_number(&ours, [0x40, 1]), client().showing_number(&ours, [0x40, 2])];
    // The same token beside each: no statement is used for the other one.
    for headers in ["", bearer(&rig).as_str()] {
        for _ in 0..2 {
            for (client, serial) in clients.iter().zip(["4001", "4002"]) {
                let cert = stated(&client.ask(&rig, HOST, headers).await.unwrap());
                assert_eq!((&cert["serial"], &cert["subject"]), (&serial.into(), &"CN=acme".into()));
                assert!(cert["issuer"].is_string(), "{cert}");
            }
        }
    }
    let without = client().ask(&rig, HOST, &bearer(&rig)).await.unwrap();
    assert!(stated(&without).is_null(), "{without}");
}

#[tokio::test]
async fn what_changes_counts_on_connections_that_are_open() {
    let (server, ours, theirs) = (Ca::new(), Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    let mine = Client::trusting(&[&server]).showing(&ours);
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, ours.authorities(true))]);

    let mut before = mine.connect(&rig, HOST).await.unwrap();
    let mut trust = Trust::clone(&rig.trust.load());
    let in_force = trust.tls.get_mut(&SERVICE).unwrap();
    in_force.revoked = BTreeSet::from(["4001".parse().unwrap()]);
    rig.trust.store(Arc::new(trust));
    assert!(ask(&mut before, HOST, "").await.unwrap().contains("revoked_certificate"));
    assert_eq!(status(mine.ask(&rig, HOST, "").await), 401, "a fresh connection, too");

    let mut before = mine.connect(&rig, HOST).await.unwrap();
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, theirs.authorities(true))]);
    assert_eq!(status(ask(&mut before, HOST, &bearer(&rig)).await), 421);
    assert_eq!(status(mine.ask(&rig, HOST, "").await), 0);

    // Where certificates are welcome but not asked for, either way leads in.
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, ours.authorities(false))]);
    assert_eq!(status(mine.ask(&rig, HOST, "").await), 200);
    assert_eq!(status(Client::trusting(&[&server]).ask(&rig, HOST, &bearer(&rig)).await), 200);
    assert_eq!(status(Client::trusting(&[&server]).ask(&rig, HOST, "").await), 401);
}

#[tokio::test]
async fn an_acme_server_sees_its_certificate_and_gets_no_further() {
    let server = Ca::new();
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    let connect = |host: &'static str| {
        let mut config = ClientConfig::builder()
            .with_root_certificates(Client::trusting(&[&server]).roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
        let stream = rig.connect();
        async move {
            let name = ServerName::try_from(host).unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream.await).await
        }
    };
    assert!(connect("hub.example").await.is_err(), "nothing is pending");
    handle.set_challenge("hub.example", Some(server.server(&["hub.example"])));
    let mut stream = connect("hub.example").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"acme-tls/1"[..]));
    let mut rest = Vec::new();
    assert_eq!(stream.read_to_end(&mut rest).await.unwrap_or(0), 0);
    handle.set_challenge("hub.example", None);
    assert!(connect("hub.example").await.is_err());
}

#[tokio::test]
async fn two_addresses_one_without_and_one_with_tls() {
    let server = Ca::new();
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = Rig::with(|config| {
        config.tls = Some(handle);
        config.tls_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await;
    rig.route(&[rig.service(mirror)]);
    let request = format!("GET / HTTP/1.1\r\n{}Connection: close\r\n\r\n", rig.admitted());
    assert!(rig.raw(&request).await.contains("x-forwarded-proto: http\n"));
    let by_tls = Rig { proxy: rig.tls.unwrap(), ..rig };
    let headers = format!("{}X-Service-Id: 7/42\r\n", bearer(&by_tls));
    let answer = Client::trusting(&[&server]).ask(&by_tls, "hub.example", &headers).await.unwrap();
    assert!(answer.contains("x-forwarded-proto: https\n"), "{answer}");
}

#[tokio::test]
async fn streams_of_one_connection_are_judged_one_by_one() {
    let (server, ours) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, ours.authorities(true))]);
    let client = Client::trusting(&[&server]).showing(&ours);
    let mut config = Arc::unwrap_or_clone(client.config());
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(&rig, HOST, Arc::new(config)).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    rig.spawner.spawn("test client", connection);
    for (host, expected) in [(HOST, 200), (OTHER_HOST, 421), (HOST, 200), ("hub.example", 428)] {
        let token = rig.token.expose_text();
        let request = http::Request::get(format!("https://{host}/"))
            .header("authorization", format!("Bearer {}", token.expose()))
            .body(empty())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{host}");
    }
}

#[tokio::test]
async fn one_set_up_for_all_names_refuses_those_that_ask_for_certificates() {
    let (server, ours) = (Ca::new(), Ca::new());
    let handle = TlsHandle::new(Some(server.server(&["hub.example"])), &Metrics::new()).unwrap();
    let rig = rig(&handle).await;
    profiles(&rig, &handle, &server, &[(SERVICE, HOST, ours.authorities(false))]);
    handle.set_configured(vec![server.server(&["more.example"])]);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(handle.shared_config().unwrap()));
    for (host, is_met) in [("hub.example", true), ("more.example", true), (HOST, false)] {
        let (near, far) = tokio::io::duplex(1 << 16);
        let client = Client::trusting(&[&server]).config();
        let name = ServerName::try_from(host).unwrap();
        let connector = TlsConnector::from(client);
        let (met, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        assert_eq!(met.is_ok(), is_met, "{host}");
    }
    // The table as it is then, not as it was.
    handle.set_services(Vec::new());
    handle.set_configured(vec![server.server(&[HOST])]);
    let (near, far) = tokio::io::duplex(1 << 16);
    let connector = TlsConnector::from(Client::trusting(&[&server]).config());
    let name = ServerName::try_from(HOST).unwrap();
    let (met, _) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    assert!(met.is_ok());
}
