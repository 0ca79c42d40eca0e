//! Sides in turn, a round at a time, and what is told of them: medians, paired ratios, bars.

use super::Bench;
use super::files::settle;
use super::meter::{Cost, Costs, Cpu};
use serde_json::{Map, Value, json};
use std::io;
use std::time::Duration;

/// One run of one side.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) wall: Duration,
    pub(super) costs: Costs,
    /// Parts of the time on the wall, by name.
    pub(super) spans: Vec<(&'static str, Duration)>,
}

/// One of those that are compared.
pub(super) struct Side<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> io::Result<Sample> + 'a>,
    is_peer: bool,
    samples: Vec<Sample>,
    /// Why it runs no more.
    failed: Option<String>,
}

/// Its samples, one a round.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) name: &'static str,
    pub(super) samples: Vec<Sample>,
}

/// What a work came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) work: &'static str,
    /// What was done, in words.
    pub(super) what: String,
    pub(super) sides: Vec<Measured>,
    /// Other numbers, by name with their unit.
    pub(super) numbers: Vec<(&'static str, f64)>,
    pub(super) bars: Vec<Bar>,
    /// Sides that were not run, and why.
    pub(super) not_run: Vec<String>,
}

/// A line of the acceptance table.
#[derive(Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) bound: Bound,
}

/// What a value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl<'a> Side<'a> {
    /// One of ours: if it fails, the bench does.
    pub(super) fn ours(name: &'static str, run: impl FnMut() -> io::Result<Sample> + 'a) -> Self {
        Self { name, run: Box::new(run), is_peer: false, samples: Vec::new(), failed: None }
    }

    /// A program of others: if it fails, it is told as not run.
    pub(super) fn peer(name: &'static str, run: impl FnMut() -> io::Result<Sample> + 'a) -> Self {
        Self { is_peer: true, ..Self::ours(name, run) }
    }

    /// Runs it once; `which` says for whom it is told.
    fn takes_its_turn(&mut self, work: &str, which: &str) -> io::Result<Option<Sample>> {
        match (self.run)() {
            Ok(sample) => {
                eprintln!("{work}, {which}: {} {:.3} s", self.name, sample.wall.as_secs_f64());
                Ok(Some(sample))
            }
            Err(error) if self.is_peer && error.kind() != io::ErrorKind::Interrupted => {
                eprintln!("{work}, {which}: {} failed: {error}", self.name);
                self.failed = Some(error.to_string());
                Ok(None)
            }
            Err(error) => Err(io::Error::new(error.kind(), format!("{work}, {}: {error}", self.name))),
        }
    }
}

/// Runs all sides in turn: a warm-up that does not count, then the rounds, every second one in the other direction.
/// A peer that fails is left out from there on, and told in `not_run`.
pub(super) fn in_turns(
    bench: &Bench,
    work: &str,
    mut sides: Vec<Side<'_>>,
    not_run: &mut Vec<String>,
) -> io::Result<Vec<Measured>> {
    for round in 0..=bench.rounds {
        let which = match round {
            0 => "warm-up".to_owned(),
            round => format!("round {round} of {}", bench.rounds),
        };
        let mut turn: Vec<_> = sides.iter_mut().filter(|side| side.failed.is_none()).collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for side in turn {
            bench.keeper.check()?;
            settle(&bench.folder)?;
            let sample = side.takes_its_turn(work, &which)?;
            side.samples.extend(sample.filter(|_| round > 0));
        }
    }
    let (failed, whole): (Vec<_>, Vec<_>) = sides.into_iter().partition(|side| side.failed.is_some());
    not_run.extend(
        failed
            .iter()
            .map(|side| format!("{}: it failed: {}", side.name, side.failed.as_deref().unwrap_or_default())),
    );
    Ok(whole.into_iter().map(|side| Measured { name: side.name, samples: side.samples }).collect())
}

/// How many times as long the other took as Karte, round by round; the median. None if either was not run.
pub(super) fn times_of(sides: &[Measured], other: &str) -> Option<f64> {
    let walls = |name: &str| {
        let side = sides.iter().find(|side| side.name == name)?;
        Some(side.samples.iter().map(|sample| sample.wall.as_secs_f64()).collect::<Vec<_>>())
    };
    let (ours, theirs) = (walls(KARTE)?, walls(other)?);
    median(ours.iter().zip(&theirs).map(|(ours, theirs)| theirs / ours.max(f64::MIN_POSITIVE)).collect())
}

/// The side that all others are compared with.
pub(super) const KARTE: &str = "karte";

/// The middle one; of an even number, the mean of the two in the middle.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    match values.len() % 2 {
        0 => values.get(middle - 1).map(|lower| f64::midpoint(*lower, upper)),
        _ => Some(upper),
    }
}

impl Measured {
    pub(super) fn wall_s(&self) -> f64 {
        let walls = self.samples.iter().map(|sample| sample.wall.as_secs_f64());
        median(walls.collect()).unwrap_or(f64::NAN)
    }

    pub(super) fn cpu_s(&self) -> f64 {
        self.parts().into_iter().map(|(_, cost)| cost.cpu.total_s()).sum()
    }

