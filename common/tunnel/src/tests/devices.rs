//! The same connections whether the overlay ends in this process or in a device, on either side.

use blueprint_tests_support::{Host, Lab, Need, require};
use tokio::runtime::Runtime;

use super::*;
use crate::error::{ListenError, UdpError};
use crate::{Interface, TunSettings, UdpFlow, UdpSocket};

/// Two hosts, each with an end of the tunnel. What opens a socket has to run on its host.
struct Scene {
    runtime: Runtime,
    hosts: [Host; 2],
    ids: [Identity; 2],
    ends: [Running; 2],
    _lab: Lab,
}

impl Scene {
    fn start(modes: [Interface; 2]) -> Option<Self> {
        let needs = [Need::Device("/dev/net/tun")];
        let lab = Lab::new().unwrap().filter(|_| require(&needs))?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let hosts = [lab.host("hub").unwrap(), lab.host("spoke").unwrap()];
        let ids = [Identity::new(1, Role::Hub), Identity::new(2, Role::Spoke)];
        let mut modes = modes.into_iter();
        let ends = [0, 1].map(|end: usize| {
            let config = TunnelConfig { interface: modes.next().unwrap(), ..ids[end].config("0.0.0.0:0") };
            hosts[end].enter(|| runtime.block_on(async { Running::start(config) })).unwrap()
        });
        let scene = Self { runtime, hosts, ids, ends, _lab: lab };
        scene.runtime.block_on(scene.shake_hands());
        Some(scene)
    }

    async fn shake_hands(&self) {
        let [hub, spoke] = &self.ends;
        let mut events = hub.tunnel.events();
        let at = SocketAddr::new(self.hosts[0].address().into(), hub.tunnel.local_addr().port());
        hub.tunnel.upsert_peer(self.ids[1].peer(None)).await.unwrap();
        spoke.tunnel.upsert_peer(self.ids[0].peer(Some(at))).await.unwrap();
        spoke.tunnel.start_handshake(self.ids[0].key()).await;
        wait_for(&mut events, |event| matches!(event, Event::Handshake { .. })).await;
    }

    /// Runs on a host.
    fn on<T: Send>(&self, end: usize, work: impl AsyncFnOnce(&Tunnel) -> T + Send) -> T {
        let tunnel = &self.ends[end].tunnel;
        let work = || self.runtime.block_on(async { timeout(PATIENCE, work(tunnel)).await });
        self.hosts[end].enter(work).unwrap().unwrap()
    }

    fn place(&self, end: usize, port: u16, is_v4: bool) -> SocketAddr {
        let OverlayLease { v4, v6 } = self.ids[end].lease;
        SocketAddr::new(if is_v4 { v4.into() } else { v6.into() }, port)
    }
}

fn with_each_mode(check: impl Fn(&Scene)) {
    let tun = || Interface::Tun(TunSettings { name: "bp0".to_owned(), udp_offload: false });
    for modes in [
        [Interface::Netstack, Interface::Netstack],
        [tun(), Interface::Netstack],
        [Interface::Netstack, tun()],
        [tun(), tun()],
    ] {
        let Some(scene) = Scene::start(modes) else { return };
        check(&scene);
    }
}

async fn exchange(flow: &UdpFlow, bound: &UdpSocket, is_v4: bool) {
    let max = if is_v4 { 1392 } else { 1372 };
    let mut room = [0; 2048];
    for length in [0, 1, 500, max] {
        let data: Vec<u8> = (0..length).map(|n: usize| n.to_le_bytes()[0]).collect();
        flow.send(&data).await.unwrap();
        let (count, from) = bound.recv_from(&mut room).await.unwrap();
        assert_eq!((&room[..count], from), (&data[..], flow.local_addr()));
        bound.send_to(&data, from).await.unwrap();
        assert_eq!(flow.recv(&mut room).await, Ok(length));
    }
    let too_long = UdpError::TooLong { bytes: max + 1, max };
    assert_eq!(flow.send(&vec![0; max + 1]).await, Err(too_long));
    assert_eq!(bound.send_to(&vec![0; max + 1], flow.local_addr()).await, Err(too_long));
    assert_eq!((flow.dropped(), bound.dropped()), (0, 0));
}

