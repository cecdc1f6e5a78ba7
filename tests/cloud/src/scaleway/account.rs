//! What is in the project beside servers, and what becomes of requests.

use http::Method;
use serde_json::{Value, json};

use super::{PROJECT, parts, says, writes};
use crate::server::{Answer, Request};
use crate::world::{Machine, Power, World};

/// The zones of the fake; in the last one there is no Block Storage.
const ZONES: [&str; 9] = [
    "fr-par-1", "fr-par-2", "nl-ams-1", "nl-ams-2", "nl-ams-3", "pl-waw-1", "pl-waw-2", "pl-waw-3",
    "fr-par-3",
];

/// The limit of a page.
const PER_PAGE: usize = 100;

/// A volume of either product.
#[derive(Debug, Clone)]
pub(super) struct Volume {
    pub(super) id: u64,
    /// The server that it hangs on; none once that ended.
    pub(super) server: Option<u64>,
    pub(super) zone: String,
    pub(super) is_block: bool,
    pub(super) tags: Vec<String>,
}

/// The project.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) groups: Vec<Value>,
    pub(super) volumes: Vec<Volume>,
    /// Flexible addresses, and the servers that they lead to.
    pub(super) addresses: Vec<(u64, u64)>,
    pub(super) ends_slowly: bool,
    pub(super) locked: Option<u64>,
    /// Servers on their way out.
    ending: Vec<u64>,
}

