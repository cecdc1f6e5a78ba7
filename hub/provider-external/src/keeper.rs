//! The plugin's process: started, started again, ended with the hub.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Pauses before the plugin is started again: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a plugin has to run so that its next end is a first one.
const STEADY: Duration = Duration::from_secs(60);

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

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
}

/// Keeps a plugin running.
#[derive(Debug)]
pub struct Keeper {
    program: PluginProgram,
}

impl Keeper {
    /// Makes the folder of the socket, which is for the plugin's user alone where it is made here. Starts nothing yet.
    ///
    /// # Errors
    ///
    /// [`KeeperError::Folder`].
    pub fn new(program: PluginProgram) -> Result<Self, KeeperError> {
        let folder = program.socket.parent().unwrap_or(Path::new("/"));
        let made = make_folder(folder, program.account.as_ref());
        made.map_err(|source| KeeperError::Folder { path: folder.to_owned(), source })?;
        Ok(Self { program })
    }

    /// Runs the plugin until `stop`, and ends it with all that it started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future kills the plugin, and leaves what it started itself.
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
                    let program = self.program.path.display();
                    warn!(%program, %error, "the plugin cannot be started");
                }
            }
            if began.elapsed() >= STEADY {
                pause = PAUSE.0;
            }
            info!(pause_ms = pause.as_millis(), "the plugin is started again after a pause");
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    fn start(&self) -> io::Result<Child> {
        let PluginProgram { path, account, socket } = &self.program;
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let mut command = Command::new(path);
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
            .kill_on_drop(true);
        if let Some(account) = account {
            // The groups of the hub are given up with its user.
            command.uid(account.uid).gid(account.gid);
            command.env("USER", &account.name);
        }
        let child = command.spawn()?;
        info!(program = %path.display(), pid = child.id(), "the plugin is started");
        Ok(child)
    }

    /// Waits for the end of the plugin; true where that was asked for.
    async fn watch(&self, mut child: Child, stop: &CancellationToken) -> bool {
        let mut lines = Lines::default();
        let _open = child.stdin.take();
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
        let told = async {
            let mut lines_of_out = Lines::default();
            tokio::join!(lines.follow(err), lines_of_out.follow(out));
            std::future::pending::<()>().await;
        };
        let is_stopped = tokio::select! {
            () = told => false,
            ended = child.wait() => {
                let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                warn!(status, "the plugin ended");
                false
            }
            () = stop.cancelled() => true,
        };
        if let Some(group) = pid {
            if is_stopped {
                let _ = killpg(group, Signal::SIGTERM);
                let _ = timeout(GRACE, child.wait()).await;
            }
            // What it started, and itself where it does not end.
            let _ = killpg(group, Signal::SIGKILL);
        }
        is_stopped
    }
}

/// Lines of a plugin, for the log: bounded in length and number.
#[derive(Debug, Default)]
struct Lines {
    begun: Option<Instant>,
    told: u32,
    left_out: u32,
}

impl Lines {
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
                warn!(left_out = self.left_out, "the plugin wrote more lines than are logged");
            }
            *self = Self { begun: Some(Instant::now()), ..Self::default() };
        }
        if self.told >= MAX_LINES {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.told += 1;
        let text = crate::answers::said(&String::from_utf8_lossy(line));
        info!(text, "the plugin says");
    }
}

fn make_folder(folder: &Path, account: Option<&Account>) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
    account.map_or(Ok(()), |account| chown(folder, Some(account.uid), Some(account.gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (path, own) = (folder.path().join("plugin"), folder.path().join("own"));
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
        let program = PluginProgram { path, account: Some(account), socket: own.join("plugin.sock") };
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
        let program = PluginProgram { path, account: None, socket: socket.clone() };
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
