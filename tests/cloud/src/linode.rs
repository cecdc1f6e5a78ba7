//! Linode's API v4, as far as the hub uses it.

mod rules;
mod says;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Machine, Power, Refusal, Throttling, World};

/// The API. Clones are handles of the same account, so that a test keeps one.
#[derive(Debug, Clone, Default)]
pub struct LinodeDialect(Arc<Mutex<Account>>);

/// What is in the account beside instances.
#[derive(Debug, Default)]
struct Account {
    firewalls: Vec<Value>,
    is_restricted: bool,
    /// Requests by time, for the rate, and whether they were pages and creations.
    times: Vec<(Instant, bool, bool)>,
}

/// The bounds of a page.
const PAGE_SIZE: std::ops::RangeInclusive<usize> = 25..=500;

const INSTANCES: &str = "/v4/linode/instances";

impl Dialect for LinodeDialect {
    fn kind(&self, request: &Request) -> Kind {
        let is_of_all = request.header("x-filter").is_some_and(|filter| filter.contains("bp-node"));
        let parts: Vec<_> = request.path.trim_start_matches("/v4/").split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["linode", "instances"]) if is_of_all => Kind::List,
            ("POST", ["linode", "instances"]) => Kind::Create,
            ("DELETE", ["linode", "instances", _]) => Kind::Delete,
            ("POST", ["linode", "instances", _, _]) => Kind::Switch,
            ("GET", ["linode", "types"]) => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        self.0.lock().answer(world, request)
    }

    fn refuse(&self, world: &World, request: &Request, refusal: Refusal) -> Answer {
        says::refusal(world, request, refusal)
    }

    fn broken_rules(&mut self, _: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        let mut broken = rules::of_request(request);
        let mut account = self.0.lock();
        if self.kind(request) == Kind::Create {
            broken.extend(account.unsafe_order(&request.json()));
        }
        broken.extend(account.rate(request));
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Seconds(7), Throttling::Reset(30), Throttling::Silent]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        crate::json::wrong_types(answer)
    }
}

impl LinodeDialect {
    /// Every firewall, as the API shows it.
    #[must_use]
    pub fn firewalls(&self) -> Vec<Value> {
        self.0.lock().firewalls.clone()
    }

    /// A person lets SSH in by every firewall.
    pub fn open_firewalls(&self) {
        for firewall in &mut self.0.lock().firewalls {
            firewall["rules"]["inbound"] = json!([{
                "action": "ACCEPT", "protocol": "TCP", "ports": "22", "addresses": { "ipv4": ["0.0.0.0/0"] },
            }]);
        }
    }

    /// A person switches every firewall off.
    pub fn disable_firewalls(&self) {
        for firewall in &mut self.0.lock().firewalls {
            firewall["status"] = json!("disabled");
        }
    }

    /// A person deletes every firewall.
    pub fn clear(&self) {
        self.0.lock().firewalls.clear();
    }

    /// The user of the token may not do everything.
    pub fn restrict_user(&self) {
        self.0.lock().is_restricted = true;
    }
}

