//! Machines of EC2 that join by a token of AWS's Security Token Service, which a stand-in gives to whoever signs as it wants.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use blueprint_common_types::Timestamp;
use blueprint_tests_support::scratch;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::clouds::{refused, serves, tries};
use super::stand_ins::{Https, TokenKey, metadata};
use super::{ACCOUNT, Cloud, Machine, line, openssl_is_there};
use crate::fixture::{Agent, Hub};

const REGION: &str = "eu-central-1";
const SECRET: &str = "canary-of-a-role";
const SESSION: &str = "canary-of-a-session";

/// HMAC (RFC 2104) with SHA-256.
fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let pad = |byte: u8| (0..64).map(move |at| key.get(at).copied().unwrap_or(0) ^ byte).collect::<Vec<u8>>();
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks the signature of a request as AWS does, from what came.
fn check_signature(request: &str) -> Result<()> {
    let (head, body) = request.split_once("\r\n\r\n").context("a body")?;
    let header = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.with_context(|| format!("no {name}"))
    };
    let authorization = header("authorization")?;
    let part = |name: &str| {
        let rest = authorization.split_once(&format!("{name}="))?.1;
        Some(rest.split(',').next().unwrap_or(rest))
    };
    let scope = part("Credential").and_then(|text| text.strip_prefix("ASIAEXAMPLE/")).context("the key")?;
    let names = part("SignedHeaders").context("the headers")?;
    let lines: Result<Vec<_>> =
        names.split(';').map(|name| Ok(format!("{name}:{}\n", header(name)?))).collect();
    let hash = hex(&Sha256::digest(body));
    let canonical = format!("POST\n/\n\n{}\n{names}\n{hash}", lines?.concat());
    let time = header("x-amz-date")?;
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
    let key = scope.split('/').fold(format!("AWS4{SECRET}").into_bytes(), |key, part| mac(&key, part));
    ensure!(part("Signature") == Some(hex(&mac(&key, &text)).as_str()), "SignatureDoesNotMatch");
    ensure!(header("x-amz-security-token")? == SESSION && names.contains("x-amz-security-token"));
    ensure!(scope.split('/').skip(1).eq([REGION, "sts", "aws4_request"]), "{scope}");
    Ok(())
}

/// A machine of EC2 whose role gets tokens: its metadata service, and the token service.
fn machine(key: Arc<Mutex<TokenKey>>, issuer: &str, instance: &str) -> Result<[String; 2]> {
    let (issuer, instance) = (issuer.to_owned(), instance.to_owned());
    let service = metadata(Box::new(move |request| {
        if let Err(error) = check_signature(request) {
            let code = "SignatureDoesNotMatch";
            return Ok((
                403,
                format!(
                    "<ErrorResponse><Error><Code>{code}</Code><Message>{error}</Message></Error></ErrorResponse>"
                ),
            ));
        }
        let body = request.split_once("\r\n\r\n").context("a body")?.1;
        let field = |name: &str| body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        ensure!(field("Action") == Some("GetWebIdentityToken") && field("Version") == Some("2011-06-15"));
        ensure!(field("SigningAlgorithm") == Some("RS256") && field("DurationSeconds") == Some("300"));
        let audience = field("Audience.member.1").context("an audience")?.replace("%2F", "/");
        let now = Timestamp::from(SystemTime::now()).as_secs();
        let token = key.lock().unwrap_or_else(PoisonError::into_inner).sign(&json!({
            "iss": issuer, "aud": audience, "sub": format!("arn:aws:iam::{ACCOUNT}:role/node"), "jti": "1",
            "iat": now, "exp": now + 300,
            "https://sts.amazonaws.com/": {
                "aws_account": ACCOUNT, "source_region": REGION, "ec2_role_delivery": "2.0",
                "ec2_source_instance_arn": format!("arn:aws:ec2:{REGION}:{ACCOUNT}:instance/{instance}") },
        }))?;
        Ok((
            200,
            format!(
                "<GetWebIdentityTokenResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetWebIdentityTokenResult>\
             <WebIdentityToken>{token}</WebIdentityToken><Expiration>2026-11-22T12:05:00Z</Expiration>\
             </GetWebIdentityTokenResult></GetWebIdentityTokenResponse>"
            ),
        ))
    }))?;
    let place = metadata(Box::new(|request| {
        if request.starts_with("PUT /latest/api/token ") {
            return Ok((200, "session-token".to_owned()));
        }
        if !request.contains("x-aws-ec2-metadata-token: session-token\r\n") {
            return Ok((401, String::new()));
        }
        let keys = json!({ "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAEXAMPLE",
                           "SecretAccessKey": SECRET, "Token": SESSION, "Expiration": "2026-11-22T18:00:00Z" });
        Ok(match request.split(' ').nth(1) {
            Some("/latest/meta-data/iam/security-credentials/") => (200, "node\n".to_owned()),
            Some("/latest/meta-data/iam/security-credentials/node") => (200, keys.to_string()),
            Some("/latest/meta-data/placement/region") => (200, REGION.to_owned()),
            _ => (404, String::new()),
        })
    }))?;
    Ok([place.to_string(), format!("http://{service}")])
}

