//! What failed before a machine was ordered.

use blueprint_hub_provision_core::{ErrorClass, ProviderError};

/// The error of a step that came before the order of a machine, such as a look for the one of an earlier call: nothing was
/// ordered, whatever became of the step itself.
///
/// Without this word the order would be one that may have been given, and its machine waited for. Other errors stay as they are.
#[must_use]
pub fn unordered(error: ProviderError) -> ProviderError {
    if error.class() != ErrorClass::Unknown {
        return error;
    }
    ProviderError::Busy {
        reason: format!("nothing was ordered, for what comes before an order failed: {}", error.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_done_was_not_and_all_else_stays() {
        let other = ProviderError::Other { call: "list-x", source: "status 503".into() };
        let told = unordered(other);
        assert_eq!(told.class(), ErrorClass::Again);
        assert!(told.line().contains("list-x failed: status 503"), "{told}");
        let unclear = ProviderError::Unclear { call: "look", source: "lost".into() };
        assert_eq!(unordered(unclear).class(), ErrorClass::Again);
        let refused = unordered(ProviderError::Throttle { retry_after: None });
        assert_eq!(refused.class(), ErrorClass::Throttle);
        let refused = unordered(ProviderError::Deny { action: "look".to_owned() });
        assert_eq!(refused.class(), ErrorClass::Deny);
    }
}
