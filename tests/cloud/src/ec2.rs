//! EC2's query interface, as far as the hub uses it, with the client tokens that moto lacks.

mod rules;
mod says;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;

use crate::fake::{Asked, Dialect};
use crate::server::{Answer, Request};
use crate::world::{Kind, Machine, Power, Refusal, Throttling, World};

/// What a form says.
type Form = BTreeMap<String, String>;

/// The one region of the account.
pub const REGION: &str = "us-east-1";

/// Kinds of machines that it has, with their prices as spot machines in the two zones that tell one.
const PLANS: [(&str, [&str; 2]); 3] = [
    ("t3.micro", ["0.003100", "0.004200"]),
    ("m5.large", ["0.030000", "0.028000"]),
    ("t4g.small", ["0.004000", "0.004100"]),
];

/// Bytes of user data, encoded: 16 KB before.
const MAX_USER_DATA: usize = 16 * 1024 / 3 * 4 + 4;

/// The interface. Clones are handles of the same account, so that a test keeps one.
#[derive(Debug, Clone)]
pub struct Ec2Dialect(Arc<Mutex<Account>>);

/// What is in the account beside machines.
#[derive(Debug)]
struct Account {
    zones: u32,
    full: BTreeSet<String>,
    tokens: BTreeMap<String, (Form, u64)>,
    group: bool,
}

impl Ec2Dialect {
    /// An account whose network has this many subnets, each in its zone: `subnet-1`, `subnet-2`, ...
    #[must_use]
    pub fn new(zones: u32) -> Self {
        let account = Account { zones, full: BTreeSet::new(), tokens: BTreeMap::new(), group: false };
        Self(Arc::new(Mutex::new(account)))
    }

    /// Has no machine be made in these subnets, for want of capacity.
    pub fn fill(&self, subnets: &[&str]) {
        self.0.lock().full = subnets.iter().map(|subnet| (*subnet).to_owned()).collect();
    }
}

impl Dialect for Ec2Dialect {
    fn kind(&self, request: &Request) -> Kind {
        let form = form(request);
        match form.get("Action").map(String::as_str) {
            Some("DescribeInstances") if form.values().any(|value| value == "tag-key") => Kind::List,
            Some("RunInstances") => Kind::Create,
            Some("TerminateInstances") => Kind::Delete,
            Some("StartInstances" | "StopInstances") => Kind::Switch,
            Some("DescribeSpotPriceHistory") => Kind::Offers,
            _ => Kind::Other,
        }
    }

    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        self.0.lock().answer(world, request)
    }

    fn refuse(&self, _: &World, request: &Request, refusal: Refusal) -> Answer {
        match refusal {
            Refusal::Throttled(throttling) => {
                let answer = says::error(503, "RequestLimitExceeded", "Request limit exceeded.");
                match throttling.pause() {
                    Some(pause) => answer.header("retry-after", pause.as_secs().to_string()),
                    None => answer,
                }
            }
            Refusal::Quota => says::error(
                400,
                "VcpuLimitExceeded",
                "You have requested more vCPU capacity than your current vCPU limit of 32 allows.",
            ),
            Refusal::Capacity => says::error(
                500,
                "InsufficientInstanceCapacity",
                "We currently do not have sufficient capacity.",
            ),
            Refusal::NotSold => {
                says::error(400, "Unsupported", "Your requested instance type is not supported.")
            }
            Refusal::Unauthorized => says::error(
                401,
                "AuthFailure",
                "AWS was not able to validate the provided access credentials",
            ),
            Refusal::Forbidden => says::error(
                403,
                "UnauthorizedOperation",
                "You are not authorized to perform this operation. User: x is not authorized to perform: ec2:CreateTags",
            ),
            Refusal::Busy => {
                says::error(400, "IncorrectInstanceState", "The instance is not in a valid state.")
            }
            Refusal::Broken => {
                let repeated = String::from_utf8_lossy(&request.body).replace('&', "&amp;");
                says::error(500, "InternalError", &format!("An internal error has occurred: {repeated}"))
            }
            Refusal::Unavailable => Answer {
                headers: vec![("content-type", "text/html".to_owned())],
                body: "<html><b>Http/1.1 Service Unavailable</b></html>".into(),
                ..Answer::empty(503)
            },
        }
    }

    fn broken_rules(&mut self, _: &World, request: &Request, _: &[Asked]) -> Vec<String> {
        rules::of_request(request, &form(request))
    }

    fn throttlings(&self) -> Vec<Throttling> {
        // EC2 names no pause; what stands before it may.
        vec![Throttling::Silent, Throttling::Seconds(7)]
    }

    fn wrong_types(&self, answer: Answer) -> Answer {
        Answer { body: says::swap_types(&String::from_utf8_lossy(&answer.body)).into(), ..answer }
    }
}

