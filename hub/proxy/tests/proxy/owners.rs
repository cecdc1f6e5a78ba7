//! The way of an owner and its customers, as the documentation of the existing Blueprint auth proxy has it.

use std::collections::BTreeSet;

use blueprint_hub_proxy::Ledger;
use blueprint_hub_proxy_core::ServiceSettings;
use blueprint_hub_proxy_core::identity::{KeyKind, OwnerKey, encode_hex, tenant_id};
use http::{Request, StatusCode};
use k256::ecdsa::signature::hazmat::PrehashSigner;
use k256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use sha3::{Digest, Keccak256};

use crate::rig::{Body, Rig, SERVICE, full, mirror, text};
use crate::seen::Lines;

struct Owner {
    key: SigningKey,
}

impl Owner {
    fn new(seed: u8) -> Self {
        Self { key: SigningKey::from_slice(&[seed; 32]).unwrap() }
    }

    fn public(&self) -> String {
        encode_hex(&self.key.verifying_key().to_sec1_bytes())
    }

    fn owner_key(&self) -> OwnerKey {
        OwnerKey::new(KeyKind::Ecdsa, &self.key.verifying_key().to_sec1_bytes()).unwrap()
    }

    fn sign(&self, digest: &[u8]) -> String {
        let signature: Signature = self.key.sign_prehash(digest).unwrap();
        encode_hex(&signature.to_bytes())
    }
}

fn settings(owner: &Owner) -> ServiceSettings {
    ServiceSettings {
        api_key_prefix: "test_".to_owned(),
        owners: BTreeSet::from([owner.owner_key()]),
        ..ServiceSettings::default()
    }
}

async fn post(rig: &Rig, path: &str, bearer: Option<&str>, body: Value) -> (StatusCode, Value) {
    let mut request = Request::post(path).header("host", "hub").header("content-type", "application/json");
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {bearer}"));
    } else {
        request = request.header("x-service-id", "42:0");
    }
    send(rig, request.body(full(body.to_string())).unwrap()).await
}

