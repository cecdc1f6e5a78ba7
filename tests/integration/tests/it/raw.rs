//! Raw forwards through a real hub and a real agent: streams and datagrams, both ways, and their end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Host, Lab, eventually_ok, free_port};
use serde_json::{Value, json};

use crate::fixture::{Agent, CALL, Hub, Mode, SOON, rows, text};

/// How soon a change of settings has to show.
const TWO_SECONDS: Duration = Duration::from_secs(2);

/// Answers each connection like a database: nothing until it is asked, then so many bytes as it is asked for, and
/// what it was sent once its client has no more.
fn database() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("database".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let serve = move || -> std::io::Result<()> {
                let mut size = [0; 4];
                stream.read_exact(&mut size)?;
                stream.write_all(&vec![7; u32::from_be_bytes(size).try_into().unwrap_or(0)])?;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest)?;
                stream.write_all(&rest)
            };
            let _ = std::thread::Builder::new().spawn(serve);
        }
    })?;
    Ok(address)
}

/// Sends every datagram back.
fn echo() -> Result<SocketAddr> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let address = socket.local_addr()?;
    std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..count).unwrap_or_default(), from);
        }
    })?;
    Ok(address)
}

fn settle(hub: &Hub<'_>, service: &str, settings: &Value) -> Result<(Option<i32>, String)> {
    let launch = hub.command(&["service", "settings", service, "--file", "-"])?;
    let finished = launch.stdin(&settings.to_string()).run(CALL)?;
    Ok((finished.code, finished.stderr))
}

fn forward(name: &str, protocol: &str, port: u16, sources: &[&str]) -> Value {
    json!({ "name": name, "protocol": protocol, "listen_port": port, "sources": sources })
}

/// Offers both, and waits until the hub knows them as healthy.
fn offer(hub: &Hub<'_>, agent: &Agent<'_>, database: SocketAddr, echo: SocketAddr) -> Result<()> {
    let (database, echo) = (database.to_string(), echo.to_string());
    agent.json(&["service", "add", "7/5432", "--local", &database])?;
    agent.json(&["service", "add", "7/53", "--local", &echo, "--udp", "--check", "none"])?;
    for service in ["7/5432", "7/53"] {
        eventually_ok(SOON, "a healthy target", || {
            let shown = hub.json(&["service", "show", service])?;
            let [row] = rows(&shown, "/targets")? else { anyhow::bail!("{shown}") };
            ensure!(text(row, "/health")? == "healthy", "{shown}");
            Ok(())
        })?;
    }
    Ok(())
}

fn wait_listening(hub: &Hub<'_>, service: &str) -> Result<()> {
    eventually_ok(SOON, "an open port", || {
        let shown = hub.json(&["service", "settings", service])?;
        let listening = shown.pointer("/status/forwards/0/listening").and_then(Value::as_bool);
        ensure!(listening == Some(true), "{shown}");
        Ok(())
    })
}

/// A hub that may forward, and an agent that offers a database and an echo.
struct Bench {
    hub: Hub<'static>,
    _agent: Agent<'static>,
    tcp: u16,
    udp: u16,
}

impl Bench {
    fn start() -> Result<Self> {
        let (tcp, udp) = (free_port()?, free_port()?);
        let (first, last) = (tcp.min(udp), tcp.max(udp));
        let ports = format!("proxy.forward_ports={first}-{last}");
        let hub = Hub::start(&[&ports, "proxy.forward_listen=127.0.0.1"])?;
        let mut agent = Agent::join(None, "raw", &hub.join_line(&[])?)?;
        agent.run()?;
        offer(&hub, &agent, database()?, echo()?)?;
        Ok(Self { hub, _agent: agent, tcp, udp })
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.tcp))?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    }
}

