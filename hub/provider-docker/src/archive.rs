//! Files for a container, as the archive that its engine unpacks (POSIX.1-1988 `ustar`), streamed.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use blueprint_common_types::Secret;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes of a block; everything in an archive is a number of them.
const BLOCK: usize = 512;

/// Bytes that are read of a file at once.
const PIECE: usize = 64 << 10;

enum Part {
    Bytes(Bytes),
    File { file: File, left: u64 },
}

/// An archive that is made up.
pub(crate) struct Archive {
    parts: VecDeque<Part>,
}

impl Archive {
    pub(crate) const fn new() -> Self {
        Self { parts: VecDeque::new() }
    }

    /// Adds a folder.
    pub(crate) fn folder(mut self, path: &str, mode: u32, owner: u32) -> Self {
        self.head(&format!("{path}/"), mode, owner, 0, b'5');
        self
    }

    /// Adds a file with a text.
    pub(crate) fn text(mut self, path: &str, mode: u32, owner: u32, text: &Secret<String>) -> Self {
        let bytes = text.expose().as_bytes();
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.head(path, mode, owner, length, b'0');
        self.parts.push_back(Part::Bytes(Bytes::copy_from_slice(bytes)));
        self.pad(length);
        self
    }

    /// Adds a copy of a file of this host, root's.
    ///
    /// # Errors
    ///
    /// Where it cannot be opened.
    pub(crate) async fn copy(mut self, path: &str, mode: u32, from: &Path) -> io::Result<Self> {
        let file = File::open(from).await?;
        let length = file.metadata().await?.len();
        self.head(path, mode, 0, length, b'0');
        self.parts.push_back(Part::File { file, left: length });
        self.pad(length);
        Ok(self)
    }

    /// The archive as the body of a request.
    pub(crate) fn body(mut self) -> Body {
        self.parts.push_back(Part::Bytes(Bytes::from_static(&[0; 2 * BLOCK])));
        let frames = stream::try_unfold(self.parts, |mut parts| async move {
            let piece = match parts.pop_front() {
                None => return Ok(None),
                Some(Part::Bytes(bytes)) => bytes,
                Some(Part::File { mut file, left }) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
                    let mut piece = BytesMut::with_capacity(most);
                    (&mut file).take(left).read_buf(&mut piece).await?;
                    let rest = left.saturating_sub(u64::try_from(piece.len()).unwrap_or(u64::MAX));
                    if piece.is_empty() && left > 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter"));
                    }
                    if rest > 0 {
                        parts.push_front(Part::File { file, left: rest });
                    }
                    piece.freeze()
                }
            };
            Ok(Some((Frame::data(piece), parts)))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    /// Zeros up to the next block.
    fn pad(&mut self, length: u64) {
        let over = usize::try_from(length % 512).unwrap_or_default();
        if over > 0 {
            self.parts.push_back(Part::Bytes(Bytes::from(vec![0; BLOCK - over])));
        }
    }

    fn head(&mut self, path: &str, mode: u32, owner: u32, length: u64, kind: u8) {
        let fields: [(usize, Vec<u8>); 9] = [
            (0, path.bytes().take(100).collect()),
            (100, format!("{mode:07o}\0").into_bytes()),
            (108, format!("{owner:07o}\0").into_bytes()),
            (116, format!("{owner:07o}\0").into_bytes()),
            (124, format!("{length:011o}\0").into_bytes()),
            (136, format!("{:011o}\0", 0).into_bytes()),
            (148, b"        ".to_vec()),
            (156, vec![kind]),
            (257, b"ustar\x0000".to_vec()),
        ];
        let mut block = vec![0u8; BLOCK];
        let write = |block: &mut [u8], at: usize, bytes: &[u8]| {
            for (to, from) in block.iter_mut().skip(at).zip(bytes) {
                *to = *from;
            }
        };
        for (at, bytes) in fields {
            write(&mut block, at, &bytes);
        }
        let sum: u32 = block.iter().copied().map(u32::from).sum();
        write(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
        self.parts.push_back(Part::Bytes(Bytes::from(block)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tar_reads_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("long");
        std::fs::write(&long, vec![b'x'; 3 * PIECE + 7]).unwrap();
        let archive = Archive::new()
            .folder("state", 0o700, 7)
            .text("join", 0o600, 7, &Secret::new("line\n".to_owned()))
            .copy("bin/agent", 0o755, &long)
            .await
            .unwrap();
        let bytes = archive.body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len() % BLOCK, 0);
        let file = folder.path().join("a.tar");
        std::fs::write(&file, &bytes).unwrap();
        let listed = std::process::Command::new("tar").arg("-tvf").arg(&file).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.status.success() && text.lines().count() == 3, "{text}");
        for row in ["drwx------ 7/7", "-rw------- 7/7", "-rwxr-xr-x 0/0"] {
            assert!(text.contains(row), "{row}: {text}");
        }
        assert!(text.contains(&format!("{}", 3 * PIECE + 7)), "{text}");
    }
}
