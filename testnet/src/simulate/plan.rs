//! What happens in a run, decided from its seed before it begins: a list of deeds with their times.
//!
//! Each deed stands alone: what it names is looked up when it is done, and a deed that finds nothing to do does
//! nothing. So any of them can be left out, which is how a failure shrinks.

use crate::faults::dice::{Dice, index};
use karte_protocol::time::{DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS};

/// Simulated days before everything is healed.
pub const DAYS: i64 = 45;
/// Patients, by number of their node.
pub const PATIENTS: std::ops::Range<usize> = 0..3;
/// Clinics.
pub const CLINICS: std::ops::Range<usize> = 3..7;
/// The party that is made a steward, and colludes.
pub const STEWARD: usize = 7;
/// Names of all nodes.
pub const NAMES: [&str; 8] = ["hana", "omar", "mei", "sakura", "penang", "kyoto", "lima", "haven"];

/// When a crash falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Between two steps.
    Idle,
    /// After the next step that writes, before its commit.
    Uncommitted,
    /// After the next step's commit, before anything is said of it.
    Unsaid,
}

/// What the stolen device of a patient does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Theft {
    /// Signs a second entry with a seq that it has used.
    Forks,
    /// Gives a grant.
    Grants,
    /// Adds a device of the thief's.
    Adds,
    /// Removes the patient's own device.
    RemovesOwner,
    /// Removes itself, to be removed with what it signed before.
    Revokes,
    /// Says that all is as it was; minutes into the future.
    Says { ahead_min: i64 },
    /// Brings what the steward said.
    BringsStewardsWord,
    /// Begins a new generation without the keys for it.
    RecoversWithoutKeys,
    /// Begins a new generation with the stolen words.
    RecoversWithStolenWords,
}

/// What somebody inside a clinic does with its device key, past the rules of its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// Asks twice with one Release.
    Replays,
    /// Goes on two hours after a Release.
    Stays,
    /// Asks for another purpose.
    OtherPurpose,
    /// Asks with a Release for another device.
    OtherDevice,
    /// Accepts a grant of another clinic.
    AcceptsOthers,
    /// Greets with the oldest Status it ever said.
    OldStatus,
    /// Asks for the log, and for grants that are not its own.
    Pries,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are node numbers, milliseconds and draws; the names say which")]
pub enum Deed {
    Writes { who: usize, about: usize, vital: bool },
    Grants { holder: usize, reader: usize, offline_ms: i64, expires_ms: i64, labs_only: bool },
    Accepts { reader: usize, nth: u64 },
    Declines { reader: usize, nth: u64 },
    Syncs { who: usize, with: usize },
    Opens { who: usize, nth: u64 },
    Revokes { holder: usize, nth: u64 },
    Crashes { who: usize, moment: Moment, down_ms: i64 },
    Copies { who: usize },
    Restores { who: usize, nth: u64, noticed: bool },
    ClockJumps { who: usize, by_ms: i64, for_ms: i64 },
    Cut { one: usize, other: usize, for_ms: i64 },
    Loses { one: usize, other: usize, percent: u64, for_ms: i64 },
    Slow { one: usize, other: usize, most_ms: i64, for_ms: i64 },
    Doubles { one: usize, other: usize, for_ms: i64 },
    Enrols { patient: usize },
    Appoints { patient: usize },
    Phone { patient: usize, at: usize, theft: Theft, nth: u64 },
    RemovesPhone { patient: usize, keeps: bool },
    Recovers { patient: usize },
    Insider { clinic: usize, patient: usize, inside: Inside, nth: u64 },
}

/// A deed and when it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds after the beginning.
    pub at_ms: i64,
    /// What.
    pub deed: Deed,
}

/// A run: its seed, who breaks rules in it from the start, and what happens.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All choices follow from it.
    pub seed: u64,
    /// A patient whose node shelves more than it granted.
    pub rogue: Option<usize>,
    /// In order of time.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Self {
        let mut maker = Maker { dice: Dice::new("simulate plan", &[seed]), steps: vec![] };
        let rogue = maker.dice.chance(30).then(|| maker.patient());
        maker.begin();
        for _ in 0..maker.dice.between(22, 34) {
            maker.scene();
        }
        let mut steps = maker.steps;
        steps.sort_by_key(|step| step.at_ms);
        Self { seed, rogue, steps }
    }
}

