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
pub(crate) struct Kept(Mutex<Option<Have>>);

/// Credentials, when they end, and by what they were had.
#[derive(Debug, Clone)]
struct Have {
    credentials: Arc<Credentials>,
    ends: Timestamp,
    by: Option<Arc<Credentials>>,
}

impl Kept {
    /// What is kept where it is good and was had by the same credentials, else what `renew` gets: credentials and when they
    /// end.
    ///
    /// # Errors
    ///
    /// As `renew`, where what is kept has ended, or was had by others.
    pub(crate) async fn get<R>(
        &self,
        now: Timestamp,
        by: Option<&Arc<Credentials>>,
        renew: R,
    ) -> Result<Arc<Credentials>, ProviderError>
    where
        R: AsyncFnOnce() -> Result<(Credentials, Timestamp), ProviderError>,
    {
        let mut kept = self.0.lock().await;
        let old = kept.clone().filter(|have| have.by.as_ref() == by);
        if let Some(have) = &old
            && have.ends.since(now) > BEFORE_END
        {
            return Ok(Arc::clone(&have.credentials));
        }
        match (renew().await, old) {
            (Ok((credentials, ends)), _) => {
                let credentials = Arc::new(credentials);
                *kept = Some(Have { credentials: Arc::clone(&credentials), ends, by: by.cloned() });
                Ok(credentials)
            }
            (Err(_), Some(have)) if have.ends.since(now) > LEAST => Ok(have.credentials),
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
            kept.get(at(now), None, renew).await.map(|credentials| credentials.origin().to_owned()).ok()
        };
        assert_eq!(ask(0, false).await, None);
        assert_eq!(ask(0, true).await.as_deref(), Some("call 2"));
        assert_eq!(ask(3299, true).await.as_deref(), Some("call 2"));
        assert_eq!(ask(3300, false).await.as_deref(), Some("call 2"));
        assert_eq!(ask(3301, true).await.as_deref(), Some("call 4"));
        assert_eq!(ask(3301 + 3595, false).await, None);
    }

    #[tokio::test]
    async fn what_others_had_is_not_given() {
        let now = Timestamp::from_millis(0);
        let by = |name: &str| Arc::new(Credentials::new(name, []));
        let kept = Kept::default();
        let made = async |name: &str| {
            let by = by(name);
            let got = kept.get(now, Some(&by), async || {
                Ok((Credentials::new(&format!("a role of {name}"), []), now.plus(Duration::from_secs(3600))))
            });
            got.await.unwrap().origin().to_owned()
        };
        assert_eq!((made("a").await, made("b").await), ("a role of a".to_owned(), "a role of b".to_owned()));
        let busy = async || Err(ProviderError::Busy { reason: "no".to_owned() });
        assert!(kept.get(now, Some(&by("b")), busy).await.is_ok());
        assert!(kept.get(now, Some(&by("a")), busy).await.is_err(), "keys that were taken back are not used");
    }
}
