//! One line of a table: bytes for a connection, and what has to come of them.

use std::fmt::Write;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{LONG, Rig};
use crate::upstream::{Kind, Record, Upstream};

/// What a client must never get to say to a service.
pub(crate) const MARK: &str = "forged-4711";

/// Bytes of a client. In them stand for something else: `{auth}`, the header lines of an admitted request; `{n}`, the
/// number of the case; `{mark}`, what must not come through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case<'a> {
    /// What is tried.
    pub(crate) name: &'static str,
    pub(crate) bytes: &'a [u8],
    pub(crate) outcome: Outcome,
}

/// What has to become of a case. Whatever it is, each later request gets its own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The service gets exactly this request, with this body.
    Served(&'static str),
    /// It gets this `HEAD /{n}`, whose answer has no body.
    Bare,
    /// As [`Self::Served`], and the connection ends behind it.
    Last(&'static str),
    /// It gets so many requests, to `/{n}-1` and so on.
    Times(usize),
    /// It gets one, to `/{n}-1`; what follows is refused with this status.
    Then(u16),
    /// The client is told this status; the service gets nothing.
    Refused(u16),
    /// A fault of the body, when its head is on its way: no good answer, and no whole request at the service.
    Broken,
    /// As [`Self::Broken`], of bytes that end too early: nothing follows, and the client closes its half.
    Unfinished,
}

impl Case<'_> {
    pub(crate) fn bytes(&self, rig: &Rig, number: usize) -> Vec<u8> {
        let auth = rig.admitted();
        let number = number.to_string();
        let replaced = replace(self.bytes, b"{auth}", auth.as_bytes());
        replace(&replace(&replaced, b"{mark}", MARK.as_bytes()), b"{n}", number.as_bytes())
    }
}

fn replace(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    replaced.extend_from_slice(rest);
    replaced
}

/// One answer to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// What the service said it understood.
    pub(crate) fn record(&self) -> Option<Record> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// A proxy in front of one service.
pub(crate) struct Bench {
    pub(crate) rig: Rig,
    pub(crate) upstream: Upstream,
    kind: Kind,
    counts: [usize; 3],
    failures: Vec<String>,
}

impl Bench {
    /// `None` where this machine lacks the service.
    pub(crate) async fn new(kind: Kind) -> Option<Self> {
        let rig = Rig::with(|config| config.header_timeout = Duration::from_secs(5)).await;
        let upstream = kind.start(&rig)?;
        rig.route(&[upstream.address]);
        Some(Self { rig, upstream, kind, counts: [0; 3], failures: Vec::new() })
    }

    /// Plays a case, and then asks a question on the same connection and one on a fresh connection.
    pub(crate) async fn play(&mut self, number: usize, case: &Case<'_>) {
        match self.attempt(number, case).await {
            Ok(records) => {
                let at = match case.outcome {
                    Outcome::Served(_) | Outcome::Bare | Outcome::Last(_) | Outcome::Times(_) => 0,
                    Outcome::Refused(_) | Outcome::Then(_) => 1,
                    Outcome::Broken | Outcome::Unfinished => 2,
                };
                self.counts[at] += 1;
                for record in records {
                    if let Some(what) = self.forged(&record) {
                        self.failures.push(format!("{}: {what}", case.name));
                    }
                }
            }
            Err(what) => self.failures.push(format!("{}: {what}", case.name)),
        }
    }

