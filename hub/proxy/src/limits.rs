//! Limits of services and of their clients, shared by all requests; raw forwards count theirs apart.

use std::sync::Arc;
use std::time::Instant;

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::limits::{Claim, Held, LimitTable, Limits};
use blueprint_hub_proxy_core::{Admission, Refusal, ServiceSettings};
use parking_lot::Mutex;

/// Lets requests in that are within the limits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limiter(Arc<Mutex<LimitTable>>);

impl Limiter {
    /// Counts a request until the result is dropped.
    pub(crate) fn begin(&self, admission: &Admission, settings: &ServiceSettings) -> Result<Permit, Refusal> {
        let (of_service, of_key) = (&settings.limits, &settings.key_limits);
        if *of_service == Default::default() && *of_key == Default::default() {
            return Ok(Permit(None));
        }
        let account = admission.identity().account();
        let claim = Claim { service: admission.service(), account: &account, of_service, of_key };
        let held = self.0.lock().begin(&claim, Instant::now())?;
        Ok(self.permit(held))
    }

    fn permit(&self, held: Held) -> Permit {
        Permit((!held.is_nothing()).then(|| (self.clone(), held)))
    }
}

impl Limiter {
    /// Counts a connection or flow of a raw forward as a request of its service; nobody shows there who calls.
    pub(crate) fn begin_raw(
        &self,
        service: ServiceKey,
        settings: Option<&ServiceSettings>,
    ) -> Result<Permit, Refusal> {
        let of_key = Limits::default();
        let held = match settings.map(|settings| &settings.limits).filter(|limits| **limits != of_key) {
            None => Held::default(),
            Some(of_service) => {
                let claim = Claim { service, account: "", of_service, of_key: &of_key };
                self.0.lock().begin(&claim, Instant::now())?
            }
        };
        Ok(self.permit(held))
    }
}

/// The right of one request to be open.
#[derive(Debug)]
pub(crate) struct Permit(Option<(Limiter, Held)>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((limiter, held)) = self.0.take() {
            limiter.0.lock().end(held);
        }
    }
}
