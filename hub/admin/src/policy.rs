//! The policy between machines: read, replace, test.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use blueprint_hub_registry_core::policy::{
    Answer, AskError, Deed, Machines, Mesh, MeshRefusal, PolicyDocument, Selector, SessionAnswer, SessionOn,
    TestOutcome, Traffic, Verdict,
};
use blueprint_hub_registry_core::{PolicyChange, PolicyChangeError, PolicyRecord};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::{now, time};

/// Largest request body in bytes: a document of 256 KiB as a JSON string, with room for its escapes.
pub(crate) const MAX_BODY: usize = 1 << 20;

/// What is shown where no policy was ever stored; it parses, and denies everything.
const NOTHING_YET: &str = "\
# No policy is stored: no machine reaches another through the hub. A grant names who may begin what with whom:
#
# [[grant]]
# name = \"web to db\"
# from = [\"web-1\", \"10.88.0.12\"]   # names, ids, overlay addresses, or \"*\" for all machines
# to = [\"db-1\"]
# allow = [\"tcp/5432\", \"icmp\"]     # any, icmp, tcp, udp, tcp/PORT, udp/FIRST-LAST
#
# [[test]]                         # has to hold, or the policy is not stored
# name = \"web reaches only the database\"
# from = \"web-1\"
# to = \"db-1\"
# allow = [\"tcp/5432\"]
# deny = [\"tcp/22\"]
#
# [[session]]                      # what the operator may begin beside and through workloads
# name = \"repair\"
# services = [\"7/42\"]            # or \"*\" for all; nodes = [\"db-1\"] for ports of a node, whatever runs there
# allow = [\"exec\", \"forward\"]  # exec, forward, port/PORTS, reverse/PORTS; of nodes only the last two
#
# [[test]]
# name = \"nobody gets at the node of the database\"
# service = \"7/42\"               # or node = \"db-1\"
# deny = [\"port/1-65535\"]
";

/// Problems of failed tests that an error repeats; the others are counted.
const MAX_TOLD: usize = 10;

/// By which way a request came in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// Over the Unix socket.
    Socket,
    /// Over TCP, with the operator's token.
    Port,
}

