//! What every provider is held to.

mod faults;
mod machines;
mod witness;

use std::time::Duration;

use blueprint_hub_provision_core::{InstanceSpec, Provider};

use crate::FakeCloud;
use witness::{Log, Watched};

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

    /// The cloud behind it, where it is a fake one; without it the promises about faults are left out.
    fn fake(&self) -> Option<&FakeCloud>;

    /// Whether its lists come in pages.
    fn has_pages(&self) -> bool {
        true
    }

    /// What an error over wrong credentials says, among other things: what a person has to do.
    fn remedy(&self) -> &'static str {
        "provider configure"
    }

    /// How long a request that nobody waits for any more may still have an effect.
    fn settled_after(&self) -> Duration {
        Duration::from_millis(20)
    }

    /// Takes the cloud away, so that nothing listens where it was.
    fn shut(&mut self) -> impl Future<Output = ()>;
}

/// Runs promises by name, each in a lab of its own, and notes which did not hold.
macro_rules! hold {
    ($make:ident, $log:ident, $failures:ident, [$($module:ident::$promise:ident),+ $(,)?]) => {
        $(
            let lab = $make().await;
            let watched = Watched::new(&lab, &$log);
            if let Err(error) = Box::pin($module::$promise(&watched)).await {
                $failures.push(format!("{}: {error:#}", stringify!($promise)));
            }
            if let Some(text) = watched.leak() {
                $failures.push(format!("{}: a secret is told: {text}", stringify!($promise)));
            }
        )+
    };
}

/// Holds a provider to every promise. `make` gives a new lab with an empty account each time.
///
/// # Panics
///
/// Where a promise does not hold; it names all of those.
pub async fn run<L: Lab>(make: impl AsyncFn() -> L) {
    let log = Log::default();
    let guard = log.listen();
    let mut failures = Vec::new();
    hold!(
        make,
        log,
        failures,
        [
            machines::an_empty_account_lists_nothing,
            machines::a_machine_is_made_listed_and_deleted,
            machines::the_same_order_makes_one_machine,
            machines::another_call_for_an_order_tells_the_tags_that_are,
            machines::deleting_what_is_not_there_succeeds,
            machines::a_machine_is_switched_off_and_on,
            machines::what_is_not_there_cannot_be_switched,
            machines::wrong_orders_are_refused_and_make_nothing,
            machines::offers_are_sorted_and_have_prices,
            machines::a_dropped_creation_is_listed_or_was_never_made,
        ]
    );
    let has_fake = make().await.fake().is_some();
    if has_fake {
        hold!(
            make,
            log,
            failures,
            [
                faults::strangers_are_not_touched,
                faults::a_long_list_comes_whole,
                faults::half_a_list_is_an_error,
                faults::a_list_that_changes_is_whole_or_an_error,
                faults::a_late_list_is_no_error,
                faults::a_machine_made_behind_an_error_is_found,
                faults::a_lost_answer_is_unknown_and_its_machine_is_found,
                faults::a_machine_made_twice_is_listed_twice,
                faults::refusals_have_their_class_and_make_nothing,
                faults::a_pause_is_told_in_every_dialect,
                faults::a_pause_is_right_with_a_wrong_clock,
                faults::nonsense_is_an_error,
                faults::a_slow_answer_is_given_up,
                faults::nothing_is_tried_twice,
                faults::what_fails_before_an_order_says_that_nothing_was_ordered,
                faults::wrong_credentials_are_told,
                faults::absurd_prices_are_not_offered,
            ]
        );
        let mut lab = make().await;
        lab.shut().await;
        let watched = Watched::new(&lab, &log);
        if let Err(error) = faults::without_a_cloud_nothing_was_done(&watched).await {
            failures.push(format!("without_a_cloud_nothing_was_done: {error:#}"));
        }
    }
    drop(guard);
    assert!(failures.is_empty(), "promises that do not hold:\n  {}", failures.join("\n  "));
}
