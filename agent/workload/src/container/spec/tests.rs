use blueprint_common_types::workload::ResourceLimits;

use super::*;
use crate::container::{ApiVersion, Product};

fn container() -> ContainerSpec {
    ContainerSpec {
        name: "svc-7-42".to_owned(),
        node: "n1".to_owned(),
        image: "127.0.0.1:5000/a/b".to_owned(),
        digest: Sha256Digest::from_bytes([7; 32]),
        args: vec!["--x=$(rm -rf /)".to_owned(), String::new()],
        env: BTreeMap::from([("A".to_owned(), "b c\n\"d\"=e".to_owned())]),
        limits: ResourceLimits::default(),
        gpu_ids: Vec::new(),
        devices: Vec::new(),
        disk: None,
        mounts: vec![Mount { host: "/d/7".into(), inside: "/data".to_owned(), read_only: false }],
        ports: vec![8080],
        user: Some((1000, 1001)),
        extra_hosts: vec![ExtraHost { name: "node".to_owned(), address: None }],
    }
}

fn info(bounds_storage: bool, log_driver: &'static str) -> EngineInfo {
    EngineInfo {
        product: Product::Docker,
        version: String::new(),
        api: ApiVersion { major: 1, minor: 41 },
        cgroup_version: 2,
        runtimes: Vec::new(),
        has_gpu_runtime: false,
        is_rootless: false,
        bounds_storage,
        unbounded: Vec::new(),
        log_driver,
    }
}

