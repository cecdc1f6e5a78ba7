//! Genuine documents and forged ones. The signed data in `data` was made by OpenSSL with authorities of its own, in the form in
//! which clouds write it: `aws-stream` has indefinite lengths and a content in pieces, as that of EC2.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside test functions")]

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use blueprint_common_types::{CaPin, ProofBinding, ProofKind, Timestamp, WgPublicKey};
use blueprint_hub_identity_core::aws::{self, AwsRules};
use blueprint_hub_identity_core::azure::{self, AzureRules};
use blueprint_hub_identity_core::gcp::{self, GcpRules};
use blueprint_hub_identity_core::kubernetes::{self, KubernetesRules};
use blueprint_hub_identity_core::sts::{self, StsRules};
use blueprint_hub_identity_core::{Allowed, ProofRefusal, SignatureKeys, key_named};
use blueprint_hub_proxy_core::identity::VerifyingKey;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// 2026-11-22T12:05:00Z, five minutes after the documents were made.
const NOW: Timestamp = Timestamp::from_millis(1_795_349_100_000);

macro_rules! data {
    ($name:literal) => {
        include_bytes!(concat!("data/", $name)).as_slice()
    };
}

fn allowed(values: &[&str]) -> Allowed {
    values.iter().map(|&value| value.to_owned()).collect()
}

fn aws_rules() -> AwsRules {
    AwsRules {
        accounts: allowed(&["123456789012"]),
        regions: Allowed::default(),
        certificates: BTreeMap::from([("eu-central-1".to_owned(), vec![data!("region.cer").to_vec()])]),
        max_age: Duration::from_secs(1800),
    }
}

fn aws_with(der: &[u8], rules: &AwsRules) -> Result<String, ProofRefusal> {
    aws::verify(STANDARD.encode(der).as_bytes(), rules, NOW).map(|machine| machine.instance)
}

#[test]
fn a_document_of_ec2_is_believed_in_each_form() {
    for der in [data!("aws-plain.der"), data!("aws-stream.der"), data!("aws-noattr.der")] {
        let digits = STANDARD.encode(der);
        let lines: Vec<_> = digits.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        let machine = aws::verify(lines.join("\n").as_bytes(), &aws_rules(), NOW).unwrap();
        assert_eq!((machine.kind, machine.account.as_str()), (ProofKind::Aws, "123456789012"));
        assert_eq!(
            (machine.region.as_str(), machine.instance.as_str()),
            ("eu-central-1", "i-0123456789abcdef0")
        );
        assert_eq!(machine.provider_ids, ["eu-central-1/i-0123456789abcdef0"]);
    }
}

#[test]
fn a_document_of_ec2_that_is_not_as_it_has_to_be_is_refused() {
    let good = aws_rules();
    let certificates = |region: &str, names: &[&[u8]]| AwsRules {
        certificates: BTreeMap::from([(region.to_owned(), names.iter().map(|der| der.to_vec()).collect())]),
        ..good.clone()
    };
    let region = data!("region.cer");
    let table = [
        (
            "signed by another, whose certificate came along",
            data!("aws-other.der"),
            good.clone(),
            "identity_signer",
        ),
        ("two signatures", data!("aws-two.der"), good.clone(), "identity_signer"),
        ("SHA-1", data!("aws-sha1.der"), good.clone(), "identity_algorithm"),
        ("no content", data!("aws-detached.der"), good.clone(), "identity_malformed"),
        ("no certificates", data!("aws-plain.der"), certificates("eu-central-1", &[]), "identity_signer"),
        (
            "of another region",
            data!("aws-plain.der"),
            certificates("us-east-1", &[region]),
            "identity_signer",
        ),
        (
            "the same twice",
            data!("aws-plain.der"),
            certificates("eu-central-1", &[region, region]),
            "identity_signer",
        ),
        (
            "another account",
            data!("aws-plain.der"),
            AwsRules { accounts: allowed(&["210987654321"]), ..good.clone() },
            "identity_not_allowed",
        ),
        (
            "no account",
            data!("aws-plain.der"),
            AwsRules { accounts: Allowed::default(), ..good.clone() },
            "identity_not_allowed",
        ),
        (
            "no such region",
            data!("aws-plain.der"),
            AwsRules { regions: allowed(&["us-east-1"]), ..good.clone() },
            "identity_not_allowed",
        ),
        (
            "started long ago",
            data!("aws-plain.der"),
            AwsRules { max_age: Duration::from_secs(299), ..good.clone() },
            "identity_times",
        ),
    ];
    for (what, der, rules, code) in table {
        assert_eq!(aws_with(der, &rules).map_err(|refusal| refusal.code()), Err(code), "{what}");
    }
    let early = Timestamp::from_millis(NOW.as_millis() - 3_600_000);
    let text = STANDARD.encode(data!("aws-plain.der"));
    assert_eq!(aws::verify(text.as_bytes(), &good, early), Err(ProofRefusal::Times), "of a time to come");
    for wrong in [&b""[..], b"{}", b"AAAA", &[b'A'; 20_000]] {
        assert_eq!(aws::verify(wrong, &good, NOW).map_err(|r| r.code()), Err("identity_malformed"));
    }
}

