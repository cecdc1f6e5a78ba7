//! Refusals as Azure writes them.

use blueprint_hub_provision_core::ErrorClass;
use serde_json::json;

use super::*;
use crate::api::call;

const CREATE: Call = call("VirtualMachines_CreateOrUpdate", "Microsoft.Compute/virtualMachines/write", "x");

fn error(status: u16, code: &str, message: &str, is_spot: bool) -> ProviderError {
    let body = json!({ "error": { "code": code, "message": message } }).to_string();
    let answer =
        Response::builder().status(status).header("x-ms-request-id", "4d9d").body(Bytes::from(body)).unwrap();
    let about = About { what: "Standard_D2s_v5 in eastus".to_owned(), is_spot };
    Refusal::read(&answer).into_error(CREATE, &about)
}

#[test]
fn codes_are_told_apart() {
    use ErrorClass as C;
    let quota = "Operation could not be completed as it results in exceeding approved Total Regional Cores quota. Additional \
                 details - Deployment Model: Resource Manager, Location: eastus, Current Limit: 10, Current Usage: 10";
    let none =
        "results in exceeding approved standardNCFamily Cores quota. Current Limit: 0, Current Usage: 0";
    for (status, code, message, spot, class) in [
        (409, "SkuNotAvailable", "not available", false, C::NotSold),
        (409, "SkuNotAvailable", "not available", true, C::Capacity),
        (200, "AllocationFailed", "no capacity", false, C::Capacity),
        (200, "ZonalAllocationFailed", "no capacity", false, C::Capacity),
        (200, "OverconstrainedAllocationRequest", "", false, C::Capacity),
        (409, "OperationNotAllowed", quota, false, C::Quota),
        (409, "OperationNotAllowed", none, false, C::NoQuota),
        (409, "QuotaExceeded", "", false, C::Quota),
        (400, "PublicIPCountLimitReached", "", false, C::Quota),
        (409, "OperationNotAllowed", "the machine is being deleted", false, C::Reject),
        (409, "AnotherOperationInProgress", "", false, C::Again),
        (412, "PreconditionFailed", "", false, C::Again),
        (429, "TooManyRequests", "", false, C::Throttle),
        (401, "InvalidAuthenticationToken", "", false, C::Deny),
        (403, "AuthorizationFailed", "", false, C::Deny),
        (409, "MissingSubscriptionRegistration", "", false, C::Deny),
        (400, "InvalidParameter", "The value X provided for the VM size is not valid.", false, C::NotSold),
        (400, "InvalidParameter", "customData", false, C::Reject),
        (409, "PropertyChangeNotAllowed", "", false, C::Reject),
        (500, "InternalServerError", "", false, C::Unknown),
        (200, "OSProvisioningTimedOut", "", false, C::Unknown),
        (503, "", "", false, C::Unknown),
        (404, "", "", false, C::Unknown),
    ] {
        let error = error(status, code, message, spot);
        assert_eq!(error.class(), class, "{status} {code} {message}: {error:?}");
    }
    let told = error(409, "OperationNotAllowed", quota, false);
    assert!(matches!(told, ProviderError::Quota { limit: Some(10), .. }), "{told:?}");
    assert!(
        told.to_string().contains("Standard_D2s_v5 in eastus") && told.to_string().contains("request 4d9d")
    );
}

#[test]
fn the_missing_action_is_named() {
    let message = "The client 'x' does not have authorization to perform action 'Microsoft.Network/virtualNetworks/write' over scope";
    let told = error(403, "AuthorizationFailed", message, false).to_string();
    assert!(told.contains("allowed to Microsoft.Network/virtualNetworks/write; add it"), "{told}");
    let untold = error(403, "AuthorizationFailed", "no", false).to_string();
    assert!(untold.contains("allowed to Microsoft.Compute/virtualMachines/write; add it"), "{untold}");
}

#[test]
fn the_detail_counts_where_the_code_says_nothing_and_no_secret_is_kept() {
    let wrapped = Refusal::of(&json!({
        "code": "DeploymentFailed", "message": "x", "details": [{ "code": "AllocationFailed", "message": "full" }],
    }));
    assert_eq!(wrapped.code, "AllocationFailed");
    for body in [r#"{"customData":"canary"}"#, "<p>Authorization: Bearer canary</p>", "customData=canary"] {
        let answer = Response::builder().status(500).body(Bytes::from(body)).unwrap();
        let error = Refusal::read(&answer).into_error(CREATE, &About::default());
        assert!(!format!("{error:?}{}", error.line()).contains("canary"), "{error:?}");
    }
}
