//! The Docker Engine API, as far as the hub uses it for machines.
//!
//! An engine has no token; what stands for one here is a plugin for authorization, which lets the hub in while
//! the world's token is the first one.

mod rules;
mod says;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Machine, Power, Refusal, Throttling, World};

/// The API. Clones are handles of the same engine, so that a test keeps one.
#[derive(Debug, Clone)]
pub struct DockerDialect {
    token: String,
    engine: Arc<Mutex<Engine>>,
}

/// What an engine has beside containers.
#[derive(Debug, Default)]
struct Engine {
    networks: BTreeSet<String>,
    images: BTreeSet<String>,
    /// Containers that have their files.
    filled: BTreeSet<u64>,
}

/// What marks a container's own name among its labels.
const NAME: &str = "/";

impl Dialect for DockerDialect {
    fn kind(&self, request: &Request) -> Kind {
        match (request.method.as_str(), parts(&request.path).as_slice()) {
            ("GET", ["containers", "json"]) if filter(request).is_some_and(|label| !label.contains('=')) => {
                Kind::List
            }
            ("POST", ["containers", "create"]) => Kind::Create,
            ("DELETE", ["containers", _]) => Kind::Delete,
            ("POST", ["containers", ..]) => Kind::Switch,
            ("GET", ["info"]) => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if world.token != self.token {
            return says::refusal(request, Refusal::Forbidden);
        }
        self.engine.lock().answer(world, request)
    }

    fn refuse(&self, _: &World, request: &Request, refusal: Refusal) -> Answer {
        says::refusal(request, refusal)
    }

    fn broken_rules(&mut self, _: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        let mut broken = rules::of_path(request);
        if self.kind(request) == Kind::Create {
            broken.extend(rules::of_container(&request.json()));
        }
        broken
    }

    fn throttlings(&self) -> Vec<Throttling> {
        vec![Throttling::Silent]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        says::swap_types(&mut body);
        Answer { body: body.to_string().into(), ..answer }
    }
}

impl DockerDialect {
    /// An engine that lets in who came with `token`, and has these images.
    #[must_use]
    pub fn new(token: &str, images: &[&str]) -> Self {
        let images = images.iter().map(|image| (*image).to_owned()).collect();
        let engine = Engine { images, ..Engine::default() };
        Self { token: token.to_owned(), engine: Arc::new(Mutex::new(engine)) }
    }

    /// Names of its networks and images.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let engine = self.engine.lock();
        engine.networks.iter().chain(&engine.images).cloned().collect()
    }
}

/// A path without its version.
fn parts(path: &str) -> Vec<&str> {
    path.trim_start_matches("/v1.41").trim_start_matches('/').split('/').collect()
}

/// The label that a list is asked for.
fn filter(request: &Request) -> Option<String> {
    let filters: Value = serde_json::from_str(request.query("filters")?).ok()?;
    filters.pointer("/label/0")?.as_str().map(str::to_owned)
}

fn name_of(machine: &Machine) -> &str {
    machine.tags.iter().find_map(|tag| tag.strip_prefix(NAME)).unwrap_or(&machine.name)
}

fn find<'w>(world: &'w mut World, name: &str) -> Option<&'w mut Machine> {
    world.machines.iter_mut().find(|machine| says::id(machine.id) == name || name_of(machine) == name)
}

