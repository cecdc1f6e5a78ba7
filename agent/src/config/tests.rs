use blueprint_common_runtime::config::Sources;
use blueprint_common_types::HealthCheck;

use super::*;
use crate::resolver::ResolverWay;

fn load(text: &str, flags: &[(&str, &str)]) -> (Option<AgentConfig>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap_or_else(|error| unreachable!("{error}"));
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, text).unwrap_or_else(|error| unreachable!("{error}"));
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let (settings, mut problems) = SCHEMA.load(&Sources { file: Some(file), env: Vec::new(), flags });
    let config = AgentConfig::from_settings(&settings, &mut problems);
    (config, problems.list().iter().map(ToString::to_string).collect())
}

#[test]
fn the_page_of_the_manual_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config-agent.md");
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::write(path, SCHEMA.markdown()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    assert!(found == SCHEMA.markdown(), "run UPDATE_GENERATED=1 cargo test -p blueprint-agent");
}

#[test]
fn an_empty_file_is_a_whole_configuration() {
    let (config, problems) = load("", &[]);
    let config = config.unwrap();
    assert_eq!(problems, [""; 0]);
    assert_eq!(config.observe_listen, Some(SocketAddr::from(([127, 0, 0, 1], 9464))));
    assert_eq!(config.grace, Duration::from_secs(10));
    assert!(config.name.is_none() && config.services.is_empty());
}

#[test]
fn services_come_with_their_defaults() {
    let text = "[[service]]\nblueprint = 7\nservice = 42\nlocal = \"localhost:8080\"\n\
                [[service]]\nblueprint = 7\nservice = 43\nlocal = \"8080\"\nport = 80\ncheck = \"http:/ok\"\n";
    let (config, problems) = load(text, &[("observe.listen", "off")]);
    assert_eq!(problems, [""; 0]);
    let config = config.unwrap();
    assert_eq!(config.observe_listen, None);
    assert_eq!(config.services[0].port, 8080);
    assert_eq!(config.services[0].check, HealthCheck::Tcp);
    assert_eq!(config.services[1].port, 80);
    assert_eq!(config.services[1].check, HealthCheck::http("/ok"));
}

#[test]
fn every_problem_is_reported_at_once() {
    let text = "[agent]\nname = \"Big Name\"\n[log]\nlevel = \"loud\"\n[tunnel]\nlisten = \"here\"\n\
                [[service]]\nblueprint = 7\nservice = \"x\"\nlocal = \"nowhere:1\"\n";
    let (config, problems) = load(text, &[("shutdown.grace", "10")]);
    assert!(config.is_none());
    for key in [
        "agent.name",
        "log.level",
        "tunnel.listen",
        "shutdown.grace",
        "service[0].service",
        "service[0].local",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(key)), "{key}: {problems:?}");
    }
}

#[test]
fn carriers_are_named_and_a_password_is_not_repeated() {
    let (config, problems) =
        load("[tunnel]\ncarriers = [\"tls\", \"udp\"]\nproxy = \"http://proxy:3128\"\n", &[]);
    let config = config.unwrap();
    assert_eq!(problems, [""; 0]);
    assert_eq!(config.carriers, [Carrier::Udp, Carrier::Tls].into());
    assert_eq!(config.proxy.unwrap().to_string(), "http://proxy:3128");
    for text in ["carriers = \"\"", "carriers = \"udp,fax\"", "proxy = \"http://a:canary@proxy:3128\""] {
        let (config, problems) = load(&format!("[tunnel]\n{text}\n"), &[]);
        assert!(config.is_none() && problems.len() == 1, "{text}: {problems:?}");
        assert!(!problems[0].contains("canary"), "{problems:?}");
    }
}

#[test]
fn the_resolver_is_left_alone_unless_it_is_named_and_there_is_a_device() {
    let (config, problems) = load("", &[]);
    assert_eq!((config.unwrap().resolver, problems.len()), (None, 0));
    let (config, problems) = load("[tunnel]\ninterface = \"tun\"\n[resolver]\nway = \"file\"\n", &[]);
    assert_eq!(problems, [""; 0]);
    let resolver = config.unwrap().resolver.unwrap();
    assert_eq!((resolver.way, resolver.domain.as_str()), (ResolverWay::File, "bp.internal"));
    for (text, words) in [
        ("way = \"file\"", "needs tunnel.interface = \"tun\""),
        ("way = \"dnsmasq\"", "neither off, resolved nor file"),
        ("domain = \"Internal\"", "no domain of labels"),
    ] {
        let (config, problems) = load(&format!("[resolver]\n{text}\n"), &[]);
        assert!(config.is_none() && problems.iter().any(|it| it.contains(words)), "{text}: {problems:?}");
    }
}

#[test]
fn two_services_cannot_share_an_overlay_port() {
    let row = "[[service]]\nblueprint = 7\nservice = 42\nlocal = \"8080\"\n";
    let (config, problems) = load(&format!("{row}{row}"), &[]);
    assert!(config.is_none());
    assert!(problems[0].contains("taken by service 7/42"), "{problems:?}");
}
