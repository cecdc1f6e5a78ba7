//! Whose word counts: constraints of the blueprint, then wishes of the customer, then defaults of the operator.

use std::collections::BTreeMap;

use blueprint_common_types::Micros;
use serde::{Deserialize, Serialize};

use super::Strategy;
use crate::resource::{ArchChoice, GpuSpec, Processors, ResourceSpec};

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The blueprint: what it cannot run without.
    Blueprint,
    /// The customer who asked for the service.
    Customer,
    /// The operator of the hub.
    Operator,
    /// Nobody: what the hub does by itself.
    Default,
}

/// What one of them says; what is absent is left to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Layer {
    /// How to choose.
    pub strategy: Option<Strategy>,
    /// Region, area, country or continent.
    pub region: Option<String>,
    /// Processors that will do.
    pub arch: Option<ArchChoice>,
    /// How shared processors are counted.
    pub processors: Option<Processors>,
    /// Whether machines may be taken back.
    pub allow_spot: Option<bool>,
    /// Most that an hour of one machine may cost, in US dollars.
    pub max_hourly: Option<Micros>,
    /// Most machines.
    pub max_instances: Option<u32>,
    /// Processors at least, in thousandths.
    pub cpu_millis: Option<u32>,
    /// Bytes of memory at least.
    pub memory_bytes: Option<u64>,
    /// Bytes of disk at least.
    pub storage_bytes: Option<u64>,
    /// GPUs at least.
    pub gpu: Option<GpuSpec>,
}

impl Layer {
    /// The same with the sizes of `spec` as the least that will do.
    #[must_use]
    pub fn needing(mut self, spec: &ResourceSpec) -> Self {
        self.cpu_millis = Some(spec.cpu_millis);
        self.memory_bytes = Some(spec.memory_bytes);
        self.storage_bytes = Some(spec.storage_bytes);
        self.gpu.clone_from(&spec.gpu);
        self
    }
}

/// All three.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// What the blueprint cannot run without.
    pub blueprint: Layer,
    /// What the customer wishes.
    pub customer: Layer,
    /// What the operator has set.
    pub operator: Layer,
}

/// What holds in the end, and who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// The values; absent where nobody said anything.
    pub layer: Layer,
    /// Whose word each value is, by name of the field.
    pub origins: BTreeMap<&'static str, Origin>,
}

impl Layers {
    /// The first that says something is heard; of limits the lowest and of sizes the highest, whoever set it.
    ///
    /// A place and a plan that the customer names are no wishes that another word replaces: a named plan is ordered or none, and
    /// where the blueprint names a place, too, both hold ([`Demand::within`](super::Demand::within)).
    #[must_use]
    pub fn merge(&self) -> Merged {
        let mut origins = BTreeMap::new();
        let layer = Layer {
            strategy: self.strategy(&mut origins),
            region: self.region(&mut origins),
            arch: self.first("arch", &mut origins, |layer| layer.arch),
            // Nobody is given less of a processor than anybody wants.
            processors: self.highest("processors", &mut origins, |layer| layer.processors),
            // Nobody is given a machine that may be taken back against anybody's word.
            allow_spot: self.lowest("allow_spot", &mut origins, |layer| layer.allow_spot),
            max_hourly: self.lowest("max_hourly", &mut origins, |layer| layer.max_hourly),
            max_instances: self.lowest("max_instances", &mut origins, |layer| layer.max_instances),
            cpu_millis: self.highest("cpu_millis", &mut origins, |layer| layer.cpu_millis),
            memory_bytes: self.highest("memory_bytes", &mut origins, |layer| layer.memory_bytes),
            storage_bytes: self.highest("storage_bytes", &mut origins, |layer| layer.storage_bytes),
            gpu: self.gpus(&mut origins),
        };
        Merged { layer, origins }
    }

    fn strategy(&self, origins: &mut BTreeMap<&'static str, Origin>) -> Option<Strategy> {
        let first = self.first("strategy", origins, |layer| layer.strategy.clone());
        let pin =
            self.customer.strategy.clone().filter(|strategy| matches!(strategy, Strategy::Pinned { .. }));
        if pin.is_some() {
            origins.insert("strategy", Origin::Customer);
        }
        pin.or(first)
    }

    fn region(&self, origins: &mut BTreeMap<&'static str, Origin>) -> Option<String> {
        let first = self.first("region", origins, |layer| layer.region.clone());
        if self.customer.region.is_some() {
            origins.insert("region", Origin::Customer);
        }
        self.customer.region.clone().or(first)
    }

    fn all(&self) -> [(Origin, &Layer); 3] {
        [
            (Origin::Blueprint, &self.blueprint),
            (Origin::Customer, &self.customer),
            (Origin::Operator, &self.operator),
        ]
    }

    fn first<T>(
        &self,
        name: &'static str,
        origins: &mut BTreeMap<&'static str, Origin>,
        field: impl Fn(&Layer) -> Option<T>,
    ) -> Option<T> {
        let said = self.all().into_iter().find_map(|(origin, layer)| Some((origin, field(layer)?)));
        origins.insert(name, said.as_ref().map_or(Origin::Default, |(origin, _)| *origin));
        said.map(|(_, value)| value)
    }