#[test]
fn no_byte_of_what_is_signed_can_be_changed() {
    for der in [data!("aws-plain.der"), data!("aws-stream.der"), data!("aws-noattr.der")] {
        let document = der.windows(11).position(|window| window == b"\"accountId\"").unwrap();
        let account = der.windows(12).position(|window| window == b"123456789012").unwrap();
        for at in document..document + 400 {
            let mut forged = der.to_vec();
            forged[at] ^= 1;
            assert_eq!(aws_with(&forged, &aws_rules()), Err(ProofRefusal::Signature), "byte {at}");
        }
        let mut forged = der.to_vec();
        forged[account..account + 12].copy_from_slice(b"210987654321");
        let rules = AwsRules { accounts: allowed(&["210987654321"]), ..aws_rules() };
        assert_eq!(aws_with(&forged, &rules), Err(ProofRefusal::Signature));
        for at in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[at] = !damaged[at];
            // What is beside the signed bytes, such as the number of a version, changes nothing that is believed.
            if let Ok(instance) = aws_with(&damaged, &aws_rules()) {
                assert_eq!(instance, "i-0123456789abcdef0", "byte {at}");
            }
            assert!(aws_with(&der[..at], &aws_rules()).is_err(), "cut off at {at}");
        }
    }
}

/// The same the day after, when certificates of the test had begun.
const DAY_AFTER: Timestamp = Timestamp::from_millis(NOW.as_millis() + 86_400_000);

const NONCE: &str = "0123456789abcdef0123456789abcdef";

fn azure_rules() -> AzureRules {
    AzureRules {
        subscriptions: allowed(&["11111111-2222-3333-4444-555555555555"]),
        roots: vec![data!("azroot.cer").to_vec()],
        intermediates: vec![data!("azmid.cer").to_vec()],
    }
}

fn azure_answer(der: &[u8]) -> Vec<u8> {
    json!({ "encoding": "pkcs7", "signature": STANDARD.encode(der) }).to_string().into_bytes()
}

