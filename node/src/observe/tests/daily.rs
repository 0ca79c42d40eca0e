//! Days: who counted what, gaps and outliers.

use jiff::civil::date;
use proptest::prelude::*;
use rust_decimal::Decimal;

use super::d;
use crate::import::Effective;
use crate::observe::Source;
use crate::observe::daily::{Daily, How, Sample, Summary, daily};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn source(name: &str) -> Source {
    Source { name: name.to_owned(), ..Source::default() }
}

fn sample(source: &Source, start_ms: i64, end_ms: i64, value: i64) -> Sample<'_> {
    Sample { value: value.into(), effective: Effective { start_ms, end_ms, offset_min: 0 }, source }
}

fn totals(daily: &Daily) -> Vec<Decimal> {
    daily.days.iter().map(|day| day.summary.main()).collect()
}

#[test]
fn a_phone_and_a_watch_do_not_walk_twice() {
    let (phone, watch) = (source("Phone"), source("Watch"));
    let samples = [
        sample(&phone, 8 * HOUR, 9 * HOUR, 900),
        sample(&watch, 8 * HOUR, 9 * HOUR, 1_000),
        sample(&phone, 12 * HOUR, 13 * HOUR, 500),
    ];
    let days = daily(&samples, How::Counted).days;
    assert_eq!(
        days[0].summary,
        Summary::Total(1_500.into()),
        "the watch's hour, and the hour only the phone saw"
    );
    assert_eq!(days[0].sources, ["Phone", "Watch"]);
}

#[test]
fn a_total_of_the_day_competes_with_its_parts() {
    let (clip, watch) = (source("Clip"), source("Watch"));
    let parts = [sample(&watch, 8 * HOUR, 9 * HOUR, 1_000), sample(&watch, 12 * HOUR, 13 * HOUR, 500)];
    let with = |total: i64| {
        let mut samples = parts.to_vec();
        samples.push(sample(&clip, 0, DAY, total));
        daily(&samples, How::Counted).days.remove(0)
    };
    assert_eq!(
        (with(1_200).summary, with(1_200).set_aside),
        (Summary::Total(1_500.into()), vec!["Clip".to_owned()])
    );
    assert_eq!(
        (with(4_000).summary, with(4_000).set_aside),
        (Summary::Total(4_000.into()), vec!["Watch".to_owned()])
    );
    let mut own = parts.to_vec();
    own.push(sample(&watch, 0, DAY, 1_500));
    assert_eq!(
        totals(&daily(&own, How::Counted)),
        [Decimal::from(1_500)],
        "a source's own total is not added to its parts"
    );
}

#[test]
fn two_meals_at_noon_are_two_meals() {
    let me = source("manual");
    let noon = |kcal| sample(&me, 12 * HOUR, 12 * HOUR, kcal);
    assert_eq!(totals(&daily(&[noon(640), noon(90), noon(640)], How::Counted)), [Decimal::from(730)]);
}

#[test]
fn a_day_is_that_of_the_clock() {
    let me = source("scale");
    let at = |start_ms, offset_min| Sample {
        effective: Effective { start_ms, end_ms: start_ms, offset_min },
        ..sample(&me, 0, 0, 60)
    };
    let days = daily(&[at(16 * HOUR, 540), at(14 * HOUR, 540), at(4 * HOUR, -480)], How::Measured).days;
    let dates: Vec<_> = days.iter().map(|day| day.date).collect();
    assert_eq!(dates, [date(1969, 12, 31), date(1970, 1, 1), date(1970, 1, 2)]);
    assert!(daily(&[at(i64::MAX, 0), at(i64::MIN, 0)], How::Measured).days.is_empty(), "beyond the calendar");
}

#[test]
fn measured_values_are_summed_up() {
    let me = source("cuff");
    let values = [(7, "130"), (12, "128.5"), (19, "141"), (21, "135")];
    let samples =
        values.map(|(hour, value)| Sample { value: d(value), ..sample(&me, hour * HOUR, hour * HOUR, 0) });
    let expected = Summary::Measured {
        n: 4,
        min: d("128.5"),
        max: d("141"),
        mean: d("133.63"),
        median: d("132.5"),
        last: d("135"),
    };
    assert_eq!(daily(&samples, How::Measured).days[0].summary, expected);
}

