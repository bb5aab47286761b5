//! Both families at the same time.

use std::panic::resume_unwind;
use std::thread;

use crate::net::Family;

/// What comes of each family, in the order of [`Family::ALL`]: they have nothing in common, and take about as long.
pub(super) fn in_both<T: Send>(of: impl Fn(Family) -> T + Sync) -> [T; 2] {
    thread::scope(|scope| {
        Family::ALL
            .map(|family| {
                scope.spawn({
                    let of = &of;
                    move || of(family)
                })
            })
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
