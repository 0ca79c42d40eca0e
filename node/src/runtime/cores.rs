//! Independent work on all cores.

use crate::failure::Failure;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads for one piece of work. 8: beyond that the disk is slower.
const THREADS_MAX: usize = 8;

/// As many threads as work at the same time.
pub(super) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// Items and bytes below which threads are not worth their start: sixteen small records are sealed in a millisecond. A
/// daemon that imports a little every second would else grow by what the system keeps of each thread's memory.
const FEW: usize = 16;
const LITTLE_BYTES: u64 = 1 << 20;

/// What `work` makes of each item, in their order, on this thread if they are few and little.
pub(super) fn on_enough<T: Sync, R: Send>(
    items: &[T],
    bytes: impl Fn(&T) -> u64,
    work: impl Fn(&T) -> R + Sync,
) -> Result<Vec<R>, Failure> {
    match items.len() <= FEW && items.iter().map(bytes).fold(0, u64::saturating_add) <= LITTLE_BYTES {
        true => Ok(items.iter().map(work).collect()),
        false => on_all(items, work),
    }
}

/// What `work` makes of each item, in their order. Each thread takes the next item that nobody has.
fn on_all<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Result<Vec<R>, Failure> {
    if let [only] = items {
        return Ok(vec![work(only)]);
    }
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            done.push((index, work(item)));
        }
    };
    let done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count().min(items.len())).map(|_| scope.spawn(some)).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.collect::<Result<Vec<_>, _>>().map_err(|_| Failure::failed("a thread ended badly"))
    })?;
    let mut done: Vec<(usize, R)> = done.into_iter().flatten().collect();
    done.sort_unstable_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, made)| made).collect())
}
