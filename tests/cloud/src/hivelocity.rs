//! Hivelocity's core API v2, as far as the hub uses it. Shapes are those of its own document (2024-02); how it words
//! refusals is not documented, and made up here.

mod says;

use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Power, Refusal, Throttling, World};

/// The API. Clones are handles of the same account, so that a test keeps one.
#[derive(Debug, Clone, Default)]
pub struct HivelocityDialect(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    /// Whether orders are delivered at once.
    delivers_late: bool,
    /// Cancellations that fail.
    failures: usize,
}

impl HivelocityDialect {
    /// Orders are not delivered until a test sets the power of their machines.
    pub fn deliver_late(&self) {
        self.0.lock().delivers_late = true;
    }

    /// The next cancellation fails, as the API's document has it.
    pub fn fail_cancellation(&self) {
        self.0.lock().failures += 1;
    }
}

/// The path below `/api/v2`, without the slash at its end.
fn parts(request: &Request) -> Vec<&str> {
    let path = request.path.strip_prefix("/api/v2/").unwrap_or_default();
    path.trim_end_matches('/').split('/').collect()
}

impl Dialect for HivelocityDialect {
    fn kind(&self, request: &Request) -> Kind {
        match (request.method.as_str(), parts(request).as_slice()) {
            ("GET", ["bare-metal-devices" | "compute"]) => Kind::List,
            ("POST", ["bare-metal-devices" | "compute"]) => Kind::Create,
            ("DELETE", ["bare-metal-devices" | "compute", _]) => Kind::Delete,
            ("POST", ["device", _, "power"]) => Kind::Switch,
            ("GET", ["inventory", "product"]) => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        self.0.lock().answer(world, request)
    }

    fn refuse(&self, _: &World, request: &Request, refusal: Refusal) -> Answer {
        says::refusal(request, refusal)
    }

    fn broken_rules(&mut self, world: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        let mut broken = Vec::new();
        let mut rule = |is_kept: bool, text: &str| {
            if !is_kept {
                broken.push(text.to_owned());
            }
        };
        rule(request.header("x-api-key").is_some(), "no X-API-KEY");
        rule(request.path.starts_with("/api/v2/"), "a path outside of /api/v2");
        let order = request.json();
        if self.kind(request) == Kind::Create {
            let text = |field: &str| order[field].as_str().unwrap_or_default();
            rule(text("hostname").contains('.'), "a host name without a domain");
            rule(text("period") == "hourly", "an order for a month or longer");
            rule(text("script").starts_with("#"), "a script that is none");
            let is_vps = request.path.contains("/compute");
            rule(text("osName").ends_with("(VPS)") == is_vps, "a system of the other line of machines");
        }
        if let ["bare-metal-devices" | "compute" | "device", id, ..] = parts(request).as_slice()
            && request.method != Method::GET
        {
            let machine = id.parse().ok().and_then(|id: u64| world.machines.iter().find(|own| own.id == id));
            let is_foreign = machine.is_some_and(|own| own.tags.iter().all(|tag| tag != "bp-node"));
            rule(!is_foreign, "a device is changed that is no hub's");
        }
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Seconds(7), Throttling::Silent]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        says::swap_types(&mut body);
        Answer { body: body.to_string().into(), ..answer }
    }
}

impl Account {
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.header("x-api-key") != Some(world.token.as_str()) {
            return says::error(401, "Invalid API key.");
        }
        let parts = parts(request);
        match (&request.method, parts.as_slice()) {
            (&Method::GET, [line @ ("bare-metal-devices" | "compute")]) => {
                let rows: Vec<Value> =
                    world.listed().filter(|machine| says::is_of(machine, line)).map(says::device).collect();
                if world.shrinks_between_pages && !rows.is_empty() {
                    world.shrinks_between_pages = false;
                    let first = world.machines.first().map(|machine| machine.id);
                    first.map(|id| world.remove(id));
                }
                Answer::json(200, &json!(rows))
            }
            (&Method::POST, ["bare-metal-devices" | "compute"]) => self.create(world, request),
            (method, [line @ ("bare-metal-devices" | "compute"), id]) => self.one(world, method, line, id),
            (&Method::POST, ["device", id, "power"]) => power(world, id, request),
            (&Method::GET, ["inventory", "product"]) => {
                says::stock(request.query("location").unwrap_or("MAIN"), world.has_absurd_prices)
            }
            (&Method::GET, ["inventory", "locations"]) => says::locations(),
            (&Method::GET, ["profile", "basic"]) => says::profile(),
            _ => says::error(404, "Not found."),
        }
    }

    fn create(&self, world: &mut World, request: &Request) -> Answer {
        let body = request.json();
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        let product = body["productId"].as_u64().unwrap_or_default();
        if !says::sells(product, &text("locationName")) {
            return says::error(400, "The product is not available in this location.");
        }
        if world.machines.len() >= world.quota {
            return says::error(400, "Your account has reached its limit of devices.");
        }
        let tags: Vec<String> = body["tags"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let hostname = text("hostname");
        let name = hostname.split('.').next().unwrap_or_default();
        let id = world.add(name, &tags, &product.to_string(), &text("locationName"), &text("script"));
        if self.delivers_late {
            world.machine(id).unwrap().power = Power::Starting;
        }
        Answer::json(200, &says::device(world.machine(id).unwrap()))
    }

    fn one(&mut self, world: &mut World, method: &Method, line: &str, id: &str) -> Answer {
        let found =
            id.parse().ok().and_then(|id| world.machine(id)).filter(|machine| says::is_of(machine, line));
        let Some(machine) = found else { return says::error(404, "Device Not Found") };
        match *method {
            Method::GET => Answer::json(200, &says::device(machine)),
            Method::DELETE if self.failures > 0 => {
                self.failures -= 1;
                says::error(400, "Device Cancellation Failed.")
            }
            Method::DELETE => {
                let id = machine.id;
                world.remove(id);
                Answer::empty(204)
            }
            _ => says::error(404, "Not found."),
        }
    }
}

fn power(world: &mut World, id: &str, request: &Request) -> Answer {
    let Some(machine) = id.parse().ok().and_then(|id| world.machine(id)) else {
        return says::error(404, "Device Not Found");
    };
    let status = match request.query("action") {
        Some("boot" | "reboot") => {
            machine.power = Power::On;
            "ON"
        }
        Some("shutdown") => {
            machine.power = Power::Off;
            "OFF"
        }
        _ => return says::error(400, "Unknown action."),
    };
    Answer::json(202, &json!({ "powerStatus": status }))
}
