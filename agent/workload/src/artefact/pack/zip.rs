//! Reads a zip archive by its directory, and each entry by its own header.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use blueprint_agent_workload_core::archive::Intake;
use blueprint_agent_workload_core::archive::zip::{
    Directory, END64_BYTES, ENTRY_BYTES, End, LOCAL_BYTES, TAIL_BYTES, ZipEntry, ZipError, ZipMethod,
};
use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use super::{AHEAD_BYTES, PackError, Target, copy, damaged, is_run_by_anybody, place};

/// A part of a file as a stream.
struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let most = left.min(buffer.len());
        let read = self.file.read_at(buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

pub(super) fn unpack(
    file: &File,
    bytes: u64,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<(), PackError> {
    let directory = find(file, bytes)?;
    let end = directory.offset.saturating_add(directory.bytes);
    if end > bytes {
        return Err(damaged(&ZipError::Directory));
    }
    let mut listed = BufReader::with_capacity(AHEAD_BYTES, Section { file, at: directory.offset, end });
    for _ in 0..directory.entries {
        let fixed: [u8; ENTRY_BYTES] = exactly(&mut listed)?;
        let [name, extra, comment] = ZipEntry::lengths(&fixed);
        let name = some(&mut listed, name)?;
        let extra = some(&mut listed, extra)?;
        some(&mut listed, comment)?;
        let entry = ZipEntry::parse(&fixed, &name, &extra).map_err(|error| damaged(&error))?;
        let is_marked = entry.mode.map(|mode| is_run_by_anybody(mode.into()));
        place(&entry.name, entry.kind, is_marked, intake, target, |intake, target| {
            write(file, &entry, directory.offset, intake, target)
        })?;
    }
    Ok(())
}

fn find(file: &File, bytes: u64) -> Result<Directory, PackError> {
    let from = bytes.saturating_sub(TAIL_BYTES);
    let mut tail = Vec::new();
    let read = Section { file, at: from, end: bytes }.read_to_end(&mut tail);
    read.map_err(|error| damaged(&error))?;
    let found = match End::find(&tail).map_err(|error| damaged(&error))? {
        End::Here(directory) => return Ok(directory),
        End::At(offset) => Section { file, at: offset, end: bytes },
    };
    let end: [u8; END64_BYTES] = exactly(&mut { found })?;
    Directory::parse64(&end).map_err(|error| damaged(&error))
}

/// Writes one file. Its data lies before the directory.
fn write(
    file: &File,
    entry: &ZipEntry,
    directory: u64,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<(), PackError> {
    let mut header = Section { file, at: entry.header, end: directory };
    let fixed: [u8; LOCAL_BYTES] = exactly(&mut header)?;
    let [name, extra] = entry.local_lengths(&fixed).map_err(|error| damaged(&error))?;
    if some(&mut header, name)? != entry.name {
        return Err(damaged(&ZipError::Header));
    }
    some(&mut header, extra)?;
    let end = header.at.saturating_add(entry.packed);
    if end > directory {
        return Err(damaged(&ZipError::Directory));
    }
    let packed = Section { file, at: header.at, end };
    let mut crc = Crc::new();
    // One byte more than there should be shows whether there is more.
    let most = entry.size.saturating_add(1);
    let seen = |bytes: &[u8]| crc.update(bytes);
    let came = match entry.method {
        ZipMethod::Stored => copy(&mut { packed }, most, true, intake, target, seen)?,
        ZipMethod::Deflated => {
            let ahead = BufReader::with_capacity(AHEAD_BYTES, packed);
            copy(&mut DeflateDecoder::new(ahead), most, true, intake, target, seen)?
        }
    };
    if came != entry.size || crc.sum() != entry.crc {
        return Err(damaged(&ZipError::Header));
    }
    Ok(())
}

fn exactly<const N: usize>(from: &mut impl Read) -> Result<[u8; N], PackError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(|_| damaged(&ZipError::Directory))?;
    Ok(bytes)
}

fn some(from: &mut impl Read, length: usize) -> Result<Vec<u8>, PackError> {
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).map_err(|_| damaged(&ZipError::Directory))?;
    Ok(bytes)
}
