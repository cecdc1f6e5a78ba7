//! The trust rules of the proxy as a stranger to its code would state them.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{AccessToken, AgentId, Health, Secret, ServiceKey, Timestamp};
use blueprint_hub_proxy_core::guard::FramingFault;
use blueprint_hub_proxy_core::identity::{ExtraHeaderError, SealingKey};
use blueprint_hub_proxy_core::limits::LimitKind;
use blueprint_hub_proxy_core::{
    AccessGrant, AccessTable, Admission, CanonicalRequest, Downstream, Refusal, RouteTable, Scope, Selector,
    Target, Trust, decide, request_trailers, response_headers, response_trailers, upstream_headers,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
const DOWNSTREAM: Downstream<'static> = Downstream {
    source: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)),
    tls: false,
    domain: "bp.example",
    request_id: "fresh-1",
};

/// A head with `Host`, and with `pairs` as they are.
fn head(target: &str, pairs: &[(&str, &str)]) -> Parts {
    let mut builder = Request::builder().uri(target);
    if !pairs.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        builder = builder.header("host", "hub.example");
    }
    for (name, value) in pairs {
        builder = builder.header(*name, *value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn parse(parts: &Parts) -> Result<CanonicalRequest, Refusal> {
    CanonicalRequest::parse(parts, &DOWNSTREAM)
}

fn grant(token: &AccessToken) -> AccessGrant {
    AccessGrant {
        hash: token.hash(),
        label: "acme".to_owned(),
        scope: Scope::All,
        expires_at: None,
        is_revoked: false,
    }
}

fn target(last: u8, health: Health, reason: &str) -> Target {
    Target {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), 8080),
        health,
        reason: reason.to_owned(),
        agent: AgentId::from_bytes([last; 16]),
        weight: 100,
    }
}

fn routes() -> RouteTable {
    let key = |blueprint, service| ServiceKey { blueprint, service };
    RouteTable::new(
        [key(7, 50)],
        [
            (SERVICE, target(2, Health::Unhealthy, "")),
            (SERVICE, target(3, Health::Healthy, "")),
            (key(7, 51), target(4, Health::Unhealthy, "connection refused\r\nX: y")),
            (key(7, 52), target(5, Health::Unknown, "")),
            (key(7, 60), target(6, Health::Healthy, "")),
            (key(8, 60), target(7, Health::Healthy, "")),
        ],
    )
}

fn trust(access: AccessTable) -> Trust {
    let sealing = SealingKey::new(&Secret::new([9; 32])).unwrap();
    Trust { access, routes: routes(), ..Trust::empty(Arc::new(sealing)) }
}

/// A world with one token, and the decision about a request that shows it.
struct World {
    token: AccessToken,
    grant: AccessGrant,
}

impl World {
    fn new() -> Self {
        let token = AccessToken::random().unwrap();
        let grant = grant(&token);
        Self { token, grant }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token.expose_text().expose())
    }

    fn ask(&self, service: &str) -> Result<Admission, Refusal> {
        self.ask_with(&[("authorization", &self.bearer()), ("x-service-id", service)])
    }

    fn ask_with(&self, pairs: &[(&str, &str)]) -> Result<Admission, Refusal> {
        let access = AccessTable::new([(self.token.id(), self.grant.clone())]);
        decide(&parse(&head("/", pairs))?, &trust(access), NOW)
    }

    fn admission(&self) -> Admission {
        self.ask("7/42").unwrap()
    }
}

fn upstream(pairs: &[(&str, &str)]) -> HeaderMap {
    let parts = head("/", pairs);
    upstream_headers(&parse(&parts).unwrap(), &parts.headers, &World::new().admission(), None)
}

#[test]
fn a_known_token_and_a_healthy_service_are_admitted() {
    let world = World::new();
    for service in ["7/42", "42", "42:0"] {
        let admission = world.ask(service).unwrap();
        assert_eq!(admission.service(), SERVICE, "{service}");
        assert_eq!(admission.identity().id(), world.token.id().to_string());
        assert_eq!(admission.identity().tenant_name(), Some("acme"));
    }
}

