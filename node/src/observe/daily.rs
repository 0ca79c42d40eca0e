//! Days: many values of one kind as one line for each local day.
//!
//! For: totals of what is counted, and a summary of what is measured, in the day of the clock that wrote it. Not
//! for: hiding; a day without data is a gap and an unlikely value is marked, and both stay where they are.
//!
//! A phone and a watch count the same steps, so their counts are never added. Time falls into stretches: records
//! that overlap, directly or through others, are one stretch. In each stretch one counter is believed, the one that
//! counted most, because a device that was left on a table counts too little and hardly one counts too much; a
//! total of the whole day is one long record and competes as such. So a day's total is never less than the largest
//! counter's and never more than all counters' together, no record is split, and decimals stay exact. The
//! alternatives were an order of devices, which needs a list of all of them and believes a watch on its charger,
//! and splitting records in proportion, which invents steps.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::{Date, date};
use jiff::{Span, ToSpan};
use rust_decimal::{Decimal, RoundingStrategy};

use super::{LOINC, Source};
use crate::import::{Code, Effective};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// Fewest days among which one can be an outlier. 7: a week.
const OUTLIER_DAYS_MIN: usize = 7;

/// Modified z-score above which a day is marked, and the constant in it (Iglewicz and Hoaglin 1993, "How to Detect
/// and Handle Outliers": 0.6745 |x - median| / MAD > 3.5).
const OUTLIER_Z: Decimal = Decimal::from_parts(35, 0, 0, false, 1);
const OUTLIER_FACTOR: Decimal = Decimal::from_parts(6_745, 0, 0, false, 4);

/// One value, all of a call in one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample<'a> {
    pub value: Decimal,
    pub effective: Effective,
    pub source: &'a Source,
}

/// How values of a day become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Added up within a source: steps, distance, energy.
    Counted,
    /// Looked at one by one: weight, pressure.
    Measured,
}

/// One local day that has data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    pub date: Date,
    pub summary: Summary,
    /// Far from the other days' values. Marked, never removed.
    pub outlier: bool,
    /// Whose values are in the summary, in order.
    pub sources: Vec<String>,
    /// Who counted the same and was set aside.
    pub set_aside: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Summary {
    Total(Decimal),
    Measured {
        n: usize,
        min: Decimal,
        max: Decimal,
        /// To one place more than was measured.
        mean: Decimal,
        median: Decimal,
        last: Decimal,
    },
}

impl Summary {
    /// The one value that stands for the day: the total, or the median.
    pub fn main(&self) -> Decimal {
        match self {
            Self::Total(total) => *total,
            Self::Measured { median, .. } => *median,
        }
    }
}

/// Days with data, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Daily {
    pub days: Vec<Day>,
    /// First and last day of each run without data between days with data.
    pub gaps: Vec<(Date, Date)>,
}

/// Whether values under `code` are counted or measured.
pub fn how(code: &Code) -> How {
    // Steps; walking distance; energy burned; floors; energy taken in.
    const COUNTED: &[&str] =
        &["55423-8", "41950-7", "55430-3", "41953-1", "41981-2", "41979-6", "93819-1", "100304-5", "9052-2"];
    // Parts of meals, which have no code.
    const EATEN: &[&str] = &["Protein", "Salt", "Potassium", "Phosphorus", "Water"];
    let counted = match code.system.as_str() {
        LOINC => COUNTED.contains(&code.code.as_str()),
        system => system.is_empty() && EATEN.contains(&code.code.as_str()),
    };
    if counted { How::Counted } else { How::Measured }
}

/// One line for each local day. Order and repetition of `samples` do not matter; a time beyond the calendar is left
/// out.
pub fn daily(samples: &[Sample<'_>], how: How) -> Daily {
    let mut by_day: BTreeMap<Date, Vec<Sample<'_>>> = BTreeMap::new();
    for sample in samples {
        if let Some(day) = local_day(&sample.effective) {
            by_day.entry(day).or_default().push(*sample);
        }
    }
    let mut days: Vec<Day> =
        by_day.into_iter().filter_map(|(date, samples)| day(date, samples, how)).collect();
    mark_outliers(&mut days);
    let gaps = gaps(&days);
    Daily { days, gaps }
}

/// The day on the clock that wrote it. What crosses midnight belongs to the day it starts in.
pub fn local_day(effective: &Effective) -> Option<Date> {
    let local_ms = effective.start_ms.checked_add(i64::from(effective.offset_min) * MINUTE_MS)?;
    let days = Span::new().try_days(local_ms.div_euclid(DAY_MS)).ok()?;
    date(1970, 1, 1).checked_add(days).ok()
}

fn day(date: Date, mut samples: Vec<Sample<'_>>, how: How) -> Option<Day> {
    samples.sort_by_key(order);
    samples.dedup();
    let (summary, sources) = match how {
        How::Counted => total(&samples)?,
        How::Measured => (measured(&samples)?, samples.iter().map(|sample| sample.source).collect()),
    };
    let name = |source: &&Source| source.name.clone();
    let used: BTreeSet<String> = sources.iter().map(name).collect();
    let all: BTreeSet<String> = samples.iter().map(|sample| sample.source.name.clone()).collect();
    let set_aside = all.difference(&used).cloned().collect();
    Some(Day { date, summary, outlier: false, sources: used.into_iter().collect(), set_aside })
}

/// Earliest first, then longest, so that a total comes before its parts.
fn order<'a>(sample: &Sample<'a>) -> (i64, std::cmp::Reverse<i64>, &'a Source, Decimal, i16) {
    let Effective { start_ms, end_ms, offset_min } = sample.effective;
    (start_ms, std::cmp::Reverse(end_ms), sample.source, sample.value, offset_min)
}