impl Account {
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.header("authorization") != Some(&format!("Bearer {}", world.token)) {
            return says::error(401, "Invalid Token", None);
        }
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_start_matches("/v4/").split('/').collect();
        let size = world.page_limit;
        let answer = match (&request.method, parts.as_slice()) {
            (&Method::GET, ["linode", "instances"]) => list(world, request),
            (&Method::POST, ["linode", "instances"]) => self.create(world, request),
            (&Method::GET, ["linode", "instances", id]) => match machine(world, id) {
                Some(machine) => Answer::json(200, &says::machine(machine)),
                None => says::not_found(),
            },
            (&Method::DELETE, ["linode", "instances", id]) => {
                let is_there = id.parse().is_ok_and(|id| world.remove(id));
                if is_there { says::nothing() } else { says::not_found() }
            }
            (&Method::POST, ["linode", "instances", id, verb @ ("boot" | "shutdown")]) => {
                match machine(world, id) {
                    Some(machine) => {
                        machine.power = if *verb == "boot" { Power::On } else { Power::Off };
                        says::nothing()
                    }
                    None => says::not_found(),
                }
            }
            (&Method::GET, ["linode", "types"]) => {
                says::page(request, &says::types(world.has_absurd_prices), size)
            }
            (&Method::GET, ["regions"]) => says::page(request, &says::regions(), size),
            (&Method::GET, ["regions", "availability"]) => says::page(request, &says::availability(), size),
            (&Method::GET, ["profile"]) => says::profile(self.is_restricted),
            (&Method::GET, ["images", id]) => says::image(&id.replace("%2F", "/")),
            (method, ["networking", "firewalls", rest @ ..]) => self.firewall(world, method, rest, request),
            _ => says::not_found(),
        };
        let reset = world.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() + 60;
        answer
            .header("x-ratelimit-limit", "1600".to_owned())
            .header("x-ratelimit-remaining", "1599".to_owned())
            .header("x-ratelimit-reset", reset.to_string())
    }

    fn create(&self, world: &mut World, request: &Request) -> Answer {
        let body = request.json();
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        if !self.firewalls.iter().any(|own| own["id"] == body["firewall_id"]) {
            return says::error(400, "firewall_id is not valid", Some("firewall_id"));
        }
        let types = says::types(false);
        if !types.iter().any(|kind| kind["id"] == body["type"]) {
            let reason = "A valid plan type by that ID was not found";
            return says::error(400, &format!("{reason}, or is not available"), Some("type"));
        }
        if !says::regions().iter().any(|region| region["id"] == body["region"]) {
            return says::error(400, "region is not valid", Some("region"));
        }
        if world.machines.len() >= world.quota {
            return says::error(400, says::LIMIT, None);
        }
        // Of all instances, whether lists show them or not.
        let label = text("label");
        if world.machines.iter().any(|machine| machine.name == label) {
            return says::error(400, "Label must be unique among your linodes", Some("label"));
        }
        let tags: Vec<String> = body["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let user_data = body["metadata"]["user_data"].as_str().unwrap_or_default();
        let user_data = STANDARD.decode(user_data).unwrap_or_default();
        let user_data = String::from_utf8_lossy(&user_data).into_owned();
        let id = world.add(&label, &tags, &text("type"), &text("region"), &user_data);
        let mut made = says::machine(world.machine(id).unwrap());
        made["status"] = json!("provisioning");
        Answer::json(200, &made)
    }

    fn firewall(&mut self, world: &mut World, method: &Method, rest: &[&str], request: &Request) -> Answer {
        let body = request.json();
        match (method, rest) {
            (&Method::GET, []) => says::page(request, &self.firewalls, world.page_limit),
            (&Method::POST, []) if self.firewalls.iter().any(|own| own["label"] == body["label"]) => {
                says::error(400, "Label must be unique among your firewalls", Some("label"))
            }
            (&Method::POST, []) => {
                let firewall = says::firewall(world.take_id(), &body);
                self.firewalls.push(firewall.clone());
                Answer::json(200, &firewall)
            }
            (&Method::DELETE, [id]) => {
                let before = self.firewalls.len();
                self.firewalls.retain(|own| own["id"].as_u64() != id.parse().ok());
                let is_gone = self.firewalls.len() < before;
                if is_gone { Answer::json(200, &json!({})) } else { says::not_found() }
            }
            (method, [id, rest @ ..]) => {
                let is_it = |own: &&mut Value| own["id"].as_u64().is_some_and(|own| own.to_string() == **id);
                let Some(own) = self.firewalls.iter_mut().find(is_it) else { return says::not_found() };
                match (method, rest) {
                    (&Method::GET, []) => Answer::json(200, own),
                    (&Method::PUT, []) => {
                        own["status"] = body["status"].clone();
                        Answer::json(200, own)
                    }
                    (&Method::PUT, ["rules"]) => {
                        own["rules"] = says::rules(&body);
                        Answer::json(200, &own["rules"])
                    }
                    _ => says::not_found(),
                }
            }
            _ => says::not_found(),
        }
    }

    /// What of an order would make an instance that lets somebody in.
    fn unsafe_order(&self, order: &Value) -> Option<String> {
        let guards = |firewall: &&Value| {
            let inbound = firewall["rules"]["inbound"].as_array();
            firewall["id"] == order["firewall_id"]
                && firewall["status"] == "enabled"
                && firewall["rules"]["inbound_policy"] == "DROP"
                && inbound.is_none_or(Vec::is_empty)
        };
        let is_guarded = self.firewalls.iter().any(|firewall| guards(&firewall));
        (!is_guarded).then(|| "an instance is ordered behind no firewall that is closed".to_owned())
    }

    /// 200 pages and 1,600 requests a minute, 20 creations in 15 s (the API's page about limits, 2026-09).
    fn rate(&mut self, request: &Request) -> Vec<String> {
        let is_page = request.method == Method::GET && request.query("page").is_some();
        let is_creation = request.method == Method::POST && request.path == INSTANCES;
        self.times.push((Instant::now(), is_page, is_creation));
        let within = |seconds: u64, is_it: &dyn Fn(bool, bool) -> bool| {
            let recent = |at: &Instant| at.elapsed() < Duration::from_secs(seconds);
            self.times.iter().filter(|(at, page, creation)| recent(at) && is_it(*page, *creation)).count()
        };
        let mut broken = Vec::new();
        if within(60, &|_, _| true) > 1600 {
            broken.push("more than 1600 requests in a minute".to_owned());
        }
        if is_page && within(60, &|page, _| page) > 200 {
            broken.push("more than 200 pages in a minute".to_owned());
        }
        if is_creation && within(15, &|_, creation| creation) > 20 {
            broken.push("more than 20 creations in 15 seconds".to_owned());
        }
        broken
    }
}

fn list(world: &mut World, request: &Request) -> Answer {
    let filter: Value =
        request.header("x-filter").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let has_tag = |machine: &Machine, tag: &str| machine.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    let rows: Vec<Value> = world
        .listed()
        .filter(|machine| filter["tags"].as_str().is_none_or(|tag| has_tag(machine, tag)))
        .filter(|machine| filter["label"].as_str().is_none_or(|label| machine.name == label))
        .map(says::machine)
        .collect();
    let page = says::page(request, &rows, world.page_limit);
    if world.shrinks_between_pages && !rows.is_empty() {
        world.shrinks_between_pages = false;
        let first = world.machines.first().map(|machine| machine.id);
        first.map(|id| world.remove(id));
    }
    page
}

fn machine<'a>(world: &'a mut World, id: &str) -> Option<&'a mut Machine> {
    world.machine(id.parse().ok()?)
}
