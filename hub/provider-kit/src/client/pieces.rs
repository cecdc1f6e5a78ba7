//! The body of an answer that is too long to be held, handed on as it comes.

use std::error::Error;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::timeout;

use super::SendError;

/// Who takes the pieces of an answer; an error ends the call.
pub type Take<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), Box<dyn Error + Send + Sync>> + Send);

/// Most bytes of an answer with a status of refusal.
pub(super) const MAX_REFUSAL: usize = 64 * 1024;

/// Longest wait for the next piece.
const PIECE_WITHIN: Duration = Duration::from_secs(30);

/// Gives `take` what comes, `max` bytes at most.
pub(super) async fn give(
    host: &str,
    head: &Parts,
    mut body: Incoming,
    max: usize,
    take: Take<'_>,
) -> Result<(), SendError> {
    let host = || host.to_owned();
    // One that ends with its connection looks whole wherever that breaks.
    if !head.headers.contains_key(CONTENT_LENGTH) && !head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(SendError::NoEnd { host: host() });
    }
    let long = || SendError::Long { host: host(), max };
    if !usize::try_from(body.size_hint().lower()).is_ok_and(|length| length <= max) {
        return Err(long());
    }
    let mut count = 0_usize;
    loop {
        let late = |_| SendError::Late { host: host(), what: "a piece of the answer", within: PIECE_WITHIN };
        let Some(frame) = timeout(PIECE_WITHIN, body.frame()).await.map_err(late)? else { return Ok(()) };
        let frame = frame.map_err(|source| SendError::Broken { host: host(), count, source })?;
        let Ok(piece) = frame.into_data() else { continue };
        count = count.saturating_add(piece.len());
        if count > max {
            return Err(long());
        }
        take(&piece).map_err(|source| SendError::Unusable { host: host(), source })?;
    }
}
