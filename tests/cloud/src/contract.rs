//! What every provider is held to.

mod faults;
mod machines;
mod order;
mod witness;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use blueprint_hub_provision_core::{InstanceSpec, Provider};

pub use order::{join_document, order};

use crate::FakeCloud;
use witness::{Log, Watched};

/// Promises that a provider is not held to, and why they mean nothing for it.
#[derive(Debug, Clone, Copy)]
pub struct LeftOut {
    /// Their names.
    pub promises: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

/// A provider in an empty account, for one promise.
pub trait Lab {
    /// The provider.
    fn provider(&self) -> &dyn Provider;

    /// A right order; orders with other numbers have other keys.
    fn order(&self, number: u32) -> InstanceSpec;

    /// Orders that are to be refused without anything being made.
    fn wrong_orders(&self) -> Vec<InstanceSpec>;

    /// A name of no machine, of the right kind.
    fn absent(&self) -> String;

    /// What the provider calls the machine with this number.
    fn name_of(&self, id: u64) -> String {
        id.to_string()
    }

    /// Texts that no error and no line of the log may hold.
    fn secrets(&self) -> Vec<String>;

    /// The cloud behind it, where it is a fake one; without it [`OF_FAKES`] cannot be tried, and [`Self::left_out`] names them.
    fn fake(&self) -> Option<&FakeCloud>;

    /// What it is not held to. A promise that is left out without standing here is one that does not hold.
    fn left_out(&self) -> &'static [LeftOut] {
        &[]
    }

    /// Whether its lists come in pages.
    fn has_pages(&self) -> bool {
        true
    }

    /// What an error over wrong credentials says, among other things: what a person has to do.
    fn remedy(&self) -> &'static str {
        "provider configure"
    }

    /// The unit of the moments at which a creation is given up: the eighth and last is 64 of them after its begin.
    fn moment(&self) -> Duration {
        Duration::from_micros(300)
    }

    /// How long a request that nobody waits for any more may still have an effect.
    fn settled_after(&self) -> Duration {
        Duration::from_millis(20)
    }

    /// Takes the cloud away, so that nothing listens where it was.
    fn shut(&mut self) -> impl Future<Output = ()>;
}

/// One run of the suite.
struct Run {
    log: Log,
    /// Names of promises with the reasons why they are left out.
    left_out: BTreeMap<&'static str, &'static str>,
    failures: Vec<String>,
}

impl Run {
    fn new(log: Log, lab: &impl Lab) -> Self {
        let names = |group: &'static LeftOut| group.promises.iter().map(|name| (*name, group.reason));
        let left_out: BTreeMap<_, _> = lab.left_out().iter().flat_map(names).collect();
        let mut failures = Vec::new();
        let is_one = |name: &str| OF_ALL.contains(&name) || OF_FAKES.contains(&name) || name == OF_SHUT_FAKES;
        for name in left_out.keys().filter(|name| !is_one(name)) {
            failures.push(format!("{name}: is left out, and there is no such promise"));
        }
        Self { log, left_out, failures }
    }

    /// Whether a promise is tried; where not, why is told.
    #[expect(clippy::print_stderr, reason = "what is left out is told to the person who runs the tests")]
    fn tries(&self, promise: &str) -> bool {
        let reason = self.left_out.get(promise);
        if let Some(reason) = reason {
            eprintln!("   left out: {promise}: {reason}");
        }
        reason.is_none()
    }

    fn note(&mut self, promise: &str, held: Result<()>, watched: &Watched<'_>) {
        if let Err(error) = held {
            self.failures.push(format!("{promise}: {error:#}"));
        }
        if let Some(text) = watched.leak() {
            self.failures.push(format!("{promise}: a secret is told: {text}"));
        }
    }
}

/// Promises by name, and what runs each in a lab of its own.
macro_rules! promises {
    ($(#[$about:meta])* $names:ident, $hold:ident, $module:ident, [$($promise:ident),+ $(,)?]) => {
        $(#[$about])*
        pub const $names: &[&str] = &[$(stringify!($promise)),+];

        async fn $hold<L: Lab>(make: &impl AsyncFn() -> L, run: &mut Run) {
            $(
                if run.tries(stringify!($promise)) {
                    let lab = make().await;
                    let log = run.log.clone();
                    let watched = Watched::new(&lab, &log);
                    let held = Box::pin($module::$promise(&watched)).await;
                    run.note(stringify!($promise), held, &watched);
                }
            )+
        }
    };
}

promises!(
    /// What is promised of every cloud.
    OF_ALL,
    hold_in_a_cloud_that_works,
    machines,
    [
        an_empty_account_lists_nothing,
        the_clock_of_the_cloud_is_told,
        a_machine_is_made_listed_and_deleted,
        the_same_order_makes_one_machine,
        another_call_for_an_order_tells_the_tags_that_are,
        deleting_what_is_not_there_succeeds,
        a_machine_is_switched_off_and_on,
        what_is_not_there_cannot_be_switched,
        wrong_orders_are_refused_and_make_nothing,
        offers_are_sorted_and_have_prices,
        a_dropped_creation_is_listed_or_was_never_made,
    ]
);

promises!(
    /// What can be tried only where a fake cloud misbehaves when it is told to.
    OF_FAKES,
    hold_in_a_cloud_that_misbehaves,
    faults,
    [
        strangers_are_not_touched,
        a_long_list_comes_whole,
        half_a_list_is_an_error,
        a_list_that_changes_is_whole_or_an_error,
        a_late_list_is_no_error,
        a_machine_made_behind_an_error_is_found,
        a_lost_answer_is_unknown_and_its_machine_is_found,
        a_machine_made_twice_is_listed_twice,
        refusals_have_their_class_and_make_nothing,
        a_pause_is_told_in_every_dialect,
        a_pause_is_right_with_a_wrong_clock,
        nonsense_is_an_error,
        a_slow_answer_is_given_up,
        nothing_is_tried_twice,
        what_fails_before_an_order_says_that_nothing_was_ordered,
        wrong_credentials_are_told,
        absurd_prices_are_not_offered,
    ]
);

/// The same for a fake cloud that nobody listens for any more.
pub const OF_SHUT_FAKES: &str = "without_a_cloud_nothing_was_done";

/// Holds a provider to every promise. `make` gives a new lab with an empty account each time.
///
/// # Panics
///
/// Where a promise does not hold, or cannot be tried and is not left out by name; it names all of those.
pub async fn run<L: Lab>(make: impl AsyncFn() -> L) {
    let log = Log::default();
    let guard = log.listen();
    let (mut run, has_fake) = {
        let lab = make().await;
        (Run::new(log, &lab), lab.fake().is_some())
    };
    hold_in_a_cloud_that_works(&make, &mut run).await;
    if has_fake {
        hold_in_a_cloud_that_misbehaves(&make, &mut run).await;
    } else {
        for name in OF_FAKES.iter().filter(|name| run.tries(name)).copied().collect::<Vec<_>>() {
            run.failures.push(format!(
                "{name}: it has no fake cloud, and does not say why this means nothing for it"
            ));
        }
    }
    if run.tries(OF_SHUT_FAKES) {
        let mut lab = make().await;
        lab.shut().await;
        let log = run.log.clone();
        let watched = Watched::new(&lab, &log);
        let held = faults::without_a_cloud_nothing_was_done(&watched).await;
        run.note(OF_SHUT_FAKES, held, &watched);
    }
    drop(guard);
    assert!(run.failures.is_empty(), "promises that do not hold:\n  {}", run.failures.join("\n  "));
}
