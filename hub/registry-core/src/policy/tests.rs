//! Documents, meshes and their tests.

use std::collections::BTreeSet;

use blueprint_common_types::{AgentId, OverlayLease, Timestamp, TokenId, WgPublicKey};
use proptest::prelude::*;

use super::*;
use crate::{Agent, ServiceGrant};

const EXAMPLE: &str = r#"
[[grant]]
name = "web to db"
from = ["web", "10.88.0.4"]
to = "db"
allow = ["tcp/5432", "udp/53-60", "icmp"]

[[grant]]
name = "admin"
from = ["00000005-0000-0000-0000-000000000000"]
to = ["*"]
allow = ["any"]

[[test]]
name = "web reaches db"
from = "web"
to = "db"
allow = ["tcp/5432", "udp/54-59"]
deny = ["tcp/22", "any"]
"#;

/// Machine `n` with key, id and addresses of its number; lower numbers joined first.
pub(super) fn agent(n: u8, name: &str) -> Agent {
    let mut id = [0; 16];
    if let Some(byte) = id.get_mut(3) {
        *byte = n;
    }
    Agent {
        id: AgentId::from_bytes(id),
        name: name.to_owned(),
        wireguard_key: WgPublicKey::from_bytes([n; 32]),
        lease: OverlayLease {
            v4: [10, 88, 0, n].into(),
            v6: [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)].into(),
        },
        joined_at: Timestamp::from_millis(u64::from(n)),
        generation: 1,
        token: "0000000000000000".parse::<TokenId>().unwrap_or_else(|_| unreachable!()),
        services: ServiceGrant::FirstClaim,
        agent_version: String::new(),
    }
}

fn machines(names: &[&str]) -> Machines {
    let agents: Vec<Agent> = (1u8..).zip(names).map(|(n, name)| agent(n, name)).collect();
    // Backwards, since their order is to be that of joining.
    Machines::new(agents.iter().rev())
}

fn example() -> (PolicyDocument, Machines) {
    (EXAMPLE.parse().unwrap_or_default(), machines(&["web", "web", "db", "other", "admin"]))
}

fn key(n: u8) -> WgPublicKey {
    WgPublicKey::from_bytes([n; 32])
}

#[track_caller]
fn ask(from: &str, to: &str, traffic: &str) -> Result<(bool, u64), AskError> {
    let (document, machines) = example();
    let (Ok(from), Ok(to), Ok(traffic)) = (from.parse(), to.parse(), traffic.parse()) else { unreachable!() };
    Mesh::new(&document, &machines).ask(&from, &to, traffic).map(|answer| (answer.allowed, answer.pairs))
}

/// The problems of a text that is no policy.
fn problems(text: &str) -> Vec<String> {
    let error = text.parse::<PolicyDocument>().map(drop).map_err(|error| error.problems);
    error.err().into_iter().flatten().map(|problem| problem.to_string()).collect()
}

#[test]
fn questions_are_answered_by_name_id_and_address() {
    assert_eq!(ask("web", "db", "tcp/5432"), Ok((true, 2)), "both machines called web");
    assert_eq!(ask("10.88.0.4", "fd00::3", "udp/53-60"), Ok((true, 1)));
    assert_eq!(ask("other", "db", "udp/53-61"), Ok((false, 1)), "one port more than granted");
    assert_eq!(ask("db", "web", "tcp/5432"), Ok((false, 2)), "one direction only");
    assert_eq!(ask("web", "db", "any"), Ok((false, 2)));
    assert_eq!(ask("admin", "*", "any"), Ok((true, 4)));
    assert_eq!(ask("*", "db", "tcp/5432"), Ok((true, 4)));
    assert_eq!(ask("nobody", "db", "icmp"), Err(AskError::Unknown("nobody".to_owned())));
    let same = AskError::NoPair { from: "db".to_owned(), to: "10.88.0.3".to_owned() };
    assert_eq!(ask("db", "10.88.0.3", "icmp"), Err(same));
}

#[test]
fn an_answer_names_the_grants_and_shows_what_is_denied_first() {
    let (document, machines) = example();
    let mesh = Mesh::new(&document, &machines);
    let tcp = "tcp/5432".parse().unwrap();
    let answer = mesh.ask(&Selector::All, &Selector::All, tcp).unwrap();
    assert_eq!((answer.allowed, answer.pairs, answer.decisions.len()), (false, 20, 20));
    let allowed: Vec<_> = answer.decisions.iter().map(|decision| decision.allowed).collect();
    assert_eq!(allowed.iter().filter(|allowed| **allowed).count(), 7);
    assert!(allowed.is_sorted(), "denied ones come first: {allowed:?}");
    let last = answer.decisions.last().unwrap();
    assert_eq!((last.from_name.as_str(), last.by.as_slice()), ("admin", &["admin".to_owned()][..]));
}

