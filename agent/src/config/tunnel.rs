//! Section `tunnel`: carriers, the way out, and where the overlay ends; and section `resolver`, which needs a device of it.

use std::collections::BTreeSet;

use blueprint_common_runtime::config::{List, Problems, Settings};
use blueprint_common_tunnel::carrier::{ProxyUrl, ProxyUrlError};
use blueprint_common_tunnel::{Interface, TunSettings};
use blueprint_common_types::{Carrier, Secret};

use crate::resolver::{ResolverDomain, ResolverSettings, ResolverWay};

pub(super) fn carriers(settings: &Settings, problems: &mut Problems) -> Option<BTreeSet<Carrier>> {
    let List(names) = settings.take("tunnel.carriers", problems)?;
    let carriers: Result<BTreeSet<Carrier>, _> = names.iter().map(|name| name.parse()).collect();
    match carriers {
        Ok(carriers) if !carriers.is_empty() => return Some(carriers),
        Ok(_) => settings.refuse("tunnel.carriers", "no carrier is left", problems),
        Err(error) => settings.refuse("tunnel.carriers", &error.to_string(), problems),
    }
    None
}

/// The proxy. What may hold a password is never repeated.
pub(super) fn proxy(settings: &Settings, problems: &mut Problems) -> Option<ProxyUrl> {
    let (key, text) = match (settings.text("tunnel.proxy_file"), settings.text("tunnel.proxy")) {
        (Some(_), Some(_)) => {
            problems.add("tunnel.proxy", "tunnel.proxy_file is set, too: one of them is enough");
            return None;
        }
        (Some(path), None) => match std::fs::read_to_string(path) {
            Ok(text) => ("tunnel.proxy_file", Secret::new(text)),
            Err(error) => {
                problems.add("tunnel.proxy_file", format!("cannot read {path}: {error}"));
                return None;
            }
        },
        (None, Some(text)) if text.contains('@') => {
            problems.add(
                "tunnel.proxy",
                "credentials do not belong here: write the URL into a file for tunnel.proxy_file",
            );
            return None;
        }
        (None, text) => ("tunnel.proxy", Secret::new(text?.to_owned())),
    };
    match text.expose().trim().parse() {
        Ok(proxy) => Some(proxy),
        Err(error) => {
            let error: ProxyUrlError = error;
            problems.add(key, error.to_string());
            None
        }
    }
}

pub(super) fn interface(settings: &Settings, problems: &mut Problems) -> Option<Interface> {
    let name: Option<String> = settings.take("tunnel.interface_name", problems);
    let udp_offload: Option<bool> = settings.take("tunnel.udp_offload", problems);
    match settings.text("tunnel.interface")? {
        "netstack" => Some(Interface::Netstack),
        "tun" => Some(Interface::Tun(TunSettings { name: name?, udp_offload: udp_offload? })),
        _ => {
            settings.refuse("tunnel.interface", "neither netstack nor tun", problems);
            None
        }
    }
}

/// How names are asked for; inside, `None` where the resolver is left alone.
pub(super) fn resolver(settings: &Settings, problems: &mut Problems) -> Option<Option<ResolverSettings>> {
    let domain = settings.text("resolver.domain").unwrap_or_default().parse::<ResolverDomain>();
    if let Err(error) = &domain {
        settings.refuse("resolver.domain", error, problems);
    }
    let way = match settings.text("resolver.way")? {
        "off" => return Some(None),
        "resolved" => ResolverWay::Resolved,
        "file" => ResolverWay::File,
        _ => {
            settings.refuse("resolver.way", "neither off, resolved nor file", problems);
            return None;
        }
    };
    if settings.text("tunnel.interface") == Some("netstack") {
        let why = "needs tunnel.interface = \"tun\": with netstack no program of this machine reaches the hub's DNS";
        settings.refuse("resolver.way", why, problems);
    }
    Some(Some(ResolverSettings { way, domain: domain.ok()? }))
}
