//! What the Manager gives to a blueprint, as the hub takes it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use blueprint_common_runtime::cli::CliError;
use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::{ChainSettings, WorkloadSpec};
use blueprint_proto::v1;

use crate::config::{Blueprint, Config};
use crate::{keystore, login};

/// Variables that go to the node by the beginning of their names.
const PREFIXES: [&str; 3] = ["RUST_LOG", "OTEL_", "TLS_"];

/// Variables that go to the node by their names.
const NAMES: [&str; 5] =
    ["PRETTY", "NETWORK_BIND_PORT", "ENABLE_MDNS", "ENABLE_KADEMLIA", "TARGET_PEER_COUNT"];

/// Key of the envelopes of certificates, and its file: they go sealed, or not at all.
const ENVELOPE_KEY: &str = "TLS_ENVELOPE_KEY";

/// Goes only where that is said.
const API_KEY: &str = "TANGLE_API_KEY";

/// Contracts, by the variables that name them.
const CONTRACTS: [&str; 3] = ["TANGLE_CONTRACT", "STAKING_CONTRACT", "STATUS_REGISTRY_CONTRACT"];

/// What this process was started with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Given {
    /// Arguments, without the program; the first is `run`.
    pub(crate) arguments: Vec<String>,
    pub(crate) variables: BTreeMap<String, String>,
}

/// What to do.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) service: ServiceKey,
    /// The hub's socket.
    pub(crate) hub: PathBuf,
    /// The Manager's bridge; `None` in test mode.
    pub(crate) bridge: Option<PathBuf>,
    /// The first message to the hub; the name of the launcher is not in it.
    pub(crate) start: v1::LauncherStart,
    /// Seconds that the blueprint may take to end.
    pub(crate) stop_grace_secs: u32,
    /// How long it may have no node; `None` for ever.
    pub(crate) unplaced_patience: Option<Duration>,
    /// Where the inputs of a registration go.
    pub(crate) registration: Option<PathBuf>,
    /// Variables that look like the blueprint's and name files of this machine, so they do not go along.
    pub(crate) left_out: Vec<String>,
}

/// Puts configuration and environment together.
pub(crate) fn plan(config: &Config, given: &Given) -> Result<Plan, CliError> {
    let service =
        ServiceKey { blueprint: given.number("BLUEPRINT_ID")?, service: given.number("SERVICE_ID")? };
    let blueprint = config.blueprints.get(&service.blueprint).ok_or_else(|| {
        let text = format!("{} says nothing of blueprint {}", config.path.display(), service.blueprint);
        CliError::config(text).hint(format!("add [blueprint.{}] with its source", service.blueprint))
    })?;
    let (env, left_out) = given.env(blueprint);
    let mut spec = WorkloadSpec::new(blueprint.source.clone());
    let rest = given.arguments.iter().skip(1);
    spec.test_mode = rest.clone().any(|argument| argument == "--test-mode");
    spec.args = rest.filter(|argument| *argument != "--test-mode").cloned().collect();
    spec.name = if blueprint.name.is_empty() { given.name(service) } else { blueprint.name.clone() };
    spec.env = env;
    spec.chain = given.chain();
    spec.limits = blueprint.limits;
    spec.restart = blueprint.restart;
    spec.stop_grace_secs = blueprint.stop_grace_secs;
    spec.sandbox = blueprint.sandbox;
    spec.registration = given.get("REGISTRATION_MODE_ON").is_some_and(|on| on == "true");
    spec.check().map_err(|error| {
        CliError::config(format!("blueprint {} cannot be run so: {error}", service.blueprint))
            .hint("it is made of launcher.toml and of the environment that the Manager gives")
    })?;
    let registration =
        if spec.registration { Some(PathBuf::from(given.need("REGISTRATION_OUTPUT_PATH")?)) } else { None };
    let bridge = match (spec.test_mode, given.get("BRIDGE_SOCKET_PATH")) {
        (true, _) => None,
        // Whoever only registers may have none.
        (false, None) if spec.registration => None,
        (false, _) => Some(PathBuf::from(given.need("BRIDGE_SOCKET_PATH")?)),
    };
    let document = serde_json::to_string(&spec)
        .map_err(|error| CliError::failure(format!("the workload has no JSON form: {error}")))?;
    let start = v1::LauncherStart {
        blueprint_id: service.blueprint,
        service_id: service.service,
        document,
        launcher: String::new(),
        lease_secs: config.grace_secs,
        nodes: blueprint.nodes.clone(),
        keystore: given.keystore(blueprint)?,
        envelope_key: given.envelope_key(blueprint)?,
        take_over: blueprint.take_over,
        registry_login: blueprint.registry_login.as_deref().map(login::read).transpose()?,
    };
    let stop_grace_secs = blueprint.stop_grace_secs;
    let hub = config.hub.clone();
    let unplaced_patience = config.unplaced_patience;
    Ok(Plan { service, hub, bridge, start, stop_grace_secs, unplaced_patience, registration, left_out })
}