struct Maker {
    dice: Dice,
    steps: Vec<Step>,
}

impl Maker {
    fn node(&mut self, from: std::ops::Range<usize>) -> usize {
        from.start + index(self.dice.below(from.len() as u64))
    }

    fn patient(&mut self) -> usize {
        self.node(PATIENTS)
    }

    fn clinic(&mut self) -> usize {
        self.node(CLINICS)
    }

    fn span(&mut self, from_ms: i64, until_ms: i64) -> i64 {
        let width = u64::try_from(until_ms - from_ms).unwrap_or_default();
        from_ms + i64::try_from(self.dice.below(width)).unwrap_or_default()
    }

    fn at(&mut self, at_ms: i64, deed: Deed) {
        self.steps.push(Step { at_ms, deed });
    }

    fn one_of<T: Copy>(&mut self, from: &[T]) -> T {
        *self.dice.pick(from).expect("the lists of the plan are not empty")
    }

    /// Everybody has something, and some grants stand, before things go wrong.
    fn begin(&mut self) {
        for patient in PATIENTS {
            for vital in [false, true] {
                self.at(MINUTE_MS, Deed::Writes { who: patient, about: patient, vital });
            }
            let reader = self.clinic();
            self.give(patient, reader, HOUR_MS);
        }
    }

    /// Somebody gives, and the other side takes.
    fn give(&mut self, holder: usize, reader: usize, at: i64) {
        let offline_ms = self.one_of(&[30 * MINUTE_MS, 6 * HOUR_MS, DAY_MS, 3 * DAY_MS, 10 * DAY_MS]);
        let expires_ms = self.one_of(&[6 * HOUR_MS, 3 * DAY_MS, 20 * DAY_MS, 90 * DAY_MS, 90 * DAY_MS]);
        let labs_only = self.dice.chance(70);
        self.at(at, Deed::Grants { holder, reader, offline_ms, expires_ms, labs_only });
        self.at(at + MINUTE_MS, Deed::Syncs { who: holder, with: reader });
        let takes = at + self.span(2 * MINUTE_MS, 30 * MINUTE_MS);
        let nth = self.dice.number();
        match self.dice.chance(12) {
            true => self.at(takes, Deed::Declines { reader, nth }),
            false => self.at(takes, Deed::Accepts { reader, nth }),
        }
        self.at(takes + MINUTE_MS, Deed::Syncs { who: reader, with: holder });
        let opens = takes + self.span(2 * MINUTE_MS, 2 * DAY_MS);
        self.open(reader, opens);
    }

    fn open(&mut self, who: usize, at: i64) {
        let nth = self.dice.number();
        self.at(at, Deed::Opens { who, nth });
    }

    /// A patient names a steward, brings it what it gives, and is away when its reader comes.
    fn stand_in(&mut self, patient: usize, clinic: usize, at: i64) {
        self.at(at, Deed::Appoints { patient });
        self.give(patient, clinic, at + HOUR_MS);
        for days in 2..5 {
            let meets = at + days * DAY_MS;
            self.at(meets, Deed::Syncs { who: patient, with: clinic });
            let away = Deed::Crashes { who: patient, moment: Moment::Idle, down_ms: 12 * HOUR_MS };
            self.at(meets + HOUR_MS, away);
            self.at(meets + 2 * HOUR_MS, Deed::Syncs { who: clinic, with: patient });
        }
    }

    /// Some deeds that belong together.
    fn scene(&mut self) {
        let at = self.span(2 * HOUR_MS, DAYS * DAY_MS);
        let (patient, clinic) = (self.patient(), self.clinic());
        match self.dice.below(24) {
            0..=3 => self.give(patient, clinic, at),
            4 | 5 => self.meet(patient, clinic, at),
            6 => self.revoke(patient, clinic, at),
            7 => self.crash(patient, clinic, at),
            8 => self.old_copy(patient, clinic, at),
            9 => self.wrong_clock(patient, clinic, at),
            10 => self.eclipse(patient, clinic, at),
            11 | 12 => self.weather(patient, clinic, at),
            13..=16 => self.theft(patient, at),
            17 => self.stand_in(patient, clinic, at),
            18 => self.recover(patient, clinic, at),
            19..=22 => self.insider(patient, clinic, at),
            _ => self.write_back(patient, clinic, at),
        }
    }

