//! The keys of an issuer of tokens: fetched when they are needed, kept and rotated as [`KeyCache`] says.

use std::sync::Arc;
use std::time::Instant;

use blueprint_common_runtime::tasks::Spawner;
use blueprint_hub_identity_core::SignatureKeys;
use blueprint_hub_provider_kit::HttpClient;
use blueprint_hub_proxy_core::identity::{Ask, JwksUrl, KeyCache, VerifyingKey, max_age};
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::warn;

/// Keys that hold now.
pub(super) struct HeldKeys(Arc<[VerifyingKey]>);

impl SignatureKeys for HeldKeys {
    fn verifies(&self, name: &str, message: &[u8], signature: &[u8]) -> bool {
        self.0.iter().any(|key| {
            // One algorithm, and no key without a name.
            key.algorithm() == "RS256" && key.is_named(name) && key.verifies(message, signature)
        })
    }
}

/// The keys of one issuer.
pub(super) struct IssuerKeys(Arc<Inner>);

struct Inner {
    url: JwksUrl,
    http: HttpClient,
    spawner: Spawner,
    cache: Mutex<KeyCache>,
    /// Fetches that ended.
    ended: watch::Sender<u64>,
}

impl IssuerKeys {
    pub(super) fn new(url: JwksUrl, http: HttpClient, spawner: Spawner) -> Self {
        let cache = Mutex::new(KeyCache::new(Instant::now()));
        Self(Arc::new(Inner { url, http, spawner, cache, ended: watch::Sender::new(0) }))
    }

    /// The keys for a token that names `kid`; fetched first where they are due, or where it is unknown and a fetch may help.
    ///
    /// # Errors
    ///
    /// Where there are none that hold.
    pub(super) async fn named(&self, kid: &str) -> Result<HeldKeys, String> {
        let mut ended = self.0.ended.subscribe();
        let ask = {
            let mut cache = self.0.cache.lock();
            let now = Instant::now();
            if cache.begin(now) { Ask::Fetch } else { cache.ask(Some(kid), now) }
        };
        match ask {
            Ask::Verify => {}
            Ask::Fetch => {
                let under_way = UnderWay { inner: Arc::clone(&self.0), is_over: false };
                // It goes on where whoever asked leaves.
                self.0.spawner.finish("identity keys", under_way.fetch()).await;
            }
            Ask::Wait => {
                let _ = ended.changed().await;
            }
        }
        let keys = self.0.cache.lock().keys(Instant::now());
        if keys.is_empty() { Err(format!("no keys of {} are held", self.0.url)) } else { Ok(HeldKeys(keys)) }
    }
}

/// A fetch that has to end in the cache, whatever becomes of its task.
struct UnderWay {
    inner: Arc<Inner>,
    is_over: bool,
}

impl UnderWay {
    async fn fetch(mut self) {
        let fetched = self.inner.fetch().await;
        self.is_over = true;
        let mut cache = self.inner.cache.lock();
        match fetched {
            Ok((keys, age)) => cache.handle_keys(keys, age, Instant::now()),
            Err(why) => {
                warn!(url = %self.inner.url, why, "keys of identity tokens not fetched");
                cache.handle_failure(Instant::now());
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.is_over {
            self.inner.cache.lock().handle_failure(Instant::now());
        }
        self.inner.ended.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Inner {
    async fn fetch(&self) -> Result<(Vec<VerifyingKey>, Option<std::time::Duration>), String> {
        let request =
            Request::get(self.url.to_string()).header(ACCEPT, "application/json").body(Bytes::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.http.send("keys", request).await.map_err(|error| error.line())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answered {}", answer.status().as_u16()));
        }
        let values = answer.headers().get_all(CACHE_CONTROL).iter();
        let age = max_age(values.filter_map(|value| value.to_str().ok()));
        let keys = VerifyingKey::from_jwk_set(answer.body()).map_err(|error| error.to_string())?;
        Ok((keys, age))
    }
}
