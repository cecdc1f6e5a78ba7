//! Whose word counts: constraints of the blueprint, then wishes of the customer, then defaults of the operator.

use std::collections::BTreeMap;

use blueprint_common_types::Micros;
use serde::{Deserialize, Serialize};

use super::Strategy;
use crate::resource::ArchChoice;

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
    /// Whether machines may be taken back.
    pub allow_spot: Option<bool>,
    /// Most that an hour of one machine may cost, in US dollars.
    pub max_hourly: Option<Micros>,
    /// Most machines.
    pub max_instances: Option<u32>,
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
    /// The first that says something is heard; of limits the lowest, whoever set it.
    #[must_use]
    pub fn merge(&self) -> Merged {
        let mut origins = BTreeMap::new();
        let layer = Layer {
            strategy: self.first("strategy", &mut origins, |layer| layer.strategy.clone()),
            region: self.first("region", &mut origins, |layer| layer.region.clone()),
            arch: self.first("arch", &mut origins, |layer| layer.arch),
            // Nobody is given a machine that may be taken back against anybody's word.
            allow_spot: self.lowest("allow_spot", &mut origins, |layer| layer.allow_spot),
            max_hourly: self.lowest("max_hourly", &mut origins, |layer| layer.max_hourly),
            max_instances: self.lowest("max_instances", &mut origins, |layer| layer.max_instances),
        };
        Merged { layer, origins }
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
        assert_eq!(merged.layer.region.as_deref(), Some("eu"));
        assert_eq!(merged.layer.max_hourly, Some(Micros::new(100_000)));
        assert_eq!(merged.layer.allow_spot, Some(false));
        assert_eq!(merged.layer.strategy, Some(Strategy::FirstMatch));
        let origin = |name| merged.origins.get(name).copied();
        assert_eq!(origin("region"), Some(Origin::Blueprint));
        assert_eq!(origin("max_hourly"), Some(Origin::Operator));
        assert_eq!(origin("allow_spot"), Some(Origin::Operator));
        assert_eq!(origin("arch"), Some(Origin::Default));
    }
}
