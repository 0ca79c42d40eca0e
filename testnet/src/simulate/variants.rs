//! Rules broken on purpose: whether the judge notices, and by which seed it did before.

use super::plan::Plan;
use super::{Outcome, run};
use karte_protocol::variants::Variant;

/// Seeds that a variant is tried with at most.
pub const BUDGET: u64 = 1_000;

/// A line for each variant: its name and a seed that caught it.
const SEEDS: &str = include_str!("seeds.txt");

/// A seed that caught a variant before.
pub fn stored(variant: Variant) -> Option<u64> {
    let mut lines = SEEDS.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(name, _)| *name == variant.name()).and_then(|(_, seed)| seed.trim().parse().ok())
}

/// A variant by its name.
pub fn named(name: &str) -> Option<Variant> {
    Variant::ALL.iter().copied().find(|variant| variant.name() == name)
}

/// The first run that notices a variant: its stored seed, then `budget` seeds from `first` on. `tried` counts runs.
pub fn caught(variant: Variant, first: u64, budget: u64, tried: &mut dyn FnMut(&Outcome)) -> Option<Outcome> {
    let seeds = stored(variant).into_iter().chain(first..first.saturating_add(budget));
    for seed in seeds {
        let outcome = run(&Plan::of(seed), Some(variant));
        tried(&outcome);
        if outcome.broken.is_some() {
            return Some(outcome);
        }
    }
    None
}
