//! Power cuts: traces of workers, cut at random places, and of each cut several images.

use std::ops::Range;

use super::dice::{Dice, index};
use super::image::{Image, Unsynced};
use super::lane::{self, Case, Lane, Run};
use super::model::{Heard, Known};
use super::plan::Plan;
use super::shim::{Event, Fault, read_trace};
use super::{Kind, Options, Tally};

/// Images made from one trace: recording takes a hundred times as long as an image.
const IMAGES: u64 = 50;
/// Steps of a plan.
const STEPS: u64 = 70;

/// Power cuts.
pub(super) fn cuts(options: &Options) -> std::io::Result<Tally> {
    lane::run(Kind::Power, options, IMAGES, &trace)
}

fn trace(lane: &mut Lane, trials: Range<u64>) -> std::io::Result<Tally> {
    let mut tally = Tally::default();
    let seed = lane.options.seed;
    let plan = Plan { seed: Dice::new("power", &[seed, trials.start]).number() };
    let dir = lane.fresh("store")?;
    let mut run = Run::new(&dir, plan, STEPS);
    run.fault = Some((Fault::Trace, 0));
    let heard = lane.work(&run)?;
    lane.count_worker(&heard, trials.start, &mut tally);
    let events = read_trace(&lane::read(&lane.out())?);
    // Repeating one trial needs its trace, and none of the images before it.
    let from = if lane.options.only.is_some() { trials.end - 1 } else { trials.start };
    for trial in from..trials.end {
        cut(lane, plan, trial, &dir, &events, &mut tally)?;
    }
    Ok(tally)
}

fn cut(
    lane: &mut Lane,
    plan: Plan,
    trial: u64,
    worked_in: &std::path::Path,
    events: &[Event],
    tally: &mut Tally,
) -> std::io::Result<()> {
    let mut dice = Dice::new("cut", &[lane.options.seed, trial]);
    let at = index(dice.below(events.len() as u64 + 1));
    let (unsynced, part) = match dice.below(8) {
        0..2 => (Unsynced::Lost, "nothing unsynced survives"),
        2 => (Unsynced::Kept, "everything survives"),
        _ => {
            let percent = *dice.pick(&[10, 50, 90]).unwrap_or(&50);
            let part = *dice.pick(&[512, 4096]).unwrap_or(&512);
            (Unsynced::Random { percent, part }, "some of it survives")
        }
    };
    let mut image = Image::new(worked_in);
    let played = events.get(..at).unwrap_or_default();
    played.iter().for_each(|event| image.play(event));
    let dir = lane.fresh("image")?;
    image.write(&dir, unsynced, &mut dice)?;
    let heard = said(played);
    let mut known = Known::default();
    known.heard(plan, &heard);
    tally.broken_off += u64::from(!heard.done);
    let case = Case { dir: &dir, kept: None, plan, trial, part, until: Some(STEPS) };
    lane.judge(&case, &known, false, tally).map(|_| ())
}

/// What the worker had said by then.
fn said(events: &[Event]) -> Heard {
    let said: Vec<u8> =
        events.iter().filter(|event| event.op == b'A').flat_map(|event| event.data.clone()).collect();
    let mut heard = Heard::default();
    let text = String::from_utf8_lossy(&said).into_owned();
    // A line that was not ended had not been said.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).for_each(|line| heard.line(line));
    heard
}
