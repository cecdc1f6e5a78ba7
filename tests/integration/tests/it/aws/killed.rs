//! A hub that is killed again and again while orders and ends are under way, and what moto has of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use blueprint_tests_support::moto::{Moto, all};
use blueprint_tests_support::{Need, Process, eventually_ok, require};
use serde_json::{Deserializer, Value};

use super::{REGION, SETTLED, ordered, ordering, shown, start};
use crate::fixture::{CALL, Hub, rows, text};
use crate::say::{pass, say, seconds_from};

/// Kills where `BLUEPRINT_TEST_AWS_KILLS` says nothing; 200 take some five minutes on a quiet machine, and ten on a busy one.
const KILLS: u64 = 30;

/// Orders that are open at once.
const OPEN: usize = 3;

/// After so many kills everything has to come to rest.
const REST: u64 = 25;

/// Longest life of a hub. A machine stands some 300 ms after its order began, and what a killed hub had asked is asked again
/// after 3 s: lives are shorter than that, and some as short as the start of a command.
const LIFE: u64 = 900;

/// One order, and what is known of it.
#[derive(Debug, Default)]
struct Wish {
    key: String,
    /// Its deployment, once an answer came.
    id: Option<String>,
    /// It is to end; whether the hub has said that it will.
    ends: bool,
    is_ending: bool,
}

/// What happened, for the person who runs the test.
#[derive(Debug, Default)]
struct Seen {
    orders: u32,
    ends: u32,
    unanswered: u32,
    while_standing: u32,
}

struct Storm<'m> {
    moto: &'m Moto,
    hub: Hub<'static>,
    seed: u64,
    wishes: Vec<Wish>,
    made: u32,
    seen: Seen,
}

impl Storm<'_> {
    fn random(&mut self, below: u64) -> u64 {
        // Knuth's constants; the high bits are the good ones.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    /// Machines that stand, by deployment. moto shows a machine a moment before its tags.
    fn standing(&self) -> Result<BTreeMap<String, Vec<String>>> {
        eventually_ok(CALL, "tags on each machine", || self.tagged())
    }

    fn tagged(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let states = "&Filter.1.Name=instance-state-name&Filter.1.Value.1=pending&Filter.1.Value.2=running\
                      &Filter.1.Value.3=stopping&Filter.1.Value.4=stopped";
        let xml = self.moto.ec2(REGION, &format!("Action=DescribeInstances{states}"))?;
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // Each reservation has one machine: the hub orders no two at once.
        for machine in xml.split("</instancesSet>").filter(|text| text.contains("<instanceId>")) {
            let id = all(machine, "instanceId").pop().context("no id")?;
            let tag = machine.split("<item>").find(|item| item.contains("<key>blueprint-deployment</key>"));
            let deployment = tag.and_then(|item| all(item, "value").into_iter().next());
            found.entry(deployment.with_context(|| format!("no tag in {machine}"))?).or_default().push(id);
        }
        Ok(found)
    }

    /// Begins an order or an end, or one of those that got no answer again.
    fn begin(&mut self) -> Result<(usize, Process)> {
        let count = u64::try_from(self.wishes.len())?;
        let is_new = self.wishes.len() < OPEN || (self.wishes.len() < 2 * OPEN && self.random(2) == 0);
        if is_new {
            self.made += 1;
            self.wishes.push(Wish { key: format!("run-{}", self.made), ..Wish::default() });
        }
        let at = if is_new { self.wishes.len() - 1 } else { usize::try_from(self.random(count))? };
        let wish = self.wishes.get_mut(at).context("no such wish")?;
        let command = match &wish.id {
            None => {
                self.seen.orders += 1;
                ordering(&self.hub, &wish.key)?
            }
            Some(id) => {
                self.seen.ends += 1;
                wish.ends = true;
                self.hub.command(&["deployment", "terminate", id, "--yes", "--output", "json"])?
            }
        };
        Ok((at, command.start()?))
    }

    /// One life of the hub, from a command to its kill and the start of the next one.
    fn live(&mut self) -> Result<()> {
        let (at, mut command) = self.begin()?;
        let life = Duration::from_millis(self.random(LIFE));
        pass(life)?;
        self.hub.kill()?;
        // Whoever asked a hub that is gone is told so.
        let status = command.wait(CALL)?;
        let wish = self.wishes.get_mut(at).context("no such wish")?;
        if !status.success() {
            self.seen.unanswered += 1;
        } else if wish.ends {
            wish.is_ending = true;
        } else {
            wish.id = Some(id_of(&command.log())?);
        }
        let standing = self.standing()?;
        self.seen.while_standing += u32::from(!standing.is_empty());
        for (deployment, machines) in &standing {
            ensure!(
                machines.len() == 1,
                "{deployment} has {machines:?}; the hub logged:\n{}",
                self.hub.log()
            );
        }
        self.hub.start_again()
    }

    /// Asks again for all that got no answer, and waits until hub and cloud agree on one machine for each order and none for what
    /// ended; that is forgotten then.
    fn rest(&mut self) -> Result<()> {
        for wish in &mut self.wishes {
            let id = ordered(&self.hub, &wish.key)?;
            ensure!(wish.id.as_ref().is_none_or(|known| *known == id), "{wish:?} is {id} now");
            if wish.ends {
                self.hub.json(&["deployment", "terminate", &id, "--yes"])?;
                wish.is_ending = true;
            }
            wish.id = Some(id);
        }
        eventually_ok(SETTLED, "a cloud that has what is wanted", || self.agrees())
            .with_context(|| format!("the hub logged:\n{}", self.hub.log()))?;
        self.wishes.retain(|wish| !wish.ends);
        Ok(())
    }

    fn agrees(&self) -> Result<()> {
        let mut standing = self.standing()?;
        for wish in &self.wishes {
            let id = wish.id.as_deref().context("no answer")?;
            let (there, shown) = (standing.remove(id).unwrap_or_default(), shown(&self.hub, id)?);
            if wish.ends {
                ensure!(there.is_empty() && text(&shown, "/state")? == "gone", "{there:?} stand, {shown}");
                continue;
            }
            let [only] = there.as_slice() else { anyhow::bail!("{there:?} stand, {shown}") };
            let is_it = |row: &&Value| row.pointer("/state") == Some(&"created".into());
            let known: Vec<_> = rows(&shown, "/instances")?.iter().filter(is_it).collect();
            let [known] = known.as_slice() else { anyhow::bail!("{only} stands, {shown}") };
            ensure!(text(known, "/provider_id")? == format!("{REGION}/{only}"), "{only} stands, {shown}");
        }
        ensure!(standing.is_empty(), "nobody wants {standing:?}");
        Ok(())
    }
}

