//! The clock for deadlines.

use rustix::time::{ClockId, clock_gettime};

/// Returns the milliseconds since boot, including suspend (CLOCK_BOOTTIME): suspending the machine must not extend a
/// deadline.
pub fn since_boot() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
