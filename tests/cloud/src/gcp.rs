//! Google's Compute Engine, as far as the hub uses it: zones, operations, request ids, labels.

mod account;
mod rules;
mod says;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::discovery::Discovery;
use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Power, Refusal, Throttling, World};

pub use account::ServiceAccount;

/// The one region of the project that anything is ordered in.
pub const REGION: &str = "us-central1";

/// Another region, where kinds of machines are told and nothing is ordered.
pub const SECOND_REGION: &str = "europe-west4";

/// The id of the project.
pub const PROJECT: &str = "a-project-1";

/// The zone where machines stand that the hub did not order here.
const ELSEWHERE: &str = "us-central1-z";

/// Name, processors, MB, GPUs. Sizes are those of Google's own list; `e2-imaginary` has no price anywhere.
const KINDS: [(&str, u32, u64, u32); 7] = [
    ("e2-small", 2, 2048, 0),
    ("e2-standard-2", 2, 8192, 0),
    ("c2d-standard-2", 2, 8192, 0),
    ("n2-standard-4", 4, 16384, 0),
    ("g2-standard-4", 4, 16384, 1),
    ("c4-standard-2", 2, 7168, 0),
    ("e2-imaginary", 2, 2048, 0),
];

/// The interface. Clones are handles of the same project, so that a test keeps one.
#[derive(Debug, Clone)]
pub struct GcpDialect(Arc<Mutex<Account>>);

/// What is in the project beside machines, and how it behaves.
#[derive(Debug, Default)]
struct Account {
    zones: Vec<String>,
    full: BTreeSet<String>,
    firewalls: BTreeMap<String, Value>,
    /// Zone, name and document of machines by their number.
    places: BTreeMap<u64, (String, String, Value)>,
    operations: BTreeMap<String, Value>,
    /// Operations by the id of the request that they answer.
    requests: BTreeMap<String, String>,
    missing: BTreeSet<String>,
    unreachable: Option<String>,
    keys: tokens::Keys,
    is_slow: bool,
    /// The account that machines may have.
    of_machines: Option<String>,
    count: u64,
}

impl GcpDialect {
    /// A project whose region has this many zones: `us-central1-a`, `us-central1-b`, ...
    #[must_use]
    pub fn new(zones: usize) -> Self {
        let zones = ('a'..='x').take(zones).map(|letter| format!("{REGION}-{letter}")).collect();
        Self(Arc::new(Mutex::new(Account { zones, ..Account::default() })))
    }

    /// Has no machine be made in these zones, for want of capacity.
    pub fn fill(&self, zones: &[&str]) {
        self.0.lock().full = zones.iter().map(|zone| (*zone).to_owned()).collect();
    }

    /// Takes these permissions from the account.
    pub fn forbid(&self, permissions: &[&str]) {
        self.0.lock().missing = permissions.iter().map(|name| (*name).to_owned()).collect();
    }

    /// Has lists say that a zone cannot be reached.
    pub fn lose(&self, zone: Option<&str>) {
        self.0.lock().unreachable = zone.map(str::to_owned);
    }

    /// Has operations be under way for ever, as far as anybody who asks is told.
    pub fn stall(&self, is_slow: bool) {
        self.0.lock().is_slow = is_slow;
    }

    /// Knows the public half of a service account's key: its address, and the key as ring reads it (PKCS #1, DER).
    pub fn trust(&self, email: &str, public_key: Vec<u8>) {
        self.0.lock().keys.trust(email, public_key);
    }

    /// Machines are ordered with this service account from now on, and with no other.
    pub fn run_as(&self, email: &str) {
        self.0.lock().of_machines = Some(email.to_owned());
    }

    /// Tokens that were given for keys so far.
    #[must_use]
    pub fn tokens_given(&self) -> usize {
        self.0.lock().keys.given()
    }

    /// Every firewall rule, as it was made.
    #[must_use]
    pub fn firewalls(&self) -> Vec<Value> {
        self.0.lock().firewalls.values().cloned().collect()
    }