impl Way {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Socket => "operator (socket)",
            Self::Port => "operator (port)",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetPolicy {
    document: String,
    /// Version that the document was made from; 0 where there was none.
    version: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

/// Tests of a document, or one question about it; the stored one where none is given.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestPolicy {
    document: Option<String>,
    from: Option<String>,
    to: Option<String>,
    /// Such as `tcp/5432`.
    traffic: Option<String>,
    /// What the operator would begin, such as `exec` or `port/5432`, with a service or a node.
    session: Option<String>,
    service: Option<String>,
    node: Option<String>,
}

impl TestPolicy {
    /// The question, or that the tests are to be run.
    fn question(self) -> Result<(Option<String>, Question), ApiError> {
        let Self { document, from, to, traffic, session, service, node } = self;
        let question = match (from, to, traffic, session, service, node) {
            (None, None, None, None, None, None) => Question::Tests,
            (Some(from), Some(to), Some(traffic), None, None, None) => {
                Question::Traffic { from, to, traffic }
            }
            (None, None, None, Some(session), Some(on), None) => {
                Question::Session { session, on, is_node: false }
            }
            (None, None, None, Some(session), None, Some(on)) => {
                Question::Session { session, on, is_node: true }
            }
            (..) => {
                return Err(ApiError::invalid(
                    "a question has from, to and traffic, or session with service or node",
                    "give all of one kind, or none to run the policy's tests",
                ));
            }
        };
        Ok((document, question))
    }
}

/// What is asked of a policy.
enum Question {
    /// Whether it does what its tests expect.
    Tests,
    Traffic {
        from: String,
        to: String,
        traffic: String,
    },
    Session {
        session: String,
        on: String,
        is_node: bool,
    },
}

pub(crate) async fn show(State(state): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let record = state.store.policy().await?;
    let text = record.as_ref().map_or("", |record| record.document.as_str());
    // A text that cannot be read denies everything; whoever looks at it is to see both.
    let (document, fault) = match text.parse::<PolicyDocument>() {
        Ok(document) => (document, None),
        Err(error) => (PolicyDocument::default(), Some(format!("the stored policy cannot be read: {error}"))),
    };
    let machines = machines(&state);
    let mesh = Mesh::new(&document, &machines);
    let warnings: Vec<_> = fault.iter().chain(mesh.warnings()).collect();
    Ok(Json(json!({
        "version": record.as_ref().map_or(0, |record| record.version),
        "document": record.as_ref().map_or(NOTHING_YET, |record| record.document.as_str()),
        "changed_at": record.as_ref().map(|record| time(record.changed_at)),
        "changed_by": record.as_ref().map(|record| record.changed_by.as_str()),
        "grants": document.grants.len(),
        "tests": document.tests.len().saturating_add(document.session_tests.len()),
        "sessions": document.sessions.len(),
        "rules": mesh.rules(),
        "nodes_left_out": machines.len().saturating_sub(mesh.fitting()),
        "warnings": warnings,
    })))
}

pub(crate) async fn set(
    State(state): State<AdminState>,
    way: Option<Extension<Way>>,
    request: Result<Json<SetPolicy>, JsonRejection>,
) -> Result<Response, ApiError> {
    let SetPolicy { document: text, version, dry_run } = body(request)?;
    let document = parse(&text)?;
    let tests = document.tests.len().saturating_add(document.session_tests.len());
    let summary = format!("{} grants, {tests} tests", document.grants.len());
    let sessions = document.sessions.len();
    let ran = run_tests(document, machines(&state)).await?;
    if ran.count(Verdict::Fail) > 0 {
        return Ok(tests_failed(&ran.tests));
    }
    let record = if dry_run {
        let current = state.store.policy().await?.map_or(0, |record| record.version);
        if version.is_some_and(|version| version != current) {
            return Err(conflict(version, current));
        }
        None
    } else {
        let changed_by = way.map_or(Way::Socket, |Extension(way)| way).name().to_owned();
        let change = PolicyChange { document: text, replaces: version, changed_by, summary, now: now() };
        Some(store(&state, change).await?)
    };
    let applied = record.is_some() && state.hub.policy_changed().await;
    Ok(Json(json!({
        "stored": record.is_some(),
        "applied": applied,
        "version": record.as_ref().map(|record| record.version),
        "changed_at": record.as_ref().map(|record| time(record.changed_at)),
        "rules": ran.rules,
        "sessions": sessions,
        "tests": ran.tests,
        "warnings": ran.warnings,
    }))
    .into_response())
}

pub(crate) async fn test(
    State(state): State<AdminState>,
    request: Result<Json<TestPolicy>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let (text, question) = body(request)?.question()?;
    let (text, version) = match text {
        Some(text) => (text, None),
        None => match state.store.policy().await? {
            Some(record) => (record.document, Some(record.version)),
            None => (String::new(), Some(0)),
        },
    };
    let (document, machines) = (parse(&text)?, machines(&state));
    match question {
        Question::Tests => {
            let ran = run_tests(document, machines).await?;
            Ok(Json(json!({
                "version": version,
                "ok": ran.count(Verdict::Fail) == 0,
                "passed": ran.count(Verdict::Pass),
                "failed": ran.count(Verdict::Fail),
                "skipped": ran.count(Verdict::Skip),
                "tests": ran.tests,
                "warnings": ran.warnings,
            })))
        }
        Question::Session { session, on, is_node } => {
            let SessionAnswer { allowed, by } =
                ask_session(&Mesh::new(&document, &machines), &session, &on, is_node)?;
            let key = if is_node { "node" } else { "service" };
            Ok(Json(json!({
                "version": version,
                key: on,
                "session": session,
                "allowed": allowed,
                "by": by,
            })))
        }
        Question::Traffic { from, to, traffic } => {
            let Answer { allowed, pairs, decisions } =
                ask(&Mesh::new(&document, &machines), &from, &to, &traffic)?;
            Ok(Json(json!({
                "version": version,
                "from": from,
                "to": to,
                "traffic": traffic,
                "allowed": allowed,
                "pairs": pairs,
                "decisions": decisions,
            })))
        }
    }
}

/// What came out of a document's tests.
struct Ran {
    tests: Vec<TestOutcome>,
    rules: u64,
    warnings: Vec<String>,
}

impl Ran {
    fn count(&self, verdict: Verdict) -> usize {
        self.tests.iter().filter(|test| test.verdict == verdict).count()
    }
}

/// Runs the tests where they hold nobody up: the largest documents take a good second.
async fn run_tests(document: PolicyDocument, machines: Machines) -> Result<Ran, ApiError> {
    let run = move || {
        let mesh = Mesh::new(&document, &machines);
        let tests = mesh.run_tests()?;
        Ok(Ran { tests, rules: mesh.rules(), warnings: mesh.warnings().to_vec() })
    };
    let ran = tokio::task::spawn_blocking(run).await;
    let ran = ran.map_err(|_| ApiError::unavailable("the tests did not come to an end"))?;
    ran.map_err(|refusal: MeshRefusal| {
        ApiError::invalid(refusal.to_string(), "name fewer machines, or fewer kinds of traffic")
    })
}

fn ask(mesh: &Mesh<'_>, from: &str, to: &str, traffic: &str) -> Result<Answer, ApiError> {
    const WHO: &str = "`blueprint-hub node ls` lists names, ids and addresses";
    let selector = |text: &str| text.parse::<Selector>().map_err(|e| ApiError::invalid(e.to_string(), WHO));
    let traffic: Traffic =
        traffic.parse().map_err(|error| ApiError::invalid(format!("{error}"), "for example tcp/5432"))?;
    mesh.ask(&selector(from)?, &selector(to)?, traffic).map_err(|error| match error {
        AskError::Unknown(_) => ApiError::not_found(error.to_string(), WHO),
        AskError::NoPair { .. } => ApiError::invalid(error.to_string(), "name two machines"),
        AskError::TooManyPairs(_) => ApiError::invalid(error.to_string(), "name fewer machines"),
    })
}

fn ask_session(mesh: &Mesh<'_>, session: &str, on: &str, is_node: bool) -> Result<SessionAnswer, ApiError> {
    const WHO: &str = "`blueprint-hub node ls` lists names, ids and addresses";
    let deed: Deed = session
        .parse()
        .map_err(|error| ApiError::invalid(format!("{error}"), "for example exec or port/5432"))?;
    let on = if is_node {
        SessionOn::Node(on.parse().map_err(|error| ApiError::invalid(format!("{error}"), WHO))?)
    } else {
        let service = on.parse().map_err(|_| {
            ApiError::invalid(format!("{on:?} names no service"), "write BLUEPRINT/SERVICE, such as 7/42")
        })?;
        SessionOn::Service(service)
    };
    mesh.ask_session(&on, &deed).map_err(|error| ApiError::not_found(error.to_string(), WHO))
}

/// The machines as they are now.
fn machines(state: &AdminState) -> Machines {
    Machines::new(state.hub.snapshot().agents.values().map(|view| view.agent.as_ref()))
}

fn body<T>(request: Result<Json<T>, JsonRejection>) -> Result<T, ApiError> {
    request.map(|Json(request)| request).map_err(|rejection| {
        ApiError::invalid(rejection.body_text(), "docs/api.md lists the fields; a body has at most 1 MiB")
    })
}

fn parse(text: &str) -> Result<PolicyDocument, ApiError> {
    text.parse().map_err(|error| {
        ApiError::invalid(
            format!("the policy cannot be read:\n{error}"),
            "docs/operating.md shows an example",
        )
    })
}

fn conflict(expected: Option<u64>, current: u64) -> ApiError {
    let expected = expected.unwrap_or_default();
    ApiError::conflict(
        format!("the policy has version {current} by now, not {expected}; nothing was stored"),
        "look at it with `blueprint-hub policy get`, and try again with its version",
    )
}

async fn store(state: &AdminState, change: PolicyChange) -> Result<PolicyRecord, ApiError> {
    let expected = change.replaces;
    state.store.change_policy(change).await.map_err(|error| match error {
        PolicyChangeError::Conflict { current } => conflict(expected, current),
        PolicyChangeError::Store(error) => error.into(),
    })
}

/// Status 422: the error as everywhere, and beside it how each test ended.
fn tests_failed(tests: &[TestOutcome]) -> Response {
    let failed: Vec<_> = tests.iter().filter(|test| test.verdict == Verdict::Fail).collect();
    let mut message = format!("{} of {} tests failed, nothing was stored:", failed.len(), tests.len());
    let lines = || failed.iter().flat_map(|test| test.problems.iter().map(|problem| (&test.name, problem)));
    for (name, problem) in lines().take(MAX_TOLD) {
        message.push_str(&format!("\n  {name}: {problem}"));
    }
    if let more @ 1.. = lines().count().saturating_sub(MAX_TOLD) {
        message.push_str(&format!("\n  and {more} more"));
    }
    let error = ApiError::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "tests_failed",
        message,
        "change the grants, or the tests where they expect the wrong thing",
    );
    error.with("tests", json!(tests))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_without_a_policy_denies_everything_and_its_example_can_be_used() {
        assert_eq!(NOTHING_YET.parse(), Ok(PolicyDocument::default()));
        let lines =
            NOTHING_YET.lines().skip(1).map(|line| line.trim_start_matches("# ").trim_start_matches('#'));
        let example: PolicyDocument = lines.collect::<Vec<_>>().join("\n").parse().unwrap();
        assert_eq!((example.grants.len(), example.tests.len()), (1, 1));
        assert_eq!((example.sessions.len(), example.session_tests.len()), (1, 1));
    }
}
