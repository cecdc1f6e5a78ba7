//! What an error means to whoever runs a command: how the process ends, and what to do next.

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::cli::{CliError, Exit};
use blueprint_common_spoke::{CallError, DialError, IdentityError, JoinError, Refusal, SpokeError};
use blueprint_common_tunnel::{BindError, InterfaceError};

use crate::agent::AgentError;
use crate::service::ServiceError;
use crate::shared::REJOIN;

const CHECK_STATE: &str = "check the state folder and its disk";

const NEW_LINE: &str = "make a new join line on the hub with `blueprint-hub token create`, and paste it here";
const REACH: &str = "check that the hub runs, and that this machine may connect to that address and TCP port";
const CLOCK: &str = "set this machine's clock (`timedatectl set-ntp true`), then try again";

fn of_dial(error: &DialError) -> (Exit, &'static str) {
    match error {
        DialError::NoSuchName { .. }
        | DialError::Resolve { .. }
        | DialError::ResolveTimeout { .. }
        | DialError::NoAddress { .. } => {
            (Exit::Unavailable, "check the hub's name, and this machine's name servers in /etc/resolv.conf")
        }
        DialError::Connect { .. } | DialError::TimedOut { .. } => (Exit::Unavailable, REACH),
        DialError::WrongHub { .. } => (
            Exit::Denied,
            "either the line is of another hub, or somebody stands between: compare it with what `blueprint-hub token create` prints",
        ),
        DialError::Refused { .. } => (Exit::Denied, REJOIN),
        DialError::Clock { .. } => (Exit::Denied, CLOCK),
        DialError::Tls { .. } | DialError::Protocol { .. } => {
            (Exit::Unavailable, "check that the address and port are those of the hub's control plane")
        }
        DialError::Proxy(_) => (Exit::Unavailable, "check tunnel.proxy, and what the proxy lets through"),
        DialError::SetUp(_) => (Exit::Failure, REJOIN),
    }
}

fn of_refusal(refusal: Refusal) -> (Exit, &'static str) {
    match refusal {
        Refusal::TokenUnknown | Refusal::TokenUsed | Refusal::TokenExpired => (Exit::Denied, NEW_LINE),
        Refusal::ClockSkew => (Exit::Denied, CLOCK),
        Refusal::BadRequest => (Exit::Usage, "check that hub and agent are of matching versions"),
        Refusal::Full => (Exit::Unavailable, "remove agents that are gone: `blueprint-hub node rm`"),
        Refusal::Identity => (
            Exit::Denied,
            "look at join.identity in the hub's configuration and at `blueprint-hub audit`, or join with a line of `blueprint-hub token create`",
        ),
        Refusal::Revoked | Refusal::Outdated => (Exit::Denied, REJOIN),
        Refusal::Expired => {
            (Exit::Denied, "`blueprint-agent run` renews it for 7 days after its end; after that join again")
        }
        Refusal::Unavailable => (Exit::Unavailable, "try again in a few seconds"),
        Refusal::Other => (Exit::Failure, "look at the hub's log"),
    }
}

fn parts(error: &CallError) -> (Exit, &'static str) {
    match error {
        CallError::Dial(error) => of_dial(error),
        CallError::TimedOut => (Exit::Unavailable, "try again in a few seconds"),
        CallError::Refused { refusal, .. } => of_refusal(*refusal),
        CallError::Key(_) => (Exit::Failure, "look at the log"),
        CallError::Answer(_) => (Exit::Failure, "check that hub and agent are of matching versions"),
    }
}

fn of_bind(error: &BindError, cli: impl Fn(Exit) -> CliError) -> CliError {
    let error = match error {
        BindError::Interface(error) => error,
        BindError::Socket { .. } => {
            return cli(Exit::Conflict).hint("choose another UDP port with tunnel.listen");
        }
        BindError::System(_) => return cli(Exit::Failure),
    };
    let exit = match error {
        InterfaceError::Missing(_) => Exit::Unavailable,
        InterfaceError::Denied(_) => Exit::Denied,
        InterfaceError::InUse(_) | InterfaceError::Overlap { .. } => Exit::Conflict,
        InterfaceError::Name(_) => Exit::Config,
        InterfaceError::Other(_) => Exit::Failure,
    };
    match error.hint() {
        Some(hint) => cli(exit).hint(hint),
        None => cli(exit),
    }
}

/// What to do about a failed call to the hub.
pub(crate) fn of_call(error: &CallError) -> Option<String> {
    Some(parts(error).1.to_owned())
}

/// A failed call to the hub, for whoever runs a command.
pub(crate) fn call(error: &CallError) -> CliError {
    let (exit, hint) = parts(error);
    CliError::from_error(exit, error).hint(hint)
}

/// A stored identity that cannot be used, for whoever runs a command.
pub(crate) fn identity(error: IdentityError) -> CliError {
    match error {
        IdentityError::State(error) => error.into(),
        IdentityError::Damaged(_) => CliError::from_error(Exit::Failure, &error)
            .hint("restore it from a copy, or remove it and join again with a new line"),
        IdentityError::Version(_) => {
            CliError::from_error(Exit::Failure, &error).hint("run the agent of the version that wrote it")
        }
    }
}

