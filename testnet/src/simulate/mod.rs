//! The simulator: the product's engine in worlds of eight parties, 45 days long, in which everything goes wrong that
//! may, and a judge that looks at every step.
//!
//! | file | concern |
//! |---|---|
//! | `plan` | what happens, from a seed |
//! | `world` | nodes, time, the way of messages |
//! | `node` | an engine and its folder |
//! | `deeds`, `phone` | users, faults, insiders; a stolen device and its owner |
//! | `model` | SPEC section 5 a second time |
//! | `checks` | the invariants |
//! | `story`, `shrink` | what is told of a failure |
//! | `variants` | rules broken on purpose, and who notices |
//! | `command` | `testnet simulate` |
//!
//! One seed is one run: chance, time and order come from it alone. (age draws its own keys, so ciphertexts and what is
//! named by their hashes differ from run to run; nothing here depends on them.) Not for: sockets and disks; real
//! processes are tried by `tests/`, the disk by [`crate::faults`].

pub mod checks;
pub mod command;
pub mod deeds;
pub mod model;
pub mod node;
pub mod phone;
pub mod plan;
pub mod shrink;
pub mod story;
pub mod variants;
pub mod world;

use karte_protocol::time::DAY_MS;
use karte_protocol::variants::Variant;
use plan::{DAYS, Plan};
pub use shrink::shrunk;
use std::panic::{AssertUnwindSafe, catch_unwind};
pub use world::Violation;
use world::{BEGIN_MS, World};

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The first invariant that did not hold.
    pub broken: Option<Violation>,
    /// Its story, a line for each deed.
    pub story: Vec<String>,
    /// A hash of every event.
    pub hash: String,
    /// Inputs that engines handled.
    pub steps: u64,
    /// Plaintexts that were read under grants.
    pub opened: u64,
    /// Sessions that the steward opened in the name of a patient.
    pub stood_in: u64,
}

/// Runs a plan, with all nodes breaking a rule or none. A panic is a broken invariant too.
pub fn run(plan: &Plan, variant: Option<Variant>) -> Outcome {
    let ran = catch_unwind(AssertUnwindSafe(|| run_to_end(plan, variant)));
    karte_protocol::variants::choose(None);
    ran.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let what = what.unwrap_or_else(|| "something".to_owned());
        Outcome {
            seed: plan.seed,
            broken: Some(Violation { invariant: "no panic", what }),
            story: vec![],
            hash: String::new(),
            steps: 0,
            opened: 0,
            stood_in: 0,
        }
    })
}

fn run_to_end(plan: &Plan, variant: Option<Variant>) -> Outcome {
    let mut world = World::new(plan, variant).expect("a world of new parties begins");
    world.run_until(BEGIN_MS + DAYS * DAY_MS, plan);
    if world.broken.is_none() {
        world.heal(plan);
    }
    if world.broken.is_none() {
        world.all_agree();
    }
    Outcome {
        seed: plan.seed,
        broken: world.broken,
        hash: world.story.hash(),
        story: world.story.lines().to_vec(),
        steps: world.steps,
        opened: world.opened,
        stood_in: world.stood_in,
    }
}
