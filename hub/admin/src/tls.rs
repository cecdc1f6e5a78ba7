//! TLS profiles of services, and certificates of their clients.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use blueprint_common_types::ServiceKey;
use blueprint_hub_proxy_core::tls::{
    CertificateRequest, CertificateView, NewProfile, Serial, TlsAdminError, TlsView,
};
use http::StatusCode;
use serde_json::{Value, json};
use tracing::error;

use crate::AdminState;
use crate::error::ApiError;
use crate::views::{now, time};

/// Where every field is explained.
const SHAPE: &str = "docs/tls.md shows every field of a profile";

/// Largest request body in bytes: a chain, a key and a few authorities.
pub(crate) const MAX_BODY: usize = 512 * 1024;

impl From<TlsAdminError> for ApiError {
    fn from(failed: TlsAdminError) -> Self {
        let text = failed.to_string();
        match failed {
            TlsAdminError::Asked(_) => Self::invalid(text, SHAPE),
            TlsAdminError::NoProfile(service) => {
                Self::not_found(text, format!("`blueprint-hub service tls set {service}` makes one"))
            }
            TlsAdminError::NoListener => Self::conflict(
                text,
                "set proxy.tls, and proxy.tls_listen where proxy.listen is to stay without TLS",
            ),
            TlsAdminError::HasForward { service, .. } => Self::conflict(
                text,
                format!(
                    "`blueprint-hub service settings {service}` prints them, `--file FILE` replaces them"
                ),
            ),
            TlsAdminError::TooMany { .. } => {
                Self::conflict(text, "revoke some of them, or let them end sooner")
            }
            TlsAdminError::NotInForce(not) => not.into(),
            TlsAdminError::Failed(..) => {
                error!(error = %blueprint_common_runtime::Chain(&failed), "tls of a service not changed");
                Self::unavailable(text)
            }
        }
    }
}

pub(crate) async fn show(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    match state.hub.tls().show(key).await? {
        Some(view) => Ok(Json(profile(&view))),
        None => Err(TlsAdminError::NoProfile(key).into()),
    }
}

pub(crate) async fn set(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    body: Result<Json<NewProfile>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(new) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    Ok(Json(profile(&state.hub.tls().set(ServiceKey { blueprint, service }, new).await?)))
}

pub(crate) async fn remove(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    if state.hub.tls().remove(key).await? {
        Ok(Json(json!({ "removed": key })))
    } else {
        Err(TlsAdminError::NoProfile(key).into())
    }
}

pub(crate) async fn issue(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
    body: Result<Json<CertificateRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let key = ServiceKey { blueprint, service };
    let Json(request) = body.map_err(|error| ApiError::invalid(error.body_text(), SHAPE))?;
    let issued = state.hub.tls().issue(key, request).await?;
    let answer = json!({
        "service": key,
        "serial": issued.serial.as_str(),
        "expires_at": time(issued.expires_at),
        "certificate_pem": issued.certificate_pem,
        "private_key_pem": issued.private_key_pem.expose(),
        "ca_bundle_pem": issued.ca_bundle_pem,
    });
    Ok((StatusCode::CREATED, Json(answer)))
}

pub(crate) async fn list(
    State(state): State<AdminState>,
    Path((blueprint, service)): Path<(u64, u64)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let all = state.hub.tls().certificates().await?;
    let rows: Vec<_> = all.iter().filter(|row| row.service == key).map(certificate).collect();
    Ok(Json(json!({ "certificates": rows })))
}

pub(crate) async fn revoke(
    State(state): State<AdminState>,
    Path((blueprint, service, serial)): Path<(u64, u64, String)>,
) -> Result<Json<Value>, ApiError> {
    let key = ServiceKey { blueprint, service };
    let hint = format!("`blueprint-hub service cert ls {key}` lists them");
    let serial: Serial = serial.parse().map_err(|error| ApiError::invalid(format!("{error}"), hint))?;
    let was_live = state.hub.tls().revoke(key, serial.clone()).await?;
    Ok(Json(json!({ "revoked": serial.as_str(), "service": key, "was_live": was_live })))
}

fn profile(view: &TlsView) -> Value {
    json!({
        "service": view.service,
        "changed_at": time(view.changed_at),
        "host_names": view.names,
        "tls_listener": view.tls_listener,
        "http_listener": view.http_listener,
        "profile": view.profile,
    })
}

fn certificate(row: &CertificateView) -> Value {
    let state = match (row.revoked_at, row.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(end)) if end <= now() => "expired",
        (None, Some(_) | None) => "live",
    };
    json!({
        "service": row.service,
        "serial": row.serial,
        "name": row.name,
        "state": state,
        "created_at": time(row.created_at),
        "expires_at": row.expires_at.map(time),
    })
}
