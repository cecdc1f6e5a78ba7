//! Owners of a service and their customers, through a real hub, over restarts and revocations.

use anyhow::{Result, ensure};
use blueprint_tests_support::http::{Request, Response};
use k256::ecdsa::signature::hazmat::PrehashSigner;
use k256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use crate::fixture::{Hub, SOON, Spoke, rows, text};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> Result<Vec<u8>> {
    let at = |start| u8::from_str_radix(digits.get(start..start + 2).unwrap_or_default(), 16);
    Ok((0..digits.len()).step_by(2).map(at).collect::<Result<_, _>>()?)
}

pub(crate) struct Owner(SigningKey);

impl Owner {
    pub(crate) fn new() -> Result<Self> {
        Self::of(3)
    }

    /// One of several: another one for each seed but 0.
    pub(crate) fn of(seed: u8) -> Result<Self> {
        Ok(Self(SigningKey::from_slice(&[seed; 32])?))
    }

    pub(crate) fn public(&self) -> String {
        hex(&self.0.verifying_key().to_sec1_bytes())
    }

    /// Asks for a challenge and gives the body that answers it.
    fn solve(&self, hub: &Hub<'_>) -> Result<Value> {
        let asked = json!({ "pub_key": self.public(), "key_type": "Ecdsa" });
        let challenge = post(hub, "/v1/auth/challenge", &asked)?;
        ensure!(challenge.status == 200, "{}", challenge.text());
        let challenge = text(&challenge.json()?, "/challenge")?.to_owned();
        let signature: Signature = self.0.sign_prehash(&bytes(&challenge)?)?;
        Ok(json!({
            "pub_key": self.public(), "key_type": "Ecdsa", "challenge": challenge,
            "signature": hex(&signature.to_bytes()), "expires_at": 0,
            "additional_headers": { "X-Tenant-Name": "Acme" },
        }))
    }

    pub(crate) fn api_key(&self, hub: &Hub<'_>) -> Result<String> {
        let verified = post(hub, "/v1/auth/verify", &self.solve(hub)?)?;
        ensure!(verified.status == 201, "{}", verified.text());
        Ok(text(&verified.json()?, "/data/api_key")?.to_owned())
    }
}

fn post(hub: &Hub<'_>, path: &str, body: &Value) -> Result<Response> {
    let request = Request::new("POST", path).header("X-Service-Id", "42").body(body.to_string());
    hub.request(&request)
}

/// Status of a request that shows `credential` and names no service.
fn status(hub: &Hub<'_>, credential: &str) -> Result<u16> {
    Ok(hub.request(&Request::get("/").bearer(credential))?.status)
}

pub(crate) fn token(hub: &Hub<'_>, key: &str) -> Result<String> {
    let request = Request::new("POST", "/v1/auth/exchange").bearer(key).body("{}");
    let answer = hub.request(&request)?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(text(&answer.json()?, "/access_token")?.to_owned())
}

#[test]
fn an_owners_key_works_until_it_is_revoked_and_over_a_restart() -> Result<()> {
    let mut hub = Hub::start(&[])?;
    let _spoke = Spoke::start(&hub, None, "greeter", "7/42")?;
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let owner = Owner::new()?;
    let asked = json!({ "pub_key": owner.public(), "key_type": "Ecdsa" });
    ensure!(post(&hub, "/v1/auth/challenge", &asked)?.status == 401, "nobody is an owner yet");

    let key_text = format!("ecdsa:{}", owner.public());
    hub.json(&["service", "owner", "add", "7/42", &key_text])?;
    let owners = hub.json(&["service", "owner", "ls", "7/42"])?;
    ensure!(text(&owners, "/owners/0")? == key_text, "{owners}");
    let (first, second) = (owner.api_key(&hub)?, owner.api_key(&hub)?);
    let token_of_first = token(&hub, &first)?;
    for credential in [&first, &second, &token_of_first] {
        ensure!(status(&hub, credential)? == 200, "{credential}");
    }

    // A body that somebody saw on its way is worth nothing, now or after a restart.
    let captured = owner.solve(&hub)?;
    ensure!(post(&hub, "/v1/auth/verify", &captured)?.status == 201, "the first time");
    ensure!(post(&hub, "/v1/auth/verify", &captured)?.status == 401, "the second time");

    hub.kill()?;
    hub.start_again()?;
    hub.wait_served("42", &first, SOON)?;
    ensure!(status(&hub, &token_of_first)? == 200, "tokens outlive a restart");
    ensure!(post(&hub, "/v1/auth/verify", &captured)?.status == 401, "after a restart");

    let keys = hub.json(&["key", "ls", "--service", "7/42"])?;
    let [row, ..] = rows(&keys, "/keys")? else { anyhow::bail!("three keys: {keys}") };
    ensure!(first.starts_with(text(row, "/id")?) && !keys.to_string().contains(&first), "{keys}");
    hub.json(&["key", "revoke", text(row, "/id")?])?;
    ensure!(status(&hub, &first)? == 401 && status(&hub, &token_of_first)? == 401, "at once");
    ensure!(status(&hub, &second)? == 200, "the other key stands");

    hub.json(&["service", "owner", "rm", "7/42", &key_text])?;
    ensure!(status(&hub, &second)? == 401, "keys go with their owner");
    ensure!(post(&hub, "/v1/auth/challenge", &asked)?.status == 401, "no owner any more");
    let audit = hub.audit()?.join("\n");
    for event in ["service.set", "api_key.create", "api_key.revoke"] {
        ensure!(audit.contains(event), "{event} is not in\n{audit}");
    }
    ensure!(!hub.log().contains(&first) && !audit.contains(&first), "no key in the log");
    Ok(())
}

