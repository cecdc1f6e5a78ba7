//! What goes wrong in a simulated cloud, repeatable by its seed.

use std::str::FromStr;
use std::time::Duration;

use blueprint_hub_provision_core::ProviderError;
use blueprint_hub_provision_core::lifecycle::Dice;

/// What goes wrong. Text form: `none`, or parts such as
/// `seed=7,latency_ms=50,errors=10,lost=5,doubles=20,late_ms=3000,quota=4,full=1,spot_kill_ms=60000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Where the dice start.
    pub seed: u64,
    /// Longest time that a call takes on top.
    pub latency: Duration,
    /// Calls of 100 that fail: half of them throttled, half of them with an error of the cloud's own.
    pub errors: u64,
    /// Creations of 100 that work and whose answer is lost.
    pub lost: u64,
    /// Creations of 100 that make a second machine of a key that exists.
    pub doubles: u64,
    /// Longest time that a new machine stays out of the list.
    pub late: Duration,
    /// Most machines; `None` for as many as there is room for.
    pub quota: Option<usize>,
    /// Regions that have no capacity, counted from the first.
    pub full: u32,
    /// Longest time until a spot machine is taken back, and half of it the shortest; `None` for never.
    pub spot_kill: Option<Duration>,
}

/// A text does not say what is to go wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of seed, latency_ms, errors, lost, doubles, late_ms, quota, full and spot_kill_ms with a number, such as errors=10"
)]
pub struct ParseFaultsError(String);

impl FromStr for Faults {
    type Err = ParseFaultsError;

    fn from_str(text: &str) -> Result<Self, ParseFaultsError> {
        let mut faults = Self::default();
        if text == "none" {
            return Ok(faults);
        }
        for part in text.split(',') {
            let wrong = || ParseFaultsError(part.chars().take(64).collect());
            let (name, number) = part.trim().split_once('=').ok_or_else(wrong)?;
            let number: u64 = number.parse().map_err(|_| wrong())?;
            match name {
                "seed" => faults.seed = number,
                "latency_ms" => faults.latency = Duration::from_millis(number),
                "errors" if number <= 100 => faults.errors = number,
                "lost" if number <= 100 => faults.lost = number,
                "doubles" if number <= 100 => faults.doubles = number,
                "late_ms" => faults.late = Duration::from_millis(number),
                "quota" => faults.quota = Some(usize::try_from(number).map_err(|_| wrong())?),
                "full" => faults.full = u32::try_from(number).map_err(|_| wrong())?,
                "spot_kill_ms" => faults.spot_kill = Some(Duration::from_millis(number)),
                _ => return Err(wrong()),
            }
        }
        Ok(faults)
    }
}

impl Faults {
    /// How long this machine stays out of the list: the same whenever it is asked.
    pub(crate) fn lateness(&self, provider_id: &str) -> Duration {
        if self.late.is_zero() { Duration::ZERO } else { self.dice_of(provider_id).up_to(self.late) }
    }

    /// How old this spot machine gets: the same whenever it is asked; `None` for as old as it likes.
    pub(crate) fn spot_life(&self, provider_id: &str) -> Option<Duration> {
        let longest = self.spot_kill?;
        let half = longest / 2;
        Some(half.saturating_add(if half.is_zero() { half } else { self.dice_of(provider_id).up_to(half) }))
    }

    /// Dice that fall the same for the same machine.
    fn dice_of(&self, provider_id: &str) -> Dice {
        let seed = provider_id.bytes().fold(self.seed, |seed, byte| Dice::new(seed ^ u64::from(byte)).next());
        Dice::new(seed)
    }
}

/// Faults and the dice that they are thrown with.
#[derive(Debug)]
pub(crate) struct Trouble {
    faults: Faults,
    dice: Dice,
}

impl Trouble {
    /// Starts at the seed.
    pub(crate) const fn new(faults: Faults) -> Self {
        Self { faults, dice: Dice::new(faults.seed) }
    }

    /// What they are.
    pub(crate) const fn faults(&self) -> Faults {
        self.faults
    }

    /// How long the next call takes on top, and with what it fails, if it does.
    pub(crate) fn next(&mut self, call: &'static str) -> (Duration, Option<ProviderError>) {
        let latency = self.dice.up_to(self.faults.latency);
        if !self.dice.percent(self.faults.errors) {
            return (latency, None);
        }
        let failure = if self.dice.percent(50) {
            ProviderError::Throttle { retry_after: None }
        } else {
            ProviderError::Other { call, source: "a fault that was asked for".into() }
        };
        (latency, Some(failure))
    }

    /// Whether the answer to the next creation is lost.
    pub(crate) fn loses(&mut self) -> bool {
        self.dice.percent(self.faults.lost)
    }

    /// Whether a second machine is made for a key that exists.
    pub(crate) fn doubles(&mut self) -> bool {
        self.dice.percent(self.faults.doubles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_from_text() {
        assert_eq!("none".parse(), Ok(Faults::default()));
        let text = "seed=7, latency_ms=50,errors=10,lost=5,doubles=20,late_ms=3000,quota=4,full=1";
        let faults: Faults = text.parse().unwrap();
        assert_eq!((faults.seed, faults.errors, faults.quota, faults.full), (7, 10, Some(4), 1));
        assert_eq!(faults.late, Duration::from_secs(3));
        for wrong in ["", "errors", "errors=101", "errors=x", "speed=1", "seed=1,,"] {
            assert!(wrong.parse::<Faults>().is_err(), "{wrong}");
        }
        assert_eq!(faults.lateness("sim/a"), faults.lateness("sim/a"));
        assert_eq!(faults.spot_life("sim/a"), None);
        let faults: Faults = "spot_kill_ms=8000".parse().unwrap();
        let life = faults.spot_life("sim/a").unwrap();
        assert!((Duration::from_secs(4)..=Duration::from_secs(8)).contains(&life), "{life:?}");
        assert_eq!(faults.spot_life("sim/a"), Some(life));
    }
}
