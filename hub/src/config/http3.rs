//! Where HTTP/3 is spoken, and which UDP ports cannot be had twice.

use std::net::SocketAddr;

use blueprint_common_runtime::config::{Problems, Settings};

use super::{CarrierListen, ProxySockets};

const KEY: &str = "proxy.http3_on_carrier";

/// The UDP socket of HTTP/3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http3Listen {
    Off,
    /// Its own, of the same number as the proxy's TLS address.
    Own,
    /// That of `tunnel.carrier_listen`, which is the proxy's address; where it is not open, its own.
    CarrierOrOwn,
    /// That of `tunnel.carrier_listen`, or the hub does not start.
    Carrier,
}

impl Http3Listen {
    /// Takes `proxy.http3` and what it depends on.
    pub(super) fn take(
        settings: &Settings,
        tunnel: Option<SocketAddr>,
        carrier: Option<CarrierListen>,
        proxy: Option<&ProxySockets>,
        problems: &mut Problems,
    ) -> Option<Self> {
        let is_spoken = settings.take::<bool>("proxy.http3", problems);
        let wanted = settings.text(KEY).filter(|wanted| matches!(*wanted, "auto" | "true" | "false"));
        if wanted.is_none() {
            settings.refuse(KEY, "not auto, true or false", problems);
        }
        if !is_spoken? {
            return wanted.map(|_| Self::Off);
        }
        if settings.text("proxy.tls") == Some("off") {
            let why = "true while proxy.tls is off: there is no HTTP/3 without TLS";
            settings.refuse("proxy.http3", why, problems);
            return None;
        }
        let (tunnel, carrier, proxy) = (tunnel?, carrier?, proxy?);
        let tls = proxy.tls_listen.unwrap_or(proxy.listen);
        // Where WireGuard has that port, `auto` has none.
        let carrier = carrier.address().filter(|at| carrier != CarrierListen::Auto || !meets(*at, tunnel));
        match Self::choose(wanted?, tls, tunnel, carrier) {
            Ok(chosen) => Some(chosen),
            Err((key, why)) => {
                settings.refuse(key, &why, problems);
                None
            }
        }
    }

    fn choose(
        wanted: &str,
        tls: SocketAddr,
        tunnel: SocketAddr,
        carrier: Option<SocketAddr>,
    ) -> Result<Self, (&'static str, String)> {
        let own = || {
            if meets(tls, tunnel) {
                let why = format!(
                    "{tunnel} has the UDP port of HTTP/3, the number of the proxy's TLS address {tls}; WireGuard shares \
                     a port with HTTP/3 at tunnel.carrier_listen alone: give tunnel.listen another port"
                );
                return Err(("tunnel.listen", why));
            }
            Ok(Self::Own)
        };
        let clash = carrier.filter(|at| meets(*at, tls));
        match (wanted, carrier, clash) {
            ("true", Some(_), _) => Ok(Self::Carrier),
            ("true", None, _) => {
                Err((KEY, "true, but there is no tunnel.carrier_listen: give that an address".to_owned()))
            }
            ("false", _, Some(at)) => {
                let why = format!(
                    "false, but tunnel.carrier_listen {at} has the UDP port of the proxy's TLS address {tls}; set auto, \
                     or give one of them another port"
                );
                Err((KEY, why))
            }
            // A wider address would open the proxy where the operator did not.
            (_, _, Some(at)) if at.ip() == tls.ip() => Ok(Self::CarrierOrOwn),
            (_, _, Some(at)) => {
                let why = format!(
                    "auto, but tunnel.carrier_listen {at} has the UDP port of the proxy's TLS address {tls} at other \
                     addresses: give it {tls} as well, or set {KEY} = \"true\" for HTTP/3 at all of {at}, and there alone"
                );
                Err((KEY, why))
            }
            (_, _, None) => own(),
        }
    }
}

/// Whether two sockets of UDP on these addresses would be in each other's way.
pub(super) fn meets(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.port() != 0 && (covers(one, other) || covers(other, one))
}

/// Whether a socket on `wide` has everything that is for `narrow`, but for the port.
fn covers(wide: SocketAddr, narrow: SocketAddr) -> bool {
    let any = wide.ip().is_unspecified();
    // A socket of IPv6 that is bound to no address takes IPv4, too.
    wide.ip() == narrow.ip() || (any && (wide.is_ipv6() || narrow.is_ipv4()))
}

#[cfg(test)]
mod tests;
