//! Which service a request asks for: a header, a host name, or the beginning of its path.

use blueprint_common_types::ServiceKey;
use http::{HeaderMap, HeaderName};

use crate::refusal::Refusal;

/// Name of the header that names a service.
const SERVICE_ID: HeaderName = HeaderName::from_static("x-service-id");

/// How a client named the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selector {
    /// Blueprint and service: `X-Service-Id: 7/42`, the host name `s42.b7.DOMAIN`, or the path `/s42.b7/`.
    Exact(ServiceKey),
    /// The service alone, as the existing Blueprint clients name it: `X-Service-Id: 42` or `42:0`.
    ById {
        /// Identity of the service on chain.
        service: u64,
        /// Part of the service; 0, the default, is the service itself and the only one offered.
        sub: u64,
    },
}

/// Reads all places. They may say the same thing; saying different things is refused.
pub(crate) fn parse(
    headers: &HeaderMap,
    host: Option<&str>,
    domain: &str,
    by_path: Option<ServiceKey>,
) -> Result<Option<Selector>, Refusal> {
    let by_host = host.and_then(|host| parse_host(host, domain));
    if let (Some(host), Some(path)) = (by_host, by_path)
        && host != path
    {
        return Err(Refusal::ContradictoryService);
    }
    let by_place = by_host.or(by_path);
    let Some(by_header) = parse_headers(headers)? else {
        return Ok(by_place.map(Selector::Exact));
    };
    let Some(key) = by_place else {
        return Ok(Some(by_header));
    };
    let agrees = match by_header {
        Selector::Exact(named) => named == key,
        Selector::ById { service, sub } => service == key.service && sub == 0,
    };
    if agrees { Ok(Some(Selector::Exact(key))) } else { Err(Refusal::ContradictoryService) }
}

fn parse_headers(headers: &HeaderMap) -> Result<Option<Selector>, Refusal> {
    let mut values = headers.get_all(SERVICE_ID).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Refusal::MalformedServiceId);
    }
    let selector = value.to_str().ok().and_then(parse_header);
    selector.map(Some).ok_or(Refusal::MalformedServiceId)
}

fn parse_header(text: &str) -> Option<Selector> {
    if let Some((blueprint, service)) = text.split_once('/') {
        return Some(Selector::Exact(ServiceKey {
            blueprint: number(blueprint)?,
            service: number(service)?,
        }));
    }
    let (service, sub) = text.split_once(':').unwrap_or((text, "0"));
    Some(Selector::ById { service: number(service)?, sub: number(sub)? })
}

/// `s<service>.b<blueprint>.<domain>`, without a port, in any case.
fn parse_host(host: &str, domain: &str) -> Option<ServiceKey> {
    let (labels, rest) = host.split_at_checked(host.len().checked_sub(domain.len())?)?;
    let labels = labels.strip_suffix('.')?;
    if domain.is_empty() || !rest.eq_ignore_ascii_case(domain) {
        return None;
    }
    parse_labels(&labels.to_ascii_lowercase())
}

/// Takes a first segment `s<service>.b<blueprint>` off a path in its normal form: the service, the segment
/// with its slash, and what is left, which is a path in its normal form too.
///
/// Only the first counts: what follows belongs to the service, whatever it looks like.
pub(crate) fn split_path(path: &str) -> Option<(ServiceKey, &str, &str)> {
    let rest = path.strip_prefix('/')?;
    let end = rest.find('/').unwrap_or(rest.len()).saturating_add(1);
    let (prefix, rest) = path.split_at_checked(end)?;
    let key = parse_labels(prefix.strip_prefix('/')?)?;
    Some((key, prefix, if rest.is_empty() { "/" } else { rest }))
}

/// `s<service>.b<blueprint>`
fn parse_labels(labels: &str) -> Option<ServiceKey> {
    let (service, blueprint) = labels.split_once('.')?;
    Some(ServiceKey {
        blueprint: number(blueprint.strip_prefix('b')?)?,
        service: number(service.strip_prefix('s')?)?,
    })
}

