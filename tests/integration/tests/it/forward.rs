//! Forwards: PostgreSQL and datagrams between where the operator is and a node, in both directions.

mod postgres;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, bail, ensure};
use blueprint_tests_support::{Finished, Host, Lab, Launch, Need, Process, eventually_ok, require};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::postgres::Postgres;
use crate::fixture::{Hub, SOON, json_of, rows, text};
use crate::workloads::rig::Node;

/// What the policy has to say.
const GRANTS: &str = "[[session]]\nname = \"db\"\nservices = [\"7/5432\", \"7/53\"]\nallow = [\"forward\"]\n\
                      [[session]]\nname = \"ports\"\nservices = \"7/42\"\nallow = [\"port/5432\", \"port/9999\", \"reverse/9000-9009\"]\n";

/// Rows of the large table, and bytes of one.
const ROWS: usize = 20_000;
const ROW: usize = 200;

/// Sends every datagram back; its port on loopback.
fn echo() -> Result<u16> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    let port = socket.local_addr()?.port();
    std::thread::Builder::new().name("echo".to_owned()).spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..count).unwrap_or_default(), from);
        }
    })?;
    Ok(port)
}

/// Asks an echo on loopback of a host.
fn ask_echo(at: &Host, port: u16) -> Result<()> {
    let client = at.enter(|| UdpSocket::bind(("127.0.0.1", 0)))??;
    client.connect(("127.0.0.1", port))?;
    client.set_read_timeout(Some(std::time::Duration::from_secs(2)))?;
    for size in [1, 0, 600, 1200] {
        let (sent, mut got) = (vec![5; size], [0; 4096]);
        client.send(&sent)?;
        let count = client.recv(&mut got).with_context(|| format!("no answer to {size} bytes"))?;
        ensure!(got.get(..count) == Some(sent.as_slice()), "another answer to {size} bytes");
    }
    Ok(())
}

/// A forward that runs, and the port that it names first.
fn open(hub: &Hub<'_>, arguments: &[&str]) -> Result<(Process, u16)> {
    let launch = hub.command(&[&["forward"], arguments].concat())?;
    let mut process = launch.start()?;
    let line = process.wait_for_line(" leads to ", SOON)?;
    // Where the node listens there is none.
    let port = line.split(" leads to ").next().and_then(|place| place.rsplit(':').next()?.parse().ok());
    Ok((process, port.unwrap_or(0)))
}

/// Ends a forward, and gives what it says at its end.
fn close(mut forward: Process) -> Result<String> {
    forward.signal(Signal::SIGINT)?;
    let status = forward.wait(SOON)?;
    ensure!(status.code() == Some(0), "{status:?}: {}", forward.log());
    Ok(forward.log())
}

fn psql(at: &Host, port: u16, sql: &str) -> Result<Finished> {
    let port = port.to_string();
    let launch: Launch = at.launch("psql".as_ref()).args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]);
    launch.args(["-v", "ON_ERROR_STOP=1", "-Atc", sql]).run(SOON)
}

fn query(at: &Host, port: u16, sql: &str) -> Result<String> {
    let done = psql(at, port, sql)?;
    ensure!(done.code == Some(0), "{sql}: {:?} {}", done.code, done.stderr);
    Ok(done.stdout)
}

/// A table of some MB in, by COPY, and out again.
fn copy_both_ways(at: &Host, port: u16) -> Result<()> {
    let row = "x".repeat(ROW);
    let table: String = (0..ROWS).map(|number| format!("{number}\t{row}\n")).collect();
    query(at, port, "create table if not exists big(n int, t text)")?;
    let port_text = port.to_string();
    let psql = at.launch("psql".as_ref()).args(["-h", "127.0.0.1", "-p", &port_text, "-U", "postgres"]);
    let copied = psql.args(["-c", "copy big from stdin"]).stdin(&table).run(SOON)?;
    ensure!(copied.code == Some(0) && copied.stdout.contains(&format!("COPY {ROWS}")), "{copied:?}");
    ensure!(
        query(at, port, "select count(*), sum(length(t)) from big")?.trim()
            == format!("{ROWS}|{}", ROWS * ROW)
    );
    let selected = query(at, port, "select n, t from big order by n")?;
    ensure!(selected.len() > ROWS * ROW && selected.lines().count() == ROWS, "{} bytes", selected.len());
    let out = query(at, port, "copy (select n, t from big order by n) to stdout")?;
    ensure!(out == table, "{} bytes came out, {} went in", out.len(), table.len());
    query(at, port, "truncate big").map(drop)
}

