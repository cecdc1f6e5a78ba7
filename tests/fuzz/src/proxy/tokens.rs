//! Credentials of any bytes are worth nothing, and damaged ones no more.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blueprint_common_types::{Secret, Timestamp};
use blueprint_hub_proxy_core::identity::{
    Challenges, Claims, KeyId, KeyKind, OAuthPolicy, OwnerKey, SealingKey, Signed, VerifyingKey,
    bind_headers, decode_hex, encode_hex, extend_headers, tenant_id, verify_assertion,
};
use blueprint_hub_proxy_core::{CanonicalRequest, Service, ServiceSettings, decide};
use http::{HeaderValue, Request};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use super::hub::{self, Hub};
use crate::input::Input;

/// What is genuine.
struct Genuine {
    sealing: SealingKey,
    claims: Claims,
    sealed: String,
    policy: OAuthPolicy,
    keys: Vec<VerifyingKey>,
    assertion: String,
}

fn genuine() -> &'static Genuine {
    static GENUINE: LazyLock<Genuine> = LazyLock::new(Genuine::new);
    &GENUINE
}

impl Genuine {
    fn new() -> Self {
        let sealing = SealingKey::new(&Secret::new([3; 32])).unwrap();
        let claims = Claims {
            service_id: (42, 0),
            blueprint: 7,
            tenant_id: Some("a".repeat(32)),
            tenant_binding: None,
            additional_headers: BTreeMap::from([("x-plan".to_owned(), "gold".to_owned())]),
            expires_at: hub::NOW.as_secs() + 900,
            issued_at: hub::NOW.as_secs(),
            key_id: "ak_Zm9vYmFyMTI".to_owned(),
            jti: "1".to_owned(),
            scopes: None,
        }
        .bound();
        let sealed = sealing.seal(&claims).unwrap().expose().clone();
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        let head = decode_hex("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let pem = STANDARD.encode([&head, pair.public_key().as_ref()].concat());
        let policy = OAuthPolicy {
            allowed_issuers: vec!["i".to_owned()],
            public_keys_pem: vec![format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")],
            ..OAuthPolicy::default()
        };
        let seconds = hub::NOW.as_secs();
        let claims_of =
            format!(r#"{{"iss":"i","sub":"s","iat":{seconds},"exp":{},"jti":"1"}}"#, seconds + 60);
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(claims_of));
        let signature = pair.sign(&random, signed.as_bytes()).unwrap();
        let assertion = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let keys = policy.keys().unwrap();
        assert!(verify_assertion(&assertion, &policy, &keys, hub::NOW).is_ok());
        assert_eq!(sealing.open(&sealed).as_ref(), Some(&claims));
        Self { sealing, claims, sealed, policy, keys, assertion }
    }
}

/// Damages a text at the places that the input names.
fn damage(genuine: &str, input: &mut Input<'_>) -> Option<String> {
    let mut bytes = genuine.as_bytes().to_vec();
    while let Some(at) = input.short() {
        let at = usize::from(at) % bytes.len().max(1);
        match input.below(4)? {
            0 => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (at % 7)),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, input.byte()?),
            _ => {
                let with = input.byte()?;
                bytes[at..].iter_mut().take(1).for_each(|byte| *byte = with);
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    String::from_utf8(bytes).ok().filter(|damaged| damaged != genuine)
}

/// Plays an input: its first byte says what it is.
pub(crate) fn play(data: &[u8]) {
    let mut input = Input(data);
    let Some(kind) = input.below(8) else { return };
    let text = String::from_utf8_lossy(input.0).into_owned();
    match kind {
        0 => credential(input.0),
        1 => sealed(&mut input),
        2 => {
            assert_eq!(genuine().sealing.open(&text), None);
            assert_eq!(genuine().sealing.open(&format!("v4.local.{text}")), None);
        }
        3 => assertion(&mut input),
        4 => owner(&mut input),
        5 => settings(input.0),
        6 => bound(&mut input),
        _ => {
            if let Some(bytes) = decode_hex(&text) {
                assert_eq!(decode_hex(&encode_hex(&bytes)), Some(bytes));
            }
            if let Some(id) = KeyId::parse(&text) {
                assert!(id.as_str().is_ascii() && !id.as_str().contains([' ', '\r', '\n']), "{id:?}");
            }
            let refused = verify_assertion(&text, &genuine().policy, &genuine().keys, hub::NOW);
            assert!(refused.is_err());
        }
    }
}

/// Shown to the proxy, it opens nothing.
fn credential(bytes: &[u8]) {
    let hub = Hub::get();
    for prefix in ["", "Bearer ", "Bearer bpa_", "Bearer ak_", "Bearer v4.local."] {
        let Ok(value) = HeaderValue::from_bytes(&[prefix.as_bytes(), bytes].concat()) else { return };
        let request = Request::builder().header("host", "hub").header("x-service-id", "7/42");
        let (parts, ()) = request.header("authorization", &value).body(()).unwrap().into_parts();
        let parsed = CanonicalRequest::parse(&parts, &hub.downstream()).unwrap();
        assert!(decide(&parsed, &hub.trust, hub::NOW).is_err(), "{value:?}");
        // What is said about it, to clients and in logs, has nothing of it.
        let said = format!("{parsed:?}");
        let secret = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).map(str::trim);
        if let Some(secret) = secret.filter(|secret| secret.len() > 24 && secret.is_ascii()) {
            assert!(!said.contains(&secret[12..]), "{said} tells {secret}");
        }
    }
}

fn sealed(input: &mut Input<'_>) {
    let Some(damaged) = damage(&genuine().sealed, input) else { return };
    // Bits that the encoding does not use may differ; what it says may not.
    if let Some(claims) = genuine().sealing.open(&damaged) {
        assert_eq!(claims, genuine().claims, "{damaged}");
    }
}

fn assertion(input: &mut Input<'_>) {
    let Some(damaged) = damage(&genuine().assertion, input) else { return };
    let signed = |text: &str| text.rsplit_once('.').map(|(signed, _)| signed.to_owned());
    let verified = verify_assertion(&damaged, &genuine().policy, &genuine().keys, hub::NOW);
    if verified.is_ok() {
        assert_eq!(signed(&damaged), signed(&genuine().assertion), "{damaged}");
    }
}

fn owner(input: &mut Input<'_>) {
    let (Some(kind), Some(length)) = (input.below(3), input.below(130)) else { return };
    let kind = [KeyKind::Ecdsa, KeyKind::Sr25519, KeyKind::Bn254Bls][kind];
    let Ok(key) = OwnerKey::new(kind, input.bytes(length)) else { return };
    assert_eq!(key.to_string().parse().as_ref(), Ok(&key));
    assert_eq!(OwnerKey::new(kind, key.as_bytes()).as_ref(), Ok(&key));
    let signature = input.0;
    assert!(
        !key.verifies(Signed::Raw(&[7; 32]), signature) || !key.verifies(Signed::Raw(&[8; 32]), signature)
    );
    let _ = key.verifies(Signed::Text("text"), signature);
    let mut open = Challenges::default();
    let challenge = open.open([7; 32], hub::SERVICE, key.clone(), hub::SOURCE, hub::NOW).unwrap();
    assert!(
        !challenge.text().contains('\r') && challenge.text().lines().count() == 5,
        "{}",
        challenge.text()
    );
    assert!(open.take(&[7; 32], hub::SERVICE, &key, hub::NOW).is_ok());
    assert!(open.take(&[7; 32], hub::SERVICE, &key, hub::NOW).is_err());
}

/// Whatever can be read as settings can be written, and is the same afterwards.
fn settings(bytes: &[u8]) {
    if let Ok(settings) = serde_json::from_slice::<ServiceSettings>(bytes) {
        let again = serde_json::from_slice(&serde_json::to_vec(&settings).unwrap());
        assert_eq!(again.ok().as_ref(), Some(&settings));
        let _ = Service::new(settings);
    }
    if let Ok(claims) = serde_json::from_slice::<Claims>(bytes) {
        assert!(claims.end() >= Timestamp::from_millis(0));
    }
    let _ = VerifyingKey::from_jwk_set(bytes);
    let _ = VerifyingKey::from_pem(&String::from_utf8_lossy(bytes));
}

/// What may be bound to a key says who a customer is, and nothing else of the hub's.
fn bound(input: &mut Input<'_>) {
    let mut headers = BTreeMap::new();
    while let (Some(name), Some(value)) = (input.below(24), input.below(24)) {
        let name = String::from_utf8_lossy(input.bytes(name)).into_owned();
        headers.insert(format!("x-{name}"), String::from_utf8_lossy(input.bytes(value)).into_owned());
    }
    let Ok(bound) = bind_headers(&headers) else { return };
    for (name, value) in &bound {
        assert!(
            name.starts_with("x-") && !name.contains('_') && *name == name.to_ascii_lowercase(),
            "{name}"
        );
        for ours in [
            "x-auth",
            "x-scope",
            "x-client-cert",
            "x-forwarded",
            "x-blueprint",
            "x-service-id",
            "x-request-id",
        ] {
            assert!(
                !name.starts_with(ours) || !name[ours.len()..].starts_with('-') && name != ours,
                "{name}"
            );
        }
        assert!(!value.contains(['\r', '\n', '\0']), "{value:?}");
    }
    let of_key = BTreeMap::from([("x-tenant-id".to_owned(), "b".repeat(32))]);
    if let Ok(all) = extend_headers(&of_key, "ecdsa:02", &bound) {
        assert_eq!(all.get("x-tenant-id"), of_key.get("x-tenant-id"));
    }
    // Nobody who holds a key says who calls.
    if let Ok(all) = extend_headers(&BTreeMap::new(), "ecdsa:02", &bound) {
        assert_eq!(all.get("x-tenant-id"), Some(&tenant_id("ecdsa:02")));
        let persons = ["x-user-id", "x-user-email", "x-customer-email", "x-tenant-name"];
        assert!(!persons.iter().any(|&name| all.contains_key(name)), "{all:?}");
    }
}