#[test]
fn datagrams_cross_in_every_mode() {
    with_each_mode(|scene| {
        let bound = scene.on(1, async |spoke| spoke.listen_udp(5300).await.unwrap());
        assert_eq!(bound.port(), 5300);
        let again = scene.on(1, async |spoke| spoke.listen_udp(5300).await.unwrap_err());
        assert_eq!(again, ListenError::InUse { port: 5300 });
        assert_eq!(scene.on(1, async |spoke| spoke.listen_udp(0).await.unwrap_err()), ListenError::Zero);
        for is_v4 in [true, false] {
            let to = scene.place(1, 5300, is_v4);
            let flow = scene.on(0, async |hub| hub.connect_udp(to).await.unwrap());
            assert_eq!((flow.peer_addr(), flow.local_addr().ip()), (to, scene.place(0, 1, is_v4).ip()));
            scene.on(0, async |_| exchange(&flow, &bound, is_v4).await);
            let own = scene.place(1, 9, is_v4);
            assert_eq!(scene.on(1, async |_| bound.send_to(b"", own).await), Err(UdpError::NoRoute));

            let nobody = scene.place(1, 9, is_v4);
            let flow = scene.on(0, async |hub| hub.connect_udp(nobody).await.unwrap());
            scene.on(0, async |_| flow.send(b"anybody?").await.unwrap());
            assert_eq!(scene.on(0, async |_| flow.recv(&mut [0; 16]).await), Err(UdpError::Refused));
        }
        for nowhere in
            [scene.place(0, 9, true), "10.77.0.9:9".parse().unwrap(), "192.0.2.1:9".parse().unwrap()]
        {
            let refused = scene.on(0, async |hub| hub.connect_udp(nowhere).await.unwrap_err());
            assert_eq!(refused, ConnectError::NoRoute, "{nowhere}");
        }
        drop(bound);
        scene.on(1, async |spoke| {
            let bound = loop {
                // The stack of the process closes a port when it is next at work.
                match spoke.listen_udp(5300).await {
                    Ok(bound) => break bound,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            scene.ends[1].stop.cancel();
            assert_eq!(bound.recv_from(&mut [0; 16]).await, Err(UdpError::Stopped));
        });
    });
}

#[test]
fn connections_open_and_are_refused_in_every_mode() {
    with_each_mode(|scene| {
        let mut listener = scene.on(1, async |spoke| spoke.listen(80).await.unwrap());
        for is_v4 in [true, false] {
            let to = scene.place(1, 80, is_v4);
            let mut stream = scene.on(0, async |hub| hub.connect(to, PATIENCE).await.unwrap());
            let mut accepted = scene.on(1, async |_| listener.accept().await.unwrap());
            assert_eq!((accepted.peer_addr(), accepted.local_addr()), (stream.local_addr(), to));
            scene.on(0, async |_| {
                stream.write_all(&[7; 100_000]).await.unwrap();
                stream.shutdown().await.unwrap();
            });
            let mut received = Vec::new();
            scene.on(1, async |_| accepted.read_to_end(&mut received).await.unwrap());
            assert_eq!(received, [7; 100_000]);
            let closed = scene.place(1, 81, is_v4);
            let refused = scene.on(0, async |hub| hub.connect(closed, PATIENCE).await.unwrap_err());
            assert_eq!(refused, ConnectError::Refused);
        }
        scene.ends[1].stop.cancel();
        assert!(scene.on(1, async |_| listener.accept().await.is_none()));
    });
}

#[test]
fn a_fault_of_ours_in_the_thread_of_a_device_costs_what_waits_there() {
    let tun = Interface::Tun(TunSettings { name: "bp0".to_owned(), udp_offload: false });
    let Some(scene) = Scene::start([tun, Interface::Netstack]) else { return };
    let bound = scene.on(1, async |spoke| spoke.listen_udp(5300).await.unwrap());
    let to = scene.place(1, 5300, true);
    let flow = scene.on(0, async |hub| hub.connect_udp(to).await.unwrap());
    scene.on(0, async |hub| {
        let mut room = [0; 64];
        for _ in 0..3 {
            let faults = hub.snapshot().stats.discarded(Discard::OwnPanic);
            flow.send(POISON).await.unwrap();
            while hub.snapshot().stats.discarded(Discard::OwnPanic) == faults {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // More than the thread has slots for, so that none was lost with the fault.
            for number in 0..200u8 {
                flow.send(&[number]).await.unwrap();
                let (count, _) = bound.recv_from(&mut room).await.unwrap();
                assert_eq!(&room[..count], [number]);
            }
        }
        assert_eq!(hub.snapshot().stats.discarded(Discard::OwnPanic), 3);
    });
}
