//! Whose process is at the other end of a bridge's connection.

use std::fs;
use std::path::PathBuf;

use tokio::net::UnixStream;

use crate::tree::Known;

/// Who connected, as it was when the connection was accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    /// Its effective user; `None` where the system does not say.
    pub(super) user: Option<u32>,
    /// The process; `None` where it is gone already, or this agent cannot see it.
    pub(super) process: Option<Known>,
}

impl Peer {
    /// To be called as soon as the connection is accepted, so that nobody else has the number of a process that is gone.
    pub(super) fn of(stream: &UnixStream) -> Self {
        let said = stream.peer_cred().ok();
        let pid = said.and_then(|said| u32::try_from(said.pid()?).ok());
        Self { user: said.map(|said| said.uid()), process: pid.and_then(Known::of) }
    }
}

/// The processes of one workload.
#[derive(Debug, Clone)]
pub(crate) struct Kin {
    /// Above all of them, itself included: the keeper of a native workload, the first process of a container.
    root: Known,
    /// The namespace of a container's processes, where it has one: commands that an engine starts there are not below its
    /// first process.
    space: Option<PathBuf>,
}

impl Kin {
    /// Those below a keeper.
    pub(crate) fn below(keeper: u32) -> Option<Self> {
        Some(Self { root: Known::of(keeper)?, space: None })
    }

    /// Those of a container; `first` is its first process.
    pub(crate) fn inside(first: u32) -> Option<Self> {
        let root = Known::of(first)?;
        let own = fs::read_link("/proc/self/ns/pid").ok();
        let space = space_of(root.pid).filter(|space| own.is_some_and(|own| own != *space));
        Some(Self { root, space: space.filter(|_| root.is_there()) })
    }

    /// Whether a process is one of them.
    pub(super) fn has(&self, peer: &Peer) -> bool {
        let Some(process) = peer.process else { return false };
        let is_inside = || {
            let space = self.space.as_ref().filter(|_| self.root.is_there());
            space.is_some_and(|space| space_of(process.pid).as_ref() == Some(space)) && process.is_there()
        };
        process.is_below(self.root) || is_inside()
    }
}

/// The namespace of a process's numbers.
fn space_of(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}
