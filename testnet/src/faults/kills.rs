//! SIGKILL: at random times, many times in the life of a folder; and at every call that writes.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::Duration;

use super::dice::{Dice, index};
use super::lane::{self, Case, Lane, Run};
use super::model::Known;
use super::plan::Plan;
use super::shim::{Fault, counters};
use super::{Kind, Options, Tally};

/// Kills in the life of one folder.
const KILLS: u64 = 8;
/// How long a worker lives at most before it is killed: opening takes some 10 ms, a step far less than one.
const LIFE_MS_MAX: u64 = 90;
/// Steps of a plan whose calls are counted.
const STEPS: u64 = 40;
/// Trials that share a plan.
const TRIALS_OF_PLAN: u64 = 300;

/// Kills at random times.
pub(super) fn random(options: &Options) -> std::io::Result<Tally> {
    lane::run(Kind::Kill, options, KILLS, &life)
}

/// The life of one folder: worked on, killed, sometimes judged, worked on again.
fn life(lane: &mut Lane, trials: Range<u64>) -> std::io::Result<Tally> {
    let (mut tally, mut known) = (Tally::default(), Known::default());
    let mut dice = Dice::new("kill", &[lane.options.seed, trials.start]);
    let plan = Plan { seed: dice.number() };
    let dir = lane.fresh("store")?;
    for trial in trials {
        let unjudged = dice.chance(30);
        for _ in 0..=u64::from(unjudged) {
            let mut run = Run::new(&dir, plan, u64::MAX);
            run.killed_after = Some(Duration::from_millis(dice.between(1, LIFE_MS_MAX)));
            let heard = lane.work(&run)?;
            known.heard(plan, &heard);
            tally.broken_off += u64::from(heard.stopped.is_none());
            lane.count_worker(&heard, trial, &mut tally);
        }
        let case = Case { dir: &dir, kept: None, plan, trial, part: "kill", until: Some(u64::MAX) };
        let Some(dump) = lane.judge(&case, &known, dice.chance(50), &mut tally)? else {
            break; // What is wrong once would be counted again.
        };
        known.adopt(&dump);
    }
    Ok(tally)
}

/// Kills at calls: all calls of a plan in turn, evenly sampled when there are fewer trials.
pub(super) fn at_calls(options: &Options) -> std::io::Result<Tally> {
    let plans = options.trials.div_ceil(TRIALS_OF_PLAN).max(1);
    let calls: Vec<OnceLock<u64>> = (0..plans).map(|_| OnceLock::new()).collect();
    lane::run(Kind::Syscall, options, 1, &|lane, trials| {
        let (trial, plans) = (trials.end - 1, calls.len() as u64);
        let of_plan = trial % plans;
        let plan = Plan { seed: Dice::new("syscall", &[lane.options.seed, of_plan]).number() };
        let known = calls.get(index(of_plan)).and_then(OnceLock::get).copied();
        let calls_of_plan = match known {
            Some(known) => known,
            None => {
                let counted = count(lane, plan)?;
                *calls[index(of_plan)].get_or_init(|| counted)
            }
        };
        let slots = lane.options.trials.div_ceil(plans).max(1);
        let n = 1 + (trial / plans) * calls_of_plan / slots;
        at_call(lane, plan, trial, n)
    })
}

/// How many calls a whole plan makes.
fn count(lane: &Lane, plan: Plan) -> std::io::Result<u64> {
    let dir = lane.fresh("count")?;
    let mut run = Run::new(&dir, plan, STEPS);
    run.fault = Some((Fault::Count, 0));
    lane.work(&run)?;
    Ok(counters(&lane.out()).0)
}

fn at_call(lane: &mut Lane, plan: Plan, trial: u64, n: u64) -> std::io::Result<Tally> {
    let (mut tally, mut known) = (Tally::default(), Known::default());
    let mut dice = Dice::new("at call", &[lane.options.seed, trial]);
    let (fault, part) = *dice
        .pick(&[(Fault::KillBefore, "before"), (Fault::KillHalf, "half way"), (Fault::KillAfter, "after")])
        .unwrap_or(&(Fault::KillBefore, "before"));
    let dir = lane.fresh("store")?;
    // Every second folder is killed again while it is opened.
    let again = dice.between(1, 60);
    let kills = if dice.chance(50) { vec![n, again] } else { vec![n] };
    for n in kills {
        let mut run = Run::new(&dir, plan, STEPS);
        run.fault = Some((fault, n));
        let heard = lane.work(&run)?;
        known.heard(plan, &heard);
        tally.broken_off += u64::from(!heard.done && heard.stopped.is_none());
        lane.count_worker(&heard, trial, &mut tally);
    }
    let case = Case { dir: &dir, kept: None, plan, trial, part, until: Some(STEPS) };
    lane.judge(&case, &known, false, &mut tally)?;
    Ok(tally)
}
