//! What answers and errors say.

use axum::response::IntoResponse;
use blueprint_hub_provision_core::lifecycle::Cloud;

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
        (AccountError::Disabled("aws"), 409, "providers.aws.enabled = true"),
        (AccountError::Invalid("has no token".to_owned()), 400, "NAME = VALUE"),
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
    assert_eq!(machines(&overview, "aws"), 0);
}
