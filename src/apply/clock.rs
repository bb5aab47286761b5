//! Times: of day for people, since boot for deadlines.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The time of day in UTC, to the second.
pub fn now() -> String {
    in_a(Duration::ZERO)
}

/// The time of day in a while.
pub fn in_a(while_: Duration) -> String {
    let now = jiff::Timestamp::now();
    let then = jiff::SignedDuration::try_from(while_)
        .ok()
        .and_then(|while_| now.checked_add(while_).ok())
        .unwrap_or(now);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Milliseconds since boot, those asleep included: a suspended machine does not stretch a deadline.
pub fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