impl Given {
    fn get(&self, name: &str) -> Option<&String> {
        self.variables.get(name).filter(|value| !value.is_empty())
    }

    fn need(&self, name: &str) -> Result<&String, CliError> {
        self.get(name).ok_or_else(|| {
            CliError::usage(format!("{name} is not set"))
                .hint("the Blueprint Manager starts this program; docs/manager.md shows how")
        })
    }

    fn number(&self, name: &str) -> Result<u64, CliError> {
        let text = self.need(name)?;
        text.parse().map_err(|_| CliError::usage(format!("{name} is {text:?}, and has to be a number")))
    }

    /// The name of the blueprint, as the Manager's data folder has it; empty where that says none.
    fn name(&self, service: ServiceKey) -> String {
        let folder = self.get("DATA_DIR").map(PathBuf::from).unwrap_or_default();
        let folder = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = folder.strip_prefix(&format!("blueprint-{}-", service.blueprint)).unwrap_or_default();
        let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let is_name = starts
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if is_name { name.to_owned() } else { String::new() }
    }

    fn chain(&self) -> ChainSettings {
        let text = |name: &str| self.get(name).cloned().unwrap_or_default();
        let contracts =
            CONTRACTS.iter().filter_map(|name| Some(((*name).to_owned(), self.get(name)?.clone())));
        ChainSettings {
            http_rpc_url: text("HTTP_RPC_URL"),
            ws_rpc_url: text("WS_RPC_URL"),
            chain: text("CHAIN"),
            bootnodes: text("BOOTNODES").split_whitespace().map(str::to_owned).collect(),
            contracts: contracts.collect(),
            protocol: text("PROTOCOL"),
        }
    }

    /// Variables that go along, and the names of those that would if they did not name files of this machine.
    fn env(&self, blueprint: &Blueprint) -> (BTreeMap<String, String>, Vec<String>) {
        let (mut env, mut left_out) = (BTreeMap::new(), Vec::new());
        for (name, value) in &self.variables {
            let is_named = blueprint.env.contains(name);
            let is_usual = NAMES.contains(&name.as_str())
                || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || (name == API_KEY && blueprint.send_api_key);
            if name.starts_with(ENVELOPE_KEY) || !(is_named || is_usual) {
                continue;
            }
            if name.ends_with("_PATH") && !is_named {
                left_out.push(name.clone());
            } else {
                env.insert(name.clone(), value.clone());
            }
        }
        (env, left_out)
    }

    fn keystore(&self, blueprint: &Blueprint) -> Result<Vec<v1::KeyFile>, CliError> {
        if !blueprint.send_keystore {
            return Ok(Vec::new());
        }
        keystore::read(self.need("KEYSTORE_URI")?.as_ref())
    }

