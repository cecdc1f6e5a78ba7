//! What a hub and an agent with devices leave on their machines: nothing, however they end; and what they say
//! where they cannot have a device.

use std::path::Path;

use anyhow::{Result, ensure};
use blueprint_tests_support::{Finished, Host, Lab, Launch, Need, binary, eventually_ok, require};
use serde_json::Value;

use super::machine::{DEVICE, Machine, is_possible, run};
use crate::fixture::{Agent, CALL, Hub, SOON, TUN};

/// What a machine's network is made of, without our device.
fn network(host: &Host) -> Result<Vec<String>> {
    // The addresses of the lab itself settle first.
    eventually_ok(SOON, "the lab's addresses", || {
        ensure!(run(host, "ip", "-6 addr show tentative", "")?.is_empty(), "tentative");
        Ok(())
    })?;
    let mut seen = Vec::new();
    for words in [
        "-j link show",
        "-j addr show",
        "-j route show table all",
        "-j -6 route show table all",
        "-j rule show",
        "-j -6 rule show",
    ] {
        let listed: Value = serde_json::from_str(&run(host, "ip", words, "")?)?;
        let is_ours = |row: &Value| ["ifname", "dev"].iter().any(|key| row.get(key) == Some(&DEVICE.into()));
        let rows = listed.as_array().into_iter().flatten().filter(|row| !is_ours(row));
        seen.extend(rows.map(|row| format!("{words}: {row}")));
    }
    seen.push(run(host, "cat", "/etc/resolv.conf", "")?);
    let values =
        "net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv6.conf.all.forwarding net.core.rmem_max";
    seen.push(run(host, "sysctl", values, "")?);
    Ok(seen)
}

fn has_device(host: &Host) -> Result<bool> {
    Ok(run(host, "ip", "-j link show", "")?.contains(&format!("\"{DEVICE}\"")))
}

fn ensure_as_before(host: &Host, before: &[String], when: &str) -> Result<()> {
    ensure!(!has_device(host)?, "{when}: the device is still there");
    ensure_same(host, before, when)
}

/// Nothing but the device differs.
fn ensure_same(host: &Host, before: &[String], when: &str) -> Result<()> {
    let now = network(host)?;
    let new: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let gone: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    ensure!(new.is_empty() && gone.is_empty(), "{when}: new {new:#?}, gone {gone:#?}");
    Ok(())
}

#[test]
fn nothing_is_left_behind_and_nothing_else_is_touched() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let before = [network(&hosts[0])?, network(&hosts[1])?];
    let mut hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &TUN)?;
    let mut machine = Machine::start(&hub, &hosts[1], "one")?;
    for (host, before) in hosts.iter().zip(&before) {
        ensure!(has_device(host)?, "no device");
        ensure_same(host, before, "while it runs")?;
    }

    ensure!(machine.agent.process()?.terminate(SOON)?.success(), "{}", machine.agent.log());
    ensure_as_before(&hosts[1], &before[1], "agent ended by SIGTERM")?;
    machine.agent.run()?;
    machine.agent.process()?.kill()?;
    ensure_as_before(&hosts[1], &before[1], "agent ended by SIGKILL")?;
    machine.agent.run()?;
    hub.kill()?;
    ensure_as_before(&hosts[0], &before[0], "hub ended by SIGKILL")?;
    hub.start_again()?;
    machine.wait_until_ready()?;
    ensure!(hub.process.terminate(SOON)?.success(), "{}", hub.log());
    ensure_as_before(&hosts[0], &before[0], "hub ended by SIGTERM")?;

    // What fails after the device was made takes it away again.
    let busy = hosts[0].enter(|| std::net::TcpListener::bind(("127.0.0.1", 7777)))??;
    let failed = hub.another()?.args(["--set", "control.listen=127.0.0.1:7777"]).run(CALL)?;
    ensure!(failed.code != Some(0) && failed.stderr.contains("network device is up"), "{failed:?}");
    ensure_as_before(&hosts[0], &before[0], "hub that could not start")?;
    drop(busy);
    ensure!(machine.agent.process()?.terminate(SOON)?.success(), "{}", machine.agent.log());
    let _busy = hosts[1].enter(|| std::net::TcpListener::bind(("127.0.0.1", 7777)))??;
    let failed = with_device(&machine.agent, "observe.listen=127.0.0.1:7777")?.run(CALL)?;
    ensure!(failed.code == Some(5) && failed.stderr.contains("network device is up"), "{failed:?}");
    ensure_as_before(&hosts[1], &before[1], "agent that could not start")
}

/// `run` with a device and one more setting.
fn with_device(agent: &Agent<'_>, setting: &str) -> Result<Launch> {
    let launch = agent.command(&["run", "--set", "observe.listen=off"])?;
    let launch = TUN.iter().fold(launch, |launch, setting| launch.args(["--set", setting]));
    Ok(launch.args(["--set", setting]))
}

/// Ended with this code, and said both on lines of their own.
fn ensure_says(finished: &Finished, code: i32, error: &str, hint: &str) -> Result<()> {
    let line = |start: &str, words: &str| {
        finished.stderr.lines().any(|line| line.starts_with(start) && line.contains(words))
    };
    ensure!(finished.code == Some(code), "{finished:?}");
    ensure!(line("error: ", error) && line("hint: ", hint), "{error:?}, {hint:?}: {finished:?}");
    Ok(())
}

