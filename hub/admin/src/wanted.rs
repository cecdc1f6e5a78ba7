//! What people ask of a machine, as queries say it.

mod layers;

use std::collections::BTreeSet;

use blueprint_common_types::Micros;
use blueprint_hub_provision_core::catalogue::templates;
use blueprint_hub_provision_core::estimate::Terms;
use blueprint_hub_provision_core::lifecycle::Spread;
use blueprint_hub_provision_core::placement::{Demand, Layers, Question, Strategy};
use blueprint_hub_provision_core::resource::{ArchChoice, GpuSpec, Processors, ResourceSpec};
use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::market::{Market, Spot, today};

const HINT: &str = "docs/prices.md lists what can be asked for";

/// A query for machines. Every size is a lower bound, as the provider's list counts it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    /// `minimal`, `basic`, `recommended`, `performance`, `gpu`; what else is given replaces its part.
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    /// A specification as JSON, in any of the shapes that are read; what is needed for a service, not a machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_gib: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_gb: Option<u32>,
    /// Kind of GPU, or `any`.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_count: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_vram_gib: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// Several of which one will do, with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    regions: Option<String>,
    /// Plans of which one will do, with commas between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    plans: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<ArchChoice>,
    spot: bool,
    no_burstable: bool,
    /// How shared processors are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    processors: Option<Processors>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egress_gb: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_price: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
    /// A template of the specification: its provider and plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    strategy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hours: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    markup_percent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority_percent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sla_percent: Option<String>,
    /// What the blueprint cannot run without, as JSON: sizes, and where and how machines may be ordered for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    blueprint: Option<String>,
    /// Only providers that this hub can order of.
    configured: bool,
    /// Also by prices that are too old to rely on.
    accept_stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// The same, understood.
pub(crate) struct Asked {
    pub(crate) spec: ResourceSpec,
    pub(crate) demand: Demand,
    pub(crate) strategy: Strategy,
    pub(crate) terms: Terms,
    pub(crate) max_hourly: Option<Micros>,
    /// Who said what, the operator's limit of an order left out.
    layers: Layers,
    only: Option<BTreeSet<String>>,
    accept_stale: bool,
    pub(crate) limit: usize,
}

impl Asked {
    /// The provider that was named.
    pub(crate) fn provider(&self) -> Option<&str> {
        match &self.strategy {
            Strategy::Pinned { provider, .. } => Some(provider),
            Strategy::Cheapest
            | Strategy::FirstMatch
            | Strategy::Preferred(_)
            | Strategy::LocalOnly
            | Strategy::Hybrid => None,
        }
    }

    /// The question for `market`; `relies` where a choice is made by the prices and they must not be too old.
    pub(crate) fn question<'a>(&'a self, market: &'a Market, relies: bool) -> Question<'a> {
        Question {
            demand: &self.demand,
            replicas: self.terms.replicas,
            spread: Spread::None,
            strategy: &self.strategy,
            max_hourly: if relies { self.most(market, self.terms.replicas) } else { self.max_hourly },
            configured: self.only.as_ref(),
            clusters: &[],
            usd_per_eur: market.usd_per_eur,
            today: today(),
            max_age_days: (relies && !self.accept_stale).then_some(market.max_age_days),
            reaches_ipv6: market.reaches_ipv6,
            unavailable: &[],
        }
    }
}

