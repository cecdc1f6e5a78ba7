//! The plugin's process: started, started again, ended with the hub.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, User, geteuid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pauses before the plugin is started again: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a plugin has to run so that its next end is a first one.
const STEADY: Duration = Duration::from_secs(60);

/// Time between SIGTERM and SIGKILL.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How much longer the process above a plugin has, to end what that left.
const TO_CLEAN: Duration = Duration::from_secs(3);

/// Longest line of its output that is logged, in bytes, and most lines in a minute.
const MAX_LINE: usize = 1000;
const MAX_LINES: u32 = 120;

/// Who a plugin runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
}

/// A plugin cannot be started as it is configured. One line for people each.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Nobody is called so.
    #[error("there is no user {0:?} on this host; make one for the plugin: useradd --system {0}")]
    NoUser(String),
    /// The system does not tell users.
    #[error("cannot look for the user {0:?}")]
    Users(String, #[source] io::Error),
    /// Only root can become another user.
    #[error(
        "only a hub that runs as root can run a plugin as {0:?}; let the plugin be started by other means"
    )]
    NotRoot(String),
    /// The folder of the socket cannot be made.
    #[error("cannot make the folder {} for the plugin's socket", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could serve a socket in its folder.
    #[error(
        "the folder {} of the plugin's socket {why}; give the socket a folder of its own, which is made where it is missing",
        path.display()
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl Account {
    /// The account of this name.
    ///
    /// # Errors
    ///
    /// [`KeeperError`] where there is none, or this process cannot become it.
    pub fn named(name: &str) -> Result<Self, KeeperError> {
        let found = User::from_name(name)
            .map_err(|error| KeeperError::Users(name.to_owned(), error.into()))?
            .ok_or_else(|| KeeperError::NoUser(name.to_owned()))?;
        if !geteuid().is_root() && found.uid != geteuid() {
            return Err(KeeperError::NotRoot(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), uid: found.uid.as_raw(), gid: found.gid.as_raw() })
    }

    /// Its number.
    #[must_use]
    pub const fn uid(&self) -> u32 {
        self.uid
    }
}

/// The program of a plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginProgram {
    /// The program; it gets no arguments.
    pub path: PathBuf,
    /// Who it runs as; the hub's own user where `None`.
    pub account: Option<Account>,
    /// The socket that it is told to serve, in a folder of its own.
    pub socket: PathBuf,
    /// Its name as a provider, for the log.
    pub name: String,
    /// The program that runs [`keep_plugin`](crate::reaper::keep_plugin) for the argument [`ARGUMENT`](crate::reaper::ARGUMENT) and ends
    /// all that the plugin started; without it, what left the plugin's process group lives on.
    pub above: Option<PathBuf>,
}

/// Keeps a plugin running.
#[derive(Debug)]
pub struct Keeper {
    program: PluginProgram,
}

impl Keeper {
    /// Makes the folder of the socket, which is for the plugin's user alone where it is made here; one that is there has to
    /// be closed to others. Starts nothing yet.
    ///
    /// # Errors
    ///
    /// [`KeeperError::Folder`] and [`KeeperError::Open`].
    pub fn new(program: PluginProgram) -> Result<Self, KeeperError> {
        let folder = program.socket.parent().unwrap_or(Path::new("/"));
        let failed = |source| KeeperError::Folder { path: folder.to_owned(), source };
        make_folder(folder, program.account.as_ref()).map_err(failed)?;
        if let Some(why) = fault(folder, program.account.as_ref()).map_err(failed)? {
            return Err(KeeperError::Open { path: folder.to_owned(), why });
        }
        Ok(Self { program })
    }

