//! Streams of a forward.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use blueprint_common_runtime::accept::ACCEPT_PAUSE;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy_core::Transport;
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::upstream::Outcome;
use tokio::io::{AsyncRead, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::account::Account;
use super::counters::{End, Refused};
use super::{Chosen, Line, MAX_TRIES, Seat, WATCH_EVERY};
use crate::delegate::delegate_write;
use crate::dial::Io;
use crate::tls::accept_for;

/// Bytes under way in each direction of one connection.
const BUFFER: usize = 16 * 1024;

/// A connection on which nothing passes for so long is taken for forgotten. Databases keep theirs open for an hour.
const IDLE: Duration = Duration::from_secs(2 * 3600);

/// Accepts until the forward goes or the drain begins.
pub(super) async fn listen(line: Arc<Line>, listener: TcpListener, spawner: Spawner) {
    let drain = spawner.stop().drain;
    loop {
        let accepted = tokio::select! {
            biased;
            () = line.stop.cancelled() => return,
            () = drain.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(service = %line.service, %error, "accept of a forward failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Some(seat) = line.admit(&line.shared.tcp, peer.ip()) {
            spawner.spawn("forward connection", carry(Arc::clone(&line), stream, peer.ip(), seat));
        }
    }
}

/// A client that may come in: its bytes, and what its handshake has shown.
type Met = (Box<dyn Io>, Channel);

/// Shakes hands with a client where the forward has TLS, and judges what it has shown.
async fn meet(line: &Line, client: TcpStream) -> Result<Met, Refused> {
    if !line.forward.load().tls {
        return Ok((Box::new(client), Channel::default()));
    }
    let Some(tls) = &line.shared.tls else { return Err(Refused::Handshake) };
    let shaken = timeout(line.shared.handshake_timeout, accept_for(client, tls, line.service)).await;
    let (client, channel) = shaken.map_err(|_| Refused::Handshake)?.map_err(|error| {
        debug!(service = %line.service, %error, "handshake of a forward failed");
        Refused::Handshake
    })?;
    line.check(&channel).map_err(|()| Refused::Certificate)?;
    Ok((client, channel))
}

/// Lets a client in, connects to a target and passes bytes both ways until both ends are done or the connection has to end.
async fn carry(line: Arc<Line>, client: TcpStream, source: IpAddr, mut seat: Seat) {
    if let Err(error) = client.set_nodelay(true) {
        return debug!(%error, "client of a forward is gone already");
    }
    let begin = async {
        let met = meet(&line, client).await?;
        if seat.permit.is_none() {
            seat.permit = Some(line.permit()?);
        }
        Ok((met, dial(&line).await?))
    };
    let ((client, channel), (service, chosen)) = match line.stop.run_until_cancelled(begin).await {
        Some(Ok(begun)) => begun,
        Some(Err(refused)) => return line.refuse(refused, source),
        None => return,
    };
    let (address, agent) = (chosen.address, chosen.agent);
    let mut account = Account::begin(&line, Transport::Tcp, source, address).of_client(&channel);
    debug!(service = %line.service, %source, %agent, target = %address, "forward connected");
    let mut client = Metered { inner: client, read: Arc::clone(&account.up) };
    let mut service = Metered { inner: service, read: Arc::clone(&account.down) };
    let end = tokio::select! {
        copied = copy_bidirectional_with_sizes(&mut client, &mut service, BUFFER, BUFFER) => match copied {
            Ok(_) => End::Closed,
            Err(error) => {
                debug!(service = %line.service, %error, "forward broke off");
                End::Broken
            }
        },
        end = must_end(&line, (source, &channel), &mut account) => end,
    };
    drop((client, service, chosen.at));
    account.end(end);
    drop(seat);
}

/// Opens a connection to a target, or to another one where that fails.
async fn dial(line: &Line) -> Result<(Box<dyn Io>, Chosen), Refused> {
    let mut tried: Vec<SocketAddr> = Vec::new();
    let wait = line.shared.connect_timeout;
    while tried.len() < MAX_TRIES {
        let Some(mut chosen) = line.choose(&tried) else { break };
        match timeout(wait, line.shared.dialer.connect(chosen.address, wait)).await {
            Ok(Ok(stream)) => {
                chosen.at.report(Outcome::Answered, Instant::now().into_std());
                return Ok((stream, chosen));
            }
            Ok(Err(error)) => {
                debug!(service = %line.service, target = %chosen.address, %error, "target failed")
            }
            Err(_) => debug!(service = %line.service, target = %chosen.address, "target timed out"),
        }
        chosen.at.report(Outcome::Unreachable, Instant::now().into_std());
        tried.push(chosen.address);
    }
    Err(if tried.is_empty() { Refused::NoTarget } else { Refused::Unreachable })
}

/// Resolves once a connection that its ends keep open has to end.
async fn must_end(line: &Line, (source, channel): (IpAddr, &Channel), account: &mut Account) -> End {
    let passed = [Arc::clone(&account.up), Arc::clone(&account.down)];
    let total = || passed.iter().map(|count| count.load(Ordering::Relaxed)).fold(0u64, u64::wrapping_add);
    let (mut seen, mut since) = (total(), Instant::now());
    loop {
        if line.stop.run_until_cancelled(sleep(WATCH_EVERY)).await.is_none() {
            return End::Removed;
        }
        if !line.forward.load().admits(source) {
            return End::Source;
        }
        if line.check(channel).is_err() {
            return End::Certificate;
        }
        account.settle_now_and_then();
        let now = total();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= IDLE {
            return End::Idle;
        }
    }
}

/// Counts the bytes that are read.
struct Metered<S> {
    inner: S,
    read: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let count = buffer.filled().len().saturating_sub(before);
        self.read.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

delegate_write!(Metered, inner);
