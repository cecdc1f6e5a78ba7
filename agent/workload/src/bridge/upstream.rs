//! Where a blueprint says that its service is.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::Uri;

/// Reads the URL of a service: it has to be on this machine.
///
/// # Errors
///
/// One line for the blueprint.
pub(super) fn local(url: &str) -> Result<SocketAddr, String> {
    let shown: String = url.chars().take(120).collect();
    let uri: Uri = url.parse().map_err(|_| format!("upstream_url {shown:?} is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(format!("upstream_url {shown:?} is not http://HOST:PORT"));
    }
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| elsewhere(&shown))?,
    };
    // Who listens everywhere says so, and is reached at loopback.
    let ip = if ip.is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ip };
    if !ip.is_loopback() {
        return Err(elsewhere(&shown));
    }
    let port = uri.port_u16().unwrap_or(80);
    if port == 0 { Err(format!("upstream_url {shown:?} has port 0")) } else { Ok(SocketAddr::new(ip, port)) }
}

fn elsewhere(shown: &str) -> String {
    format!("upstream_url {shown:?} is not on this machine: localhost or a loopback address was expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_on_its_own_machine() {
        for (url, address) in [
            ("http://localhost:8080", "127.0.0.1:8080"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("http://0.0.0.0:81/path", "127.0.0.1:81"),
            ("http://127.0.0.5", "127.0.0.5:80"),
            ("http://[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(local(url), Ok(address.parse().unwrap()), "{url}");
        }
        for url in [
            "",
            "localhost:8080",
            "https://localhost:1",
            "http://10.88.0.3:8080",
            "http://169.254.169.254/",
            "http://example.org:80",
            "http://localhost:0",
            "http://localhost.example.org:1",
            "http://2130706433:80",
        ] {
            assert!(local(url).is_err(), "{url}");
        }
    }
}
