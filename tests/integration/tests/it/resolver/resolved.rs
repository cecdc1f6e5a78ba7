//! systemd-resolved itself, in a machine with real systemd: names of the overlay from the hub, others as before, and nothing stays.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::{Lab, Launch, Need, binary, eventually_ok, require, resolved_image};

use super::{POLICY, read};
use crate::fixture::{CALL, Hub, SOON, Spoke, TUN, text};
use crate::machine::{Disk, Machine};
use crate::say::{metric, say};

/// A name of the overlay.
const NAME: &str = "s42.b7.bp.internal";

/// What the machine's own name server says of it: whoever hears this did not ask the hub.
const OWN: [u8; 4] = [198, 18, 0, 66];

/// How soon what another program told systemd-resolved is told again: 10 s, and the pace of the agent.
const AGAIN: Duration = Duration::from_secs(25);

const AGENT: &str = "/usr/local/bin/blueprint-agent";
const STATE: &str = "/var/lib/blueprint-agent";

/// A machine whose programs ask systemd-resolved, as Debian installs it.
struct Web(Machine);

impl Web {
    fn boot(lab: &Lab) -> Result<Self> {
        let image = resolved_image().context("no image")?;
        let disk = Disk::mount(lab, "web", &image)?;
        let own = read(disk.host())?;
        let own = own.lines().find_map(|line| line.strip_prefix("nameserver ")).context("no name server")?;
        disk.change(&format!(
            "install -D -m 0755 '{}' .{AGENT}; mkdir -p etc/systemd/resolved.conf.d; \
             printf '[Resolve]\\nDNS={own}\\n' >etc/systemd/resolved.conf.d/own.conf; \
             ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf",
            binary("blueprint-agent")?.display()
        ))?;
        let machine = disk.boot()?;
        machine.wait()?;
        Ok(Self(machine))
    }

    /// Runs a script in it, which has to succeed.
    fn run(&self, script: &str) -> Result<String> {
        let said = self.0.inside(&format!("{{ {script}; }} 2>&1 && echo that is done"))?;
        let done = said.trim_end().strip_suffix("that is done").map(str::to_owned);
        done.with_context(|| format!("{script}: {said}\n{}", self.log()))
    }

    fn join(&self, hub: &Hub<'_>) -> Result<()> {
        let line = hub.join_line(&[])?;
        self.run(&format!("echo '{line}' | {AGENT} join - --name web --state {STATE}")).map(drop)
    }

    /// Starts the agent as a unit of the machine, and waits until the hub's DNS answers it.
    fn start(&self, settings: &[&str]) -> Result<()> {
        let settings: Vec<_> = TUN.iter().chain(settings).flat_map(|setting| ["--set", *setting]).collect();
        let settings = settings.join(" ");
        self.run(&format!(
            "systemd-run --quiet --collect --unit=agent {AGENT} run --state {STATE} {settings}"
        ))?;
        eventually_ok(SOON, "an answer of the hub's DNS", || {
            let asked = Launch::new("dig").on(self.0.host()).args(["+short", "+tries=1", "@10.88.0.1", NAME]);
            let said = asked.run(CALL)?.stdout;
            ensure!(said.starts_with("10.88."), "{said}");
            Ok(())
        })
        .with_context(|| self.log())
    }

    fn log(&self) -> String {
        self.0.inside("journalctl --no-pager --output cat -u agent -u systemd-resolved").unwrap_or_default()
    }

    /// The IPv4 addresses that the machine's C library finds.
    fn lookup(&self, name: &str) -> Result<Vec<String>> {
        let said = self.0.inside(&format!("getent ahostsv4 {name}"))?;
        let mut found: Vec<_> =
            said.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        found.dedup();
        Ok(found)
    }

    fn finds(&self, what: &str, address: &str, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        eventually_ok(within, what, || {
            let found = self.lookup(NAME)?;
            ensure!(found == [address], "{found:?}: {}", self.0.inside("resolvectl status")?);
            Ok(began.elapsed())
        })
        .with_context(|| self.log())
    }

    /// What systemd-resolved is told, of every device, and what programs read.
    fn told(&self) -> Result<Vec<String>> {
        let said =
            self.run("resolvectl dns; resolvectl domain; resolvectl default-route; cat /etc/resolv.conf")?;
        // The number of a device is another each time.
        let named =
            |line: &str| line.split_once('(').filter(|_| line.starts_with("Link ")).map(|it| it.1.to_owned());
        Ok(said.lines().map(|line| named(line).unwrap_or_else(|| line.to_owned())).collect())
    }

    fn is_told(&self, what: &str, expected: &[String]) -> Result<()> {
        eventually_ok(SOON, what, || {
            let told = self.told()?;
            ensure!(told == expected, "{told:?} and not {expected:?}");
            Ok(())
        })
        .with_context(|| self.log())
    }
}

