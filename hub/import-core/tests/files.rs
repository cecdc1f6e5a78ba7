//! Every file of the remote mode, as operators have them: each key is explained, and no secret is repeated.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests stand outside test functions")]

use blueprint_common_types::Secret;
use blueprint_hub_import_core::{
    Field, Kind, KnownMachines, MAX_BYTES, MAX_KEY, ReadError, Remote, Report, Surroundings, Verdict, read,
};
use proptest::prelude::*;

/// Every file, with its kind and how many keys are understood, refused, without meaning here, and unknown.
const FILES: [(&str, &[u8], Kind, [usize; 4]); 12] = [
    ("operator.toml", include_bytes!("files/operator.toml"), Kind::Manager, [8, 0, 4, 0]),
    ("remote.toml", include_bytes!("files/remote.toml"), Kind::Manager, [5, 1, 15, 0]),
    ("guide.toml", include_bytes!("files/guide.toml"), Kind::Manager, [12, 5, 11, 0]),
    ("providers.yml", include_bytes!("files/providers.yml"), Kind::Credentials, [5, 0, 1, 0]),
    ("deployment-policy.json", include_bytes!("files/deployment-policy.json"), Kind::Policy, [13, 0, 8, 0]),
    ("cloud.json", include_bytes!("files/cloud.json"), Kind::Cloud, [4, 0, 1, 0]),
    ("deployment_state.json", include_bytes!("files/deployment_state.json"), Kind::State, [14, 0, 13, 0]),
    ("variables.env", include_bytes!("files/variables.env"), Kind::Variables, [4, 2, 1, 0]),
    ("preferences.toml", include_bytes!("files/preferences.toml"), Kind::Preferences, [3, 0, 0, 0]),
    ("pricing.toml", include_bytes!("files/pricing.toml"), Kind::Pricing, [0, 0, 2, 0]),
    ("pricing-engine.toml", include_bytes!("files/pricing-engine.toml"), Kind::Pricing, [0, 0, 9, 0]),
    ("machines.csv", include_bytes!("files/machines.csv"), Kind::Inventory, [8, 0, 4, 0]),
];

fn variable(name: &str) -> Option<Secret<String>> {
    ["WIREGUARD_KEY", "FLY_AUTH_TOKEN", "AWS_CANARY", "MYSQL_PWD"]
        .contains(&name)
        .then(|| Secret::new("canary-of-the-environment".to_owned()))
}

fn imported(name: &str, bytes: &[u8]) -> Result<Report, ReadError> {
    read(name, bytes, &Surroundings { variable: &variable, home: Some("/home/op".to_owned()) })
}

fn file(name: &str) -> Report {
    let (name, bytes, ..) = FILES.iter().find(|(own, ..)| *own == name).unwrap();
    imported(name, bytes).unwrap()
}

fn said(report: &Report, key: &str) -> (Verdict, String) {
    let finding = report.findings.iter().find(|finding| finding.key == key);
    finding
        .map(|finding| (finding.verdict, finding.text.clone()))
        .unwrap_or_else(|| panic!("{key}: {report:#?}"))
}

fn set<'a>(report: &'a Report, key: &str) -> Option<&'a str> {
    report.settings.iter().find(|setting| setting.key == key).map(|setting| setting.value.as_str())
}

