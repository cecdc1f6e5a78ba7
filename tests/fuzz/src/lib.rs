//! What holds for any bytes.
//!
//! Each target is a plain function here, which fails where a property does not hold. `fuzz/` hands them to
//! libFuzzer; `tests/replay.rs` runs them over `corpus/`, the inputs that fuzzers found worth keeping.

#[path = "../../../common/tunnel-core/tests/offload/bodies.rs"]
mod bodies;
#[path = "../../../common/tunnel-core/tests/offload/model.rs"]
mod model;

#[cfg_attr(not(test), expect(dead_code, reason = "the target only reads"))]
#[expect(unreachable_pub, reason = "public where it is at home")]
mod carrier;
mod decap;
mod filter;
mod input;
#[expect(dead_code, unreachable_pub, reason = "the target needs batches only")]
#[path = "../../../common/tunnel/src/links.rs"]
mod links;
mod proxy;
mod wire;

/// Sends a hub and two spokes any datagrams; see `decap.rs`.
pub fn decap(data: &[u8]) {
    decap::play(data);
}

/// Sends a hub any inner packets of joined spokes, and compares with a naive model; see `filter.rs`.
pub fn filter(data: &[u8]) {
    filter::play(data);
}

/// Reads datagrams from a stream in chunks, and compares with a reading of the whole.
pub fn frame(data: &[u8]) {
    carrier::play(data);
}

/// Plays a client of the proxy over HTTP/1: guard, HTTP library and a naive reader agree; see `proxy.rs`.
pub fn request(data: &[u8]) {
    proxy::request(data);
}

/// The same from the first byte of a chunked body on.
pub fn chunks(data: &[u8]) {
    proxy::chunks(data);
}

/// Builds the headers of a request to a service out of any that a client sent.
pub fn headers(data: &[u8]) {
    proxy::headers(data);
}

/// Reads the answer of a service over HTTP/1, cut anywhere, and compares with a reading of the whole; see
/// `proxy/answers.rs`.
pub fn answers(data: &[u8]) {
    proxy::answers(data);
}

/// Says what a service gets of a client's headers and of its key's, and compares with a naive model; see
/// `proxy/fields.rs`.
pub fn fields(data: &[u8]) {
    proxy::fields(data);
}

/// Shows the proxy credentials, keys, assertions and settings of any bytes.
pub fn tokens(data: &[u8]) {
    proxy::tokens(data);
}

/// Cuts any packet behind any device header, and compares with a naive model.
pub fn split(data: &[u8]) {
    bodies::split_any(data);
}

/// Merges packets of a few flows, whole or damaged, cuts them again by a naive model, and compares.
pub fn merge(data: &[u8]) {
    bodies::merge_any(data);
}