#[test]
fn an_attested_document_of_azure_is_believed() {
    let answer = azure_answer(data!("azure.der"));
    let machine = azure::verify_nonce(&answer, &azure_rules(), NONCE, DAY_AFTER).unwrap();
    assert_eq!(machine.instance, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    assert_eq!(
        (machine.kind, machine.account.as_str()),
        (ProofKind::Azure, "11111111-2222-3333-4444-555555555555")
    );
    for wrong in
        ["", "{}", r#"{"encoding":"pkcs7","signature":"AAAA"}"#, r#"{"encoding":"none","signature":""}"#]
    {
        assert!(azure::verify_nonce(wrong.as_bytes(), &azure_rules(), NONCE, DAY_AFTER).is_err(), "{wrong}");
    }
}

#[test]
fn of_azure_chain_signature_nonce_and_times_are_checked_together() {
    let good = azure_rules();
    let content = data!("azure.der").windows(6).position(|window| window == b"\"vmId\"").unwrap();
    let mut changed = data!("azure.der").to_vec();
    changed[content + 9] ^= 1;
    let later = |minutes: u64| DAY_AFTER.plus(Duration::from_secs(60 * minutes));
    let other =
        AzureRules { subscriptions: allowed(&["99999999-2222-3333-4444-555555555555"]), ..good.clone() };
    let table = [
        (
            "a changed machine behind a good chain",
            &changed[..],
            good.clone(),
            NONCE,
            DAY_AFTER,
            "identity_signature",
        ),
        (
            "another challenge",
            data!("azure.der"),
            good.clone(),
            "1123456789abcdef0123456789abcdef",
            DAY_AFTER,
            "identity_audience",
        ),
        (
            "a root of the same name",
            data!("azure-other-root.der"),
            good.clone(),
            NONCE,
            DAY_AFTER,
            "identity_signer",
        ),
        (
            "a certificate of somebody else",
            data!("azure-wrong-name.der"),
            good.clone(),
            NONCE,
            DAY_AFTER,
            "identity_signer",
        ),
        (
            "no intermediate",
            data!("azure.der"),
            AzureRules { intermediates: Vec::new(), ..good.clone() },
            NONCE,
            DAY_AFTER,
            "identity_signer",
        ),
        (
            "the roots of Mozilla",
            data!("azure.der"),
            AzureRules { roots: Vec::new(), ..good.clone() },
            NONCE,
            DAY_AFTER,
            "identity_signer",
        ),
        ("another subscription", data!("azure.der"), other, NONCE, DAY_AFTER, "identity_not_allowed"),
        ("too old", data!("azure.der"), good.clone(), NONCE, later(6), "identity_times"),
        (
            "certificate over",
            data!("azure.der"),
            good.clone(),
            NONCE,
            later(60 * 24 * 365 * 110),
            "identity_signer",
        ),
    ];
    for (what, der, rules, nonce, now, code) in table {
        let refused = azure::verify_nonce(&azure_answer(der), &rules, nonce, now);
        assert_eq!(refused.map_err(|refusal| refusal.code()), Err(code), "{what}");
    }
}

struct Keys(Vec<VerifyingKey>);

impl SignatureKeys for Keys {
    fn verifies(&self, name: &str, message: &[u8], signature: &[u8]) -> bool {
        self.0.iter().any(|key| {
            key.algorithm() == "RS256" && key.is_called(Some(name)) && key.verifies(message, signature)
        })
    }
}

fn keys() -> Keys {
    Keys(vec![VerifyingKey::from_pem(include_str!("data/signer.pub.pem")).unwrap()])
}

fn binding(nonce: &[u8]) -> ProofBinding {
    ProofBinding::new(CaPin::of_spki(b"hub"), nonce, b"request", &WgPublicKey::from_bytes([7; 32]))
}

fn sign(header: &Value, claims: &Value) -> String {
    let pair = RsaKeyPair::from_pkcs8(data!("signer.pk8")).unwrap();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(claims));
    let mut signature = vec![0; pair.public().modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn header() -> Value {
    json!({ "alg": "RS256", "kid": "k1", "typ": "JWT" })
}

fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "aud": binding(b"nonce").audience(), "azp": "1", "email": "agent@project-1.iam.gserviceaccount.com",
        "email_verified": true, "exp": NOW.as_secs() + 3600, "iat": NOW.as_secs(),
        "iss": "https://accounts.google.com", "sub": "1",
        "google": { "compute_engine": {
            "instance_creation_timestamp": 1, "instance_id": "4711", "instance_name": "bp-d-1",
            "project_id": "project-1", "project_number": 12, "zone": "europe-west3-a" } },
    });
    change(&mut claims);
    claims
}

fn gcp_rules() -> GcpRules {
    GcpRules {
        projects: allowed(&["project-1"]),
        regions: Allowed::default(),
        service_accounts: Allowed::default(),
    }
}

fn gcp_with(token: &str, rules: &GcpRules) -> Result<String, &'static str> {
    let verified = gcp::verify(token, rules, &keys(), &binding(b"nonce"), NOW);
    verified.map(|machine| machine.instance).map_err(|refusal| refusal.code())
}

#[test]
fn a_token_of_google_is_believed_for_its_challenge() {
    let token = sign(&header(), &claims(|_| ()));
    assert_eq!(key_named(&token).unwrap(), "k1");
    let machine = gcp::verify(&token, &gcp_rules(), &keys(), &binding(b"nonce"), NOW).unwrap();
    assert_eq!((machine.account.as_str(), machine.region.as_str()), ("project-1", "europe-west3"));
    assert_eq!(machine.provider_ids, ["europe-west3-a/4711"], "as the provider calls it");
    let narrow = GcpRules {
        regions: allowed(&["europe-west3"]),
        service_accounts: allowed(&["agent@project-1.iam.gserviceaccount.com"]),
        ..gcp_rules()
    };
    assert_eq!(gcp_with(&token, &narrow), Ok("4711".to_owned()));
}

