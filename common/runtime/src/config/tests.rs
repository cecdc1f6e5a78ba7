//! Loading with all sources, and what is printed from a schema.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use super::*;

const SCHEMA: Schema = Schema {
    program: "blueprint-hub",
    env_prefix: "BLUEPRINT_HUB",
    keys: &[
        Key::new("log", "info", "Level of the log."),
        Key::new(
            "tunnel.listen",
            "0.0.0.0:51820",
            "Where datagrams come in.\nPort 0 lets the system choose.",
        ),
        Key::new("tunnel.mtu", "1420", "Largest inner packet, 1280 to 1500 bytes."),
        Key::unset("tunnel.public", "Address that agents are told."),
        Key::new("proxy.enabled", "true", "Whether clients are served | at all."),
        Key::new("proxy.body_limit", "64MiB", "Largest body."),
        Key::new("proxy.names", r#"["a", "b"]"#, "Names it answers to."),
        Key::new("proxy.tls.renew", "15m", "How often the certificate is looked at."),
        Key::new("note", "", "Free text."),
    ],
    tables: &[TableArray {
        name: "service",
        keys: &[Key::unset("id", "Blueprint and service."), Key::new("check", "tcp", "How it is checked.")],
    }],
};

/// Loads `file` with variables and flags.
fn load(file: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> (Settings, Problems) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.toml");
    fs::write(&path, file).unwrap();
    SCHEMA.load(&Sources { file: Some(path), env: pairs(env), flags: pairs(flags) })
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Problems as `key: text`, with the path of the file shortened.
fn texts(problems: Problems) -> Vec<String> {
    let Err(error) = problems.into_result() else { return Vec::new() };
    error.to_string().lines().map(shortened).collect()
}

/// The line with each word that ends in `hub.toml` cut to that.
fn shortened(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.split_once("hub.toml") {
        Some((before, rest)) => format!("{}hub.toml{rest}", before.split('/').next().unwrap()),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_flag_outranks_the_environment_the_file_and_the_default() {
    let file = "log = 'warn'\n[tunnel]\nlisten = '0.0.0.0:2'\nmtu = 1300\n[proxy.tls]\nrenew = '1h'";
    let env =
        [("BLUEPRINT_HUB_TUNNEL_LISTEN", "0.0.0.0:3"), ("BLUEPRINT_HUB_TUNNEL_MTU", "1310"), ("HOME", "/x")];
    let flags = [("tunnel.listen", "0.0.0.0:4"), ("tunnel.listen", "0.0.0.0:5")];
    let (settings, mut problems) = load(file, &env, &flags);
    assert_eq!(settings.take("tunnel.listen", &mut problems), Some(SocketAddr::from(([0, 0, 0, 0], 5))));
    assert_eq!(settings.take_within("tunnel.mtu", 1280..=1500, &mut problems), Some(1310));
    assert_eq!(settings.take::<String>("log", &mut problems).unwrap(), "warn");
    assert_eq!(settings.take("proxy.tls.renew", &mut problems), Some(Span(Duration::from_secs(3600))));
    assert_eq!(settings.take("proxy.enabled", &mut problems), Some(true));
    assert_eq!(settings.take("proxy.body_limit", &mut problems), Some(ByteSize(64 << 20)));
    assert!(problems.is_empty(), "{problems:?}");

    let origin = |key: &str| settings.show().into_iter().find(|shown| shown.key == key).unwrap().origin;
    assert_eq!(origin("tunnel.listen"), "flag");
    assert_eq!(origin("tunnel.mtu"), "env BLUEPRINT_HUB_TUNNEL_MTU");
    assert!(origin("log").starts_with("file /") && origin("log").ends_with("hub.toml"));
    assert_eq!(origin("proxy.enabled"), "default");
    assert_eq!(origin("tunnel.public"), "unset");
    assert!(settings.is_set("log") && !settings.is_set("proxy.enabled"));
}

#[test]
fn every_problem_is_told_at_once_with_the_nearest_name() {
    let file = "lgo = 'info'\n[tunnel]\nlisten = 'here'\nmtu = 9000\n[proxy]\nenabeld = false\n[zebra]\nx = 1\n\
                [[service]]\nidd = '7/42'\n[[service]]\nid = 'x'";
    let env = [
        ("BLUEPRINT_HUB_TUNEL_MTU", "1"),
        ("BLUEPRINT_HUBRIS", "1"),
        ("BLUEPRINT_HUB_PROXY_BODY_LIMIT", "big"),
    ];
    let flags = [("proxy.name", "x"), ("service", "7/42")];
    let (settings, mut problems) = load(file, &env, &flags);
    settings.take::<SocketAddr>("tunnel.listen", &mut problems);
    settings.take_within::<u16>("tunnel.mtu", 1280..=1500, &mut problems);
    settings.take::<SocketAddr>("tunnel.public", &mut problems);
    settings.take::<ByteSize>("proxy.body_limit", &mut problems);
    for row in settings.rows("service") {
        row.take::<u64>("id", &mut problems);
    }
    assert_eq!(
        texts(problems),
        [
            "lgo: unknown key in hub.toml; did you mean log?",
            "proxy.enabeld: unknown key in hub.toml; did you mean proxy.enabled?",
            "service[0].idd: unknown key in hub.toml; did you mean id?",
            "zebra: unknown key in hub.toml",
            "BLUEPRINT_HUB_TUNEL_MTU: unknown environment variable; did you mean BLUEPRINT_HUB_TUNNEL_MTU?",
            "proxy.name: unknown key in a flag; did you mean proxy.names?",
            "service: is a repeated table, which only the file can set",
            "tunnel.listen: \"here\" (file hub.toml): invalid socket address syntax",
            "tunnel.mtu: \"9000\" (file hub.toml): not within 1280 and 1500",
            "tunnel.public: is required and not set",
            "proxy.body_limit: \"big\" (env BLUEPRINT_HUB_PROXY_BODY_LIMIT): \
             not a size such as 512B, 64KiB, 64MiB, 2GiB",
            "service[0].id: is required and not set",
            "service[1].id: \"x\" (file hub.toml): invalid digit found in string",
        ]
    );
}

#[test]
fn a_syntax_error_is_one_problem_with_its_place() {
    let (settings, problems) = load("log = 'info'\n[tunnel]\nmtu = = 3\n", &[], &[]);
    let texts = texts(problems);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].starts_with("hub.toml: line 3, column 7: "), "{texts:?}");
    assert_eq!(settings.text("log"), Some("info"));
}

#[test]
fn a_file_that_is_not_there_is_a_problem() {
    let sources = Sources { file: Some("/nonexistent/hub.toml".into()), ..Sources::default() };
    let (_, problems) = SCHEMA.load(&sources);
    assert_eq!(problems.list().len(), 1);
    assert!(problems.list()[0].to_string().starts_with("/nonexistent/hub.toml: cannot read the file: "));
}

#[test]
fn a_section_is_no_value_and_a_value_no_section() {
    let (_, problems) = load("tunnel = 3\nlog = { a = 1 }\n[service]\nid = 'x'", &[], &[]);
    assert_eq!(
        texts(problems),
        [
            "log: is one value, not a section",
            "service: is a repeated table: write [[service]]",
            "tunnel: is a section: write [tunnel]",
        ]
    );
    let (_, problems) = load("service = [1]", &[], &[]);
    assert_eq!(texts(problems), ["service[0]: is not a table"]);
}

#[test]
fn an_optional_key_is_none_when_missing_or_empty_and_a_problem_when_unusable() {
    let (settings, mut problems) = load("", &[], &[]);
    assert_eq!(settings.take_optional::<SocketAddr>("tunnel.public", &mut problems), None);
    assert_eq!(settings.take_optional::<String>("note", &mut problems), None);
    assert!(problems.is_empty());
    let (settings, mut problems) = load("[tunnel]\npublic = 'x'", &[], &[]);
    assert_eq!(settings.take_optional::<SocketAddr>("tunnel.public", &mut problems), None);
    assert_eq!(problems.list().len(), 1);
}

#[test]
fn lists_come_from_the_file_the_environment_and_flags() {
    let names = |file, env: &[(&str, &str)], flags: &[(&str, &str)]| {
        let (settings, mut problems) = load(file, env, flags);
        let List(names) = settings.take("proxy.names", &mut problems).unwrap();
        names
    };
    assert_eq!(names("", &[], &[]), ["a", "b"]);
    assert_eq!(names("[proxy]\nnames = ['x', \"y,\\\"z\"]", &[], &[]), ["x", "y,\"z"]);
    assert_eq!(names("", &[("BLUEPRINT_HUB_PROXY_NAMES", "p, q")], &[]), ["p", "q"]);
    assert_eq!(names("", &[], &[("proxy.names", "[\"m\"]")]), ["m"]);
}

#[test]
fn rows_keep_their_order_and_have_their_own_defaults() {
    let (settings, mut problems) =
        load("[[service]]\nid = 'b'\n[[service]]\nid = 'a'\ncheck = 'none'", &[], &[]);
    let rows: Vec<(String, String)> = settings
        .rows("service")
        .iter()
        .map(|row| (row.take("id", &mut problems).unwrap(), row.take("check", &mut problems).unwrap()))
        .collect();
    assert_eq!(rows, [("b".to_owned(), "tcp".to_owned()), ("a".to_owned(), "none".to_owned())]);
    assert!(settings.rows("unheard").is_empty());
    let shown = settings.show();
    assert_eq!(shown.last().unwrap().key, "service[1].check");
}

#[test]
fn the_default_file_loads_to_the_defaults() {
    let (defaults, problems) = SCHEMA.load(&Sources::default());
    assert!(problems.is_empty());
    let (loaded, problems) = load(&SCHEMA.default_toml(), &[], &[]);
    assert!(problems.is_empty(), "{problems:?}");
    let texts = |settings: &Settings| -> Vec<_> {
        settings.show().into_iter().map(|shown| (shown.key, shown.value)).collect()
    };
    assert_eq!(texts(&loaded), texts(&defaults));
    let set_by_file = loaded.show().iter().filter(|shown| shown.origin.starts_with("file ")).count();
    assert_eq!(set_by_file, SCHEMA.keys.iter().filter(|key| key.default.is_some()).count());
}

#[test]
fn the_default_file_reads_well() {
    let expected = r#"# Configuration of blueprint-hub. Every key is shown with its default.

# Level of the log.
log = "info"

# Free text.
note = ""

[tunnel]

# Where datagrams come in.
# Port 0 lets the system choose.
listen = "0.0.0.0:51820"

# Largest inner packet, 1280 to 1500 bytes.
mtu = 1420

# Address that agents are told.
# public =

[proxy]

# Whether clients are served | at all.
enabled = true

# Largest body.
body_limit = "64MiB"

# Names it answers to.
names = ["a", "b"]

[proxy.tls]

# How often the certificate is looked at.
renew = "15m"

# Repeat for each service:
# [[service]]

# # Blueprint and service.
# id =

# # How it is checked.
# check = "tcp"
"#;
    assert_eq!(SCHEMA.default_toml(), expected);
}

#[test]
fn the_page_of_the_manual_has_every_key() {
    let page = SCHEMA.markdown();
    for line in [
        "| `tunnel.mtu` | `1420` | `BLUEPRINT_HUB_TUNNEL_MTU` | Largest inner packet, 1280 to 1500 bytes. |",
        "| `tunnel.public` | - | `BLUEPRINT_HUB_TUNNEL_PUBLIC` | Address that agents are told. |",
        "| `proxy.enabled` | `true` | `BLUEPRINT_HUB_PROXY_ENABLED` | Whether clients are served \\| at all. |",
        "## `[[service]]`, any number of times, in the file only",
        "| `check` | `tcp` | How it is checked. |",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}\n{page}");
    }
}

#[test]
fn a_problem_stays_one_line() {
    let mut problems = Problems::new();
    problems.add("key", "first\n  second\n");
    assert_eq!(problems.into_result().unwrap_err().to_string(), "key: first second");
}

#[test]
fn the_error_of_a_command_lists_all() {
    let mut problems = Problems::new();
    problems.add("a", "is bad");
    problems.add("b", "is worse");
    let error = crate::cli::CliError::from(problems.into_result().unwrap_err());
    assert_eq!(error.message, "the configuration has 2 problems:\n  a: is bad\n  b: is worse");
    assert_eq!(error.exit.code(), 78);
}
