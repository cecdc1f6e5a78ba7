//! Dates as clouds write them, in UTC.

use std::time::Duration;

use blueprint_common_types::Timestamp;

/// By how much the clocks of a cloud and of the hub may differ.
pub(crate) const SKEW: Duration = Duration::from_secs(120);

/// `2026-11-22T12:00:00Z`, with or without a part of a second.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let time = time.split_once('.').map_or(time, |(time, _)| time);
    at(year, month, day, numbers(time, ':')?)
}

/// `11/22/26 12:00:00 -0000`, as Azure writes it.
pub(crate) fn azure(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix(" -0000")?.split_once(' ')?;
    let [month, day, year] = numbers(date, '/')?;
    if year >= 100 {
        return None;
    }
    at(year.checked_add(2000)?, month, day, numbers(time, ':')?)
}

/// Three numbers, of which none has a sign.
fn numbers(text: &str, between: char) -> Option<[u64; 3]> {
    let mut parts = text.split(between).map(|part| {
        let is_number = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| part.parse::<u64>().ok()).flatten()
    });
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

fn at(year: u64, month: u64, day: u64, [hour, minute, second]: [u64; 3]) -> Option<Timestamp> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if is_leap { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let of_month = months.get(usize::try_from(month.checked_sub(1)?).ok()?)?;
    let is_date = (1970..=9999).contains(&year) && (1..=*of_month).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let before = year.checked_sub(1)?;
    let leap_days = |year: u64| (year / 4).saturating_sub(year / 100).saturating_add(year / 400);
    let years = year
        .checked_sub(1970)?
        .checked_mul(365)?
        .checked_add(leap_days(before).checked_sub(leap_days(1969))?)?;
    let whole_months: u64 = months.iter().take(usize::try_from(month.checked_sub(1)?).ok()?).sum();
    let days = years.checked_add(whole_months)?.checked_add(day.checked_sub(1)?)?;
    let seconds = days.checked_mul(86_400)?.checked_add(hour * 3600 + minute * 60 + second)?;
    Some(Timestamp::from_millis(seconds.checked_mul(1000)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_both_spellings() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-22T12:00:00Z", 1_795_348_800),
            ("2026-11-22T12:00:00.123Z", 1_795_348_800),
        ] {
            assert_eq!(rfc3339(text).map(Timestamp::as_secs), Some(seconds), "{text}");
        }
        assert_eq!(azure("11/22/26 12:00:00 -0000").map(Timestamp::as_secs), Some(1_795_348_800));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for wrong in [
            "",
            "2026-11-22",
            "2026-11-22T12:00:00",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T12:00:00+01:00",
            "-026-11-22T12:00:00Z",
        ] {
            assert_eq!(rfc3339(wrong), None, "{wrong}");
        }
        for wrong in
            ["11/22/2026 12:00:00 -0000", "22/11/26 12:00:00 -0000", "11/22/26 12:00:00 +0100", "11/22/26"]
        {
            assert_eq!(azure(wrong), None, "{wrong}");
        }
    }
}
