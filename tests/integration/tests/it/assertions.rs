//! Assertions of other issuers through a real hub: each works once, also over a restart.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blueprint_tests_support::http::{Request, Response};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use crate::fixture::{CALL, Hub, SOON, Spoke};

const ISSUER: &str = "https://issuer.example";

/// The head of a SubjectPublicKeyInfo of P-256; the point follows.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Signs assertions with a key of its own.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Result<Self> {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).ok().context("no key")?;
        Ok(Self(EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).ok().context("no key")?))
    }

    fn pem(&self) -> String {
        let der = [&SPKI[..], self.0.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    /// An assertion of two minutes that is called `id`.
    fn assertion(&self, id: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let claims = json!({ "iss": ISSUER, "sub": "acme", "iat": now, "exp": now + 120, "jti": id });
        let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
        let signed =
            format!("{}.{}", encode(json!({ "alg": "ES256" }).to_string()), encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).ok().context("no signature")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn exchange(hub: &Hub<'_>, assertion: &str) -> Result<Response> {
    let form =
        format!("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion={assertion}");
    let request = Request::new("POST", "/v1/oauth/token")
        .header("X-Service-Id", "42")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form);
    hub.request(&request)
}

#[test]
fn an_assertion_works_once_also_over_a_kill_of_the_hub() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let _spoke = Spoke::start(&hub, None, "greeter", "7/42")?;
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let issuer = Issuer::new()?;
    let settings = json!({ "oauth": { "allowed_issuers": [ISSUER], "public_keys_pem": [issuer.pem()] } });
    let set = hub.command(&["service", "settings", "7/42", "--file", "-"])?;
    let set = set.stdin(&settings.to_string()).run(CALL)?;
    ensure!(set.code == Some(0), "{}", set.stderr);

    let assertion = issuer.assertion("one")?;
    let given = exchange(&hub, &assertion)?;
    ensure!(given.status == 200, "{}", given.text());
    let is_replay = |answer: &Response| {
        let text = answer.text();
        ensure!(
            answer.status == 400 && text.contains("invalid_grant") && text.contains("used before"),
            "{text}"
        );
        Ok(())
    };
    is_replay(&exchange(&hub, &assertion)?)?;

    hub.kill()?;
    hub.start_again()?;
    is_replay(&exchange(&hub, &assertion)?)?;
    let fresh = exchange(&hub, &issuer.assertion("two")?)?;
    ensure!(fresh.status == 200, "{}", fresh.text());
    Ok(())
}
