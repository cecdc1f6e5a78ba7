//! Raw forwards: ports of the hub whose bytes go to a service as they are.
//!
//! One task looks twice a second at what the settings of all services ask for, and listens on that and nothing else.
//!
//! - Without a range of ports in the hub's configuration nothing is listened on.
//! - Who is not in the networks of a forward opens nothing and is sent nothing. With TLS, who shows no certificate that
//!   counts where one is asked for opens nothing either.
//! - What a change of settings takes away ends within two seconds, also where it is open.
//! - Connections and flows are bounded: in all, by forward and by source.

mod account;
mod counters;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use blueprint_common_runtime::accept::{AcceptLimits, NoPlace, Place, Places};
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_common_types::{AgentId, Health, ServiceKey};
use blueprint_hub_proxy_core::tls::Channel;
use blueprint_hub_proxy_core::upstream::UpstreamSettings;
use blueprint_hub_proxy_core::{Forward, ForwardPorts, Transport, Trust, check_forward, plan_forwards};
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::access_log::AccessLog;
use crate::dial::Dial;
use crate::ids::RequestIds;
use crate::ledger::Ledger;
use crate::limits::{Limiter, Permit};
use crate::metrics::ProxyMetrics;
use crate::pressure::Pressure;
use crate::server::ProxyConfig;
use crate::tls::TlsHandle;
use crate::upstreams::{AtTarget, Targets};

use counters::{Counters, Refused};

/// How often the settings are compared with what is listened on.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often an open connection or flow is asked whether it may go on.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How many targets are tried for one connection.
const MAX_TRIES: usize = 3;

/// Connections of all forwards together, and flows of datagrams as well, unless there is room for fewer.
pub const FORWARD_PLACES: usize = 4096;

/// Files that one connection and one flow may take between them: both ends of the connection, and the flow's end
/// at the target. Clients' datagrams come through one socket for each port.
pub const FILES_OF_FORWARD: usize = 3;

/// Connections or flows of one source.
const OF_SOURCE: usize = 256;

/// One forward has at most so much of all places: a fourth.
const SHARE: usize = 4;

/// Where forwards listen.
#[derive(Debug, Clone)]
pub struct ForwardConfig {
    /// Address of the hub that their ports are opened on.
    pub listen: IpAddr,
    /// Ports that they may have.
    pub ports: ForwardPorts,
    /// How many connections, and as many flows of datagrams, all forwards may have open; one of them a fourth of
    /// that.
    pub limits: AcceptLimits,
}

impl ForwardConfig {
    /// With [`FORWARD_PLACES`] in all and 256 from one source.
    #[must_use]
    pub const fn new(listen: IpAddr, ports: ForwardPorts) -> Self {
        Self { listen, ports, limits: AcceptLimits { total: FORWARD_PLACES, per_ip: OF_SOURCE } }
    }
}

/// One port as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardStatus {
    /// Which service it leads to.
    pub service: ServiceKey,
    /// Name of the forward.
    pub name: String,
    /// Why nobody gets in there; `None` where nothing is in the way.
    pub problem: Option<String>,
    /// Connections or flows that are open.
    pub open: usize,
}

/// All raw forwards; clones are handles of the same.
#[derive(Clone)]
pub struct Forwards(Arc<Shared>);

struct Shared {
    config: ForwardConfig,
    trust: Arc<ArcSwap<Trust>>,
    dialer: Arc<dyn Dial>,
    /// What forwards with TLS shake hands by, and how long that may take.
    tls: Option<TlsHandle>,
    handshake_timeout: Duration,
    connect_timeout: Duration,
    pressure: Pressure,
    counters: Counters,
    ledger: Ledger,
    access: AccessLog,
    ids: RequestIds,
    /// Apart from that of requests: nobody shows a credential here, so nobody here spends what others have with one.
    limiter: Limiter,
    tcp: Places,
    udp: Places,
    targets: Targets,
    queued_bytes: Arc<AtomicUsize>,
    lines: Mutex<BTreeMap<(Transport, u16), Standing>>,
}

/// What is known of a wanted port.
struct Standing {
    line: Arc<Line>,
    problem: Option<String>,
}

/// One forward, shared by its listener and everything open on it.
struct Line {
    service: ServiceKey,
    forward: ArcSwap<Forward>,
    stop: CancellationToken,
    open: AtomicUsize,
    /// Its share of the places of all forwards, so that one cannot starve the others.
    places: Places,
    shared: Arc<Shared>,
}

