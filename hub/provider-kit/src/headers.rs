//! What the head of a cloud's answer says of time.

use std::time::Duration;

use blueprint_common_types::Timestamp;
use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// Longest pause that is taken from an answer; windows of clouds are an hour long at most (DigitalOcean: 5,000 calls an hour).
const LONGEST: Duration = Duration::from_secs(3600);

/// How long a cloud that refused a call for its rate wants to be left alone, an hour at most; `None` where it does not say.
///
/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3) goes first; then `ratelimit-reset` or `x-ratelimit-reset`,
/// seconds since 1970 (DigitalOcean and Linode, which send it with every answer: ask only where a call was refused). Dates are compared with the answer's own
/// `Date`, so that a wrong clock here does no harm, and with `now` where it has none.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let now = cloud_time(headers).unwrap_or(now);
    let asked = || {
        let text = text(headers, RETRY_AFTER.as_str())?;
        if let Ok(seconds) = text.parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        Some(date(text)?.since(now))
    };
    let reset = || {
        let reset = text(headers, "ratelimit-reset").or_else(|| text(headers, "x-ratelimit-reset"))?;
        let seconds = reset.parse::<u64>().ok()?;
        Some(Timestamp::from_millis(seconds.saturating_mul(1000)).since(now))
    };
    asked().or_else(reset).map(|wait| wait.min(LONGEST))
}

/// The cloud's clock, from the `Date` of its answer; whole seconds.
#[must_use]
pub fn cloud_time(headers: &HeaderMap) -> Option<Timestamp> {
    date(text(headers, DATE.as_str())?)
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn date(text: &str) -> Option<Timestamp> {
    httpdate::parse_http_date(text).ok().map(Timestamp::from)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// 1994-11-06 08:49:37 UTC.
    const NOW: Timestamp = Timestamp::from_millis(784_111_777_000);

    fn check(rows: &[(&'static str, &'static str)], seconds: Option<u64>) {
        let mut headers = HeaderMap::new();
        for (name, value) in rows {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        assert_eq!(retry_after(&headers, NOW), seconds.map(Duration::from_secs), "{rows:?}");
    }

    #[test]
    fn a_cloud_asks_for_a_pause_in_three_ways() {
        check(&[], None);
        check(&[("retry-after", "120")], Some(120));
        check(&[("retry-after", " 0 ")], Some(0));
        check(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")], Some(60));
        check(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")], Some(0));
        check(&[("ratelimit-reset", "784111807")], Some(30));
        check(&[("x-ratelimit-reset", "784111807")], Some(30));
        check(&[("ratelimit-reset", "784111807"), ("retry-after", "5")], Some(5));
        check(&[("ratelimit-reset", "784111807"), ("retry-after", "soon")], Some(30));
        for nonsense in ["soon", "-1", "1.5", ""] {
            check(&[("retry-after", nonsense)], None);
        }
    }

    #[test]
    fn no_pause_is_longer_than_an_hour() {
        check(&[("retry-after", "18446744073709551615")], Some(3600));
        check(&[("ratelimit-reset", "18446744073709551615")], Some(3600));
    }

    #[test]
    fn the_clouds_own_clock_goes_first() {
        let date = ("date", "Sun, 06 Nov 1994 09:49:37 GMT");
        check(&[date, ("ratelimit-reset", "784115407")], Some(30));
        check(&[date, ("retry-after", "Sun, 06 Nov 1994 09:49:40 GMT")], Some(3));
        let mut headers = HeaderMap::new();
        assert_eq!(cloud_time(&headers), None);
        headers.insert("date", HeaderValue::from_static(date.1));
        assert_eq!(cloud_time(&headers).map(Timestamp::as_secs), Some(784_115_377));
    }
}
