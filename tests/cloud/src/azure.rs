//! Azure Resource Manager with its sign-in, as far as the hub uses it.

mod rules;
mod says;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Machine, Power, Refusal, Throttling, World};

/// The one region that the subscription has machines in.
pub const REGION: &str = "eastus";

/// The subscription.
pub const SUBSCRIPTION: &str = "11111111-2222-3333-4444-555555555555";

/// The secret that the application signs in with.
pub const CLIENT_SECRET: &str = "canary-of-a-client-secret";

/// Rows of a page of machines.
const PAGE: usize = 50;

/// The API. Clones are handles of the same subscription, so that a test keeps one.
#[derive(Debug, Clone, Default)]
pub struct AzureDialect(Arc<Mutex<Account>>);

/// What is in the subscription beside machines.
#[derive(Debug, Default)]
struct Account {
    /// Name and tags of the hub's resource group.
    group: Option<(String, Value)>,
    /// Security groups and networks by their paths.
    network: BTreeMap<String, Value>,
    parts: Vec<Part>,
    /// Machines that could not be made in the end.
    failed: BTreeSet<u64>,
    operations: Vec<Operation>,
    names: BTreeMap<u64, String>,
    /// Code and words of what happens to the next machine after it was taken on.
    next_failure: Option<(String, String)>,
    /// Whether parts stay behind when their machines are deleted.
    leaves_parts: bool,
    /// Actions that the role does not allow.
    missing: BTreeSet<String>,
    tokens: usize,
}

/// What comes with a machine.
#[derive(Debug, Clone)]
struct Part {
    machine: u64,
    kind: &'static str,
    name: String,
    tags: Value,
    created: String,
    is_left: bool,
}

/// What Azure is at: asked about once it goes on, then it has ended.
#[derive(Debug)]
struct Operation {
    asked: bool,
    error: Option<Value>,
}

/// Whether a machine is in the hub's resource group, and not in that of people.
fn is_ours(machine: &Machine) -> bool {
    machine.tags.iter().any(|tag| tag.starts_with("blueprint-instance="))
}

