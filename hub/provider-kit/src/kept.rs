//! What credentials were changed for, such as an access token: kept until shortly before it ends.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use blueprint_common_types::Timestamp;
use blueprint_hub_provision_core::ProviderError;
use tokio::sync::Mutex;

use crate::Credentials;

/// How long before its end it is replaced: as tools of clouds do it, and longer than any call takes.
const BEFORE_END: Duration = Duration::from_secs(300);

/// How long what cannot be replaced is still used: services that give it have their bad minutes.
const LEAST: Duration = Duration::from_secs(10);

/// What was had last, by which credentials. Whoever comes while it is replaced waits for that.
pub struct Kept<T>(Mutex<Option<Have<T>>>);

struct Have<T> {
    value: T,
    ends: Timestamp,
    by: Option<Arc<Credentials>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl<T: Clone> Kept<T> {
    /// What is kept where it is good and was had by the same credentials, else what `renew` gets: a value, and when it ends.
    ///
    /// # Errors
    ///
    /// As `renew`, where what is kept has ended or was had by others, or where credentials are refused
    /// ([`ProviderError::Deny`]).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future keeps what was kept.
    pub async fn get<R>(
        &self,
        now: Timestamp,
        by: Option<&Arc<Credentials>>,
        renew: R,
    ) -> Result<T, ProviderError>
    where
        R: AsyncFnOnce() -> Result<(T, Timestamp), ProviderError>,
    {
        let mut kept = self.0.lock().await;
        let old = kept.as_ref().filter(|have| have.by.as_ref() == by);
        if let Some(have) = old
            && have.ends.since(now) > BEFORE_END
        {
            return Ok(have.value.clone());
        }
        match (renew().await, old) {
            (Ok((value, ends)), _) => {
                *kept = Some(Have { value: value.clone(), ends, by: by.cloned() });
                Ok(value)
            }
            // Of a machine's own service, which takes no credentials, a refusal is one of its bad minutes, too.
            (Err(error @ ProviderError::Deny { .. }), _) if by.is_some() => Err(error),
            (Err(_), Some(have)) if have.ends.since(now) > LEAST => Ok(have.value.clone()),
            (Err(error), _) => Err(error),
        }
    }

    /// Has the next call ask for another one.
    pub async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn busy() -> ProviderError {
        ProviderError::Busy { reason: "no".to_owned() }
    }

    #[tokio::test]
    async fn it_is_replaced_before_its_end_and_used_to_it() {
        let (kept, calls) = (Kept::default(), Cell::new(0u64));
        let ask = async |now: u64, works: bool| {
            let renew = async || {
                calls.set(calls.get() + 1);
                if works { Ok((calls.get(), at(now + 3600))) } else { Err(busy()) }
            };
            kept.get(at(now), None, renew).await.ok()
        };
        assert_eq!(ask(0, false).await, None);
        assert_eq!(ask(0, true).await, Some(2));
        assert_eq!(ask(3299, true).await, Some(2));
        assert_eq!(ask(3300, false).await, Some(2));
        assert_eq!(ask(3301, true).await, Some(4));
        assert_eq!(ask(3301 + 3595, false).await, None);
        assert_eq!(ask(10_000, true).await, Some(6));
        kept.forget().await;
        assert_eq!(ask(10_001, true).await, Some(7));
    }

    #[tokio::test]
    async fn what_others_had_is_not_given_and_what_is_refused_is_not_used_any_more() {
        let by = |name: &str| Arc::new(Credentials::new(name, []));
        let kept = Kept::default();
        let made = async |name: &str| {
            let by = by(name);
            let got = kept.get(at(0), Some(&by), async || Ok((format!("a token of {name}"), at(301))));
            got.await.unwrap()
        };
        assert_eq!(
            (made("a").await, made("b").await),
            ("a token of a".to_owned(), "a token of b".to_owned())
        );
        assert!(kept.get(at(2), Some(&by("b")), async || Err(busy())).await.is_ok());
        let error = kept.get(at(2), Some(&by("a")), async || Err(busy())).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::Busy { .. }),
            "keys that were taken back are not used: {error}"
        );
        let denied = async || Err(ProviderError::Deny { action: "sign in".to_owned() });
        assert!(kept.get(at(2), Some(&by("b")), denied).await.is_err());
        let own = Kept::default();
        own.get(at(0), None, async || Ok(("mine".to_owned(), at(301)))).await.unwrap();
        assert_eq!(own.get(at(2), None, denied).await.unwrap(), "mine", "a machine's own");
    }
}
