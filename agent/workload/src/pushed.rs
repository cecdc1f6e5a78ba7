//! What was pushed to the hub, as the cache of this node reads it.
//!
//! The hub gives an artefact only in the name of a workload that needs it, so the cache asks in the name of one that
//! waits for it now; whoever that is, each time anew. What breaks off goes on where it was, without the cache seeing more
//! than a pause. A workload that is refused leaves the rest to the others that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::Sha256Digest;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tracing::info;

use crate::HubPort;
use crate::artefact::{Pushed, PushedError};

/// Pause before what broke off is asked for again; the cache gives up after 30 s without a byte.
const PAUSE: Duration = Duration::from_millis(500);

/// Bytes of an artefact, in order.
pub type PushedReader = Box<dyn AsyncRead + Send + Unpin>;

/// Who asks: a service and the number of its assignment.
type Asker = (ServiceKey, u64);

/// Artefacts that workloads of this node wait for.
pub(crate) struct Wants {
    hub: Arc<dyn HubPort>,
    wanted: Arc<Wanted>,
}

/// Who waits for what.
type Wanted = Mutex<BTreeMap<Sha256Digest, BTreeSet<Asker>>>;

/// A workload that waits; it does so until this is dropped.
pub(crate) struct Want {
    wants: Arc<Wants>,
    sha256: Sha256Digest,
    asker: Asker,
}

impl Wants {
    pub(crate) fn new(hub: Arc<dyn HubPort>) -> Self {
        Self { hub, wanted: Arc::default() }
    }

    /// Notes that a workload needs an artefact.
    pub(crate) fn want(self: &Arc<Self>, sha256: Sha256Digest, service: ServiceKey, generation: u64) -> Want {
        let asker = (service, generation);
        self.wanted.lock().entry(sha256).or_default().insert(asker);
        Want { wants: Arc::clone(self), sha256, asker }
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        let mut wanted = self.wants.wanted.lock();
        if let Some(askers) = wanted.get_mut(&self.sha256) {
            askers.remove(&self.asker);
            if askers.is_empty() {
                wanted.remove(&self.sha256);
            }
        }
    }
}

impl Pushed for Wants {
    fn open<'a>(&'a self, sha256: &'a Sha256Digest) -> BoxFuture<'a, Result<PushedReader, PushedError>> {
        async move {
            let (hub, wanted) = (Arc::clone(&self.hub), Arc::clone(&self.wanted));
            let mut from = From { hub, wanted, sha256: *sha256, refused: BTreeSet::new() };
            let reader = from.open(0).await?;
            let state = State::Reading { from, reader };
            let resuming: PushedReader = Box::new(Resuming { sha256: *sha256, offset: 0, state });
            Ok(resuming)
        }
        .boxed()
    }
}

/// Where an artefact comes from.
struct From {
    hub: Arc<dyn HubPort>,
    wanted: Arc<Wanted>,
    sha256: Sha256Digest,
    /// Who was refused for good: their workloads were taken back, or name something else.
    refused: BTreeSet<Asker>,
}

impl From {
    /// Somebody who waits for it now and was not refused.
    fn asker(&self) -> Option<Asker> {
        let wanted = self.wanted.lock();
        wanted.get(&self.sha256)?.iter().find(|asker| !self.refused.contains(asker)).copied()
    }

    /// Asks in the name of one after the other until the hub gives it, or does not answer, or refuses all.
    async fn open(&mut self, offset: u64) -> Result<PushedReader, PushedError> {
        let mut refusal = None;
        while let Some(asker) = self.asker() {
            let (service, generation) = asker;
            match self.hub.artefact(service, generation, self.sha256, offset).await {
                Err(error) if !error.may_pass => {
                    info!(sha256 = %self.sha256, %service, generation, reason = error.reason, "artefact refused");
                    self.refused.insert(asker);
                    refusal = Some(error);
                }
                answer => return answer,
            }
        }
        let reason = "no workload of this node needs it any more".to_owned();
        Err(refusal.unwrap_or(PushedError { reason, may_pass: true }))
    }

