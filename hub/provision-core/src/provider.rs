//! What every cloud can do.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use blueprint_common_types::Timestamp;
use futures_util::future::BoxFuture;

use crate::catalogue::Offer;
use crate::lifecycle::Rate;
use crate::{Instance, InstanceKey, InstanceSpec};

type Source = Box<dyn Error + Send + Sync>;

/// Why a call to a cloud failed, as far as the hub must tell cases apart.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The cloud asks for a pause; the same call may then succeed. Nothing was done.
    #[error("throttled")]
    Throttle {
        /// Least time to wait, where the cloud names one.
        retry_after: Option<Duration>,
    },
    /// The cloud is at something else with this machine; the same call may succeed soon. Nothing was done.
    #[error("busy: {reason}")]
    Busy {
        /// What the cloud said, one line.
        reason: String,
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
    /// The account may have no more of it.
    #[error("over the quota of {what}")]
    Quota {
        /// What there is a quota of, in the cloud's words.
        what: String,
        /// The quota, where the cloud tells it; zero where the account may have none at all.
        limit: Option<u64>,
    },
    /// The cloud has none of this kind left in this place.
    #[error("no capacity for {what}")]
    Capacity {
        /// Plan and place.
        what: String,
    },
    /// The cloud does not sell this, here or any more.
    #[error("{what} is not sold")]
    NotSold {
        /// Plan and place.
        what: String,
    },
    /// The cloud cannot do this at all, such as switch a machine off.
    #[error("this cloud cannot {action}")]
    Unsupported {
        /// What it cannot do.
        action: &'static str,
    },
    /// The call never reached the cloud. Nothing was done.
    #[error("{call} could not be sent")]
    Unsent {
        /// The API call, in the cloud's spelling.
        call: &'static str,
        /// What the transport said.
        source: Source,
    },
    /// It failed at one machine, which says nothing of the others. The machine may have done what it was asked.
    #[error("{call} failed at one machine")]
    Unclear {
        /// The call.
        call: &'static str,
        /// What is known of it.
        source: Source,
    },
    /// Anything else, kept whole for the log. The cloud may have done what it was asked.
    #[error("{call} failed")]
    Other {
        /// The API call, in the cloud's spelling.
        call: &'static str,
        /// What the transport or the cloud said.
        source: Source,
    },
}

impl ProviderError {
    /// What is to be done about it.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Throttle { .. } => ErrorClass::Throttle,
            Self::Busy { .. } | Self::Unsent { .. } => ErrorClass::Again,
            Self::Deny { .. } => ErrorClass::Deny,
            Self::Reject { .. } | Self::Unsupported { .. } => ErrorClass::Reject,
            Self::Quota { limit: Some(0), .. } => ErrorClass::NoQuota,
            Self::Quota { .. } => ErrorClass::Quota,
            Self::Capacity { .. } => ErrorClass::Capacity,
            Self::NotSold { .. } => ErrorClass::NotSold,
            Self::Unclear { .. } | Self::Other { .. } => ErrorClass::Unknown,
        }
    }

    /// True where the cloud itself seems to be ill, so that calls should pause for all of it.
    #[must_use]
    pub const fn counts_for_breaker(&self) -> bool {
        match self {
            Self::Unsent { .. } | Self::Other { .. } => true,
            Self::Throttle { .. }
            | Self::Busy { .. }
            | Self::Deny { .. }
            | Self::Reject { .. }
            | Self::Quota { .. }
            | Self::Capacity { .. }
            | Self::NotSold { .. }
            | Self::Unclear { .. }
            | Self::Unsupported { .. } => false,
        }
    }

    /// The error and what it comes from, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
    }
}

/// What a failed call means for what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorClass {
    /// Nothing was done; again after a pause.
    Throttle,
    /// Nothing was done; again soon.
    Again,
    /// Nothing was done, and nothing will be for this account until a person acts.
    Deny,
    /// Nothing was done, and this call never will be.
    Reject,
    /// Nothing was done until the account has less or a larger quota.
    Quota,
    /// The account has a quota of none.
    NoQuota,
    /// Nothing was done; the place has none left for some minutes.
    Capacity,
    /// Nothing was done; the place does not sell it.
    NotSold,
    /// It may have been done: whoever called has to look.
    Unknown,
}

impl ErrorClass {
    /// Every class.
    pub const ALL: [Self; 9] = [
        Self::Throttle,
        Self::Again,
        Self::Deny,
        Self::Reject,
        Self::Quota,
        Self::NoQuota,
        Self::Capacity,
        Self::NotSold,
        Self::Unknown,
    ];

    /// Stable name for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Throttle => "throttle",
            Self::Again => "again",
            Self::Deny => "deny",
            Self::Reject => "reject",
            Self::Quota => "quota",
            Self::NoQuota => "no_quota",
            Self::Capacity => "capacity",
            Self::NotSold => "not_sold",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

/// What a cloud is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudCall {
    /// [`Provider::offers`].
    Offers,
    /// [`Provider::list`].
    List,
    /// [`Provider::create`].
    Create,
    /// [`Provider::delete`].
    Delete,
    /// [`Provider::boot`].
    Boot,
    /// [`Provider::stop`].
    Stop,
}

