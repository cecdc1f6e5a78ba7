//! What a refusal of the API means.

use blueprint_hub_provider_kit::redacted;
use blueprint_hub_provider_kit::rest::{Call, Style, unclear};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;

/// How this API is called.
pub(crate) const STYLE: Style = Style {
    provider: "vultr",
    token: "api_key",
    tokens_page: "https://my.vultr.com/settings/#settingsapi",
    absent: |answer| {
        serde_json::from_slice::<Refusal>(answer.body()).is_ok_and(|said| !said.error.is_empty())
    },
    refused,
};

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
}

/// An answer that is no success, and whose status alone does not say why.
fn refused(call: Call, answer: &Response<Bytes>) -> ProviderError {
    let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    let said = redacted(refusal.error.as_bytes());
    match answer.status() {
        StatusCode::UNAUTHORIZED if said.to_ascii_lowercase().contains("ip address") => ProviderError::Deny {
            action: format!(
                "use vultr from here: {said}; add the hub's address under Access Control at {}, or run `blueprint-hub \
                 provider configure vultr` with a key that takes it",
                STYLE.tokens_page
            ),
        },
        StatusCode::UNAUTHORIZED => STYLE.wrong_token(),
        StatusCode::FORBIDDEN => ProviderError::Deny {
            action: format!(
                "{}: the user of the key lacks the permission {} ({said}); give it to that user",
                call.name, call.scope
            ),
        },
        // A page for people is of something before the API.
        _ if said.is_empty() => unclear(call, answer, "not a success"),
        status if status.is_client_error() => by_text(said),
        _ => unclear(call, answer, "not a success"),
    }
}

/// A 400 is anything from a spelling to a limit; only its text tells, and no list of texts is published.
fn by_text(said: String) -> ProviderError {
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["locked", "is currently", "another action", "already in progress", "not ready"]) {
        return ProviderError::Busy { reason: said };
    }
    if has(&[
        "reached the maximum",
        "limit for this account",
        "limit increase",
        "limit reached",
        "exceeds your",
    ]) {
        return ProviderError::Quota { what: said, limit: None };
    }
    // Orders name places out of the list of what each plan is sold in, so this is for now.
    if has(&["not available in the selected", "capacity", "sold out", "out of stock", "temporarily"]) {
        return ProviderError::Capacity { what: said };
    }
    let is_of_plan = has(&["plan", "region", "location"]);
    if is_of_plan && has(&["invalid", "not available", "unavailable", "does not exist", "not found"]) {
        return ProviderError::NotSold { what: said };
    }
    ProviderError::Reject { reason: said }
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provider_kit::rest::call;
    use blueprint_hub_provision_core::ErrorClass;

    use super::*;

    fn error(status: u16, text: &str) -> ProviderError {
        let body = Bytes::from(format!(r#"{{"error":"{text}","status":{status}}}"#));
        refused(
            call("create-instance", "provisioning"),
            &Response::builder().status(status).body(body).unwrap(),
        )
    }

    #[test]
    fn refusals_are_told_apart() {
        use ErrorClass as C;
        for (text, class) in [
            ("Server is currently locked", C::Again),
            ("You have reached the maximum monthly fee limit for this account.", C::Quota),
            ("The plan is not available in the selected region.", C::Capacity),
            ("Invalid plan.", C::NotSold),
            ("Invalid location.", C::NotSold),
            ("Invalid hostname.", C::Reject),
        ] {
            let error = error(400, text);
            assert_eq!(error.class(), class, "{text}: {error:?}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn an_address_that_is_not_listed_is_no_wrong_key() {
        let told = error(401, "Unauthorized IP address: 192.0.2.1").to_string();
        assert!(told.contains("192.0.2.1") && told.contains("Access Control"), "{told}");
        let told = error(401, "Invalid API token.").to_string();
        assert!(told.contains("provider configure vultr") && told.contains("token is wrong"), "{told}");
        let told = error(403, "Forbidden").to_string();
        assert!(told.contains("permission provisioning"), "{told}");
    }

    #[test]
    fn what_a_proxy_says_is_not_what_the_cloud_says() {
        let answer = |body: &str| Response::builder().status(404).body(Bytes::from(body.to_owned())).unwrap();
        for body in ["<html>not here</html>", "", "{}"] {
            let error = refused(call("get-instance", ""), &answer(body));
            assert_eq!(error.class(), ErrorClass::Unknown, "{body}");
        }
        let error = error(400, "default_password=canary is weak");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