    /// Asks again until the hub gives the rest or refuses it for good, or nobody waits for it any more.
    async fn reopen(mut self, offset: u64) -> io::Result<(Self, PushedReader)> {
        loop {
            tokio::time::sleep(PAUSE).await;
            match self.open(offset).await {
                Ok(reader) => return Ok((self, reader)),
                Err(error) if error.may_pass && self.asker().is_some() => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

enum State {
    Reading {
        from: From,
        reader: PushedReader,
    },
    Opening(BoxFuture<'static, io::Result<(From, PushedReader)>>),
    /// Told to the reader.
    Failed,
}

/// An artefact that goes on where it broke off.
struct Resuming {
    sha256: Sha256Digest,
    offset: u64,
    state: State,
}

impl AsyncRead for Resuming {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Failed) {
                State::Failed => return Poll::Ready(Err(io::Error::other("it has failed before"))),
                State::Opening(mut opening) => match opening.poll_unpin(cx) {
                    Poll::Pending => {
                        this.state = State::Opening(opening);
                        return Poll::Pending;
                    }
                    Poll::Ready(opened) => {
                        let (from, reader) = opened?;
                        this.state = State::Reading { from, reader };
                    }
                },
                State::Reading { from, mut reader } => {
                    let before = buffer.filled().len();
                    match Pin::new(&mut reader).poll_read(cx, buffer) {
                        Poll::Ready(Err(error)) => {
                            info!(sha256 = %this.sha256, offset = this.offset, %error, "artefact broke off");
                            this.state = State::Opening(from.reopen(this.offset).boxed());
                        }
                        polled @ (Poll::Ready(Ok(())) | Poll::Pending) => {
                            let count = buffer.filled().len().saturating_sub(before);
                            this.offset = this.offset.saturating_add(u64::try_from(count).unwrap_or(0));
                            this.state = State::Reading { from, reader };
                            return polled;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use blueprint_common_types::workload::RpcKind;
    use blueprint_proto::v1::bridge_request::Call;
    use tokio::io::AsyncReadExt;
    use tonic::Status;

    use super::*;
    use crate::{DescribeError, Described, Offer, RpcStream};

    const FILE: &[u8] = b"0123456789";
    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    /// A hub whose connection breaks after three bytes, and that is away or refuses between.
    #[derive(Default)]
    struct Breaking {
        asked: Mutex<Vec<(u64, u64)>>,
        refuses_at: Option<u64>,
        /// An assignment that was taken back, from this byte on.
        taken_back: Option<(u64, u64)>,
    }

    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("the connection broke")))
        }
    }

    impl HubPort for Breaking {
        fn artefact(
            &self,
            service: ServiceKey,
            generation: u64,
            _: Sha256Digest,
            offset: u64,
        ) -> BoxFuture<'_, Result<PushedReader, PushedError>> {
            assert_eq!(service, SERVICE);
            let mut asked = self.asked.lock();
            asked.push((generation, offset));
            let failed = |may_pass| Err(PushedError { reason: "not now".to_owned(), may_pass });
            let is_taken_back = self.taken_back.is_some_and(|(of, from)| of == generation && offset >= from);
            let given: Result<PushedReader, _> = if self.refuses_at == Some(offset) || is_taken_back {
                failed(false)
            } else if asked.len().is_multiple_of(2) {
                failed(true)
            } else {
                let rest = &FILE[usize::try_from(offset).unwrap()..];
                match rest.len() {
                    ..=3 => Ok(Box::new(rest)),
                    _ => Ok(Box::new((&rest[..3]).chain(Broken))),
                }
            };
            async { given }.boxed()
        }

        fn describe(&self, _: ServiceKey, _: u64) -> BoxFuture<'_, Result<Described, DescribeError>> {
            unreachable!()
        }

        fn strangers(&self, _: ServiceKey, _: u32) -> BoxFuture<'_, Result<(), Status>> {
            unreachable!()
        }

        fn bridge(&self, _: ServiceKey, _: Call) -> BoxFuture<'_, Result<(), Status>> {
            unreachable!()
        }

        fn rpc(&self, _: ServiceKey, _: u64, _: RpcKind) -> BoxFuture<'_, Result<RpcStream, String>> {
            unreachable!()
        }