#[test]
fn systemd_resolved_asks_the_hub_for_names_of_the_overlay_alone_and_forgets_it() -> Result<()> {
    let needs = [
        Need::Root,
        Need::ResolvedImage,
        Need::Program("systemd-nspawn"),
        Need::Program("dig"),
        Need::Device("/dev/net/tun"),
    ];
    if !require(&needs) {
        return Ok(());
    }
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let (public, db_host) = (lab.host("hub")?, lab.host("db")?);
    lab.set_name("www.example.org", &[[198, 18, 0, 80].into()]);
    lab.set_name(NAME, &[OWN.into()]);
    let mut hub = Hub::start_on(&public, &public.address().to_string(), &["session.heartbeat=1s"])?;
    let _db = Spoke::start(&hub, Some(&db_host), "db", "7/42")?;
    let set = hub.command(&["policy", "set", "-"])?.stdin(POLICY).run(CALL)?;
    ensure!(set.code == Some(0), "{set:?}");
    let address = text(&hub.json(&["node", "show", "db"])?, "/node/address_v4")?.to_owned();
    let own = IpAddr::from(OWN).to_string();

    // Nothing is touched unasked, though the hub answers.
    let web = Web::boot(&lab)?;
    web.finds("the machine's own name server", &own, SOON)?;
    let before = web.told()?;
    web.join(&hub)?;
    web.start(&[])?;
    let unasked = web.told()?;
    let others: Vec<_> = unasked.iter().filter(|line| !line.starts_with("bp0)")).cloned().collect();
    ensure!(others == before && !unasked.concat().contains("10.88.0.1"), "touched unasked: {unasked:?}");
    ensure!(web.lookup(NAME)? == [own.as_str()], "touched unasked");
    web.run("systemctl stop agent")?;

    // Asked for, names of the overlay come from the hub, and it hears of no others.
    let way = ["resolver.way=resolved"];
    web.start(&way)?;
    let took = web.finds("the hub's answer", &address, SOON)?;
    say(format_args!("systemd-resolved asks the hub {took:.1?} after the agent could"));
    ensure!(web.lookup("www.example.org")? == ["198.18.0.80"], "other names");
    let name = web.run(&format!("getent hosts {address}"))?;
    ensure!(name.contains(" db.node.bp.internal"), "the name of an address: {name}");
    ensure!(web.lookup("s43.b7.bp.internal")?.is_empty(), "a name of the overlay that is none");
    ensure!(
        metric(&hub, "hub_dns_queries_total{result=\"not_ours\"}").is_err(),
        "the hub heard of other names"
    );

    // It is told again after it started anew, and where another program told it otherwise.
    web.run("systemctl restart systemd-resolved")?;
    web.finds("the hub's answer after a restart", &address, AGAIN)?;
    let reverted = web.run("resolvectl revert bp0; resolvectl dns bp0")?;
    ensure!(!reverted.contains("10.88.0.1"), "{reverted}");
    let took = web.finds("the hub's answer again", &address, AGAIN)?;
    say(format_args!("what another program told it otherwise stood for {took:.1?}"));

    // While the hub is away nobody waits for it.
    hub.kill()?;
    web.finds("the machine's own name server without a hub", &own, SOON)?;
    web.is_told("what it was told before", &unasked)?;
    hub.start_again()?;
    web.finds("the hub's answer once it is back", &address, SOON)?;

    // An agent that is killed leaves nothing, and the next one begins anew.
    web.run("systemctl kill --signal=KILL agent")?;
    web.finds("the machine's own name server", &own, SOON)?;
    web.is_told("nothing of a killed agent", &before)?;
    web.start(&way)?;
    web.finds("the hub's answer to the next agent", &address, SOON)?;

    web.run("systemctl stop agent")?;
    web.is_told("nothing of an agent that ended", &before)?;
    ensure!(web.lookup(NAME)? == [own.as_str()], "the hub is asked");
    let log = web.log();
    ensure!(
        log.contains("this machine asks the hub for names") && !log.contains("are not put back"),
        "{log}"
    );

    // Where programs ask others, nothing comes of it, and the log says so.
    ensure!(!log.contains("do not ask it"), "{log}");
    web.run("rm /etc/resolv.conf; cp /run/systemd/resolve/resolv.conf /etc/resolv.conf")?;
    web.start(&way)?;
    eventually_ok(SOON, "a line about it", || {
        let log = web.log();
        ensure!(log.contains("do not ask it"), "{log}");
        Ok(())
    })?;
    ensure!(web.run("resolvectl dns bp0")?.contains("10.88.0.1"), "it is not told");
    web.run("systemctl stop agent")?;
    Ok(())
}