#[test]
fn a_stream_passes_both_ways_and_is_cut_with_its_forward() -> Result<()> {
    let bench = Bench::start()?;
    let everybody = json!({ "forwards": [forward("db", "tcp", bench.tcp, &["127.0.0.0/8"])] });
    let (code, stderr) = settle(&bench.hub, "7/5432", &everybody)?;
    ensure!(code == Some(0), "{stderr}");
    wait_listening(&bench.hub, "7/5432")?;

    let mut stream = bench.connect()?;
    let asked: u32 = 3_000_000;
    stream.write_all(&asked.to_be_bytes())?;
    let mut got = vec![0; asked.try_into()?];
    stream.read_exact(&mut got)?;
    ensure!(got.iter().all(|byte| *byte == 7), "the answer is another one");
    let sent = vec![9; 1_000_000];
    let mut writer = stream.try_clone()?;
    writer.write_all(&sent)?;
    writer.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest == sent, "{} bytes came back", rest.len());

    let mut open = bench.connect()?;
    open.write_all(&1u32.to_be_bytes())?;
    open.read_exact(&mut [0])?;
    let begun = Instant::now();
    let (code, stderr) = settle(&bench.hub, "7/5432", &json!({}))?;
    ensure!(code == Some(0), "{stderr}");
    let ended = open.read(&mut [0]);
    ensure!(matches!(ended, Ok(0) | Err(_)) && begun.elapsed() < TWO_SECONDS, "{:?}", begun.elapsed());
    eventually_ok(TWO_SECONDS, "a closed port", || {
        ensure!(bench.connect().is_err(), "it is open");
        Ok(())
    })?;
    eventually_ok(TWO_SECONDS, "the line in the log", || {
        ensure!(bench.hub.log().contains("forward cut"), "{}", bench.hub.log());
        Ok(())
    })
}

#[test]
fn datagrams_pass_both_ways() -> Result<()> {
    let bench = Bench::start()?;
    let settings = json!({ "forwards": [forward("dns", "udp", bench.udp, &["127.0.0.1/32"])] });
    let (code, stderr) = settle(&bench.hub, "7/53", &settings)?;
    ensure!(code == Some(0), "{stderr}");
    wait_listening(&bench.hub, "7/53")?;
    let client = UdpSocket::bind(("127.0.0.1", 0))?;
    client.connect(("127.0.0.1", bench.udp))?;
    client.set_read_timeout(Some(Duration::from_millis(300)))?;
    let ask = |data: &[u8]| -> Result<Vec<u8>> {
        client.send(data)?;
        let mut buffer = [0; 2048];
        let count = client.recv(&mut buffer).context("no answer")?;
        Ok(buffer.get(..count).unwrap_or_default().to_vec())
    };
    eventually_ok(SOON, "an answer", || ensure_same(&ask(b"hello")?, b"hello"))?;
    client.set_read_timeout(Some(SOON))?;
    for round in 0..100u8 {
        let data = vec![round; 1 + usize::from(round) * 12];
        ensure_same(&ask(&data)?, &data)?;
    }
    let stranger = UdpSocket::bind(("127.0.0.2", 0))?;
    stranger.connect(("127.0.0.1", bench.udp))?;
    stranger.set_read_timeout(Some(Duration::from_millis(500)))?;
    stranger.send(b"let me in")?;
    ensure!(stranger.recv(&mut [0; 16]).is_err(), "a stranger got an answer");
    Ok(())
}

fn ensure_same(got: &[u8], sent: &[u8]) -> Result<()> {
    ensure!(got == sent, "{} bytes came back for {}", got.len(), sent.len());
    Ok(())
}

#[test]
fn forwards_that_the_hub_does_not_allow_are_refused_with_the_reason() -> Result<()> {
    let closed = Hub::start(&[])?;
    let one = |port, sources: &[&str]| json!({ "forwards": [forward("db", "tcp", port, sources)] });
    let (code, stderr) = settle(&closed, "7/42", &one(20_000, &["0.0.0.0/0"]))?;
    ensure!(code == Some(2) && stderr.contains("proxy.forward_ports"), "{stderr}");
    let hub = Hub::start(&["proxy.forward_ports=20000-20999", "proxy.forward_listen=127.0.0.1"])?;
    for (service, port, sources, code, words) in [
        ("7/42", 20_000, [].as_slice(), 2, "sources is empty"),
        ("7/42", 8080, &["10.0.0.0/8"], 2, "20000-20999"),
        ("7/42", 20_998, &["10.0.0.0/8"], 0, ""),
        ("7/43", 20_998, &["10.0.0.0/8"], 2, "belongs to service 7/42"),
    ] {
        let (found, stderr) = settle(&hub, service, &one(port, sources))?;
        ensure!(found == Some(code) && stderr.contains(words), "{service} {port}: {found:?} {stderr}");
    }
    Ok(())
}

