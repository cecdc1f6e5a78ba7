//! `join`, `status` and `leave`.

use std::io::Read;

use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line};
use blueprint_common_spoke::{Identity, JoinOptions, Joined, ProofOptions, SpokeError, join_proven};
use blueprint_common_types::{HubLine, JoinLine, JoinToken, Secret};
use http::Method;
use serde_json::json;

use super::run::{parse_line, read_text};
use super::{JoinArgs, LeaveArgs, StateArg, ask, not_joined, small_runtime};
use crate::agent::{Agent, AgentError};
use crate::api::{LeaveRequest, not_told};
use crate::hint;
use crate::service::ServiceTable;
use crate::status::StatusReport;

/// Longest input that may hold a join line.
const MAX_LINE_BYTES: u64 = 4096;

pub(super) fn join(args: JoinArgs, output: Output) -> Result<(), CliError> {
    let line = line(&args)?;
    let state = args.state.open()?;
    let path = state.folder().to_owned();
    let proves = args.proof.is_asked();
    let Joined { identity, fell_back } = match (args.proof.prover(), line) {
        (None, Line::Join(line)) => {
            let options = JoinOptions { line, name: args.name, state, proxy: args.proxy };
            let identity = small_runtime()?.block_on(Agent::join(options)).map_err(hint::join)?;
            Joined { identity, fell_back: None }
        }
        (Some(prover), line) => {
            let (hub, token) = line.parts();
            let options = ProofOptions { hub, token, prover, name: args.name, state, proxy: args.proxy };
            small_runtime()?.block_on(join_proven(options)).map_err(hint::join)?
        }
        (None, Line::Hub(_)) => return Err(CliError::usage("this join line holds no token").hint(NO_TOKEN)),
    };
    let by_identity = proves && fell_back.is_none();
    if let Some(why) = &fell_back {
        eprint_line(&format!("joined with the token: {why}"));
    }
    let address = identity.tunnel.address;
    match output {
        Output::Json => print_json(&json!({
            "agent_id": identity.agent_id,
            "hub_id": identity.hub_id,
            "hub": identity.hub.to_string(),
            "name": identity.name,
            "address": address,
            "certificate_not_after": identity.credential.not_after,
            "state": path,
            "by_identity": by_identity,
        })),
        Output::Table => {
            print_line(&format!("joined {} as {} ({})", identity.hub, identity.name, identity.agent_id));
            print_line(&format!("overlay addresses {} and {}", address.v4, address.v6));
            print_line(&format!("identity in {}", path.display()));
            eprint_line(
                "next: `blueprint-agent run`; `blueprint-agent service add` offers a service, before that or while it runs",
            );
        }
    }
    Ok(())
}

/// What to do about a line without a token.
const NO_TOKEN: &str = "add --identity where a cloud vouches for this machine, or paste the whole line that `blueprint-hub token create` printed";

/// What names a hub.
enum Line {
    /// With the right to join it once.
    Join(JoinLine),
    /// For a machine that has another right.
    Hub(HubLine),
}

impl Line {
    /// The hub and, where there is one, the token.
    fn parts(self) -> (HubLine, Option<JoinToken>) {
        match self {
            Self::Join(JoinLine { host, port, pin, token }) => (HubLine { host, port, pin }, Some(token)),
            Self::Hub(hub) => (hub, None),
        }
    }

    fn read(text: &Secret<String>) -> Result<Self, CliError> {
        match text.expose().parse() {
            Ok(hub) => Ok(Self::Hub(hub)),
            Err(_) => parse_line(text).map(Self::Join),
        }
    }
}

fn line(args: &JoinArgs) -> Result<Line, CliError> {
    match (&args.line_file, args.line.as_deref()) {
        (Some(path), _) => Line::read(&read_text(path)?),
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().take(MAX_LINE_BYTES).read_to_string(&mut text)?;
            Line::read(&Secret::new(text))
        }
        (None, Some(line)) => Line::read(&Secret::new(line.to_owned())),
        (None, None) => Err(CliError::usage("a join line was expected")),
    }
}

pub(super) fn status(state: &StateArg, output: Output) -> Result<(), CliError> {
    if let Some(value) = ask(state, Method::GET, "/v1/status", None::<&()>)? {
        let report: StatusReport = serde_json::from_value(value).map_err(|error| {
            CliError::failure(format!("the running agent is of another version: {error}"))
        })?;
        print(&report, output);
        return Ok(());
    }
    let folder = state.look()?.ok_or_else(not_joined)?;
    let identity = Identity::load(&folder).map_err(hint::identity)?.ok_or_else(not_joined)?;
    let services = ServiceTable::load(&folder, &[])?;
    print(&StatusReport::stored(&identity, services.iter()), output);
    if identity.revoked_at.is_some() {
        let error = AgentError::from(SpokeError::Revoked { why: "the hub removed it".to_owned() });
        return Err(CliError::from(&error));
    }
    Err(CliError::unavailable("the agent does not run").hint("start it with `blueprint-agent run`"))
}

fn print(report: &StatusReport, output: Output) {
    match output {
        Output::Json => print_json(report),
        Output::Table => print_line(&report.render()),
    }
}

pub(super) fn leave(args: &LeaveArgs, output: Output) -> Result<(), CliError> {
    let request = LeaveRequest { force: args.force };
    let told = match ask(&args.state, Method::POST, "/v1/leave", Some(&request))? {
        Some(answer) => answer.get("hub_told").and_then(serde_json::Value::as_bool).unwrap_or(true),
        None => leave_directly(args)?,
    };
    match output {
        Output::Json => print_json(&json!({ "left": true, "hub_told": told })),
        Output::Table if told => print_line("left the hub"),
        Output::Table => {
            print_line("this machine forgot its identity");
            eprint_line("the hub was not told: remove the agent there with `blueprint-hub node rm`");
        }
    }
    Ok(())
}

fn leave_directly(args: &LeaveArgs) -> Result<bool, CliError> {
    args.state.look()?.ok_or_else(not_joined)?;
    let state = args.state.open()?;
    let identity = match Identity::load(&state) {
        Ok(identity) => identity.ok_or_else(not_joined)?,
        // What cannot be read cannot be given up at the hub either.
        Err(_) if args.force => {
            Identity::forget(&state)?;
            return Ok(false);
        }
        Err(error) => return Err(hint::identity(error)),
    };
    let told = if identity.revoked_at.is_some() {
        Ok(true)
    } else {
        small_runtime()?
            .block_on(blueprint_common_spoke::leave(&identity, args.proxy.as_ref()))
            .map(|()| true)
    };
    let told = match told {
        Ok(told) => told,
        Err(_) if args.force => false,
        Err(error) => return Err(not_told(error)),
    };
    Identity::forget(&state)?;
    Ok(told)
}
