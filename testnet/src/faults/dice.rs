//! Repeatable chance for plans and faults: the same numbers give the same choices on every machine.

/// Draws from blake3 in counter mode over a few numbers.
pub struct Dice(blake3::OutputReader);

impl Dice {
    /// Dice that fall the same way for the same `use` and numbers.
    pub fn new(name: &str, numbers: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(name.as_bytes()).update(&[0]);
        for number in numbers {
            hasher.update(&number.to_le_bytes());
        }
        Self(hasher.finalize_xof())
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number below `bound`; 0 for a bound of 0. The bias is below 2^-32 for every bound used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(index(self.below(from.len() as u64)))
    }

    /// So many bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill(&mut bytes);
        bytes
    }
}

/// A number as an index; one that does not fit is out of every bound.
pub fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
