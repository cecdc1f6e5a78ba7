//! Every way that a machine's first boot can go, in machines with real systemd and cloud-init, before a real hub.
//!
//! What is missing in the table is elsewhere: a machine that the hub orders, and one whose hub is nowhere, in [`crate::local_vm`];
//! a guest of QEMU there, too; one whose cloud vouches for it in [`crate::identity`]; one without cloud-init in [`crate::ssh`];
//! containers in [`crate::docker_machines`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use blueprint_common_types::workload::Sha256Digest;
use blueprint_common_types::{JoinLine, Secret};
use blueprint_hub_bootstrap_core::{AgentArch, Bootstrap};
use blueprint_tests_support::{
    Fault, Host, Lab, Launch, Need, Process, binary, eventually_ok, local_vm_image, require, scratch,
};
use serde_json::Value;

use crate::certificate::self_signed;
use crate::fixture::{Agent, CALL, Hub, SOON, rows, text};
use crate::machine::{BOOT, Disk, Machine};
use crate::say::say;

/// How long a machine of this test that cannot join tries to, in seconds.
const SHORT: u64 = 8;

/// The same for one that joins in the end, on a busy host.
const LONG: u64 = 120;

/// Port of the hub's host where another program is given out as the agent.
const LIAR: u16 = 9999;

/// Where the agent lies in a machine.
const AGENT: &str = "usr/local/bin/blueprint-agent";

/// Where cloud-init finds the user data.
const SEED: &str = "var/lib/cloud/seed/nocloud";

/// One way: what is special before the machine is switched on, and what happens then.
struct Way<'h> {
    name: &'static str,
    prepare: fn(&mut Order<'h>) -> Result<()>,
    then: fn(&mut Booted<'h>) -> Result<()>,
}

fn ways<'h>() -> [Way<'h>; 12] {
    [
        Way { name: "fetched", prepare: |_| Ok(()), then: Booted::joins },
        Way { name: "preinstalled", prepare: Order::preinstall, then: Booted::joins },
        Way { name: "otherdigest", prepare: Order::name_another_agent, then: Booted::takes_no_other_agent },
        Way { name: "liar", prepare: Order::fetch_from_a_liar, then: Booted::takes_nothing_from_a_liar },
        Way { name: "expired", prepare: Order::let_the_token_expire, then: Booted::is_refused },
        Way { name: "used", prepare: Order::have_another_use_the_token, then: Booted::is_refused },
        Way { name: "nofirewall", prepare: Order::remove_firewalls, then: Booted::does_not_join_in_the_open },
        Way { name: "latehub", prepare: Order::cut, then: Booted::joins_once_the_hub_is_reached },
        Way { name: "fulldisk", prepare: |_| Ok(()), then: Booted::joins_once_there_is_room },
        Way { name: "twice", prepare: |_| Ok(()), then: Booted::stays_itself_when_cloud_init_runs_again },
        Way { name: "noipv6", prepare: Order::take_ipv6_away, then: Booted::joins },
        Way { name: "noudp", prepare: Order::block_udp, then: Booted::joins_by_tls },
    ]
}

/// A machine that is not switched on.
struct Order<'a> {
    hub: &'a Hub<'a>,
    disk: Disk,
    line: JoinLine,
    told: Bootstrap,
    agent: PathBuf,
}

