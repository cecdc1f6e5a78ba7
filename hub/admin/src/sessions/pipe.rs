//! Bytes and frames between a client and a node.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes held for a direction.
const CHUNK: usize = 32 << 10;

/// Copies one direction to its end, which is passed on alone, and counts.
async fn pump<R, W>(mut reader: R, mut writer: W, passed: &AtomicU64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(buffer.get(..count).unwrap_or_default()).await?;
        writer.flush().await?;
        passed.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Copies both directions until both have ended, or one breaks.
pub(super) async fn splice<A, B>(client: A, node: B, up: &AtomicU64, down: &AtomicU64)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (client_reader, client_writer) = tokio::io::split(client);
    let (node_reader, node_writer) = tokio::io::split(node);
    // Whichever breaks takes the other along: both ends are dropped.
    let _ = tokio::try_join!(pump(client_reader, node_writer, up), pump(node_reader, client_writer, down));
}
