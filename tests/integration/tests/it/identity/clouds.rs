//! Machines of Google Cloud and Azure, and pods of a cluster, that join, each by its own cloud's word, and forged ones that do not.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use blueprint_common_types::Timestamp;
use blueprint_tests_support::http::Request;
use blueprint_tests_support::{Finished, scratch};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::stand_ins::{Answer, AzureSigner, Https, TokenKey, file_with, metadata, parameter};
use super::{line, openssl_is_there};
use crate::fixture::{Agent, CALL, Hub, SOON, Service, joining, rows, text};

/// A machine joined by its identity: it is listed with this, written down, and what it offers is served.
pub(super) fn serves(hub: &Hub<'_>, mut agent: Agent<'_>, service: &str, identity: &str) -> Result<()> {
    let listed = hub.json(&["identity", "ls"])?;
    let is_it = |row: &Value| {
        let parts = ["/cloud", "/account", "/instance"].map(|part| text(row, part).unwrap_or("-").to_owned());
        parts.join("/") == identity
    };
    ensure!(rows(&listed, "/identities")?.iter().any(is_it), "{identity} is not in {listed}");
    let accepted = format!("identity {identity}, name {}", agent.name());
    let audit = hub.audit()?;
    ensure!(audit.iter().any(|row| row.starts_with("join.accept ") && row.contains(&accepted)), "{audit:?}");
    let running = Service::start(None, agent.name())?;
    agent.run()?;
    agent.offer(service, running.address)?;
    let number = service.split('/').next_back().context("a service")?;
    hub.wait_served(number, &hub.access_token(service)?, SOON)?;
    Ok(())
}

/// A machine was refused with this code: it holds nothing, the hub counted it and wrote it down.
pub(super) fn refused(hub: &Hub<'_>, tried: &Finished, state: &std::path::Path, code: &str) -> Result<()> {
    ensure!(tried.code == Some(4), "{code}: {tried:?}");
    ensure!(!state.join("identity.json").exists(), "{code}: it has an identity");
    let rows = hub.audit()?;
    let is_it = |row: &&String| row.starts_with("join.refuse ") && row.contains(&format!("{code}: "));
    ensure!(rows.iter().any(|row| is_it(&row)), "no row with {code}: {rows:?}");
    let metrics = hub.api(&Request::get("/metrics"))?.text();
    let counted = format!("hub_control_joins_total{{result=\"{code}\"}} ");
    ensure!(metrics.contains(&counted), "{counted} was expected");
    Ok(())
}

/// One more machine that tries to join with these arguments.
pub(super) fn tries(
    folder: &TempDir,
    name: &str,
    line: &str,
    arguments: &[&str],
) -> Result<(Finished, std::path::PathBuf)> {
    let state = folder.path().join(name);
    let name = name.replace('_', "-");
    Ok((joining(None, &name, &state)?.args(arguments).stdin(line).run(CALL)?, state))
}

/// The token of a machine of Google, as its metadata service gives it for an audience.
pub(super) fn of_google(key: &TokenKey, project: &str, place: (&str, &str), request: &str) -> Result<String> {
    ensure!(request.contains("metadata-flavor: Google\r\n") && parameter(request, "format") == Some("full"));
    let audience = parameter(request, "audience").context("an audience")?;
    let now = Timestamp::from(std::time::SystemTime::now()).as_secs();
    let (zone, instance) = place;
    key.sign(&json!({
        "aud": audience, "azp": "1", "email": "nodes@project.iam.gserviceaccount.com", "email_verified": true,
        "exp": now + 3600, "iat": now, "iss": "https://accounts.google.com", "sub": "1",
        "google": { "compute_engine": {
            "instance_creation_timestamp": now, "instance_id": instance, "instance_name": "vm",
            "project_id": project, "project_number": 12, "zone": zone } },
    }))
}

#[test]
fn a_machine_of_google_joins_by_its_token_and_a_forged_one_does_not() -> Result<()> {
    if !openssl_is_there() {
        return Ok(());
    }
    let key = Arc::new(Mutex::new(TokenKey::new()?));
    let published = key.lock().unwrap_or_else(PoisonError::into_inner).published()?;
    let google = Https::start(Box::new(move |_| Ok((200, published.clone()))))?;
    let hub = Hub::start(&[
        "join.identity.gcp_projects=project-1",
        &format!("join.identity.gcp_keys=https://{}/certs", google.place),
        &google.trusted(),
        "join.identity.unordered=gcp",
        "join.identity.services=7/42",
    ])?;
    let line = line(&hub)?;
    let own = Arc::clone(&key);
    let genuine: Answer = Box::new(move |request| {
        let key = own.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((200, of_google(&key, "project-1", ("europe-west3-a", "4711"), request)?))
    });
    let genuine = metadata(genuine)?;
    let agent = Agent::prove("googly", &line, genuine)?;
    serves(&hub, agent, "7/42", "gcp/project-1/4711")?;

    let folder = scratch("refused")?;
    let other = TokenKey::new()?;
    let forged = metadata(Box::new(move |request| {
        Ok((200, of_google(&other, "project-1", ("europe-west3-a", "4712"), request)?))
    }))?;
    let elsewhere = metadata(Box::new(move |request| {
        let key = key.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((200, of_google(&key, "project-2", ("europe-west3-a", "4713"), request)?))
    }))?;
    for (place, code) in
        [(forged, "identity_signature"), (elsewhere, "identity_not_allowed"), (genuine, "identity_used")]
    {
        let place = place.to_string();
        let (tried, state) = tries(&folder, code, &line, &["--identity", "gcp", "--metadata", &place])?;
        refused(&hub, &tried, &state, code)?;
    }
    Ok(())
}

