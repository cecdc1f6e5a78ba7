//! Section `providers.ssh`.

use blueprint_common_runtime::config::{Key, Problems, Settings};

pub(super) const ENABLED: Key = Key::new(
    "providers.ssh.enabled",
    "false",
    "Offer the provider ssh, whose machines are the operator's own: the hosts of providers.ssh.hosts.",
);
pub(super) const HOSTS: Key = Key::unset(
    "providers.ssh.hosts",
    "File with the hosts, TOML or CSV (docs/ssh.md); it is read again at each use. A path that is not whole begins in the state \
     folder.",
);

#[cfg(feature = "provider-ssh")]
pub(crate) use with::SshSettings;
#[cfg(not(feature = "provider-ssh"))]
pub(crate) use without::SshSettings;

#[cfg(feature = "provider-ssh")]
mod with {
    use std::path::PathBuf;

    use super::*;

    /// Where the operator's machines are written down.
    #[derive(Debug, Clone)]
    pub(crate) struct SshSettings {
        pub(crate) hosts: PathBuf,
    }

    impl SshSettings {
        /// The inner `None` where it is not switched on.
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            let enabled = settings.take::<bool>(ENABLED.path, problems);
            let hosts = settings.take_optional::<PathBuf>(HOSTS.path, problems);
            if !enabled? {
                return Some(None);
            }
            let Some(hosts) = hosts else {
                let why = "not set; `blueprint-hub host scan ADDRESS` prints what belongs into such a file";
                settings.refuse(HOSTS.path, why, problems);
                return None;
            };
            Some(Some(Self { hosts }))
        }
    }
}

#[cfg(not(feature = "provider-ssh"))]
mod without {
    use super::*;

    /// There are none in this build.
    #[derive(Debug, Clone)]
    pub(crate) enum SshSettings {}

    impl SshSettings {
        pub(in crate::config) fn take(settings: &Settings, problems: &mut Problems) -> Option<Option<Self>> {
            if settings.take::<bool>(ENABLED.path, problems)? {
                let why = "this program was built without the feature provider-ssh; build it with that, or set false";
                settings.refuse(ENABLED.path, why, problems);
                return None;
            }
            Some(None)
        }
    }
}
