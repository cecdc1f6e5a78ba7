//! Compressed streams and archives, told apart by their first bytes, and read within limits.

mod tar;
mod xz;
mod zip;
mod zstd;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};

use blueprint_agent_workload_core::archive::tar::{BLOCK, TarHeader};
use blueprint_agent_workload_core::archive::{ArchiveLimits, ArchiveRefusal, EntryKind, Intake};
use flate2::bufread::MultiGzDecoder;

/// Bytes that are read ahead of a compressed file.
const AHEAD_BYTES: usize = 64 * 1024;

/// Why an archive was not unpacked.
#[derive(Debug)]
pub(super) enum PackError {
    /// By a rule.
    Refused(ArchiveRefusal),
    /// It cannot be read.
    Damaged(String),
    /// Writing failed.
    Write(io::Error),
    /// Nobody wants it any more.
    Stopped,
}

impl From<ArchiveRefusal> for PackError {
    fn from(refusal: ArchiveRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Where the files of an archive go.
pub(super) trait Target {
    /// Makes a folder, and those above it. It may be there.
    fn folder(&mut self, path: &str) -> io::Result<()>;
    /// Makes a file that is not there, and the folders above it.
    fn file(&mut self, path: &str) -> io::Result<()>;
    /// Writes to the file that was made last.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Ends the file that was made last. `is_marked` says whether the archive lets it be run; `None` where it does
    /// not say.
    fn end(&mut self, is_marked: Option<bool>) -> io::Result<()>;
    /// Whether to give up.
    fn is_stopped(&self) -> bool;
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Tar,
    TarGzip,
    TarXz,
    TarZstd,
    Zip,
}

impl Form {
    /// Tells by the first bytes of a file, up to a block of tar.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        if head.starts_with(&[0x1f, 0x8b]) {
            return Some(Self::TarGzip);
        }
        if head.starts_with(b"\xfd7zXZ\0") {
            return Some(Self::TarXz);
        }
        if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            return Some(Self::TarZstd);
        }
        if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
            return Some(Self::Zip);
        }
        let block = head.first_chunk::<BLOCK>()?;
        matches!(TarHeader::parse(block), Ok(Some(_))).then_some(Self::Tar)
    }
}

/// Unpacks a file of `bytes` bytes; returns the bytes that came out.
pub(super) fn unpack(
    form: Form,
    mut file: &File,
    bytes: u64,
    limits: ArchiveLimits,
    target: &mut impl Target,
) -> Result<u64, PackError> {
    file.rewind().map_err(PackError::Write)?;
    let mut intake = Intake::new(limits, bytes);
    let ahead = BufReader::with_capacity(AHEAD_BYTES, file);
    match form {
        Form::Tar => tar::unpack(ahead, &mut intake, target),
        Form::TarGzip => tar::unpack(MultiGzDecoder::new(ahead), &mut intake, target),
        Form::TarXz => tar::unpack(xz::Reader::new(ahead), &mut intake, target),
        Form::TarZstd => tar::unpack(zstd::Reader::new(ahead), &mut intake, target),
        Form::Zip => zip::unpack(file, bytes, &mut intake, target),
    }?;
    Ok(intake.unpacked_bytes())
}

/// Copies up to `most` bytes to the target, or over them where `is_kept` is not set; returns how many there were.
fn copy(
    from: &mut impl Read,
    most: u64,
    is_kept: bool,
    intake: &mut Intake,
    target: &mut impl Target,
    mut seen: impl FnMut(&[u8]),
) -> Result<u64, PackError> {
    let mut buffer = vec![0; usize::try_from(most).unwrap_or(usize::MAX).min(AHEAD_BYTES)];
    let mut left = most;
    while left > 0 {
        if target.is_stopped() {
            return Err(PackError::Stopped);
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let space = buffer.get_mut(..wanted).unwrap_or_default();
        let read = match from.read(space) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(&error)),
        };
        let bytes = space.get(..read).unwrap_or_default();
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        intake.unpack(count)?;
        if is_kept {
            target.write(bytes).map_err(PackError::Write)?;
        }
        seen(bytes);
        left = left.saturating_sub(count);
    }
    Ok(most.saturating_sub(left))
}

/// Whether a mode lets anybody run the file.
fn is_run_by_anybody(mode: u64) -> bool {
    mode & 0o111 != 0
}

fn damaged(error: &(dyn std::error::Error + 'static)) -> PackError {
    PackError::Damaged(super::client::chain(error))
}

/// Takes a file, folder or nothing of an entry; what is a file is written by `write`.
fn place<T: Target>(
    name: &[u8],
    kind: EntryKind,
    is_marked: Option<bool>,
    intake: &mut Intake,
    target: &mut T,
    write: impl FnOnce(&mut Intake, &mut T) -> Result<(), PackError>,
) -> Result<(), PackError> {
    use blueprint_agent_workload_core::archive::Admitted;
    match intake.admit(name, kind)? {
        Admitted::Root => Ok(()),
        Admitted::Folder(path) => target.folder(&path).map_err(PackError::Write),
        Admitted::File(path) => {
            target.file(&path).map_err(PackError::Write)?;
            write(intake, target)?;
            target.end(is_marked).map_err(PackError::Write)
        }
    }
}
