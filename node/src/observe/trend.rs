//! Trend: the last days of one kind of value, as rows and as a line of blocks.
//!
//! For: one unit throughout; what cannot be told in it stands apart with its reason. Not for: drawing (see `plot`)
//! and printing.

use std::collections::BTreeMap;

use jiff::ToSpan;
use jiff::civil::Date;

use super::alike::alike;
use super::analytes::{NotConverted, Way, customary, to_shown_digits};
use super::daily::{Day, How, Sample, Summary, daily, how, local_day};
use super::units::{Conversion, UnitError};
use super::{Observation, Value};
use crate::import::Code;
use rust_decimal::Decimal;

/// Most days in a trend. 3,660: ten years.
pub const DAYS_MAX: u16 = 3_660;

/// What a trend shows.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// How many days up to `until`; 0 is taken as 1, more than [`DAYS_MAX`] as that.
    pub days: u16,
    /// UCUM; without it, the unit that most of the values have.
    pub unit: Option<String>,
    /// Without it, the last day that has data.
    pub until: Option<Date>,
}

/// The days of one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trend {
    pub code: Code,
    pub display: String,
    /// UCUM, of every value in `rows`.
    pub unit: String,
    pub how: How,
    /// One for each day, without a hole.
    pub rows: Vec<Row>,
    /// What is not in the rows.
    pub apart: Vec<Apart>,
}

/// One day; without data it is a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub date: Date,
    pub day: Option<Day>,
}

/// Values of one unit that cannot be told in the trend's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    pub unit: String,
    pub count: usize,
    /// The last of them, as it is written.
    pub last: Decimal,
    pub why: NotConverted,
}

/// The trend of `code` with what is [`alike`], and of each of its parts: a blood pressure (85354-9) has two. A `unit` that is no unit is an
/// error; a code without any quantity gives no trend.
pub fn trends(observations: &[Observation], code: &Code, options: &Options) -> Result<Vec<Trend>, UnitError> {
    if let Some(unit) = &options.unit {
        Conversion::between(unit, unit)?;
    }
    let mut codes = vec![code];
    for observation in observations.iter().filter(|o| o.part_of.as_ref() == Some(code)) {
        if !codes.contains(&&observation.code) {
            codes.push(&observation.code);
        }
    }
    Ok(codes.into_iter().filter_map(|code| trend(observations, code, options)).collect())
}

fn trend(observations: &[Observation], code: &Code, options: &Options) -> Option<Trend> {
    let of_code: Vec<&Observation> = observations.iter().filter(|o| alike(&o.code, code)).collect();
    let unit = options.unit.clone().or_else(|| commonest_unit(&of_code, code))?;
    let (samples, apart) = in_unit(&of_code, code, &unit);
    if samples.is_empty() && apart.is_empty() {
        return None;
    }
    let last = samples.iter().filter_map(|sample| local_day(&sample.effective)).max();
    let rows = options.until.or(last).map(|until| rows(&samples, how(code), until, options.days));
    let exact = of_code.iter().find(|o| o.code == *code);
    Some(Trend {
        code: code.clone(),
        display: exact.or(of_code.first())?.display.clone(),
        unit,
        how: how(code),
        rows: rows.unwrap_or_default(),
        apart,
    })
}

/// The unit most values have, those under the very code first; of two alike, the first by name.
fn commonest_unit(observations: &[&Observation], code: &Code) -> Option<String> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for observation in observations {
        if let Value::Quantity { unit, .. } = &observation.value {
            let (exact, all) = counts.entry(unit).or_default();
            *exact += usize::from(observation.code == *code);
            *all += 1;
        }
    }
    let most = counts.into_iter().min_by_key(|(unit, count)| (std::cmp::Reverse(*count), *unit));
    most.map(|(unit, _)| unit.to_owned())
}

fn in_unit<'a>(observations: &[&'a Observation], code: &Code, unit: &str) -> (Vec<Sample<'a>>, Vec<Apart>) {
    let mut ways: BTreeMap<(&str, &str), Result<Way, NotConverted>> = BTreeMap::new();
    let (mut samples, mut apart) = (Vec::new(), BTreeMap::new());
    for observation in observations {
        let Value::Quantity { value, unit: from } = &observation.value else {
            continue;
        };
        // Codes that differ only in how time is counted are no analytes, and their units suffice.
        let to_code = Some(code).filter(|code| customary(code).is_some() && **code != observation.code);
        let way = ways
            .entry((&observation.code.code, from))
            .or_insert_with(|| Way::between(&observation.code, from, unit, to_code));
        let told = way.as_ref().map_err(NotConverted::clone).and_then(|way| way.apply(*value));
        match told {
            Ok(told) => {
                let value = if from == unit { *value } else { to_shown_digits(told, *value) };
                samples.push(Sample { value, effective: observation.effective, source: &observation.source });
            }
            Err(why) => stands_apart(&mut apart, from, *value, why),
        }
    }
    (samples, apart.into_values().collect())
}