impl Order<'_> {
    fn preinstall(&mut self) -> Result<()> {
        self.told.url = Secret::new("https://127.0.0.1:1/agent/none/none".to_owned());
        let agent = self.agent.display();
        self.disk.change(&format!("install -D -m 0755 '{agent}' {AGENT}"))
    }

    fn name_another_agent(&mut self) -> Result<()> {
        let another = "ab".repeat(32).parse().ok().context("a digest")?;
        self.told.agents = BTreeMap::from([(AgentArch::X86_64, another)]);
        self.told.within_secs = SHORT;
        Ok(())
    }

    /// Somebody else answers where the hub should.
    fn fetch_from_a_liar(&mut self) -> Result<()> {
        self.told.url = Secret::new(format!("https://{}:{LIAR}/agent", self.line.host));
        self.told.within_secs = SHORT;
        Ok(())
    }

    fn let_the_token_expire(&mut self) -> Result<()> {
        self.preinstall()?;
        self.told.within_secs = SHORT;
        self.line = line(self.hub, &["--ttl", "1s"])?;
        self.told.join_line = self.line.expose_text();
        let id = self.line.token.id().to_string();
        eventually_ok(SOON, "a token that has expired", || {
            let listed = self.hub.json(&["token", "ls"])?;
            let is_it = |row: &&Value| row.pointer("/id") == Some(&id.as_str().into());
            let row = rows(&listed, "/tokens")?.iter().find(is_it).context("no such token")?;
            ensure!(text(row, "/state")? == "expired", "{row}");
            Ok(())
        })
    }

    fn have_another_use_the_token(&mut self) -> Result<()> {
        self.preinstall()?;
        self.told.within_secs = SHORT;
        let line = self.line.expose_text();
        Agent::join(Some(self.disk.host()), "thief", line.expose()).map(drop)
    }

    fn remove_firewalls(&mut self) -> Result<()> {
        self.told.within_secs = SHORT;
        self.disk.change("rm -f usr/sbin/nft usr/sbin/iptables* usr/sbin/ip6tables*; rm -f usr/bin/apt-get")
    }

    fn cut(&mut self) -> Result<()> {
        self.disk.host().cut()
    }

    fn take_ipv6_away(&mut self) -> Result<()> {
        let name = self.disk.host().namespace();
        let off = ["netns", "exec", name, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"];
        let done = Launch::new("ip").args(off).arg("net.ipv6.conf.default.disable_ipv6=1").run(CALL)?;
        ensure!(done.code == Some(0), "{}", done.stderr);
        Ok(())
    }

    fn block_udp(&mut self) -> Result<()> {
        self.disk.host().spoil(Fault::NoUdp)
    }

    /// Lays the user data where cloud-init looks, and switches it on.
    fn boot(self) -> Result<Machine> {
        let seed = self.disk.folder().join("seed");
        std::fs::create_dir_all(&seed)?;
        let name = &self.told.name;
        std::fs::write(seed.join("user-data"), self.told.cloud_config()?.expose())?;
        std::fs::write(seed.join("meta-data"), format!("instance-id: {name}\nlocal-hostname: {name}\n"))?;
        self.disk.change(&format!(
            "rm -f etc/cloud/cloud-init.disabled; mkdir -p {SEED}; cp -r '{}'/* {SEED}; chmod 600 {SEED}/*; \
             echo 'network: {{config: disabled}}' >etc/cloud/cloud.cfg.d/99-network.cfg",
            seed.display()
        ))?;
        self.disk.boot()
    }
}

/// A machine that boots.
struct Booted<'a> {
    hub: &'a Hub<'a>,
    machine: Machine,
    name: &'a str,
}

