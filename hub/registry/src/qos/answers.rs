//! Curves, months and objectives: the desk as the rest of the hub sees it.

use std::collections::{BTreeMap, BTreeSet};

use blueprint_common_types::{AgentId, ServiceKey, Timestamp};
use blueprint_hub_registry_core::qos::{
    Curve, CurvePoint, DEFAULT_POINTS, HistoryAsk, MAX_POINTS, Month, Objective, ObjectiveOf,
    ObjectiveRecord, QosDesk, QosError, QosRows, Report, ReportOf, Row, ServiceUse, Standing, State, Step,
    Subject, percent, thin,
};
use futures_util::future::{BoxFuture, FutureExt};

use super::desk::Desk;
use super::recorder::now;

/// Most rows that are read for one answer; where there are more, moments are left out.
const MAX_ROWS: u32 = 10_000;

/// Range of a curve that names none.
const DAY_MILLIS: u64 = 86_400_000;

impl Desk {
    /// What was, of a service or a machine.
    pub(super) async fn past(&self, of: Subject, ask: HistoryAsk) -> Result<Curve, QosError> {
        let now = now();
        let until = ask.until.unwrap_or_else(|| Timestamp::from_millis(now.as_millis().saturating_add(1)));
        let day_before =
            Timestamp::from_millis(until.as_millis().min(now.as_millis()).saturating_sub(DAY_MILLIS));
        let from = ask.from.unwrap_or(day_before);
        if from >= until {
            return Err(QosError::Range(format!("the range ends at {until}, before it begins at {from}")));
        }
        let of_age = match now.since(from) {
            // They say what was measured, and not how long anything was up.
            age if ask.is_sampled && age < self.parts.samples => Step::Sample,
            age if age <= self.parts.minutes => Step::Minute,
            _ => Step::Hour,
        };
        let step = ask.step.unwrap_or(of_age);
        // A row that began before the range and reaches into it belongs to it.
        let range = (step.of(from), until);
        let turn = self.turn().await?;
        let rows = self.parts.store.qos_rows(of, step, range, MAX_ROWS).await?;
        drop(turn);
        let mut points: Vec<CurvePoint> = match of {
            Subject::Service(service) => self.of_service(service, &rows, step, now),
            Subject::Target(_) | Subject::Node(_) => {
                let point = |((at, _), row): (&(Timestamp, Subject), &Row)| {
                    CurvePoint::of(*at, row, span(*at, step, now))
                };
                rows.iter().map(point).collect()
            }
        };
        if ask.is_sampled {
            points.retain(|point| point.samples > 0);
        }
        let most = if ask.points == 0 { DEFAULT_POINTS } else { ask.points.min(MAX_POINTS) };
        Ok(Curve { step, points: thin(points, most) })
    }

    /// A service at each moment: what the hub saw of it, what its targets used together, and what its machines have.
    fn of_service(&self, service: ServiceKey, rows: &QosRows, step: Step, now: Timestamp) -> Vec<CurvePoint> {
        let limit = self.memory_limit(service);
        let mut moments: BTreeMap<Timestamp, Vec<(Subject, &Row)>> = BTreeMap::new();
        let own = rows.iter().filter(|((_, subject), _)| !matches!(subject, Subject::Node(_)));
        for ((at, subject), row) in own {
            moments.entry(*at).or_default().push((*subject, row));
        }
        let point = |(at, of): (Timestamp, Vec<(Subject, &Row)>)| {
            let mut all = Row::default();
            let (mut cpu, mut memory) = (0u64, 0u64);
            let mut there = BTreeSet::new();
            for (subject, row) in of {
                all.join(row);
                if let Subject::Target(key) = subject {
                    cpu = cpu.saturating_add(row.mean(row.cpu_sum));
                    memory = memory.saturating_add(row.mean(row.memory_sum));
                    there.insert(key.agent);
                }
            }
            let mut point = CurvePoint::of(at, &all, span(at, step, now));
            (point.cpu_percent, point.memory_bytes) = (percent(cpu), memory);
            for agent in there {
                let Some(machine) = rows.get(&(at, Subject::Node(agent))) else { continue };
                let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
                add(&mut point.memory_total_bytes, machine.last.memory_total);
                add(&mut point.disk_bytes, machine.last.disk);
                add(&mut point.disk_total_bytes, machine.last.disk_total);
                add(&mut point.network_rx_bytes, machine.last.rx);
                add(&mut point.network_tx_bytes, machine.last.tx);
            }
            if let Some(limit) = limit {
                point.memory_total_bytes = point.memory_total_bytes.min(limit);
            }
            point
        };
        moments.into_iter().map(point).collect()
    }

