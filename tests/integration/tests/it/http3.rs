//! HTTP/3 on the UDP port that agents use: WireGuard, its QUIC carrier and clients at once, and who is neither.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use blueprint_common_tunnel::carrier::crypto_provider;
use blueprint_common_types::HUB_TLS_NAME;
use blueprint_tests_support::{Host, Lab, Need, eventually_ok, require};
use bytes::{Buf, Bytes};
use h3::client::SendRequest;
use http::Request;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::fixture::{Agent, CALL, Hub, SOON, Service, rows, text};
use crate::flood::{Flood, in_turn, sockets};
use crate::load::Load;
use crate::say::{metric, pass, say};
use crate::under_attack::initials::initials;

/// Where all of them come.
const PORT: u16 = 443;
/// An answer to a client of HTTP/3.
const ANSWER_BYTES: usize = 200_000;
/// What goes to and fro through the tunnel meanwhile.
const TRANSFER_BYTES: usize = 20_000_000;
/// Longest answer to a call of HTTP/1.1 beside all that.
const SLOWEST: Duration = Duration::from_secs(2);
/// An agent that starts again is served within this time in a flood.
const COMES_IN: Duration = Duration::from_secs(10);
/// Connections that were refused in their handshake.
const REFUSED: &str = "hub_proxy_connections_cut_total{reason=\"tls\"}";

/// A hub with HTTP/3 and an agent whose tunnel may use QUIC alone.
struct Scene<'h> {
    hub: Hub<'h>,
    agent: Agent<'h>,
    _service: Service,
    at: SocketAddr,
    token: String,
}

impl<'h> Scene<'h> {
    fn start(hub_host: &'h Host, machine: &'h Host, settings: &[&str]) -> Result<Self> {
        let all = [&["proxy.tls=hub", "proxy.http3=true"], settings].concat();
        let hub = Hub::start_on(hub_host, &hub_host.address().to_string(), &all)?;
        let mut agent = Agent::join(Some(machine), "one", &hub.join_line(&[])?)?.set("tunnel.carriers=quic");
        let service = Service::start(Some(machine), "one")?;
        agent.run()?;
        agent.offer("7/42", service.address)?;
        let token = hub.access_token("7/42")?;
        hub.wait_served("42", &token, SOON)?;
        let at = SocketAddr::from((hub_host.address(), PORT));
        let scene = Self { hub, agent, _service: service, at, token };
        scene.ensure_quic()?;
        Ok(scene)
    }

    /// Agent and hub both say that QUIC carries the tunnel, on the port that clients use.
    fn ensure_quic(&self) -> Result<()> {
        eventually_ok(SOON, "quic", || {
            let status = self.agent.json(&["status"])?;
            ensure!(text(&status, "/data_plane/carrier")? == "quic", "{status}");
            Ok(())
        })
        .with_context(|| format!("--- agent\n{}\n--- hub\n{}", self.agent.log(), self.hub.log()))
    }

    /// A client that trusts this hub and offers a protocol.
    fn client(&self, protocol: &[u8]) -> Result<quinn::ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(std::fs::read(self.hub.state().join("ca.der"))?))?;
        let mut tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
    }
}

/// Does something asynchronous on a host.
fn on<T: Send>(host: &Host, work: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
    host.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    })?
}

/// Shakes hands with who has a certificate for `name`; the endpoint has to live as long as the connection.
async fn connect(
    config: quinn::ClientConfig,
    at: SocketAddr,
    name: &str,
) -> Result<(quinn::Endpoint, quinn::Connection)> {
    let endpoint = quinn::Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
    let connecting = endpoint.connect_with(config, at, name)?;
    let connection = timeout(CALL, connecting).await.context("nobody answers")??;
    Ok((endpoint, connection))
}