    fn envelope_key(&self, blueprint: &Blueprint) -> Result<Vec<u8>, CliError> {
        if !blueprint.send_envelope_key {
            return Ok(Vec::new());
        }
        let digits = self.need(ENVELOPE_KEY)?.trim();
        let wrong = || CliError::usage(format!("{ENVELOPE_KEY} does not have 64 hexadecimal digits"));
        let pairs = digits.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'));
            pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
        });
        let key: Vec<u8> = pairs.collect::<Option<_>>().ok_or_else(wrong)?;
        if digits.len() == 64 { Ok(key) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::config;

    const CONFIG: &str =
        "hub = \"/h.sock\"\n[blueprint.7]\nsource = { type = \"testing\", path = \"/bin/b\" }\n";

    fn given(more: &[(&str, &str)]) -> Given {
        let variables = [
            ("BLUEPRINT_ID", "7"),
            ("SERVICE_ID", "42"),
            ("DATA_DIR", "/data/blueprint-7-demo"),
            ("KEYSTORE_URI", "/keys"),
            ("BRIDGE_SOCKET_PATH", "/r/svc-7-42.sock"),
            ("HTTP_RPC_URL", "http://127.0.0.1:8545/"),
            ("CHAIN", "local_testnet"),
            ("BOOTNODES", " /ip4/1 /ip4/2"),
            ("PROTOCOL", "tangle"),
            ("PATH", "/bin"),
            ("HOME", "/root"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("TANGLE_API_KEY", "k"),
            ("TLS_ENVELOPE_KEY", "aa"),
            ("TLS_ENVELOPE_KEY_PATH", "/e"),
            ("TLS_SERVER_KEY_PATH", "/k"),
            ("TLS_SNI", "a.example.org"),
            ("RUST_LOG", "info"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://o"),
        ];
        let all = variables.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let arguments = ["run", "--test-mode", "-v", "extra"].map(str::to_owned).to_vec();
        Given { arguments, variables: all.collect() }
    }

    fn spec(plan: &Plan) -> WorkloadSpec {
        serde_json::from_str(&plan.start.document).unwrap()
    }

    #[test]
    fn what_the_manager_gives_goes_along_and_what_is_this_machines_does_not() {
        let plan = plan(&config(CONFIG).unwrap(), &given(&[])).unwrap();
        let sent = spec(&plan);
        assert_eq!(sent.args, ["-v", "extra"]);
        assert!(sent.test_mode && plan.bridge.is_none());
        assert_eq!(sent.name, "demo");
        assert_eq!(
            sent.env.keys().collect::<Vec<_>>(),
            ["OTEL_EXPORTER_OTLP_ENDPOINT", "RUST_LOG", "TLS_SNI"]
        );
        assert_eq!(plan.left_out, ["TLS_SERVER_KEY_PATH"]);
        assert_eq!(sent.chain.bootnodes, ["/ip4/1", "/ip4/2"]);
        assert_eq!(sent.chain.http_rpc_url, "http://127.0.0.1:8545/");
        assert!(plan.start.keystore.is_empty() && plan.start.envelope_key.is_empty());
        assert!(plan.start.registry_login.is_none(), "none unless it is said");
        let named = format!("{CONFIG}env = [\"TLS_SERVER_KEY_PATH\", \"AWS_REGION\"]\nsend_api_key = true\n");
        let plan = super::plan(&config(&named).unwrap(), &given(&[("AWS_REGION", "r")])).unwrap();
        let named = spec(&plan).env;
        assert!(
            ["TLS_SERVER_KEY_PATH", "AWS_REGION", "TANGLE_API_KEY"]
                .iter()
                .all(|name| named.contains_key(*name))
        );
    }

    #[test]
    fn a_key_goes_along_only_where_that_is_said() {
        let sends = format!("{CONFIG}send_envelope_key = true\n");
        let key = "0f".repeat(32);
        let plan = plan(&config(&sends).unwrap(), &given(&[("TLS_ENVELOPE_KEY", &key)])).unwrap();
        assert_eq!(plan.start.envelope_key, vec![0x0f; 32]);
        assert!(!spec(&plan).env.contains_key(ENVELOPE_KEY), "never in the document");
        for bad in ["", "zz", &"0f".repeat(31), &"+f".repeat(32)] {
            assert!(super::plan(&config(&sends).unwrap(), &given(&[(ENVELOPE_KEY, bad)])).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_registration_says_where_its_inputs_go_and_an_unknown_blueprint_what_to_write() {
        let more = [("REGISTRATION_MODE_ON", "true"), ("REGISTRATION_OUTPUT_PATH", "/data/r.bin")];
        let plan = plan(&config(CONFIG).unwrap(), &given(&more)).unwrap();
        assert!(spec(&plan).registration);
        assert_eq!(plan.registration, Some(PathBuf::from("/data/r.bin")));
        let error = super::plan(&config(CONFIG).unwrap(), &given(&[("BLUEPRINT_ID", "8")])).unwrap_err();
        assert!(error.hint.unwrap().contains("[blueprint.8]"));
        assert!(super::plan(&config(CONFIG).unwrap(), &Given::default()).is_err());
    }
}
