//! A policy applied to the machines of one moment.

use std::collections::BTreeSet;

use blueprint_common_types::{AgentId, WgPublicKey};
use serde::Serialize;

use super::document::{Grant, PolicyDocument, PolicyTest, Selector};
use super::machines::{MachineSet, Machines};
use super::traffic::Traffic;
use super::{MAX_CHECKS, MAX_RULES};

/// Pairs of machines that one answer lists.
const MAX_LISTED: usize = 100;

/// Why a document that is right in itself cannot be used with these machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeshRefusal {
    /// Its grants would make too many rules.
    #[error(
        "the grants make {0} rules of one machine, another and one kind of traffic; at most {MAX_RULES} are allowed"
    )]
    TooManyRules(u64),
    /// Its tests would look at too many pairs.
    #[error("the tests look at {0} pairs of machines; at most {MAX_CHECKS} are allowed")]
    TooManyChecks(u64),
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// No joined machine is meant.
    #[error("no machine is called {0:?}")]
    Unknown(String),
    /// The two ends are the same machine.
    #[error("{from:?} and {to:?} name no two different machines")]
    NoPair {
        /// Who begins.
        from: String,
        /// Whom it tries to reach.
        to: String,
    },
    /// The question is too large.
    #[error("the question is about {0} pairs of machines; at most {MAX_CHECKS} are allowed")]
    TooManyPairs(u64),
}

/// What the policy says of one kind of traffic between two machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// Who begins.
    pub from: AgentId,
    /// Its name.
    pub from_name: String,
    /// Whom it tries to reach.
    pub to: AgentId,
    /// Its name.
    pub to_name: String,
    /// Whether all of the traffic passes.
    pub allowed: bool,
    /// Names of the grants that let it pass, or a part of it.
    pub by: Vec<String>,
}

/// What the policy says of one kind of traffic between all the machines named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether it passes between every pair.
    pub allowed: bool,
    /// How many pairs there are.
    pub pairs: u64,
    /// The first 100 pairs, denied ones before all others.
    pub decisions: Vec<Decision>,
}

/// A document and the machines that it is applied to.
#[derive(Debug)]
pub struct Mesh<'d> {
    pub(super) document: &'d PolicyDocument,
    pub(super) machines: &'d Machines,
    grants: Vec<Resolved<'d>>,
    warnings: Vec<String>,
}

/// A grant and the machines that it names.
#[derive(Debug)]
pub(super) struct Resolved<'d> {
    grant: &'d Grant,
    from: MachineSet,
    to: MachineSet,
}