#[test]
fn a_key_is_replaced_at_once_or_after_a_while() -> Result<()> {
    let hub = Hub::start(&[])?;
    let _spoke = Spoke::start(&hub, None, "greeter", "7/42")?;
    hub.wait_served("42", &hub.access_token("7/42")?, SOON)?;
    let owner = Owner::new()?;
    hub.json(&["service", "owner", "add", "7/42", &format!("ecdsa:{}", owner.public())])?;
    let first = owner.api_key(&hub)?;
    let token_of_first = token(&hub, &first)?;
    let id = |key: &str| key.split('.').next().unwrap_or_default().to_owned();
    ensure!(hub.command(&["key", "rotate", "ak_AAAAAAAAAAA"])?.run(crate::fixture::CALL)?.code == Some(3));

    let answer = hub.json(&["key", "rotate", &id(&first), "--overlap", "3s"])?;
    let second = text(&answer, "/api_key")?.to_owned();
    for credential in [&first, &token_of_first, &second] {
        ensure!(status(&hub, credential)? == 200, "while both work");
    }
    let gone = || {
        ensure!(status(&hub, &first)? == 401 && status(&hub, &token_of_first)? == 401, "still works");
        Ok(())
    };
    blueprint_tests_support::eventually_ok(SOON, "the end of the overlap", gone)?;

    let token_of_second = token(&hub, &second)?;
    let third = text(&hub.json(&["key", "rotate", &id(&second)])?, "/api_key")?.to_owned();
    ensure!(status(&hub, &second)? == 401 && status(&hub, &token_of_second)? == 401, "at once");
    let answer = hub.request(&Request::get("/").bearer(&third))?;
    ensure!(answer.status == 200 && id(&third).starts_with("ak_"), "{}", answer.text());
    let audit = hub.audit()?.join("\n");
    ensure!(audit.matches("api_key.rotate").count() == 2 && !audit.contains(&third), "{audit}");
    ensure!(
        !hub.log().contains(&third) && !hub.json(&["key", "ls"])?.to_string().contains(&third),
        "shown once"
    );
    Ok(())
}

#[test]
fn keys_are_fetched_from_hosts_that_the_operator_has_named() -> Result<()> {
    let hub = Hub::start(&["oauth.jwks_hosts=issuer.invalid"])?;
    let set = |host: &str| {
        let url = format!("https://{host}/jwks.json");
        let settings = json!({ "oauth": { "allowed_issuers": ["https://issuer.invalid"], "jwks_url": url } });
        hub.command(&["service", "settings", "7/42", "--file", "-"])?
            .stdin(&settings.to_string())
            .run(crate::fixture::CALL)
    };
    let refused = set("169.254.169.254")?;
    ensure!(refused.code == Some(2) && refused.stderr.contains("oauth.jwks_hosts"), "{}", refused.stderr);
    let taken = set("issuer.invalid")?;
    ensure!(taken.code == Some(0), "{}", taken.stderr);
    blueprint_tests_support::eventually_ok(SOON, "a first try", || {
        let settings = hub.json(&["service", "settings", "7/42"])?;
        let problem = text(&settings, "/status/jwks/problem")?;
        ensure!(problem.contains("the name has no address"), "{settings}");
        Ok(())
    })
}
