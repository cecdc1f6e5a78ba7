//! Any inner packets of joined spokes that lie, through a hub with any prefixes and any policy.
//!
//! The input says who holds which prefixes and what is granted, and then which packets come, in runs of one sender. The
//! spokes are the bare cipher library, so any bytes can be inside. A naive model (`model.rs`) says of every packet
//! whether it is dropped, delivered or relayed, and to whom: exactly that comes out, byte for byte and in order, and
//! exactly what it drops is counted as dropped.

mod model;
mod rig;
mod script;

use crate::input::Input;

/// Steps of one input at most, so that one execution takes milliseconds.
const MAX_STEPS: usize = 32;

/// Plays an input.
///
/// The hub's memory of flows is a table without chaining: about once in 50,000 flows a look-up finds another one. Its
/// hash is keyed anew each time, so what fails three times in a row is no accident.
pub(crate) fn play(data: &[u8]) {
    let attempts = (0..3).map_while(|_| attempt(data).err());
    let failures: Vec<_> = attempts.collect();
    assert!(failures.len() < 3, "{}", failures.join("\n"));
}

fn attempt(data: &[u8]) -> Result<(), String> {
    let mut input = Input(data);
    let Some(mut rig) = script::set_up(&mut input) else { return Ok(()) };
    for _ in 0..MAX_STEPS {
        match script::step(&mut rig, &mut input) {
            Some(result) => result?,
            None => break,
        }
    }
    Ok(())
}

/// What a step came to: an error says how hub and model differ.
type Outcome = Result<(), String>;
/// Spokes of a rig; the last has never joined.
const SPOKES: usize = 4;