#[test]
fn every_refusal_of_a_credential_has_its_own_name() {
    let mut world = World::new();
    let no_token: &[(&str, &str)] = &[("x-service-id", "42")];
    assert_eq!(world.ask_with(no_token), Err(Refusal::MissingToken));
    assert_eq!(world.ask_with(&[("authorization", "Basic dTpw")]), Err(Refusal::InvalidToken));

    let stranger = World::new();
    let foreign = stranger.bearer();
    assert_eq!(world.ask_with(&[("authorization", &foreign)]), Err(Refusal::InvalidToken));

    world.grant.hash = stranger.token.hash();
    assert_eq!(world.ask("42"), Err(Refusal::InvalidToken), "the right id with the wrong secret");

    world.grant = grant(&world.token);
    world.grant.expires_at = Some(NOW);
    assert_eq!(world.ask("42"), Err(Refusal::ExpiredToken { at: NOW }));
    world.grant.expires_at = Some(NOW.plus(Duration::from_millis(1)));
    assert!(world.ask("42").is_ok());

    world.grant.is_revoked = true;
    assert_eq!(world.ask("42"), Err(Refusal::RevokedToken));
    world.grant.hash = stranger.token.hash();
    assert_eq!(world.ask("42"), Err(Refusal::InvalidToken), "only the holder learns of the revocation");
}

#[test]
fn every_refusal_of_a_service_has_its_own_name() {
    let mut world = World::new();
    let bearer = world.bearer();
    assert_eq!(world.ask_with(&[("authorization", &bearer)]), Err(Refusal::ServiceNotNamed));
    let by_id = |service, sub| Selector::ById { service, sub };
    let exact = |blueprint, service| Selector::Exact(ServiceKey { blueprint, service });
    assert_eq!(world.ask("99"), Err(Refusal::UnknownService { selector: by_id(99, 0) }));
    assert_eq!(world.ask("42:1"), Err(Refusal::UnknownService { selector: by_id(42, 1) }));
    assert_eq!(world.ask("9/42"), Err(Refusal::UnknownService { selector: exact(9, 42) }));
    assert_eq!(world.ask("60"), Err(Refusal::AmbiguousService { service: 60 }));
    assert!(world.ask("8/60").is_ok());

    world.grant.scope = Scope::Only([SERVICE, ServiceKey { blueprint: 8, service: 60 }].into());
    assert!(world.ask("42").is_ok());
    assert_eq!(world.ask("60").map(|admission| admission.service().blueprint), Ok(8));
    assert_eq!(world.ask("7/60"), Err(Refusal::ServiceNotAllowed { selector: exact(7, 60) }));
    assert_eq!(world.ask("51"), Err(Refusal::ServiceNotAllowed { selector: by_id(51, 0) }));
    assert_eq!(
        world.ask("99"),
        Err(Refusal::ServiceNotAllowed { selector: by_id(99, 0) }),
        "a narrow token cannot ask which services exist"
    );
}

#[test]
fn a_service_without_a_healthy_target_says_why() {
    let world = World::new();
    for (service, words) in [
        ("7/50", "no agent offers it now"),
        ("7/51", "1 target, none healthy; unhealthy: connection refusedX: y"),
        ("7/52", "1 target, none healthy; unknown: no reason given"),
    ] {
        let refusal = world.ask(service).unwrap_err();
        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refusal.to_string().ends_with(words), "{refusal}");
    }
}

