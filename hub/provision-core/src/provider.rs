//! What every cloud can do.

use std::error::Error;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::{Instance, InstanceKey, InstanceSpec};

/// Why a call to a cloud failed, as far as the hub must tell cases apart.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The cloud asks for a pause; the same call may then succeed.
    #[error("throttled")]
    Throttle {
        /// Least time to wait, where the cloud names one.
        retry_after: Option<Duration>,
    },
    /// The credentials do not allow the call; retrying will not help.
    #[error("not allowed to {action}")]
    Deny {
        /// The cloud's name of the missing permission.
        action: String,
    },
    /// The call itself is wrong; retrying will not help.
    #[error("refused: {reason}")]
    Reject {
        /// What is wrong with it; holds no secret.
        reason: String,
    },
    /// Anything else, kept whole for the log.
    #[error("{call} failed")]
    Other {
        /// The API call, in the cloud's spelling.
        call: &'static str,
        /// What the transport or the cloud said.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// One account in one region of one cloud.
///
/// Contract, checked for every implementation by the contract tests:
/// - `create` with a key that exists returns that instance and makes no second one;
/// - `delete` of a key that does not exist succeeds;
/// - dropping a returned future leaves nothing that a later `list` does not show;
/// - no method retries, sleeps or caches: the caller does.
pub trait Provider: Send + Sync {
    /// Short lower-case name for logs and metrics, such as `hetzner`.
    fn name(&self) -> &'static str;

    /// Every instance this hub made here, in any state.
    ///
    /// # Errors
    ///
    /// As the cloud answers; the list is whole or an error, never a part.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Instance>, ProviderError>>;

    /// Makes the instance and boots it, or returns the one that has this key already.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where the spec is not one for this cloud, else as the cloud answers.
    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>>;

    /// Removes the instance and everything made with it.
    ///
    /// # Errors
    ///
    /// As the cloud answers; an instance that does not exist is no error.
    fn delete<'a>(&'a self, key: &'a InstanceKey) -> BoxFuture<'a, Result<(), ProviderError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trait_is_used_behind_a_pointer_and_errors_keep_their_source() {
        fn is_shared<T: Send + Sync + ?Sized>() {}
        is_shared::<dyn Provider>();
        let error = ProviderError::Other { call: "CreateServer", source: "no route".into() };
        assert_eq!(error.to_string(), "CreateServer failed");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("no route"));
    }
}
