//! TLS profiles and client certificates, in the forms of the existing Blueprint auth proxy. That one lets
//! anybody in here; this one the operator.

use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::tls::{
    CertificateRequest, IssuedCertificate, NewProfile, Serial, TlsAdminError, TlsView,
};
use blueprint_hub_proxy_core::{CanonicalRequest, Refusal, Selector, Trust};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json as value};
use tracing::error as log_error;

use super::answers::{error, json};
use super::{Answer, AuthApi, named, parse};
use crate::body::AnswerBody;

/// Paths between which the number of a service stands.
const PROFILE: (&str, &str) = ("/v1/admin/services/", "/tls-profile");

/// Paths between which a serial number stands.
const REVOKE: (&str, &str) = ("/v1/auth/certificates/", "/revoke");

/// Whether a path is that of a profile.
pub(super) fn is_profile(path: &str) -> bool {
    inside(path, PROFILE).is_some()
}

/// Whether a path is that of a revocation.
pub(super) fn is_revocation(path: &str) -> bool {
    inside(path, REVOKE).is_some()
}

fn inside<'p>(path: &'p str, (before, behind): (&str, &str)) -> Option<&'p str> {
    let inside = path.strip_prefix(before)?.strip_suffix(behind)?;
    (!inside.is_empty() && !inside.contains('/')).then_some(inside)
}

#[derive(Deserialize)]
struct IssueBody {
    /// Must be the service that the header names, where it is there.
    #[serde(default)]
    service_id: Option<u64>,
    #[serde(flatten)]
    certificate: CertificateRequest,
}

impl AuthApi {
    /// `PUT /v1/admin/services/{service}/tls-profile`.
    pub(super) async fn set_profile(&self, request: &CanonicalRequest, trust: &Trust, body: &[u8]) -> Answer {
        let admin = self.door(request)?;
        let service = match of_path(request, trust)? {
            Ok(service) => service,
            Err(words) => return Ok(bad(&words)),
        };
        let profile = match parse::<NewProfile>(body) {
            Ok(profile) => profile,
            Err(words) => return Ok(bad(&words)),
        };
        Ok(match admin.set(service, profile).await {
            Ok(view) => json(StatusCode::OK, &shown(&view)),
            Err(failed) => refused(&failed),
        })
    }

    /// `POST /v1/auth/certificates`.
    pub(super) async fn issue(&self, request: &CanonicalRequest, trust: &Trust, body: &[u8]) -> Answer {
        let admin = self.door(request)?;
        let asked = match parse::<IssueBody>(body) {
            Ok(asked) => asked,
            Err(words) => return Ok(bad(&words)),
        };
        let service = match (request.selector(), asked.service_id) {
            (None, Some(number)) => trust.find(Selector::ById { service: number, sub: 0 })?,
            (Some(_) | None, _) => named(request, trust)?,
        };
        if asked.service_id.is_some_and(|number| number != service.service) {
            return Ok(bad("service_id and X-Service-Id name different services"));
        }
        Ok(match admin.issue(service, asked.certificate).await {
            Ok(issued) => json(StatusCode::OK, &handed_out(&issued)),
            Err(failed) => refused(&failed),
        })
    }

    /// `POST /v1/auth/certificates/{serial}/revoke`.
    pub(super) async fn revoke(&self, request: &CanonicalRequest, trust: &Trust) -> Answer {
        let admin = self.door(request)?;
        let serial = inside(request.path(), REVOKE).and_then(|text| text.parse::<Serial>().ok());
        let Some(serial) = serial else { return Ok(bad("the path holds no serial number")) };
        let service = match request.selector() {
            Some(selector) => Some(trust.find(selector)?),
            None => {
                let known = match admin.certificates().await {
                    Ok(known) => known,
                    Err(failed) => return Ok(refused(&failed)),
                };
                known.into_iter().find(|known| known.serial == serial.as_str()).map(|known| known.service)
            }
        };
        let Some(service) = service else {
            let words = "no certificate of this hub has that serial number; X-Service-Id says whose it is";
            return Ok(json(StatusCode::NOT_FOUND, &error("not_found", words)));
        };
        Ok(match admin.revoke(service, serial.clone()).await {
            Ok(is_new) => json(
                StatusCode::OK,
                &value!({ "serial": serial.as_str(), "revoked": true, "was_live": is_new }),
            ),
            Err(failed) => refused(&failed),
        })
    }
}

/// The service that the path names; a header must name the same one.
fn of_path(request: &CanonicalRequest, trust: &Trust) -> Result<Result<ServiceKey, String>, Refusal> {
    let text = inside(request.path(), PROFILE).unwrap_or_default();
    let number = text.strip_suffix(":0").unwrap_or(text);
    let Some(number) = number.parse::<u64>().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit()))
    else {
        return Ok(Err(format!("the path holds no number of a service but {text:?}")));
    };
    let service = match request.selector() {
        Some(selector) => trust.find(selector)?,
        None => trust.find(Selector::ById { service: number, sub: 0 })?,
    };
    if service.service == number { Ok(Ok(service)) } else { Err(Refusal::ContradictoryService) }
}

fn shown(view: &TlsView) -> Value {
    let profile = &view.profile;
    value!({
        "tls_enabled": profile.tls_enabled,
        "require_client_mtls": profile.require_client_mtls,
        "client_cert_ttl_hours": profile.client_cert_ttl_hours,
        "mtls_listener": view.tls_listener,
        "http_listener": view.http_listener,
        "ca_certificate_pem": profile.ca_certificate_pem,
        "subject_alt_name_template": profile.subject_alt_name_template,
        "allowed_dns_names": profile.allowed_dns_names,
        "sni": profile.sni,
        "host_names": view.names,
    })
}

fn handed_out(issued: &IssuedCertificate) -> Value {
    value!({
        "certificate_pem": issued.certificate_pem,
        "private_key_pem": issued.private_key_pem.expose(),
        "ca_bundle_pem": issued.ca_bundle_pem,
        "serial": issued.serial.as_str(),
        "expires_at": issued.expires_at.as_secs(),
        "revocation_url": format!("{}{}{}", REVOKE.0, issued.serial, REVOKE.1),
    })
}

fn bad(words: &str) -> Response<AnswerBody> {
    json(StatusCode::BAD_REQUEST, &error("invalid_request", words))
}

fn refused(failed: &TlsAdminError) -> Response<AnswerBody> {
    let (status, code) = match failed {
        TlsAdminError::Asked(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
        TlsAdminError::NoProfile(_) => (StatusCode::NOT_FOUND, "not_found"),
        TlsAdminError::NoListener => (StatusCode::CONFLICT, "no_tls"),
        TlsAdminError::HasForward { .. } => (StatusCode::CONFLICT, "has_forward"),
        TlsAdminError::TooMany { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
        TlsAdminError::NotInForce(_) => (StatusCode::SERVICE_UNAVAILABLE, "not_in_force"),
        TlsAdminError::Failed(..) => {
            log_error!(error = %blueprint_common_runtime::Chain(failed), "tls of a service not changed");
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
    };
    json(status, &error(code, &failed.to_string()))
}