#[test]
fn every_refusal_answers_with_its_status_and_a_hint() {
    let selector = Selector::Exact(SERVICE);
    let service = SERVICE;
    let fault = blueprint_hub_proxy_core::PathFault::Control;
    let reached = |limit| Refusal::LimitReached { limit, retry_after: 1 };
    let table: [(Refusal, u16); 42] = [
        (Refusal::MissingToken, 401),
        (Refusal::InvalidToken, 401),
        (Refusal::ExpiredToken { at: NOW }, 401),
        (Refusal::RevokedToken, 401),
        (Refusal::CertificateRequired { service }, 401),
        (Refusal::RevokedCertificate, 401),
        (Refusal::ExpiredCertificate { at: NOW }, 401),
        (Refusal::Misdirected { service }, 421),
        (Refusal::OperatorOnly, 401),
        (Refusal::AmbiguousCredential, 400),
        (Refusal::ServiceNotAllowed { selector }, 403),
        (Refusal::RuleRefused { service }, 403),
        (Refusal::UnknownService { selector }, 404),
        (Refusal::ServiceNotNamed, 428),
        (Refusal::MalformedServiceId, 400),
        (Refusal::AmbiguousService { service: 42 }, 409),
        (Refusal::ContradictoryService, 400),
        (Refusal::MalformedAuthority, 400),
        (Refusal::AmbiguousFraming, 400),
        (Refusal::MalformedRequest { fault: FramingFault::LineEnd }, 400),
        (Refusal::MalformedPath { fault }, 400),
        (Refusal::TargetTooLong, 414),
        (Refusal::HeadersTooLarge, 431),
        (Refusal::MethodRefused, 405),
        (Refusal::MalformedUpgrade, 400),
        (Refusal::BadHeaders { error: ExtraHeaderError::Name }, 400),
        (Refusal::TooManyRequests { retry_after: 1 }, 429),
        (Refusal::NoHealthyTarget { service, reason: "gone".to_owned() }, 503),
        (reached(LimitKind::ServiceRate), 429),
        (reached(LimitKind::KeyRate), 429),
        (reached(LimitKind::ServiceConcurrency), 429),
        (reached(LimitKind::KeyConcurrency), 429),
        (Refusal::BodyTooLarge { most: 1 }, 413),
        (Refusal::CircuitOpen { service, retry_after: 1 }, 503),
        (Refusal::TargetsBusy { service }, 503),
        (Refusal::TargetUnreachable { service }, 503),
        (Refusal::UpstreamFailed { service }, 502),
        (Refusal::UpstreamTimeout { service }, 504),
        (Refusal::MalformedRequest { fault: FramingFault::TooSlow }, 408),
        (Refusal::SlowBody, 408),
        (Refusal::Overloaded, 503),
        (Refusal::Draining, 503),
    ];
    for ((refusal, status), code) in table.iter().zip(Refusal::CODES) {
        assert_eq!(refusal.status().as_u16(), *status, "{refusal:?}");
        assert_eq!(refusal.code(), code);
        assert!(!refusal.hint().is_empty() && !refusal.to_string().is_empty());
        assert_eq!(refusal.challenge().is_some(), *status == 401, "{refusal:?}");
    }
}

#[test]
fn no_spelling_of_an_identity_header_passes() {
    let names = [
        "x-tenant-id",
        "X-Tenant-Id",
        "x_tenant_id",
        "X_TENANT-ID",
        "x-tenant_name",
        "x.tenant.id",
        "x-tenant",
        "x-scope",
        "x-scopes",
        "X_Scopes",
        "x-client-cert-subject",
        "x_client_cert_serial",
        "x-client-certificate",
        "x-auth-method",
        "x_auth_method",
        "x-auth-request-user",
        "x-blueprint-identity",
        "x-user-id",
        "x_user_email",
        "x-service_id",
        "forwarded",
        "x-forwarded-for",
        "X_Forwarded_For",
        "x-forwarded-proto",
        "x-forwarded-prefix",
        "x-real-ip",
        "x_real_ip",
        "true-client-ip",
        "proxy",
        "proxy-authorization",
        "proxy_authorization",
        "authorization_",
        "remote_user",
        "x-original-url",
        "x_rewrite_url",
        "x-http-method-override",
        "X_HTTP_Method",
        "x-method-override",
        "host_",
        "content_length",
        "transfer_encoding",
    ];
    for name in names {
        let headers = upstream(&[(name, "forged")]);
        let forged: Vec<_> = headers.iter().filter(|(_, value)| value.as_bytes() == b"forged").collect();
        // A trailing underscore folds to a trailing hyphen, which is another name for every reader.
        let is_other_name = name.ends_with('_');
        assert!(forged.is_empty() || is_other_name, "{name}: {forged:?}");
    }
}

#[test]
fn duplicates_do_not_hide_a_forged_header_behind_a_true_one() {
    let pairs = [("x-tenant-id", "forged"), ("x-tenant-id", "forged"), ("x-forwarded-for", "forged")];
    let headers = upstream(&pairs);
    assert_eq!(headers.get_all("x-tenant-id").iter().count(), 1);
    assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["192.0.2.9"]);
    assert!(!headers.values().any(|value| value.as_bytes() == b"forged"));
}