/// A place of the forward, and one of all forwards; and what the limits of the service give, which with TLS is taken once a
/// client has shown who it is.
struct Seat {
    _of_line: Place,
    _of_all: Place,
    permit: Option<Permit>,
}

impl std::fmt::Debug for Forwards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwards").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Forwards {
    pub(crate) fn new(
        proxy: &ProxyConfig,
        config: ForwardConfig,
        (trust, dialer): (Arc<ArcSwap<Trust>>, Arc<dyn Dial>),
        metrics: &Metrics,
        of_proxy: Arc<ProxyMetrics>,
    ) -> Self {
        let (tcp, udp) = (Places::new(config.limits), Places::new(config.limits));
        Self(Arc::new(Shared {
            config,
            trust,
            dialer,
            tls: proxy.tls.clone(),
            handshake_timeout: proxy.handshake_timeout,
            connect_timeout: proxy.connect_timeout,
            pressure: proxy.pressure.clone(),
            counters: Counters::register(metrics),
            ledger: proxy.ledger.clone(),
            access: proxy.access_log,
            ids: RequestIds::new(),
            limiter: Limiter::default(),
            tcp,
            udp,
            targets: Targets::new(of_proxy, proxy.ledger.forwards()),
            queued_bytes: Arc::default(),
            lines: Mutex::default(),
        }))
    }

    /// Every port that the settings asked for half a second ago.
    #[must_use]
    pub fn status(&self) -> BTreeMap<(Transport, u16), ForwardStatus> {
        let lines = self.0.lines.lock();
        let status = |standing: &Standing| ForwardStatus {
            service: standing.line.service,
            name: standing.line.forward.load().name.clone(),
            problem: standing.problem.clone().or_else(|| standing.line.lacks().map(str::to_owned)),
            open: standing.line.open.load(Ordering::Relaxed),
        };
        lines.iter().map(|(place, standing)| (*place, status(standing))).collect()
    }

    /// Follows the settings until `drain`; what is open then ends in its own time, but datagrams.
    pub(crate) async fn run(self, spawner: Spawner) {
        let drain = spawner.stop().drain;
        loop {
            self.follow(&spawner).await;
            if drain.run_until_cancelled(sleep(LOOK_EVERY)).await.is_none() {
                return;
            }
        }
    }

    /// Stops what is not wanted any more, and listens on what is wanted and not open yet.
    async fn follow(&self, spawner: &Spawner) {
        let mut plan = {
            let trust = self.0.trust.load();
            plan_forwards(&trust.services, &trust.tls, &self.0.config.ports)
        };
        let mut wanted = Vec::new();
        {
            let mut lines = self.0.lines.lock();
            lines.retain(|place, standing| {
                let Some((service, forward)) = plan.remove(place) else {
                    standing.line.stop.cancel();
                    return false;
                };
                let held = standing.line.forward.load();
                let is_same = standing.line.service == service
                    && (&held.name, held.tls) == (&forward.name, forward.tls);
                if !is_same || standing.problem.is_some() {
                    standing.line.stop.cancel();
                    wanted.push((*place, service, forward, standing.problem.clone()));
                    return false;
                }
                if **held != forward {
                    standing.line.forward.store(Arc::new(forward));
                }
                true
            });
        }
        wanted.extend(plan.into_iter().map(|(place, (service, forward))| (place, service, forward, None)));
        for (place, service, forward, known) in wanted {
            let line = Arc::new(Line {
                service,
                forward: ArcSwap::from_pointee(forward),
                stop: CancellationToken::new(),
                open: AtomicUsize::new(0),
                places: Places::new(share(self.0.config.limits)),
                shared: Arc::clone(&self.0),
            });
            let address = SocketAddr::new(self.0.config.listen, place.1);
            let problem = open(&line, place.0, address, spawner).await.err().map(|error| error.to_string());
            match &problem {
                None => info!(%service, protocol = %place.0, %address, "forward listens"),
                // A port that was just given up may take a moment.
                Some(problem) if known.is_none() => {
                    debug!(%service, %address, problem, "forward does not listen yet")
                }
                Some(problem) if known.as_ref() != Some(problem) => {
                    warn!(%service, protocol = %place.0, %address, problem, "forward does not listen");
                }
                Some(_) => {}
            }
            self.0.lines.lock().insert(place, Standing { line, problem });
        }
    }
}

/// What one forward may have of what all may.
fn share(all: AcceptLimits) -> AcceptLimits {
    AcceptLimits { total: all.total.div_ceil(SHARE), per_ip: all.per_ip }
}