impl<'d> Mesh<'d> {
    /// Finds the machines of every grant.
    #[must_use]
    pub fn new(document: &'d PolicyDocument, machines: &'d Machines) -> Self {
        let mut warnings = Vec::new();
        let grants = document.grants.iter().map(|grant| {
            let mut unknown = BTreeSet::new();
            let mut resolve = |selectors: &'d [Selector]| {
                let mut set = MachineSet::default();
                let selectors: BTreeSet<_> = selectors.iter().collect();
                unknown.extend(selectors.into_iter().filter(|selector| !machines.select(selector, &mut set)));
                set
            };
            let (from, to) = (resolve(&grant.from), resolve(&grant.to));
            warnings.extend(unknown.iter().map(|selector| {
                format!("grant {:?}: no machine is called {:?} yet", grant.name, selector.to_string())
            }));
            Resolved { grant, from, to }
        });
        let grants = grants.collect();
        Self { document, machines, grants, warnings }
    }

    /// One line for each machine that a grant names and that has not joined.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// How many rules the grants make.
    #[must_use]
    pub fn rules(&self) -> u64 {
        self.rules_below(self.machines.len())
    }

    /// Checks the bounds that depend on the machines.
    ///
    /// # Errors
    ///
    /// Says which bound is passed, and by how much.
    pub fn check(&self) -> Result<(), MeshRefusal> {
        let rules = self.rules();
        if rules > MAX_RULES {
            return Err(MeshRefusal::TooManyRules(rules));
        }
        let sessions = self.document.session_tests.iter().map(|test| self.session_checks(test));
        let checks = self.document.tests.iter().map(|test| self.checks(test)).chain(sessions);
        let checks = checks.fold(0u64, u64::saturating_add);
        if checks > MAX_CHECKS { Err(MeshRefusal::TooManyChecks(checks)) } else { Ok(()) }
    }

    /// How many machines, in the order of joining, fit within [`MAX_RULES`]: all of them, unless too many
    /// joined after the policy was checked.
    #[must_use]
    pub fn fitting(&self) -> usize {
        if self.rules() <= MAX_RULES {
            return self.machines.len();
        }
        let (mut fits, mut too_many) = (0usize, self.machines.len());
        while fits.saturating_add(1) < too_many {
            let middle = fits.midpoint(too_many);
            if self.rules_below(middle) <= MAX_RULES { fits = middle } else { too_many = middle }
        }
        fits
    }

    /// Tells every grant with the machines that fit, its sources first, and gives the number of machines.
    pub fn each_grant(
        &self,
        mut tell: impl FnMut(BTreeSet<WgPublicKey>, BTreeSet<WgPublicKey>, &[Traffic]),
    ) -> usize {
        let end = self.fitting();
        let keys = |set: &MachineSet| {
            set.below(end).filter_map(|at| self.machines.at(at)).map(|machine| machine.key).collect()
        };
        for resolved in &self.grants {
            tell(keys(&resolved.from), keys(&resolved.to), &resolved.grant.allow);
        }
        end
    }

    /// Answers whether traffic passes from machines to machines.
    ///
    /// # Errors
    ///
    /// Where no pair of machines is meant, or too many.
    pub fn ask(&self, from: &Selector, to: &Selector, traffic: Traffic) -> Result<Answer, AskError> {
        let (sources, destinations) = (self.named(from)?, self.named(to)?);
        let pairs = sources.pairs(&destinations, usize::MAX);
        match pairs {
            0 => return Err(AskError::NoPair { from: from.to_string(), to: to.to_string() }),
            pairs if pairs > MAX_CHECKS => return Err(AskError::TooManyPairs(pairs)),
            _ => {}
        }
        let touching = self.touching(traffic);
        let (mut denied, mut allowed) = (Vec::new(), Vec::new());
        for (from, to) in Self::pairs(&sources, &destinations) {
            let Some(decision) = self.decide(&touching, (from, to), traffic) else { continue };
            let list = if decision.allowed { &mut allowed } else { &mut denied };
            if list.len() < MAX_LISTED {
                list.push(decision);
            }
        }
        let is_allowed = denied.is_empty();
        denied.append(&mut allowed);
        denied.truncate(MAX_LISTED);
        Ok(Answer { allowed: is_allowed, pairs, decisions: denied })
    }

    /// The machines that `selector` names.
    pub(super) fn named(&self, selector: &Selector) -> Result<MachineSet, AskError> {
        let mut set = MachineSet::default();
        if self.machines.select(selector, &mut set) {
            Ok(set)
        } else {
            Err(AskError::Unknown(selector.to_string()))
        }
    }

    /// The grants that let some of `traffic` pass.
    pub(super) fn touching(&self, traffic: Traffic) -> Vec<&Resolved<'d>> {
        let touches =
            |resolved: &&Resolved<'_>| resolved.grant.allow.iter().any(|kind| kind.overlaps(&traffic));
        self.grants.iter().filter(touches).collect()
    }

    /// Ordered pairs of two different machines.
    pub(super) fn pairs<'s>(
        from: &'s MachineSet,
        to: &'s MachineSet,
    ) -> impl Iterator<Item = (usize, usize)> + 's {
        from.iter().flat_map(|from| to.iter().filter(move |to| *to != from).map(move |to| (from, to)))
    }

    /// What the policy says of one pair, by the grants that [`Self::touching`] found.
    pub(super) fn decide(
        &self,
        touching: &[&Resolved<'d>],
        (from, to): (usize, usize),
        traffic: Traffic,
    ) -> Option<Decision> {
        let holds = |resolved: &&&Resolved<'_>| resolved.from.contains(from) && resolved.to.contains(to);
        let grants: Vec<&Grant> = touching.iter().filter(holds).map(|resolved| resolved.grant).collect();
        let kinds: Vec<Traffic> = grants.iter().flat_map(|grant| grant.allow.iter().copied()).collect();
        let (source, destination) = (self.machines.at(from)?, self.machines.at(to)?);
        Some(Decision {
            from: source.id,
            from_name: source.name.clone(),
            to: destination.id,
            to_name: destination.name.clone(),
            allowed: traffic.is_covered_by(&kinds),
            by: grants.iter().map(|grant| grant.name.clone()).collect(),
        })
    }

    /// How many pairs a test looks at, counted once for each of its kinds of traffic.
    fn checks(&self, test: &PolicyTest) -> u64 {
        let (Ok(from), Ok(to)) = (self.named(&test.from), self.named(&test.to)) else { return 0 };
        let kinds = u64::try_from(test.allow.len().saturating_add(test.deny.len())).unwrap_or(u64::MAX);
        from.pairs(&to, usize::MAX).saturating_mul(kinds)
    }

    fn rules_below(&self, end: usize) -> u64 {
        let rules = |resolved: &Resolved<'_>| {
            let kinds = u64::try_from(resolved.grant.allow.len()).unwrap_or(u64::MAX);
            resolved.from.pairs(&resolved.to, end).saturating_mul(kinds)
        };
        self.grants.iter().map(rules).fold(0, u64::saturating_add)
    }
}