#[test]
fn a_token_of_google_that_is_not_signed_as_it_has_to_be_is_refused() {
    let good = sign(&header(), &claims(|_| ()));
    let (signed, _) = good.rsplit_once('.').unwrap();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let payload = encode(&claims(|_| ()));
    // The public key as a secret: what a library does that lets the token choose.
    let confused = format!("{}.{payload}", encode(&json!({ "alg": "HS256", "kid": "k1" })));
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, data!("signer.pub.pem")), confused.as_bytes());
    let table = [
        (
            "no algorithm",
            format!("{}.{payload}.", encode(&json!({ "alg": "none", "kid": "k1" }))),
            "identity_algorithm",
        ),
        (
            "HS256 with the public key",
            format!("{confused}.{}", URL_SAFE_NO_PAD.encode(code)),
            "identity_algorithm",
        ),
        (
            "another header",
            sign(&json!({ "alg": "rs256", "kid": "k1" }), &claims(|_| ())),
            "identity_algorithm",
        ),
        ("RS512", sign(&json!({ "alg": "RS512", "kid": "k1" }), &claims(|_| ())), "identity_algorithm"),
        (
            "a critical extension",
            sign(&json!({ "alg": "RS256", "kid": "k1", "crit": ["b64"] }), &claims(|_| ())),
            "identity_algorithm",
        ),
        ("no name of a key", sign(&json!({ "alg": "RS256" }), &claims(|_| ())), "identity_malformed"),
        ("no signature", format!("{signed}."), "identity_signature"),
        (
            "a signature of other claims",
            format!(
                "{}.{}.{}",
                encode(&header()),
                encode(&claims(|c| c["sub"] = json!("2"))),
                good.rsplit_once('.').unwrap().1
            ),
            "identity_signature",
        ),
        ("empty", String::new(), "identity_malformed"),
        ("too much", "a.".repeat(20_000), "identity_malformed"),
    ];
    for (what, token, code) in table {
        assert_eq!(gcp_with(&token, &gcp_rules()), Err(code), "{what}");
    }
    let refused = gcp::verify(&good, &gcp_rules(), &Keys(Vec::new()), &binding(b"nonce"), NOW);
    assert_eq!(refused, Err(ProofRefusal::Signature), "a key that is gone");
}

#[test]
fn a_token_of_google_for_others_or_of_others_is_refused() {
    let changed = |change: fn(&mut Value)| sign(&header(), &claims(change));
    let table = [
        (
            "another issuer",
            changed(|c| c["iss"] = json!("https://accounts.google.com.example.org")),
            "identity_issuer",
        ),
        (
            "another challenge",
            changed(|c| c["aud"] = json!(binding(b"other").audience())),
            "identity_audience",
        ),
        ("a part of the audience", changed(|c| c["aud"] = json!("blueprint-hub/")), "identity_audience"),
        ("over", changed(|c| c["exp"] = json!(NOW.as_secs())), "identity_times"),
        ("of a time to come", changed(|c| c["iat"] = json!(NOW.as_secs() + 600)), "identity_times"),
        ("too long", changed(|c| c["exp"] = json!(NOW.as_secs() + 3600 * 24)), "identity_times"),
        ("backwards", changed(|c| c["iat"] = json!(u64::MAX)), "identity_times"),
        ("no machine", changed(|c| c["google"] = json!({})), "identity_incomplete"),
        (
            "no number of the machine",
            changed(|c| c["google"]["compute_engine"]["instance_id"] = Value::Null),
            "identity_incomplete",
        ),
        (
            "another project",
            changed(|c| c["google"]["compute_engine"]["project_id"] = json!("project-2")),
            "identity_not_allowed",
        ),
        (
            "a project with an odd name",
            changed(|c| c["google"]["compute_engine"]["project_id"] = json!("project-1\n")),
            "identity_incomplete",
        ),
    ];
    for (what, token, code) in table {
        assert_eq!(gcp_with(&token, &gcp_rules()), Err(code), "{what}");
    }
    let good = sign(&header(), &claims(|_| ()));
    let stranger =
        GcpRules { service_accounts: allowed(&["other@project-1.iam.gserviceaccount.com"]), ..gcp_rules() };
    assert_eq!(gcp_with(&good, &stranger), Err("identity_not_allowed"));
    let unsure = changed(|c| c["email_verified"] = json!(false));
    let named =
        GcpRules { service_accounts: allowed(&["agent@project-1.iam.gserviceaccount.com"]), ..gcp_rules() };
    assert_eq!(gcp_with(&unsure, &named), Err("identity_not_allowed"));
}

