use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn what_files_of_today_use_is_read() {
    let text = "---
# credentials
hivelocity:
  api_key: \"a#b\" # not this
aws: {access_key_id: AKIA, 'secret_access_key': 'it''s'}
regions: [eu, us-east-1, 3]
list:
- one
- two: 2
  more: ~
-
  deep: true
home: ~/.ssh/id
url: https://example.org:8443/x#y
zero: 007
float: 0.5
empty:
";
    assert_eq!(
        parse(text).unwrap(),
        json!({
            "hivelocity": { "api_key": "a#b" },
            "aws": { "access_key_id": "AKIA", "secret_access_key": "it's" },
            "regions": ["eu", "us-east-1", 3],
            "list": ["one", { "two": 2, "more": null }, { "deep": true }],
            "home": "~/.ssh/id",
            "url": "https://example.org:8443/x#y",
            "zero": "007",
            "float": 0.5,
            "empty": null,
        })
    );
    assert_eq!(parse("").unwrap(), Value::Null);
    assert_eq!(parse("\"a: b\": \"\\u00e9\\x41\\n\"").unwrap(), json!({ "a: b": "\u{e9}A\n" }));
}

#[test]
fn what_is_not_read_is_refused_with_its_line() {
    for (text, line, says) in [
        ("a: &x 1\nb: *x\n", 1, "anchors"),
        ("a: 1\nb: *x\n", 2, "anchors"),
        ("a: !!python/object x", 1, "tags"),
        ("a: |\n  text\n", 1, "several lines"),
        ("a: 1\n---\nb: 2\n", 2, "more than one document"),
        ("a: 1\na: 2\n", 2, "twice"),
        ("a: 1\n  b: 2\n", 2, "indented"),
        ("  a: 1\nb: 2\n", 2, "nothing above"),
        ("a:\n\tb: 1\n", 2, "tab"),
        ("a: [1, 2", 1, "no end"),
        ("a: \"x", 1, "no end"),
        ("a: \"x\" y", 1, "behind the end"),
        ("a: {b 1}", 1, "KEY: VALUE"),
        ("<<: *x", 1, "merged"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
    let deep = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert!(parse(&deep).unwrap_err().why.contains("deeply"));
    let deep: String = (0..5000).map(|at| format!("{}a:\n", " ".repeat(at))).collect();
    assert!(parse(&deep).unwrap_err().why.contains("deeply"));
    assert!(parse(&"- ".repeat(5000)).unwrap_err().why.contains("deeply"));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[a-c:\\- \n\\[\\]{}'\"#,~\\\\&*!|>?%\t0-9x]{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn what_json_writes_on_one_line_reads_the_same(keys in prop::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 0..6)) {
        let written = serde_json::to_string(&keys).unwrap();
        let read = parse(&format!("outer: {written}")).unwrap();
        prop_assert_eq!(read, json!({ "outer": keys }));
    }
}
