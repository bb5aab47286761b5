//! Times: of day for people, since boot for deadlines.

use std::time::Duration;

pub use crate::live::clock::since_boot;

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
