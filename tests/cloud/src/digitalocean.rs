//! DigitalOcean's API v2, as far as the hub uses it.

mod rules;
mod says;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Machine, Power, Refusal, Throttling, World};

/// The API. Clones are handles of the same account, so that a test keeps one.
#[derive(Debug, Clone, Default)]
pub struct DigitalOceanDialect(Arc<Mutex<Account>>);

/// What is in the account beside droplets.
#[derive(Debug, Default)]
struct Account {
    tags: BTreeSet<String>,
    firewalls: Vec<Value>,
    keys: Vec<Value>,
    actions: Vec<(u64, Value)>,
    /// Requests by time, for the rate.
    times: Vec<(Instant, bool)>,
}

/// The limit of a page.
const PER_PAGE: usize = 200;

impl Dialect for DigitalOceanDialect {
    fn kind(&self, request: &Request) -> Kind {
        let parts: Vec<_> = request.path.trim_start_matches("/v2/").split('/').collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["droplets"]) if request.query("name").is_none() => Kind::List,
            ("POST", ["droplets"]) => Kind::Create,
            ("DELETE", ["droplets", ..]) => Kind::Delete,
            ("POST", ["droplets", _, "actions"]) => Kind::Switch,
            ("GET", ["sizes"]) => Kind::Offers,
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
        if self.kind(request) == Kind::Create {
            broken.extend(self.0.lock().unsafe_order(&request.json()));
        }
        broken.extend(self.0.lock().rate(request));
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Seconds(7), Throttling::Date(11), Throttling::Reset(30), Throttling::Silent]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        crate::json::wrong_types(answer)
    }
}

impl DigitalOceanDialect {
    /// Every firewall, as the API shows it.
    #[must_use]
    pub fn firewalls(&self) -> Vec<Value> {
        self.0.lock().firewalls.clone()
    }

    /// Names of the SSH keys.
    #[must_use]
    pub fn key_names(&self) -> Vec<String> {
        self.0.lock().keys.iter().filter_map(|key| key["name"].as_str()).map(str::to_owned).collect()
    }

    /// A tag that nothing bears, such as one of a machine that is gone.
    pub fn add_tag(&self, name: &str) {
        self.0.lock().tags.insert(name.to_owned());
    }

    /// Names of the tags.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        self.0.lock().tags.iter().cloned().collect()
    }

    /// A person lets SSH in by every firewall.
    pub fn open_firewalls(&self) {
        for firewall in &mut self.0.lock().firewalls {
            let everybody = json!({ "addresses": ["0.0.0.0/0"] });
            firewall["inbound_rules"] = json!([{ "protocol": "tcp", "ports": "22", "sources": everybody }]);
        }
    }

    /// A person deletes every firewall and SSH key.
    pub fn clear(&self) {
        let mut account = self.0.lock();
        account.firewalls.clear();
        account.keys.clear();
    }
}

