//! Owners, challenges, assertions and rules, with keys made here.
#![expect(clippy::unwrap_used, reason = "helpers of a test crate stand outside #[test]")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ark_bn254::{Fq, Fr, G1Affine, G2Affine};
use ark_ec::{AffineRepr, CurveGroup};
use ark_ff::{Field, PrimeField};
use ark_serialize::CanonicalSerialize;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::identity::{
    Assertion, AssertionError, CHALLENGE_LIFE, ChallengeError, Challenges, JwksUrlError, KeyKind, MAX_USED,
    OAuthPolicy, OAuthPolicyError, OwnerKey, Replays, SKEW, Signed, VerifyingKey, verify_assertion,
};
use blueprint_hub_proxy_core::{Rule, Service, ServiceSettings, SettingsError, Verdict};
use k256::ecdsa::signature::hazmat::PrehashSigner;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sha3::Keccak256;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
const NONCE: [u8; 32] = [7; 32];
/// A key pair that signs assertions in these tests and nothing else.
const RSA_PRIVATE: &[u8] = include_bytes!("data/rs256-test-only.der");
const RSA_PUBLIC: &str = include_str!("data/rs256-test-only.pub.pem");

fn ecdsa(seed: u8) -> k256::ecdsa::SigningKey {
    k256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap()
}

fn owner(seed: u8) -> OwnerKey {
    OwnerKey::new(KeyKind::Ecdsa, &ecdsa(seed).verifying_key().to_sec1_bytes()).unwrap()
}

fn compressed(point: &impl CanonicalSerialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    point.serialize_compressed(&mut bytes).unwrap();
    bytes
}

#[test]
fn ecdsa_owners_sign_bytes_and_texts() {
    let key = ecdsa(3);
    let point = key.verifying_key().to_encoded_point(false);
    let owner = OwnerKey::new(KeyKind::Ecdsa, point.as_bytes()).unwrap();
    assert_eq!(owner, self::owner(3), "both forms of a key are one key");
    let signature: k256::ecdsa::Signature = key.sign_prehash(&NONCE).unwrap();
    let bytes = signature.to_bytes().to_vec();
    assert!(owner.verifies(Signed::Raw(&NONCE), &bytes));
    assert!(owner.verifies(Signed::Raw(&NONCE), &[&bytes[..], &[27]].concat()), "with a recovery id");
    assert!(!owner.verifies(Signed::Raw(&[8; 32]), &bytes));
    assert!(!self::owner(4).verifies(Signed::Raw(&NONCE), &bytes));
    for wrong in [&[][..], &bytes[..63], &[&bytes[..], &[0, 0]].concat(), &[0; 64]] {
        assert!(!owner.verifies(Signed::Raw(&NONCE), wrong));
    }
    let digest = Keccak256::digest("\u{19}Ethereum Signed Message:\n5hello");
    let signature: k256::ecdsa::Signature = key.sign_prehash(&digest).unwrap();
    assert!(owner.verifies(Signed::Text("hello"), &signature.to_bytes()));
    assert!(!owner.verifies(Signed::Text("hullo"), &signature.to_bytes()));
}

#[test]
fn sr25519_owners_sign_in_the_context_of_their_chain() {
    let pair = schnorrkel::MiniSecretKey::from_bytes(&[5; 32])
        .unwrap()
        .expand_to_keypair(schnorrkel::ExpansionMode::Ed25519);
    let owner = OwnerKey::new(KeyKind::Sr25519, &pair.public.to_bytes()).unwrap();
    let context = schnorrkel::signing_context(b"substrate");
    let raw = pair.sign(context.bytes(&NONCE)).to_bytes();
    assert!(owner.verifies(Signed::Raw(&NONCE), &raw));
    assert!(!owner.verifies(Signed::Raw(&[8; 32]), &raw));
    let other = pair.sign(schnorrkel::signing_context(b"tangle").bytes(&NONCE)).to_bytes();
    assert!(!owner.verifies(Signed::Raw(&NONCE), &other));
    let text = pair.sign(context.bytes(b"<Bytes>hello</Bytes>")).to_bytes();
    assert!(owner.verifies(Signed::Text("hello"), &text));
    assert!(OwnerKey::new(KeyKind::Sr25519, &[0; 32]).is_err(), "the neutral element signs everything");
    assert!(OwnerKey::new(KeyKind::Sr25519, &[1; 31]).is_err());
}

