//! The running hub, asked over its Unix socket.

use std::path::Path;
use std::time::Duration;

use blueprint_common_runtime::cli::{CliError, Output, print_json, print_line};
use blueprint_common_runtime::local_api::{LocalClient, LocalError, LocalLines, LocalStream, Upgrade};
use bytes::Bytes;
use http::{Method, StatusCode};
use hyper::body::Body;
use serde_json::Value;

use crate::cli::Global;
use crate::files;

/// Asks the hub and waits for its answer.
pub(crate) fn ask(
    global: &Global,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, CliError> {
    runtime()?.block_on(ask_async(global, method, path, body))
}

/// The same with another patience than 30 s.
pub(crate) fn ask_within(
    global: &Global,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Duration,
) -> Result<Value, CliError> {
    let asked = exchange_within(global, method, path, body, Some(patience));
    let (status, answer) = runtime()?.block_on(asked)?;
    if status.is_success() { Ok(answer) } else { Err(CliError::from_response(status, &answer)) }
}

/// The same, inside a runtime.
pub(crate) async fn ask_async(
    global: &Global,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, CliError> {
    let (status, answer) = exchange(global, method, path, body).await?;
    if status.is_success() { Ok(answer) } else { Err(CliError::from_response(status, &answer)) }
}

/// The same for a caller that also reads answers with a status of refusal.
pub(crate) async fn exchange(
    global: &Global,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<(StatusCode, Value), CliError> {
    exchange_within(global, method, path, body, None).await
}

async fn exchange_within(
    global: &Global,
    method: &str,
    path: &str,
    body: Option<&Value>,
    patience: Option<Duration>,
) -> Result<(StatusCode, Value), CliError> {
    let state = global.state()?;
    let client = LocalClient::new(state.join(files::ADMIN_SOCKET));
    let client = match patience {
        Some(patience) => client.timeout(patience),
        None => client,
    };
    let method = method.parse().map_err(|_| CliError::failure(format!("{method} is not a method")))?;
    client.request(method, path, body).await.map_err(|error| unanswered(error, &state))
}

/// Sends a body of `length` bytes as it is read, and waits for the answer up to `patience`.
pub(crate) async fn send<B>(
    global: &Global,
    path: &str,
    length: u64,
    body: B,
    patience: Duration,
) -> Result<Value, CliError>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let state = global.state()?;
    let client = LocalClient::new(state.join(files::ADMIN_SOCKET)).timeout(patience);
    let sent = client.send(Method::PUT, path, length, body).await;
    let (status, answer) = sent.map_err(|error| unanswered(error, &state))?;
    if status.is_success() { Ok(answer) } else { Err(CliError::from_response(status, &answer)) }
}

/// Asks the hub for an answer that comes a line at a time; a refusal is an error.
pub(crate) async fn lines(global: &Global, path: &str) -> Result<LocalLines, CliError> {
    let state = global.state()?;
    let client = LocalClient::new(state.join(files::ADMIN_SOCKET));
    let lines = client.lines(Method::GET, path).await.map_err(|error| unanswered(error, &state))?;
    let status = lines.status();
    if status.is_success() {
        return Ok(lines);
    }
    let answer = lines.rest().await.map_err(|error| unanswered(error, &state))?;
    Err(CliError::from_response(status, &answer))
}

/// Asks the hub for a connection that becomes a stream; a refusal is an error.
pub(crate) async fn upgrade(
    global: &Global,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<LocalStream, CliError> {
    let state = global.state()?;
    let client = LocalClient::new(state.join(files::ADMIN_SOCKET));
    match client.upgrade(method, path, body).await.map_err(|error| unanswered(error, &state))? {
        Upgrade::Open(stream) => Ok(stream),
        Upgrade::Refused(status, answer) => Err(CliError::from_response(status, &answer)),
    }
}

/// What it means that there is no answer.
fn unanswered(error: LocalError, state: &Path) -> CliError {
    match error {
        LocalError::NotRunning { .. } => {
            CliError::unavailable(format!("no hub runs with the state folder {}", state.display()))
                .hint("start it with `blueprint-hub serve`, or name its folder with --state DIR")
        }
        LocalError::Denied { .. } => {
            CliError::denied(error.to_string()).hint("run the command as the user that runs the hub")
        }
        LocalError::TimedOut { .. }
        | LocalError::BadRequest(_)
        | LocalError::Io { .. }
        | LocalError::Exchange(_)
        | LocalError::TooLarge => CliError::unavailable(error.to_string()).hint("the hub's log may say why"),
    }
}

/// Makes a credential and prints it: it is shown this once, also where it does not open anything yet.
pub(crate) fn make(global: &Global, path: &str, body: &Value, credential: &str) -> Result<(), CliError> {
    let (status, answer) = runtime()?.block_on(exchange(global, "POST", path, Some(body)))?;
    if answer.get(credential).is_some() {
        match global.output {
            Output::Json => print_json(&answer),
            Output::Table => print_line(&text(&answer, credential)),
        }
    }
    if status.is_success() { Ok(()) } else { Err(CliError::from_response(status, &answer)) }
}

/// A runtime for one command.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("cannot start the runtime: {error}")))
}

/// A text field of an answer, `-` where it is missing or null.
pub(crate) fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(truth)) => truth.to_string(),
        Some(Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_)) | None => "-".to_owned(),
    }
}

/// The rows of a list field.
pub(crate) fn rows<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// An identifier that a person typed, safe as one segment of a path.
pub(crate) fn segment(text: &str) -> Result<&str, CliError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if !text.is_empty() && text.len() <= 128 && text.chars().all(is_plain) {
        return Ok(text);
    }
    Err(CliError::usage(format!("{text:?} is not a name or an id")))
}