#[test]
fn every_key_of_every_file_is_explained() {
    let mut wrong = Vec::new();
    for (name, bytes, kind, counts) in FILES {
        let report = imported(name, bytes).unwrap();
        assert_eq!(report.kind, kind, "{name}");
        let verdicts = [Verdict::Understood, Verdict::Refused, Verdict::NotApplicable, Verdict::Unknown];
        let found = verdicts.map(|verdict| report.count(verdict));
        if found != counts {
            let keys: Vec<_> =
                report.findings.iter().map(|it| format!("{} {}", it.key, it.verdict.word())).collect();
            wrong.push(format!("{name}: {found:?}, not {counts:?}: {}", keys.join("; ")));
        }
        assert!(report.findings.iter().all(|finding| !finding.text.is_empty()), "{name}");
        let whole = format!("{report:?}");
        assert!(!whole.to_lowercase().contains("canary"), "{name}: {whole}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn preferences_of_the_operator_become_settings() {
    let report = file("operator.toml");
    assert_eq!(set(&report, "provision.strategy"), Some("cheapest"));
    assert_eq!(set(&report, "provision.max_order_hourly"), Some("1.00"));
    assert_eq!(set(&report, "provision.spot"), Some("asked"));
    assert_eq!(report.remotes["preferred"].strategy.as_deref(), Some("preferred:aws,gcp"));
    assert!(report.remotes["one"].unusable.is_some());
    for (key, value) in
        [("enabled", "true"), ("min_replicas", "1"), ("max_replicas", "10"), ("target_cpu", "70")]
    {
        assert_eq!(set(&report, &format!("scaling.{key}")), Some(value));
    }
    let wrong = "[operator.scaling]\nenabled = 1\nmin_replicas = 5\nmax_replicas = 4\ntarget_cpu = 101";
    let report = imported("x.toml", wrong.as_bytes()).unwrap();
    assert_eq!((report.settings.len(), report.count(Verdict::Refused)), (0, 4), "{report:#?}");

    let report = file("deployment-policy.json");
    assert_eq!(set(&report, "provision.strategy"), Some("first-match"));
    assert_eq!(set(&report, "provision.spot"), Some("preferred"));
    assert_eq!(set(&report, "provision.ttl"), Some("24h"));
    assert_eq!(report.remotes["gpu"].strategy.as_deref(), Some("preferred:gcp,aws"));
    assert_eq!(report.remotes["cost"].strategy.as_deref(), Some("preferred:vultr,digitalocean"));
    assert!(said(&report, "providers.cost_optimized").1.contains("\"crusoe\""));
    assert_eq!(report.remotes["region-us-west-2"].region.as_deref(), Some("us-west-2"));

    let report = file("cloud.json");
    assert_eq!(set(&report, "provision.strategy"), Some("preferred:digitalocean"));
    assert_eq!(set(&report, "providers.aws.regions"), Some("eu-central-1"));
    assert!(report.steps[0].contains("\"a-project\"") && report.steps[0].contains("provider configure gcp"));
    assert_eq!(set(&report, "providers.digitalocean.enabled"), Some("true"));
}

#[test]
fn places_become_remotes_and_insecure_keys_are_refused() {
    let report = file("remote.toml");
    assert_eq!(report.remotes["homelab"], Remote::of("ssh"));
    let text = "[remote.do]\ntype = \"digitalocean\"\nregion = \"fra1\"\ntoken = \"canary\"\nresources = { cpu_limit = \"4\", \
                memory_limit = \"8Gi\", max_instances = 10 }";
    let own = imported("x.toml", text.as_bytes()).unwrap();
    let place = &own.remotes["do"];
    assert_eq!(
        (place.max_instances, place.min_cpu.as_deref(), place.min_memory.as_deref()),
        (Some(10), Some("4"), Some("8"))
    );
    assert_eq!((place.provider.as_deref(), place.region.as_deref()), (Some("digitalocean"), Some("fra1")));
    assert_eq!(own.credentials.len(), 1);
    for name in ["aws", "fly"] {
        assert!(report.remotes[name].unusable.is_some(), "{name}");
    }
    assert_eq!(said(&report, "remote.aws.tunnel.private_key").0, Verdict::Refused);
    assert_eq!(set(&report, "hub.advertise"), Some("hub.example.org"));
    assert_eq!(set(&report, "tunnel.listen"), Some("0.0.0.0:51820"));
    let step = "blueprint-hub host scan 192.0.2.11 --user blueprint --identity /home/op/.ssh/deploy";
    assert!(report.steps.iter().any(|line| line.starts_with(step)), "{:?}", report.steps);

    let report = file("guide.toml");
    assert_eq!(report.remotes["docker"], Remote::of("local-docker"));
    assert_eq!(report.remotes["bare-metal"], Remote::of("ssh"));
    assert_eq!(said(&report, "providers.aws.tunnel_required").0, Verdict::Refused);
    assert_eq!(set(&report, "tunnel.keepalive"), Some("25s"));
    assert_eq!(report.steps.len(), 3);

    for (text, key) in [
        ("[network]\ntunnel_enabled = false", "network.tunnel_enabled"),
        ("[remote.x]\ntype = \"docker\"\nendpoint = \"tcp://192.0.2.1:2375\"", "remote.x.endpoint"),
        ("[remote.x]\ntype = \"ssh\"\nhosts = [\"-oProxyCommand=x\"]", "remote.x.hosts"),
        ("[remote.x]\ntype = \"ssh\"\nhosts = [\"a; rm -rf /\"]", "remote.x.hosts"),
        ("[remote.x.tunnel]\nendpoint = \"${NONE}\"", "remote.x.tunnel.endpoint"),
        ("[network]\nhub_endpoint = \"${WIREGUARD_KEY}\"", "network.hub_endpoint"),
        ("[network]\nhub_endpoint = \"${MYSQL_PWD}\"", "network.hub_endpoint"),
        ("[network]\nhub_endpoint = \"${NONE:-hub}.${MYSQL_PWD}\"", "network.hub_endpoint"),
    ] {
        let report = imported("x.toml", text.as_bytes()).unwrap();
        assert_eq!(said(&report, key).0, Verdict::Refused, "{text}");
        assert!(!format!("{report:?}").contains("canary"), "{text}");
        assert!(report.steps.is_empty(), "{text}");
    }
}

#[test]
fn an_order_for_one_place_cannot_land_on_another() {
    let docker = |endpoint: &str| format!("type = \"docker\"\nendpoint = \"{endpoint}\"\n");
    for endpoint in ["${NONE}", "tcp://192.0.2.1:2376", "http://192.0.2.1", "192.0.2.1:2376", "ssh://a@b"] {
        let report = imported("x.toml", format!("[remote.x]\n{}", docker(endpoint)).as_bytes()).unwrap();
        assert!(report.remotes["x"].unusable.is_some(), "{endpoint}");
        assert_eq!(said(&report, "remote.x.type").0, Verdict::Refused, "{endpoint}");
        assert_eq!(said(&report, "remote.x.endpoint").0, Verdict::Refused, "{endpoint}");
    }
    for (type_of, becomes) in
        [("docker", "local-docker"), ("local-docker", "local-docker"), ("docker-remote", "docker")]
    {
        let report = imported("x.toml", format!("[remote.x]\ntype = \"{type_of}\"").as_bytes()).unwrap();
        assert_eq!(report.remotes["x"], Remote::of(becomes));
    }
    let ssh = |host: &str| format!("type = \"SshRemote\"\nhosts = [\"{host}\"]\n");
    let token = |token: &str| format!("type = \"vultr\"\ntoken = \"{token}\"\n");
    for (section, one, two, clash) in [
        ("remote", ssh("192.0.2.1"), ssh("192.0.2.2"), false),
        ("remote", ssh("192.0.2.1"), ssh("192.0.2.1"), false),
        ("providers", ssh("192.0.2.1"), ssh("192.0.2.2"), false),
        ("providers", docker("https://one:2376"), docker("https://two:2376"), true),
        ("remote", docker("unix:///var/run/docker.sock"), docker("unix:///run/other.sock"), true),
        ("remote", docker("unix:///var/run/docker.sock"), "type = \"docker\"".to_owned(), false),
        ("remote", token("canary-1"), token("canary-2"), true),
        ("remote", token("canary"), "type = \"vultr\"\nregion = \"fra\"".to_owned(), false),
    ] {
        let text = format!("[remote.one]\n{one}\n[{section}.two]\n{two}");
        let report = imported("x.toml", text.as_bytes()).unwrap();
        for (name, key) in [("one", "remote.one.type"), ("two", &*format!("{section}.two.type"))] {
            assert_eq!(report.remotes[name].unusable.is_some(), clash, "{text}");
            let (verdict, why) = said(&report, key);
            assert_eq!(
                verdict == Verdict::Refused && why.contains("could land on another"),
                clash,
                "{text}: {why}"
            );
        }
    }
    let twice = "[remote.x]\ntype = \"aws\"\n[providers.x]\ntype = \"gcp\"";
    let report = imported("x.toml", twice.as_bytes()).unwrap();
    assert!(report.remotes["x"].unusable.is_some() && said(&report, "remote.x.type").0 == Verdict::Refused);
}

#[test]
fn places_whose_hosts_differ_are_those_hosts_alone() {
    let text = "[remote.cellar]\ntype = \"ssh\"\nhosts = [\"192.0.2.1\", \"Rack-1.example.org\"]\n\
                [remote.attic]\ntype = \"ssh\"\nhosts = [\"192.0.2.2\"]\n[remote.any]\ntype = \"ssh\"\nhosts = []";
    let report = imported("x.toml", text.as_bytes()).unwrap();
    assert_eq!(report.remotes["cellar"].plans, ["192-0-2-1", "rack-1-example-org"]);
    assert_eq!(report.remotes["attic"].plans, ["192-0-2-2"]);
    assert!(report.remotes["any"].unusable.is_some(), "it names none, and could land on any");
    let told = |step: &&String| {
        step.contains("host scan 192.0.2.2") && step.contains("name it 192-0-2-2 in the inventory")
    };
    assert!(report.steps.iter().any(|step| told(&step)), "{:?}", report.steps);
    assert!(said(&report, "remote.attic.type").1.contains("its machines 192-0-2-2"));
}

#[test]
fn places_that_share_a_host_or_its_name_in_the_inventory_are_refused() {
    let clashes = [
        // A host of two places, two hosts of two places with one name, and two of one place.
        (["\"one\", \"two\"", "\"two\", \"three\""], [true, true]),
        (["\"db.a\"", "\"db-a\""], [true, true]),
        (["\"DB.a\"", "\"db.a\""], [true, true]),
        (["\"db.a\", \"db-a\"", "\"other\""], [true, false]),
        (["\"one\", \"one\"", "\"two\""], [false, false]),
    ];
    for (hosts, refused) in clashes {
        let place = |name, hosts| format!("[remote.{name}]\ntype = \"ssh\"\nhosts = [{hosts}]\n");
        let text = place("x", hosts[0]) + &place("y", hosts[1]);
        let report = imported("x.toml", text.as_bytes()).unwrap();
        for (name, refused) in ["x", "y"].into_iter().zip(refused) {
            let remote = &report.remotes[name];
            assert_eq!((remote.unusable.is_some(), remote.plans.is_empty()), (refused, refused), "{text}");
            let (verdict, why) = said(&report, &format!("remote.{name}.type"));
            assert_eq!(verdict == Verdict::Refused && why.contains("in the inventory"), refused, "{why}");
        }
    }
}

#[test]
fn regions_of_replicas_are_what_an_order_is_spread_over() {
    let text = "[remote.do]\ntype = \"digitalocean\"\n[remote.do.regions]\nprimary = \"fra1\"\nreplicas = [\"nyc3\", \"sgp1\"]";
    let report = imported("x.toml", text.as_bytes()).unwrap();
    let place = &report.remotes["do"];
    assert_eq!((place.region.as_deref(), place.spread.as_deref()), (None, Some("regions")));
    assert_eq!(place.regions, ["fra1", "nyc3", "sgp1"]);
    assert_eq!(said(&report, "remote.do.regions.replicas").0, Verdict::Understood);
}

#[test]
fn of_several_values_the_last_counts_and_the_others_say_so() {
    let report = file("guide.toml");
    let (verdict, text) = said(&report, "network.hub_port");
    assert_eq!(verdict, Verdict::Refused);
    assert_eq!(text, "tunnel.listen is set by network.tunnel.hub_port, too, which counts");
    let text = "[network]\nhub_endpoint = \"a.example:1\"\nhub_port = 2";
    let report = imported("x.toml", text.as_bytes()).unwrap();
    let (verdict, text) = said(&report, "network.hub_endpoint");
    assert_eq!(verdict, Verdict::Understood);
    assert!(
        text.contains("hub.advertise") && text.contains("tunnel.listen is set by network.hub_port"),
        "{text}"
    );
    let text = "SCW_DEFAULT_ZONE=fr-par-1\nAZURE_RESOURCE_GROUP=one\nAZURE_RESOURCE_GROUP=two\nAWS_REGION=a,b\nAWS_DEFAULT_REGION=b,c\n\
                METAL_AUTH_TOKEN=canary\nHIVELOCITY_API_KEY=k\n";
    let report = imported("x.env", text.as_bytes()).unwrap();
    assert_eq!(set(&report, "providers.scaleway.zones"), Some("fr-par-1"));
    assert_eq!(set(&report, "providers.azure.resource_group"), Some("two"));
    assert_eq!(set(&report, "providers.aws.regions"), Some("a,b,c"));
    assert_eq!(report.count(Verdict::Refused), 1);
    assert!(said(&report, "METAL_AUTH_TOKEN").1.contains("ended"));
    assert_eq!(report.credentials.len(), 1);
}

#[test]
fn types_that_are_not_allowed_are_named() {
    let report = file("preferences.toml");
    assert_eq!(report.allowed.as_ref().map(|names| names.len()), Some(2));
    let (verdict, text) = said(&report, "allowed_types");
    assert_eq!(verdict, Verdict::Understood);
    assert!(text.contains("aws, digitalocean") && text.contains("\"AwsEks\" is left out"), "{text}");
    let report = imported("x.toml", b"allowed_types = [\"Crusoe\", 1]").unwrap();
    assert_eq!((said(&report, "allowed_types").0, report.settings.len()), (Verdict::Refused, 0));
}

#[test]
fn what_a_place_does_not_use_is_not_understood() {
    let text = "[remote.x]\ntype = \"vultr\"\nkey = \"canary\"\nuser = \"root\"\nhosts = [\"192.0.2.1\"]\n[remote.y]\ntype = \
                \"ssh\"\nuser = \"root\"\nkey_path = \"/k\"";
    let report = imported("x.toml", text.as_bytes()).unwrap();
    assert_eq!((report.credentials.len(), &*report.credentials[0].provider), (1, "vultr"));
    assert_eq!(said(&report, "remote.x.key").0, Verdict::Understood);
    for key in ["remote.x.user", "remote.x.hosts", "remote.y.user", "remote.y.key_path"] {
        assert_eq!(said(&report, key).0, Verdict::NotApplicable, "{key}");
    }
    assert!(report.steps.is_empty() && !format!("{report:?}").contains("canary"));
}

#[test]
fn a_mistyped_key_is_unknown_and_gets_the_one_that_was_meant() {
    let text =
        "[operator.deployment]\nmod = \"local\"\n[remote.x]\nkubecfg = { a = 1, b = 2 }\n[strange]\na = 1";
    let report = imported("x.toml", text.as_bytes()).unwrap();
    let (verdict, text) = said(&report, "operator.deployment.mod");
    assert_eq!((verdict, text.contains("did you mean mode?")), (Verdict::Unknown, true), "{text}");
    assert!(said(&report, "remote.x.kubecfg").1.contains("its 2 keys are not looked at"));
    assert_eq!(said(&report, "strange").0, Verdict::Unknown);
}

#[test]
fn credentials_fit_the_fields_of_their_provider() {
    let field = |name: &str, required, secret, variable: &str| Field {
        name: name.to_owned(),
        required,
        secret,
        variables: vec![variable.to_owned()],
    };
    let token = [field("token", true, true, "DIGITALOCEAN_TOKEN")];
    let aws = [
        field("access_key_id", true, false, "AWS_ACCESS_KEY_ID"),
        field("secret_access_key", true, true, "AWS_SECRET_ACCESS_KEY"),
        field("role", false, false, "AWS_ROLE"),
    ];
    let of = |report: &Report, provider: &str, fields: &[Field]| {
        let given = report.credentials.iter().find(|given| given.provider == provider).unwrap();
        given.fit(fields).map(|text| text.expose().clone())
    };
    let report = file("providers.yml");
    assert_eq!(set(&report, "providers.digitalocean.regions"), Some("fra1"));
    assert_eq!(of(&report, "digitalocean", &token).unwrap(), r#"{"token":"canary-of-digitalocean"}"#);
    assert_eq!(
        of(&report, "aws", &aws).unwrap(),
        r#"{"access_key_id":"AKIACANARY","secret_access_key":"canary-of-the-environment"}"#
    );
    assert_eq!(of(&report, "vultr", &token).unwrap(), r#"{"token":"canary-of-vultr"}"#);
    let error = of(&report, "vultr", &aws).unwrap_err().to_string();
    assert!(error.contains("provider configure vultr") && !error.contains("canary"), "{error}");
    let report = file("variables.env");
    assert_eq!(
        of(&report, "aws", &aws).unwrap(),
        r#"{"access_key_id":"AKIACANARY","secret_access_key":"canary-of-aws"}"#
    );
}

#[test]
fn machines_of_others_are_known_once_and_forgotten_again() {
    let report = file("deployment_state.json");
    let [first, second] = report.machines.as_slice() else { panic!("{report:?}") };
    assert_eq!(
        (&*first.name, &*first.provider, &*first.provider_id),
        ("blueprint-7-42", "aws", "i-0123456789abcdef0")
    );
    assert_eq!((&*second.provider, &*second.plan, &*second.state), ("ssh", "GcpGke", "Unknown"));
    assert_eq!(report.steps.len(), 1, "{:?}", report.steps);
    let list = file("machines.csv");
    assert_eq!(list.machines[1].provider, "Hetzner");
    assert_eq!(list.machines[1].provider_id, "a \"b\"");
    let mut known = KnownMachines::default();
    assert!(known.add(report.machines.clone()) && known.add(report.machines) && known.add(list.machines));
    assert_eq!(known.machines.len(), 4);
    assert!(known.forget("m-1") && !known.forget("m-1"));
    let many = (0..20_000)
        .map(|n| blueprint_hub_import_core::KnownMachine { name: n.to_string(), ..Default::default() });
    assert!(!known.add(many.collect()));
    assert_eq!(known.machines.len(), 3);
}

#[test]
fn files_that_are_none_of_these_are_refused_with_a_reason() {
    for (name, bytes, says) in [
        ("x.toml", b"a = 1\n".as_slice(), "none of the files"),
        ("x.toml", b"key = canary\n", "line 1"),
        ("x.json", b"{\"a\": canary}", "line 1"),
        ("x.yml", b"a: *canary\n", "anchors"),
        ("x.csv", b"name,state\na\n", "line 2 has 1 fields"),
        ("x.env", b"canary!\n", "line 1"),
        ("x.json", b"\xff\xfe", "UTF-8"),
        ("x.json", b"", "empty"),
        ("x", b"{}", "empty"),
    ] {
        let error = imported(name, bytes).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("canary"), "{name}: {error}");
    }
    assert!(matches!(imported("x", &vec![b' '; MAX_BYTES + 1]), Err(ReadError::TooLong(_))));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100), "]".repeat(100));
    assert!(matches!(imported("x.json", deep.as_bytes()), Err(ReadError::TooDeep)));
    let wide = format!("{{\"a\":[{}1]}}", "1,".repeat(100_001));
    assert!(matches!(imported("x.json", wide.as_bytes()), Err(ReadError::TooMany)));
    let long = "n".repeat(MAX_KEY + 1);
    let section = format!("[remote.{long}]\na = 1");
    assert_eq!(imported("x.toml", section.as_bytes()).unwrap_err(), ReadError::LongKey(MAX_KEY + 1));
    let header = format!("name,{long}\na,b\n");
    assert_eq!(imported("x.csv", header.as_bytes()).unwrap_err(), ReadError::LongKey(MAX_KEY + 1));
    let hosts = format!("[remote.x]\ntype = \"ssh\"\nhosts = \"{}\"", "a,".repeat(100_000));
    let report = imported("x.toml", hosts.as_bytes()).unwrap();
    assert_eq!((said(&report, "remote.x.hosts").0, report.steps.len()), (Verdict::Refused, 0));
}

#[test]
fn a_credential_of_digits_is_sealed_as_it_was_written_or_refused() {
    let field = Field { name: "api_key".to_owned(), required: true, secret: true, variables: Vec::new() };
    for (name, text, sealed) in [
        (
            "x.yml",
            "vultr:\n  api_key: 123456789012345678901234567890",
            Some("123456789012345678901234567890"),
        ),
        ("x.json", r#"{"vultr":{"api_key":18446744073709551615}}"#, Some("18446744073709551615")),
        ("x.json", r#"{"vultr":{"api_key":123456789012345678901234567890}}"#, None),
        ("x.yml", "vultr:\n  api_key: 12345e67", None),
    ] {
        let report = imported(name, text.as_bytes()).unwrap();
        let fields = [field.clone()];
        let found = report.credentials.first().map(|given| given.fit(&fields).unwrap().expose().clone());
        assert_eq!(found, sealed.map(|digits| format!(r#"{{"api_key":"{digits}"}}"#)), "{text}");
        let verdict = said(&report, "vultr.api_key");
        assert!(sealed.is_some() || verdict.1.contains("quotation marks"), "{verdict:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), which in 0usize..6) {
        let name = ["x.toml", "x.json", "x.yml", "x.csv", "x.env", "x"][which];
        let _ = imported(name, &bytes);
    }

    /// A file with a part of another one in its middle.
    #[test]
    fn no_mixture_of_files_panics(
        which in 0usize..12, other in 0usize..12, at in 0usize..2000, from in 0usize..2000, length in 0usize..60,
    ) {
        let (name, bytes, ..) = FILES[which];
        let (_, part, ..) = FILES[other];
        let at = at.min(bytes.len());
        let from = from.min(part.len());
        let part = &part[from..(from + length).min(part.len())];
        let mixed = [&bytes[..at], part, &bytes[at..]].concat();
        let _ = imported(name, &mixed);
    }
}
