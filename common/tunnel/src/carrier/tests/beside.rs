//! A port that plain WireGuard and QUIC share, read by whole tunnels.

use blueprint_common_tunnel_core::{Event, Role};

use super::quic::pair;
use super::*;
use crate::TunnelConfig;
use crate::tests::{Identity, Running, wait_for};

/// Has the spoke make a new session with the hub.
async fn shake_hands(hub: &Running, spoke: &Running, key: blueprint_common_types::WgPublicKey) {
    let mut events = hub.tunnel.events();
    spoke.tunnel.start_handshake(key).await;
    wait_for(&mut events, |event| matches!(event, Event::Handshake { .. })).await;
}

/// Both ends of plain WireGuard by the port that a hub shares.
async fn by_shared_port(hub_id: &Identity, spoke_id: &Identity) -> (Running, Running, SocketAddr) {
    let listen_also = Some("127.0.0.1:0".parse().unwrap());
    let hub = Running::start(TunnelConfig { listen_also, ..hub_id.config("127.0.0.1:0") });
    let spoke = Running::start(spoke_id.config("127.0.0.1:0"));
    let at = hub.tunnel.carrier_addr().unwrap();
    hub.tunnel.upsert_peer(spoke_id.peer(None)).await.unwrap();
    spoke.tunnel.upsert_peer(hub_id.peer(Some(at))).await.unwrap();
    (hub, spoke, at)
}

/// Returns once nothing of this process has the port any more.
async fn until_free(at: SocketAddr) {
    let free = async {
        while UdpSocket::bind(at).is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("somebody still has the port");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_carries_plain_wireguard_before_beside_and_after_quic() {
    let (hub_id, spoke_id) = (Identity::new(1, Role::Hub), Identity::new(2, Role::Spoke));
    let (hub, spoke, at) = by_shared_port(&hub_id, &spoke_id).await;
    let shake = || shake_hands(&hub, &spoke, hub_id.key());
    shake().await;

    let (limits, tls) = (QuicLimits::default(), Tls::new());
    let shared = hub.tunnel.share_port(&limits).unwrap().unwrap();
    let server = QuicServer::new(shared, &tls.server(), limits.clone()).unwrap();
    // The first of these is still read by the port's own thread, which then has the others read beside QUIC.
    shake().await;
    shake().await;
    let (agent, link) = pair(&server, at, &tls.client(), &limits).await;
    let links = (agent.unwrap(), link.unwrap());
    shake().await;
    drop((links, server));
    shake().await;

    timeout(PATIENCE, hub.end()).await.expect("the engine does not end");
    until_free(at).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_dropped_leaves_a_shared_port() {
    let (hub_id, spoke_id) = (Identity::new(1, Role::Hub), Identity::new(2, Role::Spoke));
    let (hub, spoke, at) = by_shared_port(&hub_id, &spoke_id).await;
    let (limits, tls) = (QuicLimits::default(), Tls::new());
    let shared = hub.tunnel.share_port(&limits).unwrap().unwrap();
    let server = QuicServer::new(shared, &tls.server(), limits.clone()).unwrap();
    shake_hands(&hub, &spoke, hub_id.key()).await;
    let (agent, link) = pair(&server, at, &tls.client(), &limits).await;
    let links = (agent.unwrap(), link.unwrap());
    hub.kill().await;
    drop((links, server));
    until_free(at).await;
}