const ISSUER: &str = "https://abc123-def456.tokens.sts.global.api.aws";

const OF_AWS: &str = "https://sts.amazonaws.com/";

fn sts_rules() -> StsRules {
    StsRules {
        issuers: allowed(&[ISSUER]),
        accounts: allowed(&["123456789012"]),
        regions: Allowed::default(),
    }
}

/// As AWS writes them, in the page "Understanding token claims" of its guide to IAM.
fn sts_claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "aud": binding(b"nonce").audience(), "sub": "arn:aws:iam::123456789012:role/node",
        "iat": NOW.as_secs(), "exp": NOW.as_secs() + 300, "jti": "xyz123-def456",
        OF_AWS: {
            "aws_account": "123456789012", "source_region": "eu-central-1", "org_id": "o-abc1234567",
            "principal_id": "arn:aws:iam::123456789012:role/node", "principal_tags": { "team": "data" },
            "ec2_source_instance_arn": "arn:aws:ec2:eu-central-1:123456789012:instance/i-0123456789abcdef0",
            "ec2_instance_source_vpc": "vpc-1", "ec2_role_delivery": "2.0",
        },
    });
    change(&mut claims);
    claims
}

fn sts_with(token: &str, rules: &StsRules) -> Result<String, &'static str> {
    let verified = sts::verify(token, rules, (ISSUER, &keys()), &binding(b"nonce"), NOW);
    verified.map(|machine| machine.instance).map_err(|refusal| refusal.code())
}

#[test]
fn a_token_of_aws_is_believed_for_its_challenge_and_names_the_machine_as_its_document_does() {
    let token = sign(&header(), &sts_claims(|_| ()));
    assert_eq!(sts::issuer_named(&token, &sts_rules()).unwrap(), ISSUER);
    let machine = sts::verify(&token, &sts_rules(), (ISSUER, &keys()), &binding(b"nonce"), NOW).unwrap();
    let by_document = aws::verify(STANDARD.encode(data!("aws-plain.der")).as_bytes(), &aws_rules(), NOW);
    assert_eq!(machine, by_document.unwrap(), "one machine joins once, whichever it shows");
    let one = sign(&header(), &sts_claims(|c| c["aud"] = json!([binding(b"nonce").audience()])));
    assert!(sts_with(&one, &sts_rules()).is_ok());
    let narrow = StsRules { regions: allowed(&["eu-central-1"]), ..sts_rules() };
    assert!(sts_with(&token, &narrow).is_ok());
}

#[test]
fn a_token_of_aws_that_is_not_signed_as_it_has_to_be_is_refused() {
    let good = sign(&header(), &sts_claims(|_| ()));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let payload = encode(&sts_claims(|_| ()));
    let confused = format!("{}.{payload}", encode(&json!({ "alg": "HS256", "kid": "k1" })));
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, data!("signer.pub.pem")), confused.as_bytes());
    let other = |algorithm: &str| sign(&json!({ "alg": algorithm, "kid": "k1" }), &sts_claims(|_| ()));
    let forged = encode(&sts_claims(|c| c[OF_AWS]["aws_account"] = json!("210987654321")));
    let table = [
        (
            "no algorithm",
            format!("{}.{payload}.", encode(&json!({ "alg": "none", "kid": "k1" }))),
            "identity_algorithm",
        ),
        (
            "HS256 with the public key",
            format!("{confused}.{}", URL_SAFE_NO_PAD.encode(code)),
            "identity_algorithm",
        ),
        ("ES384, which AWS has, too", other("ES384"), "identity_algorithm"),
        ("RS384", other("RS384"), "identity_algorithm"),
        ("PS256", other("PS256"), "identity_algorithm"),
        ("no name of a key", sign(&json!({ "alg": "RS256" }), &sts_claims(|_| ())), "identity_malformed"),
        ("no signature", format!("{signed}."), "identity_signature"),
        (
            "other claims behind a good signature",
            format!("{}.{forged}.{signature}", encode(&header())),
            "identity_signature",
        ),
        ("half a token", signed.to_owned(), "identity_malformed"),
        ("empty", String::new(), "identity_malformed"),
        ("too much", "a.".repeat(20_000), "identity_malformed"),
    ];
    for (what, token, code) in table {
        assert_eq!(sts_with(&token, &sts_rules()), Err(code), "{what}");
    }
    let gone = sts::verify(&good, &sts_rules(), (ISSUER, &Keys(Vec::new())), &binding(b"nonce"), NOW);
    assert_eq!(gone, Err(ProofRefusal::Signature), "a key that is gone");
    for at in 0..good.len() {
        let mut changed = good.clone().into_bytes();
        changed[at] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        // The last digit of base64 may hold bits that count for nothing; a decoder that is strict refuses those, too.
        assert!(sts_with(&changed, &sts_rules()).is_err(), "byte {at}");
    }
}

