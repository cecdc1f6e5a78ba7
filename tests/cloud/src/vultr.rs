//! Vultr's API v2, as far as the hub uses it.

mod metal;
mod rules;
mod says;

use std::sync::Arc;

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
pub struct VultrDialect(Arc<Mutex<Account>>);

/// What is in the account beside instances.
#[derive(Debug, Default)]
struct Account {
    /// Groups with their rules.
    firewalls: Vec<(Value, Vec<Value>)>,
    /// Whether the key may be used from here.
    is_elsewhere: bool,
}

/// Most rows of a page.
const PER_PAGE: usize = 500;

/// Lists of machines.
const LINES: [&str; 2] = ["instances", "bare-metals"];

/// Whether a machine is a whole one.
fn is_metal(machine: &Machine) -> bool {
    machine.plan.starts_with("vbm-")
}

/// What Vultr calls the machine with this number.
#[must_use]
pub fn name_of(id: u64) -> String {
    format!("00000000-0000-4000-8000-{id:012x}")
}

impl Dialect for VultrDialect {
    fn kind(&self, request: &Request) -> Kind {
        let parts: Vec<_> = request.path.trim_start_matches("/v2/").split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["instances"]) if request.query("tag") == Some("bp-node") => Kind::List,
            ("GET", ["bare-metals"]) if request.query("per_page") != Some("1") => Kind::List,
            ("POST", [line]) if LINES.contains(line) => Kind::Create,
            ("DELETE", [line, _]) if LINES.contains(line) => Kind::Delete,
            ("POST", [line, _, _]) if LINES.contains(line) => Kind::Switch,
            ("GET", ["plans" | "plans-metal"]) => Kind::Offers,
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
        if self.kind(request) == Kind::Create && request.path.ends_with("/instances") {
            broken.extend(self.0.lock().unsafe_order(&request.json()));
        }
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Seconds(7), Throttling::Silent]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        crate::json::wrong_types(answer)
    }
}

impl VultrDialect {
    /// Names of the firewall groups, and how many rules each has.
    #[must_use]
    pub fn firewalls(&self) -> Vec<(String, usize)> {
        let account = self.0.lock();
        let name = |group: &Value| group["description"].as_str().unwrap_or_default().to_owned();
        account.firewalls.iter().map(|(group, rules)| (name(group), rules.len())).collect()
    }

    /// A person lets SSH in by every firewall group.
    pub fn open_firewalls(&self) {
        for (number, (_, rules)) in (1..).zip(&mut self.0.lock().firewalls) {
            rules.push(json!({
                "id": number, "ip_type": "v4", "action": "accept", "protocol": "tcp", "port": "22",
                "subnet": "0.0.0.0", "subnet_size": 0, "source": "", "notes": "",
            }));
        }
    }

    /// A person deletes every firewall group.
    pub fn clear(&self) {
        self.0.lock().firewalls.clear();
    }

    /// The key is for calls from another address.
    pub fn move_away(&self) {
        self.0.lock().is_elsewhere = true;
    }
}

