//! Keys that an issuer publishes, over a real HTTPS server: rotated, unknown, and not to be had.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blueprint_hub_proxy::JwksConfig;
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::identity::OAuthPolicy;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::rig::{Rig, full, text};

/// An EC key of an issuer and its name.
struct Key {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { kid, pair }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap().split_at(32);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
                "x": encode(x), "y": encode(y) })
    }

    fn assertion(&self) -> String {
        let signed = unsigned(&json!({ "alg": "ES256", "kid": self.kid }));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header and payload of a good assertion, each with a `jti` of its own.
fn unsigned(header: &Value) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let payload = json!({ "iss": "https://issuer.test", "sub": "somebody", "iat": now, "exp": now + 60,
                          "jti": COUNT.fetch_add(1, Ordering::Relaxed).to_string() });
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(&payload))
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// What the issuer's server answers.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    delay: Duration,
}

impl From<String> for Answer {
    fn from(body: String) -> Self {
        Self { status: 200, headers: Vec::new(), body, delay: Duration::ZERO }
    }
}

struct Issuer {
    address: SocketAddr,
    authority: CertificateDer<'static>,
    answer: Arc<Mutex<Answer>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    /// Serves `/keys` of `localhost`.
    async fn start(rig: &Rig, answer: impl Into<Answer>) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let made = Self {
            address: listener.local_addr().unwrap(),
            authority: authority.der().clone(),
            answer: Arc::new(Mutex::new(answer.into())),
            fetches: Arc::default(),
        };
        let (acceptor, answer) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(&made.answer));
        let (fetches, spawner) = (Arc::clone(&made.fetches), rig.spawner.clone());
        rig.spawner.spawn("issuer", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, fetches) =
                    (acceptor.clone(), Arc::clone(&answer), Arc::clone(&fetches));
                spawner.spawn("issuer connection", async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request: Request<hyper::body::Incoming>| {
                        fetches.fetch_add(1, Ordering::SeqCst);
                        let answer = answer.lock().clone();
                        async move {
                            assert_eq!(request.uri().path(), "/keys");
                            assert!(!request.headers().contains_key("authorization"));
                            tokio::time::sleep(answer.delay).await;
                            let mut response = Response::builder().status(answer.status);
                            for (name, value) in answer.headers {
                                response = response.header(name, value);
                            }
                            Ok::<_, Infallible>(response.body(Full::new(Bytes::from(answer.body))).unwrap())
                        }
                    });
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        made
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

/// A proxy that trusts an issuer, and what it trusts of it.
struct Bench {
    rig: Rig,
    issuer: Issuer,
}

impl Bench {
    async fn new(answer: impl Into<Answer>) -> Self {
        Self::with(answer, |port| format!("localhost:{port}"), true).await
    }

    async fn with(answer: impl Into<Answer>, host: impl Fn(u16) -> String, private: bool) -> Self {
        // The server runs before the proxy is made.
        let yard = Rig::new().await;
        let issuer = Issuer::start(&yard, answer).await;
        let hosts = host(issuer.address.port()).parse().unwrap();
        let config = JwksConfig::new(hosts, vec![issuer.authority.clone()], private).unwrap();
        let rig = Rig::with(|proxy| proxy.jwks = Some(config)).await;
        rig.settle(ServiceSettings {
            oauth: Some(OAuthPolicy {
                allowed_issuers: vec!["https://issuer.test".to_owned()],
                jwks_url: Some(format!("https://localhost:{}/keys", issuer.address.port())),
                ..OAuthPolicy::default()
            }),
            ..ServiceSettings::default()
        });
        Self { rig, issuer }
    }

    /// Status and `error` of a request for a token.
    async fn token(&self, assertion: &str) -> (StatusCode, String) {
        let body =
            format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
        let request = Request::post("/v1/oauth/token")
            .header("host", "hub")
            .header("x-service-id", "42")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(full(body))
            .unwrap();
        let response = self.rig.http1().await.send_request(request).await.unwrap();
        let status = response.status();
        let answer: Value = serde_json::from_str(&text(response).await).unwrap();
        (status, answer.get("error").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    async fn is_taken(&self, assertion: &str) -> bool {
        let (status, error) = self.token(assertion).await;
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST), "{status} {error}");
        status == StatusCode::OK
    }

    fn outcomes(&self, label: &str) -> bool {
        let line = format!("hub_proxy_jwks_fetches_total{{outcome=\"{label}\"}} ");
        let encoded = self.rig.metrics.encode();
        let count = encoded.lines().find_map(|found| found.strip_prefix(&line)).unwrap();
        count != "0"
    }
}

#[tokio::test]
async fn a_new_key_is_fetched_when_it_is_named_and_the_old_one_dies_with_that() {
    let (one, two, stranger) = (Key::new("one"), Key::new("two"), Key::new("three"));
    let bench = Bench::new(set(&[one.jwk()])).await;
    assert!(bench.is_taken(&one.assertion()).await);
    assert_eq!(bench.issuer.fetches(), 1);
    assert!(bench.is_taken(&one.assertion()).await);
    assert_eq!(bench.issuer.fetches(), 1, "no request asks for what is known");

    *bench.issuer.answer.lock() = set(&[two.jwk()]).into();
    assert!(bench.is_taken(&one.assertion()).await, "nobody has looked yet");
    let (both, again) = (two.assertion(), two.assertion());
    let (first, second) = tokio::join!(bench.is_taken(&both), bench.is_taken(&again));
    assert!(first && second);
    assert_eq!(bench.issuer.fetches(), 2, "two requests, one fetch");
    assert!(!bench.is_taken(&one.assertion()).await, "it is not in the set any more");
    for _ in 0..3 {
        assert!(!bench.is_taken(&stranger.assertion()).await);
    }
    assert_eq!(bench.issuer.fetches(), 2, "one fetch for unknown keys in 30 s");
    let forged = Key::new("two");
    assert!(!bench.is_taken(&forged.assertion()).await, "a name alone is nothing");
    assert!(bench.outcomes("ok"));
}