fn stands_apart<'a>(apart: &mut BTreeMap<&'a str, Apart>, unit: &'a str, value: Decimal, why: NotConverted) {
    let group =
        apart.entry(unit).or_insert_with(|| Apart { unit: unit.to_owned(), count: 0, last: value, why });
    group.count += 1;
    group.last = value;
}

fn rows(samples: &[Sample<'_>], how: How, until: Date, days: u16) -> Vec<Row> {
    let days = i64::from(days.clamp(1, DAYS_MAX));
    let first = until.saturating_sub((days - 1).days());
    let within =
        |sample: &&Sample<'_>| local_day(&sample.effective).is_some_and(|day| first <= day && day <= until);
    let shown: Vec<_> = samples.iter().filter(within).copied().collect();
    let mut found: BTreeMap<Date, Day> =
        daily(&shown, how).days.into_iter().map(|day| (day.date, day)).collect();
    let dates = first.series(1.day()).take_while(|date| *date <= until);
    dates.map(|date| Row { date, day: found.remove(&date) }).collect()
}

impl Trend {
    /// One block a day from ▁ to █, a space for a gap. Outliers do not stretch the scale.
    pub fn sparkline(&self) -> String {
        let days = || self.rows.iter().filter_map(|row| row.day.as_ref());
        let usual = || days().filter(|day| !day.outlier).map(|day| day.summary.main());
        let (Some(min), Some(max)) = (usual().min(), usual().max()) else {
            return " ".repeat(self.rows.len());
        };
        let block = |row: &Row| row.day.as_ref().map_or(' ', |day| block(day.summary.main(), min, max));
        self.rows.iter().map(block).collect()
    }

    /// Headings and cells of a table, with `-` in the day of a gap.
    pub fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns: &[&str] = match self.how {
            How::Counted => &["total"],
            How::Measured => &["n", "min", "max", "mean", "median", "last"],
        };
        let mut headings = vec!["day".to_owned()];
        let with_unit =
            |name: &&str| if *name == "n" { "n".to_owned() } else { format!("{name} ({})", self.unit) };
        headings.extend(columns.iter().map(with_unit));
        headings.extend(["source".to_owned(), "note".to_owned()]);
        (headings, self.rows.iter().map(|row| row.cells(columns.len())).collect())
    }
}

impl Row {
    fn cells(&self, values: usize) -> Vec<String> {
        let mut cells = vec![self.date.to_string()];
        let Some(day) = &self.day else {
            cells.extend(std::iter::repeat_n("-".to_owned(), values));
            cells.extend([String::new(), "no data".to_owned()]);
            return cells;
        };
        cells.extend(match &day.summary {
            Summary::Total(total) => vec![total.to_string()],
            Summary::Measured { n, min, max, mean, median, last } => {
                let values = [min, max, mean, median, last].map(Decimal::to_string);
                std::iter::once(n.to_string()).chain(values).collect()
            }
        });
        let aside = (!day.set_aside.is_empty()).then(|| format!("not added: {}", day.set_aside.join(", ")));
        let unusual = day.outlier.then(|| "outlier".to_owned());
        let note = [unusual, aside].into_iter().flatten().collect::<Vec<_>>().join("; ");
        cells.extend([day.sources.join(", "), note]);
        cells
    }
}

fn block(value: Decimal, min: Decimal, max: Decimal) -> char {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let top = Decimal::from(BLOCKS.len() - 1);
    let part = value.checked_sub(min).zip(max.checked_sub(min)).and_then(|(v, span)| v.checked_div(span));
    let level = part.map_or(Decimal::from(3), |part| part.clamp(Decimal::ZERO, Decimal::ONE) * top);
    let index = usize::try_from(level.round().mantissa()).unwrap_or_default();
    BLOCKS.get(index).copied().unwrap_or(' ')
}