#[test]
fn a_token_of_aws_for_others_of_others_or_over_is_refused() {
    let changed = |change: fn(&mut Value)| sign(&header(), &sts_claims(change));
    let arn = |text: &str| {
        let text = text.to_owned();
        sign(&header(), &sts_claims(|c| c[OF_AWS]["ec2_source_instance_arn"] = json!(text)))
    };
    let table = [
        (
            "another issuer",
            changed(|c| c["iss"] = json!("https://other.tokens.sts.global.api.aws")),
            "identity_issuer",
        ),
        ("Google's", changed(|c| c["iss"] = json!("https://accounts.google.com")), "identity_issuer"),
        (
            "another challenge",
            changed(|c| c["aud"] = json!(binding(b"other").audience())),
            "identity_audience",
        ),
        ("the hub's name alone", changed(|c| c["aud"] = json!("blueprint-hub")), "identity_audience"),
        (
            "for somebody else, too",
            changed(|c| c["aud"] = json!([binding(b"nonce").audience(), "https://example.org"])),
            "identity_audience",
        ),
        ("for nobody", changed(|c| c["aud"] = json!([])), "identity_audience"),
        ("over", changed(|c| c["exp"] = json!(NOW.as_secs())), "identity_times"),
        ("of a time to come", changed(|c| c["iat"] = json!(NOW.as_secs() + 600)), "identity_times"),
        ("too long", changed(|c| c["exp"] = json!(NOW.as_secs() + 7200)), "identity_times"),
        ("no end", changed(|c| c["exp"] = Value::Null), "identity_malformed"),
        ("nothing of AWS", changed(|c| c[OF_AWS] = Value::Null), "identity_incomplete"),
        (
            "of no machine, but of a function",
            changed(|c| c[OF_AWS]["ec2_source_instance_arn"] = Value::Null),
            "identity_incomplete",
        ),
        (
            "another account",
            changed(|c| {
                c[OF_AWS]["aws_account"] = json!("210987654321");
                c[OF_AWS]["ec2_source_instance_arn"] =
                    json!("arn:aws:ec2:eu-central-1:210987654321:instance/i-0a");
            }),
            "identity_not_allowed",
        ),
        (
            "a machine of another account",
            arn("arn:aws:ec2:eu-central-1:210987654321:instance/i-0a"),
            "identity_malformed",
        ),
        ("a volume", arn("arn:aws:ec2:eu-central-1:123456789012:volume/vol-1"), "identity_malformed"),
        ("another service", arn("arn:aws:ecs:eu-central-1:123456789012:instance/i-0a"), "identity_malformed"),
        (
            "more behind it",
            arn("arn:aws:ec2:eu-central-1:123456789012:instance/i-0a:x"),
            "identity_malformed",
        ),
        (
            "an odd number",
            arn("arn:aws:ec2:eu-central-1:123456789012:instance/i-0a b"),
            "identity_incomplete",
        ),
        ("no region", arn("arn:aws:ec2::123456789012:instance/i-0a"), "identity_incomplete"),
        ("nothing", arn(""), "identity_malformed"),
    ];
    for (what, token, code) in table {
        assert_eq!(sts_with(&token, &sts_rules()), Err(code), "{what}");
    }
    let good = sign(&header(), &sts_claims(|_| ()));
    let elsewhere = StsRules { regions: allowed(&["us-east-1"]), ..sts_rules() };
    assert_eq!(sts_with(&good, &elsewhere), Err("identity_not_allowed"));
    // Whose keys are asked for is decided by the configuration, before anything is verified.
    for token in [changed(|c| c["iss"] = json!("https://example.org")), changed(|c| c["iss"] = json!(7))] {
        assert!(sts::issuer_named(&token, &sts_rules()).is_err());
    }
    let two =
        StsRules { issuers: allowed(&[ISSUER, "https://other.tokens.sts.global.api.aws"]), ..sts_rules() };
    let swapped = changed(|c| c["iss"] = json!("https://other.tokens.sts.global.api.aws"));
    assert_eq!(sts_with(&swapped, &two), Err("identity_issuer"), "signed by the keys of another account");
}

