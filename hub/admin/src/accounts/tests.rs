//! What answers and errors say.

use axum::response::IntoResponse;
use blueprint_common_types::Micros;
use blueprint_hub_provision_core::Candidate;
use blueprint_hub_provision_core::lifecycle::{Cloud, Record};
use blueprint_hub_provision_core::resource::Arch;

use super::*;

/// Status, code, message and hint of an error.
async fn told(error: AccountError) -> (u16, String) {
    let response = ApiError::from(error).into_response();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn every_failure_has_its_status_and_the_next_step() {
    let source = || "no route".into();
    let unsent = ProviderError::Unsent { call: "account_get", source: source() };
    let nonsense = ProviderError::Other { call: "account_get", source: source() };
    let wrong = ProviderError::Deny { action: "use digitalocean: the token is wrong".to_owned() };
    let region = ProviderError::Reject { reason: "no such region".to_owned() };
    for (error, status, words) in [
        (AccountError::Unknown("mars".to_owned()), 404, "provider ls"),
        (AccountError::NotBuilt("aws", "provider-aws"), 409, "feature provider-aws"),
        (AccountError::NoAccount("sim".to_owned()), 409, "needs no credentials"),
        (AccountError::Discontinued("X ended on 2026-06-30".to_owned()), 409, "blueprint-hub offers"),
        (AccountError::Disabled("aws"), 409, "providers.aws.enabled = true"),
        (AccountError::Invalid("has no token".to_owned()), 400, "NAME = VALUE"),
        (AccountError::Standing("aws", 2), 409, "--force"),
        (AccountError::Needed("aws", 2), 409, "terminate their deployments"),
        (AccountError::Busy("aws"), 409, "wait"),
        (AccountError::Cloud("digitalocean", wrong), 403, "provider configure digitalocean"),
        (AccountError::Cloud("digitalocean", unsent), 503, "reaches digitalocean"),
        (AccountError::Cloud("digitalocean", nonsense), 503, "nothing was ordered"),
        (AccountError::Cloud("digitalocean", region), 422, "config check"),
    ] {
        let (found, text) = told(error).await;
        assert!(found == status && text.contains(words), "{found} {text}");
    }
}

#[test]
fn what_went_before_a_failure_is_said() {
    let failed = || AccountError::Cloud("aws", ProviderError::Busy { reason: "it is slow".to_owned() });
    let removed = ["firewall x".to_owned()];
    let (_, _, message, _) = ApiError::from(failed()).behind(&removed).parts();
    assert!(message.ends_with("; deleted before: firewall x"), "{message}");
    let told = outcome(&removed, Some(&failed()));
    assert!(told.starts_with("deleted: firewall x; then failed: ") && told.contains("it is slow"), "{told}");
    assert_eq!(outcome(&[], None), "deleted: nothing");
}

#[test]
fn a_row_says_where_credentials_come_from_and_shows_none() {
    let record = CredentialRecord {
        provider: "digitalocean".to_owned(),
        sealed: "v4.local.canary".to_owned(),
        shown: "...6789".to_owned(),
        changed_at: Timestamp::from_millis(1_800_000_000_000),
        changed_by: "operator (socket)".to_owned(),
    };
    let field =
        CredentialField { name: "token", variables: &["DO_TOKEN"], is_secret: true, is_required: true };
    let view = AccountView {
        name: "digitalocean".to_owned(),
        is_enabled: true,
        lacks: None,
        fields: vec![field],
        origin: Some(CredentialOrigin { kind: "sealed", text: Ok("the sealed store".to_owned()) }),
        sealed: Some(record),
        checked: Some((Timestamp::from_millis(0), vec!["mars1: no such region".to_owned()])),
    };
    let cloud = Cloud {
        name: "digitalocean".to_owned(),
        listed_at: None,
        machines: 2,
        error: Some("list: throttled".to_owned()),
        is_closed: false,
    };
    let overview = Overview { clouds: vec![cloud], ..Overview::default() };
    let shown = row(&view, &overview);
    assert!(!shown.to_string().contains("canary"), "{shown}");
    assert_eq!(shown["credentials"]["source"], "sealed");
    assert_eq!(shown["sealed"]["shown"], "...6789");
    assert_eq!((&shown["calls"], &shown["machines"]), (&json!("paused"), &json!(2)));
    assert_eq!(shown["check_problems"], json!(["mars1: no such region"]));
}

#[test]
fn a_machine_stands_from_its_call_until_it_is_gone() {
    let record = |number: u32, provider: &str, state| Record {
        key: format!("bp-aaaaaaaaaaaaaaaa-{number}").parse().unwrap(),
        deployment: "aaaaaaaaaaaaaaaa".parse().unwrap(),
        number,
        candidate: Candidate {
            egress: None,
            provider: provider.to_owned(),
            plan: "small".to_owned(),
            region: "here".to_owned(),
            spot: false,
            disk_gb: 8,
            arch: Arch::X86_64,
            hourly: Micros::new(1),
            stopped_hourly: Micros::new(1),
        },
        state,
        attempt: 1,
        created_at: Timestamp::default(),
        since: Timestamp::default(),
        called_at: None,
        made_at: None,
        is_off: false,
        switched_at: None,
        deleted_at: None,
        provider_id: None,
        agent: None,
        agent_attempt: 0,
        reason: String::new(),
    };
    let mut records = Records::default();
    for (number, state) in (1..).zip(RecordState::ALL) {
        for (number, provider) in [(number, "aws"), (number + 100, "digitalocean")] {
            let record = record(number, provider, state);
            records.instances.insert(record.key.clone(), record);
        }
    }
    assert_eq!((standing(&records, "aws"), standing(&records, "sim")), (4, 0));
    assert_eq!(Insistence { force: false }.left(4), 4);
    assert_eq!(Insistence { force: true }.left(4), 0);
}