/// One request and its answer, of which the bytes are counted.
async fn ask(
    sender: &mut SendRequest<h3_quinn::OpenStreams, Bytes>,
    at: SocketAddr,
    token: &str,
) -> Result<(u16, usize)> {
    let request = Request::get(format!("https://{}/bytes/{ANSWER_BYTES}", at.ip()))
        .header("x-service-id", "42")
        .header("authorization", format!("Bearer {token}"))
        .body(())?;
    let mut stream = sender.send_request(request).await?;
    stream.finish().await?;
    let status = stream.recv_response().await?.status().as_u16();
    let mut bytes = 0;
    while let Some(data) = stream.recv_data().await? {
        bytes += data.remaining();
    }
    Ok((status, bytes))
}

/// Asks again and again on one connection until told; how often it was answered.
async fn ask_until(
    config: quinn::ClientConfig,
    at: SocketAddr,
    token: &str,
    enough: &AtomicBool,
) -> Result<u64> {
    let (_endpoint, connection) = connect(config, at, &at.ip().to_string()).await?;
    let (mut driver, mut sender) = h3::client::new(h3_quinn::Connection::new(connection)).await?;
    let asking = async {
        let mut answers = 0;
        while !enough.load(Ordering::Relaxed) || answers == 0 {
            let (status, bytes) = timeout(CALL, ask(&mut sender, at, token)).await.context("no answer")??;
            ensure!(status == 200 && bytes == ANSWER_BYTES, "{status}: {bytes} bytes");
            answers += 1;
        }
        Ok(answers)
    };
    tokio::select! {
        end = driver.wait_idle() => bail!("the connection ended: {end}"),
        answers = asking => answers,
    }
}

#[test]
fn wireguard_its_quic_carrier_and_clients_of_http3_share_udp_port_443() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (hub_host, machine, outside) = (lab.host("hub")?, lab.host("one")?, lab.host("outside")?);
    let scene = Scene::start(&hub_host, &machine, &["proxy.tls_listen=0.0.0.0:443"])?;
    let (hub, at, token) = (&scene.hub, scene.at, scene.token.as_str());
    let (enough, config) = (AtomicBool::new(false), scene.client(b"h3")?);
    let load = Load::start(&hub_host, hub.proxy(), ("42", token), SLOWEST)?;
    let begin = Instant::now();
    let answers = std::thread::scope(|scope| -> Result<u64> {
        let asking = scope.spawn(|| on(&outside, async || ask_until(config, at, token, &enough).await));
        let transfers = (|| {
            for _ in 0..5 {
                let response = hub.get("42", token, &format!("/bytes/{TRANSFER_BYTES}"))?;
                let length = response.body.len();
                ensure!(response.status == 200 && length == TRANSFER_BYTES, "{}: {length}", response.status);
            }
            Ok(())
        })();
        enough.store(true, Ordering::Relaxed);
        let answers = asking.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        transfers?;
        Ok(answers)
    })
    .with_context(|| format!("--- agent\n{}\n--- hub\n{}", scene.agent.log(), hub.log()))?;
    let (calls, slowest) = load.summary();
    say(format_args!(
        "{answers} answers of HTTP/3 beside 5 transfers of {TRANSFER_BYTES} bytes over QUIC in {:.1?}; {calls} calls of \
         HTTP/1.1, slowest {slowest:.0?}",
        begin.elapsed()
    ));
    ensure!(load.failures().is_empty() && answers > 1, "{answers} answers; {:?}", load.failures());
    drop(load);
    scene.ensure_quic()?;

    // Plain WireGuard is on the port, too.
    let report = scene.agent.json(&["netcheck"])?;
    let carriers = rows(&report, "/carriers")?;
    let mut udp = carriers.iter().filter(|row| text(row, "/carrier").is_ok_and(|carrier| carrier != "tls"));
    ensure!(udp.all(|row| row.get("reachable").is_some_and(|is| is == true)), "{report}");
    Ok(())
}

