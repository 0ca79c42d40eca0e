//! What must be in a folder after some acknowledgements, and what a found folder lacks of it.
//!
//! Pure: plan, acknowledgements and a dump go in, a finding comes out.

use std::collections::{BTreeMap, BTreeSet};

use super::dump::Dump;
use super::plan::{Change, Fate, META, Plan, REVOKED, What};

/// What a worker said.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// The step found when the folder was opened, once it was opened.
    pub opened: Option<Option<u64>>,
    /// The last step whose rows are durable.
    pub committed: Option<u64>,
    /// The last step whose payloads are durable.
    pub synced: Option<u64>,
    /// The last step it spoke after.
    pub last: Option<u64>,
    /// The step it stopped at, and why.
    pub stopped: Option<String>,
    /// Revocations that were acknowledged.
    pub revoked: BTreeSet<u64>,
    /// Revocations that were refused, and why.
    pub refused: Vec<String>,
    /// Whether it came to its end.
    pub done: bool,
    /// Panics it told of.
    pub panics: Vec<String>,
}

impl Heard {
    /// Takes in one line of a worker.
    pub fn line(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = rest.parse::<u64>().ok();
        match word {
            "opened" => self.opened = Some(number),
            "committed" => (self.committed, self.last) = (number, number),
            "synced" => (self.synced, self.last) = (number, number),
            "both" => (self.committed, self.synced, self.last) = (number, number, number),
            "revoked" => self.revoked.extend(number),
            "refused" => self.refused.push(rest.to_owned()),
            "stopped" => self.stopped = Some(rest.to_owned()),
            "panic" => self.panics.push(rest.to_owned()),
            "done" => self.done = true,
            _ => {}
        }
    }
}

/// Rows by name, each with a digest of its value.
pub type Rows = BTreeMap<String, u64>;

/// What is known about a folder between two runs of a worker.
#[derive(Clone, Default)]
pub struct Known {
    /// The rows are those of at least this step.
    step: Option<u64>,
    /// The time floor is that of at least this step.
    floor_step: Option<u64>,
    /// Payloads that must be there.
    must: BTreeSet<String>,
    /// Payloads that may be there.
    may: BTreeSet<String>,
    revoked: BTreeSet<u64>,
}

/// What a dump lacks.
#[derive(Clone, Debug, Default)]
pub struct Finding {
    /// Rows and payloads that were acknowledged.
    pub acknowledged: u64,
    /// Of these, those that are not there or are wrong.
    pub lost: u64,
    /// Of these, those that nothing named as lost.
    pub silent: u64,
    /// Whether part of a commit group is there without the rest.
    pub torn_group: bool,
    /// Whether the time floor is below that of an acknowledged commit.
    pub floor_fell: bool,
    /// What is wrong, for people.
    pub what: Vec<String>,
}

impl Known {
    /// Takes in what a worker said about what it did to the folder.
    pub fn heard(&mut self, plan: Plan, heard: &Heard) {
        self.revoked.extend(&heard.revoked);
        let Some(opened) = heard.opened else { return };
        let start = opened.map_or(0, |step| step + 1);
        let reached = plan.speaks_at(heard.last.map_or(start, |last| last + 1));
        for n in start..=reached {
            let is_durable = heard.synced.is_some_and(|synced| n <= synced);
            match plan.fate(n) {
                Some(Fate::Made(of)) => self.made(name(&plan.payload(of)), is_durable),
                Some(Fate::Gone(of)) => self.gone(name(&plan.payload(of)), is_durable),
                None => {}
            }
        }
        let committed = heard.committed.and_then(|step| plan.wrote_at(step));
        self.step = self.step.max(committed);
        // What an earlier worker wrote may have come through its death without the floor it was written with.
        self.floor_step = self.floor_step.max(committed.filter(|step| *step >= start));
    }

    fn made(&mut self, id: String, is_durable: bool) {
        if is_durable {
            self.may.remove(&id);
            self.must.insert(id);
        } else if !self.must.contains(&id) {
            self.may.insert(id);
        }
    }

