//! Reads an xz stream: the container by the core's rules, LZMA2 by a library, with bounded memory.

use std::io::{self, Read};

use blueprint_agent_workload_core::archive::xz::{STREAM_BYTES, Stream, block_rest, dictionary};
use lzma_rust2::Lzma2Reader;

/// Most memory for a dictionary; `xz -9` takes 64 MiB.
const MAX_MEMORY_KIB: u32 = 100 * 1024;

/// Counts the bytes of a block, to which padding is added.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count = self.count.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

/// Where the reader stands.
enum State<R> {
    /// Before the header of the stream.
    Start(Counted<R>),
    /// Before the header of a block.
    Between(Counted<R>, Stream),
    Within(Box<Lzma2Reader<Counted<R>>>, Stream),
    /// At the end, or where it failed. What follows the index is not read: the digest of the file is known to be
    /// right, and who packs several streams into one file says so nowhere.
    Over,
}

/// What comes out of an xz file.
pub(super) struct Reader<R>(State<R>);

impl<R: Read> Reader<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self(State::Start(Counted { inner, count: 0 }))
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.0, State::Over) {
                State::Start(mut inner) => {
                    let stream = Stream::parse(&exactly::<STREAM_BYTES>(&mut inner)?).map_err(invalid)?;
                    self.0 = State::Between(inner, stream);
                }
                State::Between(mut inner, stream) => {
                    inner.count = 0;
                    let [first] = exactly::<1>(&mut inner)?;
                    let Some(length) = block_rest(first) else { return Ok(0) };
                    let mut rest = vec![0; length];
                    inner.read_exact(&mut rest)?;
                    let dictionary = dictionary(&rest).map_err(invalid)?;
                    let reader = Lzma2Reader::new_mem_limit(inner, dictionary, MAX_MEMORY_KIB, None)?;
                    self.0 = State::Within(Box::new(reader), stream);
                }
                State::Within(mut reader, stream) => {
                    let read = reader.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        self.0 = State::Within(reader, stream);
                        return Ok(read);
                    }
                    let mut inner = reader.into_inner();
                    let padding = 3 & 4u64.saturating_sub(inner.count % 4);
                    let rest = padding.saturating_add(stream.check_bytes);
                    if io::copy(&mut (&mut inner).take(rest), &mut io::sink())? < rest {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.0 = State::Between(inner, stream);
                }
                State::Over => return Ok(0),
            }
        }
    }
}

fn exactly<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