#[test]
fn a_service_has_a_forward_or_asks_for_certificates_and_never_both() -> Result<()> {
    let hub = Hub::start(&[
        "proxy.forward_ports=20000-20999",
        "proxy.forward_listen=127.0.0.1",
        &format!("proxy.tls_listen=127.0.0.1:{}", free_port()?),
        "proxy.tls=hub",
    ])?;
    let with = json!({ "forwards": [forward("db", "tcp", 20_997, &["10.0.0.0/8"])] });
    let asking = ["service", "tls", "set", "7/42", "--require-client-cert"];

    hub.json(&asking)?;
    let (code, stderr) = settle(&hub, "7/42", &with)?;
    ensure!(code == Some(2) && stderr.contains("without --require-client-cert"), "{code:?} {stderr}");
    hub.json(&["service", "tls", "set", "7/42"])?;
    let (code, stderr) = settle(&hub, "7/42", &with)?;
    ensure!(code == Some(0), "a profile that asks for none: {stderr}");

    let refused = hub.command(&asking)?.run(CALL)?;
    let words = ["raw forward db", "blueprint-hub service settings 7/42"];
    ensure!(refused.code == Some(5), "{:?} {}", refused.code, refused.stderr);
    ensure!(words.iter().all(|word| refused.stderr.contains(word)), "{}", refused.stderr);
    let operator = std::fs::read_to_string(hub.state().join("admin.token"))?;
    let over_proxy = Request::new("PUT", "/v1/admin/services/42/tls-profile")
        .header("x-service-id", "7/42")
        .bearer(operator.trim())
        .body(r#"{"require_client_mtls":true}"#);
    let answer = hub.request(&over_proxy)?;
    ensure!(answer.status == 409 && answer.text().contains("raw forward db"), "{}", answer.text());

    let (code, stderr) = settle(&hub, "7/42", &json!({}))?;
    ensure!(code == Some(0), "{stderr}");
    hub.json(&asking)?;
    Ok(())
}

/// Asks the database and the echo by the ports of a hub's host, from that host.
fn ask_both(at: &Host) -> Result<()> {
    let mut stream = at.connect(SocketAddr::from(([127, 0, 0, 1], 20_000)), CALL)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(&500_000u32.to_be_bytes())?;
    stream.read_exact(&mut vec![0; 500_000])?;
    stream.write_all(b"rest")?;
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure_same(&rest, b"rest")?;
    let client = at.enter(|| UdpSocket::bind(("127.0.0.1", 0)))??;
    client.connect(("127.0.0.1", 20_001))?;
    client.set_read_timeout(Some(Duration::from_millis(300)))?;
    for size in [0, 1, 1200, 1392] {
        let (sent, mut got) = (vec![5; size], [0; 2048]);
        // One by one, and again: a datagram may be lost, and the longest is until the path is known to take it.
        eventually_ok(SOON, "an answer", || {
            client.send(&sent)?;
            let count = client.recv(&mut got).with_context(|| format!("no answer to {size} bytes"))?;
            ensure_same(got.get(..count).unwrap_or_default(), &sent)
        })?;
    }
    Ok(())
}

#[test]
fn both_pass_where_the_overlay_ends_in_devices() -> Result<()> {
    for mode in Mode::WITH_DEVICES {
        if !mode.is_possible() {
            return Ok(());
        }
        let Some(lab) = Lab::new()? else { return Ok(()) };
        let (at, spoke) = (lab.host("hub")?, lab.host("spoke")?);
        let mut settings = vec!["proxy.forward_ports=20000-20001"];
        settings.extend(mode.of_hub());
        let hub = Hub::start_on(&at, &at.address().to_string(), &settings)?;
        let agent = Agent::join(Some(&spoke), "raw", &hub.join_line(&[])?)?;
        let mut agent = mode.of_machine().iter().fold(agent, |agent, setting| agent.set(setting));
        agent.run()?;
        offer(&hub, &agent, spoke.enter(database)??, spoke.enter(echo)??)?;
        for (service, name, protocol, port) in
            [("7/5432", "db", "tcp", 20_000), ("7/53", "dns", "udp", 20_001)]
        {
            let settings = json!({ "forwards": [forward(name, protocol, port, &["127.0.0.1/32"])] });
            let (code, stderr) = settle(&hub, service, &settings)?;
            ensure!(code == Some(0), "{stderr}");
            wait_listening(&hub, service)?;
        }
        ask_both(&at).with_context(|| format!("{mode:?}"))?;
    }
    Ok(())
}
