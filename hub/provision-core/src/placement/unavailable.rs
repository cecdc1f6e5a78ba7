//! What cannot be had just now, and plans that go around it.

use std::cmp::Reverse;
use std::fmt;

use blueprint_common_types::Timestamp;

use super::{Choice, NoFit, Placement, Question, Target, place};
use crate::catalogue::{Catalogue, Offer, is_one_machine};
use crate::{Candidate, ErrorClass};

/// Machines that cannot be had just now, since an order of them failed a while ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// Provider.
    pub provider: String,
    /// Region; all where `None`.
    pub region: Option<String>,
    /// Plan; all where `None`.
    pub plan: Option<String>,
    /// Those that may be taken back, or those that may not; both where `None`.
    pub spot: Option<bool>,
    /// How the order failed.
    pub class: ErrorClass,
    /// When one is ordered again at the earliest.
    pub until: Timestamp,
}

impl Unavailable {
    pub(super) fn names(&self, offer: &Offer, spot: bool) -> bool {
        self.provider == *offer.provider
            && self.region.as_deref().is_none_or(|region| region == &*offer.region)
            && self.plan.as_deref().is_none_or(|plan| plan == &*offer.plan)
            && self.spot.is_none_or(|known| known == spot)
    }

    /// What is known of this offer; of several what holds longest, and of those the first.
    pub(super) fn of<'k>(
        known: impl IntoIterator<Item = &'k Self>,
        offer: &Offer,
        spot: bool,
    ) -> Option<&'k Self> {
        known.into_iter().filter(|known| known.names(offer, spot)).min_by_key(|known| Reverse(known.until))
    }

    /// What was wrong, as people say it.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        why(self.class)
    }
}

/// What a failure of this class says of an offer.
const fn why(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::Throttle | ErrorClass::Again => "calls for it failed again and again",
        ErrorClass::Deny => "the account was refused",
        ErrorClass::Reject => "its provider refused the order",
        ErrorClass::Quota => "the quota of the account was used up",
        ErrorClass::NoQuota => "the account has no quota for it",
        ErrorClass::Capacity => "there was no capacity, or its machine never joined",
        ErrorClass::NotSold => "it was not sold there",
        ErrorClass::Unknown => "orders of it were not answered",
    }
}

/// Writes why an offer cannot be had, and until when.
pub(super) fn write(f: &mut fmt::Formatter<'_>, class: ErrorClass, until: Timestamp) -> fmt::Result {
    write!(f, "cannot be had: {}; it is ordered again from {until}", why(class))
}

/// A plan that goes around what cannot be had just now.
#[derive(Debug, Clone)]
pub struct Around<'a> {
    /// The answer. Its plan begins with what can be had.
    pub placement: Placement<'a>,
    /// Machines that were in the plan if they could be had, best first, and what is known of them.
    pub passed: Vec<(Choice<'a>, Unavailable)>,
    /// When the first of the plan may be ordered, where none can be had now; `None` where one can.
    pub waits_until: Option<Timestamp>,
}

/// Answers `question` from `catalogue` without what cannot be had just now. Where too little is left then - nothing at all, fewer
/// machines that are there once than replicas, or a single place for what is to be spread - the plan has the others behind.
///
/// # Errors
///
/// [`NoFit`] where nothing fits, whether it can be had now or not.
pub fn place_around<'a>(catalogue: &'a Catalogue, question: &Question<'_>) -> Result<Around<'a>, NoFit> {
    let mut whole = place(catalogue, &Question { unavailable: &[], ..question.clone() })?;
    if question.unavailable.is_empty() {
        return Ok(Around { placement: whole, passed: Vec::new(), waits_until: None });
    }
    let known = |choice: &Choice<'_>| Unavailable::of(question.unavailable, choice.offer, choice.spot);
    let passed: Vec<_> =
        whole.plan.iter().filter_map(|choice| Some((choice.clone(), known(choice)?.clone()))).collect();
    if let Some(placement) = place(catalogue, question).ok().filter(|left| is_enough(left, &whole, question))
    {
        return Ok(Around { placement, passed, waits_until: None });
    }
    whole.plan.sort_by_key(|choice| known(choice).is_some());
    let is_waiting = passed.len() == whole.plan.len();
    let first = passed.iter().map(|(_, known)| known.until).min();
    Ok(Around { placement: whole, waits_until: first.filter(|_| is_waiting), passed })
}

/// Whether `left` serves as well as `whole`: as many machines of those that are there once, and places to spread over.
fn is_enough(left: &Placement<'_>, whole: &Placement<'_>, question: &Question<'_>) -> bool {
    if left.target != Target::Machines {
        return true;
    }
    let replicas = usize::try_from(question.replicas).unwrap_or(usize::MAX);
    let machines = |plan: &[Candidate]| {
        let is_once = plan.iter().all(|offer| is_one_machine(&offer.provider));
        if is_once { plan.len().min(replicas) } else { replicas }
    };
    let places = |plan: &[Candidate]| question.spread.places(plan, question.replicas).min(2);
    let [left, whole] = [left, whole].map(|it| it.plan.iter().map(Choice::candidate).collect::<Vec<_>>());
    machines(&left) >= machines(&whole) && places(&left) >= places(&whole)
}
