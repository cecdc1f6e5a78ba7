//! Answers as Google's pages show them, and what they come to be.

use blueprint_hub_provision_core::ErrorClass as C;
use serde_json::json;

use super::*;

fn answer(status: u16, body: &str) -> Refusal {
    let date = "Sun, 22 Nov 2026 10:00:20 GMT";
    let answer = Response::builder().status(status).header("date", date).body(Bytes::from(body.to_owned()));
    Refusal::read(&answer.unwrap(), Timestamp::default())
}

fn refused(status: u16, reason: &str, message: &str) -> Refusal {
    let error = json!({ "reason": reason, "domain": "global", "message": message });
    answer(status, &json!({ "error": { "code": status, "message": message, "errors": [error] } }).to_string())
}

fn error(status: u16, reason: &str, message: &str) -> ProviderError {
    refused(status, reason, message).into_error(Action::InsertInstance, "e2-small in us-central1")
}

fn done(code: &str, message: &str, status: u16) -> Refusal {
    let errors: Errors =
        serde_json::from_value(json!({ "errors": [{ "code": code, "message": message }] })).unwrap();
    Refusal::of_operation(Some(&errors), status, "").unwrap()
}

#[test]
fn refusals_are_told_apart() {
    for (status, reason, message, class) in [
        (403, "quotaExceeded", "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-central1.", C::Quota),
        (
            403,
            "quotaExceeded",
            "Quota 'NVIDIA_L4_GPUS' exceeded.  Limit: 0.0 in region us-central1.",
            C::NoQuota,
        ),
        (403, "rateLimitExceeded", "Rate Limit Exceeded", C::Throttle),
        (429, "rateLimitExceeded", "Rate Limit Exceeded", C::Throttle),
        (
            403,
            "forbidden",
            "Required 'compute.instances.create' permission for 'projects/p/zones/z/instances/x'",
            C::Deny,
        ),
        (403, "accessNotConfigured", "Compute Engine API has not been used in project 1 before", C::Deny),
        (401, "authError", "Invalid Credentials", C::Deny),
        (
            400,
            "invalid",
            "Invalid value for field 'resource.machineType': 'x'. Machine type with name 'x' does not exist",
            C::NotSold,
        ),
        (400, "invalid", "Invalid value for field 'resource.name': 'A'", C::Reject),
        (
            404,
            "notFound",
            "The resource 'projects/p/zones/z/machineTypes/x' was not found, machineTypes",
            C::NotSold,
        ),
        (404, "notFound", "The resource 'projects/p/global/images/family/x' was not found", C::Reject),
        (400, "resourceNotReady", "The resource 'projects/p/zones/z/instances/x' is not ready", C::Again),
        (
            412,
            "conditionNotMet",
            "Constraint constraints/compute.vmExternalIpAccess violated for project 1",
            C::Reject,
        ),
        (500, "backendError", "Backend Error", C::Unknown),
        (503, "backendError", "Internal error. Please try again or contact Google Support.", C::Unknown),
        (408, "", "", C::Unknown),
    ] {
        assert_eq!(error(status, reason, message).class(), class, "{status} {reason} {message}");
    }
    // What a proxy on the way says is not what Google says.
    let html = answer(404, "<html>not here</html>").into_error(Action::GetInstance, "x");
    assert_eq!(html.class(), C::Unknown);
    let text = error(412, "conditionNotMet", "Constraint constraints/compute.x violated").to_string();
    assert!(text.contains("policy of the organisation"), "{text}");
}

#[test]
fn errors_of_an_operation_are_told_apart() {
    for (code, status, class) in [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", 503, C::Capacity),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 0, C::Capacity),
        ("QUOTA_EXCEEDED", 403, C::Quota),
        ("RATE_LIMIT_EXCEEDED", 403, C::Throttle),
        ("RESOURCE_NOT_READY", 400, C::Again),
        ("PERMISSIONS_ERROR", 403, C::Deny),
        ("INTERNAL_ERROR", 500, C::Unknown),
        ("INVALID_USAGE", 400, C::Reject),
    ] {
        let error = done(code, "said", status).into_error(Action::InsertInstance, "x");
        assert_eq!(error.class(), class, "{code}");
    }
    assert_eq!(Refusal::of_operation(None, 0, ""), None);
    assert_eq!(Refusal::of_operation(None, 503, "SERVICE UNAVAILABLE").unwrap().status, 503);
    let errors: Errors = serde_json::from_value(json!({ "errors": [
        { "code": "INTERNAL_ERROR" },
        { "code": "QUOTA_EXCEEDED", "errorDetails": [{ "quotaInfo": { "metricName": "m", "limit": 8.0 } }] },
    ] }))
    .unwrap();
    let refusal = Refusal::of_operation(Some(&errors), 403, "").unwrap();
    assert_eq!((refusal.code.as_str(), refusal.limit), ("QUOTA_EXCEEDED", Some(8)));
}

#[test]
fn a_missing_right_and_a_switched_off_api_are_named() {
    let text =
        error(403, "forbidden", "Required 'compute.subnetworks.use' permission for 'projects/p'").to_string();
    assert_eq!(text, "not allowed to compute.subnetworks.use; add it to the role of the hub's account");
    let untold = error(403, "forbidden", "no").to_string();
    assert!(untold.contains("compute.instances.create; add it"), "{untold}");
    let off = json!({ "error": { "code": 403, "message": "off", "status": "PERMISSION_DENIED", "errors": [{ "reason": "forbidden" }],
        "details": [{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SERVICE_DISABLED" }] } });
    let off = answer(403, &off.to_string()).into_error(Action::GetProject, "x").to_string();
    assert!(off.contains("apis/library/compute.googleapis.com"), "{off}");
    let token = error(401, "authError", "Invalid Credentials").to_string();
    assert!(token.contains("provider configure gcp"), "{token}");
}

#[test]
fn a_rate_without_a_pause_lasts_to_the_next_minute() {
    let pause = |refusal: Refusal| {
        let error = refusal.into_error(Action::ListInstances, "x");
        let ProviderError::Throttle { retry_after } = error else { panic!("{error:?}") };
        retry_after.map(|pause| pause.as_secs())
    };
    assert_eq!(pause(refused(403, "rateLimitExceeded", "x")), Some(41));
    assert_eq!(pause(refused(429, "rateLimitExceeded", "x")), None);
}

#[test]
fn what_is_kept_of_an_answer_is_redacted() {
    for message in ["metadata: canary", "user-data=canary", "Authorization: Bearer canary"] {
        let error = error(500, "backendError", message);
        assert!(!format!("{error:?} {}", error.line()).contains("canary"), "{error:?}");
    }
}
