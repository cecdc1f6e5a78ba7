//! What refusals mean at every API of this kind.

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::{Response, StatusCode};

use super::{Call, Style};
use crate::{redacted, retry_after};

/// An answer that says nothing that is known.
#[derive(Debug, thiserror::Error)]
#[error("status {status}, {what}: {body}")]
struct Unclear {
    status: u16,
    what: String,
    body: String,
}

/// What a status alone says of a call that failed; `None` where the API's text has to be read.
#[must_use]
pub fn by_status(
    style: &Style,
    call: Call,
    answer: &Response<Bytes>,
    now: Timestamp,
) -> Option<ProviderError> {
    let provider = style.provider;
    match answer.status() {
        StatusCode::TOO_MANY_REQUESTS => {
            Some(ProviderError::Throttle { retry_after: retry_after(answer.headers(), now) })
        }
        // Whether a call that was given up was done, nobody knows.
        StatusCode::REQUEST_TIMEOUT => Some(unclear(call, answer, "given up")),
        status if status.is_redirection() => {
            let what = format!("led elsewhere, which is not followed; check providers.{provider}.endpoint");
            Some(unclear(call, answer, &what))
        }
        status if status.is_server_error() => Some(unclear(call, answer, "not a success")),
        _ => None,
    }
}

impl Style {
    /// The API does not know the token.
    #[must_use]
    pub fn wrong_token(&self) -> ProviderError {
        let Self { provider, tokens_page, .. } = self;
        ProviderError::Deny {
            action: format!(
                "use {provider}: the token is wrong, or not valid any more; make one at {tokens_page} and run \
                 `blueprint-hub provider configure {provider}`"
            ),
        }
    }
}

/// An answer that may mean anything, kept for the log: what was asked may have been done.
#[must_use]
pub fn unclear(call: Call, answer: &Response<Bytes>, what: &str) -> ProviderError {
    let source =
        Unclear { status: answer.status().as_u16(), what: what.to_owned(), body: redacted(answer.body()) };
    ProviderError::Other { call: call.name, source: Box::new(source) }
}

/// A success whose document is none.
#[must_use]
pub fn nonsense(call: Call, answer: &Response<Bytes>, error: &serde_json::Error) -> ProviderError {
    // The error's own text may repeat a value.
    let what = format!("with a document that is wrong at line {} column {}", error.line(), error.column());
    unclear(call, answer, &what)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use blueprint_hub_provision_core::ErrorClass;

    use super::*;
    use crate::rest::call;

    const STYLE: Style = Style {
        provider: "cloudy",
        token: "token",
        tokens_page: "https://cloudy.example/tokens",
        absent: |_| true,
        refused: |call, answer| unclear(call, answer, "refused"),
    };

    fn answer(status: u16, body: &str) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::from(body.to_owned())).unwrap()
    }

    fn class(status: u16) -> Option<ErrorClass> {
        let error = by_status(&STYLE, call("get-x", ""), &answer(status, ""), Timestamp::default());
        error.map(|error| error.class())
    }

    #[test]
    fn statuses_mean_the_same_everywhere() {
        assert_eq!(class(429), Some(ErrorClass::Throttle));
        for status in [302, 408, 500, 502, 503, 504] {
            assert_eq!(class(status), Some(ErrorClass::Unknown), "{status}");
        }
        for status in [400, 401, 403, 404, 409, 422] {
            assert_eq!(class(status), None, "{status}");
        }
        let mut asked = answer(429, "");
        asked.headers_mut().insert("retry-after", "7".parse().unwrap());
        let error = by_status(&STYLE, call("get-x", ""), &asked, Timestamp::default());
        let Some(ProviderError::Throttle { retry_after }) = error else { panic!("{error:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn what_is_kept_of_an_answer_is_redacted() {
        for body in [r#"{"root_pass":"canary"}"#, "<p>Authorization: Bearer canary</p>"] {
            let error = unclear(call("post-x", ""), &answer(500, body), "not a success");
            assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
        }
        let told = STYLE.wrong_token().to_string();
        assert!(told.contains("provider configure cloudy") && told.contains("/tokens"), "{told}");
    }
}
