//! Remotes: places with a name that orders may go to, as the hub keeps them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most remotes of a hub.
pub const MAX_REMOTES: usize = 1000;

/// What an order to this place asks for where its own options say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Remote {
    /// Provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// How to choose among providers, as `--strategy` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Region, area, country or continent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The same, several of which one will do; any where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Plans of which one will do, such as hosts of the provider `ssh` by their names in its inventory; any where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plans: Vec<String>,
    /// Over what the machines of an order are spread, as `--spread` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Processors at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cpu: Option<String>,
    /// GiB of memory at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<String>,
    /// Most machines of one order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_instances: Option<u32>,
    /// Why nothing can be ordered there, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

impl Remote {
    /// A place that was named and that nothing can be ordered in.
    #[must_use]
    pub fn unusable(why: impl Into<String>) -> Self {
        Self { unusable: Some(why.into()), ..Self::default() }
    }

    /// A provider.
    #[must_use]
    pub fn of(provider: &str) -> Self {
        Self { provider: Some(provider.to_owned()), ..Self::default() }
    }
}

/// The remotes of a hub, as its file has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Remotes {
    /// By name.
    pub remote: BTreeMap<String, Remote>,
}

/// The hub's file of remotes cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a file of remotes: {0}")]
pub struct BadRemotes(String);

impl Remotes {
    /// Reads the hub's own file.
    ///
    /// # Errors
    ///
    /// [`BadRemotes`] where it is none, or holds more than a thousand.
    pub fn read(text: &str) -> Result<Self, BadRemotes> {
        let read: Self = toml::from_str(text).map_err(|error| BadRemotes(error.to_string()))?;
        if read.remote.len() > MAX_REMOTES {
            return Err(BadRemotes(format!("it has more than {MAX_REMOTES} remotes")));
        }
        Ok(read)
    }

    /// The hub's file.
    ///
    /// # Errors
    ///
    /// [`BadRemotes`] where there are more than a thousand.
    pub fn write(&self) -> Result<String, BadRemotes> {
        if self.remote.len() > MAX_REMOTES {
            return Err(BadRemotes(format!("there would be more than {MAX_REMOTES} remotes")));
        }
        let head =
            "# Places that `blueprint-hub deploy --remote NAME` knows; docs/migration.md explains them.\n";
        let body = toml::to_string(self).map_err(|error| BadRemotes(error.to_string()))?;
        Ok(format!("{head}{body}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_come_back_as_they_were_written() {
        let remote = Remote { min_cpu: Some("4".to_owned()), max_instances: Some(3), ..Remote::of("aws") };
        let remotes = Remotes {
            remote: [("prod".to_owned(), remote), ("eks".to_owned(), Remote::unusable("a \"cluster\""))]
                .into(),
        };
        assert_eq!(Remotes::read(&remotes.write().unwrap()).unwrap(), remotes);
        assert!(Remotes::read("[remote.a]\nprovidr = 1").unwrap_err().to_string().contains("providr"));
    }
}
