//! A hub's data plane alone, in a process of its own: tunnel and peers, no store, no control plane.
//!
//! Keys and addresses follow from a number, so that the process with the spokes finds the same ones.
//! Number 0 is the hub, the spokes count from 1.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blueprint_common_runtime::cli::{eprint_line, print_line};
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_tunnel::{Tunnel, TunnelConfig};
use blueprint_common_tunnel_core::{Config, Limits, OverlayPrefixes, PeerConfig, Role};
use blueprint_common_types::{OverlayLease, WgPrivateKey, fill_random};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::time::sleep;

/// First addresses of both overlays, 2^20 addresses each.
const V4: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 64, 0, 0), 12);
const V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0), 64);

/// MTU of the overlay in bytes, as `bench/performance` has it.
const MTU: u16 = 1420;

/// Pause between two looks at who is up.
const LOOK: Duration = Duration::from_millis(100);

/// Pause between two lines of the log while not all are.
const TELL: Duration = Duration::from_secs(5);

/// The key of a number. Everybody can make it: nothing of a bench is worth a secret.
pub(crate) fn key(number: u32) -> WgPrivateKey {
    let [a, b, c, d] = number.to_be_bytes();
    let mut bytes = [0x42; 32];
    for (place, byte) in bytes.iter_mut().zip([0, a, b, c, d]) {
        *place = byte;
    }
    WgPrivateKey::from_bytes(bytes)
}

/// The addresses of a number.
pub(crate) fn lease(number: u32) -> OverlayLease {
    let offset = number.saturating_add(1);
    OverlayLease {
        v4: Ipv4Addr::from_bits(V4.0.to_bits().saturating_add(offset)),
        v6: Ipv6Addr::from_bits(V6.0.to_bits().saturating_add(u128::from(offset))),
    }
}

/// What the core of a number is made from.
///
/// # Errors
///
/// Fails where the system has no randomness.
pub(crate) fn core(number: u32) -> Result<Config> {
    let mut seed = [0; 32];
    fill_random(&mut seed)?;
    Ok(Config {
        private_key: key(number),
        addresses: lease(number),
        prefixes: OverlayPrefixes { v4: Ipv4Network::new(V4.0, V4.1)?, v6: Ipv6Network::new(V6.0, V6.1)? },
        role: if number == 0 { Role::Hub } else { Role::Spoke },
        mtu: MTU,
        limits: Limits::default(),
        answers_echoes: true,
        own_rules: None,
        seed,
    })
}

/// A number as its other end knows it: a spoke by its two addresses, the hub by the whole overlay.
///
/// # Errors
///
/// Does not fail: the prefixes are constants.
pub(crate) fn peer(number: u32, endpoint: Option<SocketAddr>) -> Result<PeerConfig> {
    let lease = lease(number);
    let allowed_ips = match number {
        0 => vec![IpNetwork::new(IpAddr::V4(V4.0), V4.1)?, IpNetwork::new(IpAddr::V6(V6.0), V6.1)?],
        _ => vec![IpNetwork::from(IpAddr::V4(lease.v4)), IpNetwork::from(IpAddr::V6(lease.v6))],
    };
    Ok(PeerConfig {
        public_key: key(number).public_key(),
        allowed_ips,
        endpoint: endpoint.map(Into::into),
        preshared_key: None,
        keepalive: None,
    })
}

/// Runs the hub of `count` spokes until standard input ends.
///
/// Prints where it listens, waits for a line, adds the peers, and prints once each of them has echoed.
///
/// # Errors
///
/// Fails where the address cannot be bound or a peer is refused.
pub(crate) async fn run(listen: SocketAddr, count: u32, spawner: &Spawner) -> Result<()> {
    let (tunnel, engine) = Tunnel::bind(TunnelConfig::new(listen, core(0)?))?;
    spawner.spawn("tunnel", engine.run(spawner.stop().stop));
    print_line(&json!({ "listen": tunnel.local_addr().to_string() }).to_string());
    let mut stdin = BufReader::new(tokio::io::stdin());
    let mut line = String::new();
    stdin.read_line(&mut line).await.context("cannot read the word to go on")?;
    let began = Instant::now();
    for number in 1..=count {
        tunnel.upsert_peer(peer(number, None)?).await?;
    }
    let peers_secs = began.elapsed().as_secs_f64();
    let mut seen = BTreeSet::new();
    let all = usize::try_from(count)?;
    let mut rest = Vec::new();
    let mut end = std::pin::pin!(stdin.read_to_end(&mut rest));
    let mut told = began;
    while seen.len() < all {
        tokio::select! {
            biased;
            _ = &mut end => return Ok(()),
            () = sleep(LOOK) => {}
        }
        let snapshot = tunnel.snapshot();
        seen.extend(snapshot.peers.iter().filter(|(_, stats)| stats.echo.alive).map(|(key, _)| *key));
        if told.elapsed() > TELL {
            told = Instant::now();
            let secs = began.elapsed().as_secs();
            let late = snapshot.peers.iter().find(|(key, _)| !seen.contains(*key));
            eprint_line(&format!(
                "after {secs} s {} of {count} have echoed; one that has not: {:?}; {:?}",
                seen.len(),
                late.map(|(_, stats)| stats),
                snapshot.stats
            ));
        }
    }
    let up_secs = began.elapsed().as_secs_f64();
    print_line(&json!({ "up": count, "peers_secs": peers_secs, "up_secs": up_secs }).to_string());
    end.await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_their_own_keys_and_addresses_inside_the_overlay() {
        let prefixes = core(0).unwrap().prefixes;
        assert_eq!(prefixes.hub(), lease(0));
        assert_ne!(key(1).public_key(), key(256).public_key());
        assert!(prefixes.v4.contains(lease(10_000).v4) && prefixes.v6.contains(lease(10_000).v6));
        assert_ne!(lease(1), lease(2));
    }
}