/// The best counter of each stretch, added up. `None` beyond the largest decimal.
fn total<'a>(samples: &[Sample<'a>]) -> Option<(Summary, BTreeSet<&'a Source>)> {
    let (mut total, mut sources) = (Decimal::ZERO, BTreeSet::new());
    for stretch in stretches(samples) {
        let (counted, source) = best(stretch)?;
        total = total.checked_add(counted)?;
        sources.insert(source);
    }
    Some((Summary::Total(total), sources))
}

/// Runs of records that overlap; `samples` are in order.
fn stretches<'s, 'a>(samples: &'s [Sample<'a>]) -> impl Iterator<Item = &'s [Sample<'a>]> {
    let mut until = i64::MIN;
    samples.chunk_by(move |before, next| {
        until = if until <= before.effective.start_ms { end_of(before) } else { until.max(end_of(before)) };
        next.effective.start_ms < until
    })
}

/// An instant lasts its millisecond.
fn end_of(sample: &Sample<'_>) -> i64 {
    sample.effective.end_ms.max(sample.effective.start_ms.saturating_add(1))
}

/// What the best counter of a stretch counted. Where two counted alike, the first by name.
fn best<'a>(stretch: &[Sample<'a>]) -> Option<(Decimal, &'a Source)> {
    let mut counters: Vec<Counter<'a>> = Vec::new();
    for sample in stretch {
        match counters.iter_mut().find(|counter| counter.takes(sample)) {
            Some(counter) => counter.add(sample)?,
            None => counters.push(Counter::of(sample)),
        }
    }
    let best = counters.into_iter().min_by_key(|counter| (std::cmp::Reverse(counter.total), counter.source));
    best.map(|counter| (counter.total, counter.source))
}

/// Records of one source that do not overlap; a source that tells a total and its parts is two counters.
struct Counter<'a> {
    source: &'a Source,
    total: Decimal,
    /// Where its last record starts and ends.
    last: (i64, i64),
}

impl<'a> Counter<'a> {
    fn of(sample: &Sample<'a>) -> Self {
        let last = (sample.effective.start_ms, end_of(sample));
        Self { source: sample.source, total: sample.value, last }
    }

    /// Two meals at the same minute are two meals.
    fn takes(&self, sample: &Sample<'_>) -> bool {
        let instants =
            self.last == (sample.effective.start_ms, end_of(sample)) && self.last.1 - self.last.0 == 1;
        self.source == sample.source && (instants || self.last.1 <= sample.effective.start_ms)
    }

    fn add(&mut self, sample: &Sample<'_>) -> Option<()> {
        self.total = self.total.checked_add(sample.value)?;
        self.last = (sample.effective.start_ms, end_of(sample));
        Some(())
    }
}

fn measured(samples: &[Sample<'_>]) -> Option<Summary> {
    let mut values: Vec<Decimal> = samples.iter().map(|sample| sample.value).collect();
    let last = samples.last()?.value;
    let sum = values.iter().try_fold(Decimal::ZERO, |sum, value| sum.checked_add(*value))?;
    let places = values.iter().map(Decimal::scale).max()?.saturating_add(1);
    let mean = sum.checked_div(Decimal::from(values.len()))?;
    let mean = mean.round_dp_with_strategy(places, RoundingStrategy::MidpointAwayFromZero).normalize();
    values.sort();
    let (min, max) = (*values.first()?, *values.last()?);
    Some(Summary::Measured { n: values.len(), min, max, mean, median: median(&values)?, last })
}

/// The middle of sorted values; of two middle ones, the point between.
fn median(sorted: &[Decimal]) -> Option<Decimal> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some(lower.checked_add(upper)?.checked_div(Decimal::TWO)?.normalize())
}

fn mark_outliers(days: &mut [Day]) {
    let sorted = |mut values: Vec<Decimal>| {
        values.sort();
        values
    };
    let middle = median(&sorted(days.iter().map(|day| day.summary.main()).collect()));
    let Some(middle) = middle.filter(|_| days.len() >= OUTLIER_DAYS_MIN) else {
        return;
    };
    let distance = |day: &Day| day.summary.main().checked_sub(middle).map_or(Decimal::MAX, |d| d.abs());
    let spread = median(&sorted(days.iter().map(distance).collect())).unwrap_or_default();
    if spread.is_zero() {
        return;
    }
    for day in days {
        let z = OUTLIER_FACTOR.checked_mul(distance(day)).and_then(|z| z.checked_div(spread));
        day.outlier = z.is_none_or(|z| z > OUTLIER_Z);
    }
}

fn gaps(days: &[Day]) -> Vec<(Date, Date)> {
    let between = |pair: &[Day]| {
        let [before, after] = pair else { return None };
        let (first, last) = (before.date.tomorrow().ok()?, after.date.checked_sub(1.day()).ok()?);
        (first <= last).then_some((first, last))
    };
    days.windows(2).filter_map(between).collect()
}
