//! The model test; see the crate's documentation.

use blueprint_tests_model::{seeds, simulate};

#[test]
fn hub_and_agents_keep_their_promises_on_a_bad_network() {
    for seed in seeds(40) {
        if let Err(failure) = simulate(seed) {
            panic!("replay with SIM_SEED={seed}\n{failure}");
        }
    }
}

#[test]
fn a_seed_goes_the_same_way_each_time() {
    let runs = [0, 1].map(|_| simulate(1).map_err(|failure| failure.to_string()));
    assert_eq!(runs[0], runs[1]);
}
