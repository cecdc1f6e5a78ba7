//! From machine to machine through the hub: what the policy grants passes, and stops when it is taken back.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use blueprint_tests_support::{Host, Lab, Need, eventually_ok, require};

use super::machine::{Machine, is_possible, places};
use crate::fixture::{CALL, Hub, SOON, TUN};
use crate::say::{metric, pass, say};

const GRANTS: &str = r#"
[[grant]]
name = "web to db"
from = ["web"]
to = ["db"]
allow = ["tcp/5432", "udp/5353", "icmp"]
"#;

/// Longest time from a change of the policy to its effect.
const HOLDS: Duration = Duration::from_secs(2);

/// Longest wait for what must not come.
const NEVER: Duration = Duration::from_millis(700);

/// Time between two pieces of a running flow.
const PACE: Duration = Duration::from_millis(20);

/// Sends back what comes on each connection to `address` of a host, until the test's process ends.
pub(crate) fn echo(host: &Host, address: SocketAddr) -> Result<JoinHandle<()>> {
    let listener =
        host.enter(|| TcpListener::bind(address))?.with_context(|| format!("cannot bind {address}"))?;
    let serve = move |mut stream: TcpStream| {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(buffer.get(..length).unwrap_or_default()).is_err() {
                return;
            }
        }
    };
    let work = move || {
        for stream in listener.incoming().flatten() {
            // The test ends before they matter.
            drop(Builder::new().name("echo".to_owned()).spawn(move || serve(stream)));
        }
    };
    Ok(Builder::new().name("echo-listener".to_owned()).spawn(work)?)
}

/// One question and its answer over a new connection.
fn asks(from: &Host, to: SocketAddr, within: Duration) -> Result<()> {
    let mut stream = from.connect(to, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.write_all(b"question")?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer)?;
    ensure!(&answer == b"question", "{answer:?}");
    Ok(())
}

/// One datagram there and, where `answered`, one back.
fn exchanges(from: &Host, own: IpAddr, to: &UdpSocket, answered: bool) -> Result<()> {
    let socket = from.enter(|| UdpSocket::bind(SocketAddr::new(own, 0)))??;
    socket.set_read_timeout(Some(NEVER))?;
    to.set_read_timeout(Some(NEVER))?;
    let mut buffer = [0; 16];
    socket.send_to(b"there", to.local_addr()?)?;
    let (length, back) = to.recv_from(&mut buffer).context("nothing came")?;
    ensure!(buffer.get(..length) == Some(b"there") && back.ip() == own, "{buffer:?} from {back}");
    if answered {
        to.send_to(b"and back", back)?;
        let (length, _) = socket.recv_from(&mut buffer).context("no answer came")?;
        ensure!(buffer.get(..length) == Some(b"and back"), "{buffer:?}");
    }
    Ok(())
}

/// Whether an ICMP echo is answered.
fn pings(from: &Host, to: IpAddr) -> Result<bool> {
    let launch = from.launch("ping".as_ref()).args(["-c", "1", "-W", "1", &to.to_string()]);
    Ok(launch.run(CALL)?.code == Some(0))
}

/// Replaces the policy.
pub(crate) fn set_policy(hub: &Hub<'_>, document: &str) -> Result<()> {
    let set = hub.command(&["policy", "set", "-"])?.stdin(document).run(CALL)?;
    ensure!(set.code == Some(0), "{set:?}");
    Ok(())
}

/// A connection that is never silent, and when its last bytes came back.
pub(crate) struct Running {
    stop: Sender<()>,
    came: Receiver<Instant>,
    writer: JoinHandle<()>,
}

