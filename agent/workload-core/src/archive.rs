//! What of an archive may be unpacked, and how much of it.
//!
//! An archive comes from outside, so that it is what was asked for says nothing about what it does. [`Intake`] judges
//! its entries one by one, before anything of them is written. The layouts of the formats are in [`tar`], [`zip`] and [`xz`];
//! reading and writing is the driver's.
//!
//! Invariants:
//! - what is admitted lies below the folder it is unpacked in, and nothing is ever written through a link;
//! - no path is admitted twice, and none below a file;
//! - entries, bytes and the memory for names are bounded, whatever the archive says of itself.

pub mod tar;
pub mod xz;
pub mod zip;

use std::collections::BTreeMap;

/// Longest path within an archive, in bytes; half of what Linux takes as a path leaves room for the cache's own.
pub const MAX_PATH_BYTES: usize = 1024;

/// Longest part of a path, in bytes, as file systems have it.
const MAX_PART_BYTES: usize = 255;

/// Most bytes that the names of all entries may take together: 100,000 names of 160 bytes.
const MAX_NAMES_BYTES: usize = 16 << 20;

/// An archive may become so many times its size. Programs with all their debug information reach 10, text 30;
/// deflate itself ends at 1032.
const MAX_RATIO: u64 = 200;

/// So much may come out of any archive, however small: tables of zeros are short.
const FREE_BYTES: u64 = 16 << 20;

/// How much of an archive is unpacked at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Files and folders, those included that are only named as the parents of others.
    pub max_entries: u32,
    /// Bytes that come out of it, all together.
    pub max_bytes: u64,
}

/// What an entry of an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// Another name of a file.
    HardLink,
    /// A symbolic link.
    SymbolicLink,
    /// A character or block device.
    Device,
    /// A named pipe.
    Fifo,
    /// Anything else, such as a sparse file: the format's letter or number of it.
    Other(u32),
}

/// Why an archive is not unpacked. The text names the entry and says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveRefusal {
    /// Its path begins at the root.
    #[error("entry {0:?} is an absolute path; pack it with relative ones")]
    Absolute(String),
    /// Its path goes up.
    #[error("entry {0:?} has '..' in its path; pack it from within its folder")]
    Parent(String),
    /// Its name has no meaning here.
    #[error("entry {0:?} has a name that is empty, not UTF-8, or holds a backslash or a control character")]
    Name(String),
    /// Its path is longer than any here.
    #[error("entry {0:?}... has a path of more than {MAX_PATH_BYTES} bytes, or a part of more than 255")]
    Path(String),
    /// A symbolic or hard link.
    #[error("entry {0:?} is a link, and links are not unpacked; pack what it leads to")]
    Link(String),
    /// A device, pipe, socket, sparse file, or a kind nobody knows.
    #[error("entry {0:?} is neither a file nor a folder; leave it out")]
    Special(String),
    /// The path was there before.
    #[error("entry {0:?} is there twice; leave one out")]
    Duplicate(String),
    /// A file is used as a folder.
    #[error("entry {0:?} lies in something that is a file; leave one of them out")]
    BelowFile(String),
    /// More files than are allowed.
    #[error("it has more than {0} files and folders; make it smaller, or raise the limit of entries")]
    Entries(u32),
    /// Names that would take too much memory.
    #[error("the names in it have more than {MAX_NAMES_BYTES} bytes; make it smaller")]
    Names,
    /// More bytes than are allowed.
    #[error("more than {0} bytes come out of it; make it smaller, or raise the limit of unpacked bytes")]
    Bytes(u64),
    /// Far more bytes than it has itself.
    #[error("more than {MAX_RATIO} times its size comes out of it, as of a zip bomb; pack it less tightly")]
    Ratio,
}

impl ArchiveRefusal {
    /// Label of the reason in metrics and logs.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Absolute(_) => "absolute_path",
            Self::Parent(_) => "parent_path",
            Self::Name(_) => "name",
            Self::Path(_) => "path_too_long",
            Self::Link(_) => "link",
            Self::Special(_) => "special_file",
            Self::Duplicate(_) => "duplicate",
            Self::BelowFile(_) => "below_file",
            Self::Entries(_) => "too_many_entries",
            Self::Names => "names_too_long",
            Self::Bytes(_) => "unpacked_too_large",
            Self::Ratio => "zip_bomb",
        }
    }
}

/// What becomes of an entry that may be unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admitted {
    /// The folder itself, which is there already.
    Root,
    /// A folder of this relative path.
    Folder(String),
    /// A file of this relative path.
    File(String),
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    /// A folder that only its content named.
    Implied,
    Folder,
    File,
}