impl CloudCall {
    /// Longest time of a call whose provider says nothing else.
    pub const USUAL: Duration = Duration::from_secs(30);

    /// Longest time of any call, whatever its provider says: calls under way keep a cloud from being listed.
    pub const LONGEST: Duration = Duration::from_secs(31 * 60);

    /// Stable name for logs and metric labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Offers => "offers",
            Self::List => "list",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Boot => "boot",
            Self::Stop => "stop",
        }
    }
}

/// What a cloud lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Every machine in the account that carries the tags of a hub, of this one or another, in any state.
    pub instances: Vec<Instance>,
    /// The cloud's own clock, such as the `Date` of its answer: a second opinion on what time it is.
    pub cloud_time: Option<Timestamp>,
}

/// One account in one region of one cloud.
///
/// Contract, checked for every implementation by the contract tests:
/// - `create` with a key that exists returns that instance, where its tags are those of the spec, and makes no second one,
///   as far as the cloud allows:
///   one without request keys may make two of them when an answer is lost;
/// - `delete` of a machine that does not exist succeeds;
/// - dropping a returned future leaves nothing that a later `list` does not show;
/// - no method retries, sleeps or caches: the caller does.
pub trait Provider: Send + Sync {
    /// Short lower-case name for logs and metrics, such as `hetzner`.
    fn name(&self) -> &'static str;

    /// How often it may be called.
    fn rate(&self) -> Rate {
        Rate::of(self.name())
    }

    /// How long a call may take before it is cut; taken as [`CloudCall::LONGEST`] where it is more.
    fn within(&self, call: CloudCall) -> Duration {
        let _ = call;
        CloudCall::USUAL
    }

    /// What can be ordered here, with prices. Sorted by price, then by name.
    ///
    /// # Errors
    ///
    /// As the cloud answers.
    fn offers(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>>;

    /// The same with prices asked for one by one, where that takes too long for an order; what orders see where it does not.
    ///
    /// # Errors
    ///
    /// As the cloud answers; a list that is not whole is an error.
    fn price_list(&self) -> BoxFuture<'_, Result<Vec<Offer>, ProviderError>> {
        self.offers()
    }

    /// Every machine here that carries tags of a hub, in any state.
    ///
    /// # Errors
    ///
    /// As the cloud answers; the list is whole or an error, never a part.
    fn list(&self) -> BoxFuture<'_, Result<Listing, ProviderError>>;

    /// Makes the instance and boots it, or returns the one that has this key already.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where the spec is not one for this cloud, else as the cloud answers.
    fn create<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<Instance, ProviderError>>;

    /// Removes one machine, by the cloud's name of it, and everything made with it.
    ///
    /// # Errors
    ///
    /// As the cloud answers; a machine that does not exist is no error.
    fn delete<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Switches a machine on that exists and does not run; one that runs is left alone.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] where there is no such machine, [`ProviderError::Unsupported`] where this cloud
    /// cannot, else as the cloud answers.
    fn boot<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Switches a machine off and keeps it.
    ///
    /// # Errors
    ///
    /// As for [`Self::boot`].
    fn stop<'a>(&'a self, provider_id: &'a str) -> BoxFuture<'a, Result<(), ProviderError>>;

    /// Says that these machines have joined, by the cloud's names of them: what their first boot alone needed, such as user data
    /// that lies on the hub's own host, may go. It is said after each list, and has to be quick.
    fn have_joined(&self, provider_ids: &[&str]) {
        let _ = provider_ids;
    }

    /// How the cloud names this hub's machine of that key where it vouches for it, `ACCOUNT/MACHINE` in lower case, as far as
    /// that is another name than its `provider_id`. `None` where it is not, and where there is no such machine.
    ///
    /// # Errors
    ///
    /// As the cloud answers.
    fn vouched_name<'a>(
        &'a self,
        key: &'a InstanceKey,
    ) -> BoxFuture<'a, Result<Option<String>, ProviderError>> {
        let _ = key;
        Box::pin(std::future::ready(Ok(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trait_is_used_behind_a_pointer_and_errors_keep_their_source() {
        fn is_shared<T: Send + Sync + ?Sized>() {}
        is_shared::<dyn Provider>();
        let error = ProviderError::Other { call: "CreateServer", source: "no\nroute".into() };
        assert_eq!(error.to_string(), "CreateServer failed");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("no\nroute"));
        assert_eq!(error.line(), "CreateServer failed: no route");
    }

    #[test]
    fn only_what_may_have_been_done_is_unknown() {
        let source = || Source::from("x");
        assert_eq!(ProviderError::Other { call: "c", source: source() }.class(), ErrorClass::Unknown);
        let unclear = ProviderError::Unclear { call: "c", source: source() };
        assert!(unclear.class() == ErrorClass::Unknown && !unclear.counts_for_breaker());
        assert_eq!(ProviderError::Unsent { call: "c", source: source() }.class(), ErrorClass::Again);
        let none = ProviderError::Quota { what: "cores".to_owned(), limit: Some(0) };
        assert_eq!(none.class(), ErrorClass::NoQuota);
        let names: std::collections::BTreeSet<_> =
            ErrorClass::ALL.iter().map(|class| class.label()).collect();
        assert_eq!(names.len(), ErrorClass::ALL.len());
    }
}