impl Running {
    /// Opens it, and waits for its first bytes.
    pub(crate) fn start(from: &Host, to: SocketAddr) -> Result<Self> {
        let mut down = from.connect(to, CALL)?;
        down.set_nodelay(true)?;
        let mut up = down.try_clone()?;
        let ((stop, stopped), (note, came)) = (channel::<()>(), channel());
        let writer = Builder::new().name("running".to_owned()).spawn(move || {
            while stopped
                .recv_timeout(PACE)
                .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
                && up.write_all(&[7; 100]).is_ok()
            {}
            let _ = up.shutdown(std::net::Shutdown::Both);
        })?;
        Builder::new().name("running-down".to_owned()).spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(1..) = down.read(&mut buffer) {
                if note.send(Instant::now()).is_err() {
                    return;
                }
            }
        })?;
        let running = Self { stop, came, writer };
        running.wait_until_it_moves(CALL)?;
        Ok(running)
    }

    /// Waits until bytes come from now on.
    pub(crate) fn wait_until_it_moves(&self, within: Duration) -> Result<Instant> {
        self.came.try_iter().for_each(drop);
        self.came.recv_timeout(within).map_err(|_| anyhow!("nothing came back for {within:?}"))
    }

    /// Waits until nothing has come for a while; the last time that something did.
    /// When the first bytes came after a moment.
    pub(crate) fn first_move_after(&self, moment: Instant, within: Duration) -> Result<Instant> {
        loop {
            let at = self.came.recv_timeout(within).map_err(|_| anyhow!("nothing came for {within:?}"))?;
            if at >= moment {
                return Ok(at);
            }
        }
    }

    fn wait_until_it_stands(&self) -> Option<Instant> {
        let mut last = None;
        while let Ok(at) = self.came.recv_timeout(NEVER) {
            last = Some(at);
        }
        last
    }

    /// Ends it.
    pub(crate) fn finish(self) -> Result<()> {
        drop(self.stop);
        self.writer.join().map_err(|_| anyhow!("the sender panicked"))
    }
}

/// What is denied without a grant, in both families and both directions.
fn ensure_apart(web: &Machine<'_>, db: &Machine<'_>) -> Result<()> {
    for (from, to) in [(web, db), (db, web)] {
        for address in [IpAddr::V4(to.v4), IpAddr::V6(to.v6)] {
            ensure!(!pings(from.host, address)?, "{address} answers an echo");
            let reached = asks(from.host, SocketAddr::new(address, 5432), NEVER);
            ensure!(reached.is_err(), "{address} is reached");
        }
    }
    Ok(())
}

fn between_machines(settings: &[&str]) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible() && require(&[Need::Program("ping")])) else {
        return Ok(());
    };
    let hosts = [lab.host("hub")?, lab.host("web")?, lab.host("db")?];
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), settings)?;
    let (web, db) = (Machine::start(&hub, &hosts[1], "web")?, Machine::start(&hub, &hosts[2], "db")?);
    for address in [web.v4.into(), web.v6.into(), db.v4.into(), IpAddr::V6(db.v6)] {
        let host =
            if address == IpAddr::V4(web.v4) || address == IpAddr::V6(web.v6) { web.host } else { db.host };
        for port in [5432, 5433] {
            echo(host, SocketAddr::new(address, port))?;
        }
    }
    ensure_apart(&web, &db)?;
    ensure!(metric(&hub, "hub_tunnel_relayed_packets_total")? == 0, "nothing is passed on without a grant");

    set_policy(&hub, GRANTS)?;
    for (own, to) in [(IpAddr::V4(web.v4), IpAddr::V4(db.v4)), (web.v6.into(), db.v6.into())] {
        eventually_ok(HOLDS, "the grant", || asks(web.host, SocketAddr::new(to, 5432), NEVER))?;
        ensure!(pings(web.host, to)?, "no echo from {to}");
        ensure!(!pings(db.host, own)?, "the grant has one direction");
        ensure!(asks(web.host, SocketAddr::new(to, 5433), NEVER).is_err(), "another port of {to}");
        ensure!(asks(db.host, SocketAddr::new(own, 5432), NEVER).is_err(), "the other direction");
        let bound = |host: &Host, ip| host.enter(move || UdpSocket::bind(SocketAddr::new(ip, 5353)));
        let (at_db, at_web) = (bound(db.host, to)??, bound(web.host, own)??);
        exchanges(web.host, own, &at_db, true)?;
        ensure!(exchanges(db.host, to, &at_web, false).is_err(), "UDP that nobody asked for");
    }
    revoked_under_way(&hub, &web, &db)
}