    async fn attempt(&mut self, number: usize, case: &Case<'_>) -> Result<Vec<Record>, String> {
        let mut bytes = case.bytes(&self.rig, number);
        let follows = case.outcome != Outcome::Unfinished;
        if follows {
            let auth = self.rig.admitted();
            bytes.extend(format!("GET /after-{number} HTTP/1.1\r\n{auth}Connection: close\r\n\r\n").bytes());
        }
        let answers = exchange(&self.rig, &bytes, !follows).await;
        let auth = self.rig.admitted();
        let fresh = format!("GET /fresh-{number} HTTP/1.1\r\n{auth}Connection: close\r\n\r\n");
        let fresh = exchange(&self.rig, fresh.as_bytes(), false).await;
        let records = self.upstream.records_up_to(&format!("/fresh-{number}"));
        let told: Vec<&str> = records.iter().map(|record| record.target.as_str()).collect();
        let seen = format!("answers {:?}, the service saw {told:?}", sketch(&answers));
        if targets(&fresh) != [Some(format!("/fresh-{number}"))] {
            return Err(format!("a fresh connection got {:?}; {seen}", sketch(&fresh)));
        }
        let expected = expected(case, number, &answers).map_err(|what| format!("{what}; {seen}"))?;
        let (_, of_connection) = told.split_last().ok_or("nothing was told")?;
        if expected != of_connection {
            return Err(format!("expected {expected:?}; {seen}"));
        }
        if let (Outcome::Served(body) | Outcome::Last(body), Some(first)) = (case.outcome, records.first())
            && first.body != body
        {
            return Err(format!("the body came as {:?}", first.body));
        }
        Ok(records)
    }

    /// What of a request says something that only the hub may say, and the hub did not; or what it did say and is lost.
    pub(crate) fn forged(&self, record: &Record) -> Option<String> {
        let fields = record.headers.iter().chain(&record.trailers);
        for (name, value) in fields.clone() {
            if is_identity(name) && value.to_ascii_lowercase().contains(MARK) {
                return Some(format!("{name}: {value} came through"));
            }
        }
        let tenant = self.rig.token.id().to_string();
        for (name, said) in
            [("x-tenant-id", tenant.as_str()), ("x-auth-method", "token"), ("x-tenant-name", "acme")]
        {
            let found: Vec<&str> = fields
                .clone()
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str())
                .collect();
            if found != [said] {
                return Some(format!("{name} came as {found:?}"));
            }
        }
        None
    }

    /// Says what was tried, and fails where anything came out otherwise.
    #[expect(clippy::print_stdout, reason = "the table's summary is the result of the test")]
    pub(crate) fn finish(self, table: &str) {
        let [served, refused, broken] = self.counts;
        let total = served + refused + broken;
        println!(
            "{:?}, {table}: {total} as expected ({served} served, {refused} refused, {broken} broken off), {} not",
            self.kind,
            self.failures.len()
        );
        assert!(self.failures.is_empty(), "{:?}, {table}:\n{}", self.kind, self.failures.join("\n"));
    }

    /// Notes how a case of another shape came out.
    pub(crate) fn note(&mut self, at: usize, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.counts[at] += 1,
            Err(what) => self.failures.push(what),
        }
    }
}

/// Targets that the service has to have seen on the connection of a case.
fn expected(case: &Case<'_>, number: usize, answers: &[Answer]) -> Result<Vec<String>, String> {
    let after = format!("/after-{number}");
    let found = targets(answers);
    let good = answers.iter().filter(|answer| (200..300).contains(&answer.status)).count();
    match case.outcome {
        Outcome::Served(_) => match found.as_slice() {
            [Some(first), Some(last)] if *last == after && good == 2 => Ok(vec![first.clone(), after]),
            _ => Err("expected two answers".to_owned()),
        },
        Outcome::Bare => match answers {
            [first, _] if good == 2 && first.body.is_empty() => Ok(vec![format!("/{number}"), after]),
            _ => Err("expected an answer without a body, and another".to_owned()),
        },
        Outcome::Last(_) => match found.as_slice() {
            [Some(only)] if good == 1 => Ok(vec![only.clone()]),
            _ => Err("expected one answer".to_owned()),
        },
        Outcome::Times(times) => {
            let mut all: Vec<String> = (1..=times).map(|at| format!("/{number}-{at}")).collect();
            all.push(after);
            let all_good = good == times + 1 && answers.len() == good;
            if all_good { Ok(all) } else { Err(format!("expected {} answers", times + 1)) }
        }
        Outcome::Then(status) => match answers {
            [first, second] if first.status == 200 && second.status == status => {
                Ok(vec![format!("/{number}-1")])
            }
            _ => Err(format!("expected an answer and a {status}")),
        },
        Outcome::Refused(status) => match answers {
            [only] if only.status == status => Ok(Vec::new()),
            [first, _] if first.status == status && found.last() == Some(&Some(after.clone())) => {
                Ok(vec![after])
            }
            _ => Err(format!("expected a {status}")),
        },
        Outcome::Broken | Outcome::Unfinished if good == 0 && answers.len() <= 1 => Ok(Vec::new()),
        Outcome::Broken | Outcome::Unfinished => Err("expected no good answer".to_owned()),
    }
}