#[test]
fn connection_takes_away_what_it_names_but_nothing_of_ours() {
    let headers = upstream(&[
        ("connection", "close, x-tenant-id, X-Mine"),
        ("connection", "x-forwarded-for,x-request-id, x_other"),
        ("x-mine", "1"),
        ("x-other", "1"),
        ("x-kept", "1"),
    ]);
    for gone in ["connection", "x-mine", "x-other"] {
        assert!(!headers.contains_key(gone), "{gone}");
    }
    for kept in ["x-kept", "x-tenant-id", "x-forwarded-for", "x-request-id", "x-auth-method"] {
        assert!(headers.contains_key(kept), "{kept}");
    }
}

#[test]
fn the_new_request_says_who_calls_and_nothing_of_the_credential() {
    let world = World::new();
    let bearer = world.bearer();
    let pairs = [
        ("authorization", bearer.as_str()),
        ("x-service-id", "42"),
        ("accept", "application/json"),
        ("cookie", "a=b"),
        ("content-length", "3"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("keep-alive", "timeout=5"),
    ];
    let parts = head("/", &pairs);
    let admission = world.admission();
    let headers = upstream_headers(&parse(&parts).unwrap(), &parts.headers, &admission, None);
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    let expected = [
        "accept: application/json".to_owned(),
        "cookie: a=b".to_owned(),
        "x-auth-method: token".to_owned(),
        "x-forwarded-for: 192.0.2.9".to_owned(),
        "x-forwarded-host: hub.example".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        "x-request-id: fresh-1".to_owned(),
        format!("x-tenant-id: {}", world.token.id()),
        "x-tenant-name: acme".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_well_formed_request_id_is_kept_and_any_other_replaced() {
    let id = |pairs: &[(&str, &str)]| upstream(pairs).get("x-request-id").cloned().unwrap();
    assert_eq!(id(&[("x-request-id", "abc-1.2_3")]), "abc-1.2_3");
    let long = "a".repeat(129);
    for wrong in ["", "a b", "a\tb", "<x>", long.as_str()] {
        assert_eq!(id(&[("x-request-id", wrong)]), "fresh-1", "{wrong}");
    }
    assert_eq!(id(&[("x-request-id", "a"), ("x-request-id", "b")]), "fresh-1");
}

#[test]
fn trailers_cannot_carry_what_headers_cannot() {
    let mut trailers = HeaderMap::new();
    for name in [
        "x-tenant-id",
        "x_tenant_id",
        "authorization",
        "content-length",
        "host",
        "transfer-encoding",
        "x-sum",
    ] {
        trailers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
    }
    let passed = request_trailers(&trailers);
    assert_eq!(passed.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-sum"]);
    let back = response_trailers(&trailers);
    for gone in ["content-length", "host", "transfer-encoding"] {
        assert!(!back.contains_key(gone));
    }
    assert!(back.contains_key("x-sum"));
}

#[test]
fn the_answer_loses_what_belongs_to_the_inner_connection() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "keep-alive, x-inner"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("x-inner", "1"),
        ("alt-svc", "h3=\":443\""),
        ("content-length", "3"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("trailer", "x-sum"),
    ] {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let passed = response_headers(headers.clone());
    let mut names: Vec<&str> = passed.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "set-cookie", "set-cookie"]);
}

#[test]
fn a_request_has_one_authority() {
    let authority = |target: &str, pairs: &[(&str, &str)]| {
        parse(&head(target, pairs)).map(|request| request.authority().unwrap_or_default().to_owned())
    };
    assert_eq!(authority("/", &[("host", "HUB.example:80")]).as_deref(), Ok("hub.example"));
    assert_eq!(authority("/", &[("host", "[2001:db8::1]:8080")]).as_deref(), Ok("[2001:db8::1]:8080"));
    assert_eq!(authority("http://Hub.example/", &[("host", "hub.example")]).as_deref(), Ok("hub.example"));
    for (target, pairs) in [
        ("/", &[("host", "a"), ("host", "a")][..]),
        ("/", &[("host", "")]),
        ("/", &[("host", "a b")]),
        ("/", &[("host", "user@hub.example")]),
        ("/", &[("host", "hub.example:99999")]),
        ("/", &[("host", "hub.example:")]),
        ("http://other.example/", &[("host", "hub.example")]),
        ("http://hub.example:81/", &[("host", "hub.example")]),
        ("hub.example:80", &[("host", "hub.example")]),
        ("hub.example", &[("host", "hub.example")]),
    ] {
        assert_eq!(authority(target, pairs), Err(Refusal::MalformedAuthority), "{target} {pairs:?}");
    }
    let mut bare = head("/", &[]);
    bare.headers.clear();
    assert_eq!(parse(&bare), Err(Refusal::MalformedAuthority));
    bare.version = Version::HTTP_10;
    assert_eq!(parse(&bare).map(|request| request.authority().is_none()), Ok(true));
}

#[test]
fn methods_sizes_and_upgrades_have_their_limits() {
    for method in [Method::CONNECT, Method::TRACE] {
        let mut parts = head("/", &[]);
        parts.method = method;
        assert_eq!(parse(&parts), Err(Refusal::MethodRefused));
    }
    let long = format!("/{}", "a".repeat(9000));
    assert_eq!(parse(&head(&long, &[])), Err(Refusal::TargetTooLong));
    assert_eq!(parse(&head("/", &[("x-big", &"a".repeat(17_000))])), Err(Refusal::HeadersTooLarge));
    assert_eq!(parse(&head("/", &[("x-a", "1"); 101])), Err(Refusal::HeadersTooLarge));
    let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
    assert!(parse(&head("/", &websocket)).unwrap().is_websocket());
    let with_body = [websocket[0], websocket[1], ("content-length", "0")];
    assert_eq!(parse(&head("/", &with_body)), Err(Refusal::MalformedUpgrade));
    let mut by_post = head("/", &websocket);
    by_post.method = Method::POST;
    assert_eq!(parse(&by_post), Err(Refusal::MalformedUpgrade));
    let h2c = parse(&head("/", &[("connection", "upgrade"), ("upgrade", "h2c")]));
    assert!(!h2c.unwrap().is_websocket());
    assert_eq!(
        parse(&head("/", &[("content-length", "1"), ("transfer-encoding", "chunked")])),
        Err(Refusal::AmbiguousFraming)
    );
}

#[test]
fn the_forwarded_target_is_the_normal_form_and_keeps_its_query() {
    let request = parse(&head("/a/../%62//c?x=%2e%2e/&y", &[])).unwrap();
    assert_eq!(request.path(), "/b/c");
    assert_eq!(request.path_and_query(), "/b/c?x=%2e%2e/&y");
    assert!(matches!(parse(&head("/a%2fb", &[])), Err(Refusal::MalformedPath { .. })));
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9_.-]{1,12}",
        Just("x-service-id".to_owned()),
        Just("authorization".to_owned()),
        Just("host".to_owned()),
        Just("connection".to_owned()),
        Just("X_Tenant-Id".to_owned()),
        Just("content-length".to_owned()),
        Just("transfer-encoding".to_owned()),
        Just("x-request-id".to_owned()),
    ]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..24),
        Just(b"chunked".to_vec()),
        Just(b"7/42".to_vec()),
        Just(b"x-tenant-id, x-mine".to_vec()),
        "[0-9:/]{0,6}".prop_map(String::into_bytes),
    ]
}

