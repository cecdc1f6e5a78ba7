//! Answers of the agent's two small HTTP servers.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use blueprint_common_runtime::cli::{CliError, Exit};

pub(crate) type Answer = Response<Full<Bytes>>;

/// An answer of one media type.
pub(crate) fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A line of text.
pub(crate) fn text(status: StatusCode, line: &str) -> Answer {
    answer(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// A JSON document.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(body) => answer(status, "application/json", body),
        Err(error) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, &format!("the answer has no JSON form: {error}"))
        }
    }
}

/// An error in the shape that every JSON API has.
pub(crate) fn refusal(error: &CliError) -> Answer {
    let status = match error.exit {
        Exit::Usage => StatusCode::BAD_REQUEST,
        Exit::NotFound => StatusCode::NOT_FOUND,
        Exit::Denied => StatusCode::FORBIDDEN,
        Exit::Conflict => StatusCode::CONFLICT,
        Exit::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Exit::Ok | Exit::Failure | Exit::Config | Exit::NotRun | Exit::Passed(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    json(status, &error.to_json())
}
