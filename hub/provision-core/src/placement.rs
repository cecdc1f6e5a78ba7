//! Which machine to order: pure, told the day, and the same for the same inputs.
//!
//! Every offer passes the same checks in the same order (`survey`); what remains is ordered by the strategy, and the first few
//! make the failover plan (`shortlist`). What does not pass has one [`Reason`], and each provider tells how near it came.

mod demand;
mod layers;
mod reason;
mod shortlist;
mod survey;
mod total;
mod unavailable;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::Micros;
use serde::{Deserialize, Serialize};

use crate::Candidate;
use crate::catalogue::{Catalogue, Day, Offer, is_known_region};
use crate::cost::egress::EgressPrice;
use crate::lifecycle::Spread;

pub use demand::Demand;
pub use layers::{Layer, Layers, Merged, Origin};
pub use reason::Reason;
use shortlist::Shortlist;
use survey::{choice, survey};
pub use total::{HOURS_PER_MONTH, Total};
pub use unavailable::{Around, Unavailable, place_around};

/// Candidates of a failover plan.
pub const PLAN_LENGTH: usize = 8;

/// Replicas above which a cluster is taken where there is one.
pub const MACHINES_AT_MOST: u32 = 10;

/// How to choose among machines that fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The lowest price of an hour, all counted.
    #[default]
    Cheapest,
    /// By the class of the demand: GPUs at Google, then AWS; more than 8 processors at Vultr, DigitalOcean, then AWS; all
    /// else, and all other providers after these, by price.
    FirstMatch,
    /// These providers in this order, then the others; by price within each.
    Preferred(Vec<String>),
    /// This plan alone; any region of it where none is named.
    Pinned {
        /// Provider.
        provider: String,
        /// The provider's name of the plan; any where empty.
        #[serde(default)]
        plan: String,
    },
    /// No machine is ordered: a node that has joined has to do.
    LocalOnly,
    /// Machines by price, and a cluster when none can be had.
    Hybrid,
}

impl Strategy {
    /// The strategy of this name, as people write it: `cheapest`, `first-match`, `local-only`, `hybrid`, or
    /// `preferred:NAME,NAME`; `None` where there is none.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "cheapest" => Some(Self::Cheapest),
            "first-match" => Some(Self::FirstMatch),
            "local-only" => Some(Self::LocalOnly),
            "hybrid" => Some(Self::Hybrid),
            other => {
                let list = other.strip_prefix("preferred:").filter(|list| !list.is_empty())?;
                Some(Self::Preferred(list.split(',').map(|name| name.trim().to_owned()).collect()))
            }
        }
    }
}

/// Where a deployment goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// On machines that are ordered.
    Machines,
    /// On nodes that have joined.
    Local,
    /// In a cluster, by its name.
    Kubernetes(String),
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// What the machine has to have.
    pub demand: &'a Demand,
    /// How many of them.
    pub replicas: u32,
    /// Over what they are to be spread: each place has its part of the plan.
    pub spread: Spread,
    /// How to choose.
    pub strategy: &'a Strategy,
    /// Most that an hour of one may cost, all counted.
    pub max_hourly: Option<Micros>,
    /// Providers that can be ordered of; all that exist where `None`.
    pub configured: Option<&'a BTreeSet<String>>,
    /// Clusters that can be used, the first one first.
    pub clusters: &'a [String],
    /// US dollars for a euro; offers in euro are left out without.
    pub usd_per_eur: Option<Micros>,
    /// Today.
    pub today: Day,
    /// Days after which a price that was not asked for is not relied on; nor is then one that only the specification
    /// states, unless its provider is named. `None` to rely on every one.
    pub max_age_days: Option<u32>,
    /// Whether agents reach this hub over IPv6.
    pub reaches_ipv6: bool,
    /// What cannot be had just now.
    pub unavailable: &'a [Unavailable],
}

/// A machine that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Which.
    pub offer: &'a Offer,
    /// Whether it is one that the provider may take back.
    pub spot: bool,
    /// GB of disk that last, as they are priced: the plan's own, or what is bought beside it.
    pub disk_gb: u32,
    /// What it costs.
    pub total: Total,
    /// What sending costs; `None` where that is not known of its provider.
    pub egress: Option<EgressPrice>,
}