async fn send(rig: &Rig, request: Request<Body>) -> (StatusCode, Value) {
    let response = rig.http1().await.send_request(request).await.unwrap();
    assert!(response.headers().contains_key("x-request-id"));
    let status = response.status();
    let text = text(response).await;
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn digest_of(challenge: &Value) -> Vec<u8> {
    blueprint_hub_proxy_core::identity::decode_hex(challenge["challenge"].as_str().unwrap()).unwrap()
}

async fn challenge(rig: &Rig, owner: &Owner) -> Value {
    let body = json!({ "pub_key": owner.public(), "key_type": "Ecdsa" });
    let (status, challenge) = post(rig, "/v1/auth/challenge", None, body).await;
    assert_eq!(status, StatusCode::OK, "{challenge}");
    challenge
}

fn solution(owner: &Owner, challenge: &Value, headers: Value) -> Value {
    json!({
        "pub_key": owner.public(), "key_type": "Ecdsa", "challenge": challenge["challenge"],
        "signature": owner.sign(&digest_of(challenge)), "expires_at": 0, "additional_headers": headers,
    })
}

async fn api_key(rig: &Rig, owner: &Owner, headers: Value) -> String {
    let challenge = challenge(rig, owner).await;
    let (status, answer) = post(rig, "/v1/auth/verify", None, solution(owner, &challenge, headers)).await;
    let verified = answer.get("status") == Some(&json!("Verified"));
    assert!(status == StatusCode::CREATED && verified, "{answer}");
    answer.pointer("/data/api_key").and_then(Value::as_str).unwrap().to_owned()
}

async fn get(rig: &Rig, bearer: &str, headers: &[(&str, &str)]) -> (StatusCode, String) {
    let mut request =
        Request::get("/hello").header("host", "hub").header("authorization", format!("Bearer {bearer}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(full("")).unwrap();
    let response = rig.http1().await.send_request(request).await.unwrap();
    (response.status(), text(response).await)
}

#[tokio::test]
async fn an_owner_gets_a_key_and_its_customer_a_token() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let owner = Owner::new(3);
    rig.settle(settings(&owner));
    let id = tenant_id("user123@example.com");
    let key = api_key(&rig, &owner, json!({ "X-Tenant-Id": id, "X-Tenant-Name": "Acme Corp" })).await;
    assert!(key.starts_with("test_"));
    // The key names its service, as the clients of today rely on.
    let (status, seen) = get(&rig, &key, &[("x-tenant-id", "evil"), ("X_Tenant_Name", "evil")]).await;
    assert_eq!(status, StatusCode::OK, "{seen}");
    assert!(
        seen.contains(&format!("x-tenant-id: {id}\n")) && seen.contains("x-tenant-name: Acme Corp\n"),
        "{seen}"
    );
    assert!(seen.contains("x-auth-method: api-key\n") && !seen.contains("evil"), "{seen}");
    assert!(seen.contains("x-blueprint-identity: ey"), "{seen}");

    let body = json!({ "additional_headers": { "X-Plan": "gold" }, "ttl_seconds": 60 });
    let (status, token) = post(&rig, "/v1/auth/exchange", Some(&key), body).await;
    assert_eq!(
        (status, &token["token_type"], &token["expires_in"]),
        (StatusCode::OK, &json!("Bearer"), &json!(60))
    );
    let token = token["access_token"].as_str().unwrap();
    assert!(token.starts_with("v4.local."));
    let (status, seen) = get(&rig, token, &[("x-plan", "platinum")]).await;
    assert_eq!(status, StatusCode::OK, "{seen}");
    assert!(seen.contains("x-plan: gold\n") && seen.contains(&format!("x-tenant-id: {id}\n")), "{seen}");
    assert!(seen.contains("x-auth-method: access-token\n") && !seen.contains("platinum"), "{seen}");

    // Nobody becomes another tenant on the way, and a token does not make tokens.
    let other = json!({ "additional_headers": { "X-Tenant-Id": "somebody else" } });
    let (status, refused) = post(&rig, "/v1/auth/exchange", Some(&key), other).await;
    assert_eq!((status, &refused["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_headers")));
    let (status, _) = post(&rig, "/v1/auth/exchange", Some(token), json!({})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = get(&rig, &key, &[("x-service-id", "60")]).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "the key opens its own service only");
}

#[tokio::test]
async fn who_holds_a_key_without_a_tenant_does_not_choose_who_calls() {
    let rig = Rig::new().await;
    rig.route(&[rig.service(mirror)]);
    let owner = Owner::new(3);
    rig.settle(settings(&owner));
    let id = tenant_id("user123@example.com");
    let bare = api_key(&rig, &owner, json!({})).await;
    for name in ["X-Tenant-Id", "x_tenant_name", "X-User-Id"] {
        let forged = json!({ "additional_headers": { name: id } });
        let (status, refused) = post(&rig, "/v1/auth/exchange", Some(&bare), forged).await;
        assert_eq!((status, &refused["error"]), (StatusCode::BAD_REQUEST, &json!("invalid_headers")));
        let folded = name.to_ascii_lowercase().replace('_', "-");
        assert!(refused["message"].as_str().unwrap().contains(&folded), "{refused}");
    }
    let (status, token) = post(&rig, "/v1/auth/exchange", Some(&bare), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{token}");
    let (_, seen) = get(&rig, token["access_token"].as_str().unwrap(), &[]).await;
    let owners = format!("x-tenant-id: {}\n", tenant_id(&format!("ecdsa:{}", owner.public())));
    assert!(seen.contains(&owners), "{seen}");
}

#[tokio::test]
async fn a_captured_solution_is_worth_nothing() {
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    rig.route(&[]);
    let owner = Owner::new(3);
    rig.settle(settings(&owner));
    let open = challenge(&rig, &owner).await;
    let captured = solution(&owner, &open, json!({}));
    let (status, _) = post(&rig, "/v1/auth/verify", None, captured.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, answer) = post(&rig, "/v1/auth/verify", None, captured).await;
    assert_eq!((status, &answer["status"]), (StatusCode::UNAUTHORIZED, &json!("Expired")));

    // A signature over 32 bytes that were never a challenge, such as the hash of a transaction.
    let foreign = json!({ "challenge": "11".repeat(32) });
    let (status, answer) = post(&rig, "/v1/auth/verify", None, solution(&owner, &foreign, json!({}))).await;
    assert_eq!((status, &answer["status"]), (StatusCode::UNAUTHORIZED, &json!("Expired")));

    // A wrong signature uses the challenge up.
    let open = challenge(&rig, &owner).await;
    let mut wrong = solution(&owner, &open, json!({}));
    wrong["signature"] = json!(Owner::new(4).sign(&digest_of(&open)));
    let (status, answer) = post(&rig, "/v1/auth/verify", None, wrong).await;
    assert_eq!((status, &answer["status"]), (StatusCode::UNAUTHORIZED, &json!("InvalidSignature")));
    let (status, _) = post(&rig, "/v1/auth/verify", None, solution(&owner, &open, json!({}))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);

    let stranger = Owner::new(4);
    let body = json!({ "pub_key": stranger.public(), "key_type": "Ecdsa" });
    assert_eq!(post(&rig, "/v1/auth/challenge", None, body).await.0, StatusCode::UNAUTHORIZED);
    let refused = ledger.take_refused();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((refused[0].by.code, refused[0].count), ("credential_denied", 5));
}

#[tokio::test]
async fn a_service_may_insist_on_the_text_that_says_what_is_signed() {
    let rig = Rig::new().await;
    rig.route(&[]);
    let owner = Owner::new(3);
    rig.settle(ServiceSettings { require_challenge_text: true, ..settings(&owner) });
    let open = challenge(&rig, &owner).await;
    let (status, answer) = post(&rig, "/v1/auth/verify", None, solution(&owner, &open, json!({}))).await;
    assert_eq!((status, &answer["status"]), (StatusCode::UNAUTHORIZED, &json!("InvalidSignature")));
    let open = challenge(&rig, &owner).await;
    let message = open["message"].as_str().unwrap();
    assert!(message.starts_with("blueprint-hub owner challenge v2\nservice: 7/42\n"), "{message}");
    let wrapped = format!("\u{19}Ethereum Signed Message:\n{}{message}", message.len());
    let mut asked = solution(&owner, &open, json!({}));
    asked["signature"] = json!(owner.sign(&Keccak256::digest(wrapped)));
    assert_eq!(post(&rig, "/v1/auth/verify", None, asked).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn what_an_owner_cannot_bind_is_said() {
    let rig = Rig::new().await;
    rig.route(&[]);
    let owner = Owner::new(3);
    rig.settle(settings(&owner));
    let open = challenge(&rig, &owner).await;
    let asked = solution(&owner, &open, json!({ "Connection": "close" }));
    let (status, answer) = post(&rig, "/v1/auth/verify", None, asked).await;
    assert_eq!((status, &answer["status"]), (StatusCode::BAD_REQUEST, &json!("UnexpectedError")));
    assert!(answer["data"]["message"].as_str().unwrap().contains("Invalid headers"), "{answer}");
    for (body, status) in [("{", 400), ("{\"pub_key\":\"zz\",\"key_type\":\"Ecdsa\"}", 400)] {
        let request = Request::post("/v1/auth/challenge").header("host", "hub").header("x-service-id", "42");
        assert_eq!(send(&rig, request.body(full(body)).unwrap()).await.0, status, "{body}");
    }
    let request = Request::post("/v1/auth/challenge").header("host", "hub").body(full("{}")).unwrap();
    assert_eq!(send(&rig, request).await.0, StatusCode::PRECONDITION_REQUIRED);
    let request = Request::get("/v1/auth/challenge").header("host", "hub").body(full("")).unwrap();
    assert_eq!(send(&rig, request).await.0, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn one_source_tries_no_more_than_it_may() {
    let rig = Rig::new().await;
    rig.route(&[]);
    let mut statuses = Vec::new();
    let mut client = rig.http1().await;
    for _ in 0..125 {
        let request = Request::post("/v1/auth/exchange").header("host", "hub").body(full("{}")).unwrap();
        let response = client.send_request(request).await.unwrap();
        statuses.push(response.status().as_u16());
        text(response).await;
    }
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 120, "{statuses:?}");
    assert!(statuses.ends_with(&[429, 429, 429]), "{statuses:?}");
}

#[tokio::test]
async fn tokens_count_for_the_key_that_they_were_made_from() {
    let lines = Lines::read();
    let ledger = Ledger::default();
    let rig = Rig::with(|config| config.ledger = ledger.clone()).await;
    rig.route(&[rig.service(mirror)]);
    let owner = Owner::new(3);
    let rules = r#"[{"action":"deny","paths":["/admin/*"]},{"action":"allow"}]"#;
    rig.settle(ServiceSettings { rules: serde_json::from_str(rules).unwrap(), ..settings(&owner) });
    let key = api_key(&rig, &owner, json!({})).await;
    let id = key.split('.').next().unwrap().to_owned();
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let (status, answer) = post(&rig, "/v1/auth/exchange", Some(&key), json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        tokens.push(answer["access_token"].as_str().unwrap().to_owned());
    }
    for token in tokens.iter().chain([&key]) {
        let (status, _) = get(&rig, token, &[]).await;
        assert_eq!(status, StatusCode::OK);
        let request =
            Request::get("/admin/x").header("host", "hub").header("authorization", format!("Bearer {token}"));
        let refused = rig.http1().await.send_request(request.body(full("")).unwrap()).await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        text(refused).await;
    }
    let used = ledger.usage(SERVICE).unwrap();
    assert_eq!(used.by_key.keys().collect::<Vec<_>>(), [&id], "one key, whatever was made from it");
    assert_eq!((used.by_key[&id].requests, used.by_key[&id].refused), (4, 4));
    let rows = ledger.take_refused();
    let row = rows.iter().find(|row| row.by.code == "rule_refused").unwrap();
    assert_eq!((row.count, row.identity.as_ref()), (4, Some(&id)));

    let found = lines.requests(13).await;
    let of_key: Vec<_> = found.iter().filter(|line| line["identity"] == id.as_str()).collect();
    assert_eq!(of_key.len(), 8);
    let credentials: BTreeSet<_> = of_key.iter().filter_map(|line| line["credential"].as_str()).collect();
    assert_eq!(credentials.len(), 3, "each token under its own name beside it: {credentials:?}");
}