/// A running connection stands still once its grant is gone, and goes on when it is back.
fn revoked_under_way(hub: &Hub<'_>, web: &Machine<'_>, db: &Machine<'_>) -> Result<()> {
    for to in [IpAddr::V4(db.v4), IpAddr::V6(db.v6)] {
        let running = Running::start(web.host, SocketAddr::new(to, 5432))?;
        let began = Instant::now();
        set_policy(hub, "")?;
        let last =
            running.wait_until_it_stands().map_or(Duration::ZERO, |at| at.saturating_duration_since(began));
        ensure!(last < HOLDS, "bytes came for {last:?} after the grant was gone");
        pass(NEVER)?;
        ensure!(running.came.try_iter().next().is_none(), "it came back by itself");
        set_policy(hub, GRANTS)?;
        let back = running.wait_until_it_moves(SOON)?.saturating_duration_since(began);
        say(format_args!(
            "{to}: the last bytes came {last:.3?} after the command, new ones after {back:.1?}"
        ));
        running.finish()?;
    }
    Ok(())
}

#[test]
fn grants_between_machines_with_a_hub_that_has_a_device() -> Result<()> {
    between_machines(&TUN)
}

#[test]
fn grants_between_machines_with_a_hub_that_has_none() -> Result<()> {
    between_machines(&[])
}

/// Programs of a machine see its agent's refusal as what it is: nothing answers, and nothing hangs for ever.
#[test]
fn a_machine_that_is_removed_is_cut_from_its_neighbours_within_two_seconds() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("web")?, lab.host("db")?];
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &TUN)?;
    let (mut web, db) = (Machine::start(&hub, &hosts[1], "web")?, Machine::start(&hub, &hosts[2], "db")?);
    let to = SocketAddr::new(db.v4.into(), 5432);
    echo(db.host, to)?;
    set_policy(&hub, GRANTS)?;
    let running = Running::start(web.host, to)?;
    let began = Instant::now();
    hub.json(&["node", "rm", "web"])?;
    let last =
        running.wait_until_it_stands().map_or(Duration::ZERO, |at| at.saturating_duration_since(began));
    ensure!(last < HOLDS, "bytes came for {last:?} after it was removed");
    ensure!(web.agent.process()?.wait(SOON)?.code() == Some(4), "it ends as denied");
    let refused = web.host.connect(to, NEVER).err().map(|error| error.root_cause().to_string());
    ensure!(refused.is_some(), "without an agent there is no overlay");
    say(format_args!("removed: the last bytes came {last:.3?} after the command"));
    running.finish()
}

/// Only TCP port `open` of the hub's own machine is reached, and UDP where there is one; what the hub begins is
/// answered, whatever may be begun with it.
fn of_the_hub_itself(to_hub: &str, open: Option<u16>) -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible() && require(&[Need::Program("ping")])) else {
        return Ok(());
    };
    let hosts = [lab.host("hub")?, lab.host("web")?];
    let settings = [&TUN[..], &[to_hub]].concat();
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &settings)?;
    let web = Machine::start(&hub, &hosts[1], "web")?;
    for (own, to) in [IpAddr::V4(web.v4), web.v6.into()].into_iter().zip(places(&web.agent, "hub")?) {
        for port in [5432, 5433] {
            echo(&hosts[0], SocketAddr::new(to, port))?;
            let reached = asks(web.host, SocketAddr::new(to, port), NEVER);
            ensure!(reached.is_ok() == (open == Some(port)), "{to} port {port}: {reached:?}");
        }
        let at_hub = hosts[0].enter(move || UdpSocket::bind(SocketAddr::new(to, 5353)))??;
        let came = exchanges(web.host, own, &at_hub, true);
        ensure!(came.is_ok() == open.is_some(), "UDP to {to}: {came:?}");
        ensure!(pings(web.host, to)?, "no echo from {to}");

        echo(web.host, SocketAddr::new(own, 5434))?;
        asks(&hosts[0], SocketAddr::new(own, 5434), CALL)?;
        let at_web = web.host.enter(move || UdpSocket::bind(SocketAddr::new(own, 5355)))??;
        exchanges(&hosts[0], to, &at_web, true)?;
    }
    ensure!(metric(&hub, "hub_tunnel_datagrams_dropped_total{reason=\"denied\"}")? > 0, "it is counted");
    Ok(())
}

#[test]
fn a_machine_reaches_nothing_of_the_hub_itself_by_default() -> Result<()> {
    of_the_hub_itself("tunnel.to_hub=none", None)
}

#[test]
fn a_machine_reaches_of_the_hub_itself_what_the_configuration_opens() -> Result<()> {
    of_the_hub_itself("tunnel.to_hub=udp,tcp/5433", Some(5433))
}
