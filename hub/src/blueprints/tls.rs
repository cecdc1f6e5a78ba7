//! TLS profiles, as blueprints hand them over: certificates and keys in envelopes.

use blueprint_common_types::{Secret, ServiceKey};
use blueprint_hub_proxy_core::tls::{NewProfile, TlsAdmin, TlsAdminError, open_envelope};
use blueprint_proto::blueprint_manager_bridge::TlsProfileConfig;
use tonic::Status;
use tracing::error;

use super::BlueprintPort;

impl BlueprintPort {
    /// Opens the envelopes of a profile.
    pub(super) fn profile(&self, service: ServiceKey, wire: &TlsProfileConfig) -> Result<NewProfile, Status> {
        let invalid = |why: &str| Status::invalid_argument(why);
        let is_missing = wire.encrypted_server_cert.is_empty() || wire.encrypted_server_key.is_empty();
        if wire.tls_enabled && is_missing {
            return Err(invalid("TLS needs encrypted_server_cert and encrypted_server_key"));
        }
        if wire.require_client_mtls && wire.encrypted_client_ca_bundle.is_empty() {
            return Err(invalid("require_client_mtls needs encrypted_client_ca_bundle"));
        }
        let upstream = [
            &wire.encrypted_upstream_ca_bundle,
            &wire.encrypted_upstream_client_cert,
            &wire.encrypted_upstream_client_key,
        ];
        if upstream.iter().any(|envelope| !envelope.is_empty()) {
            return Err(invalid("the hub reaches services through its tunnel, without TLS of their own"));
        }
        let key = self.keys.envelope_key(service);
        let open = |field: &str, envelope: &[u8]| {
            let text = open_envelope(&key, envelope)
                .and_then(|bytes| String::from_utf8(bytes.expose().clone()).ok().map(Secret::new));
            let wrong = || {
                Status::invalid_argument(format!(
                    "{field} was not sealed with TLS_ENVELOPE_KEY of this workload"
                ))
            };
            text.ok_or_else(wrong)
        };
        let server = if is_missing {
            None
        } else {
            let chain = open("encrypted_server_cert", &wire.encrypted_server_cert)?;
            Some((chain.expose().clone(), open("encrypted_server_key", &wire.encrypted_server_key)?))
        };
        let client_ca_pem = match wire.encrypted_client_ca_bundle.as_slice() {
            [] => None,
            envelope => Some(open("encrypted_client_ca_bundle", envelope)?.expose().clone()),
        };
        Ok(NewProfile {
            tls_enabled: wire.tls_enabled,
            require_client_mtls: wire.require_client_mtls,
            client_cert_ttl_hours: wire.client_cert_ttl_hours,
            sni: wire.sni.clone().filter(|name| !name.is_empty()),
            subject_alt_name_template: wire.subject_alt_name_template.clone().filter(|text| !text.is_empty()),
            allowed_dns_names: wire.allowed_dns_names.iter().cloned().collect(),
            server,
            client_ca_pem,
        })
    }

    pub(super) async fn set_tls(&self, service: ServiceKey, profile: NewProfile) -> Result<(), Status> {
        self.tls.set(service, profile).await.map(drop).map_err(|error| status(service, &error))
    }

    pub(super) async fn remove_tls(&self, service: ServiceKey) -> Result<(), Status> {
        self.tls.remove(service).await.map(drop).map_err(|error| status(service, &error))
    }
}

fn status(service: ServiceKey, error: &TlsAdminError) -> Status {
    let text = error.to_string();
    match error {
        TlsAdminError::Asked(_) => Status::invalid_argument(text),
        TlsAdminError::NoProfile(_) => Status::not_found(text),
        TlsAdminError::NoListener | TlsAdminError::HasForward { .. } => Status::failed_precondition(text),
        TlsAdminError::NotInForce(_) => Status::unavailable(text),
        TlsAdminError::TooMany { .. } => Status::resource_exhausted(text),
        TlsAdminError::Failed(..) => {
            error!(%service, %error, "a blueprint's TLS profile is not in force");
            Status::unavailable(text)
        }
    }
}
