//! Why something cannot be done on a host, and what is to be done about it.

use std::io;

use blueprint_hub_provision_core::ProviderError;

use crate::inventory::OwnHost;

/// What went wrong with one host. The text says the next step.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Nobody answers there.
    #[error("it is not reached ({said}): see that it is on, and that its SSH port is open for this hub")]
    Unreached {
        /// What the client said.
        said: String,
    },
    /// It shows another key than the one that is pinned.
    #[error(
        "ITS HOST KEY IS NOT THE PINNED ONE: it was installed anew, or something else answers at its address; nothing was sent. \
         Look at the machine itself (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), and change host_key only if that is \
         what `blueprint-hub host scan` shows"
    )]
    HostKey,
    /// It does not take the key.
    #[error(
        "it does not let {user} in with the key of the inventory: put the public half into ~{user}/.ssh/authorized_keys there"
    )]
    Auth {
        /// Who was to log in.
        user: String,
    },
    /// Whoever logged in is not root and cannot become it.
    #[error(
        "{user} is not root there and may not use `sudo -n`: log in as root, or have sudo ask for no password \
         (`{user} ALL=(root) NOPASSWD: ALL` in /etc/sudoers.d)"
    )]
    NoSudo {
        /// Who logged in.
        user: String,
    },
    /// It lacks what a node needs.
    #[error("it lacks {what}")]
    Lacks {
        /// What is missing.
        what: String,
    },
    /// Somebody's agent is installed there.
    #[error(
        "an agent that no hub ordered is installed there: keep it as it is and take the host out of the inventory, or remove it first \
         (`blueprint-agent leave`, its unit, /etc/blueprint-agent and /var/lib/blueprint-agent)"
    )]
    Foreign,
    /// Another machine has it, of this hub or another.
    #[error("it is taken: {by}")]
    Taken {
        /// What its claim says.
        by: String,
    },
    /// It has no such machine.
    #[error("it has no such machine")]
    Absent,
    /// Something else is done on it just now.
    #[error("{said}")]
    Busy {
        /// What it said.
        said: String,
    },
    /// It did not do what it was told.
    #[error("{said}")]
    Refused {
        /// What it said.
        said: String,
    },
    /// The connection ended, or took too long, after something was begun.
    #[error("the connection ended before it had answered ({said})")]
    Lost {
        /// What is known of the end.
        said: String,
    },
    /// It answered something else than was asked.
    #[error("it answered what was not asked: {said}")]
    Nonsense {
        /// The beginning of it.
        said: String,
    },
    /// The client cannot be run here.
    #[error("the program {program} cannot be run ({error}): install openssh-client on the hub's host")]
    NoClient {
        /// Which one.
        program: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A file of the hub cannot be written.
    #[error("{what} cannot be written: {error}")]
    State {
        /// Which.
        what: String,
        /// What the system said.
        error: io::Error,
    },
}

impl HostError {
    /// True where it is certain that nothing was done on the host.
    pub(crate) const fn is_harmless(&self) -> bool {
        match self {
            Self::Unreached { .. }
            | Self::HostKey
            | Self::Auth { .. }
            | Self::NoSudo { .. }
            | Self::Lacks { .. }
            | Self::Foreign
            | Self::Taken { .. }
            | Self::Absent
            | Self::Busy { .. }
            | Self::NoClient { .. }
            | Self::State { .. } => true,
            Self::Refused { .. } | Self::Lost { .. } | Self::Nonsense { .. } => false,
        }
    }

    /// What the provisioner is told; `is_order` where another host could take its place.
    pub(crate) fn told(self, call: &'static str, host: &OwnHost, is_order: bool) -> ProviderError {
        let text = format!("host {} ({}): {self}", host.name(), host.door.address);
        match self {
            Self::Unreached { .. } | Self::Taken { .. } if is_order => ProviderError::Capacity { what: text },
            Self::Unreached { .. } | Self::Busy { .. } => ProviderError::Busy { reason: text },
            Self::HostKey
            | Self::Auth { .. }
            | Self::NoSudo { .. }
            | Self::Lacks { .. }
            | Self::Foreign
            | Self::Taken { .. }
            | Self::Absent => ProviderError::Reject { reason: text },
            Self::NoClient { .. } | Self::State { .. } => ProviderError::Unsent { call, source: text.into() },
            Self::Refused { .. } | Self::Lost { .. } | Self::Nonsense { .. } => {
                // Of one host: the others are well, and calls to them go on.
                ProviderError::Unclear { call, source: text.into() }
            }
        }
    }
}