    /// A person changes a field of every rule.
    pub fn change_firewalls(&self, field: &str, value: &Value) {
        for rule in self.0.lock().firewalls.values_mut() {
            rule[field] = value.clone();
        }
    }

    /// A person deletes every rule.
    pub fn clear(&self) {
        self.0.lock().firewalls.clear();
    }

    /// The hub's name of the machine with this number.
    #[must_use]
    pub fn name_of(&self, id: u64) -> String {
        format!("{}/{id}", self.0.lock().zone_of(id))
    }

    /// The document that the machine with this number was ordered by.
    #[must_use]
    pub fn order_of(&self, id: u64) -> Value {
        self.0.lock().places.get(&id).map(|(_, _, order)| order.clone()).unwrap_or_default()
    }
}

impl Dialect for GcpDialect {
    fn kind(&self, request: &Request) -> Kind {
        match (request.method.as_str(), parts(request).as_slice()) {
            // The look for one key is not the list.
            ("GET", ["aggregated", "instances"])
                if request.query("filter") == Some("labels.blueprint-instance:*") =>
            {
                Kind::List
            }
            ("POST", ["zones", _, "instances"]) => Kind::Create,
            ("DELETE", ["zones", _, "instances", _]) => Kind::Delete,
            ("POST", ["zones", _, "instances", _, "start" | "stop"]) => Kind::Switch,
            ("GET", ["zones", _, "machineTypes"]) => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        self.0.lock().answer(world, request)
    }

    fn refuse(&self, world: &World, request: &Request, refusal: Refusal) -> Answer {
        // These are told by an operation, behind status 200.
        match refusal {
            Refusal::Capacity => {
                self.0.lock().failed(request, "ZONE_RESOURCE_POOL_EXHAUSTED", 503, says::EXHAUSTED)
            }
            Refusal::Quota => self.0.lock().failed(request, "QUOTA_EXCEEDED", 403, says::QUOTA),
            Refusal::Throttled(_)
            | Refusal::NotSold
            | Refusal::Unauthorized
            | Refusal::Forbidden
            | Refusal::Busy
            | Refusal::Broken
            | Refusal::Unavailable => says::refusal(world, request, refusal),
        }
    }

    fn broken_rules(&mut self, _: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        let mut broken = rules::of_request(request);
        if request.path.starts_with("/compute/v1/") {
            broken.extend(Discovery::embedded().faults(request));
        }
        if self.kind(request) == Kind::Create {
            broken.extend(self.0.lock().unsafe_order(&request.json()));
        }
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Silent, Throttling::Seconds(7)]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        says::swap_types(&mut body);
        Answer { body: body.to_string().into(), ..answer }
    }
}

/// The parts of a path behind the project.
fn parts(request: &Request) -> Vec<&str> {
    let rest = request.path.strip_prefix("/compute/v1/projects/").unwrap_or_default();
    rest.split('/').skip(1).collect()
}

impl Account {
    fn zone_of(&self, id: u64) -> String {
        self.places.get(&id).map_or_else(|| ELSEWHERE.to_owned(), |(zone, _, _)| zone.clone())
    }