#[test]
fn bls_owners_sign_points_of_messages() {
    let secret = Fr::from(1_234_567_u64);
    let public = (G2Affine::generator() * secret).into_affine();
    let owner = OwnerKey::new(KeyKind::Bn254Bls, &compressed(&public)).unwrap();
    // The map of the existing clients, written out once more.
    let mut x = Fq::from_be_bytes_mod_order(&Sha256::digest(NONCE));
    let point = loop {
        if let Some(y) = (x * x * x + Fq::from(3u64)).sqrt() {
            break G1Affine::new(x, y);
        }
        x += Fq::ONE;
    };
    let signature = compressed(&(point * secret).into_affine());
    assert!(owner.verifies(Signed::Raw(&NONCE), &signature));
    assert!(!owner.verifies(Signed::Raw(&[8; 32]), &signature));
    assert!(!owner.verifies(Signed::Raw(&NONCE), &compressed(&point)));
    assert!(!owner.verifies(Signed::Raw(&NONCE), &compressed(&G1Affine::zero())), "the neutral element");
    assert!(!owner.verifies(Signed::Raw(&NONCE), &[&signature[..], &[0]].concat()));
    assert!(OwnerKey::new(KeyKind::Bn254Bls, &compressed(&G2Affine::zero())).is_err());
}

#[test]
fn owner_keys_survive_their_text_form() {
    let key = owner(3);
    assert_eq!(key.to_string().parse(), Ok(key.clone()));
    assert_eq!(key.to_string().to_uppercase().replace("ECDSA:", "Ecdsa:0x").parse(), Ok(key));
    for wrong in ["", "ecdsa", "ecdsa:", "ecdsa:00", "rsa:00", "sr25519:zz", "bn254bls:00"] {
        assert!(wrong.parse::<OwnerKey>().is_err(), "{wrong}");
    }
}

#[test]
fn a_challenge_is_answered_once_in_time_and_by_whom_it_was_given() {
    let mut open = Challenges::default();
    let other = ServiceKey { blueprint: 7, service: 43 };
    open.open(NONCE, SERVICE, owner(3), SOURCE, NOW).unwrap();
    assert_eq!(open.take(&NONCE, other, &owner(3), NOW), Err(ChallengeError::NotOpen));
    assert_eq!(open.take(&NONCE, SERVICE, &owner(4), NOW), Err(ChallengeError::NotOpen));
    assert_eq!(open.take(&[8; 32], SERVICE, &owner(3), NOW), Err(ChallengeError::NotOpen));
    assert!(open.take(&NONCE, SERVICE, &owner(3), NOW).is_ok());
    assert_eq!(open.take(&NONCE, SERVICE, &owner(3), NOW), Err(ChallengeError::NotOpen), "only once");
    open.open(NONCE, SERVICE, owner(3), SOURCE, NOW).unwrap();
    let late = NOW.plus(CHALLENGE_LIFE);
    assert_eq!(open.take(&NONCE, SERVICE, &owner(3), late), Err(ChallengeError::Expired));
    assert!(open.is_empty());
}

#[test]
fn one_source_cannot_fill_the_challenges_of_all() {
    let mut open = Challenges::default();
    let nonce = |number: u8| [number; 32];
    let v6 = |low: u64| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(low)));
    let given = (0..100)
        .filter(|number| open.open(nonce(*number), SERVICE, owner(3), v6(u64::from(*number)), NOW).is_ok());
    assert_eq!(given.count(), 32, "one /64 is one source");
    assert!(open.open(nonce(200), SERVICE, owner(3), SOURCE, NOW).is_ok());
    assert!(open.open(nonce(201), SERVICE, owner(3), v6(1), NOW).is_err());
    assert!(open.open(nonce(201), SERVICE, owner(3), v6(1), NOW.plus(CHALLENGE_LIFE)).is_ok());
    assert_eq!(open.len(), 1, "expired ones made room");
}

