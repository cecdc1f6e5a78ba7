//! How an order that fails is answered.

use blueprint_hub_provision_core::ErrorClass;
use blueprint_hub_provision_core::lifecycle::DeployError;
use http::StatusCode;

use super::{LIST, plan};
use crate::error::ApiError;

/// The status that a provider's failure is answered with, as a check of its account is.
const fn failed(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::Deny => StatusCode::FORBIDDEN,
        ErrorClass::Throttle | ErrorClass::Again | ErrorClass::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Reject
        | ErrorClass::Quota
        | ErrorClass::NoQuota
        | ErrorClass::Capacity
        | ErrorClass::NotSold => StatusCode::BAD_GATEWAY,
    }
}

impl From<DeployError> for ApiError {
    fn from(error: DeployError) -> Self {
        let text = error.to_string();
        match error {
            DeployError::UnknownProvider(_) => {
                Self::not_found(text, "`blueprint-hub deployment ls` shows providers")
            }
            DeployError::Unknown(_) => Self::not_found(text, LIST),
            DeployError::Provider { provider, class, .. } => {
                Self::new(failed(class), "provider_failed", text, plan::next_step(&provider, class))
            }
            DeployError::OverLimit(_) => Self::new(
                StatusCode::CONFLICT,
                "over_limit",
                text,
                "end something (`blueprint-hub deployment ls`), or raise the limit in hub.toml and restart the hub; \
                 `blueprint-hub costs` shows what is used",
            ),
            DeployError::Held(held) => Self::new(
                StatusCode::CONFLICT,
                "held",
                text,
                format!(
                    "`blueprint-hub alerts release {0}` calls it off for this period, `blueprint-hub set-alert {0} --amount MORE` \
                     raises it; `blueprint-hub alerts show {0}` says more",
                    held.alert
                ),
            ),
            DeployError::Mismatch { id, .. } => Self::conflict(
                format!("the request key was used for deployment {id}, which asked for something else"),
                format!(
                    "ask with another --request-key, or for the same as before: `blueprint-hub deployment show {id} --output json` \
                     has it as `asked`"
                ),
            ),
            DeployError::Named { id, .. } => Self::conflict(
                text,
                format!("give another --name, or end that one with `blueprint-hub terminate {id}`"),
            ),
            DeployError::Terminated(_) => Self::conflict(text, "make a new one with `blueprint-hub deploy`"),
            DeployError::Unavailable(_) => Self::unavailable(text),
            DeployError::Store(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::error!(%error, source, "store failed");
                Self::unavailable("the hub's store cannot do this now; the hub's log says why")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_refuses_is_told_from_one_that_cannot_be_asked() {
        let status = |class| {
            let failed = DeployError::Provider { provider: "aws".to_owned(), reason: "no".to_owned(), class };
            ApiError::from(failed).parts().0.as_u16()
        };
        assert_eq!(status(ErrorClass::Deny), 403);
        assert_eq!([ErrorClass::Again, ErrorClass::Unknown].map(status), [503, 503]);
        assert_eq!(status(ErrorClass::Capacity), 502);
    }
}
