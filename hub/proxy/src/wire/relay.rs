//! An answer that begins while its request is still on its way: each direction goes on by itself.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use blueprint_common_runtime::tasks::Spawner;
use bytes::Bytes;
use http_body::Frame;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::body::{Relayed, ServiceBody};
use super::download::Download;
use super::upload::Upload;
use super::{Pool, Wire, WireError};

/// How long the rest of a request may take once its answer is whole. Nobody watches over it any more: neither the
/// limits of its service nor whether its client may still call.
const AFTERWARDS: Duration = Duration::from_secs(5);

type Frames = mpsc::Sender<Result<Option<Frame<Bytes>>, WireError>>;

/// Gives both directions to a task, and the answer as it comes.
///
/// The task ends with both of them, where the client leaves before the end of the answer, and where the body of
/// the request breaks.
pub(super) fn relay(
    wire: Wire,
    upload: Upload,
    download: Download,
    pool: Pool,
    spawner: &Spawner,
) -> ServiceBody {
    // One piece ahead, so that a client that reads slowly slows the service down.
    let (sender, frames) = mpsc::channel(1);
    let size = download.size_hint();
    spawner.spawn("proxy relay", run(wire, upload, download, pool, sender));
    ServiceBody::Relayed(Relayed { frames, size, is_over: false })
}

async fn run(wire: Wire, mut upload: Upload, mut download: Download, pool: Pool, frames: Frames) {
    let Wire { io, read, target, host, dialed } = wire;
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut is_sound = true;
    {
        let mut up = pin!(poll_fn(|cx| upload.poll(&mut writer, cx)));
        let mut down = pin!(pass_on(&mut download, &mut reader, &frames));
        let (mut is_sent, mut is_answered) = (false, false);
        // Set at the end of the answer.
        let mut over = pin!(sleep(Duration::MAX));
        while !(is_sent && is_answered) {
            tokio::select! {
                () = over.as_mut(), if is_answered => {
                    debug!("the rest of a request that is answered takes too long");
                    return;
                }
                sent = up.as_mut(), if !is_sent => match sent {
                    Ok(()) => is_sent = true,
                    // The service wants no more of it; its answer may still be whole.
                    Err(WireError::Io(error)) => {
                        debug!(%error, "a service does not read all of a request");
                        (is_sent, is_sound) = (true, false);
                    }
                    Err(error) => {
                        debug!(%error, "a request broke off after its answer had begun");
                        return;
                    }
                },
                is_whole = down.as_mut(), if !is_answered => {
                    if !is_whole {
                        return;
                    }
                    is_answered = true;
                    over.as_mut().reset(Instant::now() + AFTERWARDS);
                }
            }
        }
    }
    if let Some(room) = download.into_room().filter(|_| is_sound) {
        pool.keep(Wire { io: reader.unsplit(writer), read, target, host, dialed }, room, Instant::now());
    }
}

/// Hands an answer on; false where it is not whole, or nobody wants it.
async fn pass_on(download: &mut Download, reader: &mut (impl AsyncRead + Unpin), frames: &Frames) -> bool {
    loop {
        let Ok(permit) = frames.reserve().await else { return download.is_over() };
        let frame = tokio::select! {
            frame = poll_fn(|cx| download.poll(reader, cx)) => frame,
            // Also where nobody asks for the end of one whose length was known.
            () = frames.closed() => return download.is_over(),
        };
        let (is_over, is_fine) = (!matches!(frame, Ok(Some(_))), frame.is_ok());
        permit.send(frame);
        if is_over {
            return is_fine;
        }
    }
}
