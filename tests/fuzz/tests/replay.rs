//! Runs every target over its corpus.
#![expect(clippy::unwrap_used, reason = "helpers of tests stand outside of test functions")]

use std::path::Path;

fn replay(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    body(b"");
    for path in paths {
        let input = std::fs::read(&path).unwrap();
        let failed = std::panic::catch_unwind(|| body(&input)).is_err();
        assert!(!failed, "{}", path.display());
    }
}

#[test]
fn decap_holds_for_its_corpus() {
    replay("decap", blueprint_tests_fuzz::decap);
}

#[test]
fn filter_holds_for_its_corpus() {
    replay("filter", blueprint_tests_fuzz::filter);
}

#[test]
fn split_holds_for_its_corpus() {
    replay("split", blueprint_tests_fuzz::split);
}

#[test]
fn merge_holds_for_its_corpus() {
    replay("merge", blueprint_tests_fuzz::merge);
}

#[test]
fn request_holds_for_its_corpus() {
    replay("request", blueprint_tests_fuzz::request);
}

#[test]
fn chunks_holds_for_its_corpus() {
    replay("chunks", blueprint_tests_fuzz::chunks);
}

#[test]
fn headers_holds_for_its_corpus() {
    replay("headers", blueprint_tests_fuzz::headers);
}

#[test]
fn answers_holds_for_its_corpus() {
    replay("answers", blueprint_tests_fuzz::answers);
}

#[test]
fn fields_holds_for_its_corpus() {
    replay("fields", blueprint_tests_fuzz::fields);
}

#[test]
fn tokens_holds_for_its_corpus() {
    replay("tokens", blueprint_tests_fuzz::tokens);
}

#[test]
fn frame_holds_for_its_corpus() {
    replay("frame", blueprint_tests_fuzz::frame);
}
