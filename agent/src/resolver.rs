//! Has this machine ask the hub for the names of the overlay, where its owner said so.
//!
//! ```text
//!   resolver.way = resolved   systemd-resolved asks the hub for names of the overlay, at our network device, and for no others
//!                  file       a block of ours at the top of /etc/resolv.conf; the hub refuses other names, and the system then
//!                             asks the name servers below the block, as before
//! ```
//!
//! # Invariants
//!
//! - Nothing of the machine is touched unless `resolver.way` says so, and nothing while the hub's DNS does not answer: names of
//!   others must not wait for a hub that is away.
//! - What was changed is put back at the end, and at the next start where there was no end; what others changed meanwhile stays.

mod file;
mod lock;
mod probe;
mod resolved;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_runtime::Chain;
use blueprint_common_runtime::state::{Mode, StateDir, StateError};
use tokio::time::sleep;
use tracing::{info, warn};

use self::file::ResolvConf;
use self::resolved::Resolved;
use crate::agent::AgentError;
use crate::shared::Shared;

/// Time between two questions to the hub.
const PACE: Duration = Duration::from_secs(2);

/// Questions without an answer after which everything is put back.
const MISSES: u32 = 2;

/// What `/etc/resolv.conf` was before, in the state folder; it is there while a block of ours may be in that file.
const BEFORE: &str = "resolv.conf.before";

/// Where the system looks up its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How this machine is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolverWay {
    /// By `resolvectl`, for names below the domain alone.
    Resolved,
    /// By a block in `/etc/resolv.conf`.
    File,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverSettings {
    /// How.
    pub way: ResolverWay,
    /// Names below it are the hub's, such as `bp.internal`.
    pub domain: ResolverDomain,
}

/// A domain of two or more labels of `a-z`, `0-9` and `-`, at most 100 characters, as `discovery.domain` of the hub is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolverDomain(String);

impl ResolverDomain {
    /// The text, without a dot at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResolverDomain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_label = |label: &str| {
            label.len() <= 63
                && label.starts_with(is_inner)
                && label.ends_with(is_inner)
                && label.chars().all(|c| is_inner(c) || c == '-')
        };
        let is_one = text.len() <= 100 && text.contains('.') && text.split('.').all(is_label);
        if is_one {
            Ok(Self(text.to_owned()))
        } else {
            Err("no domain of labels of a-z, 0-9 and '-', such as bp.internal")
        }
    }
}

/// Why the machine was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverError {
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} is a link to {}, which another program writes; where that is systemd-resolved, set resolver.way = \"resolved\"", path.display(), to.display())]
    Link { path: PathBuf, to: PathBuf },
    #[error("{} is longer than 64 KiB or no text", path.display())]
    Strange { path: PathBuf },
    #[error(
        "another program has held {} for more than {} s: an agent of this machine that hangs, perhaps; `fuser {}` names it, and \
         once it has ended this one goes on",
        lock.display(), patience.as_secs(), lock.display()
    )]
    Held { lock: PathBuf, patience: Duration },
    #[error("no network device of this machine has the overlay address {0}")]
    NoDevice(Ipv4Addr),
    #[error(
        "{command} failed: {why}; resolver.way = \"resolved\" needs systemd-resolved and the right to tell it (root)"
    )]
    Resolvectl { command: String, why: String },
    #[error(transparent)]
    State(#[from] StateError),
}

/// Who tells the machine.
enum Teller {
    File(ResolvConf),
    Resolved(Resolved),
}

impl Teller {
    fn new(shared: &Shared, settings: &ResolverSettings) -> Self {
        let identity = shared.spoke.identity();
        match settings.way {
            ResolverWay::File => Self::File(block(&identity.agent_id.to_string())),
            ResolverWay::Resolved => {
                let (v4, v6) = (identity.tunnel.overlay_v4, identity.tunnel.overlay_v6);
                let prefixes = [(v4.network().into(), v4.prefix()), (v6.network().into(), v6.prefix())];
                Self::Resolved(Resolved::new(identity.tunnel.address.v4, &settings.domain, prefixes))
            }
        }
    }

