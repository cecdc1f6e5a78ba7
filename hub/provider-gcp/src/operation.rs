//! What Google is at: an operation, asked after until it is done or for some seconds.

use std::time::Duration;

use blueprint_hub_provision_core::ProviderError;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::warn;

use crate::action::Action;
use crate::api::{Api, Failure};
use crate::config::is_zone;
use crate::refusal::{Errors, Refusal};

/// An operation, as far as the hub looks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operation {
    name: String,
    status: String,
    /// The number of what it is about.
    pub(crate) target_id: Option<String>,
    error: Option<Errors>,
    #[serde(default)]
    http_error_status_code: u16,
    #[serde(default)]
    http_error_message: String,
}

impl Operation {
    /// Whether it is over, well or not.
    pub(crate) fn is_done(&self) -> bool {
        self.status == "DONE"
    }

    /// Gives it back where it did not fail so far.
    ///
    /// # Errors
    ///
    /// [`Failure::Refused`] where it is done and failed, which Google says behind status 200.
    pub(crate) fn checked(self) -> Result<Self, Failure> {
        let refusal =
            Refusal::of_operation(self.error.as_ref(), self.http_error_status_code, &self.http_error_message);
        match refusal.filter(|_| self.is_done()) {
            Some(refusal) => Err(Failure::Refused(refusal)),
            None => Ok(self),
        }
    }
}

impl Api {
    /// Waits for an operation for so long: one call that Google holds until it is done or 2 min are over. One that is not done
    /// by then, or cannot be asked after, is given as it was.
    ///
    /// # Errors
    ///
    /// As for [`Operation::checked`], and where Google gave no operation.
    pub(crate) async fn finish(
        &self,
        zone: Option<&str>,
        operation: Operation,
        within: Duration,
    ) -> Result<Operation, Failure> {
        let operation = operation.checked()?;
        if operation.is_done() || within.is_zero() {
            return Ok(operation);
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = !operation.name.is_empty() && operation.name.bytes().all(is_plain);
        let (action, path) = match zone.filter(|zone| is_zone(zone)) {
            Some(zone) => (Action::WaitZone, format!("zones/{zone}/operations/{}/wait", operation.name)),
            None => (Action::WaitGlobal, format!("global/operations/{}/wait", operation.name)),
        };
        if !is_name {
            let source = "the operation has no name that can be asked for".into();
            return Err(Failure::Failed(ProviderError::Other { call: action.name(), source }));
        }
        match timeout(within, self.call::<Operation>(action, &path, &[], None)).await {
            Ok(Ok(answer)) => answer.body.checked(),
            // What was asked for before is under way all the same.
            Ok(Err(failure)) => {
                let error = failure.into_error(action, &path);
                warn!(
                    provider = "gcp",
                    call = action.name(),
                    error = error.line(),
                    "an operation cannot be asked after"
                );
                Ok(operation)
            }
            Err(_) => Ok(operation),
        }
    }
}
