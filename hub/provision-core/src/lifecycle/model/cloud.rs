//! The cloud of the model: what it does with calls, what it lists, and machines whose agents join.

use super::*;

/// A machine at its cloud.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) provider: &'static str,
    pub(super) id: String,
    pub(super) key: InstanceKey,
    pub(super) hub: Option<HubId>,
    pub(super) attempt: u32,
    /// Exists from here on, and is listed from there on.
    pub(super) from: Timestamp,
    pub(super) listed_from: Timestamp,
    /// Deleted, and listed until then.
    pub(super) deleted: Option<Timestamp>,
    pub(super) state: InstanceState,
    /// When its agent joins; `None` for one that never does.
    pub(super) joins_at: Option<Timestamp>,
    pub(super) agent: Option<AgentId>,
}

impl World {
    /// A machine that stands after `delay`.
    pub(super) fn stand(
        &mut self,
        provider: &'static str,
        key: InstanceKey,
        hub: Option<HubId>,
        delay: Duration,
        attempt: u32,
    ) -> String {
        self.made += 1;
        let from = self.now.plus(delay);
        let (late, silent) = if self.faulty { (100, 25) } else { (0, 0) };
        let listed_from = from.plus(secs(self.dice.below(late + 1)));
        let joins_at = (!self.dice.percent(silent)).then(|| from.plus(secs(20 + self.dice.below(100))));
        let id = format!("{provider}-{}", self.made);
        let state = InstanceState::Running;
        let machine = Machine {
            provider,
            id: id.clone(),
            key,
            hub,
            from,
            listed_from,
            deleted: None,
            state,
            joins_at,
            agent: None,
            attempt,
        };
        self.cloud.push(machine);
        id
    }

    pub(super) fn list(&mut self, provider: &str) -> Option<Vec<Instance>> {
        if self.faulty && self.dice.percent(10) {
            return None;
        }
        let mut listed = Vec::new();
        for machine in self.cloud.clone() {
            let is_there =
                machine.listed_from <= self.now && machine.deleted.is_none_or(|until| until > self.now);
            let is_left_out = self.faulty && self.dice.percent(3);
            if machine.provider == provider && is_there && !is_left_out {
                let deployment = DeploymentId::from_bytes([0; 10]);
                listed.push(Instance {
                    key: machine.key,
                    provider_id: machine.id,
                    tags: machine.hub.map(|hub| Tags { hub, deployment, attempt: machine.attempt }),
                    state: machine.state,
                    created_at: machine.from,
                });
            }
        }
        Some(listed)
    }

    pub(super) fn create(&mut self, record: &Record) -> CreateAnswer {
        let provider = if record.candidate.provider == CLOUDS[0] { CLOUDS[0] } else { CLOUDS[1] };
        let failed = |class| CreateAnswer::Failed { class, reason: class.label().to_owned() };
        let mut delay = Duration::ZERO;
        let mut is_lost = false;
        let mut refused = None;
        if self.faulty {
            match self.dice.below(20) {
                0 | 1 => return failed(ErrorClass::Capacity),
                2 => return failed(ErrorClass::Quota),
                3 => return failed(ErrorClass::Throttle),
                // It says that nothing was done, and makes one all the same.
                9 => refused = Some(ErrorClass::Throttle),
                4 => return failed(ErrorClass::Deny),
                5 => return failed(ErrorClass::Unknown),
                6 | 7 => is_lost = true,
                8 => (is_lost, delay) = (true, secs(self.dice.below(300))),
                _ => {}
            }
        }
        // A request key is its account's and compared with all that was asked, tags too.
        let same = |machine: &&Machine| {
            machine.key == record.key && machine.hub == Some(HUB) && machine.deleted.is_none()
        };
        let known = self.cloud.iter().find(same).map(|machine| machine.id.clone());
        let id = match known {
            Some(id) if self.has_request_keys => id,
            Some(_) | None => self.stand(provider, record.key.clone(), Some(HUB), delay, record.attempt),
        };
        match refused.or(is_lost.then_some(ErrorClass::Unknown)) {
            Some(class) => failed(class),
            None => CreateAnswer::Made(id),
        }
    }

    pub(super) fn delete(&mut self, provider: &str, id: &str, record: Option<&Record>) -> Result<(), Killed> {
        let (fails, lies) = if self.faulty { (20, 10) } else { (0, 0) };
        if self.dice.percent(fails) {
            return Ok(());
        }
        self.accepted.insert(id.to_owned());
        if !self.dice.percent(lies) {
            self.end(id);
        }
        self.step()?;
        if let Some(Action::Save { record, .. }) =
            self.reconciler.handle_delete(provider, id, record, self.now)
        {
            self.save(&record);
        }
        Ok(())
    }

    fn end(&mut self, id: &str) {
        let shown = if self.faulty { self.dice.below(60) } else { 0 };
        let until = self.now.plus(secs(shown));
        let seed = self.seed;
        let machine = self.cloud.iter_mut().find(|machine| machine.id == id).unwrap();
        assert_eq!(machine.hub, Some(HUB), "seed {seed}: somebody else's machine was deleted");
        machine.deleted.get_or_insert(until);
    }

    pub(super) fn switch(&mut self, id: &str, state: InstanceState) {
        if self.faulty && self.dice.percent(20) {
            return;
        }
        let machine = self.cloud.iter_mut().find(|machine| machine.id == id).unwrap();
        assert_eq!(machine.hub, Some(HUB));
        machine.state = state;
    }

    /// Agents join whose time has come, as far as the store lets them.
    pub(super) fn join(&mut self) {
        for machine in &mut self.cloud {
            let is_up = machine.deleted.is_none()
                && machine.from <= self.now
                && machine.state == InstanceState::Running;
            let is_time = machine.joins_at.is_some_and(|at| at <= self.now);
            let Some(record) = self.store.instances.get_mut(&machine.key) else { continue };
            let may = machine.hub == Some(HUB) && record.agent.is_none() && record.state.may_join();
            if is_up && is_time && may && machine.agent.is_none() {
                self.ids += 1;
                let agent = AgentId::from_bytes(u128::from(self.ids).to_be_bytes());
                record.agent = Some(agent);
                record.agent_attempt = machine.attempt;
                machine.agent = Some(agent);
                self.agents.insert(agent);
            }
        }
    }
}