        fn registration(
            &self,
            _: ServiceKey,
            _: u64,
            _: Result<Vec<u8>, String>,
        ) -> BoxFuture<'_, Result<(), Status>> {
            unreachable!()
        }

        fn offer(&self, _: Offer) -> Result<(), String> {
            unreachable!()
        }

        fn withdraw(&self, _: blueprint_common_types::workload::Seat) {
            unreachable!()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_off_goes_on_where_it_was() {
        let hub = Arc::new(Breaking::default());
        let wants = Arc::new(Wants::new(Arc::<Breaking>::clone(&hub)));
        let sha256 = Sha256Digest::from_bytes([1; 32]);
        let Err(nobody) = wants.open(&sha256).await else { panic!("nobody wants it") };
        assert!(nobody.may_pass);

        let want = wants.want(sha256, SERVICE, 3);
        let later = wants.want(sha256, SERVICE, 4);
        let mut bytes = Vec::new();
        wants
            .open(&sha256)
            .await
            .map_err(|error| error.reason)
            .unwrap()
            .read_to_end(&mut bytes)
            .await
            .unwrap();
        assert_eq!(bytes, FILE);
        assert_eq!(*hub.asked.lock(), [(3, 0), (3, 3), (3, 3), (3, 6), (3, 6), (3, 9), (3, 9)]);
        drop((want, later));
        assert!(wants.wanted.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_on_the_way_ends() {
        let hub = Arc::new(Breaking { refuses_at: Some(6), ..Breaking::default() });
        let wants = Arc::new(Wants::new(hub));
        let sha256 = Sha256Digest::from_bytes([1; 32]);
        let _want = wants.want(sha256, SERVICE, 3);
        let mut bytes = Vec::new();
        let mut reader = wants.open(&sha256).await.map_err(|error| error.reason).unwrap();
        let error = reader.read_to_end(&mut bytes).await.unwrap_err();
        assert_eq!((bytes.as_slice(), error.to_string().as_str()), (&FILE[..6], "not now"));
    }

    /// Two workloads that share one: what the first was refused, the second still gets, and the file goes on.
    #[tokio::test(start_paused = true)]
    async fn what_is_refused_to_one_goes_on_for_another_that_waits() {
        for from in [3, 6] {
            let hub = Arc::new(Breaking { taken_back: Some((3, from)), ..Breaking::default() });
            let wants = Arc::new(Wants::new(Arc::<Breaking>::clone(&hub)));
            let sha256 = Sha256Digest::from_bytes([1; 32]);
            let _both = (wants.want(sha256, SERVICE, 3), wants.want(sha256, SERVICE, 4));
            let mut bytes = Vec::new();
            let mut reader = wants.open(&sha256).await.map_err(|error| error.reason).unwrap();
            reader.read_to_end(&mut bytes).await.unwrap();
            assert_eq!(bytes, FILE, "taken back at {from}");
            let asked = hub.asked.lock().clone();
            let refused = asked.iter().filter(|(generation, at)| *generation == 3 && *at >= from).count();
            assert_eq!(refused, 1, "asked again in the name of one that was refused: {asked:?}");
        }
    }

    /// The first is gone from this node before the connection breaks.
    #[tokio::test(start_paused = true)]
    async fn whoever_still_waits_asks_for_the_rest() {
        let hub = Arc::new(Breaking::default());
        let wants = Arc::new(Wants::new(Arc::<Breaking>::clone(&hub)));
        let sha256 = Sha256Digest::from_bytes([1; 32]);
        let (first, _second) = (wants.want(sha256, SERVICE, 3), wants.want(sha256, SERVICE, 4));
        let mut reader = wants.open(&sha256).await.map_err(|error| error.reason).unwrap();
        drop(first);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(bytes, FILE);
        let asked = hub.asked.lock().clone();
        assert!(asked.iter().skip(1).all(|(generation, _)| *generation == 4), "{asked:?}");
    }

    /// Nobody waits any more: the download ends, and does not ask for ever.
    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_ends() {
        let wants = Arc::new(Wants::new(Arc::new(Breaking::default())));
        let sha256 = Sha256Digest::from_bytes([1; 32]);
        let want = wants.want(sha256, SERVICE, 3);
        let mut reader = wants.open(&sha256).await.map_err(|error| error.reason).unwrap();
        drop(want);
        let error = reader.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert!(error.to_string().contains("no workload"), "{error}");
        assert!(reader.read_u8().await.is_err(), "it stays failed");
    }
}