    async fn month(&self, of: ObjectiveOf, month: Month) -> Result<Report, QosError> {
        let now = now();
        if month.start() > now {
            return Err(QosError::Range(format!("{month} has not begun")));
        }
        let _turn = self.turn().await?;
        let (begins, subject, reported) = self.reported(of).await?;
        let rows = self.parts.store.qos_hours(subject, (month.start(), month.end())).await?;
        let set = self.parts.store.objectives().await?.into_iter().find(|record| record.of == of);
        let objective = set.map(|record| record.objective).unwrap_or_default();
        Ok(Report::new(&self.parts.hub, (reported, month), (&rows, begins), objective, now))
    }

    /// Since when something is counted, under which name it is recorded, and what it is called.
    async fn reported(&self, of: ObjectiveOf) -> Result<(Option<Timestamp>, Subject, ReportOf), QosError> {
        match of {
            ObjectiveOf::Service(service) => {
                let begins = self.parts.store.qos_begins(service).await?;
                if begins.is_none() && !self.is_known(service) {
                    return Err(QosError::Unknown(format!("service {service}")));
                }
                Ok((begins, Subject::Service(service), ReportOf::Service(service)))
            }
            ObjectiveOf::Node(id) | ObjectiveOf::Tunnel(id) => {
                let snapshot = self.snapshot();
                let view = snapshot.agents.get(&id);
                let agent = &view.ok_or_else(|| QosError::Unknown(format!("node {id}")))?.agent;
                let name = agent.name.clone();
                let reported = match of {
                    ObjectiveOf::Tunnel(_) => ReportOf::Tunnel(id, name),
                    ObjectiveOf::Node(_) | ObjectiveOf::Service(_) => ReportOf::Node(id, name),
                };
                Ok((Some(Step::Hour.of(agent.joined_at)), Subject::Node(id), reported))
            }
        }
    }
}

/// How much of a row has passed, in milliseconds; a single sample has no length.
fn span(at: Timestamp, step: Step, now: Timestamp) -> u64 {
    if step == Step::Sample {
        return 0;
    }
    step.millis().min(now.as_millis().saturating_sub(at.as_millis()))
}

impl QosDesk for Desk {
    fn standing(&self, service: ServiceKey) -> BoxFuture<'_, Result<Standing, QosError>> {
        self.stands(service).boxed()
    }

    fn usage(&self, service: ServiceKey) -> BoxFuture<'_, Result<ServiceUse, QosError>> {
        self.uses(service).boxed()
    }

    fn curve(&self, of: Subject, ask: HistoryAsk) -> BoxFuture<'_, Result<Curve, QosError>> {
        self.past(of, ask).boxed()
    }

    fn report(&self, of: ObjectiveOf, month: Month) -> BoxFuture<'_, Result<Report, QosError>> {
        self.month(of, month).boxed()
    }

    fn objectives(&self) -> BoxFuture<'_, Result<Vec<ObjectiveRecord>, QosError>> {
        async move { Ok(self.parts.store.objectives().await?) }.boxed()
    }

    fn set_objective(
        &self,
        of: ObjectiveOf,
        objective: Option<Objective>,
    ) -> BoxFuture<'_, Result<bool, QosError>> {
        async move { Ok(self.parts.store.set_objective(of, objective, now()).await?) }.boxed()
    }

    fn tunnel_since(&self, node: AgentId) -> Option<(bool, Timestamp)> {
        let (state, since) = self.seen(Subject::Node(node))?;
        match state {
            State::Up => Some((true, since)),
            State::Down => Some((false, since)),
            State::Unknown => None,
        }
    }
}