#[test]
fn whoever_asks_in_the_names_of_owners_does_not_shut_them_out() {
    let nonce = |number: u32| {
        let mut nonce = [0; 32];
        nonce[..4].copy_from_slice(&number.to_be_bytes());
        nonce
    };
    // One /48 has 65,536 networks of a customer, and gets what eight may have.
    let mut open = Challenges::default();
    let within = |net: u32| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 | u128::from(net) << 64));
    let given =
        (0..2000).filter(|number| open.open(nonce(*number), SERVICE, owner(3), within(*number), NOW).is_ok());
    assert_eq!(given.count(), 256);
    let v4 = |low: u8| IpAddr::V4(Ipv4Addr::new(203, 0, 113, low));
    let given = (3000..5000u32).filter(|number| {
        open.open(nonce(*number), SERVICE, owner(3), v4(number.to_be_bytes()[3]), NOW).is_ok()
    });
    assert_eq!(given.count(), 256, "and so does one /24 of IPv4");

    // Forty /48s fill all that one owner may have, and lose their own to it.
    let mut open = Challenges::default();
    let site = |number: u32| {
        let bits = 0x2001_u128 << 112 | u128::from(number / 50) << 80 | u128::from(number % 8) << 64;
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    };
    open.open(nonce(u32::MAX), SERVICE, owner(3), SOURCE, NOW).unwrap();
    for number in 0..2000 {
        assert!(open.open(nonce(number), SERVICE, owner(3), site(number), NOW).is_ok(), "{number}");
    }
    assert_eq!(open.len(), 1000);
    assert!(open.take(&nonce(u32::MAX), SERVICE, &owner(3), NOW).is_ok(), "the owner's own is open still");
    assert!(open.take(&nonce(1999), SERVICE, &owner(3), NOW).is_ok(), "and so is the last");

    // The same in the names of many owners, up to what all may have together.
    let mut open = Challenges::default();
    open.open(nonce(u32::MAX), SERVICE, owner(3), SOURCE, NOW).unwrap();
    for number in 0..20_000 {
        let service = ServiceKey { blueprint: 8, service: u64::from(number % 100) };
        assert!(open.open(nonce(number), service, owner(4), site(number), NOW).is_ok(), "{number}");
    }
    assert_eq!(open.len(), 10_000);
    assert!(open.take(&nonce(u32::MAX), SERVICE, &owner(3), NOW).is_ok());
    // When their time is over, nothing of all that is left.
    let late = NOW.plus(CHALLENGE_LIFE);
    open.open(NONCE, SERVICE, owner(3), SOURCE, late).unwrap();
    assert!(open.take(&NONCE, SERVICE, &owner(3), late).is_ok() && open.is_empty());
}