struct Bench<'h> {
    hub: Hub<'h>,
    node: Node<'h>,
    _postgres: Postgres,
    echo: u16,
}

impl<'h> Bench<'h> {
    fn start(at: &'h Host, spoke: &'h Host) -> Result<Self> {
        let postgres = Postgres::start(spoke)?;
        let hub = Hub::start_on(at, &at.address().to_string(), &["forward.enabled=true"])?;
        let echo = spoke.enter(echo)??;
        let connect = format!("forward.connect_ports=5432,{echo}");
        let listen = "forward.listen_ports=9000-9001";
        let node = Node::start_set(&hub, Some(spoke), "one", &[&connect, listen])?;
        node.agent.json(&["service", "add", "7/5432", "--local", "127.0.0.1:5432"])?;
        let local = format!("127.0.0.1:{echo}");
        node.agent.json(&["service", "add", "7/53", "--local", &local, "--udp", "--check", "none"])?;
        let program = node.script("waits", &["while true; do sleep 1; done"])?;
        hub.json(&["workload", "run", "7/42", "--path", &program, "--test-mode", "--wait", "20s"])?;
        for service in ["7/5432", "7/53"] {
            eventually_ok(SOON, "a healthy target", || {
                let shown = hub.json(&["service", "show", service])?;
                let [row] = rows(&shown, "/targets")? else { bail!("{shown}") };
                ensure!(text(row, "/health")? == "healthy", "{shown}");
                Ok(())
            })?;
        }
        let bench = Self { hub, node, _postgres: postgres, echo };
        let grants = GRANTS.replace("9999", &echo.to_string());
        bench.allow(&grants)?;
        Ok(bench)
    }

    fn allow(&self, text: &str) -> Result<()> {
        let path = self.node.folder("policy")?.join("policy.toml");
        std::fs::write(&path, text)?;
        self.hub.json(&["policy", "set", &path.display().to_string()]).map(drop)
    }

    fn refused(&self, arguments: &[&str], code: i32, words: &str) -> Result<()> {
        let done = self.hub.command(&[&["forward"], arguments].concat())?.run(SOON)?;
        ensure!(done.code == Some(code) && done.stderr.contains(words), "{arguments:?}: {done:?}");
        Ok(())
    }
}

fn is_possible() -> bool {
    require(&[Need::Root, Need::Program("psql"), Need::File(postgres::FOLDER)])
}

#[test]
fn postgresql_and_datagrams_pass_to_a_service_and_to_a_port_of_its_node() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (at, spoke) = (lab.host("hub")?, lab.host("spoke")?);
    let mut bench = Bench::start(&at, &spoke)?;

    // To the service, many at once, and on when the hub was killed.
    let (mut forward, port) = open(&bench.hub, &["7/5432", "0"])?;
    ensure!(query(&at, port, "select 1 + 1")?.trim() == "2");
    copy_both_ways(&at, port)?;
    let failed = psql(&at, port, "select 1 / 0")?;
    ensure!(failed.code == Some(1) && failed.stderr.contains("division by zero"), "{failed:?}");
    std::thread::scope(|scope| {
        let ask = || query(&at, port, "select pg_sleep(1), repeat('y', 1000000)");
        let all: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        for one in all {
            let answer = one.join().map_err(|_| anyhow::anyhow!("a panic"))??;
            ensure!(answer.len() > 1_000_000, "{} bytes", answer.len());
        }
        Ok(())
    })?;
    bench.hub.kill()?;
    forward.wait_for_line("new connections work again once that is over", SOON)?;
    ensure!(psql(&at, port, "select 1")?.code == Some(2), "who answered?");
    bench.hub.start_again()?;
    forward.wait_for_line("the forward is open again", SOON)?;
    eventually_ok(SOON, "an answer", || {
        ensure!(query(&at, port, "select 2 + 2")?.trim() == "4");
        Ok(())
    })?;
    let said = close(forward)?;
    ensure!(said.contains("connections, ") && said.contains(" to here"), "{said}");

    // To a port of the node; and datagrams to both.
    let (forward, port) = open(&bench.hub, &["7/42", "0", "--port", "5432"])?;
    copy_both_ways(&at, port)?;
    close(forward)?;
    let (forward, port) = open(&bench.hub, &["7/53", "0", "--udp"])?;
    eventually_ok(SOON, "an echo", || ask_echo(&at, port))?;
    close(forward)?;
    let echo = bench.echo.to_string();
    let (forward, port) = open(&bench.hub, &["7/42", "0", "--port", &echo, "--udp"])?;
    eventually_ok(SOON, "an echo", || ask_echo(&at, port))?;
    close(forward)?;

    let audit = bench.hub.audit()?;
    for words in [
        "forward.begin 7/5432 session ",
        "forward.end 7/5432 session ",
        "grant \"ports\": port/5432 over tcp",
        "its client closed it; ",
    ] {
        ensure!(audit.iter().any(|row| row.contains(words)), "{words} is not in\n{}", audit.join("\n"));
    }
    Ok(())
}