impl Account {
    pub(super) fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.header("x-auth-token") != Some(world.token.as_str()) {
            return says::error(
                401,
                &json!({ "type": "denied_authentication", "method": "api_key", "reason": "invalid_argument" }),
            );
        }
        if request.path == "/marketplace/v2/local-images" {
            return says::images(request);
        }
        if let Some(id) = request.path.strip_prefix("/account/v3/projects/") {
            return if id == PROJECT { says::project() } else { says::not_found("project") };
        }
        let path = request.path.clone();
        let Some((product, zone, rest)) = parts(&path).filter(|(_, zone, _)| ZONES.contains(zone)) else {
            return says::error(404, &json!({ "type": "unknown_resource", "message": "unknown path" }));
        };
        match (product, rest.as_slice()) {
            ("block", _) if zone == "fr-par-3" => {
                says::error(404, &json!({ "type": "unknown_resource", "message": "unknown path" }))
            }
            ("block" | "instance", ["volumes", rest @ ..]) => {
                self.volume(world, product == "block", zone, rest, request)
            }
            ("instance", ["servers", rest @ ..]) => self.server(world, zone, rest, request),
            ("instance", ["security_groups", rest @ ..]) => self.group(world, zone, rest, request),
            ("instance", ["ips", id]) if request.method == Method::DELETE => {
                let before = self.addresses.len();
                self.addresses.retain(|(own, _)| says::uuid(*own) != *id);
                if self.addresses.len() < before { Answer::empty(204) } else { says::not_found("ip") }
            }
            ("instance", ["products", "servers"]) => says::types(request, zone, world),
            ("instance", ["products", "servers", "availability"]) => says::stock(),
            _ => says::not_found("path"),
        }
    }

    fn server(&mut self, world: &mut World, zone: &str, rest: &[&str], request: &Request) -> Answer {
        match (&request.method, rest) {
            (&Method::GET, []) => self.list(world, zone, request),
            (&Method::POST, []) => self.create(world, zone, request),
            (method, [id, rest @ ..]) => {
                let Some(number) = says::number(id) else { return says::not_found("instance_server") };
                let there = world.machine(number).is_some_and(|machine| machine.region == zone);
                if !there {
                    return says::not_found("instance_server");
                }
                self.one(world, method, number, rest, request)
            }
            _ => says::not_found("path"),
        }
    }

    fn one(
        &mut self,
        world: &mut World,
        method: &Method,
        id: u64,
        rest: &[&str],
        request: &Request,
    ) -> Answer {
        let body = request.json();
        let machine = world.machine(id).unwrap();
        match (method, rest) {
            (&Method::GET, []) => {}
            (&Method::PATCH, []) => {
                if let Some(tags) = body["tags"].as_array() {
                    machine.tags = tags.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                }
            }
            (&Method::PATCH, ["user_data", "cloud-init"]) => {
                machine.user_data = String::from_utf8_lossy(&request.body).into_owned();
                return Answer::empty(204);
            }
            (&Method::DELETE, []) if machine.power == Power::Off => {
                self.detach(id);
                world.remove(id);
                return Answer::empty(204);
            }
            (&Method::DELETE, []) => return says::bad_request("instance should be powered off"),
            (&Method::POST, ["action"]) => {
                return self.act(world, id, body["action"].as_str().unwrap_or_default());
            }
            _ => return says::not_found("path"),
        }
        let shown = self.shown(world.machine(id).unwrap());
        Answer::json(200, &json!({ "server": shown }))
    }

    fn act(&mut self, world: &mut World, id: u64, action: &str) -> Answer {
        let machine = world.machine(id).unwrap();
        if self.ending.contains(&id) {
            return says::error(409, &says::transient());
        }
        match (action, machine.power) {
            ("poweron", Power::Off) => machine.power = Power::On,
            ("poweroff", Power::On) => machine.power = Power::Off,
            // Recorded: a server that is off has the actions poweron and backup alone.
            ("terminate", Power::On | Power::Starting) => {
                self.ending.push(id);
                if !self.ends_slowly {
                    self.end(world);
                }
            }
            _ => return says::bad_request(&format!("{action} is not allowed in this state")),
        }
        Answer::json(
            202,
            &json!({ "task": { "id": says::uuid(id), "description": action, "status": "pending" } }),
        )
    }

    /// What is on its way out is gone: its local volumes with it, those of Block Storage not.
    pub(super) fn end(&mut self, world: &mut World) {
        for id in std::mem::take(&mut self.ending) {
            self.volumes.retain(|volume| volume.is_block || volume.server != Some(id));
            self.detach(id);
            world.remove(id);
        }
    }

    fn detach(&mut self, id: u64) {
        for volume in self.volumes.iter_mut().filter(|volume| volume.server == Some(id)) {
            volume.server = None;
        }
    }

    fn shown(&self, machine: &Machine) -> Value {
        let mut shown = says::server(machine);
        let own = self.volumes.iter().filter(|volume| volume.server == Some(machine.id));
        for (at, volume) in own.enumerate() {
            let kind = if volume.is_block { "sbs_volume" } else { "l_ssd" };
            shown["volumes"][at.to_string()] = json!({ "id": says::uuid(volume.id), "volume_type": kind, "state": "available", "boot": false, "zone": volume.zone });
        }
        let flexible = self.addresses.iter().filter(|(_, server)| *server == machine.id);
        let flexible = flexible
            .map(|(id, _)| json!({ "id": says::uuid(*id), "address": "51.15.0.2", "dynamic": false }));
        let own = (machine.power == Power::On)
            .then(|| json!({ "id": says::uuid(machine.id), "address": "51.15.0.1", "dynamic": true }));
        shown["public_ips"] = own.into_iter().chain(flexible).collect();
        if self.ending.contains(&machine.id) {
            shown["state"] = json!("stopping");
        }
        if self.locked == Some(machine.id) {
            shown["state"] = json!("locked");
        }
        shown
    }

    fn list(&self, world: &mut World, zone: &str, request: &Request) -> Answer {
        let wanted: Vec<&str> = request.query("tags").into_iter().flat_map(|tags| tags.split(',')).collect();
        let rows: Vec<Value> = world
            .listed()
            .filter(|machine| machine.region == zone)
            .filter(|machine| wanted.iter().all(|tag| machine.tags.iter().any(|own| own == tag)))
            .map(|machine| self.shown(machine))
            .collect();
        let page = says::page(request, "servers", &rows, world.page_limit.min(PER_PAGE));
        if world.shrinks_between_pages && !rows.is_empty() {
            world.shrinks_between_pages = false;
            let first = world.machines.first().map(|machine| machine.id);
            first.map(|id| world.remove(id));
        }
        page
    }

    fn create(&mut self, world: &mut World, zone: &str, request: &Request) -> Answer {
        let body = request.json();
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        if !says::sells(zone, &text("commercial_type")) {
            let detail = json!({ "argument_name": "commercial_type", "reason": "constraint", "help_message": "not available in this zone" });
            return says::error(
                400,
                &json!({ "type": "invalid_arguments", "message": "invalid argument(s)", "details": [detail] }),
            );
        }
        if world.machines.len() >= world.quota {
            // The older dialect, which has no numbers.
            return says::error(
                403,
                &json!({ "type": "invalid_request_error", "message": "Quota exceeded for this resource.", "fields": {} }),
            );
        }
        let tags = body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let tags: Vec<String> = tags.map(str::to_owned).collect();
        let id = world.add(&text("name"), &tags, &text("commercial_type"), zone, "");
        world.machine(id).unwrap().power = Power::Off;
        for disk in body["volumes"].as_object().into_iter().flat_map(|volumes| volumes.values()) {
            let volume = world.take_id();
            self.add_volume(volume, id, zone, disk["volume_type"] == "sbs_volume");
        }
        let shown = self.shown(world.machine(id).unwrap());
        Answer::json(201, &json!({ "server": shown }))
    }

    pub(super) fn add_volume(&mut self, id: u64, server: u64, zone: &str, is_block: bool) {
        let zone = zone.to_owned();
        self.volumes.push(Volume { id, server: Some(server), zone, is_block, tags: Vec::new() });
    }

    fn volume(
        &mut self,
        world: &World,
        is_block: bool,
        zone: &str,
        rest: &[&str],
        request: &Request,
    ) -> Answer {
        let is_here = |volume: &Volume| volume.is_block == is_block && volume.zone == zone;
        let [id] = rest else {
            let wanted: Vec<&str> =
                request.query("tags").into_iter().flat_map(|tags| tags.split(',')).collect();
            let rows: Vec<Value> = self
                .volumes
                .iter()
                .filter(|volume| {
                    is_here(volume) && wanted.iter().all(|tag| volume.tags.iter().any(|own| own == tag))
                })
                .map(|volume| says::volume(volume, world))
                .collect();
            return says::page(request, "volumes", &rows, PER_PAGE);
        };
        let Some(at) = self.volumes.iter().position(|volume| is_here(volume) && says::uuid(volume.id) == *id)
        else {
            return says::not_found("volume");
        };
        match request.method {
            Method::PATCH => {
                let body = request.json();
                let tags = body["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
                self.volumes[at].tags = tags.map(str::to_owned).collect();
                let shown = says::volume(&self.volumes[at], world);
                Answer::json(200, &if is_block { shown } else { json!({ "volume": shown }) })
            }
            Method::DELETE if self.volumes[at].server.is_some() => says::error(
                412,
                &json!({ "type": "precondition_failed", "precondition": "resource_still_in_use", "help_message": "detach it" }),
            ),
            Method::DELETE => {
                self.volumes.remove(at);
                Answer::empty(204)
            }
            _ => says::not_found("path"),
        }
    }

    fn group(&mut self, world: &mut World, zone: &str, rest: &[&str], request: &Request) -> Answer {
        let body = request.json();
        match (&request.method, rest) {
            (&Method::GET, []) => {
                let name = request.query("name").unwrap_or_default();
                let is_it = |group: &&Value| {
                    group["zone"] == zone && group["name"].as_str().is_some_and(|own| own.contains(name))
                };
                let rows: Vec<Value> = self.groups.iter().filter(is_it).cloned().collect();
                says::page(request, "security_groups", &rows, PER_PAGE)
            }
            (&Method::POST, []) => {
                let mut group = body;
                group["id"] = json!(says::uuid(world.take_id()));
                group["zone"] = json!(zone);
                group["state"] = json!("available");
                let own = json!({ "id": says::uuid(1), "direction": "outbound", "action": "drop", "dest_port_from": 25, "editable": false });
                group["rules"] = json!([own]);
                self.groups.push(group.clone());
                Answer::json(201, &json!({ "security_group": group }))
            }
            (&Method::DELETE, [id]) => {
                let before = self.groups.len();
                self.groups.retain(|group| group["id"] != **id || group["zone"] != zone);
                if self.groups.len() < before {
                    Answer::empty(204)
                } else {
                    says::not_found("security_group")
                }
            }
            (method, [id, rest @ ..]) => {
                let Some(group) =
                    self.groups.iter_mut().find(|group| group["id"] == **id && group["zone"] == zone)
                else {
                    return says::not_found("security_group");
                };
                match (method, rest) {
                    (&Method::GET, ["rules"]) => {
                        let rows = group["rules"].as_array().cloned().unwrap_or_default();
                        return says::page(request, "rules", &rows, PER_PAGE);
                    }
                    (&Method::DELETE, ["rules", rule]) => {
                        group["rules"].as_array_mut().unwrap().retain(|own| own["id"] != **rule);
                        return Answer::empty(204);
                    }
                    (&Method::PATCH, []) => {
                        for (name, value) in body.as_object().into_iter().flatten() {
                            group[name] = value.clone();
                        }
                    }
                    _ => {}
                }
                Answer::json(200, &json!({ "security_group": group }))
            }
            _ => says::not_found("path"),
        }
    }

    /// What of a request would make a server that lets somebody in, run one that was told nothing, or touch what is no hub's.
    pub(super) fn unsafe_call(&self, world: &World, request: &Request) -> Vec<String> {
        let mut broken = Vec::new();
        let Some(("instance", zone, rest)) = parts(&request.path) else { return broken };
        let body = request.json();
        if let (&Method::POST, ["servers"]) = (&request.method, rest.as_slice()) {
            let closed = |group: &Value| {
                let rules = group["rules"].as_array().into_iter().flatten();
                group["id"] == body["security_group"]
                    && group["zone"] == zone
                    && group["inbound_default_policy"] == "drop"
                    && rules.into_iter().all(|rule| rule["direction"] != "inbound")
            };
            if !self.groups.iter().any(closed) {
                broken.push("a server is ordered behind no security group that is closed".to_owned());
            }
        }
        if let ["servers", id, ..] = rest.as_slice() {
            let machine =
                says::number(id).and_then(|id| world.machines.iter().find(|machine| machine.id == id));
            if body["action"] == "poweron" && machine.is_some_and(|machine| machine.user_data.is_empty()) {
                broken.push("a server is switched on that was told nothing".to_owned());
            }
            let is_foreign = machine.is_some_and(|machine| !machine.tags.iter().any(|tag| tag == "bp-node"));
            if is_foreign && writes(&request.method) {
                broken.push("a server is changed that is no hub's".to_owned());
            }
        }
        broken
    }
}
