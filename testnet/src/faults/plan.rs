//! The plan: what a worker does at step n, as a function of seed and n alone.
//!
//! Worker and judge compute it apart from each other, so an acknowledgement is only a number. Not for: carrying it
//! out (`worker`), nor for what must be there afterwards (`model`).

use super::dice::{Dice, index};

/// Holds one row: the last step that wrote.
pub const META: u8 = 1;
/// Revocations: outside the plan, because they are written when it fails.
pub const REVOKED: u8 = 2;
/// Tables of the plan, among them the last that is journaled.
const TABLES: [u8; 4] = [3, 10, 64, 127];
/// Not journaled: written, never expected.
pub const FLEETING: u8 = 200;
/// Parents in a table, items of a parent. Few, so that rows are overwritten and deleted all the time.
const PARENTS: u64 = 8;
const ITEMS: u64 = 24;
/// How far back a step may refer to another, so that it hits one that still matters.
const BACK_MAX: u64 = 40;

/// A change of one row, or of all rows of a parent.
pub struct Change {
    /// Its table.
    pub table: u8,
    /// Its parent.
    pub parent: String,
    /// What becomes of it.
    pub what: What,
}

/// What becomes of a row.
pub enum What {
    /// Set.
    Put(String, Vec<u8>),
    /// Removed.
    Delete(String),
    /// All rows of the parent are removed.
    DeleteAll,
}

/// One step.
pub enum Step {
    /// Write a batch.
    Write(Vec<Change>),
    /// Write an urgent batch and commit it at once.
    Revoke(Vec<Change>),
    /// Write rows that may be lost.
    Fleeting(Vec<Change>),
    /// Commit what was written.
    Commit,
    /// Create the payload of this step.
    Payload,
    /// Receive the payload of this step, in parts.
    Receive,
    /// Receive half of the payload of this step.
    Begin,
    /// Receive the rest of the payload of that step.
    Complete(u64),
    /// Delete the payload that step made or deleted: [`Plan::fate`] says which.
    Forget(u64),
    /// Sync payloads.
    Sync,
    /// Compact and collect.
    Maintain,
    /// Sync, close, open again.
    Reopen,
}

/// What a step does to which payload.
pub enum Fate {
    /// It is there.
    Made(u64),
    /// It is not there.
    Gone(u64),
}

/// A plan.
#[derive(Clone, Copy)]
pub struct Plan {
    /// All of it.
    pub seed: u64,
}

impl Plan {
    /// Step `n`.
    pub fn step(self, n: u64) -> Step {
        let mut dice = self.dice("step", n);
        let back = n.saturating_sub(1 + dice.below(BACK_MAX));
        match dice.below(100) {
            0..44 => Step::Write(self.changes(n, &mut dice)),
            44..62 => Step::Commit,
            62..76 => Step::Payload,
            76..79 => Step::Receive,
            79..82 => Step::Begin,
            82..85 if n > back && matches!(self.step(back), Step::Begin) => Step::Complete(back),
            85..90 if n > back && self.fate(back).is_some() => Step::Forget(back),
            82..94 => Step::Sync,
            94..96 => Step::Revoke(self.changes(n, &mut dice)),
            96..97 => Step::Fleeting(vec![put(FLEETING, "fleeting", "row", dice.bytes(100))]),
            97..98 => Step::Maintain,
            98..99 => Step::Reopen,
            _ => {
                let mut changes = self.changes(n, &mut dice);
                changes.push(put(TABLES[0], "large", "row", dice.bytes(120_000)));
                Step::Write(changes)
            }
        }
    }

    /// The journaled changes of step `n`, with the row that says that it was done.
    pub fn written(self, n: u64) -> Option<Vec<Change>> {
        match self.step(n) {
            Step::Write(changes) | Step::Revoke(changes) => Some(changes),
            _ => None,
        }
    }

    /// What step `n` does to a payload.
    pub fn fate(self, n: u64) -> Option<Fate> {
        match self.step(n) {
            Step::Payload | Step::Receive => Some(Fate::Made(n)),
            Step::Complete(begun) => Some(Fate::Made(begun)),
            Step::Forget(of) => match self.fate(of)? {
                Fate::Made(of) | Fate::Gone(of) => Some(Fate::Gone(of)),
            },
            _ => None,
        }
    }

    /// Whether a worker says something after step `n`.
    pub fn is_acknowledged(self, n: u64) -> bool {
        matches!(self.step(n), Step::Commit | Step::Revoke(_) | Step::Sync | Step::Reopen)
    }

    /// Whether everything written before step `n` is durable after it.
    pub fn commits(self, n: u64) -> bool {
        matches!(self.step(n), Step::Commit | Step::Revoke(_) | Step::Reopen)
    }

    /// The first step from `n` on after which a worker speaks: it cannot have gone further unheard.
    pub fn speaks_at(self, n: u64) -> u64 {
        (n..).find(|n| self.is_acknowledged(*n)).unwrap_or(u64::MAX)
    }

    /// The last step up to `n` that wrote.
    pub fn wrote_at(self, n: u64) -> Option<u64> {
        (0..=n).rev().find(|n| self.written(*n).is_some())
    }

    /// The payload made at step `n`.
    pub fn payload(self, n: u64) -> Vec<u8> {
        let mut dice = self.dice("payload", n);
        let length = match dice.below(100) {
            0..3 => 0,
            3..60 => dice.between(1, 2_000),
            60..95 => dice.between(2_000, 40_000),
            95..98 => dice.between(100_000, 300_000),
            // Above a MiB a payload is a file of its own.
            _ => dice.between(1_050_000, 1_200_000),
        };
        dice.bytes(index(length))
    }

    fn changes(self, n: u64, dice: &mut Dice) -> Vec<Change> {
        let mut changes: Vec<Change> = (0..dice.between(1, 5)).map(|_| change(dice)).collect();
        changes.push(put(META, "plan", "step", n.to_le_bytes().to_vec()));
        changes
    }

    fn dice(self, name: &str, n: u64) -> Dice {
        Dice::new(name, &[self.seed, n])
    }
}

fn change(dice: &mut Dice) -> Change {
    let table = dice.pick(&TABLES).copied().unwrap_or(TABLES[0]);
    let parent = format!("parent-{}", dice.below(PARENTS));
    let item = format!("item-{}", dice.below(ITEMS));
    match dice.below(100) {
        0..4 => Change { table, parent, what: What::DeleteAll },
        4..18 => Change { table, parent, what: What::Delete(item) },
        roll => {
            let length = if roll < 90 { dice.below(500) } else { dice.between(1_000, 12_000) };
            put(table, &parent, &item, dice.bytes(index(length)))
        }
    }
}

/// A change that sets a row.
pub fn put(table: u8, parent: &str, item: &str, value: Vec<u8>) -> Change {
    Change { table, parent: parent.to_owned(), what: What::Put(item.to_owned(), value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_holds_every_kind_of_step_and_speaks_often() {
        let plan = Plan { seed: 1 };
        let count = |is: fn(&Step) -> bool| (0..2000).filter(|n| is(&plan.step(*n))).count();
        assert!(count(|step| matches!(step, Step::Write(_))) > 700);
        assert!(count(|step| matches!(step, Step::Complete(_))) > 0);
        assert!(count(|step| matches!(step, Step::Forget(_))) > 10);
        assert!(count(|step| matches!(step, Step::Reopen)) > 5);
        assert!((0..2000).all(|n| plan.speaks_at(n) < n + 60), "a worker is never silent for long");
    }
}
