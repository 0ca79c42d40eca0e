//! What trials add up to, and whether it is good enough.

use serde::Serialize;
use std::collections::BTreeMap;

use super::dump::Dump;
use super::judge::Broken;
use super::model::Finding;
use super::{Kind, Options};

/// How many failures of one class are told in words.
const TOLD_MAX: usize = 3;

/// Sums over trials of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Folders judged.
    pub trials: u64,
    /// Rows, payloads and revocations that had been acknowledged.
    pub acknowledged: u64,
    /// Of these, not there or wrong.
    pub lost: u64,
    /// Of these, named by no error and no check.
    pub silent: u64,
    /// Folders that did not open, not even by salvage.
    pub unopenable: u64,
    /// Panics and aborts, of workers and judges.
    pub panics: u64,
    /// Trials in which the fault came before the worker was done.
    pub broken_off: u64,
    /// Folders that were refused first and salvaged.
    pub salvaged: u64,
    /// Folders in which part of a commit group is there without the rest.
    pub torn_groups: u64,
    /// Folders whose time floor is below that of an acknowledged commit.
    pub floors_fallen: u64,
    /// Revocations that could not be recorded although they had to be.
    pub revocations_not_recorded: u64,
    /// Workers that stopped on an error where none was made.
    pub stopped: u64,
    /// How long it took.
    pub seconds: f64,
    /// By kind of file or of fault: trials, and of these not opened, lost or silent.
    pub parts: BTreeMap<String, Part>,
    /// What failed, by class, in words, with what repeats it.
    #[serde(skip)]
    pub failures: BTreeMap<String, Vec<String>>,
}

/// Trials of one part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Part {
    /// Folders judged.
    pub trials: u64,
    /// Of these, not opened.
    pub unopenable: u64,
    /// Acknowledged things lost.
    pub lost: u64,
    /// Of these, silent.
    pub silent: u64,
}

impl Part {
    /// In words.
    pub fn told(&self) -> String {
        let Self { trials, unopenable, lost, silent } = self;
        format!("{trials} trials, {unopenable} unopenable, {lost} lost, {silent} silent")
    }
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.trials += other.trials;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.silent += other.silent;
        self.unopenable += other.unopenable;
        self.panics += other.panics;
        self.broken_off += other.broken_off;
        self.salvaged += other.salvaged;
        self.torn_groups += other.torn_groups;
        self.floors_fallen += other.floors_fallen;
        self.revocations_not_recorded += other.revocations_not_recorded;
        self.stopped += other.stopped;
        for (name, part) in other.parts {
            let sum = self.parts.entry(name).or_default();
            sum.trials += part.trials;
            sum.unopenable += part.unopenable;
            sum.lost += part.lost;
            sum.silent += part.silent;
        }
        for (class, told) in other.failures {
            let sum = self.failures.entry(class).or_default();
            sum.extend(told);
            sum.truncate(TOLD_MAX);
        }
    }

    /// Counts a judged folder. True when nothing is wrong with it that its kind of fault does not excuse.
    pub fn count(&mut self, kind: Kind, part: &str, dump: &Result<Dump, Broken>, finding: &Finding) -> bool {
        self.trials += 1;
        self.acknowledged += finding.acknowledged;
        let opened = dump.as_ref().is_ok_and(|dump| dump.opened.is_some());
        let panics = match dump {
            Ok(dump) => dump.panics,
            Err(Broken::Died) => 1,
            Err(Broken::Hung) => 0,
        };
        self.panics += panics;
        self.salvaged += u64::from(dump.as_ref().is_ok_and(|dump| dump.salvaged));
        self.torn_groups += u64::from(finding.torn_group);
        let part = self.parts.entry(part.to_owned()).or_default();
        part.trials += 1;
        part.lost += finding.lost;
        part.silent += finding.silent;
        part.unopenable += u64::from(!opened);
        self.lost += finding.lost;
        self.silent += finding.silent;
        self.unopenable += u64::from(!opened);
        self.floors_fallen += u64::from(finding.floor_fell);
        let lost = if kind.damages() { finding.silent } else { finding.lost + u64::from(finding.floor_fell) };
        opened && panics == 0 && lost == 0 && !finding.torn_group
    }

    /// Which bars of this kind do not hold. A fault of the disk's content may lose what it hits, but never silently;
    /// every other fault may lose nothing.
    pub fn missed(&self, kind: Kind) -> Vec<String> {
        let damages = kind.damages();
        let bars = [
            ("lost", self.lost, !damages),
            ("silent", self.silent, true),
            ("unopenable", self.unopenable, true),
            ("panics", self.panics, true),
            ("torn_groups", self.torn_groups, true),
            // With one of its two slots the witness loses the last floor, and nothing can tell.
            ("floors_fallen", self.floors_fallen, !damages),
            ("stopped", self.stopped, true),
            ("revocations_not_recorded", self.revocations_not_recorded, true),
        ];
        let missed = bars.into_iter().filter(|(_, number, counts)| *counts && *number > 0);
        missed.map(|(name, number, _)| format!("{} {name} {number}, expected 0", kind.name())).collect()
    }

    /// Tells a failure, with the command that repeats it. Of one class the first few are kept.
    pub fn tell(&mut self, class: &str, kind: Kind, options: &Options, trial: u64, what: &str) {
        let told = self.failures.entry(class.to_owned()).or_default();
        if told.len() < TOLD_MAX {
            let (name, Options { seed, trials, .. }) = (kind.name(), options);
            let which =
                if options.every_call { "--every-call".to_owned() } else { format!("--trials {trials}") };
            told.push(format!(
                "{name}, {class}: {what}\n    repeat: testnet faults --kind {name} {which} --seed {seed} --trial {trial}"
            ));
        }
    }
}