fn pods() -> KubernetesRules {
    KubernetesRules { service_accounts: allowed(&["blueprint:agent"]), audience: "blueprint-hub".to_owned() }
}

fn review(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": { "token": "x" },
        "status": {
            "authenticated": true, "audiences": ["blueprint-hub"],
            "user": {
                "username": "system:serviceaccount:blueprint:agent", "uid": "1", "groups": ["system:serviceaccounts"],
                "extra": { "authentication.kubernetes.io/pod-name": ["agent-x"],
                           "authentication.kubernetes.io/pod-uid": ["6ea7f8e2-0000-4000-8000-000000000001"] },
            },
        },
    });
    change(&mut review);
    review.to_string().into_bytes()
}

#[test]
fn what_a_cluster_says_of_a_token_counts() {
    let machine = kubernetes::verify(&review(|_| ()), &pods()).unwrap();
    assert_eq!(machine.instance, "6ea7f8e2-0000-4000-8000-000000000001");
    assert_eq!((machine.account.as_str(), machine.provider_ids.len()), ("blueprint:agent", 0));
    let table: [(&str, Vec<u8>, &str); 9] = [
        ("not good", review(|r| r["status"]["authenticated"] = json!(false)), "identity_signature"),
        ("says nothing", review(|r| r["status"] = json!({})), "identity_signature"),
        (
            "another audience",
            review(|r| r["status"]["audiences"] = json!(["kubernetes"])),
            "identity_audience",
        ),
        ("no audience", review(|r| r["status"]["audiences"] = json!([])), "identity_audience"),
        ("a person", review(|r| r["status"]["user"]["username"] = json!("admin")), "identity_incomplete"),
        (
            "another account",
            review(|r| r["status"]["user"]["username"] = json!("system:serviceaccount:default:agent")),
            "identity_not_allowed",
        ),
        ("of no pod", review(|r| r["status"]["user"]["extra"] = json!({})), "identity_incomplete"),
        ("no review", review(|r| r["kind"] = json!("Status")), "identity_malformed"),
        ("no JSON", b"forbidden".to_vec(), "identity_malformed"),
    ];
    for (what, answer, code) in table {
        assert_eq!(
            kubernetes::verify(&answer, &pods()).map_err(|refusal| refusal.code()),
            Err(code),
            "{what}"
        );
    }
    let claims = |change: fn(&mut Value)| {
        let mut claims = json!({ "iss": "https://kubernetes.default.svc", "aud": ["blueprint-hub"],
                                 "sub": "system:serviceaccount:blueprint:agent" });
        change(&mut claims);
        sign(&header(), &claims)
    };
    let good = claims(|_| ());
    let request = kubernetes::request(format!(" {good}\n").as_bytes(), &pods()).unwrap();
    assert!(
        request.expose().contains("\"audiences\":[\"blueprint-hub\"]")
            && request.expose().contains(&format!("\"{good}\""))
    );
    assert!(kubernetes::request(claims(|c| c["aud"] = json!("blueprint-hub")).as_bytes(), &pods()).is_ok());
    for (token, code) in [
        (claims(|c| c["iss"] = json!("")), "identity_issuer"),
        (claims(|c| c["aud"] = json!(["kubernetes"])), "identity_audience"),
        (claims(|c| c["aud"] = Value::Null), "identity_audience"),
        (claims(|c| c["sub"] = json!("admin")), "identity_incomplete"),
        (claims(|c| c["sub"] = json!("system:serviceaccount:default:agent")), "identity_not_allowed"),
        (claims(|c| *c = json!([])), "identity_malformed"),
    ] {
        let refused = kubernetes::request(token.as_bytes(), &pods()).map(|_| ());
        assert_eq!(refused.map_err(|refusal| refusal.code()), Err(code), "the cluster is not asked");
    }
    for wrong in [&b""[..], b"a b", b"a\"b", &[b'a'; 20_000], &[0xff]] {
        assert!(kubernetes::request(wrong, &pods()).is_err());
    }
}
