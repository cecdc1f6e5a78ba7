//! Answers with rows, which are counted before they are read: a row of two bytes takes a hundred times as much once it is read.

use std::fmt;
use std::marker::PhantomData;

use blueprint_proto::SmallCodec;
use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};

use crate::answers::MAX_ROWS;

/// The field of rows in `OffersResponse` and `ListResponse`.
const ROWS: u32 = 2;

/// Encodes `T`, and decodes a `U` that has no more than [`MAX_ROWS`] rows.
pub(crate) struct RowCodec<T, U>(PhantomData<fn() -> (T, U)>);

impl<T, U> Default for RowCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for RowCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RowCodec")
    }
}

impl<T, U> Codec for RowCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <SmallCodec<T, U> as Codec>::Encoder;
    type Decoder = RowDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        SmallCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        RowDecoder(PhantomData)
    }
}

/// Reads an answer whose rows are not too many.
#[derive(Debug)]
pub(crate) struct RowDecoder<U>(PhantomData<fn() -> U>);

impl<U: Message + Default + Send + 'static> Decoder for RowDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        read(bytes).map(Some)
    }
}

fn read<U: Message + Default>(bytes: Bytes) -> Result<U, Status> {
    let broken = |error: prost::DecodeError| Status::internal(format!("it cannot be read: {error}"));
    let count = rows(bytes.clone()).map_err(broken)?;
    if count > MAX_ROWS {
        return Err(Status::out_of_range(format!("it has {count} rows, and {MAX_ROWS} are taken")));
    }
    U::decode(bytes).map_err(broken)
}

/// Rows of an answer, which is read no deeper than to its own fields.
fn rows(mut bytes: Bytes) -> Result<usize, prost::DecodeError> {
    let mut count = 0_usize;
    while bytes.has_remaining() {
        let (field, kind) = decode_key(&mut bytes)?;
        count = count.saturating_add(usize::from(field == ROWS));
        skip_field(kind, field, &mut bytes, DecodeContext::default())?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use blueprint_proto::plugin::{ListResponse, Machine, OffersResponse};

    use super::*;

    #[test]
    fn rows_are_counted_before_they_take_memory() {
        // Four MiB of empty machines (18: field 2, a message), which are 300 MB of memory where they are read.
        let bytes = Bytes::from([18_u8, 0].repeat(2 << 20));
        let error = read::<ListResponse>(bytes.clone()).unwrap_err();
        assert!(error.message().contains("2097152 rows"), "{error}");
        assert!(read::<OffersResponse>(bytes).is_err());
        let most = ListResponse { machines: vec![Machine::default(); MAX_ROWS], ..ListResponse::default() };
        assert_eq!(read::<ListResponse>(most.encode_to_vec().into()).unwrap(), most);
    }

    #[test]
    fn bytes_that_are_no_message_are_an_error() {
        for bytes in [&[0_u8][..], &[18, 5, 1], &[255; 20], &[19; 300]] {
            assert!(read::<ListResponse>(Bytes::copy_from_slice(bytes)).is_err(), "{bytes:?}");
        }
    }
}
