//! Token buckets: how often something may happen.
//!
//! For: counting, without a clock of its own. Not for: what happens to whom is over its rate.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Instant;

/// So many at once, and so many a second afterwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Events at once.
    pub burst: u32,
    /// Events a second in the long run.
    pub per_second: u32,
}

/// One bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: Rate, now: Instant) -> Self {
        Self { tokens: f64::from(rate.burst), filled: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + seconds * f64::from(rate.per_second)).min(f64::from(rate.burst));
        self.filled = now;
    }

    fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= f64::from(rate.burst)
    }
}

/// A bucket for each name, in bounded memory: full buckets are as good as none. When too many names are in use at
/// once, new ones are refused.
pub(crate) struct Buckets<K> {
    rate: Rate,
    names_max: usize,
    buckets: HashMap<K, Bucket>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(rate: Rate, names_max: usize) -> Self {
        Self { rate, names_max, buckets: HashMap::new() }
    }

    pub(crate) fn take(&mut self, name: K, now: Instant) -> bool {
        let rate = self.rate;
        if let Some(bucket) = self.buckets.get_mut(&name) {
            return bucket.take(rate, now);
        }
        if self.buckets.len() >= self.names_max {
            self.buckets.retain(|_, bucket| !bucket.is_full(rate, now));
        }
        if self.buckets.len() >= self.names_max {
            return false;
        }
        let mut bucket = Bucket::new(rate, now);
        let taken = bucket.take(rate, now);
        self.buckets.insert(name, bucket);
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const RATE: Rate = Rate { burst: 3, per_second: 2 };

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(RATE, now);
        let passed = (0..10).filter(|_| bucket.take(RATE, now)).count();
        assert_eq!(passed, 3, "the burst");
        let later = now + Duration::from_secs(1);
        assert_eq!((0..10).filter(|_| bucket.take(RATE, later)).count(), 2, "a second's worth");
        let much_later = now + Duration::from_secs(100);
        assert_eq!((0..10).filter(|_| bucket.take(RATE, much_later)).count(), 3, "never more than the burst");
    }

    #[test]
    fn names_are_bounded_and_forgotten_when_they_rest() {
        let now = Instant::now();
        let mut buckets = Buckets::new(RATE, 2);
        assert!(buckets.take("a", now) && buckets.take("b", now));
        assert!(!buckets.take("c", now), "a third name while two are in use");
        assert!(buckets.take("c", now + Duration::from_secs(1)), "the others rest by then");
        assert_eq!(buckets.buckets.len(), 1);
    }
}
