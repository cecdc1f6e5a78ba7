//! Frames of a session: what passes between an operator's command, the hub, and the node, on one stream of bytes.
//!
//! ```text
//! kind (1 byte)   length (4 bytes, most significant first)   content
//! ```
//!
//! Either side says at least each [`ALIVE`] that it is there; one that says nothing for [`SILENCE`] is gone.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest content in bytes.
pub const MAX_CONTENT: usize = 64 << 10;

/// Bytes of standard input that may be on their way: sent, and not yet taken by the command.
pub const STDIN_WINDOW: usize = 256 << 10;

/// Pause between two frames that say that their side is there.
pub const ALIVE: Duration = Duration::from_secs(5);

/// Who says nothing for so long is gone.
pub const SILENCE: Duration = Duration::from_secs(20);

/// Longest reason in bytes.
const MAX_REASON: usize = 1024;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Its side is there.
    Alive,
    /// For the command's standard input.
    Stdin(Vec<u8>),
    /// Its standard input is at its end.
    StdinEnd,
    /// The terminal has this size now: rows, columns.
    Resize(u16, u16),
    /// A signal for the command, by its number.
    Signal(u8),
    /// From its standard output; from a terminal everything.
    Stdout(Vec<u8>),
    /// From its standard error.
    Stderr(Vec<u8>),
    /// So many bytes of its standard input were taken, or thrown away where it takes none.
    Taken(u32),
    /// It is over. The last frame.
    Exit(ExitFrame),
    /// A connection with this number came.
    Arrived(u64),
    /// The number under which connections of a session are asked for.
    Session(String),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitFrame {
    /// Exit code; 128 and the number of the signal where it ended by one; `None` where nobody knows.
    pub code: Option<u8>,
    /// Why it was ended, where it did not end by itself.
    pub reason: String,
}

impl Frame {
    const fn kind(&self) -> u8 {
        match self {
            Self::Alive => 0,
            Self::Stdin(_) => 1,
            Self::StdinEnd => 2,
            Self::Resize(..) => 3,
            Self::Signal(_) => 4,
            Self::Stdout(_) => 5,
            Self::Stderr(_) => 6,
            Self::Taken(_) => 7,
            Self::Exit(_) => 8,
            Self::Arrived(_) => 9,
            Self::Session(_) => 10,
        }
    }

    /// The bytes on the stream. Content above [`MAX_CONTENT`] is the caller's fault, and is refused by the reader.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let content: Vec<u8> = match self {
            Self::Alive | Self::StdinEnd => Vec::new(),
            Self::Stdin(bytes) | Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.clone(),
            Self::Resize(rows, columns) => [rows.to_be_bytes(), columns.to_be_bytes()].concat(),
            Self::Signal(number) => vec![*number],
            Self::Taken(count) => count.to_be_bytes().to_vec(),
            Self::Exit(ExitFrame { code, reason }) => {
                let reason = reason.bytes().take(MAX_REASON);
                [u8::from(code.is_some()), code.unwrap_or(0)].into_iter().chain(reason).collect()
            }
            Self::Arrived(number) => number.to_be_bytes().to_vec(),
            Self::Session(name) => name.as_bytes().to_vec(),
        };
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        [&[self.kind()][..], &length.to_be_bytes(), &content].concat()
    }

    /// Reads the content of a frame; `None` where it is none.
    fn decode(kind: u8, content: &[u8]) -> Option<Self> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match (kind, content) {
            (0, []) => Some(Self::Alive),
            (1, bytes) => Some(Self::Stdin(bytes.to_vec())),
            (2, []) => Some(Self::StdinEnd),
            (3, [a, b, c, d]) => {
                Some(Self::Resize(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
            }
            (4, [number]) => Some(Self::Signal(*number)),
            (5, bytes) => Some(Self::Stdout(bytes.to_vec())),
            (6, bytes) => Some(Self::Stderr(bytes.to_vec())),
            (7, bytes) => Some(Self::Taken(u32::from_be_bytes(bytes.try_into().ok()?))),
            (8, [is_known, code, reason @ ..]) if reason.len() <= MAX_REASON => {
                let code = (*is_known != 0).then_some(*code);
                Some(Self::Exit(ExitFrame { code, reason: text(reason) }))
            }
            (9, bytes) => Some(Self::Arrived(u64::from_be_bytes(bytes.try_into().ok()?))),
            (10, bytes) if bytes.len() <= 64 => Some(Self::Session(text(bytes))),
            _ => None,
        }
    }

    /// Writes it whole.
    ///
    /// # Errors
    ///
    /// Those of the stream.
    pub async fn write<W: AsyncWrite + Unpin>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(&self.encode()).await?;
        writer.flush().await
    }
}

/// Reads frames of a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    reader: R,
    held: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from the stream's next byte on.
    #[must_use]
    pub fn new(reader: R) -> Self {
        Self { reader, held: BytesMut::new() }
    }

    /// The next frame; `None` at the end of the stream, also where it breaks off within one.
    ///
    /// # Errors
    ///
    /// Those of the stream, and `InvalidData` for what is no frame.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.held()? {
                return Ok(Some(frame));
            }
            if self.reader.read_buf(&mut self.held).await? == 0 {
                return Ok(None);
            }
        }
    }

    fn held(&mut self) -> io::Result<Option<Frame>> {
        let Some(([kind, a, b, c, d], content)) = self.held.split_first_chunk() else { return Ok(None) };
        let bad = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
        let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
        if length > MAX_CONTENT {
            return bad(format!("a frame of {length} bytes"));
        }
        let Some(content) = content.get(..length) else { return Ok(None) };
        let Some(frame) = Frame::decode(*kind, content) else {
            return bad(format!("no frame of kind {kind} with {length} bytes is known"));
        };
        self.held.advance(length.saturating_add(5));
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let exit = |code, reason: &str| Frame::Exit(ExitFrame { code, reason: reason.to_owned() });
        vec![
            Frame::Alive,
            Frame::Stdin(vec![0, 10, 255]),
            Frame::StdinEnd,
            Frame::Resize(24, 300),
            Frame::Signal(2),
            Frame::Stdout(vec![7; MAX_CONTENT]),
            Frame::Stderr(Vec::new()),
            Frame::Taken(70_000),
            exit(Some(137), ""),
            exit(None, "the time is up"),
            Frame::Arrived(u64::MAX),
            Frame::Session("abc".to_owned()),
        ]
    }

    #[tokio::test]
    async fn frames_come_as_they_were_sent_in_whatever_pieces() {
        let bytes: Vec<u8> = frames().iter().flat_map(Frame::encode).collect();
        for size in [1, 3, 1000, bytes.len()] {
            let (mut sender, receiver) = tokio::io::duplex(64);
            let send = async {
                for piece in bytes.chunks(size) {
                    sender.write_all(piece).await.unwrap();
                }
                drop(sender);
            };
            let receive = async {
                let (mut reader, mut seen) = (FrameReader::new(receiver), Vec::new());
                while let Some(frame) = reader.next().await.unwrap() {
                    seen.push(frame);
                }
                seen
            };
            let ((), seen) = tokio::join!(send, receive);
            assert_eq!(seen, frames());
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_before_it_takes_memory() {
        for bad in [&[1, 255, 255, 255, 255][..], &[99, 0, 0, 0, 0], &[3, 0, 0, 0, 1, 0], &[0, 0, 0, 0, 1, 0]]
        {
            let error = FrameReader::new(bad).next().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
        assert_eq!(FrameReader::new(&[1, 0, 0, 0, 9, 0][..]).next().await.unwrap(), None);
    }
}
