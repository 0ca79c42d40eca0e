//! A failure made small: deeds are left out while the same invariant still breaks.

use super::plan::Plan;
use super::{Outcome, run};
use karte_protocol::variants::Variant;

/// Runs that shrinking may take. 400: some seconds for most failures.
const RUNS_MAX: usize = 400;

/// The shortest plan found that breaks the same invariant, and what came of it.
pub fn shrunk(plan: &Plan, variant: Option<Variant>) -> (Plan, Outcome) {
    let mut best = (plan.clone(), run(plan, variant));
    let Some(broken) = best.1.broken.clone() else { return best };
    let mut runs = 0;
    let mut part = best.0.steps.len().div_ceil(2);
    while part > 0 && runs < RUNS_MAX {
        let before = best.0.steps.len();
        let mut from = 0;
        while from < best.0.steps.len() && runs < RUNS_MAX {
            let mut less = best.0.clone();
            let until = (from + part).min(less.steps.len());
            less.steps.drain(from..until);
            let outcome = run(&less, variant);
            runs += 1;
            match outcome.broken.as_ref().is_some_and(|now| now.invariant == broken.invariant) {
                true => best = (less, outcome),
                false => from += part,
            }
        }
        let stuck = best.0.steps.len() == before;
        if part > 1 {
            part = part.div_ceil(2).min(part - 1);
        } else if stuck {
            break;
        }
    }
    best
}
