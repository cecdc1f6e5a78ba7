//! Datagrams in a stream: chunks of any size give what a naive reading of the whole gives.

#[path = "../../../common/tunnel/src/carrier/frame.rs"]
mod frame;

use self::frame::{DATAGRAM_MAX, Decoder, FrameError};
use crate::input::Input;
use crate::links::Batch;

/// Cuts a stream in chunks and batches as the first bytes say.
pub(crate) fn play(data: &[u8]) {
    let mut input = Input(data);
    let (Some(capacity), Some(cuts)) = (input.short(), input.below(32)) else { return };
    let capacity = usize::from(capacity).max(1);
    let cuts: Vec<usize> = input.bytes(cuts).iter().map(|cut| usize::from(*cut).pow(2) / 16 + 1).collect();
    let stream = input.0;
    let expected = read(stream, capacity);
    let mut found = Vec::new();
    let mut decoder = Decoder::default();
    let mut batch = Batch::with_capacity(capacity);
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    let mut result = Ok(());
    while result.is_ok() && !rest.is_empty() {
        let cut = cuts.next().map_or(rest.len(), |cut| (*cut).min(rest.len()));
        let (chunk, after) = rest.split_at(cut);
        rest = after;
        result = decode(&mut decoder, chunk, &mut batch, &mut found);
    }
    assert_eq!((found, result), expected);
}

/// Takes everything out of a chunk.
fn decode(
    decoder: &mut Decoder,
    chunk: &[u8],
    batch: &mut Batch,
    found: &mut Vec<Vec<u8>>,
) -> Result<(), FrameError> {
    let mut rest = chunk;
    loop {
        let result = decoder.decode(rest, batch);
        found.extend(batch.iter().map(<[u8]>::to_vec));
        let is_stuck = batch.is_empty();
        batch.clear();
        rest = result?;
        if rest.is_empty() {
            return Ok(());
        }
        assert!(!is_stuck, "no progress with {} bytes left", rest.len());
    }
}

/// The datagrams of a whole stream, up to the end or to a frame that nobody may send or no batch can hold.
fn read(mut stream: &[u8], capacity: usize) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
    let mut datagrams = Vec::new();
    while let [high, low, body @ ..] = stream {
        let length = usize::from(*high) * 256 + usize::from(*low);
        if length > DATAGRAM_MAX || length > capacity && length <= body.len() {
            return (datagrams, Err(FrameError::TooLong { length }));
        }
        if length > body.len() {
            break;
        }
        let (datagram, after) = body.split_at(length);
        if length > 0 {
            datagrams.push(datagram.to_vec());
        }
        stream = after;
    }
    (datagrams, Ok(()))
}