    fn gone(&mut self, id: String, is_durable: bool) {
        let was_there = self.must.remove(&id);
        if is_durable {
            self.may.remove(&id);
        } else if was_there {
            self.may.insert(id);
        }
    }

    /// What is lost with a folder that does not open: everything, and its refusal says so.
    pub fn lose_all(&self, plan: Plan) -> Finding {
        let mut dump = Dump::default();
        dump.named.rows = true;
        dump.named.payloads = self.must.iter().cloned().collect();
        Finding { floor_fell: false, ..self.judge(plan, &dump, None) }
    }

    /// Compares a dump with what must be there. The rows must end where a commit ended, of a worker that commits also
    /// at step `until`; `None`: they may end anywhere.
    pub fn judge(&self, plan: Plan, dump: &Dump, until: Option<u64>) -> Finding {
        let mut finding = Finding::default();
        self.judge_rows(plan, dump, until, &mut finding);
        self.judge_payloads(dump, &mut finding);
        for n in &self.revoked {
            finding.acknowledged += 1;
            if !dump.revoked.contains(n) {
                finding.lose(format!("revocation {n}"), dump.named.rows);
            }
        }
        // The floor is raised before every step that writes.
        finding.floor_fell = self.floor_step.is_some_and(|step| dump.floor < step + 1);
        finding
    }

    fn judge_rows(&self, plan: Plan, dump: &Dump, until: Option<u64>, finding: &mut Finding) {
        // A later state than the acknowledged one is allowed: the state of a commit that had not returned.
        let is_late = dump.step >= self.step;
        let step = if is_late { dump.step } else { self.step };
        let expected = step.map_or_else(Rows::new, |step| rows_at(plan, step));
        finding.acknowledged += expected.len() as u64;
        let names: BTreeSet<&String> = expected.keys().chain(dump.rows.keys()).collect();
        for name in names.into_iter().filter(|name| expected.get(*name) != dump.rows.get(*name)) {
            let what = match (expected.contains_key(name), dump.rows.contains_key(name)) {
                (true, false) => "is missing",
                (false, true) => "should not be there",
                _ => "has another value",
            };
            finding.lose(format!("row {name} {what}"), dump.named.rows);
        }
        if !is_late && finding.lost == 0 {
            finding.lose(format!("step {:?}, found {:?}", self.step, dump.step), dump.named.rows);
        }
        if let (Some(found), Some(until), true) = (dump.step, until, is_late) {
            let next = (found + 1..until).find(|n| plan.commits(*n) || plan.written(*n).is_some());
            // A revocation is written and committed in one step, but it shares a group with what was written before.
            let ends = Some(found) == self.step
                || plan.commits(found)
                || next.is_none_or(|n| plan.commits(n) && plan.written(n).is_none());
            finding.torn_group = !ends;
        }
    }

    fn judge_payloads(&self, dump: &Dump, finding: &mut Finding) {
        finding.acknowledged += self.must.len() as u64;
        let is_named = |id: &String| dump.named.payloads.contains(id);
        for id in &self.must {
            match dump.payloads.get(id) {
                Some(true) => {}
                Some(false) => finding.lose(format!("payload {id} is wrong"), is_named(id)),
                None => finding.lose(format!("payload {id} is missing"), is_named(id)),
            }
        }
        for (id, is_right) in &dump.payloads {
            if self.must.contains(id) {
                continue;
            }
            if !self.may.contains(id) {
                finding.lose(format!("payload {id} was deleted and is back"), is_named(id));
            } else if !is_right {
                finding.lose(format!("payload {id} is visible and wrong"), is_named(id));
            }
        }
    }

    /// Takes what was found, and found right, for what is there.
    pub fn adopt(&mut self, dump: &Dump) {
        self.step = dump.step;
        self.must = dump.payloads.keys().cloned().collect();
        self.may.clear();
        self.revoked.clone_from(&dump.revoked);
    }
}

