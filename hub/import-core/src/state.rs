//! Machines that others made: `deployment_state.json` of the deployment tracker, and lists as CSV.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::keys::{below, text, whole};
use crate::policy::deployment_type;
use crate::report::{Report, shown};

/// Longest text of a field that is kept, in characters.
const MAX_TEXT: usize = 200;

/// Most machines that a hub keeps of others.
const MAX_MACHINES: usize = 10_000;

/// A machine that somebody else made; the hub knows of it, and does nothing with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnownMachine {
    /// What its maker calls it; one machine of this name is kept.
    pub name: String,
    /// Provider, by the hub's name where it has one.
    pub provider: String,
    /// The provider's name of the machine; empty where the file has none.
    pub provider_id: String,
    /// Region; empty where the file has none.
    pub region: String,
    /// Kind of machine; empty where the file has none.
    pub plan: String,
    /// What its maker said of it last.
    pub state: String,
    /// When it was made, as its maker wrote it.
    pub since: String,
    /// When it was to end, as its maker wrote it; nobody ends it by that.
    pub expires: String,
    /// Which file it comes from.
    pub source: String,
}

/// The machines of others that a hub knows, as its file has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KnownMachines {
    /// In the order in which they came.
    pub machines: Vec<KnownMachine>,
}

impl KnownMachines {
    /// Adds machines; one that is there under its name is replaced. False where there would be too many, and then none is added.
    #[must_use]
    pub fn add(&mut self, machines: Vec<KnownMachine>) -> bool {
        let mut all = self.machines.clone();
        for machine in machines {
            match all.iter_mut().find(|own| own.name == machine.name) {
                Some(own) => *own = machine,
                None => all.push(machine),
            }
        }
        let fits = all.len() <= MAX_MACHINES;
        if fits {
            self.machines = all;
        }
        fits
    }

    /// Forgets one; false where there is none of this name.
    pub fn forget(&mut self, name: &str) -> bool {
        let count = self.machines.len();
        self.machines.retain(|machine| machine.name != name);
        self.machines.len() < count
    }
}

