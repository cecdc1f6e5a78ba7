//! Waiting for something, with an end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `probe` finds something, and returns that.
///
/// The pause between two looks is 10 ms, so measured times are right to about that.
///
/// # Errors
///
/// Fails where nothing was found `within` that time; `what` says in the error what was waited for.
pub fn eventually<T>(within: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if begin.elapsed() >= within {
            bail!("{what}: not within {within:?}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// Like [`eventually`] for a probe that can say why not.
///
/// # Errors
///
/// Fails with the last error of `probe` where none of its looks succeeded `within` that time.
pub fn eventually_ok<T>(within: Duration, what: &str, mut probe: impl FnMut() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match probe() {
            Ok(found) => return Ok(found),
            Err(error) if begin.elapsed() >= within => {
                return Err(error).with_context(|| format!("{what}: not within {within:?}"));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_success_ends_the_wait() {
        let mut looks = 0;
        let found = eventually(Duration::from_secs(5), "three looks", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn a_wait_in_vain_says_for_what_and_why() {
        let within = Duration::from_millis(1);
        let error = eventually(within, "a miracle", || None::<()>).unwrap_err();
        assert_eq!(error.to_string(), "a miracle: not within 1ms");
        let error = eventually_ok::<()>(within, "a miracle", || bail!("no saint")).unwrap_err();
        assert_eq!(format!("{error:#}"), "a miracle: not within 1ms: no saint");
    }
}
