//! Transfers that are disturbed once each: what the dearest disturbance cost, which an average over many would hide.

use super::material::Material;
use super::pair::Pair;
use super::stage::{Stage, unlike};
use super::{Options, Outcome};
use crate::proxy::{Fault, Link, Way};
use serde_json::{Value, json};
use std::io;

/// A transfer has this part of `--size`: 8 MiB.
const PART: usize = 8;

/// Bytes that each of several transfers needed beyond an undisturbed one.
pub(super) struct Singles {
    what: &'static str,
    again: Vec<u64>,
}

impl Singles {
    /// One transfer after the other between the same two nodes, each with a fault at a byte from the seed.
    pub(super) fn new(
        stage: &Stage,
        options: &Options,
        what: &'static str,
        fault: Fault,
        times: u64,
    ) -> io::Result<Self> {
        let pair = Pair::new(stage, &format!("single-{what}"), Link::default())?;
        let mut dice = stage.dice(what);
        let (bytes, mut calm, mut again) = (options.size_bytes() / PART, 0, Vec::new());
        for number in 0..=times {
            let material = Material::file(stage, &format!("single-{what}-{number}"), bytes)?;
            let (before, struck) = (pair.passed(), pair.proxy.struck());
            if number > 0 {
                pair.proxy.plan(Way::FromTarget, before + dice.below(material.bytes), fault);
            }
            pair.holder.imports(&material.path)?;
            pair.arrives(number + 1)?;
            let passed = pair.passed() - before;
            match number {
                0 => calm = passed,
                _ if pair.proxy.struck() == struck => return Err(unlike("a planned fault did not strike")),
                _ => again.push(passed.saturating_sub(calm)),
            }
        }
        let singles = Self { what, again };
        stage.say(&singles.told());
        Ok(singles)
    }

    fn worst(&self) -> u64 {
        self.again.iter().copied().max().unwrap_or_default()
    }

    fn told(&self) -> String {
        format!(
            "{} transfers with one {} each: at most {} KiB again",
            self.again.len(),
            self.what,
            self.worst() >> 10
        )
    }

    /// The outcome with this in it: it holds only if none cost more than `again_max` bytes.
    pub(super) fn into_outcome(self, mut outcome: Outcome, again_max: u64) -> Outcome {
        outcome.held = outcome.held.map(|held| held && self.worst() <= again_max);
        outcome.sentence = format!("{}\n{} (bar {} KiB)", outcome.sentence, self.told(), again_max >> 10);
        if let Value::Object(numbers) = &mut outcome.numbers {
            numbers.insert("again_bytes_worst".into(), json!(self.worst()));
            numbers.insert("again_bytes_single".into(), json!(self.again));
        }
        outcome
    }
}