#[test]
fn a_container_is_asked_for_with_nothing_but_what_it_needs() {
    let engine = info(false, "local");
    let volumes = ["/data/".to_owned(), "/tmp".to_owned(), "/cache".to_owned()];
    let body =
        container().to_json(Plan { info: &engine, volumes: &volumes, network: None, with_gpus: false });
    let digest = "07".repeat(32);
    assert_eq!(body["Image"], format!("127.0.0.1:5000/a/b@sha256:{digest}"));
    assert_eq!(body["Cmd"], json!(["--x=$(rm -rf /)", ""]), "a list that no shell reads");
    assert_eq!(body["Env"], json!(["A=b c\n\"d\"=e"]));
    assert_eq!(body["User"], "1000:1001");
    assert_eq!(body["Labels"], json!({ "blueprint.node": "n1", "blueprint.service": "svc-7-42" }));
    assert_eq!(body["ExposedPorts"], json!({ "8080/tcp": {} }));
    let tmpfs = json!({ "SizeBytes": 64 << 20, "Mode": 0o1777 });
    let expected = json!({
        "NanoCpus": 2_000_000_000u64,
        "Memory": 4u64 << 30,
        "MemorySwap": 4u64 << 30,
        "PidsLimit": 1024,
        "Privileged": false,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": true,
        "Tmpfs": { "/tmp": format!("rw,nosuid,nodev,noexec,mode=1777,size={}", 64 << 20) },
        "Mounts": [
            { "Type": "bind", "Source": "/d/7", "Target": "/data", "ReadOnly": false },
            { "Type": "tmpfs", "Target": "/cache", "TmpfsOptions": tmpfs },
        ],
        "Init": true,
        "RestartPolicy": { "Name": "no" },
        "AutoRemove": false,
        "LogConfig": { "Type": "local", "Config": { "max-size": "10m", "max-file": "2" } },
        "PortBindings": { "8080/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "" }] },
        "ExtraHosts": ["node:host-gateway"],
    });
    assert_eq!(body["HostConfig"], expected);
}

#[test]
fn network_gpus_and_the_size_of_storage_are_asked_for_where_they_can_be_had() {
    let engine = info(true, "k8s-file");
    let mut spec = container();
    spec.limits.gpu_policy = GpuPolicy::Required;
    spec.limits.gpu_count = 2;
    spec.limits.memory_bytes = 8 << 20;
    let network = Some(Network { name: "blueprint", gateway: Some([172, 18, 0, 1].into()) });
    let config = &spec.to_json(Plan { info: &engine, volumes: &[], network, with_gpus: true })["HostConfig"];
    assert_eq!(
        (&config["NetworkMode"], &config["ExtraHosts"]),
        (&json!("blueprint"), &json!(["node:172.18.0.1"]))
    );
    let request = json!([{ "Driver": "", "Count": 2, "Capabilities": [["gpu"]] }]);
    assert_eq!(config["DeviceRequests"], request);
    let mut own = spec.clone();
    own.gpu_ids = vec!["GPU-0a-1".to_owned(), "1".to_owned()];
    own.devices = vec!["/dev/dri/renderD128".into()];
    own.check().unwrap();
    let given = &own.to_json(Plan { info: &engine, volumes: &[], network, with_gpus: true })["HostConfig"];
    let request = json!([{ "Driver": "", "DeviceIDs": ["GPU-0a-1", "1"], "Capabilities": [["gpu"]] }]);
    assert_eq!(given["DeviceRequests"], request, "these and no others");
    let path = "/dev/dri/renderD128";
    let device = json!([{ "PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw" }]);
    assert_eq!(given["Devices"], device);
    own.gpu_ids = vec!["0,1".to_owned()];
    assert!(own.check().unwrap_err().to_string().contains("gpu_ids"));
    assert_eq!(config["StorageOpt"], json!({ "size": (20u64 << 30).to_string() }));
    assert_eq!(config["LogConfig"], json!({ "Type": "k8s-file", "Config": { "max-size": "10m" } }));
    assert!(config["Tmpfs"]["/tmp"].as_str().unwrap().ends_with(",size=2097152"), "a part of its memory");
}

#[test]
fn what_no_engine_can_take_is_refused_by_name() {
    assert_eq!(container().check(), Ok(()));
    type Spoil = fn(&mut ContainerSpec);
    let cases: [(&str, Spoil); 14] = [
        ("name", |spec| spec.name = "a/../b".to_owned()),
        ("name", |spec| spec.name = "x?force=1".to_owned()),
        ("node", |spec| spec.node = String::new()),
        ("image", |spec| spec.image = "a/b:latest".to_owned()),
        ("image", |spec| spec.image = "a/b&tag=x".to_owned()),
        ("image", |spec| spec.image = "../b".to_owned()),
        ("limits", |spec| spec.limits.memory_bytes = 1),
        ("args", |spec| spec.args.push("a\0b".to_owned())),
        ("env", |spec| drop(spec.env.insert("A=B".to_owned(), String::new()))),
        ("ports", |spec| spec.ports.push(0)),
        ("mounts", |spec| spec.mounts.iter_mut().for_each(|mount| mount.inside = "/".to_owned())),
        ("mounts", |spec| spec.mounts.iter_mut().for_each(|mount| mount.inside = "/a/../b".to_owned())),
        ("mounts", |spec| spec.mounts.iter_mut().for_each(|mount| mount.host = "d".into())),
        ("extra_hosts", |spec| spec.extra_hosts.iter_mut().for_each(|host| host.name = "a:b".to_owned())),
    ];
    for (expected, spoil) in cases {
        let mut spec = container();
        spoil(&mut spec);
        match spec.check() {
            Err(EngineError::Spec { field, .. }) => assert_eq!(field, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn a_disk_is_bounded_by_its_device_and_only_where_that_is_said() {
    let engine = info(false, "local");
    let io = IoLimits { read_bytes: 1 << 20, write_ops: 50, ..IoLimits::default() };
    let limits = ResourceLimits { io, ..ResourceLimits::default() };
    let spec = ContainerSpec { limits, disk: Some("/dev/vda".into()), ..container() };
    let plan = Plan { info: &engine, volumes: &[], network: None, with_gpus: false };
    let config = spec.to_json(plan)["HostConfig"].clone();
    assert_eq!(config["BlkioDeviceReadBps"], json!([{ "Path": "/dev/vda", "Rate": 1 << 20 }]));
    assert_eq!(config["BlkioDeviceWriteIOps"], json!([{ "Path": "/dev/vda", "Rate": 50 }]));
    assert!(config.get("BlkioDeviceWriteBps").is_none() && config.get("BlkioDeviceReadIOps").is_none());
}
