//! Clients of the existing Blueprint auth proxy, written against its published documentation.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of a test crate stand outside #[test]"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use ark_bn254::{Fq, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{Field, PrimeField};
use ark_serialize::CanonicalSerialize;
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::identity::{KeyKind, OAuthPolicy, OwnerKey, decode_hex, encode_hex};
use blueprint_hub_proxy_core::{Service, ServiceSettings, Trust};
use blueprint_tests_support::{Launch, Need, require};
use http::{Request, StatusCode};
use rig::{Rig, full, mirror, text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

#[expect(dead_code, reason = "these tests need only some of it")]
#[path = "../proxy/rig.rs"]
mod rig;

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/published/client.py");
/// A key pair that signs assertions in tests and nothing else.
const RSA_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proxy-core/tests/data/rs256-test-only.der");
const RSA_PUBLIC: &str = include_str!("../../../proxy-core/tests/data/rs256-test-only.pub.pem");

/// A service beside the one that the clients ask for, with the same owners.
const OTHER: ServiceKey = ServiceKey { blueprint: 7, service: 60 };

async fn rig(settings: &ServiceSettings) -> Rig {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    rig.settle(settings.clone());
    let mut trust = Trust::clone(&rig.trust.load());
    trust.services.insert(OTHER, Service::new(settings.clone()).unwrap().into());
    rig.trust.store(trust.into());
    rig
}

#[tokio::test]
async fn a_client_of_the_published_documentation_works_unchanged() {
    if !require(&[Need::Program("python3")]) {
        return;
    }
    let python = |arguments: &[&str]| Launch::new("python3").args(["-B", CLIENT]).args(arguments);
    let keys = python(&["keys"]).run(Duration::from_secs(20)).unwrap();
    let keys: Value = serde_json::from_str(&keys.stdout).unwrap();
    let key = |name: &str| keys.get(name).and_then(Value::as_str).unwrap().to_owned();
    let settings = ServiceSettings {
        api_key_prefix: "acme_".to_owned(),
        owners: BTreeSet::from([key("owner").parse().unwrap()]),
        oauth: Some(OAuthPolicy {
            allowed_issuers: vec!["https://issuer.example".to_owned()],
            required_audiences: vec!["https://hub.example".to_owned()],
            public_keys_pem: vec![RSA_PUBLIC.to_owned(), key("issuer")],
            allowed_scopes: Some(vec!["read".to_owned(), "write".to_owned()]),
            ..OAuthPolicy::default()
        }),
        ..ServiceSettings::default()
    };
    let rig = rig(&settings).await;
    let address = rig.proxy.to_string();
    let run = move || python(&["run", &address, RSA_KEY]).run(Duration::from_secs(60));
    let done = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(done.code == Some(0) && done.stdout.ends_with("done\n"), "{}{}", done.stdout, done.stderr);
}

async fn post(rig: &Rig, path: &str, service: &str, body: &Value) -> (StatusCode, Value) {
    let request = Request::post(path).header("host", "hub").header("x-service-id", service);
    let request = request.body(full(body.to_string())).unwrap();
    let response = rig.http1().await.send_request(request).await.unwrap();
    let status = response.status();
    (status, serde_json::from_str(&text(response).await).unwrap())
}

/// Signs the bytes of a challenge, or the text beside them as the wallets of that kind of key do.
type Sign<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// Goes the way of an owner whose key is not ECDSA, with both things that it may sign.
async fn owner_works(kind: KeyKind, name: &str, public: &[u8], sign: Sign<'_>, wrap: fn(&str) -> String) {
    let owner = OwnerKey::new(kind, public).unwrap();
    let settings = ServiceSettings { owners: BTreeSet::from([owner]), ..ServiceSettings::default() };
    let rig = rig(&settings).await;
    let key = json!({ "pub_key": encode_hex(public), "key_type": name });
    let solve = async |of_text: bool, signed: Option<&[u8]>| {
        let (status, open) = post(&rig, "/v1/auth/challenge", "42", &key).await;
        assert_eq!(status, StatusCode::OK, "{open}");
        let word = |name: &str| open.get(name).and_then(Value::as_str).unwrap().to_owned();
        let bytes = if of_text {
            wrap(&word("message")).into_bytes()
        } else {
            decode_hex(&word("challenge")).unwrap()
        };
        let mut solution = key.clone();
        solution["challenge"] = open["challenge"].clone();
        solution["signature"] = json!(encode_hex(&sign(signed.unwrap_or(&bytes))));
        solution["expires_at"] = json!(0);
        solution
    };
    for of_text in [false, true] {
        let solution = solve(of_text, None).await;
        let (status, verified) = post(&rig, "/v1/auth/verify", "42:0", &solution).await;
        assert_eq!((status, &verified["status"]), (StatusCode::CREATED, &json!("Verified")), "{verified}");
        let (status, _) = post(&rig, "/v1/auth/verify", "42", &solution).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "captured");
        let key = verified.pointer("/data/api_key").and_then(Value::as_str).unwrap();
        let request =
            Request::get("/").header("host", "hub").header("authorization", format!("Bearer {key}"));
        let answer = rig.http1().await.send_request(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let other = solve(false, Some(&[7; 32])).await;
    let (status, refused) = post(&rig, "/v1/auth/verify", "42", &other).await;
    assert_eq!((status, &refused["status"]), (StatusCode::UNAUTHORIZED, &json!("InvalidSignature")));
    let moved = solve(false, None).await;
    let (status, _) = post(&rig, "/v1/auth/verify", "60", &moved).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "a challenge of one service opens no other");
}

#[tokio::test]
async fn an_sr25519_owner_works() {
    let secret = schnorrkel::MiniSecretKey::from_bytes(&[5; 32]).unwrap();
    let pair = secret.expand_to_keypair(schnorrkel::ExpansionMode::Ed25519);
    let context = schnorrkel::signing_context(b"substrate");
    let sign = |bytes: &[u8]| pair.sign(context.bytes(bytes)).to_bytes().to_vec();
    let wrap = |text: &str| format!("<Bytes>{text}</Bytes>");
    owner_works(KeyKind::Sr25519, "Sr25519", &pair.public.to_bytes(), &sign, wrap).await;
}

fn compressed(point: &impl CanonicalSerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    point.serialize_compressed(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_bls_owner_works() {
    let secret = Fr::from(7_654_321_u64);
    let public = compressed(&(G2Affine::generator() * secret).into_affine());
    let sign = |bytes: &[u8]| {
        // The first point at or behind the hash.
        let mut x = Fq::from_be_bytes_mod_order(&Sha256::digest(bytes));
        let y = loop {
            match (x * x * x + Fq::from(3_u64)).sqrt() {
                Some(y) => break y,
                None => x += Fq::ONE,
            }
        };
        compressed(&(G1Affine::new(x, y) * secret).into_affine())
    };
    owner_works(KeyKind::Bn254Bls, "Bn254Bls", &public, &sign, str::to_owned).await;
}