/// The names in a list with commas between them.
fn list(text: Option<&str>) -> Vec<String> {
    let names = text.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

impl Wanted {
    /// Reads every field.
    ///
    /// # Errors
    ///
    /// The first field that is wrong, by its name in queries.
    pub(crate) fn understand(self, market: &Market) -> Result<Asked, ApiError> {
        let mut spec = self.base()?;
        if let Some(millis) = decimal("cpu", self.cpu.as_deref())? {
            spec.cpu_millis = u32::try_from(millis.get().div_ceil(1000)).unwrap_or(u32::MAX);
            if !(10..=1_024_000).contains(&spec.cpu_millis) {
                let asked = self.cpu.as_deref().unwrap_or_default();
                return Err(ApiError::invalid(
                    format!("{asked} processors are asked for (cpu, --min-cpu)"),
                    "ask for 0.01 to 1024",
                ));
            }
        }
        if let Some(gib) = decimal("memory_gib", self.memory_gib.as_deref())? {
            spec.memory_bytes = gib.share(1 << 30, 1_000_000).get();
        }
        if let Some(gb) = self.disk_gb {
            spec.storage_bytes = u64::from(gb) * 1_000_000_000;
        }
        if self.gpu.is_some() || self.gpu_count.is_some() || self.min_vram_gib.is_some() {
            // What is not said stays what the specification says.
            let mut gpu = spec.gpu.take().unwrap_or(GpuSpec { count: 1, kind: None, min_vram_mib: 0 });
            gpu.kind = self.gpu.clone().or(gpu.kind).filter(|kind| kind != "any");
            gpu.count = self.gpu_count.unwrap_or(gpu.count);
            gpu.min_vram_mib = self.min_vram_gib.map_or(gpu.min_vram_mib, |gib| gib.saturating_mul(1024));
            spec.gpu = Some(gpu);
        }
        spec.region = self.region.clone().or(spec.region);
        spec.arch = self.arch.unwrap_or(spec.arch);
        spec.allow_spot |= self.spot;
        if spec.allow_spot && market.preferences.spot == Spot::Never {
            return Err(ApiError::invalid(
                "machines that the provider may take back are not ordered here",
                "leave spot out, or set provision.spot = \"asked\" in hub.toml and start the hub again",
            ));
        }
        spec.allow_burstable &= !self.no_burstable;
        spec.processors = self.processors.unwrap_or(spec.processors);
        spec.egress_gib_month = self.egress_gb.unwrap_or(spec.egress_gib_month);
        let layers = self.layers(&spec, market)?;
        let merged = layers::hold(&mut spec, &layers);
        spec.check().map_err(|error| ApiError::invalid(error.to_string(), HINT))?;
        let demand = if self.spec.is_some() { Demand::service(&spec) } else { Demand::machine(&spec) };
        let (regions, plans) = (list(self.regions.as_deref()), list(self.plans.as_deref()));
        let demand = Demand { regions, plans, within: layers.blueprint.region.clone(), ..demand };
        Ok(Asked {
            demand,
            strategy: merged.strategy.unwrap_or_default(),
            terms: self.terms()?,
            max_hourly: merged.max_hourly,
            layers,
            only: self.configured.then(|| market.configured.clone()),
            accept_stale: self.accept_stale,
            limit: self.limit.unwrap_or(20).min(1000),
            spec,
        })
    }

    /// What is asked before single fields are looked at.
    fn base(&self) -> Result<ResourceSpec, ApiError> {
        match (&self.spec, &self.preset) {
            (Some(_), Some(_)) => {
                Err(ApiError::invalid("both spec and preset are given", "give one of them"))
            }
            (Some(text), None) => {
                ResourceSpec::read(text).map_err(|error| ApiError::invalid(error.to_string(), HINT))
            }
            (None, Some(name)) => ResourceSpec::preset(name).ok_or_else(|| {
                let hint = format!("one of {}", ResourceSpec::PRESETS.join(", "));
                ApiError::invalid(format!("there is no preset {name:?}"), hint)
            }),
            // Whoever asks for nothing is shown everything.
            (None, None) => Ok(ResourceSpec {
                cpu_millis: 10,
                memory_bytes: 4 << 20,
                storage_bytes: 1 << 20,
                ..ResourceSpec::default()
            }),
        }
    }

    /// What is asked for in one line, the same for the same question.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How to choose, where anything is said of it.
    fn strategy(&self) -> Result<Option<Strategy>, ApiError> {
        let name = self.strategy.as_deref();
        if let Some(id) = &self.template {
            if name.is_some() || self.provider.is_some() {
                let hint = "a template names its provider and plan; leave the others out";
                return Err(ApiError::invalid("template is given with provider or strategy", hint));
            }
            let row = templates().iter().find(|row| row.id == id).ok_or_else(|| {
                ApiError::not_found(
                    format!("there is no template {id:?}"),
                    "`blueprint-hub templates` lists all 31",
                )
            })?;
            return Ok(Some(Strategy::Pinned {
                provider: row.provider.to_owned(),
                plan: row.plan.to_owned(),
            }));
        }
        if let Some(provider) = &self.provider {
            if name.is_some() {
                let hint = "leave one of them out; to prefer a provider, give strategy preferred:NAME";
                return Err(ApiError::invalid("both provider and strategy are given", hint));
            }
            let plan = self.plan.clone().unwrap_or_default();
            return Ok(Some(Strategy::Pinned { provider: provider.clone(), plan }));
        }
        if self.plan.is_some() {
            return Err(ApiError::invalid("plan is given without provider", "name the provider, too"));
        }
        name.map(named).transpose()
    }

    fn terms(&self) -> Result<Terms, ApiError> {
        let within = |field: &'static str, value: u32, most: u32| {
            let wrong =
                || ApiError::invalid(format!("{field} is {value}, and has to be from 1 to {most}"), HINT);
            if (1..=most).contains(&value) { Ok(value) } else { Err(wrong()) }
        };
        let percent = |field, text: Option<&str>| {
            let permille = decimal(field, text)?.map_or(0, |percent| percent.get().div_ceil(100_000));
            u32::try_from(permille).ok().filter(|permille| *permille <= 10_000).ok_or_else(|| {
                ApiError::invalid(
                    format!("{field} is more than 1000"),
                    "it is in percent of the machine's cost",
                )
            })
        };
        Ok(Terms {
            hours: within("hours", self.hours.unwrap_or(730), 100_000)?,
            replicas: within("replicas", self.replicas.unwrap_or(1), 10_000)?,
            markup_permille: percent("markup_percent", self.markup_percent.as_deref())?,
            priority_permille: percent("priority_percent", self.priority_percent.as_deref())?,
            sla_permille: percent("sla_percent", self.sla_percent.as_deref())?,
        })
    }
}

/// The strategy that people call so.
fn named(name: &str) -> Result<Strategy, ApiError> {
    Strategy::named(name).ok_or_else(|| {
        ApiError::invalid(
            format!("there is no strategy {name:?}"),
            "one of cheapest, first-match, local-only, hybrid, preferred:NAME,NAME",
        )
    })
}

/// A decimal number as millionths, without ever being a floating-point one.
fn decimal(field: &'static str, text: Option<&str>) -> Result<Option<Micros>, ApiError> {
    let Some(text) = text else {
        return Ok(None);
    };
    let wrong = |error: blueprint_common_types::ParseMicrosError| {
        ApiError::invalid(format!("{field}: {error}"), "write it with a point and no sign, such as 0.5")
    };
    text.parse().map(Some).map_err(wrong)
}
