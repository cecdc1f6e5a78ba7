//! Sections `providers.local_docker` and `providers.docker`.

use blueprint_common_runtime::config::{Key, Problems, Settings};
use blueprint_hub_provision_core::catalogue::Offer;

pub(super) const LOCAL: Key = Key::new(
    "providers.local_docker.enabled",
    "false",
    "Offer the provider local-docker, whose machines are containers of this host's Docker engine and outlive the hub.",
);
pub(super) const LOCAL_SOCKET: Key = Key::new(
    "providers.local_docker.socket",
    "/var/run/docker.sock",
    "Unix socket of that engine; who may use it is root on this host.",
);
pub(super) const LOCAL_IMAGE: Key = Key::unset(
    "providers.local_docker.image",
    "Image of these machines, best with its digest, with the C library that the agent needs; without it the agent has to be \
     static (packaging/static-agent), and machines hold nothing else.",
);
pub(super) const REMOTE: Key = Key::new(
    "providers.docker.enabled",
    "false",
    "Offer the provider docker, whose machines are containers of the engines in providers.docker.hosts.",
);
pub(super) const REMOTE_HOSTS: Key = Key::unset(
    "providers.docker.hosts",
    "TOML file with engines that are called by mutual TLS (docs/docker.md), read at the start. A path that is not whole begins \
     in the state folder.",
);
pub(super) const REMOTE_IMAGE: Key = Key::unset(
    "providers.docker.image",
    "As providers.local_docker.image, for the machines of those engines.",
);

#[cfg(feature = "provider-docker")]
pub(crate) use with::{LocalDockerSettings, RemoteDockerSettings};
#[cfg(not(feature = "provider-docker"))]
pub(crate) use without::{LocalDockerSettings, RemoteDockerSettings};

#[cfg(feature = "provider-docker")]
mod with {
    use std::path::PathBuf;

    use super::*;

    /// The engine of this host.
    #[derive(Debug, Clone)]
    pub(crate) struct LocalDockerSettings {
        pub(crate) socket: PathBuf,
        pub(crate) image: Option<String>,
    }

    /// Engines of other hosts.
    #[derive(Debug, Clone)]
    pub(crate) struct RemoteDockerSettings {
        pub(crate) hosts: PathBuf,
        pub(crate) image: Option<String>,
    }

    impl LocalDockerSettings {
        /// What it sells, before it is asked how much of it has room.
        pub(crate) fn offers(&self) -> Vec<Offer> {
            blueprint_hub_provider_docker::offers()
        }

        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(LOCAL.path, problems);
            let socket = settings.take::<PathBuf>(LOCAL_SOCKET.path, problems);
            let image = image(LOCAL_IMAGE.path, settings, problems);
            Some(enabled?.then_some(Self { socket: socket?, image: image? }))
        }
    }

    impl RemoteDockerSettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(REMOTE.path, problems);
            let hosts = settings.take_optional::<PathBuf>(REMOTE_HOSTS.path, problems);
            let image = image(REMOTE_IMAGE.path, settings, problems);
            if !enabled? {
                return Some(None);
            }
            let Some(hosts) = hosts else {
                settings.refuse(
                    REMOTE_HOSTS.path,
                    "not set; docs/docker.md says what such a file holds",
                    problems,
                );
                return None;
            };
            Some(Some(Self { hosts, image: image? }))
        }
    }

    /// The inner `None` where it is not set.
    fn image(path: &'static str, settings: &Settings, problems: &mut Problems) -> Option<Option<String>> {
        let Some(image) = settings.take_optional::<String>(path, problems) else { return Some(None) };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
        if (1..=255).contains(&image.len()) && image.bytes().all(is_plain) {
            return Some(Some(image));
        }
        let why = "is no name of an image; one such as debian:13-slim was expected";
        settings.refuse(path, why, problems);
        None
    }
}

#[cfg(not(feature = "provider-docker"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum LocalDockerSettings {}

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum RemoteDockerSettings {}

    impl LocalDockerSettings {
        pub(crate) fn offers(&self) -> Vec<Offer> {
            match *self {}
        }

        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            refuse(LOCAL.path, settings, problems).map(|()| None)
        }
    }

    impl RemoteDockerSettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            refuse(REMOTE.path, settings, problems).map(|()| None)
        }
    }

    fn refuse(path: &'static str, settings: &Settings, problems: &mut Problems) -> Option<()> {
        if settings.take::<bool>(path, problems)? {
            let why = "this program was built without the feature provider-docker; build it with that, or set false";
            settings.refuse(path, why, problems);
            return None;
        }
        Some(())
    }
}
