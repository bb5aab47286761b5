//! Times: of day for people, since boot for deadlines, which a changed clock must not move.

use std::time::Duration;

pub use crate::live::clock::since_boot;

/// Returns the time of day in UTC, to the second, such as `2026-01-31T12:00:00Z`.
pub fn now() -> String {
    in_a(Duration::ZERO)
}

/// Returns the time of day after a delay.
pub fn in_a(delay: Duration) -> String {
    let now = jiff::Timestamp::now();
    let then = jiff::SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| now.checked_add(delay).ok())
        .unwrap_or(now);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
