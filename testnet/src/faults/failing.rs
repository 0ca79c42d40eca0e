//! A full disk and a failing one, from every call that writes; a revocation must be recorded all the same.
//!
//! The disk without room keeps a budget: what is freed can be written again, as a reserve file needs it. Where the
//! system allows it, some trials fill a small file system of their own.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::dice::{Dice, index};
use super::lane::{self, Case, Lane, Run};
use super::model::{Heard, Known};
use super::plan::Plan;
use super::shim::{Fault, counters};
use super::{Kind, Options, Tally};

/// Folders that trials are made from: half of them closed, half of them killed.
const TEMPLATES: u64 = 4;
/// Steps done before, and steps under the fault.
const STEPS_BEFORE: u64 = 60;
const STEPS: u64 = 40;
/// Trials that fill a real file system, of so many bytes.
const REAL_TRIALS: u64 = 4;
const REAL_MIB: u64 = 40;
/// Steps that are sure to fill it.
const REAL_STEPS: u64 = 20_000;

struct Template {
    dir: tempfile::TempDir,
    plan: Plan,
    known: Known,
    calls: u64,
}

/// Full or failing disks.
pub(super) fn failing(kind: Kind, options: &Options) -> io::Result<Tally> {
    let templates: Vec<OnceLock<Template>> = (0..TEMPLATES).map(|_| OnceLock::new()).collect();
    let template = |lane: &Lane, number: u64| -> io::Result<&Template> {
        let slot = &templates[index(number)];
        if let Some(template) = slot.get() {
            return Ok(template);
        }
        let built = build(lane, number)?;
        Ok(slot.get_or_init(|| built))
    };
    let mut options = options.clone();
    if options.every_call {
        let each = Options { trials: TEMPLATES, only: None, ..options.clone() };
        lane::run(kind, &each, 1, &|lane, trials| template(lane, trials.start).map(|_| Tally::default()))?;
        let calls = templates.iter().filter_map(OnceLock::get).map(|template| template.calls).max();
        options.trials = TEMPLATES * calls.unwrap_or(0) * faults(kind).len() as u64;
    }
    lane::run(kind, &options, 1, &|lane, trials: Range<u64>| {
        let trial = trials.end - 1;
        if kind == Kind::Enospc && trial < REAL_TRIALS && !lane.options.every_call {
            return really_full(lane, trial);
        }
        let template = template(lane, trial % TEMPLATES)?;
        fail(lane, template, trial)
    })
}

fn build(lane: &Lane, number: u64) -> io::Result<Template> {
    let plan = Plan { seed: Dice::new("failing", &[lane.options.seed, number]).number() };
    let holder = tempfile::Builder::new().prefix("karte-faults-").tempdir_in(&lane.options.dir)?;
    let dir = holder.path().join("store");
    std::fs::create_dir(&dir)?;
    let mut run = Run::new(&dir, plan, STEPS_BEFORE);
    run.hangs = !number.is_multiple_of(2);
    let heard = lane.work(&run)?;
    if !heard.done {
        return Err(io::Error::other(format!("a worker without a fault did not come to its end: {heard:?}")));
    }
    let mut known = Known::default();
    known.heard(plan, &heard);
    let probe = lane.dir.join("store");
    lane::clear(&probe)?;
    lane::copy(&dir, &probe)?;
    let mut run = Run::new(&probe, plan, STEPS_BEFORE + STEPS);
    run.fault = Some((Fault::Count, 0));
    lane.work(&run)?;
    let calls = counters(&lane.out()).0;
    Ok(Template { dir: holder, plan, known, calls })
}