/// An issuer with one key of each kind.
struct Issuer {
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ec =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).unwrap();
        Self { ec, rsa: RsaKeyPair::from_pkcs8(RSA_PRIVATE).unwrap() }
    }

    fn ec_pem(&self) -> String {
        // SubjectPublicKeyInfo of a P-256 key: a fixed head and the point.
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        let der = [&head[..], self.ec.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    fn policy(&self) -> OAuthPolicy {
        OAuthPolicy {
            allowed_issuers: vec!["https://issuer.example".to_owned()],
            required_audiences: vec!["https://hub.example".to_owned()],
            public_keys_pem: vec![RSA_PUBLIC.to_owned(), self.ec_pem()],
            allowed_scopes: Some(vec!["Read".to_owned(), "write".to_owned()]),
            ..OAuthPolicy::default()
        }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let random = SystemRandom::new();
        let signature = if header["alg"] == "ES256" {
            self.ec.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec()
        } else {
            let mut signature = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
            signature
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let seconds = NOW.as_secs();
    let mut claims = json!({
        "iss": "https://issuer.example", "sub": "customer-1", "aud": ["x", "https://hub.example"],
        "iat": seconds, "exp": seconds + 120, "jti": "1", "scope": "READ admin",
    });
    change(&mut claims);
    claims
}

#[test]
fn an_assertion_of_either_algorithm_is_believed() {
    let issuer = Issuer::new();
    let policy = issuer.policy();
    let keys = policy.keys().unwrap();
    for algorithm in ["RS256", "ES256"] {
        let text = issuer.sign(&json!({ "alg": algorithm, "typ": "JWT" }), &claims(|_| ()));
        let assertion = verify_assertion(&text, &policy, &keys, NOW).unwrap();
        assert_eq!(
            (assertion.issuer.as_str(), assertion.subject.as_str()),
            ("https://issuer.example", "customer-1")
        );
        assert_eq!(assertion.scopes, Some(vec!["read".to_owned()]), "the allowed ones of those asked for");
    }
}

/// What is wrong with the claims, at a time in seconds.
type Change = fn(&mut Value, u64);

#[test]
fn every_claim_that_does_not_fit_is_refused() {
    let issuer = Issuer::new();
    let policy = issuer.policy();
    let keys = policy.keys().unwrap();
    let seconds = NOW.as_secs();
    let table: [(Change, AssertionError); 19] = [
        (|c, _| c["iss"] = json!("https://evil.example"), AssertionError::Issuer),
        (|c, _| c["iss"] = json!(null), AssertionError::Issuer),
        (|c, _| c["aud"] = json!("https://other.example"), AssertionError::Audience),
        (|c, _| c["aud"] = json!(null), AssertionError::Audience),
        (|c, _| c["sub"] = json!(null), AssertionError::Subject),
        (|c, _| c["sub"] = json!(""), AssertionError::Subject),
        (|c, _| c["sub"] = json!("a".repeat(300)), AssertionError::Subject),
        (|c, _| c["iat"] = json!(null), AssertionError::Times),
        (|c, _| c["exp"] = json!(null), AssertionError::Times),
        (|c, s| c["iat"] = json!(s + 61), AssertionError::Times),
        (|c, s| c["nbf"] = json!(s + 61), AssertionError::Times),
        (|c, s| c["exp"] = json!(s + 301), AssertionError::Times),
        (|c, s| c["exp"] = json!(s), AssertionError::Times),
        (|c, _| c["exp"] = json!(1e300), AssertionError::Times),
        (|c, _| c["iat"] = json!(-1), AssertionError::Times),
        (|c, s| (c["iat"], c["exp"]) = (json!(s - 120), json!(s - 60)), AssertionError::Expired),
        (|c, _| c["jti"] = json!(null), AssertionError::NoId),
        (|c, _| c["jti"] = json!(""), AssertionError::NoId),
        (|c, _| c["scope"] = json!("admin"), AssertionError::Scopes),
    ];
    for (change, error) in table {
        let claims = claims(|claims| change(claims, seconds));
        let text = issuer.sign(&json!({ "alg": "ES256" }), &claims);
        assert_eq!(verify_assertion(&text, &policy, &keys, NOW), Err(error), "{claims}");
    }
    let late = NOW.plus(Duration::from_secs(120)).plus(SKEW);
    let text = issuer.sign(&json!({ "alg": "ES256" }), &claims(|_| ()));
    assert_eq!(verify_assertion(&text, &policy, &keys, late), Err(AssertionError::Expired));
}

#[test]
fn no_header_chooses_its_own_algorithm() {
    let issuer = Issuer::new();
    let policy = issuer.policy();
    let keys = policy.keys().unwrap();
    let good = issuer.sign(&json!({ "alg": "ES256" }), &claims(|_| ()));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (_, payload) = signed.split_once('.').unwrap();
    let swapped =
        |header: Value| format!("{}.{payload}.{signature}", URL_SAFE_NO_PAD.encode(header.to_string()));
    for (text, error) in [
        (swapped(json!({ "alg": "none" })), AssertionError::Unsupported),
        (swapped(json!({ "alg": "HS256" })), AssertionError::Unsupported),
        (swapped(json!({ "alg": "ES256", "crit": ["exp"] })), AssertionError::Unsupported),
        (swapped(json!({ "alg": "RS256" })), AssertionError::Signature),
        (swapped(json!({ "alg": "ES256", "kid": "x" })), AssertionError::Signature),
        (swapped(json!({})), AssertionError::Malformed),
        (format!("{signed}."), AssertionError::Signature),
        (signed.to_owned(), AssertionError::Malformed),
        (format!("{good}="), AssertionError::Malformed),
        (format!("{good}{}", "A".repeat(20_000)), AssertionError::Malformed),
        (String::new(), AssertionError::Malformed),
    ] {
        assert_eq!(verify_assertion(&text, &policy, &keys, NOW), Err(error), "{text}");
    }
    assert_eq!(
        verify_assertion(&good, &policy, &Issuer::new().policy().keys().unwrap(), NOW),
        Err(AssertionError::Signature)
    );
}

#[test]
fn an_assertion_works_once_for_each_service() {
    let issuer = Issuer::new();
    let policy = issuer.policy();
    let text = issuer.sign(&json!({ "alg": "ES256" }), &claims(|_| ()));
    let assertion = verify_assertion(&text, &policy, &policy.keys().unwrap(), NOW).unwrap();
    let mut replays = Replays::default();
    let used = replays.use_up(SERVICE, &assertion, NOW).unwrap();
    assert_eq!(replays.use_up(SERVICE, &assertion, NOW), Err(AssertionError::Replayed));
    let mut after_a_restart = Replays::default();
    after_a_restart.restore([used]);
    assert_eq!(after_a_restart.use_up(SERVICE, &assertion, NOW), Err(AssertionError::Replayed));
    after_a_restart.give_back(&used);
    assert_eq!(after_a_restart.use_up(SERVICE, &assertion, NOW), Ok(used), "it was not kept");
    let end = assertion.expires_at.plus(SKEW);
    let just_before = Timestamp::from_millis(end.as_millis() - 1);
    assert_eq!(replays.use_up(SERVICE, &assertion, just_before), Err(AssertionError::Replayed));
    assert!(replays.use_up(ServiceKey { blueprint: 7, service: 43 }, &assertion, NOW).is_ok());
    // Whoever chooses both texts cannot make one pair look like another.
    let moved =
        Assertion { issuer: format!("{}a", assertion.issuer), id: "b".to_owned(), ..assertion.clone() };
    let same_bytes = Assertion { id: "ab".to_owned(), ..assertion.clone() };
    assert!(
        replays.use_up(SERVICE, &moved, NOW).is_ok() && replays.use_up(SERVICE, &same_bytes, NOW).is_ok()
    );
}

#[test]
fn an_assertion_that_was_forgotten_does_not_come_back_by_an_older_time() {
    let named = |id: &str, expires_at| Assertion {
        issuer: "https://issuer.example".to_owned(),
        subject: "somebody".to_owned(),
        scopes: None,
        id: id.to_owned(),
        expires_at,
    };
    let mut replays = Replays::default();
    let first = named("first", NOW);
    replays.use_up(SERVICE, &first, NOW).unwrap();
    let end = NOW.plus(SKEW);
    let long = named("long", end);
    replays.use_up(SERVICE, &long, end).unwrap();
    // Verified just before its end, and held up since.
    assert_eq!(replays.use_up(SERVICE, &first, NOW), Err(AssertionError::Expired));
    assert_eq!(replays.use_up(SERVICE, &long, NOW), Err(AssertionError::Replayed));
    let other = ServiceKey { blueprint: 7, service: 43 };
    assert!(replays.use_up(other, &first, NOW).is_ok(), "each service has its own time");
}

#[test]
fn the_issuer_of_one_service_cannot_fill_the_table_for_others() {
    let mut replays = Replays::default();
    let numbered = |number: usize| Assertion {
        issuer: "https://issuer.example".to_owned(),
        subject: "somebody".to_owned(),
        scopes: None,
        id: number.to_string(),
        expires_at: NOW.plus(Duration::from_secs(60)),
    };
    for number in 0..MAX_USED {
        assert!(replays.use_up(SERVICE, &numbered(number), NOW).is_ok());
    }
    assert_eq!(replays.use_up(SERVICE, &numbered(MAX_USED), NOW), Err(AssertionError::Full));
    assert_eq!(replays.use_up(SERVICE, &numbered(7), NOW), Err(AssertionError::Replayed), "still known");
    let other = ServiceKey { blueprint: 7, service: 43 };
    assert!(replays.use_up(other, &numbered(0), NOW).is_ok(), "others have room of their own");
    let later = NOW.plus(Duration::from_secs(60)).plus(SKEW);
    let live = Assertion { expires_at: later, ..numbered(MAX_USED) };
    assert!(replays.use_up(SERVICE, &live, later).is_ok(), "expired ones made room");
}

#[test]
fn keys_of_a_jwk_set_are_called_by_name() {
    let issuer = Issuer::new();
    let point = issuer.ec.public_key().as_ref();
    let key = |kid: &str| {
        json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..]),
        })
    };
    let set = json!({ "keys": [key("one"), { "kty": "OKP" }, { "kty": "EC", "crv": "P-384" }, 7] });
    let keys = VerifyingKey::from_jwk_set(set.to_string().as_bytes()).unwrap();
    assert_eq!(keys.len(), 1);
    let policy = issuer.policy();
    for (kid, is_known) in [(json!("one"), true), (json!("two"), false), (json!(null), true)] {
        let text = issuer.sign(&json!({ "alg": "ES256", "kid": kid }), &claims(|_| ()));
        assert_eq!(verify_assertion(&text, &policy, &keys, NOW).is_ok(), is_known, "{kid}");
    }
    assert_eq!(
        VerifyingKey::from_jwk_set(b"{\"keys\":[]}"),
        Ok(vec![]),
        "an issuer may take back all of them"
    );
}