impl Account {
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.header("authorization") != Some(&format!("Bearer {}", world.token)) {
            return says::error(401, "unauthorized", "Unable to authenticate you");
        }
        let path = request.path.clone();
        let parts: Vec<&str> = path.trim_start_matches("/v2/").split('/').collect();
        let answer = match (&request.method, parts.as_slice()) {
            (&Method::GET, ["droplets"]) => self.list(world, request),
            (&Method::POST, ["droplets"]) => self.create(world, request),
            (&Method::GET, ["droplets", id]) => match machine(world, id) {
                Some(machine) => Answer::json(200, &json!({ "droplet": says::droplet(machine) })),
                None => says::not_found(),
            },
            (&Method::DELETE, ["droplets", id]) => delete(world, id, 204),
            (&Method::DELETE, ["droplets", id, "destroy_with_associated_resources", "selective"]) => {
                delete(world, id, 202)
            }
            (method, ["droplets", id, "actions"]) => self.actions(world, method, id, request),
            (&Method::GET, ["sizes"]) => {
                let sizes = says::sizes(world.has_absurd_prices);
                says::page(request, "sizes", &sizes, world.page_limit.min(PER_PAGE))
            }
            (&Method::GET, ["account"]) => says::account(world.quota),
            (&Method::GET, ["regions"]) => says::page(request, "regions", &says::regions(), PER_PAGE),
            (&Method::GET, ["tags"]) => {
                let tag = |name: &String| says::tag(name, world);
                says::page(request, "tags", &self.tags.iter().map(tag).collect::<Vec<_>>(), PER_PAGE)
            }
            (method, ["firewalls", rest @ ..]) => self.firewall(world, method, rest, request),
            (&Method::DELETE, ["account", "keys", id]) => {
                let before = self.keys.len();
                self.keys.retain(|own| own["id"].as_u64() != id.parse().ok());
                if self.keys.len() < before { Answer::empty(204) } else { says::not_found() }
            }
            (method, ["account", "keys"]) => self.key(world, method, request),
            (method, ["tags", rest @ ..]) => self.tag(world, method, rest, request),
            _ => says::not_found(),
        };
        let reset = world.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs() + 3600;
        answer
            .header("ratelimit-limit", "5000".to_owned())
            .header("ratelimit-remaining", "4999".to_owned())
            .header("ratelimit-reset", reset.to_string())
    }

    fn list(&mut self, world: &mut World, request: &Request) -> Answer {
        let is_gpu = |machine: &&Machine| machine.plan.starts_with("gpu-");
        let wants_gpus = request.query("type") == Some("gpus");
        let has_tag =
            |machine: &Machine, tag: &str| machine.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
        let rows: Vec<Value> = world
            .listed()
            .filter(|machine| is_gpu(machine) == wants_gpus)
            .filter(|machine| request.query("tag_name").is_none_or(|tag| has_tag(machine, tag)))
            .filter(|machine| {
                request.query("name").is_none_or(|name| machine.name.eq_ignore_ascii_case(name))
            })
            .map(says::droplet)
            .collect();
        let page = says::page(request, "droplets", &rows, world.page_limit.min(PER_PAGE));
        if world.shrinks_between_pages && !rows.is_empty() {
            world.shrinks_between_pages = false;
            let first = world.machines.first().map(|machine| machine.id);
            first.map(|id| world.remove(id));
        }
        page
    }

    fn create(&mut self, world: &mut World, request: &Request) -> Answer {
        let body = request.json();
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let key = body["ssh_keys"][0].as_u64();
        if !self.keys.iter().any(|own| own["id"].as_u64() == key) {
            let id = body["ssh_keys"][0].to_string();
            return says::unprocessable(&format!("{id} are invalid key identifiers for Droplet creation."));
        }
        let sizes = says::sizes(false);
        let Some(size) = sizes.iter().find(|size| size["slug"] == body["size"]) else {
            return says::unprocessable("You specified an invalid size for Droplet creation.");
        };
        if !size["regions"].as_array().is_some_and(|regions| regions.contains(&body["region"])) {
            return says::unprocessable("Size is not available in this region.");
        }
        if world.machines.len() >= world.quota {
            return says::unprocessable("creating this/these droplet(s) will exceed your droplet limit");
        }
        let tags: Vec<String> = body["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        self.tags.extend(tags.iter().cloned());
        let id = world.add(&text("name"), &tags, &text("size"), &text("region"), &text("user_data"));
        let machine = world.machine(id).unwrap();
        let mut droplet = says::droplet(machine);
        droplet["status"] = json!("new");
        let action = world.take_id();
        let href = format!("https://api.digitalocean.com/v2/actions/{action}");
        let links = json!({ "actions": [{ "id": action, "rel": "create", "href": href }] });
        Answer::json(202, &json!({ "droplet": droplet, "links": links }))
    }

    fn actions(&mut self, world: &mut World, method: &Method, id: &str, request: &Request) -> Answer {
        let number = world.take_id();
        let Some(machine) = machine(world, id) else { return says::not_found() };
        let of = machine.id;
        if *method == Method::GET {
            let mut rows: Vec<_> =
                self.actions.iter().filter(|(own, _)| *own == of).map(|(_, action)| action.clone()).collect();
            rows.reverse();
            return says::page(request, "actions", &rows, PER_PAGE);
        }
        let body = request.json();
        let kind = body["type"].as_str().unwrap_or_default();
        match kind {
            "power_on" => machine.power = Power::On,
            // A machine whose system does not listen; only its power can be taken.
            "shutdown" if machine.user_data.contains("ignores shutdown") => {}
            "shutdown" | "power_off" => machine.power = Power::Off,
            _ => return says::unprocessable("Type is not a known action"),
        }
        let action = says::action(number, of, kind);
        self.actions.push((of, action.clone()));
        Answer::json(201, &json!({ "action": action }))
    }

    fn firewall(&mut self, world: &mut World, method: &Method, rest: &[&str], request: &Request) -> Answer {
        let known = |tags: &BTreeSet<String>, body: &Value| {
            let wanted = body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
            wanted.into_iter().all(|tag| tags.contains(tag))
        };
        let body = request.json();
        match (method, rest) {
            (&Method::GET, []) => {
                says::page(request, "firewalls", &self.firewalls, world.page_limit.min(PER_PAGE))
            }
            (&Method::POST, []) if known(&self.tags, &body) => {
                let firewall = says::firewall(&format!("fw-{}", world.take_id()), &body);
                self.firewalls.push(firewall.clone());
                Answer::json(202, &json!({ "firewall": firewall }))
            }
            (&Method::POST | &Method::PUT, _) if !known(&self.tags, &body) => {
                says::error(400, "bad_request", "error validating firewall: tag does not exist")
            }
            (&Method::DELETE, [id]) => {
                let before = self.firewalls.len();
                self.firewalls.retain(|own| own["id"] != **id);
                if self.firewalls.len() < before { Answer::empty(204) } else { says::not_found() }
            }
            (method, [id]) => {
                let Some(own) = self.firewalls.iter_mut().find(|own| own["id"] == **id) else {
                    return says::not_found();
                };
                if *method == Method::PUT {
                    *own = says::firewall(id, &body);
                }
                Answer::json(200, &json!({ "firewall": own }))
            }
            _ => says::not_found(),
        }
    }

    fn key(&mut self, world: &mut World, method: &Method, request: &Request) -> Answer {
        if *method == Method::GET {
            return says::page(request, "ssh_keys", &self.keys, world.page_limit.min(PER_PAGE));
        }
        let body = request.json();
        if self.keys.iter().any(|own| own["public_key"] == body["public_key"]) {
            return says::unprocessable("SSH Key is already in use on your account");
        }
        let id = world.take_id();
        let key = json!({ "id": id, "fingerprint": format!("3b:16:{id}"), "public_key": body["public_key"], "name": body["name"] });
        self.keys.push(key.clone());
        Answer::json(201, &json!({ "ssh_key": key }))
    }

    fn tag(&mut self, world: &mut World, method: &Method, rest: &[&str], request: &Request) -> Answer {
        match (method, rest) {
            (&Method::POST, []) => {
                let name = request.json()["name"].as_str().unwrap_or_default().to_owned();
                self.tags.insert(name.clone());
                Answer::json(201, &json!({ "tag": says::tag(&name, world) }))
            }
            (&Method::GET, [name]) if self.tags.contains(*name) => {
                Answer::json(200, &json!({ "tag": says::tag(name, world) }))
            }
            (&Method::DELETE, [name]) if self.tags.remove(*name) => {
                for machine in &mut world.machines {
                    machine.tags.retain(|own| own != name);
                }
                Answer::empty(204)
            }
            _ => says::not_found(),
        }
    }

    /// What of an order would make a droplet that lets somebody in.
    fn unsafe_order(&self, order: &Value) -> Vec<String> {
        let tags = order["tags"].as_array().cloned().unwrap_or_default();
        let guards = |firewall: &Value| {
            let is_closed = firewall["inbound_rules"].as_array().is_none_or(Vec::is_empty);
            let own = firewall["tags"].as_array().cloned().unwrap_or_default();
            is_closed && own.iter().any(|tag| tags.contains(tag))
        };
        let mut broken = Vec::new();
        if !self.firewalls.iter().any(guards) {
            broken.push("a droplet is ordered behind no firewall that is closed".to_owned());
        }
        if order["ssh_keys"].as_array().is_none_or(Vec::is_empty) {
            broken.push("a droplet without an SSH key has its root password mailed".to_owned());
        }
        broken
    }

    /// 250 requests a minute, 5,000 an hour; keys 10 in a minute (the API's reference).
    fn rate(&mut self, request: &Request) -> Vec<String> {
        let is_key = request.path == "/v2/account/keys";
        self.times.push((Instant::now(), is_key));
        let last_minute = |keys: bool| {
            let recent = |at: &Instant| at.elapsed() < Duration::from_secs(60);
            self.times.iter().filter(|(at, is_key)| recent(at) && (*is_key || !keys)).count()
        };
        let mut broken = Vec::new();
        if last_minute(false) > 250 {
            broken.push("more than 250 requests in a minute".to_owned());
        }
        if is_key && last_minute(true) > 10 {
            broken.push("more than 10 requests for keys in a minute".to_owned());
        }
        broken
    }
}

fn machine<'a>(world: &'a mut World, id: &str) -> Option<&'a mut Machine> {
    world.machine(id.parse().ok()?)
}

fn delete(world: &mut World, id: &str, status: u16) -> Answer {
    let is_there = id.parse().is_ok_and(|id| world.remove(id));
    if is_there { Answer::empty(status) } else { says::not_found() }
}
