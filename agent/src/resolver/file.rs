//! A block of ours in `/etc/resolv.conf`.
//!
//! The block is first, since the system asks name servers in their order; of other names the hub says REFUSED at once, and the
//! system asks the next one. Between its two comments nothing is anybody else's, so it can be taken out of whatever the file is then.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use super::ResolverError;

/// Longest file that is changed, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The file, and whose block it is.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    begin: String,
    end: String,
}

impl ResolvConf {
    pub(super) fn new(path: PathBuf, agent: &str) -> Self {
        let begin = format!("# begin of blueprint-agent {agent}: taken out when it ends");
        Self { path, begin, end: format!("# end of blueprint-agent {agent}") }
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

    /// Whether the file does not say that `hub` is asked.
    pub(super) fn needs(&self, hub: Ipv4Addr) -> Result<bool, ResolverError> {
        let text = self.read()?;
        Ok(self.with_block(&text, hub) != text)
    }

    /// Makes the file say so.
    pub(super) fn put(&self, hub: Ipv4Addr) -> Result<(), ResolverError> {
        let text = self.read()?;
        self.write(&self.with_block(&text, hub))
    }

    /// Takes the block out; true where there was one.
    pub(super) fn take_out(&self) -> Result<bool, ResolverError> {
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
        let beside = self.path.with_extension("conf.blueprint-agent");
        let replaced = (|| {
            // What a crash left there is no file that anybody reads.
            let _ = fs::remove_file(&beside);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
            file.write_all(text.as_bytes())?;
            file.set_permissions(fs::Permissions::from_mode(mode))?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)
        })();
        if replaced.is_ok() {
            return Ok(());
        }
        let _ = fs::remove_file(&beside);
        let written = OpenOptions::new().write(true).truncate(true).open(&self.path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| self.failed("write", source))
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ResolverError {
        ResolverError::File { action, path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

    fn file(text: &str) -> (tempfile::TempDir, ResolvConf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, text).unwrap();
        (folder, ResolvConf::new(path, "a1"))
    }

    #[test]
    fn a_block_stands_first_and_leaves_the_file_as_it_was() {
        let before = "# mine\nnameserver 192.0.2.1\noptions timeout:1";
        let (_folder, file) = file(before);
        assert!(file.needs(HUB).unwrap());
        file.put(HUB).unwrap();
        assert!(!file.needs(HUB).unwrap());
        let text = file.read().unwrap();
        assert_eq!(text.lines().nth(1), Some("nameserver 10.88.0.1"), "{text}");
        assert!(text.ends_with(before), "{text}");
        file.put(HUB).unwrap();
        assert_eq!(file.read().unwrap(), text, "once is enough");
        file.put(Ipv4Addr::new(10, 99, 0, 1)).unwrap();
        assert_eq!(file.read().unwrap().matches("10.").count(), 1, "a hub that moved is replaced");
        assert!(file.take_out().unwrap() && !file.take_out().unwrap());
        assert_eq!(file.read().unwrap(), before);
    }

    #[test]
    fn what_others_changed_meanwhile_stays_and_so_does_the_block_of_another_agent() {
        let (folder, ours) = file("nameserver 192.0.2.1\n");
        let other = ResolvConf::new(folder.path().join("resolv.conf"), "b2");
        ours.put(HUB).unwrap();
        other.put(Ipv4Addr::new(10, 99, 0, 1)).unwrap();
        let text = ours.read().unwrap() + "nameserver 192.0.2.2\n";
        fs::write(folder.path().join("resolv.conf"), text).unwrap();
        ours.take_out().unwrap();
        let left = ours.read().unwrap();
        assert!(
            left.contains("10.99.0.1") && left.contains("192.0.2.2") && !left.contains("10.88.0.1"),
            "{left}"
        );
        other.take_out().unwrap();
        assert_eq!(ours.read().unwrap(), "nameserver 192.0.2.1\nnameserver 192.0.2.2\n");
    }

    #[test]
    fn a_link_and_a_file_that_is_no_text_are_left_alone() {
        let (folder, file) = file("");
        fs::write(folder.path().join("resolv.conf"), [0xff, 0xfe]).unwrap();
        assert!(matches!(file.put(HUB), Err(ResolverError::Strange { .. })));
        fs::remove_file(folder.path().join("resolv.conf")).unwrap();
        std::os::unix::fs::symlink("stub-resolv.conf", folder.path().join("resolv.conf")).unwrap();
        let error = file.put(HUB).unwrap_err().to_string();
        assert!(error.contains("is a link to stub-resolv.conf") && error.contains("resolved"), "{error}");
    }

    #[test]
    fn whatever_the_file_is_the_block_goes_without_a_trace() {
        for text in [
            "",
            "\n",
            "\n\n",
            "a",
            "nameserver 192.0.2.1",
            "nameserver 10.88.0.1\n",
            "# end\r\nsearch a b\r\n",
        ] {
            let (_folder, file) = file(text);
            file.put(HUB).unwrap();
            file.take_out().unwrap();
            assert_eq!(file.read().unwrap(), text);
        }
    }
}
