//! Signed statements of who calls, made once and used for a while.

use std::collections::{BTreeMap, HashMap};
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

/// What one credential is stated by: how it was shown, for which service, and beside which client certificate.
type Shown = (AuthMethod, ServiceKey, Option<[u8; 32]>);

type OfOne = BTreeMap<Shown, (Timestamp, HeaderValue)>;

/// By the public name of the credential, so that nothing has to be made to find one.
#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<String, OfOne>,
    count: usize,
}

impl Kept {
    /// Forgets what is not fresh any more.
    fn sweep(&mut self, is_fresh: impl Fn(Timestamp) -> bool) {
        self.by_id.retain(|_, statements| {
            statements.retain(|_, (made, _)| is_fresh(*made));
            !statements.is_empty()
        });
        self.count = self.by_id.values().map(BTreeMap::len).sum();
    }
}

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
        let certificate = identity.certificate().map(|certificate| *certificate.fingerprint());
        let key = (identity.method(), admission.service(), certificate);
        let is_fresh = |made: Timestamp| made <= now && now.since(made) < REUSE;
        let known = |kept: &Kept| kept.by_id.get(identity.id())?.get(&key).cloned();
        if let Some((_, statement)) = known(&self.kept.lock()).filter(|(made, _)| is_fresh(*made)) {
            return Some(statement);
        }
        let statement = HeaderValue::from_str(&self.signer.sign(admission, now)).ok()?;
        let mut kept = self.kept.lock();
        if kept.count >= MAX_KEPT {
            kept.sweep(is_fresh);
        }
        if kept.count < MAX_KEPT {
            let statements = kept.by_id.entry(identity.id().to_owned()).or_default();
            let is_new = statements.insert(key, (now, statement.clone())).is_none();
            kept.count = kept.count.saturating_add(usize::from(is_new));
        }
        Some(statement)
    }
}
