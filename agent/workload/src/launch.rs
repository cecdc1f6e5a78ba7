//! The last step before a native workload: a process of the agent's own program that gives up its rights and
//! becomes the workload.
//!
//! The agent starts itself with [`ARGUMENT`] and writes a [`Launch`] to its standard input, where neither variables
//! nor keys can be seen by other users. So the steps between two processes need no code that runs after a fork.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, NulError};
use std::io::{Read, Write};
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Gid, Uid, execve, getppid, setgid, setgroups, setsid, setuid};
use serde::{Deserialize, Serialize};

use crate::keeper::{KEEP, KEEP_CONTAINER, KEEP_EXEC, keep, keep_container, keep_exec};
use crate::tree;

/// First argument of the process that becomes a workload, and of the one above it that keeps it (`keeper`).
pub const ARGUMENT: &str = "become-workload";

/// Longest description that is read, in bytes.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// Exit code of a process that could not become the workload; the reason is its standard error.
pub const EXIT_CODE: u8 = 126;

/// The same where there is no such program.
const NO_PROGRAM: u8 = 127;

/// Where programs are looked for that are named without a folder.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Second argument of a process that becomes a command beside a workload.
pub(crate) const BESIDE: &str = "beside";

/// What the process becomes, and what it gives up before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// Number of the process above it, without which it does not start; its keeper writes it.
    #[serde(default)]
    pub keeper: u32,
    /// Absolute path.
    pub program: PathBuf,
    /// Arguments without the program.
    pub args: Vec<String>,
    /// All of its variables.
    pub env: BTreeMap<String, String>,
    /// Folder that it starts in.
    pub folder: PathBuf,
    /// User and group; `None` to stay who the agent is.
    pub user: Option<(u32, u32)>,
    /// Files of control groups that it enters by writing to them.
    pub cgroups: Vec<PathBuf>,
    /// See [`blueprint_common_types::workload::Sandbox`].
    pub no_new_privileges: bool,
    /// Bytes of a `/tmp` of its own; `None` for none.
    pub private_tmp: Option<u64>,
    /// What it may read and write; `None` for whatever its user may.
    pub confinement: Option<Confinement>,
    /// Runs beside this process, a workload's own.
    #[serde(default)]
    pub beside: Option<Beside>,
}

/// A command beside a workload: it sees the files that the workload sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// The workload's own process.
    pub pid: i32,
    /// When that was started, in ticks since the machine's start: its number may be another's by now.
    pub started: u64,
    /// Whether standard output is a terminal that becomes its own.
    pub terminal: bool,
}

/// Folders and files below which a workload may do something; those that are not there count for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// To be read and executed.
    pub read: Vec<PathBuf>,
    /// To be changed, too.
    pub write: Vec<PathBuf>,
}

/// What failed.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("cannot read what to run: {0}")]
    Read(std::io::Error),
    #[error("what to run is damaged: {0}")]
    Damaged(serde_json::Error),
    #[error("cannot enter {}: {error}", path.display())]
    Cgroup { path: PathBuf, error: std::io::Error },
    #[error("cannot {action}: {error}")]
    System { action: &'static str, error: nix::Error },
    #[error("cannot confine it: {0}")]
    Confine(#[from] RulesetError),
    #[error("cannot start in {}: {error}", path.display())]
    Folder { path: PathBuf, error: std::io::Error },
    #[error("{0}")]
    Text(#[from] NulError),
    #[error("cannot execute {}: {error}", path.display())]
    Execute { path: PathBuf, error: nix::Error },
    #[error(
        "it cannot be confined and would run as the agent's own user, whose identity it could read: this system has no \
         Landlock (Linux 5.13), or shuts it away; run the agent as root, or switch sandbox.landlock off"
    )]
    Unconfined,
    #[error("its keeper has ended")]
    Alone,
    #[error("the workload has ended")]
    Left,
    #[error(
        "the workload has a user namespace of its own, where it is root over its files: nothing runs beside it"
    )]
    Apart,
}

