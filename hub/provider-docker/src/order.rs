//! What a machine is told at its beginning.

use blueprint_common_types::Secret;
use blueprint_hub_provision_core::{InstanceKey, ProviderError};
use serde::{Deserialize, Deserializer};

/// The user data of a machine that is a container: a JSON document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// The line that the agent joins with.
    #[serde(deserialize_with = "secret")]
    join_line: Secret<String>,
    /// Name of its node.
    name: String,
}

impl Order {
    /// Reads the document.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Reject`] that says where the document is wrong and repeats nothing of it.
    pub(crate) fn parse(text: &str) -> Result<Self, ProviderError> {
        let reject = |reason: String| ProviderError::Reject { reason };
        let order: Self = serde_json::from_str(text).map_err(|error| {
            // The error's own text may repeat a value, and one of them is a secret.
            reject(format!("user data is wrong at line {} column {}", error.line(), error.column()))
        })?;
        if order.name.parse::<InstanceKey>().is_err() {
            return Err(reject("the name in the user data is not 1 to 63 of a-z, 0-9 and '-'".to_owned()));
        }
        let line = order.join_line.expose();
        if line.is_empty() || line.len() > 1024 || line.contains(['\n', '\r']) {
            return Err(reject("the join line in the user data is not one line".to_owned()));
        }
        Ok(order)
    }

    /// The file `join`.
    pub(crate) fn join_file(&self) -> Secret<String> {
        Secret::new(format!("{}\n", self.join_line.expose()))
    }

    /// The agent's configuration, for a volume that is mounted at `folder`. A name has nothing that TOML would read.
    pub(crate) fn config_file(&self, folder: &str) -> String {
        format!(
            "# `blueprint-agent config default` prints every key.\n[agent]\nname = \"{}\"\njoin_file = \"{folder}/join\"\n\
             # The engine holds this machine as a whole; there are no control groups for workloads in it.\n\
             [workload]\nallow_unlimited = true\n",
            self.name
        )
    }
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret<String>, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_becomes_two_files() {
        let order = Order::parse(r#"{"join_line":"h:1/p/t","name":"bp-1"}"#).unwrap();
        assert_eq!(order.join_file().expose(), "h:1/p/t\n");
        let config: toml::Table = order.config_file("/blueprint").parse().unwrap();
        assert_eq!(config["agent"]["name"].as_str(), Some("bp-1"));
        assert_eq!(config["agent"]["join_file"].as_str(), Some("/blueprint/join"));
        assert!(!format!("{order:?}").contains("h:1"));
    }

    #[test]
    fn wrong_documents_are_refused_without_repeating_them() {
        for text in [
            "canary",
            r#"{"join_line":7,"name":"bp-1","x":"canary"}"#,
            r#"{"join_line":"x","name":"../canary"}"#,
            r#"{"join_line":"canary\n[agent]","name":"bp-1"}"#,
            r#"{"join_line":"","name":"bp-1"}"#,
        ] {
            let error = Order::parse(text).unwrap_err();
            assert!(matches!(error, ProviderError::Reject { .. }), "{text}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }
}
