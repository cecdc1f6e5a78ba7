//! Reads a tar archive from a stream, entry by entry.

use std::io::Read;

use blueprint_agent_workload_core::archive::tar::{
    BLOCK, MAX_META_BYTES, Pending, TarError, TarHeader, TarKind, padding,
};
use blueprint_agent_workload_core::archive::{EntryKind, Intake};

use super::{PackError, Target, copy, damaged, is_run_by_anybody, place};

/// Every byte of the stream counts as one that came out, so that headers without end are bounded, too.
pub(super) fn unpack(
    mut stream: impl Read,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<(), PackError> {
    let mut pending = Pending::default();
    let mut entries = 0u64;
    while let Some(header) = next(&mut stream, intake, target)? {
        entries = entries.saturating_add(1);
        match header.kind {
            TarKind::LongName => pending.long_name(&meta(&mut stream, header.size, intake, target)?),
            TarKind::Pax => {
                let records = meta(&mut stream, header.size, intake, target)?;
                pending.pax(&records).map_err(|error| damaged(&error))?;
            }
            TarKind::Skip => pass(&mut stream, header.size, intake, target)?,
            TarKind::Entry(kind) => {
                let (name, size) = pending.apply(&header);
                let is_marked = Some(is_run_by_anybody(header.mode));
                let stream = &mut stream;
                place(&name, kind, is_marked, intake, target, |intake, target| {
                    whole(copy(stream, size, true, intake, target, |_| ())?, size)
                })?;
                let rest =
                    if kind == EntryKind::File { padding(size) } else { size.saturating_add(padding(size)) };
                whole(copy(stream, rest, false, intake, target, |_| ())?, rest)?;
            }
        }
    }
    if entries == 0 {
        return Err(PackError::Damaged("it is compressed and holds no tar archive".to_owned()));
    }
    Ok(())
}

/// The next header; `None` at the end, also where that is not marked.
fn next(
    stream: &mut impl Read,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<Option<TarHeader>, PackError> {
    let block = bytes(stream, BLOCK_BYTES, intake, target)?;
    if block.is_empty() {
        return Ok(None);
    }
    let block = block.first_chunk::<BLOCK>().ok_or_else(cut)?;
    TarHeader::parse(block).map_err(|error| damaged(&error))
}

const BLOCK_BYTES: u64 = 512;

/// What a special entry says of the next one.
fn meta(
    stream: &mut impl Read,
    size: u64,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<Vec<u8>, PackError> {
    if size > MAX_META_BYTES {
        return Err(damaged(&TarError::Meta));
    }
    let data = bytes(stream, size, intake, target)?;
    whole(u64::try_from(data.len()).unwrap_or(u64::MAX), size)?;
    let rest = padding(size);
    whole(copy(stream, rest, false, intake, target, |_| ())?, rest)?;
    Ok(data)
}

fn pass(
    stream: &mut impl Read,
    size: u64,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<(), PackError> {
    let all = size.saturating_add(padding(size));
    whole(copy(stream, all, false, intake, target, |_| ())?, all)
}

/// Up to `size` bytes, fewer at the end of the stream.
fn bytes(
    stream: &mut impl Read,
    size: u64,
    intake: &mut Intake,
    target: &mut impl Target,
) -> Result<Vec<u8>, PackError> {
    let mut data = Vec::new();
    copy(stream, size, false, intake, target, |bytes| data.extend_from_slice(bytes))?;
    Ok(data)
}

fn whole(came: u64, size: u64) -> Result<(), PackError> {
    if came < size { Err(cut()) } else { Ok(()) }
}

fn cut() -> PackError {
    PackError::Damaged("the tar archive is cut off".to_owned())
}