#[test]
fn a_jwk_set_gives_only_keys_that_are_meant_for_signatures() {
    let issuer = Issuer::new();
    let point = issuer.ec.public_key().as_ref();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    let with = |member: &str, value: Value| {
        let mut key = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        key[member] = value;
        let set = json!({ "keys": [key] }).to_string();
        VerifyingKey::from_jwk_set(set.as_bytes()).unwrap().len()
    };
    for (member, value, taken) in [
        ("unknown", json!({ "a": 1 }), 1),
        ("use", json!("sig"), 1),
        ("use", json!("enc"), 0),
        ("alg", json!("ES256"), 1),
        ("alg", json!("RS256"), 0),
        ("alg", json!("HS256"), 0),
        ("alg", json!("none"), 0),
        ("key_ops", json!(["verify"]), 1),
        ("key_ops", json!(["sign"]), 0),
        ("kty", json!("oct"), 0),
        ("kid", json!("a".repeat(257)), 0),
        ("x", json!("AA"), 0),
        ("y", json!(format!("{y}=")), 0),
    ] {
        assert_eq!(with(member, value.clone()), taken, "{member} {value}");
    }
    let rsa = |bits: usize, e: &str| {
        let n =
            URL_SAFE_NO_PAD.encode([&[1u8 << ((bits - 1) % 8)][..], &vec![0xff; (bits - 1) / 8]].concat());
        let set = json!({ "keys": [{ "kty": "RSA", "n": n, "e": e }] }).to_string();
        VerifyingKey::from_jwk_set(set.as_bytes()).unwrap().len()
    };
    assert_eq!([rsa(1024, "AQAB"), rsa(2047, "AQAB"), rsa(2048, "AQAB"), rsa(8192, "AQAB")], [0, 0, 1, 1]);
    assert_eq!([rsa(8193, "AQAB"), rsa(2048, ""), rsa(2048, "AQAAAAAB"), rsa(4096, "Aw")], [0, 0, 0, 1]);
    let many = |count: usize| json!({ "keys": vec![json!({ "kty": "oct" }); count] }).to_string();
    assert_eq!(VerifyingKey::from_jwk_set(many(32).as_bytes()), Ok(vec![]));
    for wrong in
        [many(33), "[]".to_owned(), "{}".to_owned(), format!("{}{{\"keys\":[]}}", " ".repeat(64 << 10))]
    {
        assert!(VerifyingKey::from_jwk_set(wrong.as_bytes()).is_err());
    }
}