/// A machine that did not join, for whoever runs a command.
pub(crate) fn join(error: JoinError) -> CliError {
    match error {
        JoinError::AlreadyJoined { .. } => CliError::from_error(Exit::Conflict, &error)
            .hint("run `blueprint-agent leave` first, or use another folder with --state"),
        JoinError::Name(_) => CliError::from_error(Exit::Usage, &error).hint("name it with --name"),
        JoinError::Call(error) => call(&error),
        JoinError::Identity(error) => identity(error),
        JoinError::Random(_) => CliError::from_error(Exit::Failure, &error),
        JoinError::Proof(_) => CliError::from_error(Exit::Unavailable, &error).hint(
            "run it on a machine of a cloud that the hub takes identities of, as root where only root may ask for them, or join with a token",
        ),
    }
}

impl From<ServiceError> for CliError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Taken { .. } => {
                Self::from_error(Exit::Conflict, &error).hint("choose another overlay port with --port")
            }
            ServiceError::Full => {
                Self::from_error(Exit::Conflict, &error).hint("remove one with `blueprint-agent service rm`")
            }
            ServiceError::NotFound { .. } => Self::from_error(Exit::NotFound, &error)
                .hint("`blueprint-agent service ls` shows what is offered"),
            ServiceError::FromConfig { .. } => Self::from_error(Exit::Conflict, &error)
                .hint("remove it from the configuration file and restart the agent"),
            ServiceError::FromWorkload { .. } => Self::from_error(Exit::Conflict, &error)
                .hint("`blueprint-hub workload rm` on the hub takes it back"),
            ServiceError::Damaged(_) => Self::from_error(Exit::Failure, &error)
                .hint("remove services.json and add the services again"),
            ServiceError::State(error) => error.into(),
        }
    }
}

impl From<&AgentError> for CliError {
    fn from(error: &AgentError) -> Self {
        let cli = |exit| Self::new(exit, Chain(error).to_string());
        match error {
            AgentError::Spoke(error) => of_spoke(error, cli),
            AgentError::Observe(_) => {
                cli(Exit::Conflict).hint("choose another address with observe.listen, or set it to off")
            }
            AgentError::LocalApi(_) => {
                cli(Exit::Conflict).hint("another agent may use the same state folder")
            }
            AgentError::Workloads(_) => cli(Exit::Failure)
                .hint("name a folder in memory with workload.runtime_dir, or set workload.enabled to false"),
            AgentError::Service(ServiceError::State(_)) => cli(Exit::Failure).hint(CHECK_STATE),
            AgentError::Service(_) => cli(Exit::Failure).hint(REJOIN),
            AgentError::Ended { .. } => cli(Exit::Failure),
        }
    }
}

fn of_spoke(error: &SpokeError, cli: impl Fn(Exit) -> CliError) -> CliError {
    match error {
        SpokeError::Revoked { .. } => cli(Exit::Denied).hint(REJOIN),
        SpokeError::NotJoined => cli(Exit::NotFound)
            .hint("run `blueprint-agent join <LINE>` with the line that `blueprint-hub token create` prints"),
        SpokeError::Tunnel(error) => of_bind(error, cli),
        SpokeError::Moved => cli(Exit::Failure).hint("start it again"),
        SpokeError::Identity(IdentityError::State(_)) => cli(Exit::Failure).hint(CHECK_STATE),
        SpokeError::Identity(_) => cli(Exit::Failure).hint(REJOIN),
        SpokeError::Call(_) | SpokeError::Peer(_) | SpokeError::Random(_) => cli(Exit::Failure),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use blueprint_common_spoke::HubAddress;

    use super::*;

    fn hub() -> HubAddress {
        HubAddress { host: "hub".to_owned(), port: 7443 }
    }

    #[test]
    fn every_way_not_to_join_has_its_own_line_exit_and_hint() {
        let refused = |refusal, text: &str| CallError::Refused { refusal, message: text.to_owned() };
        let refusal = |refusal, text: &str| JoinError::Call(refused(refusal, text));
        let dial = |error| JoinError::Call(CallError::Dial(error));
        let connect = DialError::Connect { hub: hub(), source: io::ErrorKind::ConnectionRefused.into() };
        let table = [
            (refusal(Refusal::TokenUsed, "used"), Exit::Denied),
            (refusal(Refusal::TokenExpired, "expired"), Exit::Denied),
            (refusal(Refusal::TokenUnknown, "unknown"), Exit::Denied),
            (refusal(Refusal::ClockSkew, "clock"), Exit::Denied),
            (refusal(Refusal::Full, "full"), Exit::Unavailable),
            (refusal(Refusal::BadRequest, "bad"), Exit::Usage),
            (dial(DialError::WrongHub { hub: hub() }), Exit::Denied),
            (dial(connect), Exit::Unavailable),
            (dial(DialError::TimedOut { hub: hub() }), Exit::Unavailable),
            (dial(DialError::ResolveTimeout { host: "hub".to_owned() }), Exit::Unavailable),
            (JoinError::Name("X".to_owned()), Exit::Usage),
        ];
        let mut lines = std::collections::BTreeSet::new();
        for (error, exit) in table {
            let cli = join(error);
            assert_eq!(cli.exit, exit, "{cli:?}");
            assert!(cli.hint.is_some() && !cli.message.contains('\n'), "{cli:?}");
            assert!(lines.insert(cli.message), "each line is its own");
        }
    }
}
