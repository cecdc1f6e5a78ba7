//! What Azure took on and is still at: asked about until it ends, or for as long as a call may take.
//!
//! Deviation: the trait `Provider` says that no method sleeps. Here the answer to a call says only that it was taken; whether there
//! is room for a machine is told by its operation some seconds later, and never if nobody asks.

use std::time::Duration;

use blueprint_hub_provider_kit::retry_after;
use blueprint_hub_provision_core::ProviderError;
use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::api::{Api, Call, Sent, now};
use crate::errors::Refusal;

/// Pause between two questions where Azure names none.
const PAUSE: Duration = Duration::from_secs(2);

/// Shortest pause, whatever Azure says.
const LEAST: Duration = Duration::from_millis(50);

/// How far it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followed {
    /// It ended well.
    Done,
    /// It goes on, or nothing is known of it.
    Going,
    /// It failed.
    Failed(Box<Refusal>),
}

/// Where to ask: an operation's own page says how it is, a location answers 202 until it ends.
enum Place {
    Operation(String),
    Location(String),
}

impl Api {
    /// Follows what an answer began, for `within` at most. A question that fails says nothing of the operation.
    ///
    /// # Errors
    ///
    /// Where the answer leads to another host.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the operation going at Azure.
    pub(crate) async fn follow(
        &self,
        call: Call,
        answer: &Response<Bytes>,
        within: Duration,
    ) -> Result<Followed, ProviderError> {
        let began = Instant::now();
        let Some(place) = self.place(call, answer.headers())? else { return Ok(Followed::Done) };
        let mut pause = pause_of(answer.headers());
        loop {
            if began.elapsed().saturating_add(pause) > within {
                debug!(call = call.name, "the cloud is still at it");
                return Ok(Followed::Going);
            }
            sleep(pause).await;
            let (Place::Operation(path) | Place::Location(path)) = &place;
            let Ok(answer) = self.send_to(call, Method::GET, path, Sent::default()).await else {
                return Ok(Followed::Going);
            };
            match (&place, answer.status()) {
                (Place::Operation(_), StatusCode::OK) => match ended(&answer) {
                    Followed::Going => {}
                    ended @ (Followed::Done | Followed::Failed(_)) => return Ok(ended),
                },
                (_, StatusCode::ACCEPTED) => {}
                (Place::Location(_), status) if status.is_success() => return Ok(Followed::Done),
                (Place::Location(_), status)
                    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS =>
                {
                    return Ok(Followed::Failed(Box::new(Refusal::read(&answer))));
                }
                _ => return Ok(Followed::Going),
            }
            pause = pause_of(answer.headers());
        }
    }

    fn place(&self, call: Call, headers: &HeaderMap) -> Result<Option<Place>, ProviderError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(link) = text("azure-asyncoperation") {
            return self.path_of(call, link).map(|path| Some(Place::Operation(path)));
        }
        match text(LOCATION.as_str()) {
            Some(link) => self.path_of(call, link).map(|path| Some(Place::Location(path))),
            None => Ok(None),
        }
    }
}

fn pause_of(headers: &HeaderMap) -> Duration {
    retry_after(headers, now()).unwrap_or(PAUSE).max(LEAST)
}

/// `Succeeded`, `Failed` and `Canceled` are ends; every other word means that it goes on.
fn ended(answer: &Response<Bytes>) -> Followed {
    let body: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    match body.get("status").and_then(Value::as_str) {
        Some("Succeeded") => Followed::Done,
        Some("Failed" | "Canceled") => {
            Followed::Failed(Box::new(Refusal::of(body.get("error").unwrap_or(&Value::Null))))
        }
        Some(_) | None => Followed::Going,
    }
}