    /// Runs the plugin until `stop`, and ends it with all that it started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the plugin, or the process above it, and leaves what the plugin started itself.
    pub async fn keep(self, stop: CancellationToken) {
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            match self.start() {
                Ok(child) => {
                    if self.watch(child, &stop).await {
                        return;
                    }
                }
                Err(error) => {
                    let (provider, program) = (&self.program.name, self.program.path.display());
                    warn!(provider, %program, %error, "the plugin cannot be started");
                }
            }
            if began.elapsed() >= STEADY {
                pause = PAUSE.0;
            }
            info!(
                provider = self.program.name,
                pause_ms = pause.as_millis(),
                "the plugin is started again after a pause"
            );
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    fn start(&self) -> io::Result<Child> {
        let PluginProgram { path, account, socket, name, above } = &self.program;
        match std::fs::symlink_metadata(socket) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(socket)?,
            Ok(_) => {
                let text = format!("{} is there and no socket; remove it", socket.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut command = match above {
            Some(above) => {
                let mut command = Command::new(above);
                command.arg(crate::reaper::ARGUMENT).arg(path);
                command
            }
            None => Command::new(path),
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("BLUEPRINT_PLUGIN_SOCKET", socket)
            .env("BLUEPRINT_PLUGIN_KEPT", "1")
            .current_dir("/")
            // It closes with the hub, however that ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            // A process above it ends the plugin and all that it started once its input closes; killed, it could not.
            .kill_on_drop(above.is_none());
        if let Some(account) = account {
            command.env("USER", &account.name);
            if above.is_some() {
                // The process above stays the hub's: it can end whatever the plugin started.
                command.arg(account.uid.to_string()).arg(account.gid.to_string());
            } else {
                // The groups of the hub are given up with its user.
                command.uid(account.uid).gid(account.gid);
            }
        }
        let child = command.spawn()?;
        info!(provider = name, program = %path.display(), pid = child.id(), "the plugin is started");
        Ok(child)
    }

    /// Waits for the end of the plugin; true where that was asked for.
    async fn watch(&self, mut child: Child, stop: &CancellationToken) -> bool {
        let mut lines = Lines::of(&self.program.name);
        let _open = child.stdin.take();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let told = async {
            let mut lines_of_out = Lines::of(&self.program.name);
            tokio::join!(lines.follow(err), lines_of_out.follow(out));
            std::future::pending::<()>().await;
        };
        let is_stopped = tokio::select! {
            () = told => false,
            () = until_ended(pid) => false,
            () = stop.cancelled() => true,
        };
        if let Some(group) = pid {
            if is_stopped && self.program.above.is_some() {
                // It tells the group, and ends what is left of the plugin before itself.
                let _ = kill(group, Signal::SIGTERM);
                let _ = timeout(GRACE.saturating_add(TO_CLEAN), until_ended(pid)).await;
            } else if is_stopped {
                let _ = killpg(group, Signal::SIGTERM);
                let _ = timeout(GRACE, until_ended(pid)).await;
            }
            // Its group, and itself where it does not end. Nobody waited for it yet, so that its number is still its own.
            let _ = killpg(group, Signal::SIGKILL);
        }
        let ended = timeout(GRACE, child.wait()).await.unwrap_or_else(|late| Err(late.into()));
        if !is_stopped {
            let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            warn!(provider = self.program.name, status, "the plugin ended");
        }
        is_stopped
    }
}

/// Lines of a plugin, for the log: bounded in length and number.
#[derive(Debug, Default)]
struct Lines {
    provider: String,
    begun: Option<Instant>,
    told: u32,
    left_out: u32,
}

impl Lines {
    fn of(provider: &str) -> Self {
        Self { provider: provider.to_owned(), ..Self::default() }
    }

    async fn follow(&mut self, stream: Option<impl AsyncRead + Unpin>) {
        let Some(mut stream) = stream else { return };
        let (mut buffer, mut line) = (vec![0u8; 4096], Vec::new());
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            for byte in buffer.iter().take(count) {
                if *byte == b'\n' {
                    self.tell(&line);
                    line.clear();
                } else if line.len() < MAX_LINE {
                    line.push(*byte);
                }
            }
        }
    }

    fn tell(&mut self, line: &[u8]) {
        if self.begun.is_none_or(|begun| begun.elapsed() >= Duration::from_secs(60)) {
            if self.left_out > 0 {
                warn!(
                    provider = self.provider,
                    left_out = self.left_out,
                    "the plugin wrote more lines than are logged"
                );
            }
            *self = Self { begun: Some(Instant::now()), ..Self::of(&self.provider) };
        }
        if self.told >= MAX_LINES {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.told += 1;
        let text = crate::answers::said(&String::from_utf8_lossy(line));
        info!(provider = self.provider, text, "the plugin says");
    }
}

/// Waits until a process has ended, and leaves its status and its number. At once where it cannot be waited for.
async fn until_ended(pid: Option<Pid>) {
    let (Some(pid), Ok(mut changes)) = (pid, signal(SignalKind::child())) else { return };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(pid), flags) == Ok(WaitStatus::StillAlive) {
        changes.recv().await;
    }
}

/// What lets others than root, the hub and the plugin serve a socket in a folder.
fn fault(folder: &Path, account: Option<&Account>) -> io::Result<Option<String>> {
    let found = std::fs::symlink_metadata(folder)?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let is_ours = owner == 0 || owner == geteuid().as_raw() || account.is_some_and(|it| it.uid == owner);
    Ok(if !found.is_dir() {
        Some("is no folder".to_owned())
    } else if !is_ours {
        Some(format!("is that of user {owner}"))
    } else if mode & 0o022 != 0 {
        Some(format!("can be written by others (mode {mode:o})"))
    } else {
        None
    })
}

/// Makes a folder that is the plugin's alone, and what is missing above it for everybody to pass.
fn make_folder(folder: &Path, account: Option<&Account>) -> io::Result<()> {
    if folder.symlink_metadata().is_ok() {
        return Ok(());
    }
    let is_missing = |above: &&Path| above.symlink_metadata().is_err();
    let missing: Vec<&Path> = folder.ancestors().skip(1).take_while(is_missing).collect();
    let modes = missing.into_iter().rev().map(|above| (above, 0o755)).chain([(folder, 0o700)]);
    for (path, mode) in modes.filter(|(path, _)| !path.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().mode(0o700).create(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    account.map_or(Ok(()), |account| chown(folder, Some(account.uid), Some(account.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One without a process above it.
    fn program(path: PathBuf, account: Option<Account>, socket: PathBuf) -> PluginProgram {
        PluginProgram { path, account, socket, name: "external".to_owned(), above: None }
    }

    #[test]
    fn an_account_that_is_not_there_is_told() {
        let error = Account::named("nobody-is-called-so").unwrap_err().to_string();
        assert!(error.contains("useradd --system nobody-is-called-so"), "{error}");
    }

    #[tokio::test]
    async fn a_plugin_runs_as_its_user_in_a_folder_of_its_own() {
        let account = match Account::named("nobody") {
            Ok(account) => account,
            // Only root becomes somebody else.
            Err(error) => return assert!(matches!(error, KeeperError::NotRoot(_)), "{error}"),
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let (path, own) = (folder.path().join("plugin"), folder.path().join("above/own"));
        std::fs::write(
            &path,
            format!(
                "#!/bin/sh\nid -u >{0}/part\nid -G >>{0}/part\nmv {0}/part {0}/who\ncat\n",
                own.display()
            ),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (uid, gid) = (account.uid, account.gid);
        let program = program(path, Some(account), own.join("plugin.sock"));
        let stop = CancellationToken::new();
        let keeper = Keeper::new(program).unwrap().keep(stop.clone());
        let asks = async {
            for _ in 0..400 {
                if let Ok(text) = std::fs::read_to_string(own.join("who")) {
                    stop.cancel();
                    return text;
                }
                sleep(Duration::from_millis(25)).await;
            }
            panic!("it did not write");
        };
        let (text, ()) = tokio::join!(asks, keeper);
        assert_eq!(text, format!("{uid}\n{gid}\n"));
        assert_eq!(std::fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_folder_that_others_write_and_a_file_in_the_place_of_the_socket_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        let program = |socket: PathBuf| program(PathBuf::from("/bin/true"), None, socket);
        std::fs::create_dir(&own).unwrap();
        for mode in [0o777, 0o770, 0o1777] {
            std::fs::set_permissions(&own, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Keeper::new(program(own.join("plugin.sock"))).unwrap_err().to_string();
            assert!(error.contains("can be written by others"), "{error}");
        }
        std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755)).unwrap();
        let keeper = Keeper::new(program(own.join("file"))).unwrap();
        std::fs::write(own.join("file"), "kept").unwrap();
        assert_eq!(keeper.start().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_to_string(own.join("file")).unwrap(), "kept");
        std::os::unix::fs::symlink(&own, folder.path().join("link")).unwrap();
        assert!(Keeper::new(program(folder.path().join("link/plugin.sock"))).is_err());
        if geteuid().is_root() {
            chown(&own, Some(4_000_000), None).unwrap();
            let error = Keeper::new(program(own.join("plugin.sock"))).unwrap_err().to_string();
            assert!(error.contains("user 4000000"), "{error}");
        }
    }

    #[tokio::test]
    async fn what_a_plugin_started_ends_with_it_also_where_it_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let (path, left) = (folder.path().join("plugin"), folder.path().join("left"));
        let text = format!("#!/bin/sh\nsleep 1000 &\necho $! >{0}.part\nmv {0}.part {0}\n", left.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = program(path, None, folder.path().join("own/plugin.sock"));
        let keeper = Keeper::new(program).unwrap();
        let child = keeper.start().unwrap();
        assert!(!keeper.watch(child, &CancellationToken::new()).await);
        let pid = std::fs::read_to_string(left).unwrap();
        for _ in 0..400 {
            // One that nobody waited for yet has no program any more.
            if std::fs::read_link(format!("/proc/{}/exe", pid.trim())).is_err() {
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("what it started still runs");
    }

    #[tokio::test]
    async fn a_plugin_that_ends_is_started_again_and_ends_with_its_keeper() {
        let folder = tempfile::tempdir().unwrap();
        let (path, runs) = (folder.path().join("plugin"), folder.path().join("runs"));
        let text = format!(
            "#!/bin/sh\necho \"$$ ${{HOME:-none}} $BLUEPRINT_PLUGIN_SOCKET\" >>{}\n[ $(wc -l <{}) -lt 2 ] && exit 3\nsleep 1000 &\nwait\n",
            runs.display(),
            runs.display()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("own/plugin.sock");
        let program = program(path, None, socket.clone());
        let stop = CancellationToken::new();
        let keeper = Keeper::new(program).unwrap().keep(stop.clone());
        let asks = async {
            for _ in 0..400 {
                let text = std::fs::read_to_string(&runs).unwrap_or_default();
                if text.lines().count() == 2 {
                    return text;
                }
                sleep(Duration::from_millis(25)).await;
            }
            panic!("it was not started again");
        };
        let asks = async {
            let text = asks.await;
            stop.cancel();
            text
        };
        let (text, ()) = tokio::join!(asks, keeper);
        let line = text.lines().last().unwrap();
        let expected = format!(" none {}", socket.display());
        assert!(line.ends_with(&expected), "{line}");
        let pid = line.split(' ').next().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "it still runs");
    }
}
