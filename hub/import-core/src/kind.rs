//! Which file it is, by what stands in it.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::ReadError;
use crate::format::Content;
use crate::names;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Sections `[operator.*]`, `[remote.*]`, `[providers.*]` and `[network]`: configuration of the Manager's remote mode.
    Manager,
    /// `deployment-policy.json` of `cargo tangle cloud policy`.
    Policy,
    /// `cloud.json` of `cargo tangle cloud configure`.
    Cloud,
    /// Preferences of an operator among deployment types.
    Preferences,
    /// `providers.yml`: credentials of providers.
    Credentials,
    /// `deployment_state.json` of the deployment tracker.
    State,
    /// Prices, or settings, of the pricing engine.
    Pricing,
    /// A list of variables, such as `.env`.
    Variables,
    /// A list of machines as CSV.
    Inventory,
}

impl Kind {
    /// In words, for people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Manager => "configuration of the Manager's remote mode",
            Self::Policy => "deployment policy",
            Self::Cloud => "regions of clouds",
            Self::Preferences => "preferred deployment types",
            Self::Credentials => "credentials of providers",
            Self::State => "state of the deployment tracker",
            Self::Pricing => "configuration of the pricing engine",
            Self::Variables => "list of variables",
            Self::Inventory => "list of machines",
        }
    }
}

/// Says what a content is.
pub(crate) fn of(content: &Content) -> Result<Kind, ReadError> {
    let fields = match content {
        Content::Table(_) => return Ok(Kind::Inventory),
        Content::Variables(_) => return Ok(Kind::Variables),
        Content::Tree(Value::Object(fields)) => fields,
        Content::Tree(_) => return Err(ReadError::Unknown("it is no table of keys".to_owned())),
    };
    let has = |key: &str| fields.contains_key(key);
    let objects = || fields.values().filter_map(Value::as_object);
    let all = |test: fn(&Map<String, Value>) -> bool| {
        !fields.is_empty() && fields.values().all(Value::is_object) && objects().all(test)
    };
    let providers = fields.get("providers").and_then(Value::as_object);
    let classes = ["gpu_providers", "cpu_intensive", "memory_intensive", "cost_optimized"];
    let is_classes = providers.is_some_and(|inner| classes.iter().any(|class| inner.contains_key(*class)));
    let is_place = |inner: &Map<String, Value>| {
        inner.contains_key("type") || inner.contains_key("kubeconfig") || inner.contains_key("service_type")
    };
    let typed = providers.is_some_and(|inner| inner.values().filter_map(Value::as_object).any(is_place));
    if is_classes || ["cost_limits", "regions", "failover", "serverless"].iter().any(|key| has(key)) {
        return Ok(Kind::Policy);
    }
    if has("operator") || has("remote") || has("network") || typed {
        return Ok(Kind::Manager);
    }
    if has("preferred_type") || has("allowed_types") {
        return Ok(Kind::Preferences);
    }
    if all(|inner| inner.contains_key("deployment_type") || inner.contains_key("resource_ids")) {
        return Ok(Kind::State);
    }
    let is_priced = |inner: &Map<String, Value>| inner.get("resources").is_some_and(Value::is_array);
    if all(is_priced) || has("benchmark_duration") || has("quote_validity_duration_secs") {
        return Ok(Kind::Pricing);
    }
    let has_secret = |inner: &Map<String, Value>| inner.keys().any(|key| crate::secrets::is_secret(key));
    let with_secret =
        providers.is_some_and(|inner| inner.values().filter_map(Value::as_object).any(has_secret));
    if has("default_provider") || (providers.is_some() && !with_secret) {
        return Ok(Kind::Cloud);
    }
    if with_secret || fields.get("providers").is_some_and(Value::is_array) {
        return Ok(Kind::Credentials);
    }
    let names_one = fields.keys().any(|key| names::provider(key).is_some());
    if names_one || objects().any(has_secret) {
        return Ok(Kind::Credentials);
    }
    let keys: Vec<_> = fields.keys().take(5).map(|key| crate::report::shown(key)).collect();
    Err(ReadError::Unknown(match keys.as_slice() {
        [] => "it is empty".to_owned(),
        keys => format!("its keys are {}", keys.join(", ")),
    }))
}