/// Listens on one port in a task of its own.
async fn open(
    line: &Arc<Line>,
    transport: Transport,
    address: SocketAddr,
    spawner: &Spawner,
) -> io::Result<()> {
    let line = Arc::clone(line);
    match transport {
        Transport::Tcp => {
            let listener = TcpListener::bind(address).await?;
            spawner.spawn_base("forward tcp", tcp::listen(line, listener, spawner.clone()));
        }
        Transport::Udp => {
            let socket = UdpSocket::bind(address).await?;
            spawner.spawn_base("forward udp", udp::listen(line, Arc::new(socket), spawner.clone()));
        }
    }
    Ok(())
}

/// A target that was chosen.
struct Chosen {
    address: SocketAddr,
    agent: AgentId,
    at: AtTarget,
}

impl Line {
    /// What is in the way of TLS where the forward has it.
    fn lacks(&self) -> Option<&'static str> {
        match &self.shared.tls {
            _ if !self.forward.load().tls => None,
            None => Some("the hub has no TLS: set proxy.tls in hub.toml"),
            Some(tls) if tls.serves(self.service) => None,
            Some(_) => Some(
                "the service has no TLS profile that can be used: blueprint-hub service tls set gives it one, and the hub's log says what is wrong with one that is there",
            ),
        }
    }

    /// Lets a connection or flow in, or counts why not.
    fn admit(&self, places: &Places, source: IpAddr) -> Option<Seat> {
        let admitted = if !self.forward.load().admits(source) {
            Err(Refused::Source)
        } else if self.shared.pressure.refuses() {
            Err(Refused::Overloaded)
        } else {
            self.seat(places, source)
        };
        admitted.map_err(|refused| self.refuse(refused, source)).ok()
    }

    /// Whether who has shown this may use the forward now.
    fn check(&self, channel: &Channel) -> Result<(), ()> {
        if !self.forward.load().tls {
            return Ok(());
        }
        let trust = self.shared.trust.load();
        check_forward(channel, self.service, &trust, SystemTime::now().into()).map_err(|refusal| {
            debug!(service = %self.service, reason = refusal.code(), "certificate of a forward refused");
        })
    }

    fn seat(&self, places: &Places, source: IpAddr) -> Result<Seat, Refused> {
        let of_line = self.places.take(source).map_err(|none| match none {
            NoPlace::Full => Refused::FullInForward,
            NoPlace::FullFromSource => Refused::FullFromSource,
        })?;
        let of_all = places.take(source)?;
        let permit = if self.forward.load().tls { None } else { Some(self.permit()?) };
        Ok(Seat { _of_line: of_line, _of_all: of_all, permit })
    }

    /// Takes one of what the limits of the service allow.
    fn permit(&self) -> Result<Permit, Refused> {
        let trust = self.shared.trust.load();
        let settings = trust.services.get(&self.service).map(|known| known.settings());
        self.shared.limiter.begin_raw(self.service, settings).map_err(|_| Refused::Limit)
    }

    fn refuse(&self, refused: Refused, source: IpAddr) {
        let name = self.forward.load().name.clone();
        self.shared.counters.count_refusal(refused);
        if let Some(code) = refused.rule() {
            self.audit(code, self.forward.load().protocol, source);
        }
        debug!(service = %self.service, forward = name, %source, reason = refused.label(), "forward refused");
    }

    /// One for the audit log. Anybody can name any source of a datagram, so it tells none and makes one row of all.
    fn audit(&self, code: &'static str, transport: Transport, source: IpAddr) {
        let proved = match transport {
            Transport::Tcp => Some(source),
            Transport::Udp => None,
        };
        self.shared.ledger.refuse(Some(self.service), code, proved, None);
    }

    /// A healthy target by weight and load, other than those that were tried.
    fn choose(&self, tried: &[SocketAddr]) -> Option<Chosen> {
        let shared = &self.shared;
        let trust = shared.trust.load();
        let targets = trust.routes.targets(&self.service).unwrap_or_default();
        let none = UpstreamSettings::default();
        let settings = trust.services.get(&self.service).map_or(&none, |known| &known.settings().upstream);
        let at = shared.targets.begin(self.service, targets, settings, tried, Instant::now()).ok()?;
        let target = targets.iter().find(|target| target.address == at.address())?;
        Some(Chosen { address: target.address, agent: target.agent, at })
    }

    /// Whether a target is still one to send to.
    fn is_healthy(&self, address: SocketAddr) -> bool {
        let trust = self.shared.trust.load();
        let mut targets = trust.routes.targets(&self.service).unwrap_or_default().iter();
        targets.any(|target| target.address == address && target.health == Health::Healthy)
    }
}
