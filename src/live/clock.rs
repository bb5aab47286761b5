//! The clock of deadlines.

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since boot, those asleep included: a suspended machine does not stretch a deadline.
pub fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
