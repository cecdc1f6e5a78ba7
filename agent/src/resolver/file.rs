//! A block of ours in `/etc/resolv.conf`.
//!
//! The block is first, since the system asks name servers in their order; of other names the hub says REFUSED at once, and the
//! system asks the next one. Between its two comments nothing is anybody else's, so it can be taken out of whatever the file is then.
//! Agents of one machine have a block each, and write in turns ([`Turn`]).

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use super::ResolverError;
use super::lock::Turn;

/// Longest file that is changed, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// How the first line of every block begins and ends; between them is the agent's id.
const BEGIN: (&str, &str) = ("# begin of blueprint-agent ", ": taken out when it ends");

/// The file, and whose block it is.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    /// What is written before it takes the place of the file.
    beside: PathBuf,
    begin: String,
    end: String,
}

impl ResolvConf {
    pub(super) fn new(path: PathBuf, agent: &str) -> Self {
        let beside = path.with_extension(format!("conf.blueprint-agent-{agent}"));
        let begin = [BEGIN.0, agent, BEGIN.1].concat();
        Self { path, beside, begin, end: format!("# end of blueprint-agent {agent}") }
    }

    /// The whole file; empty where there is none.
    pub(super) fn read(&self) -> Result<String, ResolverError> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(&self.path).map_err(|source| self.failed("read the link", source))?;
                return Err(ResolverError::Link { path: self.path.clone(), to });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
            Err(source) => return Err(self.failed("look at", source)),
        }
        let file = fs::File::open(&self.path).map_err(|source| self.failed("open", source))?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|source| self.failed("read", source))?;
        let is_long = u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES);
        let text = String::from_utf8(bytes).ok().filter(|_| !is_long);
        text.ok_or_else(|| ResolverError::Strange { path: self.path.clone() })
    }

    /// Whether the file does not say that `hub` is asked. The blocks of other agents may come first: who asks in vain there is
    /// refused at once, and nobody moves before the others again and again.
    pub(super) fn needs(&self, hub: Ipv4Addr) -> Result<bool, ResolverError> {
        let text = without_blocks(&self.read()?, &self.begin);
        Ok(self.with_block(&text, hub) != text)
    }

    /// Makes the file say so. Before it is changed, `keep` is given what it says without agents.
    pub(super) async fn put(
        &self,
        hub: Ipv4Addr,
        keep: impl FnOnce(&str) -> Result<(), ResolverError> + Send,
    ) -> Result<(), ResolverError> {
        let _turn = Turn::wait(&self.path).await?;
        let text = self.read()?;
        keep(&without_blocks(&text, ""))?;
        self.write(&self.with_block(&text, hub))
    }

    /// Takes the block out; true where there was one. Who holds the lock for too long does not keep it in: an agent that ends is a
    /// name server that never answers.
    pub(super) async fn take_out(&self) -> Result<bool, ResolverError> {
        let _turn = match Turn::wait(&self.path).await {
            Ok(turn) => Some(turn),
            Err(ResolverError::Held { .. }) => None,
            Err(error) => return Err(error),
        };
        let text = self.read()?;
        let rest = self.without_block(&text);
        if rest == text {
            return Ok(false);
        }
        self.write(&rest).map(|()| true)
    }

    fn with_block(&self, text: &str, hub: Ipv4Addr) -> String {
        let Self { begin, end, .. } = self;
        format!("{begin}\nnameserver {hub}\n{end}\n{}", self.without_block(text))
    }

    /// All lines but those of the block; where its end is missing, its first line and the name server after it go.
    fn without_block(&self, text: &str) -> String {
        let mut rest = String::with_capacity(text.len());
        let has_end = text.lines().any(|line| line == self.end);
        let (mut is_inside, mut is_after_begin) = (false, false);
        for line in text.split_inclusive('\n') {
            let words = line.trim_end_matches(['\n', '\r']);
            if words == self.begin {
                (is_inside, is_after_begin) = (has_end, true);
                continue;
            }
            let is_ours = is_inside || (is_after_begin && words.starts_with("nameserver "));
            is_after_begin = false;
            if is_inside && words == self.end {
                is_inside = false;
            } else if !is_ours {
                // Writing to a text cannot fail.
                let _ = rest.write_str(line);
            }
        }
        rest
    }

    /// Replaces the file as one; where a file is mounted there, as containers have it, it is written in place.
    fn write(&self, text: &str) -> Result<(), ResolverError> {
        let mode = fs::metadata(&self.path).map_or(0o644, |found| found.permissions().mode() & 0o777);
        let replaced = (|| {
            // What a crash left there is no file that anybody reads.
            let _ = fs::remove_file(&self.beside);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&self.beside)?;
            file.write_all(text.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&self.beside, &self.path)
        })();
        if replaced.is_ok() {
            return Ok(());
        }
        let _ = fs::remove_file(&self.beside);
        let written = OpenOptions::new().write(true).truncate(true).open(&self.path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| self.failed("write", source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ResolverError {
        ResolverError::File { action, path: self.path.clone(), source }
    }
}

/// What a file says without the blocks of agents, but the one that begins with the line `but`.
fn without_blocks(text: &str, but: &str) -> String {
    let agent = |line: &str| Some(line.strip_prefix(BEGIN.0)?.strip_suffix(BEGIN.1)?.to_owned());
    let others = text.lines().filter(|line| *line != but).filter_map(agent);
    others.fold(text.to_owned(), |rest, agent| ResolvConf::new(PathBuf::new(), &agent).without_block(&rest))
}

#[cfg(test)]
mod tests;
