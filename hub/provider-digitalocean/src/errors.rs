//! What a refusal of the API means.

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;

use crate::api::Call;

/// The body of an error, as far as it is one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    id: String,
    message: String,
    request_id: String,
}

/// An answer that says nothing that is known.
#[derive(Debug, thiserror::Error)]
#[error("status {status}, {what}: {body}")]
struct Unclear {
    status: u16,
    what: String,
    body: String,
}

/// Whether the API itself says that there is no such thing; a page of something on the way does not.
pub(crate) fn is_absent(answer: &Response<Bytes>) -> bool {
    answer.status() == StatusCode::NOT_FOUND
        && serde_json::from_slice::<Refusal>(answer.body()).is_ok_and(|refusal| refusal.id == "not_found")
}

/// An answer that is no success.
pub(crate) fn refused(call: Call, answer: &Response<Bytes>, now: Timestamp) -> ProviderError {
    let refusal: Refusal = serde_json::from_slice(answer.body()).unwrap_or_default();
    let text = redacted(refusal.message.as_bytes());
    let said = format!("{} ({})", text, shown_id(&refusal));
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => {
            ProviderError::Throttle { retry_after: retry_after(answer.headers(), now) }
        }
        StatusCode::UNAUTHORIZED => ProviderError::Deny {
            action: "use digitalocean: the token is wrong, or not valid any more; make one at \
                     https://cloud.digitalocean.com/account/api/tokens and run `blueprint-hub provider configure \
                     digitalocean`"
                .to_owned(),
        },
        StatusCode::FORBIDDEN => ProviderError::Deny {
            action: format!(
                "{}: the token lacks the scope {}; make one that has it",
                call.name,
                scope_in(&text).unwrap_or(call.scope)
            ),
        },
        StatusCode::CONFLICT | StatusCode::LOCKED => ProviderError::Busy { reason: said },
        StatusCode::UNPROCESSABLE_ENTITY => unprocessable(&text, said),
        // Whether a call that was given up was done, nobody knows.
        StatusCode::REQUEST_TIMEOUT => unclear(call, answer, "given up"),
        status if status.is_client_error() && !refusal.id.is_empty() => ProviderError::Reject { reason: said },
        status if status.is_redirection() => {
            unclear(call, answer, "led elsewhere, which is not followed; check providers.digitalocean.endpoint")
        }
        _ => unclear(call, answer, "not a success"),
    }
}

/// A success whose document is none.
pub(crate) fn nonsense(call: Call, answer: &Response<Bytes>, error: &serde_json::Error) -> ProviderError {
    // The error's own text may repeat a value.
    let what = format!("with a document that is wrong at line {} column {}", error.line(), error.column());
    unclear(call, answer, &what)
}

fn unclear(call: Call, answer: &Response<Bytes>, what: &str) -> ProviderError {
    let source =
        Unclear { status: answer.status().as_u16(), what: what.to_owned(), body: redacted(answer.body()) };
    ProviderError::Other { call: call.name, source: Box::new(source) }
}

/// The name of the error, and the number that support asks for.
fn shown_id(refusal: &Refusal) -> String {
    let is_plain = |text: &&str| {
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let id = Some(refusal.id.as_str()).filter(is_plain).unwrap_or_default();
    match Some(refusal.request_id.as_str()).filter(is_plain).filter(|text| !text.is_empty()) {
        Some(request) => format!("{id}, request {request}"),
        None => id.to_owned(),
    }
}

/// The first scope that a text names, such as `droplet:create`.
fn scope_in(text: &str) -> Option<&str> {
    let is_of_scope = |c: char| c.is_ascii_lowercase() || c == '_' || c == ':';
    let mut words = text.split(|c| !is_of_scope(c));
    words.find(|word| word.split_once(':').is_some_and(|(what, verb)| !what.is_empty() && !verb.is_empty()))
}

/// A 422 is anything from a spelling to a limit; only its text tells.
fn unprocessable(text: &str, said: String) -> ProviderError {
    let lower = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["pending event", "currently locked", "is locked", "already in progress"]) {
        return ProviderError::Busy { reason: said };
    }
    if has(&[
        "exceed your",
        "droplet limit",
        "account limit",
        "limit exceeded",
        "reached your",
        "reached the limit",
    ]) {
        return ProviderError::Quota { what: said, limit: limit_in(&lower) };
    }
    if has(&[
        "capacity",
        "sold out",
        "currently unavailable",
        "temporarily unavailable",
        "currently not available",
    ]) {
        return ProviderError::Capacity { what: said };
    }
    if has(&["not available in", "is not available", "invalid size", "no longer available", "is unavailable"])
    {
        return ProviderError::NotSold { what: said };
    }
    ProviderError::Reject { reason: said }
}

