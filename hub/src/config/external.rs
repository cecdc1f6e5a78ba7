//! Section `providers.external`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.external.enabled",
    "false",
    "Offer the provider external, whose machines are made by a program of the operator's (docs/plugins.md).",
);
pub(super) const SOCKET: Key = Key::new(
    "providers.external.socket",
    "/run/blueprint-plugin/provider.sock",
    "Unix socket that this program serves, in a folder that nobody else can write.",
);
pub(super) const PROGRAM: Key = Key::unset(
    "providers.external.program",
    "The program, without arguments, where the hub is to start it and keep it running; else somebody else does.",
);
pub(super) const USER: Key = Key::unset(
    "providers.external.user",
    "User that the program runs as, and may serve the socket; without it the program runs as the hub's user, and can read the \
     hub's keys.",
);
pub(super) const CALL_TIMEOUT: Key =
    Key::new("providers.external.call_timeout", "60s", "Longest time of one call of it, 1 s to 30 minutes.");

#[cfg(feature = "provider-external")]
pub(crate) use with::ExternalSettings;
#[cfg(not(feature = "provider-external"))]
pub(crate) use without::ExternalSettings;

#[cfg(feature = "provider-external")]
mod with {
    use std::path::PathBuf;
    use std::time::Duration;

    use blueprint_common_runtime::config::Span;

    use super::*;

    /// Where the plugin is.
    #[derive(Debug, Clone)]
    pub(crate) struct ExternalSettings {
        pub(crate) socket: PathBuf,
        pub(crate) program: Option<PathBuf>,
        pub(crate) user: Option<String>,
        pub(crate) within: Duration,
    }

    impl ExternalSettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let socket = settings.take::<PathBuf>(SOCKET.path, problems);
            let program = settings.take_optional::<PathBuf>(PROGRAM.path, problems);
            let user = settings.take_optional::<String>(USER.path, problems);
            let within = settings.take::<Span>(CALL_TIMEOUT.path, problems)?.0;
            if !(Duration::from_secs(1)..=Duration::from_secs(1800)).contains(&within) {
                settings.refuse(CALL_TIMEOUT.path, "is not 1s to 30m", problems);
                return None;
            }
            for (path, value) in [(SOCKET.path, socket.as_ref()), (PROGRAM.path, program.as_ref())] {
                if value.is_some_and(|value| !value.is_absolute()) {
                    settings.refuse(path, "is not a whole path, one that begins with /", problems);
                    return None;
                }
            }
            Some(enabled?.then_some(Self { socket: socket?, program, user, within }))
        }
    }
}

#[cfg(not(feature = "provider-external"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum ExternalSettings {}

    impl ExternalSettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-external; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