    /// Tells the machine to ask `hub`. Doing it again is harmless.
    async fn point(&mut self, state: &StateDir, hub: Ipv4Addr) -> Result<bool, ResolverError> {
        match self {
            Self::File(file) => {
                if !file.needs(hub)? {
                    return Ok(false);
                }
                // Before the first change, so that whatever happens then is put back.
                let keep = |before: &str| -> Result<(), ResolverError> {
                    if state.read(BEFORE)?.is_none() {
                        state.write(BEFORE, before.as_bytes(), Mode::Plain)?;
                    }
                    Ok(())
                };
                file.put(hub, keep).await.map(|()| true)
            }
            Self::Resolved(resolved) => resolved.point(hub).await,
        }
    }

    async fn put_back(&mut self, state: &StateDir) -> Result<(), ResolverError> {
        match self {
            Self::File(file) => put_back(file, state).await,
            Self::Resolved(resolved) => resolved.put_back().await,
        }
    }
}

fn block(agent: &str) -> ResolvConf {
    ResolvConf::new(PathBuf::from(RESOLV_CONF), agent)
}

async fn put_back(file: &ResolvConf, state: &StateDir) -> Result<(), ResolverError> {
    file.take_out().await?;
    state.remove(BEFORE)?;
    Ok(())
}

/// Takes out what an agent of this folder left that was killed, whatever is asked for now.
pub(crate) async fn clean(shared: &Shared) {
    if !shared.state.path(BEFORE).exists() {
        return;
    }
    let file = block(&shared.spoke.identity().agent_id.to_string());
    match put_back(&file, &shared.state).await {
        Ok(()) => {
            info!(file = RESOLV_CONF, "an agent that was killed had left its name server: it is taken out")
        }
        Err(error) => warn!(
            error = %Chain(&error),
            file = RESOLV_CONF,
            "what a killed agent left cannot be taken out: remove the lines between its two comments"
        ),
    }
}

/// Tells the machine while the hub's DNS answers, until the agent ends.
pub(crate) async fn run(shared: Arc<Shared>, settings: ResolverSettings) -> Result<(), AgentError> {
    let mut teller = Teller::new(&shared, &settings);
    let (mut is_told, mut misses, mut said) = (false, 0u32, String::new());
    loop {
        let hub = shared.spoke.identity().tunnel.hub.v4;
        let asked = async {
            let answer = probe::ask(hub, settings.domain.as_str()).await;
            let found = match answer {
                Ok(()) => teller.point(&shared.state, hub).await.map_err(|error| Chain(&error).to_string()),
                Err(why) => Err(why),
            };
            (found, shared.spoke.plane().is_alive())
        };
        let Some((found, is_alive)) = shared.stop.run_until_cancelled(asked).await else { break };
        match found {
            Ok(is_news) => {
                if is_news && !is_told {
                    info!(domain = settings.domain.as_str(), %hub, way = ?settings.way, "this machine asks the hub for names");
                }
                (is_told, misses) = (true, 0);
                said.clear();
            }
            Err(why) => {
                misses = misses.saturating_add(1);
                // A hub that is away is told elsewhere.
                if is_alive && misses >= MISSES && said != why {
                    warn!(
                        why,
                        domain = settings.domain.as_str(),
                        "this machine does not ask the hub for names (resolver.way); the hub serves them where its \
                         discovery.dns_port is 53 and its discovery.domain the same"
                    );
                    said = why;
                }
            }
        }
        if misses >= MISSES && is_told {
            info!("the hub's DNS does not answer: this machine asks as it did before");
            is_told = give_up(&mut teller, &shared.state).await.is_err();
        }
        if shared.stop.run_until_cancelled(sleep(PACE)).await.is_none() {
            break;
        }
    }
    // Also where it failed half way.
    if is_told || shared.state.path(BEFORE).exists() {
        let _ = give_up(&mut teller, &shared.state).await;
    }
    Ok(())
}

async fn give_up(teller: &mut Teller, state: &StateDir) -> Result<(), ()> {
    teller.put_back(state).await.map_err(|error| {
        warn!(error = %Chain(&error), "the machine's name servers are not put back; the next start of the agent tries again");
    })
}
