//! Both families at the same time.

use std::panic::resume_unwind;
use std::thread;

/// Computes something of each family in a thread of its own, in the order of [`Family::ALL`](crate::net::Family::ALL): the
/// families have nothing in common, and take about as long.
pub(super) fn in_both<F: Send, T: Send>(
    families: &mut [F; 2],
    of: impl Fn(&mut F) -> T + Sync,
) -> [T; 2] {
    thread::scope(|scope| {
        let threads = families.each_mut().map(|family| {
            let of = &of;
            scope.spawn(move || of(family))
        });
        threads.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