/// Decimal digits and nothing else: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const KEY: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn select(header: Option<&str>, host: Option<&str>) -> Result<Option<Selector>, Refusal> {
        let mut headers = HeaderMap::new();
        if let Some(Ok(value)) = header.map(HeaderValue::from_str) {
            headers.insert(SERVICE_ID, value);
        }
        parse(&headers, host, "bp.example", None)
    }

    #[test]
    fn the_header_names_a_service_in_three_ways() {
        assert_eq!(select(Some("42"), None), Ok(Some(Selector::ById { service: 42, sub: 0 })));
        assert_eq!(select(Some("42:0"), None), Ok(Some(Selector::ById { service: 42, sub: 0 })));
        assert_eq!(select(Some("42:3"), None), Ok(Some(Selector::ById { service: 42, sub: 3 })));
        assert_eq!(select(Some("7/42"), None), Ok(Some(Selector::Exact(KEY))));
        assert_eq!(select(None, None), Ok(None));
    }

    #[test]
    fn a_malformed_header_is_refused_and_never_guessed() {
        for wrong in [
            "", " 42", "42 ", "+42", "-1", "4x", "42:", ":42", "42:1:2", "7/", "/42", "7/42/1", "7:42/1",
            "42,43",
        ]
        .into_iter()
        .chain(["18446744073709551616"])
        {
            assert_eq!(select(Some(wrong), None), Err(Refusal::MalformedServiceId), "{wrong:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(SERVICE_ID, HeaderValue::from_static("42"));
        headers.append(SERVICE_ID, HeaderValue::from_static("42"));
        assert_eq!(parse(&headers, None, "", None), Err(Refusal::MalformedServiceId));
    }

    #[test]
    fn a_host_name_under_the_domain_names_a_service() {
        for host in ["s42.b7.bp.example", "S42.B7.BP.Example"] {
            assert_eq!(select(None, Some(host)), Ok(Some(Selector::Exact(KEY))), "{host}");
        }
        for other in [
            "bp.example",
            "s42.bp.example",
            "s42.b7.other.example",
            "s42.b7.bp.example.evil",
            "xs42.b7.bp.example",
            "s42.b7.c.bp.example",
            "s42.b7bp.example",
            "s+42.b7.bp.example",
            "b7.s42.bp.example",
            "",
        ] {
            assert_eq!(select(None, Some(other)), Ok(None), "{other}");
        }
        assert_eq!(parse(&HeaderMap::new(), Some("s42.b7."), "", None), Ok(None));
    }

    #[test]
    fn the_first_segment_of_a_path_names_a_service_and_is_taken_off() {
        for (path, rest) in [
            ("/s42.b7", "/"),
            ("/s42.b7/", "/"),
            ("/s42.b7/a/b/", "/a/b/"),
            ("/s42.b7/s43.b7/a", "/s43.b7/a"),
        ] {
            assert_eq!(split_path(path), Some((KEY, "/s42.b7", rest)), "{path}");
        }
        for other in [
            "/",
            "/s42",
            "/s42.b7x/a",
            "/s42.b7.c/a",
            "/S42.b7/a",
            "/s42.B7/a",
            "/s+42.b7/a",
            "/s42.b/a",
            "/a/s42.b7/",
            "/b7.s42/",
            "/s42%2Eb7/",
            "/~s42.b7/",
        ] {
            assert_eq!(split_path(other), None, "{other}");
        }
    }

    #[test]
    fn no_two_of_the_three_names_may_differ() {
        let header = |text: &'static str| {
            let named = [(SERVICE_ID, HeaderValue::from_static(text))];
            named.into_iter().collect::<HeaderMap>()
        };
        let (host, other) = (Some("s42.b7.bp.example"), ServiceKey { blueprint: 7, service: 43 });
        let elsewhere = Some("s43.b7.bp.example");
        for (headers, host, by_path, agrees) in [
            (header("7/42"), host, Some(KEY), true),
            (header("42"), None, Some(KEY), true),
            (HeaderMap::new(), host, Some(KEY), true),
            (HeaderMap::new(), Some("hub"), Some(KEY), true),
            (header("7/43"), host, Some(KEY), false),
            (header("7/43"), None, Some(KEY), false),
            (header("42:1"), None, Some(KEY), false),
            (HeaderMap::new(), elsewhere, Some(KEY), false),
            (header("7/42"), elsewhere, Some(KEY), false),
            (header("7/42"), host, Some(other), false),
            (header("7/43"), elsewhere, Some(KEY), false),
        ] {
            let expected =
                if agrees { Ok(Some(Selector::Exact(KEY))) } else { Err(Refusal::ContradictoryService) };
            assert_eq!(
                parse(&headers, host, "bp.example", by_path),
                expected,
                "{headers:?} {host:?} {by_path:?}"
            );
        }
        assert_eq!(parse(&header("x"), None, "", Some(KEY)), Err(Refusal::MalformedServiceId));
    }

    #[test]
    fn header_and_host_must_agree() {
        let host = Some("s42.b7.bp.example");
        for agreeing in ["42", "42:0", "7/42"] {
            assert_eq!(select(Some(agreeing), host), Ok(Some(Selector::Exact(KEY))), "{agreeing}");
        }
        for other in ["43", "42:1", "8/42"] {
            assert_eq!(select(Some(other), host), Err(Refusal::ContradictoryService), "{other}");
        }
    }
}
