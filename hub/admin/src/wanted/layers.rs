//! Whose word counts: what the blueprint cannot run without, then what the customer asks for, then what the operator has set.

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::placement::{Layer, Layers, NoFit, Strategy};
use blueprint_hub_provision_core::resource::{ArchChoice, Processors, ResourceSpec};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Asked, Wanted, decimal, named};
use crate::error::ApiError;
use crate::market::{Market, Spot};

/// What a blueprint cannot run without, as its author says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Requirements {
    /// The least sizes, in any of the shapes that a specification is read in.
    resources: Option<Value>,
    strategy: Option<String>,
    region: Option<String>,
    arch: Option<ArchChoice>,
    processors: Option<Processors>,
    allow_spot: Option<bool>,
    /// US dollars an hour for each machine.
    max_price: Option<String>,
    max_instances: Option<u32>,
}

impl Requirements {
    fn read(text: &str) -> Result<Layer, ApiError> {
        let wrong = |error: String| {
            ApiError::invalid(
                format!("the blueprint's requirements: {error}"),
                "docs/provisioning.md shows what they may say",
            )
        };
        let said: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let layer = Layer {
            strategy: said.strategy.as_deref().map(named).transpose()?,
            region: said.region,
            arch: said.arch,
            processors: said.processors,
            // That it may run on one is no order of one.
            allow_spot: said.allow_spot.filter(|allowed| !allowed),
            max_hourly: decimal("max_price of the blueprint", said.max_price.as_deref())?,
            max_instances: said.max_instances,
            ..Layer::default()
        };
        let Some(resources) = said.resources else { return Ok(layer) };
        let spec = ResourceSpec::read(&resources.to_string()).map_err(|error| wrong(error.to_string()))?;
        spec.check().map_err(|error| wrong(error.to_string()))?;
        let sizes = ResourceSpec {
            cpu_millis: spec.cpu_millis,
            memory_bytes: spec.memory_bytes,
            storage_bytes: spec.storage_bytes,
            gpu: spec.gpu.clone(),
            ..ResourceSpec::default()
        };
        if spec != sizes {
            let why = "resources says more than processors, memory, storage and GPUs; region, arch, processors and allow_spot stand beside it";
            return Err(wrong(why.to_owned()));
        }
        Ok(layer.needing(&spec))
    }
}

impl Wanted {
    /// What each of them says; `spec` is what the customer asks for.
    pub(super) fn layers(&self, spec: &ResourceSpec, market: &Market) -> Result<Layers, ApiError> {
        let is_whole = self.spec.is_some() || self.preset.is_some();
        let preferences = &market.preferences;
        let customer = Layer {
            strategy: self.strategy()?,
            region: spec.region.clone(),
            arch: self.arch.or_else(|| is_whole.then_some(spec.arch)),
            processors: self.processors.or_else(|| self.spec.is_some().then_some(spec.processors)),
            allow_spot: spec.allow_spot.then_some(true),
            max_hourly: decimal("max_price", self.max_price.as_deref())?,
            max_instances: None,
            cpu_millis: (is_whole || self.cpu.is_some()).then_some(spec.cpu_millis),
            memory_bytes: (is_whole || self.memory_gib.is_some()).then_some(spec.memory_bytes),
            storage_bytes: (is_whole || self.disk_gb.is_some()).then_some(spec.storage_bytes),
            gpu: spec.gpu.clone(),
        };
        let operator = Layer {
            strategy: preferences.strategy.clone(),
            // An order that names several places says where.
            region: preferences.region.clone().filter(|_| self.regions.is_none()),
            allow_spot: match preferences.spot {
                Spot::Asked => None,
                Spot::Never => Some(false),
                Spot::Preferred => Some(true),
            },
            ..Layer::default()
        };
        let blueprint = self.blueprint.as_deref().map(Requirements::read).transpose()?.unwrap_or_default();
        Ok(Layers { blueprint, customer, operator })
    }
}

/// Makes `spec` what holds in the end, and gives the rest of it.
pub(super) fn hold(spec: &mut ResourceSpec, layers: &Layers) -> Layer {
    let merged = layers.merge().layer;
    spec.cpu_millis = merged.cpu_millis.unwrap_or(spec.cpu_millis);
    spec.memory_bytes = merged.memory_bytes.unwrap_or(spec.memory_bytes);
    spec.storage_bytes = merged.storage_bytes.unwrap_or(spec.storage_bytes);
    spec.gpu.clone_from(&merged.gpu);
    spec.region.clone_from(&merged.region);
    spec.arch = merged.arch.unwrap_or(spec.arch);
    spec.processors = merged.processors.unwrap_or(spec.processors);
    spec.allow_spot = merged.allow_spot.unwrap_or(false);
    merged
}

