//! Keys of OAuth issuers, fetched from where they publish them.
//!
//! When to fetch and what holds is decided by a [`KeyCache`] per URL; this asks. Requests wait for a fetch only where
//! their assertion names a key that nobody knows, and then for one that all of them share.
//!
//! - Nothing is asked whose URL no policy names, or whose host the hub's configuration does not.
//! - One fetch per URL at a time, each in a task of its own, so that no request that goes away ends it.

mod fetch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use blueprint_common_runtime::metrics::Metrics;
use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_proxy_core::identity::{Ask, JwksHosts, JwksUrl, KeyCache, VerifyingKey};
use blueprint_hub_proxy_core::{Service, Trust};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use fetch::{FETCH_TIME, FetchError, Fetched};

/// Issuers whose keys are kept at most.
const MAX_ISSUERS: usize = 64;

/// How often it is looked which fetches are due; also how soon a new policy has its keys.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// From where keys may be fetched.
#[derive(Debug, Clone)]
pub struct JwksConfig {
    hosts: JwksHosts,
    tls: Arc<ClientConfig>,
    private_dangerously: bool,
}

impl JwksConfig {
    /// A configuration that lets keys be fetched from `hosts`, as far as their certificates come from `authorities`,
    /// or from the public ones (those of Mozilla) where there are none.
    ///
    /// With `private_dangerously` the hosts may have addresses that are not public.
    ///
    /// # Errors
    ///
    /// Fails where a certificate of `authorities` cannot be used.
    pub fn new(
        hosts: JwksHosts,
        authorities: Vec<CertificateDer<'static>>,
        private_dangerously: bool,
    ) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        if authorities.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        for authority in authorities {
            roots.add(authority)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { hosts, tls: Arc::new(tls), private_dangerously })
    }

    /// Whether keys may be fetched from there.
    #[must_use]
    pub fn allows(&self, url: &JwksUrl) -> bool {
        self.hosts.allows(url)
    }
}

/// How it stands with the keys of one issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwksStatus {
    /// Keys that hold now.
    pub keys: usize,
    /// Time since the last good fetch.
    pub age: Option<Duration>,
    /// What was wrong with the last fetch; `None` where it was good, or there was none yet.
    pub problem: Option<String>,
}

/// The keys of all issuers; clones are handles of the same.
#[derive(Clone)]
pub struct Jwks(Arc<Inner>);

struct Inner {
    config: JwksConfig,
    trust: Arc<ArcSwap<Trust>>,
    issuers: Mutex<BTreeMap<JwksUrl, Arc<Issuer>>>,
    fetches: Family<[(&'static str, &'static str); 1], Counter>,
    usable: Gauge,
}

/// One issuer.
struct Issuer {
    url: JwksUrl,
    cache: Mutex<KeyCache>,
    problem: Mutex<Option<String>>,
    /// Fetches that ended.
    ended: watch::Sender<u64>,
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwks").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Jwks {
    pub(crate) fn new(config: JwksConfig, trust: Arc<ArcSwap<Trust>>, metrics: &Metrics) -> Self {
        let fetches = Family::<_, Counter>::default();
        for label in FetchError::LABELS {
            let _ = fetches.get_or_create(&[("outcome", label)]);
        }
        let usable = Gauge::default();
        metrics.with(|registry| {
            let help = "Fetches of the keys of OAuth issuers, by outcome";
            registry.register("hub_proxy_jwks_fetches", help, fetches.clone());
            let help = "OAuth issuers with a key set that holds";
            registry.register("hub_proxy_jwks_issuers_usable", help, usable.clone());
        });
        Self(Arc::new(Inner { config, trust, issuers: Mutex::default(), fetches, usable }))
    }

    /// How it stands with the keys of an issuer; `None` where no policy names the URL, or did not a second ago.
    #[must_use]
    pub fn status(&self, url: &JwksUrl) -> Option<JwksStatus> {
        let issuer = Arc::clone(self.0.issuers.lock().get(url)?);
        let (cache, now) = (issuer.cache.lock(), Instant::now());
        let problem = issuer.problem.lock().clone();
        Some(JwksStatus { keys: cache.keys(now).len(), age: cache.age(now), problem })
    }