impl Choice<'_> {
    /// What placement and order share.
    #[must_use]
    pub fn candidate(&self) -> Candidate {
        Candidate {
            provider: self.offer.provider.to_string(),
            plan: self.offer.plan.to_string(),
            region: self.offer.region.to_string(),
            spot: self.spot,
            disk_gb: self.disk_gb,
            arch: self.offer.arch,
            hourly: self.total.hourly(),
            stopped_hourly: self.total.stopped(&self.offer.provider),
            egress: self.egress,
        }
    }
}

/// What is known of one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Its best machine, and how many fit.
    Fits {
        /// The best.
        best: Choice<'a>,
        /// How many fit, regions counted apart.
        count: usize,
    },
    /// None fits; this one came nearest.
    Nearest {
        /// Which.
        offer: &'a Offer,
        /// What it fails by.
        reason: Reason,
    },
    /// It has nothing to offer at all.
    Closed {
        /// Why.
        reason: Reason,
    },
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Placement<'a> {
    /// Where to.
    pub target: Target,
    /// Machines to try, in this order; empty where none is ordered, or none fits.
    pub plan: Vec<Choice<'a>>,
    /// What each provider has, by name.
    pub verdicts: BTreeMap<&'a str, Verdict<'a>>,
}

/// Nothing can be ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFit {
    /// No machine fits.
    #[error("no machine fits: {nearest}")]
    Machine {
        /// What came nearest and by what it fails.
        nearest: String,
        /// By what that fails, as [`Reason::code`] names it; `None` where nothing came near.
        code: Option<&'static str>,
    },
    /// Nobody knows the place that was asked for.
    #[error(
        "no provider has a region called {wanted:?}; a provider's region, an area (us-east), a country (de) or a continent (eu) was expected"
    )]
    Region {
        /// What was asked for.
        wanted: String,
    },
}

/// Answers `question` from `catalogue`.
///
/// # Errors
///
/// [`NoFit`] where nothing fits and no cluster may take its place; it says what came nearest.
pub fn place<'a>(catalogue: &'a Catalogue, question: &Question<'_>) -> Result<Placement<'a>, NoFit> {
    let cluster = question.clusters.first();
    if *question.strategy == Strategy::LocalOnly {
        return Ok(Placement { target: Target::Local, plan: Vec::new(), verdicts: BTreeMap::new() });
    }
    if question.replicas > MACHINES_AT_MOST
        && let Some(cluster) = cluster
    {
        let target = Target::Kubernetes(cluster.clone());
        return Ok(Placement { target, plan: Vec::new(), verdicts: BTreeMap::new() });
    }
    let regions = catalogue.directory().regions();
    let is_known =
        |wanted: &String| is_known_region(wanted) || regions.iter().any(|region| *region.name == **wanted);
    let places = [&question.demand.region, &question.demand.within];
    if let Some(wanted) = places.into_iter().flatten().find(|wanted| !is_known(wanted)) {
        return Err(NoFit::Region { wanted: wanted.clone() });
    }
    let mut shortlist = Shortlist::of(question, regions);
    let verdicts = survey(catalogue, question, |seller, fit| shortlist.put(seller, fit));
    let plan: Vec<_> =
        shortlist.plan().into_iter().filter_map(|fit| choice(catalogue, question, fit)).collect();
    if !plan.is_empty() {
        return Ok(Placement { target: Target::Machines, plan, verdicts });
    }
    match cluster {
        Some(cluster) if *question.strategy == Strategy::Hybrid => {
            Ok(Placement { target: Target::Kubernetes(cluster.clone()), plan, verdicts })
        }
        Some(_) | None => {
            let (nearest, code) = reason::nearest(&verdicts);
            Err(NoFit::Machine { nearest, code })
        }
    }
}

/// Every machine that fits, in the order of the catalogue, and each provider's verdict.
pub fn examine<'a>(
    catalogue: &'a Catalogue,
    question: &Question<'_>,
) -> (Vec<Choice<'a>>, BTreeMap<&'a str, Verdict<'a>>) {
    let mut fits = Vec::new();
    let verdicts = survey(catalogue, question, |_, fit| fits.extend(choice(catalogue, question, fit)));
    (fits, verdicts)
}