/// A metadata service of Azure for one machine.
pub(super) fn of_azure(
    signer: Arc<AzureSigner>,
    subscription: &str,
    machine: &str,
) -> Result<std::net::SocketAddr> {
    let (subscription, machine) = (subscription.to_owned(), machine.to_owned());
    metadata(Box::new(move |request| {
        ensure!(
            request.contains("metadata: true\r\n") && request.starts_with("GET /metadata/attested/document?")
        );
        let nonce = parameter(request, "nonce").context("a nonce")?;
        Ok((200, signer.attested(&subscription, &machine, nonce)?))
    }))
}

#[test]
fn a_machine_of_azure_joins_by_its_attested_document_and_a_forged_one_does_not() -> Result<()> {
    const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";
    const MACHINE: &str = "aaaaaaaa-bbbb-cccc-dddd-000000000001";
    if !openssl_is_there() {
        return Ok(());
    }
    let signer = AzureSigner::new()?;
    let hub = Hub::start(&[
        &format!("join.identity.azure_subscriptions={SUBSCRIPTION}"),
        &signer.trusted(),
        "join.identity.unordered=azure",
        "join.identity.services=7/42",
    ])?;
    let line = line(&hub)?;
    // Its authority has the same name, and another key.
    let forged =
        of_azure(Arc::new(AzureSigner::new()?), SUBSCRIPTION, "aaaaaaaa-bbbb-cccc-dddd-000000000002")?;
    let genuine = of_azure(Arc::new(signer), SUBSCRIPTION, MACHINE)?;
    let agent = Agent::prove("azurite", &line, genuine)?;
    serves(&hub, agent, "7/42", &format!("azure/{SUBSCRIPTION}/{MACHINE}"))?;
    let folder = scratch("refused")?;
    for (place, code) in [(forged, "identity_signer"), (genuine, "identity_used")] {
        let place = place.to_string();
        let (tried, state) = tries(&folder, code, &line, &["--identity", "azure", "--metadata", &place])?;
        refused(&hub, &tried, &state, code)?;
    }
    Ok(())
}

#[test]
fn a_pod_joins_by_the_token_of_its_service_account_and_a_forged_one_does_not() -> Result<()> {
    if !openssl_is_there() {
        return Ok(());
    }
    let folder = scratch("cluster")?;
    let own = file_with(&folder, "hub-token", "token-of-the-hub\n")?;
    let claims = json!({
        "iss": "https://kubernetes.default.svc", "aud": ["blueprint-hub"], "sub": "system:serviceaccount:blueprint:agent",
        "kubernetes.io": { "namespace": "blueprint", "pod": { "name": "agent-x", "uid": "uid-1" } },
    });
    let genuine = TokenKey::new()?.sign(&claims)?;
    let known = genuine.clone();
    let cluster = Https::start(Box::new(move |request| {
        let is_hub = request.contains("authorization: Bearer token-of-the-hub\r\n")
            && request.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews ");
        if !is_hub {
            return Ok((403, json!({ "kind": "Status", "status": "Failure" }).to_string()));
        }
        let (_, body) = request.split_once("\r\n\r\n").context("a body")?;
        let review: Value = serde_json::from_str(body)?;
        let is_good = text(&review, "/spec/token")? == known
            && review.pointer("/spec/audiences") == Some(&json!(["blueprint-hub"]));
        let status = if is_good {
            json!({
                "authenticated": true, "audiences": ["blueprint-hub"],
                "user": {
                    "username": "system:serviceaccount:blueprint:agent", "uid": "1",
                    "groups": ["system:serviceaccounts", "system:authenticated"],
                    "extra": { "authentication.kubernetes.io/pod-name": ["agent-x"],
                               "authentication.kubernetes.io/pod-uid": ["uid-1"] },
                },
            })
        } else {
            json!({ "authenticated": false, "error": "invalid bearer token" })
        };
        let review =
            json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status });
        Ok((201, review.to_string()))
    }))?;
    let hub = Hub::start(&[
        "join.identity.kubernetes_accounts=blueprint:agent",
        &format!("join.identity.kubernetes_api=https://{}", cluster.place),
        &format!("join.identity.kubernetes_token={}", own.display()),
        &cluster.trusted(),
        "join.identity.unordered=kubernetes",
        "join.identity.services=7/42",
    ])?;
    let line = line(&hub)?;
    let token = |name: &str, token: &str| Ok(file_with(&folder, name, token)?.display().to_string());
    let file: Result<_> = token("genuine", &format!("{genuine}\n"));
    let file = file?;
    let agent = Agent::prove_with("poddy", &line, &["--identity", "kubernetes", "--identity-token", &file])?;
    serves(&hub, agent, "7/42", "kubernetes/blueprint:agent/uid-1")?;

    let forged: Result<_> = token("forged", &TokenKey::new()?.sign(&claims)?);
    for (file, code) in [(forged?, "identity_signature"), (file, "identity_used")] {
        let (tried, state) =
            tries(&folder, code, &line, &["--identity", "kubernetes", "--identity-token", &file])?;
        refused(&hub, &tried, &state, code)?;
    }
    ensure!(
        !hub.log().contains("token-of-the-hub") && !hub.log().contains(&genuine),
        "the log holds a token"
    );
    Ok(())
}