    fn lowest<T: Ord>(
        &self,
        name: &'static str,
        origins: &mut BTreeMap<&'static str, Origin>,
        field: impl Fn(&Layer) -> Option<T>,
    ) -> Option<T> {
        let said = self.all().into_iter().filter_map(|(origin, layer)| Some((field(layer)?, origin))).min();
        origins.insert(name, said.as_ref().map_or(Origin::Default, |(_, origin)| *origin));
        said.map(|(value, _)| value)
    }

    fn highest<T: Ord>(
        &self,
        name: &'static str,
        origins: &mut BTreeMap<&'static str, Origin>,
        field: impl Fn(&Layer) -> Option<T>,
    ) -> Option<T> {
        // Of equal ones the first that said it.
        let said = self.all().into_iter().rev();
        let said =
            said.filter_map(|(origin, layer)| Some((field(layer)?, origin))).max_by(|a, b| a.0.cmp(&b.0));
        origins.insert(name, said.as_ref().map_or(Origin::Default, |(_, origin)| *origin));
        said.map(|(value, _)| value)
    }

    /// As many, and each with as much memory, as any of them needs, of the kind that the first one names.
    fn gpus(&self, origins: &mut BTreeMap<&'static str, Origin>) -> Option<GpuSpec> {
        let first = self.first("gpu", origins, |layer| layer.gpu.clone())?;
        let said = || self.all().into_iter().filter_map(|(_, layer)| layer.gpu.as_ref());
        Some(GpuSpec {
            count: said().map(|gpu| gpu.count).max().unwrap_or(first.count),
            min_vram_mib: said().map(|gpu| gpu.min_vram_mib).max().unwrap_or(first.min_vram_mib),
            kind: said().find_map(|gpu| gpu.kind.clone()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blueprint_is_heard_first_and_the_lowest_limit_holds() {
        let layers = Layers {
            blueprint: Layer { region: Some("eu".to_owned()), ..Layer::default() },
            customer: Layer {
                region: Some("us".to_owned()),
                max_hourly: Some(Micros::new(300_000)),
                allow_spot: Some(true),
                ..Layer::default()
            },
            operator: Layer {
                max_hourly: Some(Micros::new(100_000)),
                allow_spot: Some(false),
                strategy: Some(Strategy::FirstMatch),
                ..Layer::default()
            },
        };
        let merged = layers.merge();
        assert_eq!(merged.layer.region.as_deref(), Some("us"), "the blueprint's place holds beside it");
        assert_eq!(merged.layer.max_hourly, Some(Micros::new(100_000)));
        assert_eq!(merged.layer.allow_spot, Some(false));
        assert_eq!(merged.layer.strategy, Some(Strategy::FirstMatch));
        let origin = |name| merged.origins.get(name).copied();
        assert_eq!(origin("region"), Some(Origin::Customer));
        assert_eq!(origin("max_hourly"), Some(Origin::Operator));
        assert_eq!(origin("allow_spot"), Some(Origin::Operator));
        assert_eq!(origin("arch"), Some(Origin::Default));
    }

    #[test]
    fn a_plan_that_was_named_is_ordered_or_none() {
        let pin = Strategy::Pinned { provider: "hivelocity".to_owned(), plan: String::new() };
        let say = |strategy| Layer { strategy: Some(strategy), ..Layer::default() };
        let mut layers = Layers {
            blueprint: say(Strategy::Cheapest),
            customer: say(pin.clone()),
            operator: say(Strategy::FirstMatch),
        };
        assert_eq!(layers.merge().layer.strategy, Some(pin));
        layers.customer = say(Strategy::Hybrid);
        let merged = layers.merge();
        assert_eq!(merged.layer.strategy, Some(Strategy::Cheapest));
        assert_eq!(merged.origins.get("strategy"), Some(&Origin::Blueprint));
    }

    #[test]
    fn what_the_blueprint_needs_is_never_made_smaller() {
        let gpu = |count, kind: Option<&str>, min_vram_mib| {
            Some(GpuSpec { count, kind: kind.map(ToOwned::to_owned), min_vram_mib })
        };
        let layers = Layers {
            blueprint: Layer {
                cpu_millis: Some(4000),
                memory_bytes: Some(1 << 30),
                gpu: gpu(4, None, 80 * 1024),
                ..Layer::default()
            },
            customer: Layer {
                cpu_millis: Some(1000),
                memory_bytes: Some(8 << 30),
                gpu: gpu(1, Some("a100"), 0),
                ..Layer::default()
            },
            operator: Layer::default(),
        };
        let merged = layers.merge();
        assert_eq!((merged.layer.cpu_millis, merged.layer.memory_bytes), (Some(4000), Some(8 << 30)));
        assert_eq!(merged.layer.gpu, gpu(4, Some("a100"), 80 * 1024));
        assert_eq!(merged.layer.storage_bytes, None);
        let origin = |name| merged.origins.get(name).copied();
        assert_eq!(origin("cpu_millis"), Some(Origin::Blueprint));
        assert_eq!(origin("memory_bytes"), Some(Origin::Customer));
    }
}