    fn name_of(&self, world: &World, id: u64) -> String {
        let own = self.places.get(&id).map(|(_, name, _)| name.clone());
        let named = || world.machines.iter().find(|one| one.id == id).map(|one| one.name.clone());
        own.or_else(named).unwrap_or_default()
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.path == "/token" {
            return self.keys.grant(request, &world.token);
        }
        if request.header("authorization") != Some(&format!("Bearer {}", world.token)) {
            return says::error(401, "authError", "Request had invalid authentication credentials.");
        }
        if request.path == format!("/v1/projects/{PROJECT}:testIamPermissions") {
            let asked = request.json()["permissions"].as_array().cloned().unwrap_or_default();
            let is_held = |name: &Value| name.as_str().is_some_and(|name| !self.missing.contains(name));
            let held: Vec<_> = asked.into_iter().filter(is_held).collect();
            return Answer::json(200, &json!({ "permissions": held }));
        }
        if request.path == "/v1/services/6F81-5844-456A/skus" {
            return says::skus(request);
        }
        if !request.path.starts_with(&format!("/compute/v1/projects/{PROJECT}")) {
            return says::not_found(&request.path);
        }
        let own = parts(request).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        match (&request.method, own.as_slice()) {
            (&Method::GET, []) => {
                Answer::json(200, &json!({ "kind": "compute#project", "name": PROJECT, "id": "7" }))
            }
            (&Method::GET, ["regions", REGION]) => says::region(REGION, &self.zones),
            (&Method::GET, ["regions", SECOND_REGION]) => {
                says::region(SECOND_REGION, &[format!("{SECOND_REGION}-b")])
            }
            (&Method::GET, ["global", "networks", "default"]) => {
                Answer::json(200, &json!({ "kind": "compute#network", "name": "default", "id": "8" }))
            }
            (&Method::GET, ["aggregated", "instances"]) => self.list(world, request),
            (&Method::GET, ["aggregated", "machineTypes"]) => self.kinds_everywhere(request),
            (&Method::GET, ["zones", zone, "machineTypes"]) => {
                says::kinds(zone, &self.kinds(world.has_absurd_prices), request, world.page_limit)
            }
            (&Method::POST, ["zones", zone, "instances"]) => self.create(world, zone, request),
            (method, ["zones", zone, "instances", id, rest @ ..]) => {
                let verb =
                    if *method == Method::DELETE { "delete" } else { rest.first().copied().unwrap_or("get") };
                self.machine(world, zone, id, verb)
            }
            (
                &Method::POST,
                ["zones", _, "operations", name, "wait"] | ["global", "operations", name, "wait"],
            ) => {
                let Some(operation) = self.operations.get(*name) else { return says::not_found(name) };
                let mut operation = operation.clone();
                if self.is_slow {
                    operation["status"] = json!("RUNNING");
                    operation.as_object_mut().map(|fields| fields.remove("error"));
                }
                Answer::json(200, &operation)
            }
            (method, ["global", "firewalls", rest @ ..]) => self.firewall(method, rest, request),
            _ => says::not_found(&request.path),
        }
    }

    /// An operation that is under way, whose end whoever asks after it is told.
    fn operation(&mut self, kind: &str, zone: Option<&str>, target: u64, error: Option<Value>) -> Answer {
        self.count += 1;
        let name = format!("operation-1795-{}-abc", self.count);
        let done = says::operation(&name, kind, zone, target, error);
        let mut running = done.clone();
        running["status"] = json!("RUNNING");
        running["progress"] = json!(0);
        if let Some(fields) = running.as_object_mut() {
            for field in ["error", "httpErrorStatusCode", "httpErrorMessage", "endTime"] {
                fields.remove(field);
            }
        }
        self.operations.insert(name, done);
        Answer::json(200, &running)
    }

    fn failed(&mut self, request: &Request, code: &str, status: u16, message: &str) -> Answer {
        let own = parts(request).into_iter().map(str::to_owned).collect::<Vec<_>>();
        let zone = own.get(1).map(String::as_str);
        let error = json!({ "code": code, "message": message, "status": status });
        self.operation("insert", zone, 0, Some(error))
    }