impl Booted<'_> {
    fn node(&self) -> Result<Value> {
        let listed = self.hub.json(&["node", "ls"])?;
        let nodes =
            rows(&listed, "/nodes")?.iter().filter(|row| row.pointer("/name") == Some(&self.name.into()));
        let [node] = nodes.collect::<Vec<_>>()[..] else {
            anyhow::bail!("no node {} in {listed}", self.name)
        };
        Ok(node.clone())
    }

    fn journal(&self) -> Result<String> {
        self.machine.inside("journalctl --no-pager --output cat -u blueprint-bootstrap -u blueprint-firewall -u blueprint-agent")
    }

    /// It is a node, and what it joined with is nowhere any more.
    fn joins(&mut self) -> Result<()> {
        eventually_ok(BOOT, "a node that is up", || {
            let node = self.node()?;
            ensure!(text(&node, "/state")? == "up", "{node}");
            Ok(())
        })?;
        eventually_ok(SOON, "the end of the bootstrap", || {
            let left = self.machine.inside("ls /etc/blueprint-agent; systemctl is-active blueprint-agent")?;
            ensure!(
                !left.contains("join") && !left.contains("bootstrap.env") && left.contains("active"),
                "{left}"
            );
            Ok(())
        })?;
        self.has_no_token()
    }

    fn has_no_token(&self) -> Result<()> {
        let upper = self.machine.folder().join("upper");
        let found = Launch::new("grep")
            .args(["--recursive", "--files-with-matches", "bpj_[0-9a-f]\\{16\\}_"])
            .args([upper.join("etc"), upper.join("var")])
            .run(SOON)?;
        ensure!(found.stdout.is_empty(), "a join token is in {}", found.stdout);
        Ok(())
    }

    /// It tries as long as it may, wipes what it was to join with, and switches itself off.
    fn gives_up(&mut self, words: &str) -> Result<()> {
        let mut journal = String::new();
        let said = eventually_ok(BOOT, &format!("the words {words:?}"), || {
            // Of one that has ended nothing can be asked.
            if self.machine.is_running() {
                journal = self.journal()?;
            }
            ensure!(journal.contains(words), "{journal}");
            Ok(())
        });
        said.with_context(|| self.machine.log())?;
        self.machine.wait_end(BOOT)?;
        ensure!(self.node().is_err(), "it joined");
        self.has_no_token()
    }

    fn takes_no_other_agent(&mut self) -> Result<()> {
        self.gives_up("404")?;
        self.has_no_agent()
    }

    fn takes_nothing_from_a_liar(&mut self) -> Result<()> {
        self.gives_up("what was fetched is not the agent that the hub named")?;
        self.has_no_agent()
    }

    fn has_no_agent(&self) -> Result<()> {
        let there = |ending: &str| self.machine.folder().join(format!("upper/{AGENT}{ending}")).exists();
        ensure!(!there("") && !there(".part"), "an agent, or a part of one, lies in the machine");
        Ok(())
    }

    fn is_refused(&mut self) -> Result<()> {
        self.gives_up("token")
    }

    fn does_not_join_in_the_open(&mut self) -> Result<()> {
        self.gives_up("neither nft nor iptables is installed")?;
        self.has_no_agent()
    }

    fn joins_once_the_hub_is_reached(&mut self) -> Result<()> {
        eventually_ok(BOOT, "a first try that failed", || {
            let journal = self.journal()?;
            ensure!(journal.contains("curl"), "{journal}");
            Ok(())
        })?;
        ensure!(self.node().is_err(), "it joined over a link that is cut");
        self.machine.host().heal()?;
        self.joins()
    }

    fn joins_once_there_is_room(&mut self) -> Result<()> {
        eventually_ok(BOOT, "a first try that failed", || {
            let journal = self.journal()?;
            ensure!(journal.contains("curl"), "{journal}");
            Ok(())
        })?;
        let part = self.machine.folder().join(format!("upper/{AGENT}"));
        ensure!(self.node().is_err() && !part.exists(), "it joined without room for its agent");
        self.machine.grow("600m")?;
        self.joins()
    }

    /// Clouds keep the user data, and an image may be told to run it again: the node stays the one that it is.
    fn stays_itself_when_cloud_init_runs_again(&mut self) -> Result<()> {
        self.joins()?;
        let before = self.node()?;
        let again = format!(
            "cp -r '{}'/* '{}'",
            self.machine.folder().join("seed").display(),
            self.machine.root().join(SEED).display()
        );
        ensure!(
            Launch::new("sh").args(["-c", &again]).run(CALL)?.code == Some(0),
            "the seed is not put back"
        );
        let said = self.machine.inside_within(
            "cloud-init clean; cloud-init init --local && cloud-init init && cloud-init modules --mode config && \
             cloud-init modules --mode final && echo all done",
            BOOT,
        )?;
        ensure!(said.contains("all done"), "{said}");
        self.joins()?;
        let after = self.node()?;
        for field in ["/id", "/wireguard_key", "/joined_at"] {
            ensure!(after.pointer(field) == before.pointer(field), "{before}\n{after}");
        }
        Ok(())
    }

    fn joins_by_tls(&mut self) -> Result<()> {
        self.joins()?;
        eventually_ok(SOON, "the carrier that gets through", || {
            let node = self.node()?;
            ensure!(text(&node, "/tunnel/carrier")? == "tls", "{node}");
            Ok(())
        })
    }
}

fn line(hub: &Hub<'_>, options: &[&str]) -> Result<JoinLine> {
    Ok(hub.join_line(options)?.parse()?)
}