impl Account {
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.header("authorization") != Some(&format!("Bearer {}", world.token)) {
            return says::error(401, "Invalid API token.");
        }
        if self.is_elsewhere {
            return says::error(401, "Unauthorized IP address: 192.0.2.1");
        }
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_start_matches("/v2/").split('/').collect();
        let size = world.page_limit.min(PER_PAGE);
        match (&request.method, parts.as_slice()) {
            (&Method::GET, ["instances"]) => list(world, request),
            (&Method::POST, ["instances"]) => self.create(world, request, false),
            (&Method::POST, ["bare-metals"]) => self.create(world, request, true),
            (method, ["bare-metals", rest @ ..]) => metal::answer(world, method, rest, request),
            (&Method::GET, ["instances", id]) => match machine(world, id) {
                Some(machine) => Answer::json(200, &json!({ "instance": says::machine(machine) })),
                None => says::not_found(),
            },
            (&Method::DELETE, ["instances", id]) => {
                let id = machine(world, id).map(|machine| machine.id);
                if id.is_some_and(|id| world.remove(id)) { Answer::empty(204) } else { says::not_found() }
            }
            (&Method::POST, ["instances", id, verb @ ("start" | "halt")]) => match machine(world, id) {
                Some(machine) => {
                    machine.power = if *verb == "start" { Power::On } else { Power::Off };
                    Answer::empty(204)
                }
                None => says::not_found(),
            },
            (&Method::GET, ["plans"]) => {
                says::page(request, "plans", &says::plans(world.has_absurd_prices), size)
            }
            (&Method::GET, ["plans-metal"]) => {
                says::page(request, "plans_metal", &says::metal_plans(world.has_absurd_prices), size)
            }
            (&Method::GET, ["regions"]) => says::page(request, "regions", &says::regions(), size),
            (&Method::GET, ["os"]) => says::page(request, "os", &says::systems(), size),
            (&Method::GET, ["account"]) => says::account(),
            (method, ["firewalls", rest @ ..]) => self.firewall(world, method, rest, request),
            _ => says::not_found(),
        }
    }

    fn create(&self, world: &mut World, request: &Request, is_metal: bool) -> Answer {
        let body = request.json();
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let is_group = |(group, _): &(Value, Vec<Value>)| group["id"] == body["firewall_group_id"];
        if !is_metal && !self.firewalls.iter().any(is_group) {
            return says::error(400, "Invalid firewall group.");
        }
        let plans = if is_metal { says::metal_plans(false) } else { says::plans(false) };
        let Some(plan) = plans.iter().find(|plan| plan["id"] == body["plan"]) else {
            return says::error(400, "Invalid plan.");
        };
        if !says::regions().iter().any(|region| region["id"] == body["region"]) {
            return says::error(400, "Invalid location.");
        }
        if !plan["locations"].as_array().is_some_and(|places| places.contains(&body["region"])) {
            return says::error(400, says::NONE_LEFT);
        }
        if world.machines.len() >= world.quota {
            return says::error(400, says::LIMIT);
        }
        let tags = says::tags(&body);
        let user_data = STANDARD.decode(text("user_data")).unwrap_or_default();
        let user_data = String::from_utf8_lossy(&user_data).into_owned();
        let id = world.add(&text("label"), &tags, &text("plan"), &text("region"), &user_data);
        let machine = world.machine(id).unwrap();
        let mut made = if is_metal { says::metal(machine) } else { says::machine(machine) };
        made["status"] = json!("pending");
        made["default_password"] = json!("v5{Fcanary3-Nhfb");
        if is_metal {
            return Answer::json(202, &json!({ "bare_metal": made }));
        }
        made["server_status"] = json!("none");
        Answer::json(202, &json!({ "instance": made }))
    }

    fn firewall(&mut self, world: &mut World, method: &Method, rest: &[&str], request: &Request) -> Answer {
        let size = world.page_limit.min(PER_PAGE);
        match (method, rest) {
            (&Method::GET, []) => {
                let groups: Vec<_> = self.firewalls.iter().map(|(group, _)| group.clone()).collect();
                says::page(request, "firewall_groups", &groups, size)
            }
            (&Method::POST, []) => {
                let group = says::group(&name_of(world.take_id()), &request.json()["description"]);
                self.firewalls.push((group.clone(), Vec::new()));
                Answer::json(201, &json!({ "firewall_group": group }))
            }
            (&Method::DELETE, [id]) => {
                let before = self.firewalls.len();
                self.firewalls.retain(|(group, _)| group["id"] != **id);
                if self.firewalls.len() < before { Answer::empty(204) } else { says::not_found() }
            }
            (method, [id, "rules", rest @ ..]) => {
                let is_it = |own: &&mut (Value, Vec<Value>)| own.0["id"] == **id;
                let Some((_, rules)) = self.firewalls.iter_mut().find(is_it) else {
                    return says::not_found();
                };
                match (method, rest) {
                    (&Method::GET, []) => says::page(request, "firewall_rules", rules, size),
                    (&Method::DELETE, [number]) => {
                        let number = number.parse::<u64>().ok();
                        rules.retain(|rule| rule["id"].as_u64() != number);
                        Answer::empty(204)
                    }
                    _ => says::not_found(),
                }
            }
            _ => says::not_found(),
        }
    }

    /// What of an order would make an instance that lets somebody in.
    fn unsafe_order(&self, order: &Value) -> Option<String> {
        let mut groups = self.firewalls.iter();
        let is_guarded =
            groups.any(|(group, rules)| group["id"] == order["firewall_group_id"] && rules.is_empty());
        (!is_guarded).then(|| "an instance is ordered behind no firewall group that is closed".to_owned())
    }
}

fn list(world: &mut World, request: &Request) -> Answer {
    let has_tag = |machine: &Machine, tag: &str| machine.tags.iter().any(|own| own == tag);
    let rows: Vec<Value> = world
        .listed()
        .filter(|machine| !is_metal(machine))
        .filter(|machine| request.query("tag").is_none_or(|tag| has_tag(machine, tag)))
        .map(says::machine)
        .collect();
    let page = says::page(request, "instances", &rows, world.page_limit.min(PER_PAGE));
    if world.shrinks_between_pages && !rows.is_empty() {
        world.shrinks_between_pages = false;
        let first = world.machines.first().map(|machine| machine.id);
        first.map(|id| world.remove(id));
    }
    page
}

fn machine<'a>(world: &'a mut World, id: &str) -> Option<&'a mut Machine> {
    world.machines.iter_mut().find(|machine| !is_metal(machine) && name_of(machine.id) == id)
}