    /// The most that any process of a part held in any round, in bytes.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.parts().into_iter().map(|(_, cost)| cost.peak_bytes).max().unwrap_or(0)
    }

    /// Each part: the median of its processor times, the largest of its peaks.
    pub(super) fn parts(&self) -> Vec<(&'static str, Cost)> {
        let names = self.samples.first().map(|sample| sample.costs.keys().copied().collect::<Vec<_>>());
        let of = |name: &'static str| {
            let costs = || self.samples.iter().filter_map(move |sample| sample.costs.get(name));
            let middle = |time: fn(&Cost) -> f64| median(costs().map(time).collect()).unwrap_or(0.0);
            let cpu =
                Cpu { user_s: middle(|cost| cost.cpu.user_s), system_s: middle(|cost| cost.cpu.system_s) };
            (name, Cost { cpu, peak_bytes: costs().map(|cost| cost.peak_bytes).max().unwrap_or(0) })
        };
        names.unwrap_or_default().into_iter().map(of).collect()
    }

    /// Each named part of the time on the wall: its median, in seconds.
    pub(super) fn spans(&self) -> Vec<(&'static str, f64)> {
        let names =
            self.samples.first().map(|sample| sample.spans.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let of = |name: &'static str| {
            let all = self.samples.iter().flat_map(|sample| &sample.spans);
            let spans = all.filter(|(other, _)| *other == name).map(|(_, span)| span.as_secs_f64());
            (name, median(spans.collect()).unwrap_or(f64::NAN))
        };
        names.unwrap_or_default().into_iter().map(of).collect()
    }

    fn json(&self) -> Value {
        let parts: Map<String, Value> =
            self.parts().into_iter().map(|(name, cost)| (name.to_owned(), cost.json())).collect();
        let spans: Map<String, Value> =
            self.spans().into_iter().map(|(name, span)| (format!("{name}_s"), json!(span))).collect();
        let walls: Vec<f64> = self.samples.iter().map(|sample| sample.wall.as_secs_f64()).collect();
        json!({ "name": self.name, "wall_s": self.wall_s(), "walls_s": walls, "cpu_s": self.cpu_s(),
            "peak_bytes": self.peak_bytes(), "parts": parts, "spans": spans })
    }
}

impl Bar {
    /// Nothing if there is no value, because the other side was not run.
    pub(super) fn at_least(name: &'static str, value: Option<f64>, bar: f64) -> Option<Self> {
        value.map(|value| Self { name, value, bound: Bound::AtLeast(bar) })
    }

    pub(super) fn at_most(name: &'static str, value: Option<f64>, bar: f64) -> Option<Self> {
        value.map(|value| Self { name, value, bound: Bound::AtMost(bar) })
    }

    /// A value that is no number holds nothing.
    pub(super) fn is_held(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bar) => self.value >= bar,
            Bound::AtMost(bar) => self.value <= bar,
        }
    }

    fn json(&self) -> Value {
        let (sense, bar) = match self.bound {
            Bound::AtLeast(bar) => ("at_least", bar),
            Bound::AtMost(bar) => ("at_most", bar),
        };
        json!({ "name": self.name, "value": self.value, "sense": sense, "bar": bar, "held": self.is_held() })
    }
}

impl Outcome {
    pub(super) fn all_held(&self) -> bool {
        self.bars.iter().all(Bar::is_held)
    }

    /// Ratios of all others to Karte.
    pub(super) fn ratios(&self) -> Vec<(&'static str, f64)> {
        let others = self.sides.iter().filter(|side| side.name != KARTE);
        others.filter_map(|side| times_of(&self.sides, side.name).map(|times| (side.name, times))).collect()
    }

    pub(super) fn json(&self) -> Value {
        let numbers: Map<String, Value> =
            self.numbers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let ratios: Map<String, Value> =
            self.ratios().into_iter().map(|(name, times)| (name.to_owned(), json!(times))).collect();
        json!({
            "work": self.work,
            "what": self.what,
            "sides": self.sides.iter().map(Measured::json).collect::<Vec<_>>(),
            "ratios": ratios,
            "numbers": numbers,
            "bars": self.bars.iter().map(Bar::json).collect::<Vec<_>>(),
            "not_run": self.not_run,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(name: &'static str, walls_s: &[f64]) -> Measured {
        let sample = |wall: &f64| Sample { wall: Duration::from_secs_f64(*wall), ..Sample::default() };
        Measured { name, samples: walls_s.iter().map(sample).collect() }
    }

    #[test]
    fn ratios_are_paired_by_round() {
        // Unpaired, 4 s against 2 s would be 2; every round by itself says 3, 1 and 1.
        let sides = [side(KARTE, &[1.0, 4.0, 2.0]), side("rsync", &[3.0, 4.0, 2.0])];
        assert_eq!(times_of(&sides, "rsync"), Some(1.0));
        assert_eq!(times_of(&sides, "sendme"), None);
    }

    #[test]
    fn a_median_of_two_is_between_them() {
        assert_eq!(median(vec![3.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn bars_hold_on_their_own_side() {
        let held = |bar: Option<Bar>| bar.map(|bar| bar.is_held());
        assert_eq!(held(Bar::at_least("", Some(2.0), 2.0)), Some(true));
        assert_eq!(held(Bar::at_least("", Some(1.9), 2.0)), Some(false));
        assert_eq!(held(Bar::at_most("", Some(3.1), 3.0)), Some(false));
        assert_eq!(held(Bar::at_most("", Some(f64::NAN), 3.0)), Some(false));
        assert_eq!(held(Bar::at_most("", None, 3.0)), None);
    }
}
