//! What a blueprint is told by its environment and arguments (the Blueprint Manager's `BlueprintEnvVars` and
//! `BlueprintArgs`).

use std::collections::BTreeMap;

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::{Seat, Source, WorkloadSpec};

/// Where a workload finds what is on its machine; every path as the workload sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Its folder; kept from one start to the next.
    pub data_dir: String,
    /// The folder of its keys; an empty one where it has none.
    pub keystore: String,
    /// Its bridge; `None` in test mode.
    pub bridge_socket: Option<String>,
    /// Where the HTTP RPC of the chain is reached from here; `None` for where the operator says.
    pub http_rpc_url: Option<String>,
    /// Where the WebSocket RPC is.
    pub ws_rpc_url: Option<String>,
}

/// Name of the runtime folder, of the control group and of the container.
#[must_use]
pub fn label(seat: Seat) -> String {
    let ServiceKey { blueprint, service } = seat.service;
    match seat.slot {
        0 => format!("svc-{blueprint}-{service}"),
        slot => format!("svc-{blueprint}-{service}.{slot}"),
    }
}

/// Arguments of a blueprint: a native program gets `run` first, a container's entry point adds that itself.
#[must_use]
pub fn arguments(spec: &WorkloadSpec) -> Vec<String> {
    let is_native = match spec.source {
        Source::Native { .. } | Source::Testing { .. } | Source::Wasm {} => true,
        Source::Container { .. } => false,
    };
    let fixed = [is_native.then_some("run"), spec.test_mode.then_some("--test-mode")];
    fixed.into_iter().flatten().map(str::to_owned).chain(spec.args.iter().cloned()).collect()
}

/// Variables of a blueprint. What the operator added comes first, so that nothing of ours can be replaced.
#[must_use]
pub fn environment(service: ServiceKey, spec: &WorkloadSpec, places: &Places) -> BTreeMap<String, String> {
    let mut env = spec.env.clone();
    let chain = &spec.chain;
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    for (name, said, here) in [
        ("HTTP_RPC_URL", &chain.http_rpc_url, &places.http_rpc_url),
        ("WS_RPC_URL", &chain.ws_rpc_url, &places.ws_rpc_url),
    ] {
        if !said.is_empty() {
            set(name, here.as_ref().unwrap_or(said).clone());
        }
    }
    set("KEYSTORE_URI", places.keystore.clone());
    set("DATA_DIR", places.data_dir.clone());
    set("BLUEPRINT_ID", service.blueprint.to_string());
    set("SERVICE_ID", service.service.to_string());
    let protocol = if chain.protocol.is_empty() { "tangle" } else { &chain.protocol };
    set("PROTOCOL", protocol.to_owned());
    set("CHAIN", chain.chain_name().to_owned());
    // The Manager writes a space before each node; programs split at spaces.
    set("BOOTNODES", chain.bootnodes.iter().map(|node| format!(" {node}")).collect());
    for (name, address) in &chain.contracts {
        set(name, address.clone());
    }
    if let Some(socket) = &places.bridge_socket {
        set("BRIDGE_SOCKET_PATH", socket.clone());
    }
    if spec.registration {
        set("REGISTRATION_MODE_ON", "true".to_owned());
        set("REGISTRATION_OUTPUT_PATH", format!("{}/registration_inputs.bin", places.data_dir));
        set("REGISTRATION_CAPTURE_ONLY", "true".to_owned());
    }
    env
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::workload::{ChainSettings, Sha256Digest};

    use super::*;

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    fn places() -> Places {
        Places {
            data_dir: "/d/blueprint-7-demo".to_owned(),
            keystore: "/k".to_owned(),
            bridge_socket: Some("/r/svc-7-42.sock".to_owned()),
            http_rpc_url: Some("http://127.0.0.1:40001/".to_owned()),
            ws_rpc_url: None,
        }
    }

    fn spec() -> WorkloadSpec {
        let chain = ChainSettings {
            http_rpc_url: "http://127.0.0.1:8545/".to_owned(),
            ws_rpc_url: "ws://127.0.0.1:8546/".to_owned(),
            bootnodes: vec!["/ip4/1".to_owned(), "/ip4/2".to_owned()],
            contracts: BTreeMap::from([("TANGLE_CONTRACT".to_owned(), "0x01".to_owned())]),
            ..ChainSettings::default()
        };
        let mut spec = WorkloadSpec::new(Source::Testing { path: "/bin/b".to_owned() });
        spec.chain = chain;
        spec.env = BTreeMap::from([("RUST_LOG".to_owned(), "info".to_owned())]);
        spec
    }

    #[test]
    fn the_environment_is_the_managers() {
        let env = environment(SERVICE, &spec(), &places());
        let expected = [
            ("BLUEPRINT_ID", "7"),
            ("BOOTNODES", " /ip4/1 /ip4/2"),
            ("BRIDGE_SOCKET_PATH", "/r/svc-7-42.sock"),
            // Settled by the URL that the operator gave, not by the one that leads there from here.
            ("CHAIN", "local_testnet"),
            ("DATA_DIR", "/d/blueprint-7-demo"),
            ("HTTP_RPC_URL", "http://127.0.0.1:40001/"),
            ("KEYSTORE_URI", "/k"),
            ("PROTOCOL", "tangle"),
            ("RUST_LOG", "info"),
            ("SERVICE_ID", "42"),
            ("TANGLE_CONTRACT", "0x01"),
            ("WS_RPC_URL", "ws://127.0.0.1:8546/"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(env, BTreeMap::from(expected));
    }

    #[test]
    fn a_registration_says_where_its_inputs_go() {
        let env = environment(SERVICE, &WorkloadSpec { registration: true, ..spec() }, &places());
        assert_eq!(env["REGISTRATION_MODE_ON"], "true");
        assert_eq!(env["REGISTRATION_CAPTURE_ONLY"], "true");
        assert_eq!(env["REGISTRATION_OUTPUT_PATH"], "/d/blueprint-7-demo/registration_inputs.bin");
    }

    #[test]
    fn native_programs_are_told_to_run_and_containers_are_not() {
        let mut spec = spec();
        spec.args = vec!["-v".to_owned()];
        assert_eq!(arguments(&spec), ["run", "-v"]);
        spec.test_mode = true;
        assert_eq!(arguments(&spec), ["run", "--test-mode", "-v"]);
        let digest = Sha256Digest::from_bytes([0; 32]);
        spec.source =
            Source::Container { image: "a/b".to_owned(), digest, ports: Vec::new(), volumes: Vec::new() };
        assert_eq!(arguments(&spec), ["--test-mode", "-v"]);
    }
}
