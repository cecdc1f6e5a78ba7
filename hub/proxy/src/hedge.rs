//! A second target for a request whose first one takes its time, where the operator wants that for the service.
//!
//! Off unless a service's settings name a time. Only requests that change nothing and have no body are sent twice (RFC
//! 9110, section 9.2.1), once each, to another target that nothing speaks against, within the budget of retries, and only if
//! they are still allowed. The first head of an answer counts, but no failure of the second target while the first one is asked:
//! nobody gets a worse answer than without it. The other try is given up, which says nothing about its target.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use blueprint_hub_proxy_core::Refusal;
use blueprint_hub_proxy_core::upstream::Outcome;
use http::{HeaderMap, Method};
use tokio::time::{Instant, sleep};

use crate::fault::{Fault, outcome_of};
use crate::send::{Answered, Outgoing, Prepared, Sender, Tries};
use crate::upstreams::AtTarget;

/// What became of a request, and where.
type Asked = Result<(Result<Answered, Fault>, AtTarget), Refusal>;

/// After how long a request goes to a second target; `None` where it goes to one alone.
pub(crate) fn hedge_after(outgoing: &Outgoing<'_>) -> Option<Duration> {
    let after = outgoing.settings.hedge_after()?;
    let is_safe = matches!(*outgoing.canonical.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let is_bare = matches!(outgoing.prepared, Prepared::Http1 { length: None, .. });
    (is_safe && is_bare && !outgoing.canonical.is_websocket()).then_some(after)
}

impl Sender {
    /// Sends it to a target, and to a second one where no answer has begun `after` that time.
    ///
    /// The target returned is the one that answered or failed last; one that failed before is in `tried`.
    pub(crate) async fn ask_hedged(
        &self,
        outgoing: &Outgoing<'_>,
        (mut at_first, began): (AtTarget, Instant),
        after: Duration,
        tried: &mut Vec<SocketAddr>,
        tries: &mut Tries,
    ) -> Asked {
        let mut first = pin!(self.ask(outgoing, (at_first.address(), began), HeaderMap::new()));
        tokio::select! {
            biased;
            answered = first.as_mut() => return Ok((answered?, at_first)),
            () = sleep(after) => {}
        }
        let now = Instant::now();
        let Some(mut at_second) = self.second(outgoing, &at_first, tried, now) else {
            return Ok((first.await?, at_first));
        };
        tries.count = tries.count.saturating_add(1);
        let mut second = pin!(self.ask(outgoing, (at_second.address(), now), HeaderMap::new()));
        tokio::select! {
            biased;
            answered = first.as_mut() => match answered? {
                Ok(answered) => Ok((Ok(answered), at_first)),
                Err(fault) => {
                    at_first.report(fault.outcome(), Instant::now().into_std());
                    tried.push(at_first.address());
                    tries.target = Some(at_second.address());
                    Ok((second.await?, at_second))
                }
            },
            answered = second.as_mut() => {
                let outcome = match &answered {
                    Ok(Ok(answered)) => outcome_of(answered.response.status()),
                    Ok(Err(fault)) => fault.outcome(),
                    Err(_) => Outcome::Unknown,
                };
                let answered = answered?;
                if answered.is_ok() && outcome != Outcome::Failed {
                    tries.target = Some(at_second.address());
                    return Ok((answered, at_second));
                }
                at_second.report(outcome, Instant::now().into_std());
                tried.push(at_second.address());
                match (first.await?, answered) {
                    (Err(fault), Ok(answered)) => {
                        at_first.report(fault.outcome(), Instant::now().into_std());
                        tried.push(at_first.address());
                        tries.target = Some(at_second.address());
                        Ok((Ok(answered), at_second))
                    }
                    (asked, _) => Ok((asked, at_first)),
                }
            }
        }
    }

    /// Another target than the first, where there is one and the budget has room.
    fn second(
        &self,
        outgoing: &Outgoing<'_>,
        first: &AtTarget,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<AtTarget> {
        let mut asked = tried.to_vec();
        asked.push(first.address());
        let at_second = self.begin_second(outgoing, &asked, now)?;
        self.count_hedge();
        Some(at_second)
    }
}