prop_compose! {
    fn any_head()(
        target in "(/[a-z.%;2eE/]{0,12}|[ -~]{0,16})",
        pairs in proptest::collection::vec((any_name(), any_value()), 0..12),
        h2 in any::<bool>(),
    ) -> Option<Parts> {
        let uri: http::Uri = target.parse().ok()?;
        let mut parts = head("/", &[]);
        parts.uri = uri;
        parts.version = if h2 { Version::HTTP_2 } else { Version::HTTP_11 };
        for (name, value) in pairs {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(&value)) {
                parts.headers.append(name, value);
            }
        }
        Some(parts)
    }
}

#[test]
fn a_path_that_names_the_service_reaches_it_without_that_segment() {
    let world = World::new();
    let auth = world.bearer();
    for (target, path, query) in [
        ("/s42.b7/a/b?c=d", "/a/b", "?c=d"),
        ("/s42.b7", "/", ""),
        ("/s42.b7?c=d", "/", "?c=d"),
        ("/x/../s42.b7/a", "/a", ""),
        ("/%7342.b7//a", "/a", ""),
        ("//s42.b7/./a/", "/a/", ""),
        ("/s42.b7/s43.b7/a", "/s43.b7/a", ""),
        ("http://s42.b7.bp.example/s42.b7/a", "/a", ""),
    ] {
        let pairs = [("authorization", auth.as_str()), ("x-forwarded-prefix", "/forged")];
        let mut parts = head(target, &pairs);
        if target.starts_with("http:") {
            parts.headers.insert("host", HeaderValue::from_static("s42.b7.bp.example"));
        }
        let request = parse(&parts).unwrap();
        let access = AccessTable::new([(world.token.id(), world.grant.clone())]);
        let admission = decide(&request, &trust(access), NOW).unwrap();
        assert_eq!(admission.service(), SERVICE, "{target}");
        assert_eq!(request.path_and_query(), format!("{path}{query}"), "{target}");
        let built = upstream_headers(&request, &parts.headers, &admission, None);
        let told: Vec<_> = built.get_all("x-forwarded-prefix").iter().collect();
        assert_eq!(told, ["/s42.b7"], "{target}");
    }
    let plain = head("/a/s42.b7", &[("x-forwarded-prefix", "/forged"), ("x_forwarded_prefix", "/forged")]);
    let request = parse(&plain).unwrap();
    assert_eq!((request.path(), request.prefix(), request.selector()), ("/a/s42.b7", None, None));
    let built = upstream_headers(&request, &plain.headers, &world.admission(), None);
    assert!(built.keys().all(|name| !name.as_str().contains("prefix")), "{built:?}");
}

