//! The same over HTTP/2, where a request is turned into one of HTTP/1 on its way to the service.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::case::{Bench, MARK, exchange};
use crate::frames::{self, DATA, Frame, HEADERS, PING, RST_STREAM, SETTINGS, STATUS_200};
use crate::http2_table::{CASES, Fate, GRPC, Http2Case};
use crate::rig::LONG;
use crate::upstream::{Kind, Record};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a client of HTTP/2 got.
#[derive(Debug, Default)]
struct Got {
    /// Of streams 1 and 3: whether its status was 200, and its body.
    answers: [Option<(bool, Vec<u8>)>; 2],
}

impl Got {
    fn record(&self, at: usize) -> Option<Record> {
        let (is_good, body) = self.answers[at].as_ref()?;
        serde_json::from_slice(body).ok().filter(|_| *is_good)
    }
}

/// Plays a case on stream 1 and asks a question on stream 3 of the same connection and one on a fresh connection.
async fn attempt(bench: &mut Bench, number: usize, case: &Http2Case) -> Result<(), String> {
    let auth = bench.rig.admitted();
    let of = |name: &str| auth.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
    let (token, service) = (of("Authorization: "), of("X-Service-Id: "));
    let fill = |text: &[u8]| {
        let text: String = text.iter().map(|byte| char::from(*byte)).collect();
        let text = text.replace("{mark}", MARK).replace("{n}", &number.to_string());
        text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<u8>>()
    };
    let base = |method: &str, path: String| -> Fields {
        [(":method", method), (":scheme", "http"), (":path", &path), (":authority", "hub")]
            .into_iter()
            .chain([("authorization", token.as_str()), ("x-service-id", service.as_str())])
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect()
    };
    let mut fields = base("POST", format!("/{number}"));
    for (name, value) in case.fields {
        match fields.iter_mut().find(|(found, _)| found == name) {
            Some(field) => field.1 = fill(value),
            // A plus in front: in addition to the one that is there.
            None => fields.push((fill(name.strip_prefix(b"+").unwrap_or(name)), fill(value))),
        }
    }
    fields.retain(|(_, value)| value != b"{none}");
    fields.sort_by_key(|(name, _)| !case.is_in_order && !name.starts_with(b":"));
    let has_trailers = !case.trailers.is_empty();
    let mut bytes = frames::OPENING.to_vec();
    bytes.extend(frames::headers(1, &fields, case.body.is_empty() && !has_trailers));
    for (at, chunk) in case.body.iter().enumerate() {
        bytes.extend(frames::data(1, chunk, at + 1 == case.body.len() && !has_trailers));
    }
    if has_trailers {
        let trailers: Fields = case.trailers.iter().map(|(name, value)| (fill(name), fill(value))).collect();
        bytes.extend(frames::headers(1, &trailers, true));
    }
    bytes.extend(frames::headers(3, &base("GET", format!("/after-{number}")), true));
    let got = converse(bench, &bytes).await;

    let fresh = format!("GET /fresh-{number} HTTP/1.1\r\n{auth}Connection: close\r\n\r\n");
    exchange(&bench.rig, fresh.as_bytes(), false).await;
    let records = bench.upstream.records_up_to(&format!("/fresh-{number}"));
    let mut told: Vec<&str> = records.iter().map(|record| record.target.as_str()).collect();
    let (after, first) = (got.record(1), got.record(0));
    let seen = format!("the client got {got:?}, the service saw {told:?}");
    if let Some(forged) = records.iter().find_map(|record| bench.forged(record)) {
        return Err(forged);
    }
    if after.as_ref().is_some_and(|record| record.target != format!("/after-{number}")) {
        return Err(format!("stream 3 got another's answer; {seen}"));
    }
    // The two streams run beside each other.
    let before = told.len();
    told.retain(|target| !target.starts_with("/after-") && !target.starts_with("/fresh-"));
    if before - told.len() > 2
        || after.is_none() && records.iter().any(|record| record.target.starts_with("/after-"))
    {
        return Err(format!("more than was asked; {seen}"));
    }
    match case.fate {
        Fate::Served(body) => match (first, told.as_slice(), after) {
            (Some(record), [only], Some(_)) if record.target == *only && record.body == body => Ok(()),
            _ => Err(format!("expected to be served; {seen}")),
        },
        Fate::Refused if first.is_none() && told.is_empty() => Ok(()),
        Fate::Refused => Err(format!("expected to be refused; {seen}")),
    }
}

/// Sends `bytes` and reads until stream 3 is over or the proxy closes.
async fn converse(bench: &Bench, bytes: &[u8]) -> Got {
    let mut stream = bench.rig.connect().await;
    let _ = stream.write_all(bytes).await;
    let mut got = Got::default();
    let mut buffer = Vec::new();
    let mut over = [false; 2];
    let read = tokio::time::timeout(LONG, async {
        while over != [true; 2] {
            while let Some(frame) = Frame::take(&mut buffer) {
                let at = match frame.stream {
                    1 => 0,
                    3 => 1,
                    _ => {
                        if matches!(frame.kind, SETTINGS | PING) && frame.flags & 1 == 0 {
                            let payload = if frame.kind == PING { frame.payload } else { Vec::new() };
                            let _ = stream.write_all(&frames::frame(frame.kind, 1, 0, &payload)).await;
                        }
                        continue;
                    }
                };
                over[at] |= frame.ends_stream() || frame.kind == RST_STREAM;
                match frame.kind {
                    HEADERS => {
                        let status = frame.payload.iter().find(|byte| **byte >> 5 != 1);
                        got.answers[at].get_or_insert((status == Some(&STATUS_200), Vec::new()));
                    }
                    DATA => {
                        if let Some((_, body)) = &mut got.answers[at] {
                            body.extend(frame.payload);
                        }
                    }
                    _ => {}
                }
            }
            if over != [true; 2] && !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                break;
            }
        }
    });
    assert!(read.await.is_ok(), "no end: {got:?}");
    got
}

async fn nothing_comes_through(kind: Kind) {
    let Some(mut bench) = Bench::new(kind).await else { return };
    // gRPC goes on as HTTP/2 with its trailers; of these services only hyper speaks it on the same port.
    let grpc = if kind == Kind::Hyper { GRPC } else { &[] };
    for (number, case) in CASES.iter().chain(grpc).enumerate() {
        let outcome = tokio::time::timeout(Duration::from_secs(60), attempt(&mut bench, number, case)).await;
        let at = usize::from(case.fate == Fate::Refused);
        bench.note(at, outcome.unwrap().map_err(|what| format!("{}: {what}", case.name)));
    }
    bench.finish("HTTP/2");
}

#[tokio::test]
async fn nothing_comes_through_http2_to_nginx() {
    nothing_comes_through(Kind::Nginx).await;
}

#[tokio::test]
async fn nothing_comes_through_http2_to_node() {
    nothing_comes_through(Kind::Node).await;
}

#[tokio::test]
async fn nothing_comes_through_http2_to_python() {
    nothing_comes_through(Kind::Python).await;
}

#[tokio::test]
async fn nothing_comes_through_http2_to_hyper() {
    nothing_comes_through(Kind::Hyper).await;
}
