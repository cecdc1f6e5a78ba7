//! Scaleway's Instances API v1, with Block Storage v1, as far as the hub uses them.

mod account;
mod rules;
mod says;

use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::account::Account;
use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Refusal, Throttling, World};

/// The project that the key of the fake is for.
pub const PROJECT: &str = "105bdce1-64c0-48ab-899d-868455867ecf";

/// The API. Clones are handles of the same project, so that a test keeps one.
#[derive(Debug, Clone, Default)]
pub struct ScalewayDialect(Arc<Mutex<Account>>);

/// What the hub calls the machine with this number, where it stands in `fr-par-1`.
#[must_use]
pub fn name_of(id: u64) -> String {
    format!("fr-par-1/{}", says::uuid(id))
}

/// Product, zone and the rest of a path.
fn parts(path: &str) -> Option<(&str, &str, Vec<&str>)> {
    let mut words = path.trim_start_matches('/').split('/');
    let (product, _, _, zone) = (words.next()?, words.next()?, words.next()?, words.next()?);
    Some((product, zone, words.collect()))
}

impl Dialect for ScalewayDialect {
    fn kind(&self, request: &Request) -> Kind {
        let Some(("instance", _, rest)) = parts(&request.path) else { return Kind::Other };
        let body = request.json();
        let action = body["action"].as_str().unwrap_or_default();
        match (request.method.as_str(), rest.as_slice()) {
            ("GET", ["servers"]) if request.query("tags") == Some("bp-node") => Kind::List,
            ("POST", ["servers"]) => Kind::Create,
            ("DELETE", ["servers", _]) => Kind::Delete,
            ("POST", ["servers", _, "action"]) if action == "terminate" => Kind::Delete,
            ("POST", ["servers", _, "action"]) => Kind::Switch,
            ("GET", ["products", "servers"]) => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        let answer = self.0.lock().answer(world, request);
        answer.header("x-request-id", says::REQUEST.to_owned())
    }

    fn refuse(&self, world: &World, request: &Request, refusal: Refusal) -> Answer {
        says::refusal(world, request, refusal)
    }

    fn broken_rules(&mut self, world: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        let mut broken = rules::of_request(request);
        broken.extend(self.0.lock().unsafe_call(world, request));
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Seconds(7), Throttling::Date(11), Throttling::Silent]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        says::swap_types(&mut body);
        Answer { body: body.to_string().into(), ..answer }
    }
}

impl ScalewayDialect {
    /// Every security group.
    #[must_use]
    pub fn groups(&self) -> Vec<Value> {
        self.0.lock().groups.clone()
    }

    /// A person lets SSH in by every security group: by its policy, and by a rule.
    pub fn open_groups(&self) {
        for group in &mut self.0.lock().groups {
            group["inbound_default_policy"] = json!("accept");
            let rule =
                json!({ "id": "rule-1", "direction": "inbound", "action": "accept", "editable": true });
            group["rules"].as_array_mut().unwrap().push(rule);
        }
    }

    /// A person deletes every security group.
    pub fn clear(&self) {
        self.0.lock().groups.clear();
    }

    /// Numbers of the volumes that are there, attached or not: of Block Storage, and local ones.
    #[must_use]
    pub fn volumes(&self) -> Vec<u64> {
        self.0.lock().volumes.iter().map(|volume| volume.id).collect()
    }

    /// Adds a local volume to a machine, as older types have one.
    pub fn add_local_volume(&self, machine: u64, id: u64) {
        self.0.lock().add_volume(id, machine, "fr-par-1", false);
    }

    /// Scaleway locks a machine.
    pub fn lock(&self, machine: u64) {
        self.0.lock().locked = Some(machine);
    }

    /// Gives a machine a flexible address.
    pub fn add_address(&self, machine: u64, id: u64) {
        self.0.lock().addresses.push((id, machine));
    }

    /// Flexible addresses that are there.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.0.lock().addresses.len()
    }

    /// Machines are on their way out for a while after they were told to end, and their volumes in use as long.
    pub fn end_slowly(&self) {
        self.0.lock().ends_slowly = true;
    }

    /// What is on its way out is gone now.
    pub fn end_now(&self, world: &mut World) {
        self.0.lock().end(world);
    }
}

/// Whether a request changes something.
fn writes(method: &Method) -> bool {
    *method != Method::GET
}