/// Becomes what standard input describes, or keeps a process that does, as the second argument says. Comes back with
/// the exit code where it does not become it, or has kept it until its end.
///
/// To be called before the process has a second thread.
#[must_use]
pub fn become_workload() -> u8 {
    match std::env::args().nth(2).as_deref() {
        Some(KEEP) => return keep(),
        Some(KEEP_CONTAINER) => return keep_container(),
        Some(KEEP_EXEC) => return keep_exec(),
        Some(_) | None => {}
    }
    let Err(error) = read_launch().and_then(|launch| try_become(&launch));
    say(&error.to_string());
    let is_missing = matches!(error, LaunchError::Execute { error: nix::Error::ENOENT, .. });
    if is_missing { NO_PROGRAM } else { EXIT_CODE }
}

/// What is written on standard input: all of it, but for a command beside a workload the first line, since the rest is
/// the command's.
fn read_launch() -> Result<Launch, LaunchError> {
    let mut text = Vec::new();
    if std::env::args().nth(2).as_deref() == Some(BESIDE) {
        let mut input = nix::unistd::dup(std::io::stdin()).map(std::fs::File::from).map_err(dup_failed)?;
        let mut byte = [0];
        while input.read(&mut byte).map_err(LaunchError::Read)? == 1 && byte != *b"\n" {
            text.extend(byte);
        }
    } else {
        std::io::stdin().take(MAX_BYTES).read_to_end(&mut text).map_err(LaunchError::Read)?;
    }
    serde_json::from_slice(&text).map_err(LaunchError::Damaged)
}

const fn dup_failed(error: nix::Error) -> LaunchError {
    LaunchError::System { action: "read what to run", error }
}

/// Standard error is the workload's log from its start on: the agent reads there why it did not become one.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "blueprint-agent: {text}");
}

fn try_become(launch: &Launch) -> Result<Infallible, LaunchError> {
    let system = |action| move |error| LaunchError::System { action, error };
    setsid().map_err(system("leave the agent's session"))?;
    for path in &launch.cgroups {
        std::fs::write(path, "0").map_err(|error| LaunchError::Cgroup { path: path.clone(), error })?;
    }
    if let Some(beside) = &launch.beside {
        join(beside)?;
    }
    if let Some(bytes) = launch.private_tmp {
        match private_tmp(bytes) {
            // An agent that is root in a container of its own may not: the workload runs, and its log says so.
            Err(nix::Error::EPERM) => say("it has no /tmp of its own: the agent may not mount one here"),
            other => other.map_err(system("mount a /tmp of its own"))?,
        }
    }
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(system("forbid core dumps"))?;
    umask(Mode::from_bits_truncate(0o077));
    if let Some((user, group)) = launch.user {
        setgroups(&[Gid::from_raw(group)]).map_err(system("give up groups"))?;
        setgid(Gid::from_raw(group)).map_err(system("become its group"))?;
        setuid(Uid::from_raw(user)).map_err(system("become its user"))?;
    }
    // A command beside a workload runs programs of the workload's folders, and gets no rights by any of them.
    if launch.no_new_privileges || launch.beside.is_some() {
        set_no_new_privs().map_err(system("forbid new privileges"))?;
    }
    // After the change of its user, which takes this back. It counts for this process alone, not for its children.
    set_pdeathsig(Signal::SIGKILL).map_err(system("end with its keeper"))?;
    // The number comes from the keeper itself: one that ended before this was read is not mistaken for who took its place.
    if u32::try_from(getppid().as_raw()) != Ok(launch.keeper) {
        return Err(LaunchError::Alone);
    }
    if let Some(confinement) = &launch.confinement {
        let is_confined = confine(confinement)?;
        // Another user cannot read what is the agent's; its own could.
        if !is_confined && launch.user.is_none() {
            return Err(LaunchError::Unconfined);
        }
    }
    std::env::set_current_dir(&launch.folder)
        .map_err(|error| LaunchError::Folder { path: launch.folder.clone(), error })?;
    match &launch.beside {
        Some(Beside { terminal: true, .. }) => {
            nix::unistd::dup2_stdin(std::io::stdout()).map_err(system("read from its terminal"))?;
        }
        Some(_) => {}
        None => {
            let null = std::fs::File::open("/dev/null").map_err(LaunchError::Read)?;
            nix::unistd::dup2_stdin(&null).map_err(system("close standard input"))?;
        }
    }
    execute(launch)
}

