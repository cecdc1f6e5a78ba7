//! What a refusal of the API means. Its errors are not documented: the status counts, and then words of the text.

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::{redacted, retry_after};
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::api::Call;

/// Longest text of an error that is shown, in bytes.
const MAX_SHOWN: usize = 400;

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
    answer.status() == StatusCode::NOT_FOUND && said(answer).to_ascii_lowercase().contains("not found")
}

fn document(answer: &Response<Bytes>) -> Option<Value> {
    serde_json::from_slice::<Value>(answer.body()).ok().filter(Value::is_object)
}

/// The text of a refusal, one line without secrets.
pub(crate) fn said(answer: &Response<Bytes>) -> String {
    let document = document(answer).unwrap_or_default();
    let text = ["message", "description", "error"].into_iter().find_map(|name| document.get(name)?.as_str());
    let mut text = redacted(text.unwrap_or_default().as_bytes());
    let end = text.floor_char_boundary(MAX_SHOWN);
    text.truncate(end);
    if text.is_empty() { format!("status {}", answer.status().as_u16()) } else { text }
}

/// An answer that is no success.
pub(crate) fn refused(call: Call, answer: &Response<Bytes>, now: Timestamp) -> ProviderError {
    let said = said(answer);
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => {
            ProviderError::Throttle { retry_after: retry_after(answer.headers(), now) }
        }
        StatusCode::UNAUTHORIZED => ProviderError::Deny {
            action: "use hivelocity: the API key is wrong, or not valid any more; make one at \
                     https://my.hivelocity.net/account and run `blueprint-hub provider configure hivelocity`"
                .to_owned(),
        },
        StatusCode::FORBIDDEN => ProviderError::Deny {
            action: format!(
                "{}: the key, or the contact that it belongs to, may not ({said}); the account's manager grants it",
                call.0
            ),
        },
        StatusCode::CONFLICT | StatusCode::LOCKED => ProviderError::Busy { reason: said },
        StatusCode::REQUEST_TIMEOUT => unclear(call, answer, "given up"),
        status if status.is_redirection() => {
            unclear(call, answer, "led elsewhere, which is not followed; check providers.hivelocity.endpoint")
        }
        status if status.is_client_error() && document(answer).is_some() => wrong_order(said),
        _ => unclear(call, answer, "not a success"),
    }
}

/// An order that cannot be made is one of many things; only its text tells.
fn wrong_order(said: String) -> ProviderError {
    let lower = said.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["limit", "quota", "maximum number"]) {
        return ProviderError::Quota { what: said, limit: None };
    }
    if has(&["out of stock", "no stock", "no available", "not enough", "sold out"]) {
        return ProviderError::Capacity { what: said };
    }
    if has(&["not available in", "product", "billing period"]) {
        return ProviderError::NotSold { what: said };
    }
    if has(&["try again", "in progress", "being provisioned"]) {
        return ProviderError::Busy { reason: said };
    }
    ProviderError::Reject { reason: said }
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
    ProviderError::Other { call: call.0, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use blueprint_hub_provision_core::ErrorClass as C;

    use super::*;

    #[test]
    fn only_the_apis_own_words_say_that_there_is_no_such_thing() {
        for (body, is_one) in [
            (r#"{"code": 404, "message": "Device Not Found"}"#, true),
            (r#"{"message": "no route matched"}"#, false),
            ("{}", false),
            ("<html>not found</html>", false),
        ] {
            assert_eq!(
                is_absent(&Response::builder().status(404).body(Bytes::from(body)).unwrap()),
                is_one,
                "{body}"
            );
        }
    }

    #[test]
    fn refusals_are_told_apart_and_keep_no_secret() {
        for (status, body, class) in [
            (400, r#"{"code": 400, "message": "Product 525 is out of stock in NYC1."}"#, C::Capacity),
            (400, r#"{"code": 400, "message": "Product 1 was not found."}"#, C::NotSold),
            (400, r#"{"code": 400, "message": "Your account has reached its limit of devices."}"#, C::Quota),
            (400, r#"{"code": 400, "message": "Invalid hostname. X-API-KEY: canary"}"#, C::Reject),
            (400, r#"{"code": 400, "message": "A reload is in progress, try again later."}"#, C::Again),
            (401, "{}", C::Deny),
            (403, r#"{"message": "You have not been granted permission"}"#, C::Deny),
            (409, "{}", C::Again),
            (429, "", C::Throttle),
            (500, r#"{"message": "x", "script": "canary"}"#, C::Unknown),
            (502, "<html>", C::Unknown),
            (302, "", C::Unknown),
            (404, "<html>not here</html>", C::Unknown),
        ] {
            let answer = Response::builder().status(status).body(Bytes::from(body)).unwrap();
            let error = refused(Call("post_bare_metal_device_resource"), &answer, Timestamp::default());
            assert_eq!(error.class(), class, "{status} {body}: {error:?}");
            assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
        }
    }
}
