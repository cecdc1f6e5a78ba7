//! RPC URLs of loopback: they mean the operator's machine, so a workload gets a port of this node in their place.
//!
//! Each connection to that port goes through the tunnel to the hub, which dials what the document names. Path, query
//! and everything else of the URL stay as they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::ServiceKey;
use blueprint_common_types::workload::{ChainSettings, RpcKind};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::HubPort;

/// Where a workload on this machine itself reaches its ports.
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Connections of one URL at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// Bytes held per direction of a connection.
const BUFFER_BYTES: usize = 32 * 1024;

/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection to an RPC: bytes both ways.
pub trait RpcIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> RpcIo for T {}

/// A connection to the operator's RPC.
pub type RpcStream = Box<dyn RpcIo>;

/// The ports of one workload; they close with this.
#[derive(Debug, Default)]
pub(crate) struct Rpc {
    http: Option<String>,
    ws: Option<String>,
    stop: Option<DropGuard>,
}

/// Whose connections they are.
#[derive(Clone)]
struct Caller {
    hub: Arc<dyn HubPort>,
    service: ServiceKey,
    generation: u64,
    kind: RpcKind,
    /// What went wrong last, so that it is said once.
    said: Arc<Mutex<Option<String>>>,
}

impl Rpc {
    /// Listens at `ip` for each URL of loopback; nothing where there is none.
    ///
    /// # Errors
    ///
    /// What the system says of listening.
    pub(crate) async fn open(
        hub: &Arc<dyn HubPort>,
        (service, generation): (ServiceKey, u64),
        chain: &ChainSettings,
        ip: IpAddr,
        spawner: &Spawner,
    ) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut rpc = Self::default();
        for kind in RpcKind::ALL {
            let Some(url) = chain.loopback(kind) else { continue };
            let listener = TcpListener::bind((ip, 0)).await?;
            let here = url.at(listener.local_addr()?);
            let (hub, said) = (Arc::clone(hub), Arc::default());
            let caller = Caller { hub, service, generation, kind, said };
            spawner.spawn_base("workload rpc", accept(listener, caller, stop.clone(), spawner.clone()));
            match kind {
                RpcKind::Http => rpc.http = Some(here),
                RpcKind::Ws => rpc.ws = Some(here),
            }
        }
        rpc.stop = Some(stop.drop_guard());
        Ok(rpc)
    }

    /// True where a URL of the document means the operator's machine.
    pub(crate) fn is_needed(chain: &ChainSettings) -> bool {
        RpcKind::ALL.into_iter().any(|kind| chain.loopback(kind).is_some())
    }

    /// The URL in place of the one that was given; `None` to leave that.
    pub(crate) fn url(&self, kind: RpcKind) -> Option<String> {
        match kind {
            RpcKind::Http => self.http.clone(),
            RpcKind::Ws => self.ws.clone(),
        }
    }
}

