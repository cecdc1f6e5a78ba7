//! What a refusal of the API means.

use blueprint_hub_provider_kit::redacted;
use blueprint_hub_provider_kit::rest::{Call, Style, unclear};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;

/// How this API is called.
pub(crate) const STYLE: Style = Style {
    provider: "linode",
    token: "token",
    tokens_page: "https://cloud.linode.com/profile/tokens",
    absent: |answer| {
        serde_json::from_slice::<Refusal>(answer.body()).is_ok_and(|said| !said.errors.is_empty())
    },
    refused,
};

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    errors: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    reason: String,
    field: Option<String>,
}

/// An answer that is no success, and whose status alone does not say why.
fn refused(call: Call, answer: &Response<Bytes>) -> ProviderError {
    let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    let told: Vec<_> = refusal.errors.iter().map(Reason::line).collect();
    let said = told.join("; ");
    match answer.status() {
        StatusCode::UNAUTHORIZED => STYLE.wrong_token(),
        StatusCode::FORBIDDEN => ProviderError::Deny {
            action: format!(
                "{}: the token lacks the scope {}, or its user is restricted and lacks the grant ({said}); make one that \
                 has it, as a user with full access",
                call.name, call.scope
            ),
        },
        // A page for people is of something before the API.
        _ if refusal.errors.is_empty() => unclear(call, answer, "not a success"),
        status if status.is_client_error() => by_text(said),
        _ => unclear(call, answer, "not a success"),
    }
}

impl Reason {
    fn line(&self) -> String {
        let reason = redacted(self.reason.as_bytes());
        match &self.field {
            Some(field) => format!("{}: {reason}", redacted(field.as_bytes())),
            None => reason,
        }
    }
}

/// A 400 is anything from a spelling to a limit; only its text tells, and of the texts only "Linode busy." and "Account Limit
/// reached" are known for sure.
fn by_text(said: String) -> ProviderError {
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["linode busy", "is busy", "currently running or queued"]) {
        return ProviderError::Busy { reason: said };
    }
    if has(&["limit reached", "limit exceeded", "limit has been reached", "exceeds your", "exceeded your"]) {
        return ProviderError::Quota { what: said, limit: None };
    }
    if has(&[
        "capacity",
        "sold out",
        "currently unavailable",
        "temporarily unavailable",
        "no available hosts",
    ]) {
        return ProviderError::Capacity { what: said };
    }
    let is_of_plan = has(&["type", "region", "plan"]);
    if is_of_plan
        && has(&["not available", "unavailable", "not valid", "is invalid", "not sold", "not supported"])
    {
        return ProviderError::NotSold { what: said };
    }
    ProviderError::Reject { reason: said }
}

/// Whether a thing was refused because another has its label already.
pub(crate) fn is_label_taken(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Reject { reason } if {
        let reason = reason.to_ascii_lowercase();
        reason.contains("label") && (reason.contains("unique") || reason.contains("in use") || reason.contains("taken"))
    })
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provider_kit::rest::call;
    use blueprint_hub_provision_core::ErrorClass;

    use super::*;

    const CREATE: Call = call("post-linode-instance", "linodes:read_write");

    fn error(status: u16, body: &str) -> ProviderError {
        refused(CREATE, &Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap())
    }

    fn reason(text: &str, field: &str) -> ProviderError {
        error(400, &format!(r#"{{"errors":[{{"reason":"{text}","field":{field}}}]}}"#))
    }

    #[test]
    fn refusals_are_told_apart() {
        use ErrorClass as C;
        for (text, field, class) in [
            ("Linode busy.", "null", C::Again),
            ("Account Limit reached. Please open a support ticket.", "null", C::Quota),
            ("This region is at capacity for this plan.", r#""region""#, C::Capacity),
            ("A valid plan type by that ID was not found, or is not available here", r#""type""#, C::NotSold),
            ("region is not valid", r#""region""#, C::NotSold),
            ("Label must be unique among your linodes", r#""label""#, C::Reject),
            ("Password does not meet strength requirement", r#""root_pass""#, C::Reject),
        ] {
            let error = reason(text, field);
            assert_eq!(error.class(), class, "{text}: {error:?}");
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(is_label_taken(&reason("Label must be unique among your linodes", r#""label""#)));
        assert!(!is_label_taken(&reason("Must be 3-64 characters", r#""label""#)));
    }

    #[test]
    fn a_missing_scope_is_named_and_a_wrong_token_says_what_to_do() {
        let told = error(
            403,
            r#"{"errors":[{"reason":"Your OAuth token is not authorized to use this endpoint."}]}"#,
        );
        assert!(told.to_string().contains("scope linodes:read_write"), "{told}");
        let told = error(401, r#"{"errors":[{"reason":"Invalid Token"}]}"#);
        assert!(told.to_string().contains("provider configure linode"), "{told}");
    }

    #[test]
    fn what_a_proxy_says_is_not_what_the_cloud_says() {
        for (status, body) in [(400, "<html>400 Bad Request nginx</html>"), (404, ""), (409, "{}")] {
            assert_eq!(error(status, body).class(), ErrorClass::Unknown, "{status}");
        }
        let error = error(400, r#"{"errors":[{"reason":"root_pass=canary is weak"}]}"#);
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