impl Account {
    fn answer(&mut self, world: &mut World, request: &Request) -> Answer {
        let credential = request.header("authorization").unwrap_or_default();
        if !credential.contains(&format!("Credential={}/", world.token)) {
            return says::error(
                401,
                "AuthFailure",
                "AWS was not able to validate the provided access credentials",
            );
        }
        if request.header("x-amz-target") == Some("AmazonSSM.GetParameter") {
            let id = if request.json()["Name"].as_str().is_some_and(|name| name.ends_with("arm64")) {
                "b"
            } else {
                "a"
            };
            return Answer::json(200, &serde_json::json!({ "Parameter": { "Value": format!("ami-0{id}") } }));
        }
        if request.header("x-amz-target") == Some("AWSPriceListService.GetProducts") {
            return says::prices(&request.json());
        }
        let form = form(request);
        let action = form.get("Action").cloned().unwrap_or_default();
        match action.as_str() {
            "DescribeInstances" => self.list(world, &form),
            "RunInstances" => self.create(world, form),
            "TerminateInstances" | "StartInstances" | "StopInstances" => switch(world, &action, &form),
            "DescribeImages" => {
                let id = form.get("ImageId.1").cloned().unwrap_or_default();
                let arch = if id == "ami-0b" { "arm64" } else { "x86_64" };
                let image = format!(
                    "<imageId>{id}</imageId><rootDeviceName>/dev/xvda</rootDeviceName><architecture>{arch}</architecture>"
                );
                says::ok(&action, &says::set("imagesSet", &[image]))
            }
            "DescribeSubnets" => {
                let subnet = |n: u32| {
                    format!(
                        "<subnetId>subnet-{n}</subnetId><vpcId>vpc-1</vpcId><availabilityZone>{REGION}{n}</availabilityZone>"
                    )
                };
                says::ok(&action, &says::set("subnetSet", &(1..=self.zones).map(subnet).collect::<Vec<_>>()))
            }
            "DescribeSecurityGroups" => {
                let group = "<groupId>sg-1</groupId><ipPermissions/>".to_owned();
                says::ok(
                    &action,
                    &says::set(
                        "securityGroupInfo",
                        if self.group { std::slice::from_ref(&group) } else { &[] },
                    ),
                )
            }
            "CreateSecurityGroup" if self.group => says::error(400, "InvalidGroup.Duplicate", "It exists."),
            "CreateSecurityGroup" => {
                self.group = true;
                says::ok(&action, "<groupId>sg-1</groupId>")
            }
            "DeleteSecurityGroup" if !world.machines.is_empty() => {
                says::error(400, "DependencyViolation", "resource sg-1 has a dependent object")
            }
            "DeleteSecurityGroup" => {
                self.group = false;
                says::ok(&action, "<return>true</return>")
            }
            "DescribeSpotPriceHistory" => says::ok(&action, &prices(world.has_absurd_prices)),
            _ => says::error(400, "InvalidAction", "The action is not valid for this web service."),
        }
    }

    /// Pages by the number of the machine, so that none is passed over where another one goes.
    fn list(&self, world: &mut World, form: &Form) -> Answer {
        let after: u64 = form.get("NextToken").and_then(|token| token.parse().ok()).unwrap_or_default();
        let most: usize = form.get("MaxResults").and_then(|most| most.parse().ok()).unwrap_or(1000);
        let wanted = says::filters(form);
        let rows: Vec<(u64, String)> = world
            .listed()
            .filter(|machine| machine.id > after && wanted.iter().all(|filter| filter.takes(machine)))
            .map(|machine| (machine.id, says::machine(machine)))
            .collect();
        let limit = most.min(world.page_limit);
        let page: Vec<_> = rows
            .iter()
            .take(limit)
            .map(|(_, row)| says::set("instancesSet", std::slice::from_ref(row)))
            .collect();
        let next = match rows.get(limit.wrapping_sub(1)) {
            Some((last, _)) if rows.len() > limit => format!("<nextToken>{last}</nextToken>"),
            Some(_) | None => String::new(),
        };
        let answer = says::ok("DescribeInstances", &format!("{}{next}", says::set("reservationSet", &page)));
        if world.shrinks_between_pages && !rows.is_empty() {
            world.shrinks_between_pages = false;
            let first = world.machines.first().map(|machine| machine.id);
            first.map(|id| world.remove(id));
        }
        answer
    }