fn targets(answers: &[Answer]) -> Vec<Option<String>> {
    answers.iter().map(|answer| answer.record().map(|record| record.target)).collect()
}

/// Answers in short, for the text of a failure.
pub(crate) fn sketch(answers: &[Answer]) -> String {
    let mut text = String::new();
    for answer in answers {
        let of = answer.record().map(|record| record.target).unwrap_or_default();
        let _ = write!(text, "[{} {of}]", answer.status);
    }
    text
}

/// Writes `bytes` as they are and reads until the proxy closes.
pub(crate) async fn exchange(rig: &Rig, bytes: &[u8], half_close: bool) -> Vec<Answer> {
    let mut stream = rig.connect().await;
    // The proxy may have answered and closed before all is written.
    let _ = stream.write_all(bytes).await;
    if half_close {
        let _ = stream.shutdown().await;
    }
    read_answers(&mut stream, bytes.starts_with(b"HEAD ")).await
}

async fn read_answers(stream: &mut TcpStream, is_bare: bool) -> Vec<Answer> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(LONG, stream.read_to_end(&mut bytes)).await;
    assert!(read.is_ok(), "the proxy did not close after {:?}", String::from_utf8_lossy(&bytes));
    let mut answers = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(answer) = next_answer(&mut rest, is_bare && answers.is_empty()) {
        if answer.status >= 200 {
            answers.push(answer);
        }
    }
    answers
}

/// Takes one answer of the proxy, whose framing is plain, from the front.
fn next_answer(rest: &mut &[u8], is_bare: bool) -> Option<Answer> {
    let end = rest.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
    *rest = &rest[end + 4..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let mut body = Vec::new();
    if is_bare {
        return Some(Answer { status, body });
    }
    if field("transfer-encoding") == Some("chunked") {
        loop {
            let line = rest.windows(2).position(|window| window == b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
            body.extend_from_slice(rest.get(line + 2..line + 2 + size)?);
            *rest = rest.get(line + 4 + size..)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = field("content-length") {
        let length: usize = length.parse().ok()?;
        body.extend_from_slice(rest.get(..length)?);
        *rest = &rest[length..];
    }
    Some(Answer { status, body })
}

/// A name under which the hub alone may say something, as a service with CGI-like variables would read it.
fn is_identity(name: &str) -> bool {
    let name = name.strip_prefix("HTTP_").unwrap_or(name);
    let folded: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let prefixes = [
        "x-tenant",
        "x-scope",
        "x-client-cert",
        "x-auth",
        "x-blueprint",
        "x-forwarded",
        "x-service",
        "x-http-method",
    ];
    let names = [
        "forwarded",
        "authorization",
        "host",
        "x-real-ip",
        "remote-user",
        "x-remote-user",
        "x-user-id",
        "proxy",
        "x-method-override",
        "x-original-url",
        "x-rewrite-url",
    ];
    prefixes.iter().any(|prefix| folded.starts_with(prefix)) || names.contains(&folded.as_str())
}