/// Takes the terminal, and goes where the workload is.
fn join(beside: &Beside) -> Result<(), LaunchError> {
    let system = |action| move |error| LaunchError::System { action, error };
    if beside.terminal {
        let taken = rustix::process::ioctl_tiocsctty(std::io::stdout());
        taken.map_err(|error| system("take its terminal")(nix::Error::from_raw(error.raw_os_error())))?;
    }
    let place = format!("/proc/{}/ns/mnt", beside.pid);
    let (theirs, own) = (std::fs::read_link(&place), std::fs::read_link("/proc/self/ns/mnt"));
    let is_other = theirs.map_err(|_| LaunchError::Left)? != own.map_err(LaunchError::Read)?;
    let space = std::fs::File::open(&place).map_err(|_| LaunchError::Left)?;
    // The number was the workload's before this, and is now: so is what was opened between the two.
    if tree::look(beside.pid).is_none_or(|seen| seen.started != beside.started) {
        return Err(LaunchError::Left);
    }
    // Who has such a namespace mounts what it likes over `/etc` and `/usr`, and this process is still the agent's user. None
    // comes back from one, so what was opened before is not of one either.
    if !has_own_users(beside.pid) {
        return Err(LaunchError::Apart);
    }
    if is_other {
        setns(space, CloneFlags::CLONE_NEWNS).map_err(system("see the files that the workload sees"))?;
    }
    Ok(())
}

/// Whether a process is in the user namespace of this one.
fn has_own_users(pid: i32) -> bool {
    let spaces = [format!("/proc/{pid}/ns/user"), "/proc/self/ns/user".to_owned()].map(std::fs::read_link);
    matches!(spaces, [Ok(theirs), Ok(own)] if theirs == own)
}

fn execute(launch: &Launch) -> Result<Infallible, LaunchError> {
    let path = launch.program.to_string_lossy().into_owned();
    let found = launch.beside.as_ref().and_then(|_| look_up(&path, launch));
    let program = CString::new(found.unwrap_or_else(|| path.clone()))?;
    let args = std::iter::once(path).chain(launch.args.iter().cloned()).map(CString::new);
    let args: Vec<CString> = args.collect::<Result<_, _>>()?;
    let env = launch.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let env: Vec<CString> = env.collect::<Result<_, _>>()?;
    execve(&program, &args, &env)
        .map_err(|error| LaunchError::Execute { path: launch.program.clone(), error })
}

/// Where a program lies that is named without a folder.
fn look_up(name: &str, launch: &Launch) -> Option<String> {
    if name.contains('/') {
        return None;
    }
    let folders = launch.env.get("PATH").map_or(PATH, String::as_str);
    let places = folders.split(':').map(|folder| format!("{folder}/{name}"));
    let is_program = |place: &String| {
        nix::unistd::access(place.as_str(), AccessFlags::X_OK).is_ok()
            && !std::path::Path::new(place).is_dir()
    };
    // One that is not found is no path of this folder either.
    Some(places.into_iter().find(is_program).unwrap_or_else(|| format!("/nonexistent/{name}")))
}

/// Confines this process and all that it starts, as far as the kernel knows how; false where it does not at all.
fn confine(confinement: &Confinement) -> Result<bool, RulesetError> {
    // The newest rights that this was written for; older kernels leave out what they do not have.
    let abi = ABI::V6;
    let (read, all) = (AccessFs::from_read(abi), AccessFs::from_all(abi));
    let status = Ruleset::default()
        .handle_access(all)?
        // Signals and sockets with abstract names reach what the workload started, and nothing else.
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(&confinement.read, read))?
        .add_rules(path_beneath_rules(&confinement.write, all))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Mounts a small folder in memory over `/tmp`, which this process and its children alone see.
fn private_tmp(bytes: u64) -> nix::Result<()> {
    const NONE: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), "/tmp", Some("tmpfs"), flags, Some(format!("mode=1777,size={bytes}").as_str()))
}

#[cfg(test)]
mod tests;
