//! Bounded waiting.

use std::time::{Duration, Instant};

/// Until when something must have happened.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn after(bound: Duration) -> Self {
        Self(Instant::now() + bound)
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.0
    }
}

/// How often one looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Looks until there is something to see, and gives it with the time that it took. Fails the test when `bound` is
/// over, and says what was waited for.
pub fn eventually<T>(what: &str, bound: Duration, look: impl FnMut() -> Option<T>) -> (T, Duration) {
    looking_every(LOOK_EVERY, what, bound, look)
}

/// The same, looking as often as `every`.
pub fn looking_every<T>(
    every: Duration,
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> (T, Duration) {
    let begun = Instant::now();
    let deadline = Deadline::after(bound);
    loop {
        if let Some(seen) = look() {
            return (seen, begun.elapsed());
        }
        assert!(!deadline.is_over(), "waited {bound:?} in vain: {what}");
        std::thread::sleep(every);
    }
}
