//! Messages of alerts to webhooks: `POST` of a JSON document, signed with a key of the alert.
//!
//! `X-Blueprint-Signature: t=SECONDS,v1=HEX` holds HMAC-SHA256 of `SECONDS.BODY` by that key, so a receiver can refuse what
//! is old and what is not the hub's. Redirects are not followed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use blueprint_common_types::{HubId, Secret, Timestamp};
use blueprint_hub_provider_kit::{HttpClient, HttpConfig};
use blueprint_hub_provision::Courier;
use blueprint_hub_provision_core::cost::alert::{AlertEvent, Hook};
use blueprint_hub_proxy_core::identity::{SealingKey, is_public};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::header::CONTENT_TYPE;
use http::{Request, Uri};
use ring::hmac;
use serde_json::json;

use crate::config::AlertSettings;

/// Longest URL of a webhook, in bytes.
const MAX_URL: usize = 2000;

/// Times for the name, the connection and TLS, each, and for the answer.
const WITHIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(10));

/// Where machines of clouds ask about themselves, beside addresses of the link: AWS and Google over IPv6, Azure, Alibaba,
/// Oracle.
const METADATA: [IpAddr; 5] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

/// Sends them.
#[derive(Debug)]
pub(crate) struct WebhookCourier {
    http: HttpClient,
    takes: fn(IpAddr) -> bool,
    sealing: Arc<SealingKey>,
    hub: HubId,
}

impl WebhookCourier {
    /// One that calls as `settings` say and seals keys with `sealing`.
    ///
    /// # Errors
    ///
    /// Where the file of authorities cannot be read.
    pub(crate) fn new(settings: &AlertSettings, sealing: Arc<SealingKey>, hub: HubId) -> Result<Self> {
        let config = HttpConfig {
            extra_roots: settings.ca.clone(),
            connect_within: WITHIN.0,
            answer_within: WITHIN.1,
            ..HttpConfig::default()
        };
        let takes = if settings.private_dangerously { may_be_private } else { has_to_be_public };
        let http = HttpClient::new(config)
            .context("cannot call webhooks (alerts.webhook_ca)")?
            .only_to(takes)
            .without_bodies();
        Ok(Self { http, takes, sealing, hub })
    }

    async fn post(&self, event: &AlertEvent, hook: &Hook) -> Result<(), String> {
        let opened = self.open(&event.alert, hook);
        let (url, key) = opened.ok_or("it was sealed with another sealing key; set the webhook again")?;
        let body = self.body(event);
        let signature = signature(&key, Timestamp::from(SystemTime::now()).as_secs(), &body);
        let request = Request::post(url.expose())
            .header(CONTENT_TYPE, "application/json")
            .header("x-blueprint-event", event.id)
            .header("x-blueprint-signature", signature)
            .body(Bytes::from(body));
        let request = request.map_err(|_| "its URL cannot be sent".to_owned())?;
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.http.send("webhook", request).await.map_err(|error| error.line())?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let redirect = if status.is_redirection() { ", and no redirect is followed" } else { "" };
        Err(format!("{host} answered {}{redirect}", status.as_u16()))
    }

    /// The URL and the key of a webhook.
    fn open(&self, alert: &str, hook: &Hook) -> Option<(Secret<String>, Secret<String>)> {
        let opened = self.sealing.open_text(&purpose(alert), &hook.sealed)?;
        let (key, url) = opened.expose().split_once(' ')?;
        Some((Secret::new(url.to_owned()), Secret::new(key.to_owned())))
    }

    fn body(&self, event: &AlertEvent) -> String {
        let finding = &event.finding;
        let body = json!({
            "id": event.id,
            "hub": self.hub.to_string(),
            "alert": event.alert,
            "kind": finding.mark.kind.label(),
            "period": finding.mark.period,
            "threshold_percent": (finding.mark.threshold > 0).then_some(finding.mark.threshold),
            "amount": event.amount.to_string(),
            "spent": finding.spent.to_string(),
            "forecast": finding.forecast.map(|forecast| forecast.to_string()),
            "currency": "USD",
            "action": event.action.label(),
            "at": event.at.to_string(),
            "text": finding.text,
        });
        body.to_string()
    }
}

impl Courier for WebhookCourier {
    fn check(&self, url: &str) -> Result<(), String> {
        if url.len() > MAX_URL || url.contains('#') {
            return Err(format!("a URL has at most {MAX_URL} bytes and no '#'"));
        }
        let uri: Uri = url.parse().map_err(|_| "it is no URL".to_owned())?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let address = host.parse::<IpAddr>().ok();
        if host.is_empty() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("it names no host, or a user".to_owned());
        }
        let is_here = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_here => {}
            Some("http") => return Err(format!("http is only for this machine, not for {host}")),
            Some(_) | None => return Err("it is not https".to_owned()),
        }
        match address {
            Some(address) if !(self.takes)(address) => Err(format!(
                "{address} is not public, and alerts.webhook_private_dangerously does not let it be called"
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn seal(&self, alert: &str, url: &Secret<String>, key: &Secret<String>) -> Option<String> {
        // A key has no spaces.
        let text = Secret::new(format!("{} {}", key.expose(), url.expose()));
        self.sealing.seal_text(&purpose(alert), &text)
    }

    fn is_same(&self, alert: &str, hook: &Hook, url: &Secret<String>) -> bool {
        self.open(alert, hook).is_some_and(|(known, _)| known == *url)
    }

    fn send<'a>(&'a self, event: &'a AlertEvent, hook: &'a Hook) -> BoxFuture<'a, Result<(), String>> {
        self.post(event, hook).boxed()
    }
}