    /// Pages by the number of the machine, so that none is passed over where another one goes.
    fn list(&self, world: &mut World, request: &Request) -> Answer {
        let after: u64 = request.query("pageToken").and_then(|token| token.parse().ok()).unwrap_or_default();
        let most: usize = request.query("maxResults").and_then(|most| most.parse().ok()).unwrap_or(500);
        let filter = request.query("filter").unwrap_or_default();
        let rows: Vec<_> = world
            .listed()
            .filter(|machine| machine.id > after && says::fits(filter, machine))
            .map(|machine| (machine.id, self.zone_of(machine.id), self.shown(world, machine.id)))
            .collect();
        let limit = most.min(world.page_limit);
        let mut items = json!({ format!("zones/{REGION}-y"): { "warning": says::nothing_here() } });
        for (_, zone, row) in rows.iter().take(limit) {
            let scope = &mut items[format!("zones/{zone}")]["instances"];
            match scope.as_array_mut() {
                Some(instances) => instances.push(row.clone()),
                None => *scope = json!([row]),
            }
        }
        let mut body = json!({ "kind": "compute#instanceAggregatedList", "id": "list", "items": items });
        if let Some(zone) = &self.unreachable {
            body["items"][format!("zones/{zone}")] =
                json!({ "warning": { "code": "UNREACHABLE", "message": "The zone cannot be reached." } });
        }
        if rows.len() > limit
            && let Some((last, _, _)) = limit.checked_sub(1).and_then(|at| rows.get(at))
        {
            body["nextPageToken"] = json!(last.to_string());
        }
        if world.shrinks_between_pages && !rows.is_empty() {
            world.shrinks_between_pages = false;
            let first = world.machines.first().map(|machine| machine.id);
            first.map(|id| world.remove(id));
        }
        Answer::json(200, &body)
    }

    fn shown(&self, world: &World, id: u64) -> Value {
        let machine = world.machines.iter().find(|one| one.id == id);
        machine.map_or(Value::Null, |machine| {
            says::machine(machine, &self.zone_of(id), &self.name_of(world, id))
        })
    }

    fn kinds(&self, has_absurd: bool) -> Vec<Value> {
        let mut kinds: Vec<_> = KINDS.iter().map(|kind| says::kind(*kind)).collect();
        if has_absurd {
            // Sizes that the price list does not have under these names.
            kinds.push(says::kind(("n2-standard-2", 200, 1, 0)));
            kinds.push(says::kind(("free-standard-2", 2, 8192, 0)));
        }
        kinds
    }

    fn kinds_everywhere(&self, request: &Request) -> Answer {
        let wanted = request.query("filter").and_then(|filter| filter.split('"').nth(1)).unwrap_or_default();
        let found: Vec<_> = self.kinds(false).into_iter().filter(|kind| kind["name"] == wanted).collect();
        let mut items = json!({ "zones/europe-west1-b": { "machineTypes": found } });
        for zone in &self.zones {
            items[format!("zones/{zone}")] = if found.is_empty() {
                json!({ "warning": says::nothing_here() })
            } else {
                json!({ "machineTypes": found })
            };
        }
        Answer::json(
            200,
            &json!({ "kind": "compute#machineTypeAggregatedList", "id": "kinds", "items": items }),
        )
    }

    fn create(&mut self, world: &mut World, zone: &str, request: &Request) -> Answer {
        let body = request.json();
        let id = request.query("requestId").unwrap_or_default().to_owned();
        if let Some(known) = self.requests.get(&id).and_then(|name| self.operations.get(name)) {
            return Answer::json(200, known);
        }
        let answer = self.ordered(world, zone, &body);
        let name = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        if let Some(name) = name["name"].as_str().filter(|_| answer.status == 200) {
            self.requests.insert(id, name.to_owned());
        }
        answer
    }

