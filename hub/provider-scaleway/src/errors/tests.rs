use blueprint_hub_provision_core::ErrorClass;

use super::*;
use crate::api::{call, rights};

const CREATE: Call = call("CreateServer", rights::INSTANCES);

fn error(status: u16, body: &str) -> ProviderError {
    let answer = Response::builder().status(status).header("x-request-id", "36b39503-749a");
    refused(CREATE, &answer.body(Bytes::from(body.to_owned())).unwrap(), Timestamp::default())
}

#[test]
fn refusals_are_told_apart() {
    use ErrorClass as C;
    for (status, body, class) in [
        // Recorded from the API (2025-09-05).
        (
            400,
            r#"{"type": "invalid_arguments", "message": "invalid argument(s)", "details": [{"argument_name": "image", "reason": "required", "help_message": "required key not provided"}]}"#,
            C::Reject,
        ),
        (
            400,
            r#"{"type": "invalid_arguments", "message": "invalid argument(s)", "details": [{"argument_name": "commercial_type", "reason": "constraint", "help_message": "no such type"}]}"#,
            C::NotSold,
        ),
        (
            403,
            r#"{"type": "quotas_exceeded", "message": "quota(s) exceeded", "details": [{"resource": "InstancesServers", "quota": 10, "current": 10}]}"#,
            C::Quota,
        ),
        (
            403,
            r#"{"type": "quotas_exceeded", "message": "quota(s) exceeded", "details": [{"resource": "GPU", "quota": 0, "current": 0}]}"#,
            C::NoQuota,
        ),
        (
            403,
            r#"{"type": "invalid_request_error", "message": "Quota exceeded for this resource.", "fields": {}}"#,
            C::Quota,
        ),
        (
            400,
            r#"{"type": "invalid_request_error", "message": "Validation Error", "fields": {"volumes_constraint": ["the total local volume size must be between 20GB and 80GB"]}}"#,
            C::Reject,
        ),
        (
            503,
            r#"{"type": "out_of_stock", "message": "resource is out of stock", "resource": "L4-1-24G"}"#,
            C::Capacity,
        ),
        (409, r#"{"type": "transient_state", "message": "resource is in a transient state"}"#, C::Again),
        (412, r#"{"type": "precondition_failed", "message": "resource is still in use"}"#, C::Again),
        (403, r#"{"type": "permissions_denied", "message": "insufficient permissions"}"#, C::Deny),
        (403, "", C::Deny),
        (
            401,
            r#"{"type": "denied_authentication", "method": "api_key", "reason": "invalid_argument"}"#,
            C::Deny,
        ),
        (404, r#"{"type": "not_found", "message": "resource is not found"}"#, C::Reject),
        (423, r#"{"type": "locked", "message": "resource is locked"}"#, C::Reject),
        (429, "", C::Throttle),
        (408, r#"{"type": "x"}"#, C::Unknown),
        (500, r#"{"type": "internal", "message": "y"}"#, C::Unknown),
        (502, "<html>", C::Unknown),
        (302, "", C::Unknown),
        (204, "", C::Unknown),
        // What a proxy on the way says is not what the cloud says.
        (404, "<html>not here</html>", C::Unknown),
    ] {
        let error = error(status, body);
        assert_eq!(error.class(), class, "{status} {body}: {error:?}");
    }
    let told = error(
        400,
        r#"{"type": "invalid_arguments", "message": "invalid", "details": [{"argument_name": "image", "help_message": "is wrong"}]}"#,
    );
    assert!(
        told.to_string().contains("invalid: image is wrong (invalid_arguments, request 36b39503-749a)"),
        "{told}"
    );
}

#[test]
fn a_missing_right_is_named() {
    let told = error(403, r#"{"type": "permissions_denied", "message": "x"}"#);
    assert!(told.to_string().contains("lacks the permission set InstancesFullAccess"), "{told}");
}

#[test]
fn only_the_cloud_s_own_word_makes_a_thing_absent() {
    let answer = |body: &str| Response::builder().status(404).body(Bytes::from(body.to_owned())).unwrap();
    assert!(is_absent(&answer(r#"{"type": "not_found", "message": "x"}"#)));
    assert!(is_absent(&answer(r#"{"type": "unknown_resource", "message": "x"}"#)));
    assert!(!is_absent(&answer("<html>no such page</html>")));
}

#[test]
fn what_is_kept_of_an_answer_is_redacted() {
    for body in [
        r#"{"secret_key":"canary"}"#,
        "<p>X-Auth-Token: canary</p>",
        r#"{"type":"x","message":"x-auth-token: canary"}"#,
    ] {
        for status in [400, 500] {
            let error = error(status, body);
            assert!(
                !format!("{error:?}").contains("canary") && !error.line().contains("canary"),
                "{status}: {error:?}"
            );
        }
    }
}