    fn meet(&mut self, patient: usize, clinic: usize, at: i64) {
        let vital = self.dice.chance(40);
        self.at(at, Deed::Writes { who: patient, about: patient, vital });
        self.at(at + SECOND_MS, Deed::Syncs { who: clinic, with: patient });
        for _ in 0..3 {
            let later = at + self.span(MINUTE_MS, 4 * DAY_MS);
            self.open(clinic, later);
        }
    }

    fn revoke(&mut self, patient: usize, clinic: usize, at: i64) {
        let nth = self.dice.number();
        self.at(at, Deed::Revokes { holder: patient, nth });
        let later = at + self.span(MINUTE_MS, DAY_MS);
        self.at(later, Deed::Syncs { who: clinic, with: patient });
        self.open(clinic, later + HOUR_MS);
        if self.dice.chance(40) {
            self.give(patient, clinic, later + 2 * HOUR_MS);
        }
    }

    fn crash(&mut self, patient: usize, clinic: usize, at: i64) {
        let moment = self.one_of(&[Moment::Idle, Moment::Uncommitted, Moment::Unsaid]);
        let down_ms = self.one_of(&[SECOND_MS, 10 * MINUTE_MS, DAY_MS]);
        let who = if self.dice.chance(60) { patient } else { clinic };
        self.at(at, Deed::Crashes { who, moment, down_ms });
        match self.dice.below(3) {
            0 => self.give(patient, clinic, at + SECOND_MS),
            1 => self.revoke(patient, clinic, at + SECOND_MS),
            _ => self.meet(patient, clinic, at + SECOND_MS),
        }
        self.at(at + down_ms + HOUR_MS, Deed::Crashes { who, moment: Moment::Idle, down_ms: SECOND_MS });
    }

    /// A copy, something signed after it, and the copy started again.
    fn old_copy(&mut self, patient: usize, clinic: usize, at: i64) {
        let who = if self.dice.chance(75) { patient } else { clinic };
        self.at(at, Deed::Copies { who });
        self.give(patient, clinic, at + HOUR_MS);
        let back = at + self.span(3 * HOUR_MS, 6 * DAY_MS);
        let (nth, noticed) = (self.dice.number(), self.dice.chance(25));
        self.at(back, Deed::Restores { who, nth, noticed });
        if self.dice.chance(40) {
            // Signed before anybody could tell it: a fork.
            self.give(patient, clinic, back + SECOND_MS);
        }
        self.at(back + HOUR_MS, Deed::Syncs { who: patient, with: clinic });
        self.give(patient, clinic, back + 2 * HOUR_MS);
        if who == patient && self.dice.chance(50) {
            self.at(back + DAY_MS, Deed::Recovers { patient });
            self.give(patient, clinic, back + DAY_MS + HOUR_MS);
        }
    }

    fn wrong_clock(&mut self, patient: usize, clinic: usize, at: i64) {
        let who = if self.dice.chance(50) { patient } else { clinic };
        let by_ms = self.one_of(&[-3 * DAY_MS, -30 * HOUR_MS, -HOUR_MS, 8 * MINUTE_MS, HOUR_MS, 3 * DAY_MS]);
        let for_ms = self.span(10 * MINUTE_MS, 2 * DAY_MS);
        self.meet(patient, clinic, at - HOUR_MS);
        self.at(at, Deed::ClockJumps { who, by_ms, for_ms });
        self.at(at + MINUTE_MS, Deed::Syncs { who: clinic, with: patient });
        self.open(clinic, at + 2 * MINUTE_MS);
        let later = at + self.span(0, 4 * DAY_MS);
        self.open(clinic, later);
    }

    /// One side is kept from hearing of the other for long.
    fn eclipse(&mut self, patient: usize, clinic: usize, at: i64) {
        let for_ms = self.span(DAY_MS, 12 * DAY_MS);
        self.meet(patient, clinic, at - HOUR_MS);
        self.at(at, Deed::Cut { one: patient, other: clinic, for_ms });
        let nth = self.dice.number();
        self.at(at + HOUR_MS, Deed::Revokes { holder: patient, nth });
        for _ in 0..4 {
            let later = at + self.span(0, for_ms);
            self.open(clinic, later);
        }
        self.at(at + for_ms + MINUTE_MS, Deed::Syncs { who: clinic, with: patient });
    }

