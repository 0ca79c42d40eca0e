//! Chance as an argument, so that the simulator repeats a run from one seed.

use zeroize::Zeroizing;

/// A source of random bytes fit for keys.
pub trait Chance {
    /// Fills `out` with random bytes.
    fn fill(&mut self, out: &mut [u8]);

    /// Thirty-two random bytes that wipe themselves.
    fn seed(&mut self) -> Zeroizing<[u8; 32]> {
        let mut seed = Zeroizing::new([0; 32]);
        self.fill(seed.as_mut());
        seed
    }

    /// A public random value: a salt or a nonce.
    fn salt(&mut self) -> crate::id::Salt {
        let mut salt = [0; 32];
        self.fill(&mut salt);
        crate::id::Salt::from(salt)
    }
}

/// The operating system's generator.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsChance;

impl Chance for OsChance {
    fn fill(&mut self, out: &mut [u8]) {
        // A system without randomness must not sign or seal anything: there is no error to return to.
        getrandom::fill(out).expect("the operating system gives random bytes");
    }
}
