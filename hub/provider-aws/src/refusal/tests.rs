use blueprint_hub_provision_core::ErrorClass;

use super::*;

fn ec2(status: u16, code: &str, message: &str) -> Refusal {
    let body = format!(
        "<?xml version=\"1.0\"?><Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error>\
         </Errors><RequestID>r-1</RequestID></Response>"
    );
    Refusal::read(status, "", None, body.as_bytes())
}

fn class(action: Action, status: u16, code: &str, message: &str) -> ErrorClass {
    ec2(status, code, message).into_error(action, "t3.micro in us-east-1").class()
}

#[test]
fn codes_count_more_than_statuses() {
    use ErrorClass::{Again, Capacity, Deny, NoQuota, NotSold, Quota, Reject, Throttle, Unknown};
    let limit = "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket";
    for (code, status, message, wanted) in [
        ("RequestLimitExceeded", 503, "", Throttle),
        ("Client.RequestLimitExceeded", 503, "", Throttle),
        ("ThrottlingException", 400, "", Throttle),
        ("InsufficientInstanceCapacity", 500, "", Capacity),
        ("Server.InsufficientInstanceCapacity", 500, "", Capacity),
        ("UnfulfillableCapacity", 400, "", Capacity),
        ("InsufficientFreeAddressesInSubnet", 400, "", Capacity),
        ("VcpuLimitExceeded", 400, limit, NoQuota),
        ("VcpuLimitExceeded", 400, "vCPU limit of 32 allows", Quota),
        ("InstanceLimitExceeded", 400, "", Quota),
        ("MaxSpotInstanceCountExceeded", 400, "", Quota),
        ("Unsupported", 400, "", NotSold),
        ("InvalidParameterValue", 400, "Invalid value 't99.huge' for InstanceType.", NotSold),
        ("InvalidParameterValue", 400, "Invalid value for VolumeSize", Reject),
        ("InvalidUserData.Malformed", 400, "", Reject),
        ("UnauthorizedOperation", 403, "", Deny),
        ("AuthFailure", 401, "", Deny),
        ("SignatureDoesNotMatch", 403, "", Deny),
        ("IncorrectInstanceState", 400, "", Again),
        ("IdempotentParameterMismatch", 400, "", Unknown),
        ("InternalError", 500, "", Unknown),
        ("Unavailable", 503, "", Unknown),
        ("SomethingNew", 500, "", Unknown),
        ("SomethingNew", 400, "", Reject),
        ("SomethingNew", 403, "", Deny),
        ("", 429, "", Throttle),
        ("", 400, "", Unknown),
        ("", 404, "", Unknown),
    ] {
        assert_eq!(class(Action::RunInstances, status, code, message), wanted, "{code} {status} {message}");
    }
    assert_eq!(class(Action::StopInstances, 400, "UnsupportedOperation", ""), Reject);
}

#[test]
fn every_dialect_is_read() {
    let sts = b"<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
        <Code>ExpiredToken</Code><Message>The security token</Message></Error><RequestId>r-2</RequestId></ErrorResponse>";
    let sts = Refusal::read(403, "", None, sts);
    assert_eq!((sts.code.as_str(), sts.request.as_str()), ("ExpiredToken", "r-2"));
    let ssm = br#"{"__type":"com.amazonaws.ssm#ParameterNotFound","message":"no such","Message":"no such"}"#;
    let ssm = Refusal::read(400, "r-3", None, ssm);
    assert_eq!(ssm.to_string(), "ParameterNotFound (400): no such; request r-3");
    let page = Refusal::read(502, "", None, b"<html>bad gateway");
    assert_eq!(page.into_error(Action::DescribeInstances, "us-east-1").class(), ErrorClass::Unknown);
    let page = Refusal::read(403, "", None, b"").into_error(Action::DescribeInstances, "us-east-1");
    assert!(page.to_string().contains("ec2:DescribeInstances (status 403)"), "{page}");
}

#[test]
fn a_missing_permission_is_named() {
    let message = "You are not authorized to perform this operation. User: arn:aws:iam::1:user/x is not authorized to \
                   perform: ec2:CreateTags on resource: arn:aws:ec2:us-east-1:1:instance/*";
    let error = ec2(403, "UnauthorizedOperation", message).into_error(Action::RunInstances, "");
    assert_eq!(
        error.to_string(),
        "not allowed to ec2:CreateTags; add it to the policy of the hub's key or role"
    );
    let error = ec2(403, "UnauthorizedOperation", "no").into_error(Action::RunInstances, "");
    assert!(error.to_string().contains("ec2:RunInstances"), "{error}");
}

#[test]
fn the_pause_that_is_asked_for_is_passed_on() {
    let pause = Some(Duration::from_secs(7));
    let error = Refusal::read(
        503,
        "",
        pause,
        b"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>",
    );
    assert!(
        matches!(error.into_error(Action::RunInstances, ""), ProviderError::Throttle { retry_after } if retry_after == pause)
    );
}