#[tokio::test]
async fn the_header_of_a_token_chooses_no_weaker_algorithm() {
    let pair = RsaKeyPair::from_pkcs8(include_bytes!("../../../proxy-core/tests/data/rs256-test-only.der"));
    let pair = pair.unwrap();
    let public = pair.public();
    let ring::rsa::PublicKeyComponents::<Vec<u8>> { n, e } = public.into();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk = json!({ "kty": "RSA", "kid": "rsa", "n": encode(&n), "e": encode(&e) });
    let bench = Bench::new(set(std::slice::from_ref(&jwk))).await;

    let signed = unsigned(&json!({ "alg": "RS256", "kid": "rsa" }));
    let mut signature = vec![0; public.modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    assert!(bench.is_taken(&format!("{signed}.{}", encode(&signature))).await);
    let refused = |error: &str| (StatusCode::BAD_REQUEST, error.to_owned());
    let pem = include_bytes!("../../../proxy-core/tests/data/rs256-test-only.pub.pem").as_slice();
    for secret in [pem, &n, public.as_ref(), jwk.to_string().as_bytes(), b""] {
        let signed = unsigned(&json!({ "alg": "HS256", "kid": "rsa" }));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let tag = ring::hmac::sign(&key, signed.as_bytes());
        let token = format!("{signed}.{}", encode(tag.as_ref()));
        assert_eq!(bench.token(&token).await, refused("invalid_request"));
    }
    for alg in ["none", "None", "RS512", "PS256", "ES256K", ""] {
        let signed = unsigned(&json!({ "alg": alg, "kid": "rsa" }));
        assert_eq!(bench.token(&format!("{signed}.")).await, refused("invalid_request"), "{alg}");
    }
    let signed = unsigned(&json!({ "alg": "ES256", "kid": "rsa" }));
    let token = format!("{signed}.{}", encode(&[1; 64]));
    assert_eq!(bench.token(&token).await, refused("invalid_grant"), "a key has one algorithm");
}

#[tokio::test]
async fn an_answer_that_is_none_gives_no_key() {
    let key = Key::new("one");
    let good = set(&[key.jwk()]);
    let answer = |status, headers, body: &str| Answer {
        status,
        headers,
        body: body.to_owned(),
        delay: Duration::ZERO,
    };
    for (answer, label) in [
        (answer(302, vec![("location", "https://localhost/keys".to_owned())], &good), "redirect"),
        (answer(307, vec![("location", "/keys".to_owned())], &good), "redirect"),
        (answer(500, vec![], &good), "status"),
        (answer(204, vec![], ""), "status"),
        (answer(200, vec![], "<html>"), "malformed"),
        (answer(200, vec![], &format!("{good}{}", " ".repeat(64 << 10))), "too_long"),
        (answer(200, vec![("x-long", "x".repeat(20_000))], &good), "http"),
    ] {
        let bench = Bench::new(answer).await;
        assert!(!bench.is_taken(&key.assertion()).await, "{label}");
        assert!(bench.outcomes(label), "{label}: {}", bench.rig.metrics.encode());
        assert!(!bench.outcomes("ok"), "{label}");
    }
}

#[tokio::test]
async fn nothing_is_asked_that_the_operator_did_not_name_or_that_is_not_public() {
    let key = Key::new("one");
    for (host, private, label) in [
        ("localhost", true, "host_not_allowed"),
        ("issuer.example", true, "host_not_allowed"),
        ("", true, "host_not_allowed"),
        ("localhost:PORT", false, "not_public"),
    ] {
        let named = |port: u16| host.replace("PORT", &port.to_string());
        let bench = Bench::with(set(&[key.jwk()]), named, private).await;
        assert!(!bench.is_taken(&key.assertion()).await, "{label}");
        assert!(bench.outcomes(label), "{label}");
        assert_eq!(bench.issuer.fetches(), 0, "{label}");
    }
    let stranger = Bench::new(set(&[key.jwk()])).await;
    // The same host with a certificate of an authority that nobody named.
    let hosts = format!("localhost:{}", stranger.issuer.address.port()).parse().unwrap();
    let config = JwksConfig::new(hosts, vec![], true).unwrap();
    let rig = Rig::with(|proxy| proxy.jwks = Some(config)).await;
    rig.trust.store(stranger.rig.trust.load_full());
    let bench = Bench { rig, issuer: stranger.issuer };
    assert!(!bench.is_taken(&key.assertion()).await);
    assert!(bench.outcomes("tls"));
}

#[tokio::test]
async fn an_issuer_that_is_slow_holds_requests_for_five_seconds_at_most() {
    let key = Key::new("one");
    let answer = Answer { delay: Duration::from_secs(60), ..set(&[key.jwk()]).into() };
    let bench = Bench::new(answer).await;
    let begun = tokio::time::Instant::now();
    assert!(!bench.is_taken(&key.assertion()).await);
    assert!(begun.elapsed() < Duration::from_millis(5_800), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(bench.outcomes("timed_out"));
}