#[test]
fn policies_and_settings_that_cannot_hold_are_refused() {
    let good = Issuer::new().policy();
    assert!(good.keys().is_ok());
    let cases: [(OAuthPolicy, OAuthPolicyError); 5] = [
        (OAuthPolicy { allowed_issuers: vec![], ..good.clone() }, OAuthPolicyError::NoIssuer),
        (OAuthPolicy { public_keys_pem: vec![], ..good.clone() }, OAuthPolicyError::NoKey),
        (OAuthPolicy { require_dpop: true, ..good.clone() }, OAuthPolicyError::Dpop),
        (
            OAuthPolicy { jwks_url: Some("http://x/".to_owned()), ..good.clone() },
            OAuthPolicyError::Url(JwksUrlError::Scheme),
        ),
        (OAuthPolicy { allowed_issuers: vec![String::new(); 33], ..good.clone() }, OAuthPolicyError::TooLong),
    ];
    for (policy, error) in cases {
        let settings = ServiceSettings { oauth: Some(policy), ..ServiceSettings::default() };
        assert_eq!(Service::new(settings).map(drop), Err(SettingsError::OAuth(error)));
    }
    let rule = |path: &str| Rule {
        action: Verdict::Allow,
        paths: vec![path.to_owned()],
        methods: vec![],
        sources: vec![],
        scopes: vec![],
    };
    for (path, is_good) in
        [("/", true), ("/a/*", true), ("/a", true), ("a", false), ("/a*", false), ("/a/../b", false)]
    {
        let settings = ServiceSettings { rules: vec![rule(path)], ..ServiceSettings::default() };
        assert_eq!(Service::new(settings).is_ok(), is_good, "{path}");
    }
    let text = serde_json::to_string(&ServiceSettings {
        owners: BTreeSet::from([owner(3)]),
        ..ServiceSettings::default()
    });
    assert!(serde_json::from_str::<ServiceSettings>(&text.unwrap()).is_ok());
    assert!(
        serde_json::from_str::<ServiceSettings>("{\"owner\": []}").is_err(),
        "a misspelt field is no default"
    );
}

#[test]
fn what_a_blueprint_names_takes_the_place_of_what_it_named_and_of_nothing_else() {
    let of = |seeds: &[u8]| seeds.iter().map(|seed| owner(*seed)).collect::<BTreeSet<_>>();
    let mut settings = ServiceSettings { owners: of(&[3]), ..ServiceSettings::default() };
    settings.name_owners(&of(&[3, 4, 5]));
    assert_eq!((&settings.owners, &settings.blueprint_owners), (&of(&[3, 4, 5]), &of(&[4, 5])));
    settings.name_owners(&of(&[5, 6]));
    assert_eq!((&settings.owners, &settings.blueprint_owners), (&of(&[3, 5, 6]), &of(&[5, 6])));
    // The operator takes one of them away by replacing the list.
    settings.owners.remove(&owner(5));
    let mut settings = Service::new(settings).unwrap().settings().clone();
    assert_eq!(settings.blueprint_owners, of(&[6]));
    settings.name_owners(&of(&[]));
    assert_eq!((settings.owners, settings.blueprint_owners), (of(&[3]), of(&[])));
}