    /// Fetches what is due, for as long as it is polled.
    pub(crate) async fn run(self, spawner: Spawner) {
        loop {
            self.follow();
            let issuers: Vec<_> = self.0.issuers.lock().values().cloned().collect();
            let now = Instant::now();
            let mut usable = 0i64;
            for issuer in issuers {
                usable = usable.saturating_add(i64::from(!issuer.cache.lock().keys(now).is_empty()));
                if issuer.cache.lock().begin(now) {
                    self.fetch(issuer, &spawner);
                }
            }
            self.0.usable.set(usable);
            sleep(LOOK_EVERY).await;
        }
    }

    /// Keeps the issuers that policies name, and no others.
    fn follow(&self) {
        let trust = self.0.trust.load();
        let named: BTreeSet<&JwksUrl> =
            trust.services.values().filter_map(|service| service.jwks()).collect();
        let mut issuers = self.0.issuers.lock();
        issuers.retain(|url, _| named.contains(url));
        for url in named {
            if issuers.len() < MAX_ISSUERS && !issuers.contains_key(url) {
                issuers.insert(url.clone(), Arc::new(Issuer::new(url.clone())));
            }
        }
    }

    /// The fetched keys for an assertion that names `kid`: as they are, unless the key is unknown and a fetch may help.
    ///
    /// # Cancel safety
    ///
    /// A fetch that began goes on.
    pub(crate) async fn keys(
        &self,
        service: &Service,
        kid: Option<&str>,
        spawner: &Spawner,
    ) -> Arc<[VerifyingKey]> {
        let Some(url) = service.jwks() else { return Arc::from([]) };
        if !self.0.issuers.lock().contains_key(url) {
            self.follow();
        }
        let Some(issuer) = self.0.issuers.lock().get(url).cloned() else { return Arc::from([]) };
        let mut ended = issuer.ended.subscribe();
        let ask = issuer.cache.lock().ask(kid, Instant::now());
        match ask {
            Ask::Verify => {}
            Ask::Fetch | Ask::Wait => {
                if ask == Ask::Fetch {
                    self.fetch(Arc::clone(&issuer), spawner);
                }
                // Where it takes longer, the keys at hand decide.
                let _ = timeout(FETCH_TIME, ended.changed()).await;
            }
        }
        issuer.cache.lock().keys(Instant::now())
    }

    /// Fetches in a task of its own; the cache says already that a fetch is under way.
    fn fetch(&self, issuer: Arc<Issuer>, spawner: &Spawner) {
        let inner = Arc::clone(&self.0);
        let mut under_way = UnderWay { issuer, is_over: false };
        spawner.spawn("jwks fetch", async move {
            let issuer = Arc::clone(&under_way.issuer);
            let outcome = fetch::fetch(&inner.config, &issuer.url).await;
            let label = outcome.as_ref().map_or_else(FetchError::label, |_| "ok");
            inner.fetches.get_or_create(&[("outcome", label)]).inc();
            issuer.note(outcome.as_ref().err().map(ToString::to_string));
            under_way.end(outcome.ok());
        });
    }
}

impl Issuer {
    fn new(url: JwksUrl) -> Self {
        Self {
            url,
            cache: Mutex::new(KeyCache::new(Instant::now())),
            problem: Mutex::default(),
            ended: watch::Sender::new(0),
        }
    }

    /// Keeps what is wrong, and logs when that changes.
    fn note(&self, problem: Option<String>) {
        let mut held = self.problem.lock();
        if *held != problem {
            match &problem {
                Some(problem) => warn!(url = %self.url, problem, "keys of an OAuth issuer not fetched"),
                None => info!(url = %self.url, "keys of an OAuth issuer fetched again"),
            }
        }
        *held = problem;
    }
}

/// A fetch that has to end in the cache, whatever becomes of its task.
struct UnderWay {
    issuer: Arc<Issuer>,
    is_over: bool,
}

impl UnderWay {
    fn end(&mut self, fetched: Option<Fetched>) {
        self.is_over = true;
        let mut cache = self.issuer.cache.lock();
        match fetched {
            Some((keys, max_age)) => {
                debug!(url = %self.issuer.url, keys = keys.len(), "keys of an OAuth issuer fetched");
                cache.handle_keys(keys, max_age, Instant::now());
            }
            None => cache.handle_failure(Instant::now()),
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(None);
        }
        self.issuer.ended.send_modify(|count| *count = count.wrapping_add(1));
    }
}