#[test]
fn a_node_listens_and_its_connections_come_to_the_operator() -> Result<()> {
    if !is_possible() {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (at, spoke) = (lab.host("hub")?, lab.host("spoke")?);
    let bench = Bench::start(&at, &spoke)?;
    // What the node is to reach is where the operator is: another PostgreSQL, and an echo.
    let _postgres = Postgres::start(&at)?;
    let echo = at.enter(echo)??.to_string();
    let (forward, _) = open(&bench.hub, &["7/42", "5432", "--port", "9000", "--reverse"])?;
    copy_both_ways(&spoke, 9000)?;
    let (datagrams, _) = open(&bench.hub, &["7/42", &echo, "--port", "9001", "--reverse", "--udp"])?;
    eventually_ok(SOON, "an echo", || ask_echo(&spoke, 9001))?;
    close(datagrams)?;

    // It is on loopback alone, and shut with its forward.
    let outside = SocketAddr::from((spoke.address(), 9000));
    ensure!(at.connect(outside, SOON).is_err(), "it listens for everybody");
    let taken = bench.hub.command(&["forward", "7/42", "5432", "--port", "9000", "--reverse"])?.run(SOON)?;
    ensure!(taken.code == Some(6) && taken.stderr.contains("cannot be listened on"), "{taken:?}");
    close(forward)?;
    eventually_ok(SOON, "a closed port", || {
        ensure!(spoke.connect(SocketAddr::from(([127, 0, 0, 1], 9000)), SOON).is_err(), "it is open");
        Ok(())
    })?;

    // What nobody allows.
    bench.refused(&["7/42", "0"], 4, "no [[session]] of the policy allows forward with 7/42")?;
    bench.refused(&["7/42", "0", "--port", "22"], 4, "allows port/22 with 7/42")?;
    bench.refused(
        &["7/42", "1", "--port", "9002", "--reverse"],
        4,
        "the node does not allow this for port 9002",
    )?;
    bench.refused(&["7/5432", "0", "--port", "5432"], 4, "allows port/5432 with 7/5432")?;
    let audit = bench.hub.audit()?.join("\n");
    for row in
        ["forward.refuse 7/42 not_granted: port/22 by operator", "forward.refuse 7/42 reverse_off_node:"]
    {
        ensure!(audit.contains(row), "{row} is not in\n{audit}");
    }
    Ok(())
}

#[test]
fn a_port_of_a_node_by_its_name_is_carried_both_ways_for_a_grant_of_its_own() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (at, spoke) = (lab.host("hub")?, lab.host("spoke")?);
    let hub = Hub::start_on(&at, &at.address().to_string(), &["forward.enabled=true"])?;
    let (there, datagrams) = (spoke.enter(answer_at_the_end)??, spoke.enter(echo)??);
    let (here, echoes) = (at.enter(answer_at_the_end)??, at.enter(echo)??);
    let connect = format!("forward.connect_ports={there},{datagrams}");
    let node = Node::start_set(&hub, Some(&spoke), "one", &[&connect, "forward.listen_ports=9000-9001"])?;
    let allow = |text: &str| -> Result<()> {
        let path = node.folder("policy")?.join("policy.toml");
        std::fs::write(&path, text)?;
        hub.json(&["policy", "set", &path.display().to_string()]).map(drop)
    };
    let refused = |arguments: &[&str], code: i32, words: &str| -> Result<()> {
        let done = hub.command(&[&["forward"], arguments].concat())?.run(SOON)?;
        ensure!(done.code == Some(code) && done.stderr.contains(words), "{arguments:?}: {done:?}");
        Ok(())
    };
    let (tcp, udp) = (there.to_string(), datagrams.to_string());
    let (back, back_udp) = (here.to_string(), echoes.to_string());

    // Denied by default, and also where every service may: a node is granted by itself.
    refused(&["--node", "one", "0", "--port", &tcp], 4, "no [[session]] of the policy allows port/")?;
    allow(
        "[[session]]\nname = \"services\"\nservices = \"*\"\nallow = [\"forward\", \"port/1-65535\", \"reverse/1-65535\"]\n",
    )?;
    refused(&["--node", "one", "0", "--port", &tcp], 4, "add a [[session]] with nodes = [\"one\"]")?;
    let grant = format!(
        "[[session]]\nname = \"of one\"\nnodes = \"one\"\nallow = [\"port/{tcp},{udp},7\", \"reverse/9000-9002\"]\n"
    );
    allow(&format!(
        "{grant}[[test]]\nname = \"t\"\nnode = \"one\"\nallow = \"port/{tcp}\"\ndeny = \"port/22\"\n"
    ))?;
    refused(&["--node", "two", "0", "--port", &tcp], 3, "no node is called \"two\"")?;
    refused(&["--node", "one", "0"], 2, "which port of node one?")?;
    refused(&["0"], 2, "neither a service nor --node")?;
    refused(&["--node", "one", "0", "--port", "22"], 4, "allows port/22 with one")?;
    refused(
        &["--node", "one", "1", "--port", "9002", "--reverse"],
        4,
        "the node does not allow this for port 9002",
    )?;

    let both_ways = |from: &Host, port: u16| -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut stream = from.connect(address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        let sent = vec![7; 2_000_000];
        stream.write_all(&sent)?;
        stream.shutdown(Shutdown::Write)?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        ensure!(got == sent, "{} bytes came back", got.len());
        Ok(())
    };
    let (mut forward, port) = open(&hub, &["--node", "one", "0", "--port", &tcp])?;
    both_ways(&at, port)?;
    let (flows, port) = open(&hub, &["--node", "one", "0", "--port", &udp, "--udp"])?;
    eventually_ok(SOON, "an echo", || ask_echo(&at, port))?;
    close(flows)?;
    let (reverse, _) = open(&hub, &["--node", "one", &back, "--port", "9000", "--reverse"])?;
    both_ways(&spoke, 9000)?;
    close(reverse)?;
    let (reverse, _) = open(&hub, &["--node", "one", &back_udp, "--port", "9001", "--reverse", "--udp"])?;
    eventually_ok(SOON, "an echo", || ask_echo(&spoke, 9001))?;
    close(reverse)?;

    // A grant that is taken back ends what it let in.
    allow(&grant.replace("\"one\"", "\"other\""))?;
    forward.wait_for_line("the policy does not allow it any more", SOON)?;
    forward.kill()?;
    let audit = hub.audit()?.join("\n");
    for row in [
        "forward.begin one session ".to_owned(),
        format!("grant \"of one\": port/{tcp} of node one ("),
        "forward.end one session ".to_owned(),
        format!("forward.refuse one not_granted: port/{tcp} by operator (socket)"),
        "forward.refuse two not_found: port/".to_owned(),
        "forward.refuse one reverse_off_node:".to_owned(),
    ] {
        ensure!(audit.contains(&row), "{row} is not in\n{audit}");
    }
    Ok(())
}