/// What the URL and the key of a webhook are sealed for.
fn purpose(alert: &str) -> String {
    format!("alert webhook {alert}")
}

fn signature(key: &Secret<String>, secs: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes());
    let tag = hmac::sign(&key, format!("{secs}.{body}").as_bytes());
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={secs},v1={hex}")
}

/// This machine, or a public address that is no cloud's metadata service.
fn has_to_be_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || is_public(address) && !METADATA.contains(&address)
}

/// The same, and private addresses; never those of the link or of a metadata service.
fn may_be_private(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_strange = address.is_unspecified() || address.is_multicast() || METADATA.contains(&address);
    let is_of_link = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets().first() == Some(&0),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || carries_ipv4(v6),
    };
    !is_strange && !is_of_link
}

/// Whether a translator may turn an address into one of IPv4 (RFC 6052, RFC 8215, RFC 3056, RFC 4380): what that would be is
/// the translator's business. Loopback is not meant.
const fn carries_ipv4(address: Ipv6Addr) -> bool {
    match address.segments() {
        [0x64, 0xff9b, ..] | [0x2002, ..] | [0x2001, 0, ..] => true,
        [0, 0, 0, 0, 0, 0, ..] => !address.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn courier(private_dangerously: bool) -> WebhookCourier {
        let settings = AlertSettings { every: Duration::from_secs(1), ca: None, private_dangerously };
        let sealing = Arc::new(SealingKey::new(&Secret::new([7; 32])).unwrap());
        WebhookCourier::new(&settings, sealing, HubId::from_bytes([1; 16])).unwrap()
    }

    #[test]
    fn messages_go_to_public_hosts_and_to_this_machine() {
        let (public, private) = (courier(false), courier(true));
        for url in [
            "https://hooks.example/T0/x?y=z",
            "https://8.8.8.8:8443/",
            "http://127.0.0.1:9/x",
            "http://[::1]/",
            "http://localhost/",
        ] {
            assert_eq!(public.check(url), Ok(()), "{url}");
        }
        for url in ["https://10.1.2.3/", "https://[fd12::1]/", "https://192.168.1.1/"] {
            assert!(public.check(url).unwrap_err().contains("webhook_private_dangerously"), "{url}");
            assert_eq!(private.check(url), Ok(()), "{url}");
        }
        for url in [
            "https://169.254.169.254/latest",
            "http://169.254.169.254/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fd20:ce::254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:a9fe:a9fe::]/",
            "https://[::169.254.169.254]/",
            "https://168.63.129.16/",
            "https://100.100.100.200/",
            "https://0.0.0.0/",
            "https://[::]/",
            "https://224.0.0.1/",
            "http://hooks.example/",
            "http://10.1.2.3/",
            "ftp://hooks.example/",
            "hooks.example",
            "https://user@hooks.example/",
            "https://hooks.example/#x",
            "https:///x",
        ] {
            assert!(public.check(url).is_err() && private.check(url).is_err(), "{url}");
        }
    }

    /// Known answer, made with another program.
    #[test]
    fn a_signature_is_hmac_sha256_of_time_and_body() {
        let signed = signature(&Secret::new("key".to_owned()), 1_800_000_000, "{\"id\":1}");
        let expected = "t=1800000000,v1=3d68ae8e753deb5a6c0337e026fbb6eaac303d65765c096e313fb48585f5dbcf";
        assert_eq!(signed, expected);
    }

    #[tokio::test]
    async fn a_name_that_leads_to_an_address_of_the_link_is_not_called_and_a_key_of_another_hub_is_told() {
        let courier = courier(true);
        let key = Secret::new("key".to_owned());
        let hook = |alert: &str, url: &str| {
            let sealed = courier.seal(alert, &Secret::new(url.to_owned()), &key).unwrap();
            assert!(!sealed.contains(url));
            Hook { shown: Hook::shortened(url), sealed }
        };
        let event = event();
        // The address is looked at again when it is called, whatever was checked before.
        let own = hook("team", "https://169.254.169.254/secret?x y");
        assert!(!format!("{own:?}").contains("secret"), "{own:?}");
        let is_same = |url: &str| courier.is_same("team", &own, &Secret::new(url.to_owned()));
        assert_eq!(
            [is_same("https://169.254.169.254/secret?x y"), is_same("https://169.254.169.254/")],
            [true, false]
        );
        let own = hook("team", "https://169.254.169.254/secret");
        let error = courier.send(&event, &own).await.unwrap_err();
        assert!(error.contains("no address of it may be called"), "{error}");
        let error = courier.send(&event, &hook("other", "https://127.0.0.1:9/")).await.unwrap_err();
        assert!(error.contains("another sealing key"), "{error}");
    }

    fn event() -> AlertEvent {
        use blueprint_common_types::Micros;
        use blueprint_hub_provision_core::cost::alert::{AlertAction, AlertKind, Delivery, Finding, Mark};
        let mark = Mark { kind: AlertKind::Test, period: "test 1".to_owned(), threshold: 0 };
        AlertEvent {
            id: 1,
            alert: "team".to_owned(),
            at: Timestamp::default(),
            amount: Micros::new(1),
            action: AlertAction::Notify,
            finding: Finding { mark, spent: Micros::ZERO, forecast: None, text: String::new() },
            delivery: Delivery::new(true, Timestamp::default()),
        }
    }
}