/// The deployment that an order's answer names; notes for people may stand before it.
fn id_of(log: &str) -> Result<String> {
    let document = log.find('{').and_then(|at| log.get(at..)).with_context(|| format!("no answer: {log}"))?;
    let answer = Deserializer::from_str(document).into_iter::<Value>().next().context("no answer")??;
    Ok(text(&answer, "/id")?.to_owned())
}

/// The hub is killed at moments that a seed chooses, with several orders and ends under way; `BLUEPRINT_TEST_AWS_KILLS` says how
/// often, `BLUEPRINT_TEST_SEED` from where. moto is asked after each kill: no order has two machines at any time.
#[test]
fn a_hub_killed_at_any_moment_has_one_machine_of_ec2_for_one_order_and_none_for_none() -> Result<()> {
    if !require(&[Need::Moto]) {
        return Ok(());
    }
    let kills = seconds_from("BLUEPRINT_TEST_AWS_KILLS", KILLS)?.as_secs();
    let seed = seconds_from("BLUEPRINT_TEST_SEED", 11)?.as_secs();
    let began = Instant::now();
    let moto = Moto::start()?;
    let hub = start(&moto)?;
    let mut storm = Storm { moto: &moto, hub, seed, wishes: Vec::new(), made: 0, seen: Seen::default() };
    for kill in 1..=kills {
        storm.live().with_context(|| format!("kill {kill} of seed {seed}"))?;
        if kill % REST == 0 {
            storm.rest().with_context(|| format!("after kill {kill} of seed {seed}"))?;
        }
    }
    storm.rest().with_context(|| format!("after the last kill of seed {seed}"))?;
    for wish in &mut storm.wishes {
        wish.ends = true;
    }
    storm.rest().context("at the end")?;
    ensure!(storm.standing()?.is_empty(), "machines stand that nobody wants");
    let Seen { orders, ends, unanswered, while_standing } = storm.seen;
    let made = all(&moto.ec2(REGION, "Action=DescribeInstances&MaxResults=1000")?, "instanceId").len();
    say(format_args!(
        "{kills} kills in {:.0?}: {} orders by {orders} commands, {ends} ends, {unanswered} commands without an answer, {while_standing} \
         kills while a machine stood; {made} machines were made",
        began.elapsed(),
        storm.made,
    ));
    // An order that ended before its machine was made has none.
    ensure!(made <= usize::try_from(storm.made)?, "{} orders made {made} machines", storm.made);
    Ok(())
}
