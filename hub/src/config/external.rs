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
pub(super) const PLUGINS: Key = Key::unset(
    "providers.external.plugins",
    "TOML file with further plugins, each a provider external-NAME with socket, program and user of its own (docs/plugins.md), read at \
     the start.",
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
    use blueprint_hub_provider_external::plugins;

    use super::*;

    /// Where the plugin is.
    #[derive(Debug, Clone)]
    pub(crate) struct ExternalSettings {
        /// Its name as a provider.
        pub(crate) name: String,
        pub(crate) socket: PathBuf,
        pub(crate) program: Option<PathBuf>,
        pub(crate) user: Option<String>,
        pub(crate) within: Duration,
    }

    impl ExternalSettings {
        /// Its name as a provider.
        pub(in crate::config) fn name(&self) -> &str {
            &self.name
        }

        /// The plugin of these keys where it is switched on, and those of the file.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Vec<Self>> {
            let own = Self::take_own(settings, problems);
            let Some(path) = settings.take_optional::<PathBuf>(PLUGINS.path, problems) else {
                return Some(own?.into_iter().collect());
            };
            if !path.is_absolute() {
                settings.refuse(PLUGINS.path, "is not a whole path, one that begins with /", problems);
                return None;
            }
            let own = own?;
            let taken = own.as_ref().map(|own| own.socket.clone());
            match plugins::read(&path, taken.as_deref()) {
                Ok(further) => Some(own.into_iter().chain(further.into_iter().map(Self::of)).collect()),
                Err(error) => {
                    settings.refuse(PLUGINS.path, &format!("cannot be used: {error}"), problems);
                    None
                }
            }
        }

        fn of(entry: plugins::PluginEntry) -> Self {
            let plugins::PluginEntry { provider, socket, program, user, call_timeout } = entry;
            Self { name: provider, socket, program, user, within: call_timeout }
        }

        /// The inner `None` where it is not switched on.
        fn take_own(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let socket = settings.take::<PathBuf>(SOCKET.path, problems);
            let program = settings.take_optional::<PathBuf>(PROGRAM.path, problems);
            let user = settings.take_optional::<String>(USER.path, problems);
            let within = settings.take::<Span>(CALL_TIMEOUT.path, problems)?.0;
            if !plugins::CALL.contains(&within) {
                settings.refuse(CALL_TIMEOUT.path, "is not 1s to 30m", problems);
                return None;
            }
            for (path, value) in [(SOCKET.path, socket.as_ref()), (PROGRAM.path, program.as_ref())] {
                if value.is_some_and(|value| !value.is_absolute()) {
                    settings.refuse(path, "is not a whole path, one that begins with /", problems);
                    return None;
                }
            }
            let name = "external".to_owned();
            Some(enabled?.then_some(Self { name, socket: socket?, program, user, within }))
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
        pub(in crate::config) fn name(&self) -> &str {
            match *self {}
        }

        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Vec<Self>> {
            let has_more = settings.take_optional::<String>(PLUGINS.path, problems).is_some();
            let is_on = settings.take::<bool>(ENABLED.path, problems)?;
            for (path, _) in [(ENABLED.path, is_on), (PLUGINS.path, has_more)].iter().filter(|(_, on)| *on) {
                let why = "this program was built without the feature provider-external; build it with that, or take this out";
                settings.refuse(path, why, problems);
            }
            (!is_on && !has_more).then(Vec::new)
        }
    }
}
