//! Credentials that end, kept until shortly before.

use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_provider_kit::Credentials;
use blueprint_hub_provision_core::ProviderError;
use tokio::sync::Mutex;

/// How long before their end they are replaced: as AWS's own tools do it, and longer than any call takes.
const BEFORE_END: Duration = Duration::from_secs(300);

/// How long credentials that cannot be replaced are still used: AWS serves those of an instance on when its own source of
/// them fails.
const LEAST: Duration = Duration::from_secs(10);

/// What was had last. Whoever comes while it is replaced waits for that.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<Option<(Arc<Credentials>, Timestamp)>>);

impl Kept {
    /// What is kept where it is good, else what `renew` gets: credentials and when they end.
    ///
    /// # Errors
    ///
    /// As `renew`, where what is kept has ended.
    pub(crate) async fn get<R>(&self, now: Timestamp, renew: R) -> Result<Arc<Credentials>, ProviderError>
    where
        R: AsyncFnOnce() -> Result<(Credentials, Timestamp), ProviderError>,
    {
        let mut kept = self.0.lock().await;
        let old = kept.clone();
        if let Some((credentials, ends)) = &old
            && ends.since(now) > BEFORE_END
        {
            return Ok(Arc::clone(credentials));
        }
        match (renew().await, old) {
            (Ok((credentials, ends)), _) => {
                let credentials = Arc::new(credentials);
                *kept = Some((Arc::clone(&credentials), ends));
                Ok(credentials)
            }
            (Err(_), Some((credentials, ends))) if ends.since(now) > LEAST => Ok(credentials),
            (Err(error), _) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn they_are_replaced_before_their_end_and_used_to_it() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let (kept, calls) = (Kept::default(), Cell::new(0u64));
        let ask = async |now: u64, works: bool| {
            let renew = async || {
                calls.set(calls.get() + 1);
                let error = ProviderError::Busy { reason: "no".to_owned() };
                let made = Credentials::new(&format!("call {}", calls.get()), []);
                if works { Ok((made, at(now + 3600))) } else { Err(error) }
            };
            kept.get(at(now), renew).await.map(|credentials| credentials.origin().to_owned()).ok()
        };
        assert_eq!(ask(0, false).await, None);
        assert_eq!(ask(0, true).await.as_deref(), Some("call 2"));
        assert_eq!(ask(3299, true).await.as_deref(), Some("call 2"));
        assert_eq!(ask(3300, false).await.as_deref(), Some("call 2"));
        assert_eq!(ask(3301, true).await.as_deref(), Some("call 4"));
        assert_eq!(ask(3301 + 3595, false).await, None);
    }
}