/// Hub and agent, each with a device wanted, started by `wrapper`; both have to fail in the same words.
fn both_say(
    scene: (&Hub<'_>, &Agent<'_>, [&Host; 2]),
    wrapper: &[&str],
    settings: &[&str],
    (code, error, hint): (i32, &str, &str),
) -> Result<()> {
    let (hub, agent, hosts) = scene;
    let commands = [("blueprint-hub", "serve", hub.state()), ("blueprint-agent", "run", agent.state())];
    for ((program, command, state), host) in commands.into_iter().zip(hosts) {
        let program = binary(program)?;
        let launch = match wrapper.split_first() {
            Some((first, rest)) => host.launch(Path::new(first)).args(rest).arg(program),
            None => host.launch(&program),
        };
        let launch = launch.arg(command).arg("--state").arg(state);
        let all = TUN.iter().chain(settings);
        let finished = all.fold(launch, |launch, setting| launch.args(["--set", setting])).run(CALL)?;
        ensure_says(&finished, code, error, hint)?;
    }
    Ok(())
}

#[test]
fn where_there_can_be_no_device_error_and_hint_say_why() -> Result<()> {
    let needs = [Need::Program("setpriv"), Need::Program("unshare")];
    let Some(lab) = Lab::new()?.filter(|_| is_possible() && require(&needs)) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    let mut hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &[])?;
    let agent = Agent::join(Some(&hosts[1]), "one", &hub.join_line(&[])?)?;
    ensure!(hub.process.terminate(SOON)?.success(), "{}", hub.log());
    let before = [network(&hosts[0])?, network(&hosts[1])?];
    let scene = (&hub, &agent, [&hosts[0], &hosts[1]]);

    let hidden = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\""];
    both_say(scene, &hidden, &[], (6, "/dev/net/tun is missing", "modprobe tun"))?;
    let bare = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    both_say(scene, &bare, &[], (4, "not allowed to make the interface bp0", "CAP_NET_ADMIN"))?;
    let name = ["tunnel.interface_name=no good"];
    both_say(scene, &[], &name, (78, "\"no good\" cannot be the name", "tunnel.interface_name"))?;
    for (host, before) in hosts.iter().zip(&before) {
        ensure_as_before(host, before, "after no device came about")?;
        run(host, "ip", "tuntap add dev bp0 mode tun", "")?;
    }
    both_say(scene, &[], &[], (5, "an interface bp0 exists", "tunnel.interface_name"))?;
    for host in &hosts {
        run(host, "ip", "tuntap del dev bp0 mode tun", "")?;
        run(host, "ip", "route add 10.88.7.0/24 dev eth0", "")?;
    }
    let shared = "the overlay 10.88.0.0/16 and 10.88.7.0/24, which is behind eth0, share addresses";
    both_say(scene, &[], &[], (5, shared, "overlay_v4"))?;
    for host in &hosts {
        ensure!(!has_device(host)?, "a device is left");
        run(host, "ip", "route del 10.88.7.0/24 dev eth0", "")?;
    }
    Ok(())
}

#[test]
fn machines_without_ipv6_have_an_overlay_of_ipv4() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let hosts = [lab.host("hub")?, lab.host("one")?];
    for host in &hosts {
        run(host, "sysctl", "-w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1", "")?;
    }
    let hub = Hub::start_on(&hosts[0], &hosts[0].address().to_string(), &TUN)?;
    let machine = Machine::start(&hub, &hosts[1], "one")?;
    for (host, to) in [(&hosts[1], "10.88.0.1".to_owned()), (&hosts[0], machine.v4.to_string())] {
        run(host, "ping", &format!("-c 3 -i 0.1 -W 5 {to}"), "")?;
    }
    for log in [hub.log(), machine.agent.log()] {
        ensure!(log.contains("left out: IPv6 is off"), "{log}");
    }
    Ok(())
}

#[test]
fn a_name_with_a_number_takes_the_first_that_is_free() -> Result<()> {
    let Some(lab) = Lab::new()?.filter(|_| is_possible()) else { return Ok(()) };
    let host = lab.host("hub")?;
    for taken in ["ov0", "ov1"] {
        run(&host, "ip", &format!("tuntap add dev {taken} mode tun"), "")?;
    }
    let advertise = host.address().to_string();
    let settings = ["tunnel.interface=tun", "tunnel.interface_name=ov%d"];
    let mut hub = Hub::start_on(&host, &advertise, &settings)?;
    ensure!(hub.log().contains("interface=\"ov2\""), "{}", hub.log());
    let shown = run(&host, "ip", "-j addr show dev ov2", "")?;
    ensure!(shown.contains("\"10.88.0.1\""), "{shown}");
    ensure!(hub.process.terminate(SOON)?.success(), "{}", hub.log());
    let links = run(&host, "ip", "-j link show", "")?;
    ensure!(links.contains("\"ov1\"") && !links.contains("\"ov2\""), "{links}");
    Ok(())
}