fn fail(lane: &mut Lane, template: &Template, trial: u64) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let faults = faults(lane.kind);
    let turn = trial / TEMPLATES;
    let ((fault, part), n) = if lane.options.every_call {
        let kinds = faults.len() as u64;
        (faults[index(turn % kinds)], 1 + turn / kinds)
    } else {
        let mut dice = Dice::new("fail", &[lane.options.seed, trial]);
        let slots = lane.options.trials.div_ceil(TEMPLATES).max(1);
        (dice.pick(faults).copied().unwrap_or(faults[0]), 1 + turn * template.calls / slots)
    };
    let dir = lane.dir.join("store");
    lane::clear(&dir)?;
    lane::copy(&template.dir.path().join("store"), &dir)?;
    let mut run = Run::new(&dir, template.plan, STEPS_BEFORE + STEPS);
    (run.fault, run.revokes) = (Some((fault, n)), true);
    let heard = lane.work(&run)?;
    let mut known = template.known.clone();
    known.heard(template.plan, &heard);
    let must_record = fault != Fault::EioEver;
    count_revocations(lane, &heard, must_record, trial, part, &mut tally);
    let case = Case { dir: &dir, kept: None, plan: template.plan, trial, part, until: None };
    lane.judge(&case, &known, false, &mut tally)?;
    Ok(tally)
}

/// What a disk may do, from one call on or at one call.
fn faults(kind: Kind) -> &'static [(Fault, &'static str)] {
    match kind {
        Kind::Enospc => &[
            (Fault::FullEver(0), "no byte left"),
            (Fault::FullEver(64 << 10), "64 KiB left"),
            (Fault::FullOnce, "full once"),
        ],
        _ => &[(Fault::EioOnce, "fails once"), (Fault::EioEver, "fails until repaired")],
    }
}

/// The first revocation must be recorded while the disk is full, the second once it is well again.
fn count_revocations(lane: &Lane, heard: &Heard, at_once: bool, trial: u64, part: &str, tally: &mut Tally) {
    for panic in &heard.panics {
        tally.panics += 1;
        tally.tell(&format!("{part}, worker panics"), lane.kind, lane.options, trial, panic);
    }
    tally.broken_off += u64::from(heard.stopped.is_some());
    let felt = heard.stopped.as_deref().unwrap_or("nothing");
    let must = match (heard.stopped.is_some(), at_once) {
        (true, true) => vec![0, 1],
        (true, false) => vec![1],
        (false, _) => vec![0],
    };
    for number in must.into_iter().filter(|number| !heard.revoked.contains(number)) {
        tally.revocations_not_recorded += 1;
        let when = if number == 0 { "while the disk fails" } else { "after it was repaired" };
        let why = heard.refused.join("; ");
        let what = format!("first felt: {felt}; {why}");
        tally.tell(&format!("{part}, no revocation {when}"), lane.kind, lane.options, trial, &what);
    }
    if !heard.done {
        tally.stopped += 1;
        let class = format!("{part}, the worker hangs or died");
        tally.tell(&class, lane.kind, lane.options, trial, felt);
    }
}

/// Fills a file system in memory. Only root may mount one; others skip this.
fn really_full(lane: &mut Lane, trial: u64) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let plan = Plan { seed: Dice::new("really full", &[lane.options.seed, trial]).number() };
    let dir = lane.fresh("small")?;
    let Some(_mounted) = Mounted::at(&dir) else {
        eprintln!("skipped 1: a real full disk needs the right to mount one");
        return Ok(tally);
    };
    let store = dir.join("store");
    std::fs::create_dir(&store)?;
    let mut run = Run::new(&store, plan, REAL_STEPS);
    run.revokes = true;
    let heard = lane.work(&run)?;
    let part = "a real file system";
    let mut known = Known::default();
    known.heard(plan, &heard);
    // There nobody makes room again, so the second revocation is made on a full disk as well.
    count_revocations(lane, &heard, true, trial, part, &mut tally);
    // Read in a place with room: whether a full disk can be read is another question than what is on it.
    let copy = lane.dir.join("store");
    lane::clear(&copy)?;
    lane::copy(&store, &copy)?;
    let case = Case { dir: &copy, kept: None, plan, trial, part, until: None };
    lane.judge(&case, &known, false, &mut tally)?;
    Ok(tally)
}

/// A mounted file system, until it is dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn at(dir: &'a Path) -> Option<Self> {
        let size = format!("size={REAL_MIB}m");
        quietly(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "karte-faults"]).arg(dir))
            .then_some(Self(dir))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A worker that is still dying may hold it for a moment; in the end it goes when the last one lets go.
        let unmounted = (0..50).any(|_| {
            quietly(Command::new("umount").arg(self.0)) || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                false
            }
        });
        if !unmounted {
            quietly(Command::new("umount").arg("--lazy").arg(self.0));
        }
    }
}

fn quietly(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