    fn weather(&mut self, one: usize, other: usize, at: i64) {
        let for_ms = self.span(HOUR_MS, 4 * DAY_MS);
        match self.dice.below(3) {
            0 => {
                let percent = self.dice.between(10, 60);
                self.at(at, Deed::Loses { one, other, percent, for_ms });
            }
            1 => {
                let most_ms = self.one_of(&[MINUTE_MS, 6 * HOUR_MS, 3 * DAY_MS]);
                self.at(at, Deed::Slow { one, other, most_ms, for_ms });
            }
            _ => self.at(at, Deed::Doubles { one, other, for_ms }),
        }
        self.give(one, other, at + MINUTE_MS);
        self.meet(one, other, at + HOUR_MS);
        self.revoke(one, other, at + 3 * HOUR_MS);
    }

    fn theft(&mut self, patient: usize, at: i64) {
        self.at(at, Deed::Enrols { patient });
        let mut later = at;
        for _ in 0..self.dice.between(2, 5) {
            later += self.span(MINUTE_MS, DAY_MS);
            let theft = match self.dice.below(14) {
                0 | 1 => Theft::Forks,
                2 | 3 => Theft::Grants,
                4 => Theft::Adds,
                5 => Theft::RemovesOwner,
                6 | 7 => Theft::Revokes,
                8 => Theft::Says { ahead_min: 0 },
                9 => Theft::Says { ahead_min: 9 },
                10 => Theft::Says { ahead_min: 3 * 24 * 60 },
                11 => Theft::BringsStewardsWord,
                12 => Theft::RecoversWithoutKeys,
                _ => Theft::RecoversWithStolenWords,
            };
            if theft == Theft::BringsStewardsWord {
                self.at(later - SECOND_MS, Deed::Appoints { patient });
            }
            let clinic = self.clinic();
            self.at(later - 2 * SECOND_MS, Deed::Syncs { who: clinic, with: patient });
            let nth = self.dice.number();
            self.at(later, Deed::Phone { patient, at: clinic, theft, nth });
            // A word nine minutes ahead is newer than the owner's next one, which ends the device that said it.
            if theft == (Theft::Says { ahead_min: 9 }) || self.dice.chance(35) {
                let keeps = self.dice.chance(50);
                self.at(later + MINUTE_MS, Deed::RemovesPhone { patient, keeps });
                self.at(later + 2 * MINUTE_MS, Deed::Syncs { who: clinic, with: patient });
                self.open(clinic, later + 3 * MINUTE_MS);
            }
        }
        if self.dice.chance(40) {
            self.at(later + HOUR_MS, Deed::Recovers { patient });
        }
    }

    fn recover(&mut self, patient: usize, clinic: usize, at: i64) {
        self.meet(patient, clinic, at - HOUR_MS);
        self.at(at, Deed::Recovers { patient });
        self.at(at + HOUR_MS, Deed::Syncs { who: clinic, with: patient });
        self.open(clinic, at + 2 * HOUR_MS);
        self.give(patient, clinic, at + 3 * HOUR_MS);
    }

    fn insider(&mut self, patient: usize, clinic: usize, at: i64) {
        self.meet(patient, clinic, at - 3 * HOUR_MS);
        let all = [
            Inside::Replays,
            Inside::Stays,
            Inside::OtherPurpose,
            Inside::OtherDevice,
            Inside::AcceptsOthers,
            Inside::OldStatus,
            Inside::Pries,
        ];
        let (inside, nth) = (self.one_of(&all), self.dice.number());
        self.at(at, Deed::Insider { clinic, patient, inside, nth });
    }

    /// A clinic writes about a patient, and grants it home.
    fn write_back(&mut self, patient: usize, clinic: usize, at: i64) {
        self.at(at, Deed::Writes { who: clinic, about: patient, vital: false });
        self.give(clinic, patient, at + MINUTE_MS);
    }
}