impl Engine {
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        let path = request.path.clone();
        match (&request.method, parts(&path).as_slice()) {
            (&Method::GET, ["version"]) => says::version(),
            (&Method::GET, ["info"]) => says::info(),
            (&Method::GET, ["containers", "json"]) => {
                let label = filter(request).unwrap_or_default();
                let has = |machine: &&Machine| {
                    machine.tags.iter().any(|tag| {
                        *tag == label || (!label.contains('=') && tag.starts_with(&format!("{label}=")))
                    })
                };
                let rows: Vec<_> = world.listed().filter(has).map(says::row).collect();
                Answer::json(200, &Value::from(rows))
            }
            (&Method::POST, ["containers", "create"]) => self.create(world, request),
            (&Method::GET, ["containers", name, "json"]) => match find(world, name) {
                Some(machine) => says::container(machine),
                None => says::no_container(name),
            },
            (&Method::DELETE, ["containers", name]) => {
                let Some(id) = find(world, name).map(|machine| machine.id) else {
                    return says::no_container(name);
                };
                world.remove(id);
                Answer::empty(204)
            }
            (&Method::PUT, ["containers", name, "archive"]) => self.fill(world, name, request),
            (&Method::POST, ["containers", name, verb]) => self.switch(world, name, verb),
            (method, ["networks", name]) => self.network(method, name, request),
            (method, ["images", ..]) => self.image(method, request),
            _ => says::error(404, "page not found"),
        }
    }

    fn create(&self, world: &mut World, request: &Request) -> Answer {
        let body = request.json();
        let name = request.query("name").unwrap_or_default().to_owned();
        if let Some(other) = find(world, &name) {
            return says::taken(&name, &says::id(other.id));
        }
        if !self.images.contains(body["Image"].as_str().unwrap_or_default()) {
            return says::error(404, &format!("No such image: {}", body["Image"]));
        }
        if world.machines.len() >= world.quota {
            return says::refusal(request, Refusal::Quota);
        }
        let mut tags = vec![format!("{NAME}{name}")];
        let labels = body["Labels"].as_object().into_iter().flatten();
        tags.extend(labels.map(|(label, value)| format!("{label}={}", value.as_str().unwrap_or_default())));
        let id = world.add(body["Hostname"].as_str().unwrap_or_default(), &tags, "", "", "");
        world.machine(id).unwrap().power = Power::Starting;
        Answer::json(201, &json!({ "Id": says::id(id), "Warnings": [] }))
    }

    /// What a machine is told, out of the archive that is put into it.
    fn fill(&mut self, world: &mut World, name: &str, request: &Request) -> Answer {
        let Some(machine) = find(world, name) else { return says::no_container(name) };
        let files = says::unpacked(&request.body);
        let text = |name: &str| files.get(name).cloned().unwrap_or_default();
        let config = text("agent.toml");
        let named = config.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        if files.contains_key("bin/blueprint-agent") {
            self.filled.insert(machine.id);
        }
        machine.user_data = json!({ "join_line": text("join").trim_end(), "name": named }).to_string();
        Answer::empty(200)
    }

    fn switch(&self, world: &mut World, name: &str, verb: &str) -> Answer {
        let Some(machine) = find(world, name) else { return says::no_container(name) };
        let was = machine.power;
        machine.power = match verb {
            "start" if self.filled.contains(&machine.id) && !self.networks.is_empty() => Power::On,
            "start" => return says::error(400, "exec: \"/blueprint/bin/blueprint-agent\": no such file"),
            "stop" => Power::Off,
            _ => return says::error(404, "page not found"),
        };
        Answer::empty(if was == machine.power { 304 } else { 204 })
    }

    fn network(&mut self, method: &Method, name: &str, request: &Request) -> Answer {
        match method.as_str() {
            "GET" if self.networks.contains(name) => says::network(name),
            "POST" if name == "create" => {
                let name = request.json()["Name"].as_str().unwrap_or_default().to_owned();
                self.networks.insert(name);
                Answer::json(201, &json!({ "Id": says::id(7), "Warning": "" }))
            }
            "DELETE" if self.networks.remove(name) => Answer::empty(204),
            _ => says::error(404, &format!("network {name} not found")),
        }
    }

    fn image(&mut self, method: &Method, request: &Request) -> Answer {
        let path = request.path.clone();
        let name = path.split_once("/images/").map(|(_, name)| name).unwrap_or_default();
        let name = name.strip_suffix("/json").unwrap_or(name);
        match method.as_str() {
            "GET" if self.images.contains(name) => Answer::json(200, &json!({ "Id": "sha256:07" })),
            "POST" if name == "create" && request.query("fromSrc") == Some("-") => {
                let part = |field| request.query(field).unwrap_or_default();
                self.images.insert(format!("{}:{}", part("repo"), part("tag")));
                Answer::json(200, &json!({ "status": "sha256:07" }))
            }
            "DELETE" if self.images.remove(name) => Answer::json(200, &json!([{ "Untagged": name }])),
            _ => says::error(404, &format!("No such image: {name}")),
        }
    }
}