/// What the hub tells a machine of this name.
fn told(name: &str, line: &JoinLine, agent: Sha256Digest) -> Bootstrap {
    let (id, ticket) = (line.token.id(), line.token.hash().ticket());
    let url = format!("https://{}:{}/agent/{id}/{}", line.host, line.port, ticket.expose());
    Bootstrap {
        name: name.to_owned(),
        join_line: line.expose_text(),
        identity: None,
        agents: BTreeMap::from([(AgentArch::X86_64, agent)]),
        url: Secret::new(url),
        within_secs: LONG,
        powers_off: true,
        by_cloud_init: true,
        has_devices: true,
        allows_unlimited: false,
    }
}

/// One machine from its user data to its end.
fn go<'h>(way: &Way<'h>, mut order: Order<'h>) -> Result<()> {
    let began = Instant::now();
    (way.prepare)(&mut order)?;
    let hub = order.hub;
    let mut booted = Booted { hub, machine: order.boot()?, name: way.name };
    let gone = (way.then)(&mut booted);
    gone.with_context(|| {
        let journal = booted.journal().unwrap_or_default();
        format!("the machine's journal:\n{journal}\nthe hub logged:\n{}", hub.log())
    })?;
    say(format_args!("{}: {:.1?}", way.name, began.elapsed()));
    Ok(())
}

/// Gives out something else under the agent's digest.
fn liar(host: &Host, folder: &Path, digest: &str) -> Result<Process> {
    std::fs::create_dir_all(folder.join("agent"))?;
    std::fs::write(folder.join("agent").join(digest), "#!/bin/sh\ntouch /taken\n")?;
    self_signed("liar", None, &folder.join("key.pem"), &folder.join("cert.pem"))?;
    let serve = ["s_server", "-WWW", "-quiet", "-key", "key.pem", "-cert", "cert.pem", "-accept"];
    host.launch(Path::new("openssl")).args(serve).arg(LIAR.to_string()).folder(folder).start()
}

#[test]
fn a_machines_first_boot_ends_as_it_should_whatever_is_in_its_way() -> Result<()> {
    let needs = [
        Need::Root,
        Need::LocalVmImage,
        Need::Program("systemd-nspawn"),
        Need::Program("sysctl"),
        Need::Program("openssl"),
        Need::Device("/dev/net/tun"),
    ];
    if !require(&needs) {
        return Ok(());
    }
    let image = local_vm_image().context("no image")?;
    let Some(lab) = Lab::new()? else { return Ok(()) };
    let host = lab.host("hub")?;
    // A hub that orders no machines has no agent for them.
    let provider = format!("providers.local_vm.image={}", image.display());
    let settings =
        ["session.heartbeat=1s", "tunnel.carrier_listen=off", "providers.local_vm.enabled=true", &provider];
    let hub = Hub::start_on(&host, &host.address().to_string(), &settings)?;
    let agent = binary("blueprint-agent")?;
    let digest = Launch::new("sha256sum").arg(&agent).run(SOON)?.stdout;
    let digest = digest.split(' ').next().unwrap_or_default();
    let digest: Sha256Digest = digest.parse().map_err(|_| anyhow!("sha256sum said {digest:?}"))?;
    let lies = scratch("liar")?;
    let _liar = liar(&host, lies.path(), &digest.to_string())?;
    let mut failures = Vec::new();
    // One way alone, for whoever looks for what is wrong with it.
    let alone = std::env::var("BLUEPRINT_TEST_WAY").ok();
    let ways: Vec<_> =
        ways().into_iter().filter(|way| alone.as_deref().is_none_or(|name| name == way.name)).collect();
    for pair in ways.chunks(2) {
        let mut orders = Vec::new();
        for way in pair {
            let room = (way.name == "fulldisk").then_some("48m");
            let disk = Disk::mount_within(&lab, way.name, &image, room)?;
            let line = line(&hub, &[])?;
            let told = told(way.name, &line, digest);
            orders.push((way, Order { hub: &hub, disk, line, told, agent: agent.clone() }));
        }
        // Two at a time: there are two processors where this runs most often.
        std::thread::scope(|scope| {
            let threads: Vec<_> = orders
                .into_iter()
                .map(|(way, order)| (way.name, scope.spawn(move || go(way, order))))
                .collect();
            for (name, thread) in threads {
                let gone = thread.join().unwrap_or_else(|_| Err(anyhow!("its thread broke")));
                if let Err(error) = gone {
                    say(format_args!("{name} failed"));
                    failures.push(format!("{name}: {error:#}"));
                }
            }
        });
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}