/// Reads all, and answers once its client has no more.
fn answer_at_the_end() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::Builder::new().name("answers".to_owned()).spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all).and_then(|_| stream.write_all(&all));
        }
    })?;
    Ok(port)
}

#[test]
fn an_end_of_one_direction_passes_alone_and_a_forward_is_off_by_default() -> Result<()> {
    if !require(&[Need::Root]) {
        return Ok(());
    }
    let hub = Hub::start(&["forward.enabled=true"])?;
    let node = Node::start(&hub, None, "one")?;
    let port = answer_at_the_end()?.to_string();
    node.agent.json(&["service", "add", "7/5432", "--local", &port])?;
    let path = node.folder("policy")?.join("policy.toml");
    std::fs::write(&path, GRANTS)?;
    hub.json(&["policy", "set", &path.display().to_string()])?;
    eventually_ok(SOON, "a healthy target", || {
        let shown = hub.json(&["service", "show", "7/5432"])?;
        ensure!(text(&shown, "/targets/0/health")? == "healthy", "{shown}");
        Ok(())
    })?;
    let (forward, port) = open(&hub, &["7/5432", "0"])?;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(SOON))?;
    let sent = vec![3; 3_000_000];
    stream.write_all(&sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut got = Vec::new();
    stream.read_to_end(&mut got)?;
    ensure!(got == sent, "{} bytes came back", got.len());
    close(forward)?;

    let closed = Hub::start(&[])?;
    let done = closed.command(&["forward", "7/5432", "0"])?.run(SOON)?;
    ensure!(done.code == Some(4) && done.stderr.contains("forward.enabled is false"), "{done:?}");
    let shown: Value = json_of(&closed.command(&["policy", "get", "--output", "json"])?.run(SOON)?)?;
    ensure!(shown["sessions"] == 0, "{shown}");
    Ok(())
}
