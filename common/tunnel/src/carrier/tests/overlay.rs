//! How fast one TCP stream is through whole tunnels between two network namespaces, by each carrier.
//!
//! `cargo test --release -p blueprint-common-tunnel -- --ignored --nocapture overlay_speed`, as root.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use blueprint_common_tunnel_core::{Event, Role};
use blueprint_tests_support::{Host, Lab, Need, require};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tests::{Identity, Running, wait_for};
use crate::{CarrierKind, Interface, TunSettings, TunnelConfig};

const LASTS: Duration = Duration::from_secs(3);

/// Two tunnels with devices, each with the threads of a process of its own.
struct Scene {
    runtimes: [Runtime; 2],
    hosts: [Host; 2],
    ids: [Identity; 2],
    ends: [Running; 2],
    _lab: Lab,
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Scene {
    fn start() -> Option<Self> {
        let lab = Lab::new().unwrap().filter(|_| require(&[Need::Device("/dev/net/tun")]))?;
        let hosts = [lab.host("hub").unwrap(), lab.host("spoke").unwrap()];
        let runtimes = [runtime(), runtime()];
        let ids = [Identity::new(1, Role::Hub), Identity::new(2, Role::Spoke)];
        let ends = [0, 1].map(|end: usize| {
            let interface = Interface::Tun(TunSettings { name: "bp0".to_owned(), udp_offload: false });
            let listen_also = Some("0.0.0.0:0".parse().unwrap());
            let config = TunnelConfig { interface, listen_also, ..ids[end].config("0.0.0.0:0") };
            hosts[end].enter(|| runtimes[end].block_on(async { Running::start(config) })).unwrap()
        });
        Some(Self { runtimes, hosts, ids, ends, _lab: lab })
    }

    fn shake_hands(&self, at: blueprint_common_tunnel_core::Endpoint) {
        let mut events = self.ends[0].tunnel.events();
        let (hub, spoke) = (self.ids[0].clone(), self.ids[1].clone());
        let tunnels = [self.ends[0].tunnel.clone(), self.ends[1].tunnel.clone()];
        self.runtimes[1].block_on(async {
            tunnels[0].upsert_peer(spoke.peer(None)).await.unwrap();
            let mut peer = hub.peer(None);
            peer.endpoint = Some(at);
            tunnels[1].upsert_peer(peer).await.unwrap();
            tunnels[1].start_handshake(hub.key()).await;
            wait_for(&mut events, |event| matches!(event, Event::Handshake { .. })).await;
        });
    }

    /// Joins both by a QUIC link, and waits until the path's MTU is known.
    fn link(&self, stop: &CancellationToken) -> blueprint_common_tunnel_core::Endpoint {
        let limits = QuicLimits::default();
        let tls = Tls::new();
        let at = SocketAddr::new(
            self.hosts[0].address().into(),
            self.ends[0].tunnel.carrier_addr().unwrap().port(),
        );
        let (server, agent) = (tls.server(), tls.client());
        let (hub, stopped, of_hub) = (self.ends[0].tunnel.clone(), stop.clone(), limits.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let serve = async move {
            let shared = hub.share_port(&of_hub).unwrap().unwrap();
            let server = QuicServer::new(shared, &server, of_hub).unwrap();
            ready.send(()).unwrap();
            let quic = server.accept().await.unwrap().finish().await.unwrap();
            let link = hub.attach(CarrierKind::Quic, quic.remote(), quic.sink()).unwrap();
            quic.run(link, stopped).await.unwrap();
        };
        let handle = self.runtimes[0].handle().clone();
        self.hosts[0].enter(|| drop(handle.spawn(serve))).unwrap();
        is_ready.recv().unwrap();
        let (spoke, stopped) = (self.ends[1].tunnel.clone(), stop.clone());
        let socket = self.hosts[1].enter(|| client_socket(at).unwrap()).unwrap();
        self.runtimes[1].block_on(async {
            let quic = dial(socket, at, &agent, "hub.test", &limits).await.unwrap();
            let sink = quic.sink();
            let link = spoke.attach(CarrierKind::Quic, quic.remote(), quic.sink()).unwrap();
            let endpoint = link.endpoint();
            #[expect(clippy::disallowed_methods, reason = "a test has no supervisor")]
            drop(tokio::spawn(async move { quic.run(link, stopped).await.unwrap() }));
            while sink.max_datagram() < 1430 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            endpoint
        })
    }

    /// Sends from one host to the other for a while.
    fn measure(&self, name: &str, from: usize) {
        let to = SocketAddr::new(self.ids[1 - from].lease.v4.into(), 5000);
        let listener = self.hosts[1 - from].enter(|| TcpListener::bind(to).unwrap()).unwrap();
        let mut stream = self.hosts[from].enter(|| TcpStream::connect(to).unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        let reader = std::thread::Builder::new()
            .spawn(move || {
                let mut room = vec![0; 128 << 10];
                let mut bytes = 0;
                loop {
                    match accepted.read(&mut room).unwrap() {
                        0 => return bytes,
                        count => bytes += count,
                    }
                }
            })
            .unwrap();
        let data = vec![7; 128 << 10];
        let (again, spent, began) = (self.again(from), processor_time(), Instant::now());
        while began.elapsed() < LASTS {
            stream.write_all(&data).unwrap();
        }
        drop(stream);
        let bytes = u64::try_from(reader.join().unwrap()).unwrap();
        let lasted = u64::try_from(began.elapsed().as_micros()).unwrap();
        let spent = u64::try_from((processor_time() - spent).as_micros()).unwrap();
        let lost: Vec<_> = self.ends.iter().map(|end| end.tunnel.snapshot().discards["link_send"]).collect();
        let text = format!(
            "{name} from {from}: {} Mbit/s, {} us of processor time per MB, {} segments again, refused by links {lost:?}\n",
            bytes * 8 / lasted,
            spent * 1_000_000 / bytes,
            self.again(from) - again
        );
        io::stderr().write_all(text.as_bytes()).unwrap();
    }

    /// Segments that a host has sent again.
    fn again(&self, end: usize) -> u64 {
        let read = || std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let text = self.hosts[end].enter(read).unwrap();
        figure(&text, "Tcp:", "RetransSegs")
    }
}

/// A counter of `/proc/net/snmp`.
fn figure(text: &str, protocol: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(protocol));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|one| one == name).unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    of(usage.user_time()) + of(usage.system_time())
}

#[test]
#[ignore = "a measurement, to be run in release mode"]
fn overlay_speed_udp() {
    let Some(scene) = Scene::start() else { return };
    let port = scene.ends[0].tunnel.local_addr().port();
    scene.shake_hands(SocketAddr::new(scene.hosts[0].address().into(), port).into());
    for from in [1, 0] {
        scene.measure("udp", from);
    }
}

#[test]
#[ignore = "a measurement, to be run in release mode"]
fn overlay_speed_quic() {
    let Some(scene) = Scene::start() else { return };
    let stop = CancellationToken::new();
    let endpoint = scene.link(&stop);
    scene.shake_hands(endpoint);
    for from in [1, 0, 1, 0] {
        scene.measure("quic", from);
    }
    stop.cancel();
}