impl Finding {
    fn lose(&mut self, what: String, is_named: bool) {
        self.lost += 1;
        self.silent += u64::from(!is_named);
        self.what.push(what);
    }
}

/// The rows of the plan after step `step`.
fn rows_at(plan: Plan, step: u64) -> Rows {
    let mut rows = Rows::new();
    for n in 0..=step {
        plan.written(n).into_iter().flatten().for_each(|change| apply(&mut rows, change));
    }
    rows
}

fn apply(rows: &mut Rows, Change { table, parent, what }: Change) {
    if table == META || table == REVOKED {
        return;
    }
    match what {
        What::Put(item, value) => {
            rows.insert(row_name(table, &parent, &item), digest(&value));
        }
        What::Delete(item) => {
            rows.remove(&row_name(table, &parent, &item));
        }
        What::DeleteAll => {
            let prefix = row_name(table, &parent, "");
            rows.retain(|name, _| !name.starts_with(&prefix));
        }
    }
}

/// How a row is called in a dump.
pub fn row_name(table: u8, parent: &str, item: &str) -> String {
    format!("{table}/{parent}/{item}")
}

/// 64 bits of a value's hash: enough to see a wrong one.
pub fn digest(bytes: &[u8]) -> u64 {
    let hash = blake3::hash(bytes);
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A payload's name.
fn name(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a worker leaves that did everything up to and with step `n`, and synced last.
    fn left(plan: Plan, n: u64) -> (Known, Dump) {
        let mut known = Known::default();
        let all = Heard {
            opened: Some(None),
            committed: Some(n),
            synced: Some(n),
            last: Some(n),
            ..Heard::default()
        };
        known.heard(plan, &all);
        let step = plan.wrote_at(n);
        let payloads = known.must.iter().map(|id| (id.clone(), true)).collect();
        let rows = step.map_or_else(Rows::new, |step| rows_at(plan, step));
        (known, Dump { step, rows, payloads, floor: n + 1, opened: Some("clean".into()), ..Dump::default() })
    }

    #[test]
    fn a_folder_as_it_was_left_lacks_nothing() {
        let plan = Plan { seed: 3 };
        let (known, dump) = left(plan, 200);
        let finding = known.judge(plan, &dump, Some(201));
        assert!(finding.acknowledged > 50, "{finding:?}");
        assert_eq!((finding.lost, finding.torn_group, finding.floor_fell), (0, false, false), "{finding:?}");
    }

    #[test]
    fn everything_that_can_be_wrong_with_a_folder_is_found() {
        let plan = Plan { seed: 3 };
        let (known, good) = left(plan, 200);
        let lost = |change: &dyn Fn(&mut Dump)| {
            let mut dump = good.clone();
            change(&mut dump);
            let finding = known.judge(plan, &dump, Some(201));
            (finding.lost, finding.silent)
        };
        assert_eq!(lost(&|dump| drop(dump.rows.pop_first())), (1, 1), "a missing row");
        assert_eq!(lost(&|dump| *dump.rows.values_mut().next().unwrap() += 1), (1, 1), "a wrong row");
        assert_eq!(
            lost(&|dump| {
                dump.rows.insert("3/x/y".into(), 1);
            }),
            (1, 1),
            "a row too many"
        );
        assert_eq!(lost(&|dump| drop(dump.payloads.pop_first())), (1, 1), "a missing payload");
        assert_eq!(
            lost(&|dump| {
                dump.payloads.insert("00".into(), true);
            }),
            (1, 1),
            "a payload that is back"
        );
        assert_eq!(lost(&|dump| dump.step = None), (1, 1), "a state that says it is older");
        let named = |dump: &mut Dump| {
            dump.named.rows = true;
            dump.rows.clear();
        };
        let (lost_rows, silent) = lost(&named);
        assert!(lost_rows > 50 && silent == 0, "what is named is not silent");
    }
}
