//! What a machine is created with.

use blueprint_common_types::{Secret, ServiceKey};
use blueprint_hub_provision_core::{InstanceKey, ProviderError};
use serde::{Deserialize, Deserializer};

/// Services of one machine at most.
const MAX_SERVICES: usize = 64;

/// The user data of a simulated machine, a JSON document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserData {
    /// The line the agent joins with.
    #[serde(deserialize_with = "secret")]
    pub(crate) join_line: Secret<String>,
    /// Services that the machine runs and the agent offers.
    #[serde(default)]
    services: Vec<ServiceEntry>,
    /// Name of the agent and of its services.
    pub(crate) name: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceEntry {
    blueprint: u64,
    service: u64,
}

impl UserData {
    /// Reads the document.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] that says where the document is wrong and repeats nothing of it.
    pub(crate) fn parse(text: &str) -> Result<Self, ProviderError> {
        let reject = |reason: String| ProviderError::Reject { reason };
        let data: Self = serde_json::from_str(text).map_err(|error| {
            // The error's own text may repeat a value, and one of them is a secret.
            reject(format!("user data is wrong at line {} column {}", error.line(), error.column()))
        })?;
        if data.services.len() > MAX_SERVICES {
            return Err(reject(format!("user data names more than {MAX_SERVICES} services")));
        }
        if data.name.parse::<InstanceKey>().is_err() {
            return Err(reject("the name in the user data is not 1 to 63 of a-z, 0-9 and '-'".to_owned()));
        }
        if data.join_line.expose().is_empty() || data.join_line.expose().contains(['\n', '\r']) {
            return Err(reject("the join line in the user data is not one line".to_owned()));
        }
        Ok(data)
    }

    /// Services of the machine, in the order given, each once.
    pub(crate) fn services(&self) -> Vec<ServiceKey> {
        let mut services = Vec::with_capacity(self.services.len());
        for entry in &self.services {
            let key = ServiceKey { blueprint: entry.blueprint, service: entry.service };
            if !services.contains(&key) {
                services.push(key);
            }
        }
        services
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_join_line_services_and_name() {
        let text = r#"{"join_line":"h:1/p/t","services":[{"blueprint":1,"service":2},{"blueprint":1,"service":2}],"name":"sim-1"}"#;
        let data = UserData::parse(text).unwrap();
        assert_eq!(data.join_line.expose(), "h:1/p/t");
        assert_eq!(data.services(), [ServiceKey { blueprint: 1, service: 2 }]);
        assert!(!format!("{data:?}").contains("h:1"));
    }

    #[test]
    fn wrong_documents_are_refused_without_repeating_them() {
        for text in [
            "canary",
            r#"{"join_line":7,"name":"sim-1","x":"canary"}"#,
            r#"{"join_line":"x","services":"canary","name":"sim-1"}"#,
            r#"{"join_line":"x","name":"../canary"}"#,
            r#"{"join_line":"canary\n[agent]","name":"sim-1"}"#,
            r#"{"join_line":"","name":"sim-1"}"#,
        ] {
            let error = UserData::parse(text).unwrap_err();
            assert!(matches!(error, ProviderError::Reject { .. }), "{text}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