#[test]
fn a_machine_of_ec2_joins_by_a_token_of_its_role_and_not_once_more_by_its_document() -> Result<()> {
    if !openssl_is_there() {
        return Ok(());
    }
    let key = TokenKey::new()?;
    let published = key.published()?;
    let keys = Https::start(Box::new(move |request| {
        ensure!(request.starts_with("GET /.well-known/jwks.json "), "{request}");
        Ok((200, published.clone()))
    }))?;
    let (key, cloud) = (Arc::new(Mutex::new(key)), Cloud::new()?);
    let issuer = format!("https://{}", keys.place);
    let hub = Hub::start(&[
        &format!("join.identity.aws_accounts={ACCOUNT}"),
        &format!("join.identity.aws_issuers={issuer}"),
        &cloud.setting(),
        &keys.trusted(),
        "join.identity.unordered=aws",
        "join.identity.services=7/42",
    ])?;
    let line = line(&hub)?;
    let [place, service] = machine(Arc::clone(&key), &issuer, "i-0a")?;
    let genuine = ["--identity", "auto", "--metadata", &place, "--sts", &service];
    let agent = Agent::prove_with("cloudy", &line, &genuine)?;
    serves(&hub, agent, "7/42", &format!("aws/{ACCOUNT}/i-0a"))?;

    let folder = scratch("refused")?;
    let [other_place, other_service] = machine(Arc::new(Mutex::new(TokenKey::new()?)), &issuer, "i-0b")?;
    let [foreign_place, foreign_service] = machine(key, "https://other.tokens.sts.global.api.aws", "i-0c")?;
    for (place, service, code) in [
        (&other_place, &other_service, "identity_signature"),
        (&foreign_place, &foreign_service, "identity_issuer"),
        (&place, &service, "identity_used"),
    ] {
        let arguments = ["--identity", "aws-sts", "--metadata", place, "--sts", service];
        let (tried, state) = tries(&folder, code, &line, &arguments)?;
        refused(&hub, &tried, &state, code)?;
    }
    let document = Machine::start(Some(cloud.document(REGION, ACCOUNT, "i-0a", Duration::ZERO)?))?;
    let place = document.place.to_string();
    let (tried, state) = tries(&folder, "by-document", &line, &["--identity", "aws", "--metadata", &place])?;
    refused(&hub, &tried, &state, "identity_used")?;
    // A machine without a role has its document, still.
    let bare = Machine::start(Some(cloud.document(REGION, ACCOUNT, "i-0d", Duration::ZERO)?))?;
    let place = bare.place.to_string();
    Agent::prove_with("bare", &line, &["--identity", "auto", "--metadata", &place, "--sts", &service])?;
    ensure!(!hub.log().contains("canary"), "the log holds a secret");
    Ok(())
}
