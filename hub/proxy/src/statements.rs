//! Signed statements of who calls, made once and used for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::{ServiceKey, Timestamp};
use blueprint_hub_proxy_core::Admission;
use blueprint_hub_proxy_core::identity::{AuthMethod, IdentitySigner};
use http::HeaderValue;
use parking_lot::Mutex;

/// How old a statement may be when it is sent, of the 60 s that it is good for: a signature costs more
/// than all other decisions about a request together.
const REUSE: Duration = Duration::from_secs(20);

/// Statements kept at once.
const MAX_KEPT: usize = 4096;

type Kept = HashMap<(String, AuthMethod, ServiceKey), (Timestamp, HeaderValue)>;

/// Makes statements and keeps them.
#[derive(Debug, Clone)]
pub(crate) struct Statements {
    signer: Arc<IdentitySigner>,
    kept: Arc<Mutex<Kept>>,
}

impl Statements {
    pub(crate) fn new(signer: Arc<IdentitySigner>) -> Self {
        Self { signer, kept: Arc::default() }
    }

    /// The statement about this caller, for this service.
    pub(crate) fn of(&self, admission: &Admission, now: Timestamp) -> Option<HeaderValue> {
        let identity = admission.identity();
        let key = (identity.id().to_owned(), identity.method(), admission.service());
        let is_fresh = |made: Timestamp| made <= now && now.since(made) < REUSE;
        if let Some((_, statement)) = self.kept.lock().get(&key).filter(|(made, _)| is_fresh(*made)) {
            return Some(statement.clone());
        }
        let statement = HeaderValue::from_str(&self.signer.sign(admission, now)).ok()?;
        let mut kept = self.kept.lock();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (made, _)| is_fresh(*made));
        }
        if kept.len() < MAX_KEPT {
            kept.insert(key, (now, statement.clone()));
        }
        Some(statement)
    }
}