#[test]
fn gaps_and_outliers_are_marked() {
    let me = source("scale");
    let weights = [(0, 600), (1, 603), (2, 598), (5, 601), (6, 604), (7, 940), (8, 599), (9, 602)];
    let samples = weights.map(|(day, value)| sample(&me, day * DAY, day * DAY, value));
    let found = daily(&samples, How::Measured);
    assert_eq!(found.gaps, [(date(1970, 1, 4), date(1970, 1, 5))]);
    let marked: Vec<_> = found.days.iter().filter(|day| day.outlier).map(|day| day.summary.main()).collect();
    assert_eq!(marked, [Decimal::from(940)]);
    assert_eq!(found.days.len(), 8, "and nothing is taken away");
    assert!(
        daily(&samples[4..], How::Measured).days.iter().all(|day| !day.outlier),
        "four days are too few to tell"
    );
}

/// Records of three sources on one day, as source, start, length and count.
fn records() -> impl Strategy<Value = Vec<(usize, i64, i64, i64)>> {
    proptest::collection::vec((0_usize..3, 0_i64..96, 0_i64..12, 0_i64..500), 0..40)
}

fn sampled<'a>(sources: &'a [Source], records: &[(usize, i64, i64, i64)]) -> Vec<Sample<'a>> {
    let quarter = HOUR / 4;
    let one = |(at, start, length, count): &(usize, i64, i64, i64)| {
        sample(&sources[*at], start * quarter, (start + length) * quarter, *count)
    };
    records.iter().map(one).collect()
}

/// The records of one source that overlap none of its own: what that counter alone would say.
fn alone(samples: &[Sample<'_>]) -> Decimal {
    totals(&daily(samples, How::Counted)).first().copied().unwrap_or_default()
}

proptest! {
    /// A day's total is at least what the largest source alone would make of it, and at most the sum of all records.
    #[test]
    fn a_total_lies_between_the_largest_source_and_the_sum(records in records()) {
        let sources = ["a", "b", "c"].map(source);
        let samples = sampled(&sources, &records);
        let total = alone(&samples);
        let sum: Decimal = samples.iter().map(|sample| sample.value).sum();
        prop_assert!(total <= sum);
        for one in &sources {
            let own: Vec<_> = samples.iter().filter(|sample| sample.source == one).copied().collect();
            // Sources whose own records do not overlap are plain counters; an instant lasts its millisecond.
            let end_ms = |of: &Sample<'_>| of.effective.end_ms.max(of.effective.start_ms + 1);
            let disjoint = own.iter().enumerate().all(|(i, a)| {
                own.iter().skip(i + 1).all(|b| end_ms(a) <= b.effective.start_ms || end_ms(b) <= a.effective.start_ms)
            });
            if disjoint {
                let counted: Decimal = own.iter().map(|sample| sample.value).sum();
                let twice = own.iter().enumerate().any(|(i, a)| own.iter().skip(i + 1).any(|b| a == b));
                prop_assert!(twice || total >= counted, "{total} < {counted} of {}", one.name);
            }
        }
    }

    /// One source that does not overlap itself is simply added up.
    #[test]
    fn a_lone_counter_is_added_up(counts in proptest::collection::vec(0_i64..500, 1..90)) {
        let only = source("only");
        let quarter = HOUR / 4;
        let samples: Vec<_> = (0_i64..).zip(&counts).map(|(i, n)| sample(&only, i * quarter, (i + 1) * quarter, *n)).collect();
        prop_assert_eq!(alone(&samples), counts.iter().sum::<i64>().into());
    }

    /// Neither order nor repetition changes a day.
    #[test]
    fn order_and_repetition_do_not_matter(records in records(), seed in any::<i64>()) {
        let sources = ["a", "b", "c"].map(source);
        let samples = sampled(&sources, &records);
        let mut twice: Vec<_> = samples.iter().chain(&samples).copied().collect();
        twice.sort_by_key(|sample| {
            (sample.effective.start_ms ^ i64::try_from(sample.value.mantissa()).unwrap()).wrapping_mul(seed | 1)
        });
        for how in [How::Counted, How::Measured] {
            prop_assert_eq!(daily(&samples, how), daily(&twice, how));
        }
    }
}