#[test]
fn rules_name_each_pair_and_never_a_machine_twice() {
    let (document, machines) = example();
    let mesh = Mesh::new(&document, &machines);
    assert_eq!((mesh.rules(), mesh.fitting(), mesh.warnings()), (3 * 3 + 4, 5, &[][..]));
    let mut rules = Vec::new();
    each_rule(&mesh, |from, to, traffic| rules.push((from, to, traffic.to_string())));
    assert_eq!(rules.len(), 13);
    assert!(rules.iter().all(|(from, to, _)| from != to));
    assert_eq!(rules[0], (key(1), key(3), "tcp/5432".to_owned()));
    assert_eq!(rules[12], (key(5), key(4), "any".to_owned()));
}

#[test]
fn a_document_without_grants_denies_everything() {
    let document = PolicyDocument::default();
    assert_eq!("".parse(), Ok(document.clone()));
    let machines = machines(&["a", "b"]);
    let mesh = Mesh::new(&document, &machines);
    assert_eq!(mesh.rules(), 0);
    assert!(!mesh.ask(&Selector::All, &Selector::All, "icmp".parse().unwrap()).unwrap().allowed);
}

#[test]
fn machines_that_have_not_joined_are_a_warning_in_a_grant_and_a_failure_in_a_test() {
    let text = "[[grant]]\nname = 'g'\nfrom = ['a', 'gone', '10.88.0.9', 'gone']\nto = 'b'\nallow = 'icmp'\n\
                [[test]]\nname = 't'\nfrom = 'a'\nto = 'gone'\ndeny = 'icmp'\n\
                [[test]]\nname = 'u'\nfrom = 'gone'\nto = 'a'\ndeny = 'icmp'\noptional = true\n";
    let (document, machines): (PolicyDocument, _) = (text.parse().unwrap(), machines(&["a", "b"]));
    let mesh = Mesh::new(&document, &machines);
    let warnings = [
        "grant \"g\": no machine is called \"10.88.0.9\" yet",
        "grant \"g\": no machine is called \"gone\" yet",
    ];
    assert_eq!(mesh.warnings(), warnings);
    let outcomes = mesh.run_tests().unwrap();
    let verdicts: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict).collect();
    assert_eq!(verdicts, [Verdict::Fail, Verdict::Skip]);
    assert_eq!(outcomes[0].problems, ["no machine is called \"gone\""]);
}

#[test]
fn tests_say_what_is_not_as_expected() {
    let (document, machines) = example();
    let outcomes = Mesh::new(&document, &machines).run_tests().unwrap();
    let problems = ["any from web to db should be denied, and \"web to db\" allows it"];
    assert_eq!(
        (outcomes[0].verdict, outcomes[0].problems.as_slice()),
        (Verdict::Fail, &problems.map(str::to_owned)[..])
    );

    let text = EXAMPLE.replace("deny = [\"tcp/22\", \"any\"]", "deny = \"tcp/22\"");
    let document: PolicyDocument = text.parse().unwrap();
    assert_eq!(Mesh::new(&document, &machines).run_tests().unwrap()[0].verdict, Verdict::Pass);

    let text =
        text.replace("udp/54-59", "udp/54-99").replace("\"tcp/5432\", \"udp/54", "\"tcp/1\", \"udp/54");
    let document: PolicyDocument = text.parse().unwrap();
    assert_eq!(
        Mesh::new(&document, &machines).run_tests().unwrap()[0].problems,
        [
            "tcp/1 from web to db should be allowed, and no grant allows it",
            "udp/54-99 from web to db should be allowed, and is only in part, by \"web to db\"",
        ]
    );
}

#[test]
fn a_test_about_all_machines_holds_where_there_is_none() {
    let text = "[[test]]\nname = 'closed'\nfrom = '*'\nto = '*'\ndeny = 'any'\n\
                [[test]]\nname = 'same'\nfrom = 'a'\nto = 'a'\nallow = 'any'\n";
    let document: PolicyDocument = text.parse().unwrap();
    let verdicts = |machines: &Machines| -> Vec<_> {
        Mesh::new(&document, machines).run_tests().unwrap().into_iter().map(|o| o.verdict).collect()
    };
    assert_eq!(verdicts(&Machines::default()), [Verdict::Pass, Verdict::Fail]);
    assert_eq!(
        verdicts(&machines(&["a"])),
        [Verdict::Pass, Verdict::Fail],
        "a machine does not reach itself"
    );
    assert_eq!(verdicts(&machines(&["a", "a"])), [Verdict::Pass, Verdict::Fail], "nothing is granted");
}

