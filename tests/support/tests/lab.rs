//! The lab does what the integration tests believe of it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::http::{Request, curl};
use blueprint_tests_support::{Fault, Host, Lab, Launch, Need, eventually_ok, require};

const SOON: Duration = Duration::from_secs(5);

/// Whether a datagram of this many bytes gets from one host to the other and back.
fn echoes(from: &Host, to: &Host, bytes: usize) -> Result<bool> {
    let there = to.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let here = from.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    for socket in [&there, &here] {
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    }
    here.send_to(&vec![7; bytes], (to.address(), there.local_addr()?.port()))?;
    let mut buffer = [0; 2048];
    let Ok((length, sender)) = there.recv_from(&mut buffer) else { return Ok(false) };
    there.send_to(buffer.get(..length).context("too long")?, sender)?;
    Ok(here.recv_from(&mut buffer).is_ok_and(|(length, _)| length == bytes))
}

#[test]
fn a_link_can_be_cut_spoiled_healed_and_renumbered() -> Result<()> {
    if !require(&[Need::Program("ethtool")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    ensure!(echoes(&a, &b, 100)?, "a new link works");
    b.cut()?;
    ensure!(!echoes(&a, &b, 100)?, "a cut link is silent");
    b.spoil(Fault::MtuHole(500))?;
    ensure!(echoes(&a, &b, 100)? && !echoes(&a, &b, 1000)?, "a hole swallows what is long");
    b.spoil(Fault::NoUdp)?;
    ensure!(!echoes(&a, &b, 100)?, "no datagram passes");
    b.spoil(Fault::Loss(0))?;
    ensure!(echoes(&a, &b, 100)?, "no loss is no loss");
    b.heal()?;
    b.heal()?;
    ensure!(echoes(&a, &b, 1000)?, "a healed link works");
    let old = b.address();
    ensure!(b.change_address()? != old && echoes(&a, &b, 100)?, "a moved host is reached at its new address");
    ensure!(
        a.connect(SocketAddr::from((old, 9)), Duration::from_millis(200)).is_err(),
        "and not at the old one"
    );
    Ok(())
}

#[test]
fn a_name_leads_to_a_service_on_another_host_and_follows_it() -> Result<()> {
    if !require(&[Need::Program("curl")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (client, server) = (lab.host("client")?, lab.host("server")?);
    let listener = server.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)))??;
    std::thread::Builder::new().spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
        }
    })?;
    let plain = Request::get("/").send_from(&client, (server.address(), 80).into(), SOON)?;
    ensure!(plain.text() == "hi", "an answer by hand");
    for _ in 0..2 {
        lab.set_name("hub.test", &[IpAddr::V4(server.address())]);
        let (status, body) = curl(Some(&client), &["http://hub.test/"], SOON)?;
        ensure!((status, body.as_str()) == (200, "hi"), "an answer by name: {status} {body}");
        server.change_address()?;
    }
    let error = curl(Some(&client), &["http://other.test/"], SOON).err().context("an unknown name")?;
    ensure!(error.to_string().contains("resolve"), "the name does not resolve: {error}");
    Ok(())
}

#[test]
fn hosts_have_nothing_of_this_machine_and_leave_nothing() -> Result<()> {
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let host = lab.host("alone")?;
    let finished = host.launch(Path::new("ip")).args(["-o", "link"]).run(SOON)?;
    ensure!(finished.stdout.lines().count() == 2, "loopback and one link: {}", finished.stdout);
    let (namespace, resolv) = (
        Path::new("/run/netns").join(host.namespace()),
        Path::new("/etc/netns").join(host.namespace()).join("resolv.conf"),
    );
    ensure!(namespace.exists() && resolv.exists(), "they are there");
    drop(host);
    ensure!(!namespace.exists() && !resolv.exists(), "they are gone");
    Ok(())
}

#[test]
fn a_process_is_followed_and_ended() -> Result<()> {
    let script = "echo ready; echo bad >&2; trap 'echo bye; exit 7' TERM; while :; do sleep 0.01; done";
    let mut process = Launch::new("sh").args(["-c", script]).start()?;
    ensure!(process.wait_for_line("ready", SOON)? == "ready", "the line itself");
    process.wait_for_line("bad", SOON)?;
    ensure!(process.is_running() && process.resident_bytes()? > 100_000, "it lives and has memory");
    ensure!(process.terminate(SOON)?.code() == Some(7), "it ends as it likes");
    process.wait_for_line("bye", SOON)?;
    ensure!(process.terminate(SOON).is_err(), "what has ended takes no signal");
    let pid = {
        let process = Launch::new("sleep").arg("1000").start()?;
        process.pid()
    };
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "a dropped process is gone");
    Ok(())
}

#[test]
fn a_process_that_ends_without_the_line_is_an_error_at_once() -> Result<()> {
    let begin = Instant::now();
    let mut process = Launch::new("sh").args(["-c", "echo oh dear; exit 3"]).start()?;
    let error = process.wait_for_line("ready", Duration::from_secs(60)).err().context("no error")?;
    ensure!(begin.elapsed() < SOON, "it did not wait");
    ensure!(error.to_string().contains("oh dear"), "the log is shown: {error}");
    Ok(())
}

#[test]
fn input_environment_and_standard_input_reach_the_program() -> Result<()> {
    let script = "read line; echo \"$line $WORD\"; echo no >&2; exit 4";
    let finished = Launch::new("sh").args(["-c", script]).env("WORD", "there").stdin("hello\n").run(SOON)?;
    ensure!(finished.code == Some(4), "its code");
    ensure!(
        (finished.stdout.as_str(), finished.stderr.as_str()) == ("hello there\n", "no\n"),
        "{finished:?}"
    );
    let mut open = Launch::new("cat").open_stdin().start()?;
    eventually_ok(SOON, "cat to run", || open.resident_bytes())?;
    open.close_stdin();
    ensure!(open.wait(SOON)?.success(), "it ends with its input");
    Ok(())
}
