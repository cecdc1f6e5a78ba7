use super::*;

fn native(url: &str) -> Source {
    Source::Native {
        url: url.to_owned(),
        sha256: Sha256Digest::from_bytes([7; 32]),
        blake3: None,
        binary: String::new(),
    }
}

#[test]
fn the_document_has_the_names_of_the_chain_and_survives() {
    let text = format!(
        r#"{{"source": {{"type": "native", "url": "https://example.org/a.tar.gz", "sha256": "{}", "binary": "bin/run"}},
             "env": {{"RUST_LOG": "info"}}, "restart": "on-failure"}}"#,
        "ab".repeat(32)
    );
    let spec: WorkloadSpec = serde_json::from_str(&text).unwrap();
    assert_eq!(spec.check(), Ok(()));
    assert_eq!(spec.limits, ResourceLimits::default());
    assert!(spec.sandbox.no_new_privileges && spec.sandbox.own_user);
    let again = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(spec, again);
    for unknown in
        [r#"{"source": {"type": "testing", "path": "/a"}, "colour": 1}"#, r#"{"source": {"type": "tape"}}"#]
    {
        assert!(serde_json::from_str::<WorkloadSpec>(unknown).is_err(), "{unknown}");
    }
}

#[test]
fn a_source_that_leads_elsewhere_is_refused() {
    for url in ["https://a/b", "http://[::1]:80/x", "ipfs://bafy/dir/a", "github://o/r/v1.0/a.tgz", "hub://"]
    {
        assert_eq!(native(url).check(), Ok(()), "{url}");
    }
    for url in [
        "",
        "file:///etc/passwd",
        "https://",
        "ipfs://",
        "ipfs://a/../b",
        "github://o/r/v1",
        "ftp://a",
        "https://a b",
    ] {
        assert!(native(url).check().is_err(), "{url}");
    }
    for path in ["relative", "/", "/a/../b", "/a//b", ""] {
        assert!(Source::Testing { path: path.to_owned() }.check().is_err(), "{path}");
    }
    let image = |image: &str| {
        let digest = Sha256Digest::from_bytes([1; 32]);
        Source::Container { image: image.to_owned(), digest, ports: Vec::new(), volumes: Vec::new() }.check()
    };
    for fine in ["alpine", "ghcr.io/tangle/run", "localhost:5000/a/b"] {
        assert_eq!(image(fine), Ok(()), "{fine}");
    }
    for bad in ["", "Alpine", "alpine:3", "ghcr.io/a:latest", "a//b", "a@sha256:1"] {
        assert!(image(bad).is_err(), "{bad}");
    }
    assert_eq!(Source::Wasm {}.check(), Err(SourceError::Wasm));
}

#[test]
fn what_the_agent_sets_cannot_be_given() {
    let mut spec = WorkloadSpec::new(Source::Testing { path: "/bin/true".to_owned() });
    for (name, _) in RESERVED {
        spec.env = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert!(matches!(spec.check(), Err(WorkloadError::Reserved(..))), "{name}");
    }
    for name in ["", "1A", "A B", "A=B", "Ä"] {
        spec.env = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert!(matches!(spec.check(), Err(WorkloadError::Variable(_))), "{name}");
    }
    spec.env = BTreeMap::from([("A".to_owned(), "x\0y".to_owned())]);
    assert!(matches!(spec.check(), Err(WorkloadError::Value { .. })));
}

#[test]
fn limits_that_nothing_can_live_in_are_refused_by_name() {
    let base = ResourceLimits::default();
    assert_eq!(base.check(), Ok(()));
    for (limits, field) in [
        (ResourceLimits { cpu_millis: 0, ..base }, "cpu_millis"),
        (ResourceLimits { memory_bytes: 0, ..base }, "memory_bytes"),
        (ResourceLimits { storage_bytes: u64::MAX, ..base }, "storage_bytes"),
        (ResourceLimits { pids: 1, ..base }, "pids"),
        (ResourceLimits { gpu_count: 1, ..base }, "gpu_count"),
        (ResourceLimits { gpu_policy: GpuPolicy::Required, ..base }, "gpu_count"),
        (ResourceLimits { gpu_min_vram_gb: 8, ..base }, "gpu_min_vram_gb"),
    ] {
        assert_eq!(limits.check().unwrap_err().field, field);
    }
}

#[test]
fn the_chain_is_told_by_the_url_as_it_was_given() {
    let chain = |url: &str, said: &str| ChainSettings {
        http_rpc_url: url.to_owned(),
        chain: said.to_owned(),
        ..ChainSettings::default()
    };
    assert_eq!(chain("http://127.0.0.1:8545", "").chain_name(), "local_testnet");
    assert_eq!(chain("http://localhost:8545", "").chain_name(), "local_testnet");
    assert_eq!(chain("https://rpc.tangle.tools", "").chain_name(), "testnet");
    assert_eq!(chain("http://localhost:8545", "mainnet").chain_name(), "mainnet");
}

#[test]
fn states_survive_their_text() {
    for state in WorkloadState::ALL {
        assert_eq!(state.to_string().parse(), Ok(state));
    }
    assert!("happy".parse::<WorkloadState>().is_err());
}

#[test]
fn a_lease_names_its_launcher_and_ends() {
    let mut spec = WorkloadSpec::new(Source::Testing { path: "/bin/b".to_owned() });
    assert!(!serde_json::to_string(&spec).unwrap().contains("lease"), "what operators write has none");
    let lease = |launcher: &str, secs| Some(Lease { launcher: launcher.to_owned(), secs });
    spec.lease = lease("ab12", 15);
    assert_eq!(spec.check(), Ok(()));
    assert_eq!(serde_json::from_str::<WorkloadSpec>(&serde_json::to_string(&spec).unwrap()).unwrap(), spec);
    for bad in [lease("", 15), lease("a b", 15), lease("ab12", 0), lease("ab12", MAX_LEASE_SECS + 1)] {
        spec.lease = bad;
        assert!(matches!(spec.check(), Err(WorkloadError::Lease(_))));
    }
}