#[test]
fn every_problem_is_told_with_its_place_and_what_is_allowed() {
    let text = "[[grant]]\nname = \"g\"\nfrom = [\"web_1\", \"a\"]\nto = 7\nallow = [\"tcpp/22\", 5]\nport = 3\n\
                [[grant]]\nname = \"g\"\nfrom = []\nto = \"*\"\n\n[[test]]\nname = \"\"\nfrom = [\"a\"]\n\
                to = \"b\"\noptional = \"yes\"\n[[rule]]\n";
    let expected = [
        "line 3, column 9: grant[1].from: \"web_1\" names no machine: write its name (a-z, 0-9 and '-'), its id, its overlay address, or \"*\" for all",
        "line 4, column 6: grant[1].to: is a integer, texts in quotes are expected",
        "line 5, column 10: grant[1].allow: \"tcpp/22\" is not a kind of traffic: write any, icmp, tcp, udp, tcp/PORT, udp/PORT or a range such as udp/53-60, with ports from 1 to 65535",
        "line 5, column 21: grant[1].allow: is a integer, texts in quotes are expected",
        "line 6, column 1: grant[1]: \"port\" is not a key; the keys are name, from, to, allow",
        "line 7, column 1: grant[2].allow: is missing",
        "line 8, column 8: grant[2].name: \"g\" is the name of another one too",
        "line 9, column 8: grant[2].from: has 0 entries, 1 to 256 are allowed",
        "line 12, column 1: test[1]: has neither allow nor deny, so it tests nothing",
        "line 13, column 8: test[1].name: has 0 characters; 1 to 128 printable ones are allowed",
        "line 14, column 8: test[1].from: is a array, one text in quotes is expected",
        "line 16, column 12: test[1].optional: is a string, true or false is expected",
        "line 17, column 3: \"rule\" is not a key; the keys are [[grant]], [[test]], [[session]]",
    ];
    assert_eq!(problems(text), expected);
    assert_eq!(
        problems("[grant]\nname = 'g'\n"),
        ["line 1, column 1: grant: is written [[grant]], with two brackets, once for each grant"]
    );
    let broken = problems("[[grant]]\nname = \n");
    assert!(broken.len() == 1 && broken[0].starts_with("line 2, column "), "{broken:?}");
}

#[test]
fn documents_beyond_the_bounds_are_refused_with_the_number() {
    let long = "#".repeat(MAX_DOCUMENT_BYTES + 1);
    assert_eq!(
        problems(&long),
        ["line 1, column 1: the document has 262145 bytes, at most 262144 are allowed"]
    );
    let row = "[[test]]\nname='t'\nfrom='*'\nto='*'\ndeny='any'\n";
    assert!(problems(&row.repeat(1001))[0].ends_with("test: there are 1001, at most 1000 are allowed"));
    let names: String = (0..257).map(|n| format!("'a{n}',")).collect();
    let list = format!("[[grant]]\nname='g'\nfrom=[{names}]\nto='*'\nallow='any'");
    assert!(problems(&list)[0].ends_with("has 257 entries, 1 to 256 are allowed"));
    let error = row.repeat(100).parse::<PolicyDocument>().unwrap_err();
    assert_eq!((error.problems.len(), error.more), (20, 79));
    assert!(error.to_string().ends_with("\nand 79 more"));
}

#[test]
fn too_many_rules_are_refused_and_later_the_newest_machines_are_left_out() {
    let agents: Vec<Agent> = (0..600u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let mut agent = agent(low, "m");
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&[high, low]);
            agent.wireguard_key = WgPublicKey::from_bytes(bytes);
            agent.joined_at = Timestamp::from_millis(n.into());
            agent
        })
        .collect();
    let machines = Machines::new(&agents);
    let text = "[[grant]]\nname='all'\nfrom='*'\nto='*'\nallow=['tcp','udp']";
    let document: PolicyDocument = text.parse().unwrap();
    let mesh = Mesh::new(&document, &machines);
    assert_eq!(mesh.check(), Err(MeshRefusal::TooManyRules(2 * 600 * 599)));
    let fitting = mesh.fitting();
    let rules = [2 * 354 * 353, 2 * 355 * 354].map(|rules: u64| rules <= MAX_RULES);
    assert_eq!((fitting, rules), (354, [true, false]));
    let mut seen = BTreeSet::new();
    each_rule(&mesh, |from, _, _| {
        seen.insert(from);
    });
    assert_eq!(seen, agents[..354].iter().map(|agent| agent.wireguard_key).collect());

    let text = "[[test]]\nname='t'\nfrom='*'\nto='*'\ndeny='any'";
    let document: PolicyDocument = text.parse().unwrap();
    let refused = Mesh::new(&document, &machines).run_tests();
    assert_eq!(refused, Err(MeshRefusal::TooManyChecks(600 * 599)));
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (1u8..6).prop_map(|n| format!("10.88.0.{n}")),
        (0u8..3).prop_map(|n| format!("n{n}")),
        Just("00000002-0000-0000-0000-000000000000".to_owned()),
    ]
}