/// Judges the entries of one archive.
#[derive(Debug, Clone)]
pub struct Intake {
    limits: ArchiveLimits,
    packed_bytes: u64,
    unpacked_bytes: u64,
    names_bytes: usize,
    seen: BTreeMap<String, Node>,
}

impl Intake {
    /// For an archive of `packed_bytes` bytes.
    #[must_use]
    pub const fn new(limits: ArchiveLimits, packed_bytes: u64) -> Self {
        Self { limits, packed_bytes, unpacked_bytes: 0, names_bytes: 0, seen: BTreeMap::new() }
    }

    /// Bytes that came out so far.
    #[must_use]
    pub const fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes
    }

    /// Whether an entry may be unpacked, and where.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it; nothing of the archive is to be kept then.
    pub fn admit(&mut self, name: &[u8], kind: EntryKind) -> Result<Admitted, ArchiveRefusal> {
        let shown = || show(name);
        let is_folder = match kind {
            EntryKind::File => false,
            EntryKind::Folder => true,
            EntryKind::HardLink | EntryKind::SymbolicLink => return Err(ArchiveRefusal::Link(shown())),
            EntryKind::Device | EntryKind::Fifo | EntryKind::Other(_) => {
                return Err(ArchiveRefusal::Special(shown()));
            }
        };
        let path = normalise(name)?;
        if path.is_empty() {
            return if is_folder { Ok(Admitted::Root) } else { Err(ArchiveRefusal::Name(shown())) };
        }
        for (end, _) in path.match_indices('/') {
            let parent = path.get(..end).unwrap_or_default();
            match self.seen.get(parent) {
                Some(Node::File) => return Err(ArchiveRefusal::BelowFile(shown())),
                Some(Node::Folder | Node::Implied) => {}
                None => self.note(parent, Node::Implied)?,
            }
        }
        match (self.seen.get(&path), is_folder) {
            (None, false) => self.note(&path, Node::File)?,
            (None, true) => self.note(&path, Node::Folder)?,
            (Some(Node::Implied), true) => {
                self.seen.insert(path.clone(), Node::Folder);
            }
            (Some(Node::Implied | Node::Folder | Node::File), _) => {
                return Err(ArchiveRefusal::Duplicate(shown()));
            }
        }
        Ok(if is_folder { Admitted::Folder(path) } else { Admitted::File(path) })
    }

    /// Counts bytes that came out of the archive, before they are written.
    ///
    /// # Errors
    ///
    /// Fails once they are more than allowed; nothing of the archive is to be kept then.
    pub const fn unpack(&mut self, bytes: u64) -> Result<(), ArchiveRefusal> {
        self.unpacked_bytes = self.unpacked_bytes.saturating_add(bytes);
        if self.unpacked_bytes > self.limits.max_bytes {
            return Err(ArchiveRefusal::Bytes(self.limits.max_bytes));
        }
        if self.unpacked_bytes > FREE_BYTES
            && self.unpacked_bytes > self.packed_bytes.saturating_mul(MAX_RATIO)
        {
            return Err(ArchiveRefusal::Ratio);
        }
        Ok(())
    }

    fn note(&mut self, path: &str, node: Node) -> Result<(), ArchiveRefusal> {
        let count = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
        if count >= self.limits.max_entries {
            return Err(ArchiveRefusal::Entries(self.limits.max_entries));
        }
        self.names_bytes = self.names_bytes.saturating_add(path.len());
        if self.names_bytes > MAX_NAMES_BYTES {
            return Err(ArchiveRefusal::Names);
        }
        self.seen.insert(path.to_owned(), node);
        Ok(())
    }
}

/// The path without empty and `.` parts; empty where nothing is left of it.
fn normalise(name: &[u8]) -> Result<String, ArchiveRefusal> {
    let shown = || show(name);
    if name.len() > MAX_PATH_BYTES {
        return Err(ArchiveRefusal::Path(shown()));
    }
    let text = std::str::from_utf8(name).map_err(|_| ArchiveRefusal::Name(shown()))?;
    if text.is_empty() || text.contains(|c: char| c == '\\' || c.is_control()) {
        return Err(ArchiveRefusal::Name(shown()));
    }
    if text.starts_with('/') {
        return Err(ArchiveRefusal::Absolute(shown()));
    }
    let mut path = String::with_capacity(text.len());
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(ArchiveRefusal::Parent(shown()));
        }
        if part.len() > MAX_PART_BYTES {
            return Err(ArchiveRefusal::Path(shown()));
        }
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(part);
    }
    Ok(path)
}

/// A name for people: short, and without anything a terminal acts on once it is printed with `{:?}`.
fn show(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(100).collect()
}

#[cfg(test)]
mod tests;