async fn accept(listener: TcpListener, caller: Caller, stop: CancellationToken, spawner: Spawner) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (caller, stop) = (caller.clone(), stop.clone());
                    spawner.spawn_base("workload rpc connection", async move {
                        let _place = place;
                        stop.run_until_cancelled(carry(stream, &caller)).await;
                    });
                }
                Err(error) => {
                    warn!(service = %caller.service, %error, "connection to an RPC not accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Passes bytes to the operator's RPC and back; where that cannot be reached, the connection just ends.
async fn carry(mut stream: TcpStream, caller: &Caller) {
    let Caller { hub, service, generation, kind, said } = caller;
    let mut there = match hub.rpc(*service, *generation, *kind).await {
        Ok(there) => there,
        Err(why) => {
            let is_news = said.lock().replace(why.clone()).as_ref() != Some(&why);
            if is_news {
                warn!(%service, %kind, why, "the operator's RPC is not reached");
            }
            return;
        }
    };
    *said.lock() = None;
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no TCP_NODELAY");
    }
    let passed =
        tokio::io::copy_bidirectional_with_sizes(&mut stream, &mut there, BUFFER_BYTES, BUFFER_BYTES);
    match passed.await {
        Ok((up, down)) => debug!(%service, %kind, up, down, "connection to an RPC ended"),
        Err(error) => debug!(%service, %kind, %error, "connection to an RPC broke"),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use blueprint_common_runtime::tasks::Supervisor;
    use blueprint_common_types::workload::Sha256Digest;
    use blueprint_proto::v1::bridge_request::Call;
    use futures_util::future::{BoxFuture, FutureExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tonic::Status;

    use super::*;
    use crate::artefact::PushedError;
    use crate::{DescribeError, Described, Offer, PushedReader};

    const SERVICE: ServiceKey = ServiceKey { blueprint: 7, service: 42 };

    /// An operator whose RPC answers with what it got and for whom, or is not there.
    struct Operator {
        is_there: bool,
    }

    impl HubPort for Operator {
        fn rpc(
            &self,
            service: ServiceKey,
            generation: u64,
            kind: RpcKind,
        ) -> BoxFuture<'_, Result<RpcStream, String>> {
            if !self.is_there {
                return async { Err("it is not there".to_owned()) }.boxed();
            }
            let (mine, theirs) = duplex(64);
            #[expect(clippy::disallowed_methods, reason = "the other end of a test")]
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(mine);
                let mut got = String::new();
                read.read_to_string(&mut got).await.unwrap();
                let answer = format!("{service} {generation} {kind}: {got}");
                write.write_all(answer.as_bytes()).await.unwrap();
                write.shutdown().await.unwrap();
            });
            async { Ok::<RpcStream, _>(Box::new(theirs)) }.boxed()
        }

        fn artefact(
            &self,
            _: ServiceKey,
            _: u64,
            _: Sha256Digest,
            _: u64,
        ) -> BoxFuture<'_, Result<PushedReader, PushedError>> {
            unreachable!()
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

    /// The place that a URL of ours names.
    fn place(url: &str) -> SocketAddr {
        let rest = url.split_once("://").unwrap().1;
        rest.split('/').next().unwrap().parse().unwrap()
    }

    async fn ask(place: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(place).await?;
        stream.write_all(b"question").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    async fn open(is_there: bool) -> (Rpc, Supervisor) {
        let hub: Arc<dyn HubPort> = Arc::new(Operator { is_there });
        let chain = ChainSettings {
            http_rpc_url: "http://localhost:8545/v1?k=1".to_owned(),
            ws_rpc_url: "ws://127.0.0.1:8546".to_owned(),
            ..ChainSettings::default()
        };
        let supervisor = Supervisor::new();
        let spawner = supervisor.child_spawner();
        (Rpc::open(&hub, (SERVICE, 3), &chain, LOOPBACK, &spawner).await.unwrap(), supervisor)
    }

    #[tokio::test]
    async fn each_url_has_a_port_of_its_own_that_leads_to_the_operator() {
        let (rpc, _supervisor) = open(true).await;
        let (http, ws) = (rpc.url(RpcKind::Http).unwrap(), rpc.url(RpcKind::Ws).unwrap());
        assert!(http.starts_with("http://127.0.0.1:") && http.ends_with("/v1?k=1"), "{http}");
        assert_eq!(ask(place(&http)).await.unwrap(), "7/42 3 http: question");
        assert_eq!(ask(place(&ws)).await.unwrap(), "7/42 3 ws: question");
    }

    #[tokio::test]
    async fn an_rpc_that_is_not_there_ends_the_connection_and_ports_close_with_the_workload() {
        let (rpc, supervisor) = open(false).await;
        let http = place(&rpc.url(RpcKind::Http).unwrap());
        // Cut, with or without a reset: never an answer.
        assert_eq!(ask(http).await.unwrap_or_default(), "");
        drop(rpc);
        while supervisor.child_spawner().open() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(TcpStream::connect(http).await.is_err());
    }

    #[test]
    fn other_urls_are_left_alone() {
        let far =
            ChainSettings { http_rpc_url: "https://rpc.example/".to_owned(), ..ChainSettings::default() };
        assert!(!Rpc::is_needed(&far) && !Rpc::is_needed(&ChainSettings::default()));
        assert!(Rpc::default().url(RpcKind::Http).is_none());
    }
}
