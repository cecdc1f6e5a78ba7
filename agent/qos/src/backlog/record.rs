//! One record of a backlog: length, check, number and time, and the sample.

use blueprint_common_types::Timestamp;

use super::{Kept, MAX_SAMPLE_BYTES};

/// Bytes before the sample: length and check of four each, number and time of eight each.
pub(super) const HEAD_BYTES: usize = 24;

/// A record as it is written. The length is the sample's; the check is over all that follows it.
pub(super) fn write(kept: &Kept) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEAD_BYTES + kept.bytes.len());
    body.extend_from_slice(&kept.number.to_le_bytes());
    body.extend_from_slice(&kept.at.as_millis().to_le_bytes());
    body.extend_from_slice(&kept.bytes);
    let length = u32::try_from(kept.bytes.len()).unwrap_or(u32::MAX);
    let mut record = length.to_le_bytes().to_vec();
    record.extend_from_slice(&check(&body).to_le_bytes());
    record.append(&mut body);
    record
}

/// Every record up to the first that is not whole, or is not right, or does not come after the one before.
pub(super) fn read_all(mut bytes: &[u8]) -> Vec<Kept> {
    let mut records: Vec<Kept> = Vec::new();
    while let Some((kept, rest)) = read(bytes) {
        if records.last().is_some_and(|last| last.number >= kept.number) {
            break;
        }
        records.push(kept);
        bytes = rest;
    }
    records
}

fn read(bytes: &[u8]) -> Option<(Kept, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let length =
        usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_SAMPLE_BYTES)?;
    let (body, rest) = rest.split_at_checked(length.checked_add(16)?)?;
    if check(body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (number, body) = body.split_first_chunk::<8>()?;
    let (at, sample) = body.split_first_chunk::<8>()?;
    let at = Timestamp::from_millis(u64::from_le_bytes(*at));
    Some((Kept { number: u64::from_le_bytes(*number), at, bytes: sample.to_vec() }, rest))
}

/// FNV-1a with 32 bits: it tells writes that broke off, and nobody who writes here on purpose.
pub(super) fn check(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |sum: u32, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
