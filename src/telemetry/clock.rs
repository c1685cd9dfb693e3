//! Time. `now` is monotonic and counts from the start of the process. `at` is wall clock, for
//! people.
//!
//! Invariant: the two are never mixed.
//! Windows, slots and time-outs use `now`; ledger, log and status show `at`.

use jiff::Timestamp;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

static START: OnceLock<Instant> = OnceLock::new();

/// Monotonic time since the first call in this process.
pub fn now() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}

/// The same moment as an `Instant`, for timers.
pub fn instant(now: Duration) -> Instant {
    *START.get_or_init(Instant::now) + now
}

/// Whole milliseconds of [`now`], for atomics.
pub fn now_ms() -> u64 {
    now().as_millis() as u64
}

/// Wall clock, milliseconds since the Unix epoch.
pub fn at_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Wall clock, since the Unix epoch; zero before it.
pub fn since_epoch() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at_ms: i64) -> String {
    match Timestamp::from_millisecond(at_ms) {
        Ok(t) => format!("{t:.3}"),
        Err(_) => format!("{at_ms} ms"),
    }
}

/// The wall clock time of a monotonic time.
pub fn wall_ms(at: Duration) -> i64 {
    let ago = now().saturating_sub(at).as_millis();
    at_ms().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
}

/// `12:03:07 UTC`.
pub fn time_of_day(at_ms: i64) -> String {
    let text = rfc3339(at_ms);
    match text.get(11..19) {
        Some(time) => format!("{time} UTC"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_in_utc() {
        assert_eq!(time_of_day(1_700_000_000_000), "22:13:20 UTC");
    }
}
