//! The process above a plugin that the hub starts: whatever the plugin starts stays below it, and ends with it.
//!
//! It is a process of the hub's own program, one for each plugin. The kernel gives it every process below that loses its own parent,
//! so it finds all of them by their parents, whatever group or session they moved to; that takes no rights and no control groups.
//!
//! - Once the plugin has ended, nothing below is left.
//! - Once the hub is gone, by whatever death, standard input closes: the plugin is asked to end, and killed after its grace.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpgrp};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use crate::keeper::GRACE;

/// The first argument of such a process.
pub const ARGUMENT: &str = "keep-plugin";

/// How long is tried to kill what a plugin leaves, and the pause between two rounds.
const KILL_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(3);

/// What a process ends with whose program cannot be started, as shells do.
const NOT_STARTED: u8 = 127;

/// Runs the program that the second argument names, as the user and group of the third and fourth where there are such, until it has
/// ended and nothing of it is left. Gives its exit code; 128 and the number of the signal that ended it.
///
/// To be called before there is a second thread.
#[must_use]
pub fn keep_plugin() -> u8 {
    let mut arguments = std::env::args_os().skip(2);
    let Some(program) = arguments.next() else { return say("no plugin is named") };
    let mut command = Command::new(&program);
    // It closes with this process, however that ends.
    command.stdin(Stdio::piped());
    let mut number = || arguments.next().map(|text| text.to_str().and_then(|text| text.parse::<u32>().ok()));
    match (number(), number()) {
        (None, None) => {}
        (Some(Some(uid)), Some(Some(gid))) => {
            // The groups of the hub are given up with its user.
            command.uid(uid).gid(gid);
        }
        _ => return say("user and group of the plugin are no numbers"),
    }
    match run(&mut command) {
        Ok(code) => code,
        Err(error) => say(&format!("cannot run the plugin {}: {error}", program.display())),
    }
}

/// Tells the hub by its log why there is no plugin.
fn say(text: &str) -> u8 {
    use io::Write;
    let _ = writeln!(io::stderr(), "{text}");
    NOT_STARTED
}

fn run(command: &mut Command) -> io::Result<u8> {
    set_child_subreaper(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // From before there is anybody to be missed.
        let (mut children, mut asked) = (signal(SignalKind::child())?, signal(SignalKind::terminate())?);
        let mut hub = Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        let mut child = command.spawn()?;
        let mut kill_at: Option<Instant> = None;
        let mut buffer = [0u8; 256];
        let code = loop {
            if let Some(code) = reap(&mut child) {
                break code;
            }
            let due = async {
                match kill_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let is_asked = tokio::select! {
                biased;
                _ = children.recv() => false,
                _ = asked.recv(), if kill_at.is_none() => true,
                read = hub.read(&mut buffer), if kill_at.is_none() => !matches!(read, Ok(1..)),
                () = due => {
                    kill_all(&below_this());
                    kill_at = Instant::now().checked_add(GRACE);
                    false
                }
            };
            if is_asked {
                kill_at = Instant::now().checked_add(GRACE);
                // Its group, which is this process's own.
                let _ = killpg(getpgrp(), Signal::SIGTERM);
            }
        };
        let left = kill_until_none(&mut child);
        if left > 0 {
            say(&format!("{left} processes that the plugin started cannot be ended; end them by hand"));
        }
        Ok(code)
    })
}

/// Takes note of all that ended here; gives how the plugin did, if it was among them.
fn reap(child: &mut Child) -> Option<u8> {
    let main = i32::try_from(child.id()).ok().map(Pid::from_raw);
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    // Looked at first: what `child` says of itself is asked of `child`.
    while let Ok(Some(pid)) = waitid(Id::All, flags | WaitPidFlag::WNOWAIT).map(|status| status.pid()) {
        if Some(pid) == main {
            return Some(child.try_wait().ok().flatten().map_or(NOT_STARTED, code_of));
        }
        let _ = waitid(Id::Pid(pid), flags);
    }
    None
}

/// The code of an end as shells tell it.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal()?.checked_add(128));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_STARTED)
}

/// Kills what is below this process until there is nothing, also what is started meanwhile; says how many are left.
fn kill_until_none(child: &mut Child) -> usize {
    let began = std::time::Instant::now();
    loop {
        let _ = reap(child);
        let found = below_this();
        kill_all(&found);
        if found.is_empty() || began.elapsed() >= KILL_WITHIN {
            return found.len();
        }
        std::thread::sleep(PAUSE);
    }
}

fn kill_all(pids: &[i32]) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
}

fn below_this() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents = pids.filter_map(|pid: i32| {
        Some((parent_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?, pid))
    });
    i32::try_from(std::process::id()).map_or_else(|_| Vec::new(), |own| below(own, parents))
}

/// Reads `stat` (`proc(5)`): field 4 is the parent.
fn parent_of(stat: &str) -> Option<i32> {
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// All that descends from `root`, without itself, from pairs of parent and child.
fn below(root: i32, parents: impl Iterator<Item = (i32, i32)>) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for (parent, child) in parents {
        children.entry(parent).or_default().push(child);
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(parent) = next.pop() {
        // Each parent is taken out, so that looks which go round end.
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    found.retain(|pid| *pid != root);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_descends_is_found_and_nothing_else() {
        let parents = [(1, 5), (5, 6), (6, 9), (1, 7), (7, 8), (9, 5)];
        let mut found = below(5, parents.into_iter());
        found.sort_unstable();
        assert_eq!(found, [6, 9]);
        assert_eq!(parent_of("7 (a) b (c) S 5 7 7"), Some(5));
        assert_eq!(parent_of("7 (a"), None);
    }
}
