//! What machines send, as the hub's tunnel measures it, and what that costs beyond what their price holds already.

use std::collections::BTreeMap;

use blueprint_common_types::{AgentId, Micros};

use super::month_of;
use crate::catalogue::Day;
use crate::{DeploymentId, InstanceKey};

/// Bytes of the GB that providers sell.
const GB: u64 = 1_000_000_000;

/// What sending costs, as it was when the machine was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EgressPrice {
    /// A GB (10^9 bytes) beyond what is included, in US dollars.
    pub gb: Micros,
    /// GB of each calendar month that the price of the machine holds already: what is free, or what was asked for.
    pub included_gb: u32,
}

/// What one machine sent to the hub on one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Which machine.
    pub key: InstanceKey,
    /// Of which deployment.
    pub deployment: DeploymentId,
    /// Of which provider.
    pub provider: String,
    /// On which day, in UTC.
    pub day: Day,
    /// Bytes of datagrams that arrived through its tunnel and were genuine, without the headers of IP and UDP.
    pub bytes: u64,
    /// What that costs; `None` for machines from before it was kept.
    pub price: Option<EgressPrice>,
}

/// What each of `rows` costs; `None` where no price is known. What is included is used up in the order of the days of a
/// month, so `rows` have to begin with the month.
#[must_use]
pub fn priced(rows: &[Egress]) -> Vec<(&Egress, Option<Micros>)> {
    let mut sorted: Vec<&Egress> = rows.iter().collect();
    sorted.sort_by(|a, b| (&a.key, a.day).cmp(&(&b.key, b.day)));
    let mut sent: BTreeMap<(&InstanceKey, String), u64> = BTreeMap::new();
    let mut costs = Vec::with_capacity(sorted.len());
    for row in sorted {
        let before = sent.entry((&row.key, month_of(row.day))).or_default();
        let after = before.saturating_add(row.bytes);
        let cost = row.price.map(|price| price.of(after).minus(price.of(*before)));
        *before = after;
        costs.push((row, cost));
    }
    costs
}

impl EgressPrice {
    /// What `bytes` of one month cost.
    fn of(self, bytes: u64) -> Micros {
        let included = u64::from(self.included_gb).saturating_mul(GB);
        self.gb.share(bytes.saturating_sub(included), GB)
    }
}

/// Counters of tunnels, as they were last written down. They begin at zero with the hub and with each new peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<InstanceKey, (AgentId, u64)>);

impl Counters {
    /// By how much each of the counters `now` grew since the last [`Self::note`]; one that is lower than it was began anew.
    #[must_use]
    pub fn grown(&self, now: &BTreeMap<InstanceKey, (AgentId, u64)>) -> BTreeMap<InstanceKey, u64> {
        let since = |key, agent, bytes: u64| match self.0.get(key) {
            Some(&(known, last)) if known == agent && last <= bytes => bytes - last,
            Some(_) | None => bytes,
        };
        let grown = now.iter().map(|(key, &(agent, bytes))| (key.clone(), since(key, agent, bytes)));
        grown.filter(|(_, bytes)| *bytes > 0).collect()
    }

    /// What grew up to `now` is stored.
    pub fn note(&mut self, now: BTreeMap<InstanceKey, (AgentId, u64)>) {
        self.0 = now;
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::Timestamp;
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::*;

    fn row(number: u32, day: u64, bytes: u64, price: Option<EgressPrice>) -> Egress {
        let deployment = DeploymentId::from_bytes([1; 10]);
        Egress {
            key: InstanceKey::of(&deployment, number),
            deployment,
            provider: "aws".to_owned(),
            // From 2026-11-29 on.
            day: Day::from(Timestamp::from_millis((20_786 + day) * 86_400_000)),
            bytes,
            price,
        }
    }

    #[test]
    fn what_is_included_is_used_up_first_and_anew_each_month() {
        let price = Some(EgressPrice { gb: Micros::new(90_000), included_gb: 2 });
        let rows = [
            row(1, 1, 3 * GB, price),
            row(1, 0, GB + GB / 2, price),
            row(1, 2, 2 * GB, price),
            row(1, 3, 1, price),
            row(2, 0, GB, price),
            row(3, 0, GB, None),
        ];
        let costs: Vec<_> = priced(&rows).into_iter().map(|(_, cost)| cost.map(Micros::get)).collect();
        assert_eq!(costs, [Some(0), Some(225_000), Some(0), Some(1), Some(0), None]);
    }

    #[test]
    fn a_counter_that_began_anew_or_is_anothers_counts_whole() {
        let key = |number| InstanceKey::of(&DeploymentId::from_bytes([1; 10]), number);
        let agent = |byte| AgentId::from_bytes([byte; 16]);
        let mut counters = Counters::default();
        let now = |bytes, of| BTreeMap::from([(key(1), (agent(of), bytes))]);
        let mut step = |now: BTreeMap<_, _>| {
            let grown = counters.grown(&now).into_values().next().unwrap_or(0);
            assert_eq!(counters.grown(&now).into_values().next().unwrap_or(0), grown, "until it is stored");
            counters.note(now);
            grown
        };
        assert_eq!([step(now(7, 1)), step(now(7, 1)), step(now(9, 1))], [7, 0, 2]);
        assert_eq!([step(now(4, 1)), step(now(8, 2))], [4, 8]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn days_add_up_to_the_price_of_the_month(sent in proptest::collection::vec(0..5 * GB, 1..20), included_gb in 0..20u32) {
            let price = EgressPrice { gb: Micros::new(87_001), included_gb };
            // From the first day of December on.
            let rows: Vec<_> = (2..).zip(&sent).map(|(day, bytes)| row(1, day, *bytes, Some(price))).collect();
            let sum: Micros = priced(&rows).into_iter().filter_map(|(_, cost)| cost).sum();
            prop_assert_eq!(sum, price.of(sent.iter().sum()));
        }
    }
}