/// The number behind the word limit, where there is one.
fn limit_in(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("limit")?;
    let digits =
        rest.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == ' ' || c == ':' || c == '(');
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provision_core::ErrorClass;

    use super::*;
    use crate::api::call;

    const CREATE: Call = call("droplets_create", "droplet:create");

    fn error(status: u16, body: &str) -> ProviderError {
        let answer = Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap();
        refused(CREATE, &answer, Timestamp::default())
    }

    fn message(text: &str) -> ProviderError {
        error(422, &format!(r#"{{"id":"unprocessable_entity","message":"{text}","request_id":"4d9d"}}"#))
    }

    #[test]
    fn refusals_are_told_apart() {
        use ErrorClass as C;
        for (text, class) in [
            ("creating this/these droplet(s) will exceed your droplet limit", C::Quota),
            ("You have reached the limit of 10 droplets", C::Quota),
            ("GPU droplet limit: 0. Contact support to raise it.", C::NoQuota),
            ("Size is not available in this region.", C::NotSold),
            ("You specified an invalid size for Droplet creation.", C::NotSold),
            ("The region is out of capacity for this size.", C::Capacity),
            ("This size is currently unavailable in nyc3.", C::Capacity),
            ("Droplet already has a pending event.", C::Again),
            ("Name is not valid", C::Reject),
        ] {
            let error = message(text);
            assert_eq!(error.class(), class, "{text}: {error:?}");
            assert!(error.to_string().contains("request 4d9d"), "{error}");
        }
        assert_eq!(limit_in("limit of 25 droplets"), Some(25));
        assert_eq!(limit_in("no number"), None);
        for (status, class) in [
            (400, C::Reject),
            (404, C::Reject),
            (409, C::Again),
            (401, C::Deny),
            (429, C::Throttle),
            (408, C::Unknown),
            (500, C::Unknown),
            (503, C::Unknown),
            (302, C::Unknown),
        ] {
            assert_eq!(error(status, r#"{"id":"x","message":"y"}"#).class(), class, "{status}");
        }
        // What a proxy on the way says is not what the cloud says.
        assert_eq!(error(404, "<html>not here</html>").class(), C::Unknown);
    }

    #[test]
    fn a_missing_scope_is_named() {
        let told = error(
            403,
            r#"{"id":"forbidden","message":"You are missing the required permission tag:create."}"#,
        );
        assert!(told.to_string().contains("lacks the scope tag:create"), "{told}");
        let untold = error(403, r#"{"id":"forbidden","message":"You are not authorized: ask your owner"}"#);
        assert!(untold.to_string().contains("lacks the scope droplet:create"), "{untold}");
    }

    #[test]
    fn what_is_kept_of_an_answer_is_redacted() {
        for body in [r#"{"user_data":"canary"}"#, "<p>Authorization: Bearer canary</p>", "user_data=canary"] {
            let error = error(500, body);
            assert!(
                !format!("{error:?}").contains("canary") && !error.line().contains("canary"),
                "{error:?}"
            );
        }
        let error = message("token dop_v1_canary is wrong");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