    fn create(&mut self, world: &mut World, form: Form) -> Answer {
        let text = |name: &str| form.get(name).cloned().unwrap_or_default();
        if let Some((before, id)) = self.tokens.get(&text("ClientToken")) {
            let id = *id;
            return match world.machine(id) {
                _ if *before != form => says::error(
                    400,
                    "IdempotentParameterMismatch",
                    "The client token you have provided is associated with a resource that is already created.",
                ),
                Some(machine) => {
                    says::ok("RunInstances", &says::set("instancesSet", &[says::machine(machine)]))
                }
                None => says::error(400, "IdempotentInstanceTerminated", "Its instance has been terminated."),
            };
        }
        let subnet = text("NetworkInterface.1.SubnetId");
        if !PLANS.iter().any(|(plan, _)| *plan == text("InstanceType")) {
            let message = format!("Invalid value '{}' for InstanceType.", text("InstanceType"));
            return says::error(400, "InvalidParameterValue", &message);
        }
        if text("UserData").len() > MAX_USER_DATA {
            return says::error(400, "InvalidUserData.Malformed", "User data is limited to 16384 bytes");
        }
        if self.full.contains(&subnet) {
            return says::error(
                500,
                "InsufficientInstanceCapacity",
                "We currently do not have sufficient capacity.",
            );
        }
        if world.machines.len() >= world.quota {
            return says::error(400, "InstanceLimitExceeded", "Your quota allows for no more instances.");
        }
        let tags: Vec<String> = (1..)
            .map(|n| format!("TagSpecification.1.Tag.{n}"))
            .map_while(|prefix| {
                Some(format!(
                    "{}={}",
                    form.get(&format!("{prefix}.Key"))?,
                    form.get(&format!("{prefix}.Value"))?
                ))
            })
            .collect();
        let name = tags.iter().find_map(|tag| tag.strip_prefix("Name=")).unwrap_or_default().to_owned();
        let Ok(user_data) = STANDARD.decode(text("UserData")) else {
            return says::error(400, "InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.");
        };
        let user_data = String::from_utf8_lossy(&user_data);
        let id = world.add(&name, &tags, &text("InstanceType"), REGION, &user_data);
        let said = world.machine(id).map(|machine| says::machine(machine)).unwrap_or_default();
        self.tokens.insert(text("ClientToken"), (form, id));
        says::ok("RunInstances", &says::set("instancesSet", &[said]))
    }
}

fn switch(world: &mut World, action: &str, form: &Form) -> Answer {
    let name = form.get("InstanceId.1").cloned().unwrap_or_default();
    let id =
        name.strip_prefix("i-").and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default();
    let done = says::ok(action, &says::set("instancesSet", &[format!("<instanceId>{name}</instanceId>")]));
    // What was ended is shown, and can be ended, for about an hour.
    if world.deleted.contains(&id) {
        return match action {
            "TerminateInstances" => done,
            _ => says::error(400, "IncorrectInstanceState", "The instance is not in a state for that."),
        };
    }
    let Some(machine) = world.machine(id) else {
        return says::error(
            400,
            "InvalidInstanceID.NotFound",
            &format!("The instance ID '{name}' does not exist"),
        );
    };
    match action {
        "StartInstances" => machine.power = Power::On,
        "StopInstances" => machine.power = Power::Off,
        _ => {
            world.remove(id);
        }
    }
    done
}

fn prices(has_absurd: bool) -> String {
    let row = |plan: &str, zone: usize, price: &str| {
        format!(
            "<instanceType>{plan}</instanceType><spotPrice>{price}</spotPrice><availabilityZone>{REGION}{zone}</availabilityZone>"
        )
    };
    let mut rows: Vec<String> = PLANS
        .iter()
        .flat_map(|(plan, prices)| prices.iter().zip(1..).map(|(price, zone)| row(plan, zone, price)))
        .collect();
    if has_absurd {
        rows.extend([row("m5.xlarge", 1, "0.000000"), row("m5.2xlarge", 1, "99999.000000")]);
    }
    says::set("spotPriceHistorySet", &rows)
}

fn form(request: &Request) -> Form {
    serde_urlencoded::from_bytes(&request.body).unwrap_or_default()
}

/// EC2's name of the machine with this number.
#[must_use]
pub fn name_of(id: u64) -> String {
    format!("{REGION}/i-{id:017x}")
}

/// Whether a machine has a tag of this name, and with one of these values where there are any.
fn has_tag(machine: &Machine, name: &str, values: &[String]) -> bool {
    machine
        .tags
        .iter()
        .filter_map(|tag| tag.split_once('='))
        .any(|(own, value)| own == name && (values.is_empty() || values.iter().any(|wanted| wanted == value)))
}
