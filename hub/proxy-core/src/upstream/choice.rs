//! The less loaded of two, drawn by weight.

use std::net::SocketAddr;

/// A target that may get the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    /// At least 1.
    pub(super) weight: u32,
    /// Requests open there.
    pub(super) open: u32,
}

impl Candidate {
    /// Whether it has fewer open requests for its weight.
    fn is_freer_than(&self, other: &Self) -> bool {
        let mine = u64::from(self.open).saturating_mul(u64::from(other.weight));
        mine < u64::from(other.open).saturating_mul(u64::from(self.weight))
    }
}

/// Draws two different candidates, each as likely as its weight, and takes the one with fewer open
/// requests for its weight; of equals the first. So idle targets share by weight, and busy ones by load.
///
/// `random` is 64 uniformly random bits.
pub(super) fn pick(candidates: &[Candidate], random: u64) -> Option<Candidate> {
    let first = draw(candidates, None, random >> 32)?;
    let second = draw(candidates, Some(first.address), random & u64::from(u32::MAX));
    Some(second.filter(|second| second.is_freer_than(&first)).unwrap_or(first))
}

/// Draws by weight among all but `without`; `random` has 32 bits.
fn draw(candidates: &[Candidate], without: Option<SocketAddr>, random: u64) -> Option<Candidate> {
    let rest = || candidates.iter().filter(|candidate| Some(candidate.address) != without);
    let total = rest().map(|candidate| u64::from(candidate.weight)).fold(0, u64::saturating_add);
    // Scaling has no bias that shows at 32 bits, unlike a remainder of few.
    let mut at = random.saturating_mul(total) >> 32;
    for candidate in rest() {
        match at.checked_sub(u64::from(candidate.weight)) {
            Some(left) => at = left,
            None => return Some(*candidate),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn candidates(of: &[(u32, u32)]) -> Vec<Candidate> {
        let address = |last| SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), 80));
        of.iter()
            .zip(1..)
            .map(|(&(weight, open), last)| Candidate { address: address(last), weight, open })
            .collect()
    }

    /// A sequence of good random numbers (splitmix64).
    fn random(number: u64) -> u64 {
        let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn shares(candidates: &[Candidate], picks: u64) -> Vec<f64> {
        let mut counts = vec![0.0; candidates.len()];
        for number in 0..picks {
            let picked = pick(candidates, random(number)).unwrap();
            let place = candidates.iter().position(|candidate| *candidate == picked).unwrap();
            counts[place] += 1.0;
        }
        counts.iter().map(|count| count / f64::from(u32::try_from(picks).unwrap())).collect()
    }

    #[test]
    fn the_idle_share_by_weight() {
        let shares = shares(&candidates(&[(100, 0), (50, 0), (10, 0), (1, 0)]), 100_000);
        for (share, weight) in shares.iter().zip([100.0, 50.0, 10.0, 1.0]) {
            assert!((share - weight / 161.0).abs() < 0.005, "{shares:?}");
        }
    }

    #[test]
    fn the_busiest_of_all_gets_nothing_and_the_freest_most() {
        let shares = shares(&candidates(&[(100, 9), (100, 3), (100, 0), (100, 6)]), 100_000);
        assert!(shares[0] < 1e-9, "always beaten: {shares:?}");
        assert!((shares[2] - 0.5).abs() < 0.01, "drawn in half of the pairs: {shares:?}");
        assert!(shares[1] > shares[3], "{shares:?}");
    }

    #[test]
    fn load_is_judged_for_the_weight() {
        let shares = shares(&candidates(&[(100, 10), (10, 2)]), 1000);
        assert!(shares[0] > 0.999, "10 of 100 is less than 2 of 10: {shares:?}");
    }

    /// A busy service: so many requests are open that every target is at its share.
    #[test]
    fn what_is_open_goes_by_weight_too() {
        let mut candidates = candidates(&[(100, 0), (50, 0), (50, 0)]);
        for number in 0..4000 {
            let picked = pick(&candidates, random(number)).unwrap();
            for candidate in candidates.iter_mut().filter(|candidate| candidate.address == picked.address) {
                candidate.open += 1;
            }
        }
        let open: Vec<u32> = candidates.iter().map(|candidate| candidate.open).collect();
        assert!(open[0].abs_diff(2000) < 20 && open[1].abs_diff(1000) < 20, "{open:?}");
    }

    proptest! {
        #[test]
        fn somebody_is_picked_and_nobody_worse_than_all_others(
            of in prop::collection::vec((1u32..1000, 0u32..1000), 1..9),
            random in any::<u64>(),
        ) {
            let candidates = candidates(&of);
            let picked = pick(&candidates, random).unwrap();
            let is_worse = |other: &Candidate| {
                other.address != picked.address && !other.is_freer_than(&picked)
            };
            prop_assert!(candidates.len() == 1 || candidates.iter().any(is_worse));
            prop_assert_eq!(pick(&[], random), None);
        }
    }
}