impl Dialect for AzureDialect {
    fn kind(&self, request: &Request) -> Kind {
        let parts = parts(&request.path);
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["resourceGroups", _, "providers", "Microsoft.Compute", "virtualMachines"]) => Kind::List,
            ("PUT", ["resourceGroups", _, "providers", "Microsoft.Compute", "virtualMachines", _]) => {
                Kind::Create
            }
            ("DELETE", ["resourceGroups", _, "providers", "Microsoft.Compute", "virtualMachines", _]) => {
                Kind::Delete
            }
            ("POST", ["resourceGroups", _, "providers", "Microsoft.Compute", "virtualMachines", ..]) => {
                Kind::Switch
            }
            ("GET", ["providers", "Microsoft.Compute", "skus"]) => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        self.0.lock().answer(world, request)
    }

    fn refuse(&self, _: &World, request: &Request, refusal: Refusal) -> Answer {
        says::refusal(request, refusal)
    }

    fn broken_rules(&mut self, _: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        let mut broken = rules::of_request(request);
        if self.kind(request) == Kind::Create {
            broken.extend(self.0.lock().unsafe_order(&request.json()));
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

impl AzureDialect {
    /// What the provider calls the machine with this number; one of people has another name.
    #[must_use]
    pub fn name_of(&self, id: u64) -> String {
        self.0.lock().names.get(&id).cloned().unwrap_or_else(|| format!("people-{id}"))
    }

    /// Names of what stands beside machines: interfaces, addresses and disks.
    #[must_use]
    pub fn parts(&self) -> Vec<String> {
        self.0.lock().parts.iter().map(|part| part.name.clone()).collect()
    }

    /// Security groups and networks, by their paths.
    #[must_use]
    pub fn network(&self) -> BTreeMap<String, Value> {
        self.0.lock().network.clone()
    }

    /// The next machine is taken on, and cannot be made for this reason.
    pub fn fail_later(&self, code: &str, message: &str) {
        self.0.lock().next_failure = Some((code.to_owned(), message.to_owned()));
    }

    /// Whether interfaces, addresses and disks stay behind when their machines are deleted from now on.
    pub fn leave_parts(&self, do_they: bool) {
        self.0.lock().leaves_parts = do_they;
    }

    /// A person lets SSH in by every security group.
    pub fn open_security_groups(&self) {
        let rule = json!({ "name": "ssh", "properties": {
            "priority": 90, "direction": "Inbound", "access": "Allow", "protocol": "Tcp", "sourceAddressPrefix": "*",
            "sourcePortRange": "*", "destinationAddressPrefix": "*", "destinationPortRange": "22",
        } });
        for (path, group) in &mut self.0.lock().network {
            let rules = group.pointer_mut("/properties/securityRules").and_then(Value::as_array_mut);
            if let Some(rules) = rules.filter(|_| path.contains("networksecuritygroups")) {
                rules.push(rule.clone());
            }
        }
    }

    /// The role does not allow this action.
    pub fn forbid(&self, action: &str) {
        self.0.lock().missing.insert(action.to_owned());
    }

    /// How many access tokens were given.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.0.lock().tokens
    }
}

/// The path behind the subscription.
fn parts(path: &str) -> Vec<&str> {
    let own = format!("/subscriptions/{SUBSCRIPTION}");
    path.strip_prefix(&own).unwrap_or_default().split('/').filter(|part| !part.is_empty()).collect()
}

impl Account {
    fn group_name(&self) -> String {
        self.group.as_ref().map(|(name, _)| name.clone()).unwrap_or_default()
    }

    fn has_group(&self, name: &str) -> bool {
        self.group.as_ref().is_some_and(|(own, _)| own.eq_ignore_ascii_case(name))
    }

    /// Orders have to name a security group that lets nothing in, and a subnet that goes by one.
    fn unsafe_order(&self, order: &Value) -> Vec<String> {
        let first = &order["properties"]["networkProfile"]["networkInterfaceConfigurations"][0]["properties"];
        let id = first["networkSecurityGroup"]["id"].as_str().unwrap_or_default().to_ascii_lowercase();
        let rules = self
            .network
            .get(&id)
            .map(|group| group["properties"]["securityRules"].clone())
            .unwrap_or_default();
        let inbound = rules.as_array().cloned().unwrap_or_default();
        let first_rule = inbound
            .iter()
            .filter(|rule| rule["properties"]["direction"] == "Inbound")
            .min_by_key(|rule| rule["properties"]["priority"].as_u64());
        let is_closed = first_rule.is_some_and(|rule| rule["properties"]["access"] == "Deny");
        let subnet = first["ipConfigurations"][0]["properties"]["subnet"]["id"].as_str().unwrap_or_default();
        let network = subnet.to_ascii_lowercase();
        let network = network.split("/subnets/").next().and_then(|path| self.network.get(path));
        let subnet = network
            .map(|network| network["properties"]["subnets"][0]["properties"].clone())
            .unwrap_or_default();
        let mut broken = Vec::new();
        if !is_closed {
            broken.push("a machine behind a security group that lets something in".to_owned());
        }
        if subnet["networkSecurityGroup"]["id"].is_null() || subnet["defaultOutboundAccess"] != false {
            broken.push("a subnet without a security group, or with a way out of its own".to_owned());
        }
        broken
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        if request.path.ends_with("/oauth2/v2.0/token") {
            return self.sign_in(world, request);
        }
        if request.path == "/api/retail/prices" {
            return says::spot_prices(request);
        }
        if request.path == "/metadata/identity/oauth2/token" {
            self.tokens += 1;
            // Numbers come as texts.
            return Answer::json(
                200,
                &json!({ "access_token": world.token, "expires_in": "86399", "token_type": "Bearer" }),
            );
        }
        if request.header("authorization") != Some(&format!("Bearer {}", world.token)) {
            return says::unauthorized();
        }
        for machine in world.machines.iter().filter(|machine| is_ours(machine)) {
            self.names.insert(machine.id, machine.name.clone());
        }
        self.parts
            .retain(|part| part.is_left || world.machines.iter().any(|machine| machine.id == part.machine));
        let path = request.path.clone();
        let parts = parts(&path);
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", []) => Answer::json(
                200,
                &json!({
                    "id": format!("/subscriptions/{SUBSCRIPTION}"), "subscriptionId": SUBSCRIPTION, "displayName": "Machines of ops",
                    "state": "Enabled", "tenantId": "22222222-2222-3333-4444-555555555555",
                }),
            ),
            ("GET", ["locations"]) => {
                Answer::json(200, &json!({ "value": [{ "name": REGION }, { "name": "westeurope" }] }))
            }
            ("GET", ["providers", "Microsoft.Authorization", "permissions"]) => Answer::json(
                200,
                &json!({ "value": [
                { "actions": ["*/read"], "notActions": [] },
                { "actions": ["Microsoft.Compute/*", "Microsoft.Network/*", "Microsoft.Resources/*"], "notActions": self.missing },
            ] }),
            ),
            ("GET", ["providers", "Microsoft.Compute", "skus"]) => {
                says::page(request, &says::skus(), usize::MAX)
            }
            ("GET", ["providers", "Microsoft.Compute", "locations", _, "usages"]) => Answer::json(
                200,
                &json!({ "value": [
                { "unit": "Count", "currentValue": 2, "limit": 10, "name": { "value": "cores", "localizedValue": "Total Regional vCPUs" } },
            ] }),
            ),
            ("GET", ["providers", "Microsoft.Compute", "virtualMachines"]) => {
                let rows: Vec<_> = world.machines.iter().map(|machine| says::status(self, machine)).collect();
                says::page(request, &rows, PAGE)
            }
            ("GET", ["providers", "Microsoft.Compute", "locations", _, "operations", number]) => {
                self.operation(number)
            }
            ("PUT", ["resourceGroups", name]) => {
                self.group = Some(((*name).to_owned(), request.json()));
                self.resource_group(201)
            }
            ("GET", ["resourceGroups", name]) if self.has_group(name) => self.resource_group(200),
            (_, ["resourceGroups", name, ..]) if !self.has_group(name) => says::no_group(name),
            ("GET", ["resourceGroups", _, "resources"]) => {
                let shown = |part: &&Part| {
                    let listed = || world.listed().any(|machine| machine.id == part.machine);
                    part.is_left || listed()
                };
                let parts = self.parts.iter().filter(shown).map(says::part);
                let rows: Vec<_> = parts.chain(self.network.iter().map(says::network)).collect();
                says::page(request, &rows, usize::MAX)
            }
            (method, ["resourceGroups", _, "providers", provider, "virtualMachines", rest @ ..])
                if provider.eq_ignore_ascii_case("microsoft.compute") =>
            {
                self.machines(world, method, rest, request)
            }
            (method, ["resourceGroups", _, "providers", _, kind, name]) => {
                self.other(method, kind, name, request)
            }
            _ => says::not_found(&request.path),
        }
    }

    fn sign_in(&mut self, world: &World, request: &Request) -> Answer {
        let form: BTreeMap<String, String> = serde_urlencoded::from_bytes(&request.body).unwrap_or_default();
        if form.get("client_secret").map(String::as_str) != Some(CLIENT_SECRET) {
            let error = json!({
                "error": "invalid_client",
                "error_description": "AADSTS7000215: Invalid client secret provided.\r\nTrace ID: 0",
            });
            return Answer::json(401, &error);
        }
        self.tokens += 1;
        Answer::json(200, &json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": world.token }))
    }

    fn resource_group(&self, status: u16) -> Answer {
        let (name, body) = self.group.clone().unwrap_or_default();
        Answer::json(
            status,
            &json!({
                "id": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}"), "name": name, "location": body["location"],
                "tags": body["tags"], "properties": { "provisioningState": "Succeeded" },
            }),
        )
    }

    fn begin(&mut self, request: &Request, error: Option<Value>) -> String {
        self.operations.push(Operation { asked: false, error });
        let host = request.header("host").unwrap_or_default();
        let number = self.operations.len() - 1;
        format!(
            "http://{host}/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{REGION}/operations/{number}?api-version=2025-04-01"
        )
    }

    fn operation(&mut self, number: &str) -> Answer {
        let found = number.parse::<usize>().ok().and_then(|number| self.operations.get_mut(number));
        let Some(operation) = found else { return says::not_found(number) };
        if !std::mem::replace(&mut operation.asked, true) {
            return Answer::json(200, &json!({ "status": "InProgress" }))
                .header("retry-after", "0".to_owned());
        }
        Answer::json(
            200,
            &match &operation.error {
                Some(error) => json!({ "status": "Failed", "error": error }),
                None => json!({ "status": "Succeeded" }),
            },
        )
    }

    fn machines(&mut self, world: &mut World, method: &str, rest: &[&str], request: &Request) -> Answer {
        let id = |world: &World, name: &str| {
            let found = world.machines.iter().find(|one| is_ours(one) && one.name.eq_ignore_ascii_case(name));
            found.map(|machine| machine.id)
        };
        match (method, rest) {
            ("GET", []) => {
                let listed = world.listed().filter(|machine| is_ours(machine));
                let rows: Vec<_> = listed.map(|machine| says::machine(self, machine, false)).collect();
                let page = says::page(request, &rows, world.page_limit.min(PAGE));
                if world.shrinks_between_pages && !rows.is_empty() {
                    world.shrinks_between_pages = false;
                    let first = world.machines.first().map(|machine| machine.id);
                    first.map(|id| world.remove(id));
                }
                page
            }
            ("GET", [name]) => match id(world, name).and_then(|id| world.machine(id)) {
                Some(machine) => {
                    Answer::json(200, &says::machine(self, machine, request.query("$expand").is_some()))
                }
                None => says::not_found(name),
            },
            ("PUT", [name]) if id(world, name).is_some() => says::error(
                412,
                "PreconditionFailed",
                "The condition specified by the ETag is not satisfied.",
            ),
            ("PUT", [name]) => self.create(world, name, request),
            ("DELETE", [name]) => {
                let Some(id) = id(world, name) else { return Answer::empty(204) };
                world.remove(id);
                for part in self.parts.iter_mut().filter(|part| part.machine == id) {
                    part.is_left = self.leaves_parts;
                }
                self.parts.retain(|part| part.machine != id || part.is_left);
                let operation = self.begin(request, None);
                Answer::empty(202).header("location", operation)
            }
            ("POST", [name, verb @ ("start" | "deallocate")]) => {
                let Some(machine) = id(world, name).and_then(|id| world.machine(id)) else {
                    return says::not_found(name);
                };
                machine.power = if *verb == "start" { Power::On } else { Power::Off };
                let operation = self.begin(request, None);
                Answer::empty(202)
                    .header("azure-asyncoperation", operation)
                    .header("retry-after", "10".to_owned())
            }
            _ => says::not_found(&request.path),
        }
    }

    fn create(&mut self, world: &mut World, name: &str, request: &Request) -> Answer {
        let body = request.json();
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (plan, region) = (text("/properties/hardwareProfile/vmSize"), text("/location"));
        if !says::skus().iter().any(|sku| sku["name"] == plan.as_str()) {
            let message = format!("The value {plan} provided for the VM size is not valid.");
            return says::error(400, "InvalidParameter", &message);
        }
        if world.machines.len() >= world.quota {
            return says::over_quota();
        }
        let tags: Vec<String> = body["tags"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
            .collect();
        let data = STANDARD.decode(text("/properties/osProfile/customData")).unwrap_or_default();
        let id = world.add(name, &tags, &plan, &region, &String::from_utf8_lossy(&data));
        self.names.insert(id, name.to_owned());
        self.add_parts(world, id, &body);
        let failure = self.next_failure.take();
        if failure.is_some() {
            self.failed.insert(id);
        }
        let error = failure.map(|(code, message)| json!({ "code": code, "message": message }));
        let operation = self.begin(request, error);
        let Some(machine) = world.machine(id) else { return says::not_found(name) };
        let mut document = says::machine(self, machine, false);
        document["properties"]["provisioningState"] = json!("Creating");
        Answer::json(201, &document)
            .header("azure-asyncoperation", operation)
            .header("retry-after", "0".to_owned())
    }

    /// Azure gives interface and address names that begin with those that were asked for. Whether the disk gets the tags of its
    /// machine is not told, so here it does not.
    fn add_parts(&mut self, world: &World, id: u64, body: &Value) {
        let nic = &body["properties"]["networkProfile"]["networkInterfaceConfigurations"][0];
        let address = &nic["properties"]["ipConfigurations"][0]["properties"]["publicIPAddressConfiguration"];
        let disk = &body["properties"]["storageProfile"]["osDisk"];
        let created = humantime::format_rfc3339(world.now()).to_string();
        for (kind, asked, end) in [
            ("Microsoft.Network/networkInterfaces", nic, "-1f0c"),
            ("Microsoft.Network/publicIPAddresses", address, "-1f0c"),
            ("Microsoft.Compute/disks", disk, ""),
        ] {
            let name = format!("{}{end}", asked["name"].as_str().unwrap_or_default());
            let tags = asked["tags"].clone();
            self.parts.push(Part { machine: id, kind, name, tags, created: created.clone(), is_left: false });
        }
    }

    /// Security groups, networks, and what machines left.
    fn other(&mut self, method: &str, kind: &str, name: &str, request: &Request) -> Answer {
        let path = request.path.to_ascii_lowercase();
        match method {
            "GET" => match self.network.get(&path) {
                Some(found) => Answer::json(200, found),
                None => says::not_found(name),
            },
            "PUT" => {
                let mut document = request.json();
                document["id"] = json!(request.path);
                document["name"] = json!(name);
                document["properties"]["provisioningState"] = json!("Succeeded");
                for subnet in document
                    .pointer_mut("/properties/subnets")
                    .and_then(Value::as_array_mut)
                    .into_iter()
                    .flatten()
                {
                    let own = subnet["name"].as_str().unwrap_or_default().to_owned();
                    subnet["id"] = json!(format!("{}/subnets/{own}", request.path));
                    subnet["properties"]["provisioningState"] = json!("Succeeded");
                }
                self.network.insert(path, document.clone());
                let operation = self.begin(request, None);
                Answer::json(201, &document)
                    .header("azure-asyncoperation", operation)
                    .header("retry-after", "0".to_owned())
            }
            "DELETE" if self.network.contains_key(&path) => {
                if kind.eq_ignore_ascii_case("networksecuritygroups")
                    && self.network.keys().any(|own| own.contains("/virtualnetworks/"))
                {
                    let message =
                        "Network security group cannot be deleted because it is in use by a subnet.";
                    return says::error(400, "InUseNetworkSecurityGroupCannotBeDeleted", message);
                }
                self.network.remove(&path);
                let operation = self.begin(request, None);
                Answer::empty(202)
                    .header("azure-asyncoperation", operation)
                    .header("retry-after", "0".to_owned())
            }
            "DELETE" => {
                let is_it = |part: &Part| {
                    part.name == name && part.kind.to_ascii_lowercase().ends_with(&kind.to_ascii_lowercase())
                };
                let Some(machine) = self.parts.iter().find(|part| is_it(part)).map(|part| part.machine)
                else {
                    return Answer::empty(204);
                };
                let holds = |part: &Part| part.machine == machine && part.kind.ends_with("networkInterfaces");
                if kind.eq_ignore_ascii_case("publicipaddresses") && self.parts.iter().any(holds) {
                    let message =
                        "Public IP address can not be deleted since it is still allocated to resource.";
                    return says::error(400, "PublicIPAddressCannotBeDeleted", message);
                }
                self.parts.retain(|part| !is_it(part));
                let operation = self.begin(request, None);
                Answer::empty(202)
                    .header("azure-asyncoperation", operation)
                    .header("retry-after", "0".to_owned())
            }
            _ => says::not_found(&request.path),
        }
    }
}