#[test]
fn nothing_climbs_out_of_a_path_that_names_a_service() {
    let world = World::new();
    for (target, service) in [("/s42.b7/../s60.b8/x", 60), ("/s60.b8/%2e%2e/s42.b7/x", 42)] {
        let request = parse(&head(target, &[("authorization", &world.bearer())])).unwrap();
        assert!(
            matches!(request.selector(), Some(Selector::Exact(key)) if key.service == service),
            "{target}"
        );
        assert_eq!(request.path(), "/x", "{target}");
    }
    for target in ["/s42.b7/../..", "/s42.b7/..%2fs60.b8/x", "/s42.b7/..;/s60.b8/x"] {
        let refused = parse(&head(target, &[]));
        assert!(matches!(refused, Err(Refusal::MalformedPath { .. })), "{target}: {refused:?}");
    }
}

proptest! {
    /// What the service gets is a path in its normal form, whichever way the service was named.
    #[test]
    fn a_path_is_as_normal_after_its_prefix_was_taken_off(rest in "(/[a-z.%0-9A-F]{0,5}){0,4}") {
        if let Ok(request) = parse(&head(&format!("/s42.b7{rest}"), &[])) {
            let again = parse(&head(request.path(), &[])).unwrap();
            let named_twice = again.prefix().is_some();
            prop_assert!(named_twice || again.path() == request.path(), "{}", request.path());
            prop_assert!(request.path().starts_with('/') && !request.path().contains("//"));
        }
    }
}

proptest! {
    #[test]
    fn no_head_panics_and_nothing_is_admitted_without_a_token(parts in any_head()) {
        let Some(parts) = parts else { return Ok(()) };
        let world = World::new();
        let access = AccessTable::new([(world.token.id(), world.grant.clone())]);
        if let Ok(request) = parse(&parts) {
            prop_assert!(decide(&request, &trust(access), NOW).is_err());
        }
    }

    #[test]
    fn building_the_new_request_twice_changes_nothing(parts in any_head()) {
        let Some(parts) = parts else { return Ok(()) };
        let Ok(request) = parse(&parts) else { return Ok(()) };
        let admission = World::new().admission();
        let once = upstream_headers(&request, &parts.headers, &admission, None);
        let twice = upstream_headers(&request, &once, &admission, None);
        prop_assert_eq!(&once, &twice);
        prop_assert!(!once.contains_key("authorization") && !once.contains_key("connection"));
        let tenant = admission.identity().tenant_id().to_owned();
        for (name, value) in &once {
            let folded = name.as_str().replace(['_', '.'], "-");
            prop_assert!(folded != "x-tenant-id" || value.as_bytes() == tenant.as_bytes());
        }
    }
}