fn cut(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

const RECORD: [&str; 15] = [
    "id",
    "blueprint_id",
    "service_id",
    "deployment_type",
    "provider",
    "region",
    "resource_spec",
    "resource_ids",
    "deployed_at",
    "created_at",
    "ttl_seconds",
    "expires_at",
    "status",
    "cleanup_webhook",
    "metadata",
];

/// Names of the provider's own id among the ids of resources, the surest first.
const IDS: [&str; 8] =
    ["instance_id", "droplet_id", "vm_id", "vm_name", "instance_name", "container_id", "server_id", "id"];

/// Every record of a tracker.
pub(crate) fn read(fields: &Map<String, Value>, report: &mut Report) {
    for (name, value) in fields {
        let Value::Object(record) = value else {
            report.wrong(name, "a record of a deployment");
            continue;
        };
        let machine = record_of(name, record, report);
        report.machines.push(machine);
    }
}

fn record_of(name: &str, record: &Map<String, Value>, report: &mut Report) -> KnownMachine {
    let mut machine = KnownMachine { name: cut(name), ..KnownMachine::default() };
    for (key, value) in record {
        let path = below(name, key);
        match key.as_str() {
            "id" | "blueprint_id" | "service_id" => report.understood(&path, "what its maker calls it"),
            "deployment_type" => kind(&path, value, &mut machine, report),
            "provider" => {
                // A host of one's own is a table with the addresses below the name.
                let outer = value.as_object().and_then(|inner| inner.keys().next().map(String::as_str));
                let written = outer.or_else(|| text(value));
                match written {
                    Some(written) => {
                        let own = crate::names::provider(written).map_or_else(|| cut(written), str::to_owned);
                        report.understood(&path, format!("a machine of {}", shown(&own)));
                        machine.provider = own;
                    }
                    None => report.absent(&path, "it names none"),
                }
            }
            "region" => keep(&path, value, &mut machine.region, report),
            "deployed_at" | "created_at" => keep(&path, value, &mut machine.since, report),
            "status" => keep(&path, value, &mut machine.state, report),
            "expires_at" => {
                keep(&path, value, &mut machine.expires, report);
                if text(value).is_some() {
                    report.steps.push(format!(
                        "look whether {} still stands at its provider and end it there: its maker's time limit does not end it",
                        shown(name)
                    ));
                }
            }
            "ttl_seconds" if whole(value, 0, u64::MAX).is_some() || value.is_null() => {
                report.absent(&path, "the hub ends no machine that it did not make");
            }
            "resource_ids" => match value.as_object() {
                Some(ids) => resource_ids(&path, ids, &mut machine, report),
                None => report.wrong(&path, "a table of ids"),
            },
            "resource_spec" | "metadata" => {
                report.absent(&path, "what it was asked for is not needed to know it");
            }
            "cleanup_webhook" if value.is_null() => report.absent(&path, "it is empty"),
            "cleanup_webhook" => {
                report.absent(
                    &path,
                    "the hub ends no machine that it did not make, so there is nothing to tell",
                );
            }
            _ => report.unknown(&path, &RECORD, value),
        }
    }
    machine
}

fn kind(path: &str, value: &Value, machine: &mut KnownMachine, report: &mut Report) {
    let Some(written) = text(value) else {
        return report.wrong(path, "a deployment type, such as AwsEc2");
    };
    machine.plan = cut(written);
    match deployment_type(written) {
        Ok(name) => {
            report.understood(
                path,
                format!("a machine of {name} that this hub did not make; `inventory` shows it"),
            );
            if machine.provider.is_empty() {
                name.clone_into(&mut machine.provider);
            }
        }
        Err(why) => report.absent(path, format!("kept as a thing of somebody else: {why}")),
    }
}

fn keep(path: &str, value: &Value, field: &mut String, report: &mut Report) {
    match text(value) {
        Some(written) => {
            report.understood(path, "shown by `inventory`");
            *field = cut(written);
        }
        None if value.is_null() => report.absent(path, "it is empty"),
        None => report.wrong(path, "a text"),
    }
}

fn resource_ids(path: &str, ids: &Map<String, Value>, machine: &mut KnownMachine, report: &mut Report) {
    let found = IDS.iter().find_map(|name| Some((*name, ids.get(*name).and_then(text)?)));
    if let Some((_, id)) = found {
        machine.provider_id = cut(id);
    }
    for (key, value) in ids {
        let path = below(path, key);
        match (text(value), found) {
            (None, _) => report.wrong(&path, "a text"),
            (Some(_), Some((name, _))) if name == key => {
                report.understood(&path, "the provider's name of the machine");
            }
            (Some(_), _) => {
                report.absent(
                    &path,
                    "the hub ends no machine that it did not make, so it needs no id of what belongs to it",
                );
            }
        }
    }
}

const COLUMNS: [&str; 12] = [
    "machine",
    "deployment",
    "name",
    "state",
    "provider",
    "plan",
    "region",
    "hourly",
    "since",
    "provider_id",
    "node",
    "connected",
];

/// Machines of a list, one a row; the first row has the names of the columns.
pub(crate) fn csv(rows: &[Vec<String>], report: &mut Report) {
    let Some((columns, rows)) = rows.split_first() else {
        return report.wrong("", "a first row with the names of the columns");
    };
    let plain: Vec<String> = columns.iter().map(|column| column.to_ascii_lowercase()).collect();
    for column in &plain {
        match column.as_str() {
            "address" | "host_key" => report.absent(
                column,
                "a list of hosts with their keys is the inventory of the provider ssh: name the file in providers.ssh.hosts",
            ),
            "replicas" | "cpu" | "memory_gib" => {
                report.absent(column, "a list of machines that are wanted is ordered by `blueprint-hub apply -f`");
            }
            "machine" | "name" | "id" | "provider" | "plan" | "template" | "region" | "state" | "status" | "since"
            | "provider_id" | "created_at" | "expires_at" => report.understood(column, "shown by `inventory`"),
            known if COLUMNS.contains(&known) => report.absent(column, "it was so at the hub that wrote the list"),
            _ => report.unknown(column, &COLUMNS, &Value::Null),
        }
    }
    if plain.iter().any(|column| column == "host_key" || column == "replicas") {
        return;
    }
    for (row, number) in rows.iter().zip(2u32..) {
        let of = |names: &[&str]| {
            let found = names.iter().find_map(|name| plain.iter().position(|column| column == name));
            found.and_then(|at| row.get(at)).map(|value| cut(value)).unwrap_or_default()
        };
        let name = [of(&["machine"]), of(&["id"]), of(&["name"]), of(&["provider_id"])];
        let Some(name) = name.into_iter().find(|name| !name.is_empty() && name != "-") else {
            report.refused(
                &format!("row {number}"),
                "it names no machine: machine, id, name or provider_id was expected",
            );
            continue;
        };
        let written = of(&["provider"]);
        let provider = crate::names::provider(&written).map_or(written, str::to_owned);
        report.machines.push(KnownMachine {
            name,
            provider,
            provider_id: of(&["provider_id"]),
            region: of(&["region"]),
            plan: of(&["plan", "template"]),
            state: of(&["state", "status"]),
            since: of(&["since", "created_at"]),
            expires: of(&["expires_at"]),
            source: String::new(),
        });
    }
}