fn traffic() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("any".to_owned()),
        Just("icmp".to_owned()),
        (1u16..6, 0u16..3).prop_map(|(first, more)| format!("tcp/{first}-{}", first + more)),
        (1u16..6).prop_map(|port| format!("udp/{port}")),
    ]
}

fn document() -> impl Strategy<Value = String> {
    let list = |item: BoxedStrategy<String>| {
        proptest::collection::vec(item, 1..4).prop_map(|items| format!("[{}]", quoted(&items)))
    };
    let grant = (list(selector().boxed()), list(selector().boxed()), list(traffic().boxed()));
    proptest::collection::vec(grant, 0..4).prop_map(|grants| {
        let text = |(n, (from, to, allow)): (usize, &(String, String, String))| {
            format!("[[grant]]\nname = 'g{n}'\nfrom = {from}\nto = {to}\nallow = {allow}\n")
        };
        grants.iter().enumerate().map(text).collect()
    })
}

fn quoted(items: &[String]) -> String {
    items.iter().map(|item| format!("'{item}'")).collect::<Vec<_>>().join(", ")
}

/// Whether `selector` means machine `n`, in the plainest way: names go round after three.
fn means(selector: &Selector, n: u8) -> bool {
    match selector {
        Selector::All => true,
        Selector::Address(address) => address.to_string() == format!("10.88.0.{n}"),
        Selector::Id(id) => id.as_bytes().get(3) == Some(&n),
        Selector::Name(name) => *name == format!("n{}", n % 3),
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_panic(text in "(\\[\\[(grant|test)\\]\\]\n|[a-z]{2,5} ?= ?|[\"'\\[\\],0-9é\n=]|name|from|to){0,40}") {
        if let Err(error) = text.parse::<PolicyDocument>() {
            prop_assert!(!error.problems.is_empty());
            for problem in &error.problems {
                prop_assert!(problem.line >= 1 && problem.column >= 1);
            }
        }
    }

    #[test]
    fn rules_answers_and_the_plain_reading_agree(text in document()) {
        let document: PolicyDocument = text.parse().unwrap();
        let machines = machines(&["n1", "n2", "n0", "n1", "n2"]);
        let mesh = Mesh::new(&document, &machines);
        let mut rules = Vec::new();
        each_rule(&mesh, |from, to, traffic| rules.push((from, to, traffic)));
        prop_assert_eq!(u64::try_from(rules.len()).unwrap(), mesh.rules());
        for (from, to) in (1u8..6).flat_map(|from| (1u8..6).map(move |to| (from, to))).filter(|(a, b)| a != b) {
            for asked in ["tcp/1", "tcp/4", "udp/3", "icmp", "any"] {
                let asked: Traffic = asked.parse().unwrap();
                let plain = document.grants.iter().any(|grant| {
                    grant.from.iter().any(|selector| means(selector, from))
                        && grant.to.iter().any(|selector| means(selector, to))
                        && grant.allow.iter().any(|kind| asked.is_covered_by(&[*kind]))
                });
                let by_rules = rules.iter().any(|(source, destination, kind)| {
                    (*source, *destination) == (key(from), key(to)) && asked.is_covered_by(&[*kind])
                });
                let end = |n| format!("10.88.0.{n}").parse::<Selector>().unwrap();
                let answer = mesh.ask(&end(from), &end(to), asked).unwrap();
                prop_assert_eq!(by_rules, plain, "rules: {} to {}, {}", from, to, asked);
                prop_assert_eq!(answer.allowed, plain, "answer: {} to {}, {}", from, to, asked);
                prop_assert_eq!(answer.decisions[0].by.is_empty() && plain, false);
            }
        }
    }
}

/// Every rule between the machines that fit, source first; a rule may come twice.
fn each_rule(mesh: &Mesh<'_>, mut tell: impl FnMut(WgPublicKey, WgPublicKey, Traffic)) -> usize {
    mesh.each_grant(|sources, destinations, allow| {
        for source in &sources {
            for destination in destinations.iter().filter(|destination| *destination != source) {
                allow.iter().for_each(|traffic| tell(*source, *destination, *traffic));
            }
        }
    })
}