impl Asked {
    /// All that was said, with the operator's limit of an order of so many machines.
    fn with_limit(&self, market: &Market, replicas: u32) -> Layers {
        let share =
            |limit: Micros| Micros::new(limit.get().checked_div(u64::from(replicas)).unwrap_or(u64::MAX));
        let mut layers = self.layers.clone();
        layers.operator.max_hourly = market.preferences.max_order_hourly.map(share);
        layers
    }

    /// Most that an hour of one of so many machines may cost: what was asked for, and the operator's limit of an order.
    pub(crate) fn most(&self, market: &Market, replicas: u32) -> Option<Micros> {
        self.with_limit(market, replicas).merge().layer.max_hourly
    }

    /// Whether so many machines may be ordered.
    ///
    /// # Errors
    ///
    /// More than the blueprint runs on.
    pub(crate) fn allows(&self, replicas: u32) -> Result<(), ApiError> {
        match self.layers.merge().layer.max_instances.filter(|most| *most < replicas) {
            None => Ok(()),
            Some(most) => Err(ApiError::invalid(
                format!("the blueprint runs on {most} machines at most, not {replicas}"),
                "ask for fewer replicas, or change max_instances of its requirements",
            )),
        }
    }

    /// What holds and whose word it is, a row for each that somebody said.
    pub(crate) fn explained(&self, market: &Market, replicas: u32) -> Value {
        let layers = self.with_limit(market, replicas);
        let merged = layers.merge();
        let rows = merged.origins.iter().map(|(name, origin)| {
            let said =
                [&layers.blueprint, &layers.customer, &layers.operator].map(|layer| shown(layer, name));
            let [blueprint, customer, operator] = said;
            let row = json!({
                "value": shown(&merged.layer, name), "origin": origin,
                "blueprint": blueprint, "customer": customer, "operator": operator,
            });
            ((*name).to_owned(), row)
        });
        Value::Object(rows.collect::<Map<_, _>>())
    }

    /// What a person does where nothing fits.
    pub(crate) fn way_out(&self, error: &NoFit) -> &'static str {
        let code = match error {
            NoFit::Machine { code, .. } => *code,
            NoFit::Region { .. } => return "name a region of a provider that this hub has",
        };
        match code {
            Some("stale_price") => {
                "`blueprint-hub prices refresh` asks for new prices, --accept-stale-price goes by the old ones"
            }
            Some("unchecked_price") => {
                "name the --provider whose price it is, or give --accept-stale-price; `blueprint-hub prices refresh` asks for \
                 real ones"
            }
            Some("no_rate") => "set provision.usd_per_eur in hub.toml and start the hub again",
            Some("price") => "ask for less or for more an hour",
            Some(_) | None => "ask for less or for another place, or for more an hour",
        }
    }
}

/// A field as people read it.
fn shown(layer: &Layer, name: &str) -> Value {
    let amount = |micros: Option<Micros>| micros.map(|micros| micros.to_string());
    match name {
        "strategy" => json!(layer.strategy.as_ref().map(strategy)),
        "region" => json!(layer.region),
        "arch" => json!(layer.arch),
        "processors" => json!(layer.processors),
        "allow_spot" => json!(layer.allow_spot),
        "max_hourly" => json!(amount(layer.max_hourly)),
        "max_instances" => json!(layer.max_instances),
        "cpu_millis" => json!(layer.cpu_millis),
        "memory_bytes" => json!(layer.memory_bytes),
        "storage_bytes" => json!(layer.storage_bytes),
        "gpu" => json!(layer.gpu),
        _ => Value::Null,
    }
}

/// A strategy as people write it.
fn strategy(strategy: &Strategy) -> String {
    match strategy {
        Strategy::Cheapest => "cheapest".to_owned(),
        Strategy::FirstMatch => "first-match".to_owned(),
        Strategy::Preferred(names) => format!("preferred:{}", names.join(",")),
        Strategy::Pinned { provider, plan } if plan.is_empty() => provider.clone(),
        Strategy::Pinned { provider, plan } => format!("{plan} of {provider}"),
        Strategy::LocalOnly => "local-only".to_owned(),
        Strategy::Hybrid => "hybrid".to_owned(),
    }
}
