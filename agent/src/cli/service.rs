//! `service`: through the running agent, or in its state folder where none runs.

use blueprint_common_runtime::cli::{CliError, Output, eprint_line, print_json, print_line};
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{ServiceCommand, StateArg, ask};
use crate::api::RemoveRequest;
use crate::service::{ServiceSpec, ServiceTable};
use crate::status::{ServiceReport, StatusReport, render_services};

pub(super) fn service(command: ServiceCommand, output: Output) -> Result<(), CliError> {
    match command {
        ServiceCommand::Add { service, local, port, check, pace, metrics, udp, state } => {
            let port = port.unwrap_or_else(|| local.0.port());
            let pace = pace.read().map_err(|error| {
                CliError::usage(format!("pace of the check: {error}")).hint(
                    "`blueprint-agent service add --help` shows the five settings and what they are without",
                )
            })?;
            add(
                &state,
                ServiceSpec { service, port, local: local.0, check, pace, metrics, udp, run: None },
                output,
            )
        }
        ServiceCommand::Ls(state) => list(&state, output),
        ServiceCommand::Rm { service, port, state } => {
            remove(&state, &RemoveRequest { service, port }, output)
        }
    }
}

fn add(state: &StateArg, spec: ServiceSpec, output: Output) -> Result<(), CliError> {
    let answer = match ask(state, Method::POST, "/v1/services", Some(&spec))? {
        Some(answer) => answer,
        None => {
            let folder = state.open()?;
            let added = ServiceTable::load(&folder, &[])?.add(spec.clone(), &folder)?;
            note_stored();
            json!({ "added": added, "service": spec })
        }
    };
    match output {
        Output::Json => print_json(&answer),
        Output::Table if answer.get("added") == Some(&Value::Bool(false)) => {
            print_line(&format!("service {} is offered already", spec.service));
        }
        Output::Table => {
            print_line(&format!(
                "service {} at {} is offered on overlay port {}",
                spec.service, spec.local, spec.port
            ));
        }
    }
    Ok(())
}

fn list(state: &StateArg, output: Output) -> Result<(), CliError> {
    let services: Vec<ServiceReport> = match ask(state, Method::GET, "/v1/services", None::<&()>)? {
        Some(answer) => read(answer)?,
        None => {
            let table = match state.look()? {
                Some(folder) => ServiceTable::load(&folder, &[])?,
                None => ServiceTable::default(),
            };
            eprint_line(
                "note: the agent does not run; health and services of its configuration file are not shown",
            );
            StatusReport::stored_services(table.iter())
        }
    };
    match output {
        Output::Json => print_json(&services),
        Output::Table => print_line(&render_services(&services)),
    }
    Ok(())
}

fn remove(state: &StateArg, request: &RemoveRequest, output: Output) -> Result<(), CliError> {
    let answer = match ask(state, Method::POST, "/v1/services/remove", Some(request))? {
        Some(answer) => answer,
        None => {
            let folder = state.open()?;
            let removed = ServiceTable::load(&folder, &[])?.remove(request.service, request.port, &folder)?;
            note_stored();
            json!({ "removed": removed })
        }
    };
    let count = answer.get("removed").and_then(Value::as_array).map_or(0, Vec::len);
    match output {
        Output::Json => print_json(&answer),
        Output::Table if count == 1 => {
            print_line(&format!("service {} is not offered any more", request.service))
        }
        Output::Table => {
            print_line(&format!("service {} is not offered any more, on {count} ports", request.service));
        }
    }
    Ok(())
}

fn note_stored() {
    eprint_line("note: the agent does not run; this holds from its next start");
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, CliError> {
    serde_json::from_value(value)
        .map_err(|error| CliError::failure(format!("the running agent is of another version: {error}")))
}
