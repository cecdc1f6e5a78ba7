//! A machine whose owner asked that it resolves names of the overlay: by its own C library, and put back whatever happens.

mod resolved;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Host, Lab, Launch, Need, eventually_ok, require};

use crate::fixture::{Agent, CALL, Hub, Mode, SOON, Spoke, text};

const POLICY: &str = r#"
[[grant]]
name = "web uses the database"
from = ["web"]
to = ["db"]
allow = ["tcp"]
"#;

/// What programs on the host see as `/etc/resolv.conf`.
fn resolv_conf(host: &Host) -> PathBuf {
    PathBuf::from("/etc/netns").join(host.namespace()).join("resolv.conf")
}

fn read(host: &Host) -> Result<String> {
    Ok(std::fs::read_to_string(resolv_conf(host))?)
}

/// The IPv4 addresses that the C library of the host finds.
fn lookup(host: &Host, name: &str) -> Result<Vec<String>> {
    let found = Launch::new("getent").on(host).args(["ahostsv4", name]).run(CALL)?;
    let mut found: Vec<_> =
        found.stdout.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
    found.dedup();
    Ok(found)
}

#[test]
fn a_machine_resolves_names_of_the_overlay_where_its_owner_asks_and_is_put_back() -> Result<()> {
    if !require(&[Need::Device("/dev/net/tun"), Need::Program("getent"), Need::Program("dig")]) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, web_host, db_host) = (lab.host("hub")?, lab.host("web")?, lab.host("db")?);
    lab.set_name("www.example.org", &[[198, 18, 0, 80].into()]);
    let mut hub = Hub::start_on(&public, &public.address().to_string(), &["session.heartbeat=1s"])?;
    let _db = Spoke::start(&hub, Some(&db_host), "db", "7/42")?;
    let set = hub.command(&["policy", "set", "-"])?.stdin(POLICY).run(CALL)?;
    ensure!(set.code == Some(0), "{set:?}");
    let address = text(&hub.json(&["node", "show", "db"])?, "/node/address_v4")?.to_owned();
    let before = read(&web_host)?;

    // Nothing is touched unasked, and nobody can ask without a device.
    let web = Agent::join(Some(&web_host), "web", &hub.join_line(&[])?)?;
    let refused = web.command(&["run", "--set", "resolver.way=file"])?.run(CALL)?;
    ensure!(refused.code == Some(78) && refused.stderr.contains("needs tunnel.interface"), "{refused:?}");
    let mut web = Mode::MachineDevices.of_machine().iter().fold(web, |agent, setting| agent.set(setting));
    web.run()?;
    eventually_ok(SOON, "an answer of the hub's DNS", || {
        let asked =
            Launch::new("dig").on(&web_host).args(["+short", "+tries=1", "@10.88.0.1", "hub.bp.internal"]);
        ensure!(asked.run(CALL)?.stdout.trim() == "10.88.0.1");
        Ok(())
    })?;
    ensure!(read(&web_host)? == before, "touched unasked");
    web.process()?.terminate(SOON)?;

    // Asked for, names of the overlay are known, and others as before.
    let mut web = web.set("resolver.way=file");
    web.run()?;
    let known = |web: &Agent<'_>| {
        eventually_ok(SOON, "the addresses", || {
            let found = lookup(&web_host, "s42.b7.bp.internal")?;
            ensure!(found == [address.as_str()], "{found:?} with {}", read(&web_host)?);
            Ok(())
        })
        .with_context(|| web.log())
    };
    known(&web)?;
    ensure!(lookup(&web_host, "www.example.org")? == ["198.18.0.80"], "other names");
    let told = read(&web_host)?;
    ensure!(told.contains("nameserver 10.88.0.1\n") && told.ends_with(&before), "{told}");
    ensure!(std::fs::read_to_string(web.state().join("resolv.conf.before"))? == before, "no backup");

    // Killed, it leaves its block, which the next start takes out or makes its own; never two.
    web.process()?.kill()?;
    ensure!(read(&web_host)? == told, "who put it back?");
    web.run()?;
    ensure!(web.log().contains("it is taken out"), "{}", web.log());
    known(&web)?;
    ensure!(read(&web_host)? == told, "{}", read(&web_host)?);

    // While the hub is away nobody waits for it.
    hub.kill()?;
    let put_back = |what: &str| {
        eventually_ok(SOON, what, || {
            ensure!(read(&web_host)? == before, "{}", read(&web_host)?);
            Ok(())
        })
    };
    put_back("the file without a hub")?;
    hub.start_again()?;
    known(&web)?;

    // What another program writes stays, and the block is back.
    let other = format!("{before}# by another program\n");
    std::fs::write(resolv_conf(&web_host), &other)?;
    known(&web)?;
    web.process()?.terminate(SOON)?;
    ensure!(read(&web_host)? == other, "{}", read(&web_host)?);
    ensure!(!web.state().join("resolv.conf.before").exists(), "the backup stays");
    Ok(())
}