    fn ordered(&mut self, world: &mut World, zone: &str, body: &Value) -> Answer {
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let kind = text("/machineType");
        let kind = kind.strip_prefix(&format!("zones/{zone}/machineTypes/")).unwrap_or_default().to_owned();
        if !self.zones.iter().any(|own| own == zone) || !KINDS.iter().any(|(name, ..)| *name == kind) {
            let message = format!(
                "Invalid value for field 'resource.machineType': '{kind}'. Machine type with name '{kind}' does not exist in zone '{zone}'."
            );
            return says::error(400, "invalid", &message);
        }
        let name = text("/name");
        let is_taken = self.places.iter().any(|(id, (own, called, _))| {
            own == zone && *called == name && world.machines.iter().any(|machine| machine.id == *id)
        });
        if is_taken {
            return says::error(
                409,
                "alreadyExists",
                &format!("The resource 'projects/{PROJECT}/zones/{zone}/instances/{name}' already exists"),
            );
        }
        if self.full.contains(zone) {
            let error = json!({ "code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "message": says::EXHAUSTED, "status": 503 });
            return self.operation("insert", Some(zone), 0, Some(error));
        }
        if world.machines.len() >= world.quota {
            let error = json!({ "code": "QUOTA_EXCEEDED", "message": says::QUOTA, "status": 403 });
            return self.operation("insert", Some(zone), 0, Some(error));
        }
        let labels: Vec<String> = body["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let items = body.pointer("/metadata/items").and_then(Value::as_array).cloned().unwrap_or_default();
        let data = items.iter().find(|item| item["key"] == "user-data");
        let data = data.and_then(|item| item["value"].as_str()).unwrap_or_default();
        let id = world.add(&name, &labels, &kind, REGION, data);
        self.places.insert(id, (zone.to_owned(), name, body.clone()));
        self.operation("insert", Some(zone), id, None)
    }

    fn machine(&mut self, world: &mut World, zone: &str, id: &str, verb: &str) -> Answer {
        let mut numbers = world.machines.iter().map(|machine| machine.id);
        let found = numbers.find(|number| {
            let is_named = number.to_string() == id || self.name_of(world, *number) == id;
            is_named && self.zone_of(*number) == zone
        });
        let Some(number) = found else {
            return says::not_found(&format!("projects/{PROJECT}/zones/{zone}/instances/{id}"));
        };
        match verb {
            "get" => return Answer::json(200, &self.shown(world, number)),
            "start" => world.machine(number).unwrap().power = Power::On,
            "stop" => world.machine(number).unwrap().power = Power::Off,
            _ => {
                world.remove(number);
            }
        }
        self.operation(verb, Some(zone), number, None)
    }

    fn firewall(&mut self, method: &Method, rest: &[&str], request: &Request) -> Answer {
        match (method, rest) {
            (&Method::POST, []) => {
                let mut rule = request.json();
                let name = rule["name"].as_str().unwrap_or_default().to_owned();
                if self.firewalls.contains_key(&name) {
                    return says::error(
                        409,
                        "alreadyExists",
                        &format!("The resource 'projects/{PROJECT}/global/firewalls/{name}' already exists"),
                    );
                }
                let network = rule["network"].as_str().unwrap_or_default();
                rule["network"] =
                    json!(format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/{network}"));
                rule["kind"] = json!("compute#firewall");
                self.firewalls.insert(name, rule);
                self.operation("insert", None, 9, None)
            }
            (&Method::DELETE, [name]) => match self.firewalls.remove(*name) {
                Some(_) => self.operation("delete", None, 9, None),
                None => says::not_found(name),
            },
            (&Method::GET, [name]) => match self.firewalls.get(*name) {
                Some(rule) => Answer::json(200, rule),
                None => says::not_found(name),
            },
            _ => says::not_found(&request.path),
        }
    }

    /// What of an order would make a machine that lets somebody in.
    fn unsafe_order(&self, order: &Value) -> Vec<String> {
        let tags = order.pointer("/tags/items").and_then(Value::as_array).cloned().unwrap_or_default();
        let guards = |rule: &Value| {
            let of = rule["targetTags"].as_array().cloned().unwrap_or_default();
            rule["denied"][0]["IPProtocol"] == "all"
                && rule["priority"] == 0
                && rule["disabled"] == false
                && of.iter().any(|tag| tags.contains(tag))
        };
        let mut broken = Vec::new();
        if !self.firewalls.values().any(guards) {
            broken.push("a machine is ordered behind no rule that is closed".to_owned());
        }
        let accounts = order["serviceAccounts"].as_array().cloned().unwrap_or_default();
        if !accounts
            .iter()
            .map(|account| account["email"].as_str())
            .eq(self.of_machines.iter().map(|own| Some(own.as_str())))
        {
            broken.push("it gives the machine another account, or none".to_owned());
        }
        broken
    }
}