#[test]
fn who_offers_another_protocol_is_refused_and_counted_on_the_shared_port() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (hub_host, machine, outside) = (lab.host("hub")?, lab.host("one")?, lab.host("outside")?);
    // TLS has another number than the carriers: clients learn of the port.
    let settings = ["proxy.tls_listen=0.0.0.0:8277", "proxy.http3_on_carrier=true"];
    let scene = Scene::start(&hub_host, &machine, &settings)?;
    let url = format!("https://{}:8277/", hub_host.address());
    let asked = ["--insecure", "--silent", "--http1.1", "--dump-header", "-", "--output", "/dev/null", &url];
    let told = outside.launch(Path::new("curl")).args(asked).run(CALL)?;
    ensure!(told.stdout.to_lowercase().contains("alt-svc: h3=\":443\";"), "{told:?}");

    let (config, enough) = (scene.client(b"h3")?, AtomicBool::new(true));
    let answers = on(&outside, async || ask_until(config, scene.at, &scene.token, &enough).await)?;
    ensure!(answers == 1, "{answers}");
    let (at, before) = (scene.at, metric(&scene.hub, REFUSED)?);
    let name = at.ip().to_string();
    for (count, protocol) in [&b"h9"[..], b"bp-wg/2", b"hq-interop"].into_iter().enumerate() {
        let config = scene.client(protocol)?;
        let refused = on(&outside, async || Ok(connect(config, at, &name).await.is_err()))?;
        ensure!(refused, "{} is spoken", String::from_utf8_lossy(protocol));
        eventually_ok(SOON, "the count of refused handshakes", || {
            let now = metric(&scene.hub, REFUSED)?;
            ensure!(now == before + u64::try_from(count)? + 1, "{now} were counted, {before} before");
            Ok(())
        })?;
    }
    // Who offers the carrier's protocol has to show a machine's certificate.
    let config = scene.client(blueprint_common_tunnel::carrier::ALPN)?;
    let end = on(&outside, async || {
        let Ok((_endpoint, connection)) = connect(config, at, HUB_TLS_NAME).await else { return Ok(true) };
        Ok(timeout(CALL, connection.closed()).await.is_ok())
    })?;
    ensure!(end, "a stranger has a link");
    eventually_ok(SOON, "the count of failed handshakes of carriers", || {
        let failed = metric(&scene.hub, "hub_control_tls_handshake_failures_total{reason=\"quic\"}")?;
        ensure!(failed == 1, "{failed} of them");
        Ok(())
    })?;
    scene.ensure_quic()
}

#[test]
fn a_flood_of_first_packets_of_http3_keeps_no_agent_out() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (hub_host, machine, attacker) = (lab.host("hub")?, lab.host("one")?, lab.host("attacker")?);
    let mut scene = Scene::start(&hub_host, &machine, &["proxy.tls_listen=0.0.0.0:443"])?;
    let at = scene.at;
    let packets = in_turn(initials(at, 2000, b"h3")?);
    let flood = Flood::start(sockets(&attacker, 64)?, at, 3000, packets)?;
    pass(Duration::from_secs(2))?;
    scene.agent.process()?.kill()?;
    let begin = Instant::now();
    scene.agent.run()?;
    scene.hub.wait_served("42", &scene.token, COMES_IN).with_context(|| scene.agent.log())?;
    let came_in = begin.elapsed();
    scene.ensure_quic()?;
    let counts = flood.finish()?;
    let lost =
        |reason| metric(&scene.hub, &format!("hub_proxy_http3_datagrams_lost_total{{reason=\"{reason}\"}}"));
    say(format_args!(
        "{counts:?}; the agent came in after {came_in:.1?}; {} found no room, {} could not be read",
        lost("queue_full")?,
        lost("unreadable")?
    ));
    ensure!(counts.answers > 0 && counts.answer_bytes < counts.sent_bytes, "{counts:?}");
    ensure!(metric(&scene.hub, "hub_control_quic_held_off_total{reason=\"queue_full\"}")? == 0, "links lost");
    ensure!(
        metric(&scene.hub, "hub_tunnel_datagrams_dropped_total{reason=\"udp_queue\"}")? == 0,
        "the port lost"
    );
    let (config, enough) = (scene.client(b"h3")?, AtomicBool::new(true));
    let answers = on(&attacker, async || ask_until(config, at, &scene.token, &enough).await)?;
    ensure!(answers == 1, "{answers}");
    Ok(())
}
