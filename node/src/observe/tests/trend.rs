//! Trends: one unit, every day a row.

use std::time::Instant;

use jiff::civil::date;

use super::d;
use crate::import::{Code, Effective};
use crate::observe::trend::{Options, trends};
use crate::observe::{LOINC, Observation, Source, Value, plot};

const DAY: i64 = 86_400_000;

fn loinc(code: &str) -> Code {
    Code { system: LOINC.to_owned(), code: code.to_owned() }
}

pub(super) fn observed(code: &str, day: i64, value: &str, unit: &str) -> Observation {
    Observation {
        code: loinc(code),
        display: "Glucose".to_owned(),
        value: Value::Quantity { value: d(value), unit: unit.to_owned() },
        effective: Effective { start_ms: day * DAY, end_ms: day * DAY, offset_min: 0 },
        source: Source { name: "meter".to_owned(), ..Source::default() },
        part_of: None,
    }
}

fn last_days(days: u16, unit: Option<&str>) -> Options {
    Options { days, unit: unit.map(str::to_owned), until: None }
}

#[test]
fn every_day_is_a_row_in_one_unit() {
    let observations = [
        observed("2345-7", 0, "90", "mg/dL"),
        observed("2345-7", 1, "118", "mg/dL"),
        observed("2345-7", 4, "9.0", "mmol/L"),
        observed("2345-7", 4, "7", "{drops}"),
        observed("2160-0", 4, "9.8", "mg/dL"),
    ];
    let found = trends(&observations, &loinc("2345-7"), &last_days(5, Some("mmol/L"))).unwrap();
    let [trend] = &found[..] else { panic!("one trend") };
    let values: Vec<_> =
        trend.rows.iter().map(|row| row.day.as_ref().map(|day| day.summary.main())).collect();
    assert_eq!(values, [Some(d("5.00")), Some(d("6.55")), None, None, Some(d("9.0"))]);
    assert_eq!(trend.sparkline(), "▁▄  █");
    assert_eq!((trend.apart[0].unit.as_str(), trend.apart[0].count), ("{drops}", 1));
    assert_eq!(trend.apart[0].why.to_string(), "expected two units of the same kind, got {drops} and mmol/L");
    let (headings, cells) = trend.table();
    assert_eq!(headings[1..3], ["n", "min (mmol/L)"]);
    assert!(cells.iter().all(|row| row.len() == headings.len()));
    let own = trends(&observations, &loinc("2345-7"), &last_days(2, None)).unwrap();
    assert_eq!(
        (own[0].unit.as_str(), own[0].rows.len()),
        ("mg/dL", 2),
        "the commonest unit, the last days with data"
    );
    assert!(trends(&observations, &loinc("8867-4"), &last_days(5, None)).unwrap().is_empty());
    assert!(trends(&observations, &loinc("2345-7"), &last_days(5, Some("mgg"))).is_err());
}

#[test]
fn two_countries_are_one_trend() {
    let observations = [
        observed("2345-7", 0, "118", "mg/dL"),
        observed("14749-6", 1, "5.5", "mmol/L"),
        observed("41653-7", 2, "130", "mg/dL"),
        observed("22664-7", 2, "10.0", "mmol/L"),
        observed("3094-0", 1, "28", "mg/dL"),
        observed("4548-4", 1, "6.5", "%"),
        observed("59261-8", 2, "48", "mmol/mol"),
    ];
    let told = |code: &str, unit: Option<&str>| {
        let found = trends(&observations, &loinc(code), &last_days(9, unit)).unwrap().remove(0);
        let values =
            found.rows.into_iter().filter_map(|row| row.day).map(|day| day.summary.main().to_string());
        (values.collect::<Vec<_>>().join(" "), found.unit, found.apart.len())
    };
    let expected = |values: &str, unit: &str, apart| (values.to_owned(), unit.to_owned(), apart);
    assert_eq!(told("2345-7", None), expected("118 99.1", "mg/dL", 0), "a glucometer's is another specimen");
    assert_eq!(told("14749-6", None), expected("6.55 5.5", "mmol/L", 0));
    assert_eq!(told("3094-0", None), expected("28 28", "mg/dL", 0), "moles of urea, told as its nitrogen");
    assert_eq!(told("22664-7", None), expected("10 10.0", "mmol/L", 0));
    assert_eq!(told("22664-7", Some("mg/dL")).2, 2, "a mass of urea or of its nitrogen? neither is guessed");
    assert_eq!(told("4548-4", None), expected("6.5 6.54", "%", 0));
}

#[test]
fn a_total_of_the_day_meets_its_minutes() {
    let over = |code: &str, hours: std::ops::Range<i64>, count: &str, name: &str| Observation {
        effective: Effective {
            start_ms: hours.start * DAY / 24,
            end_ms: hours.end * DAY / 24,
            offset_min: 0,
        },
        source: Source { name: name.to_owned(), ..Source::default() },
        ..observed(code, 0, count, "{steps}")
    };
    let observations = [
        over("41950-7", 0..24, "7000", "clip"),
        over("55423-8", 8..9, "4000", "watch"),
        over("55423-8", 18..19, "4200", "watch"),
    ];
    let found = trends(&observations, &loinc("41950-7"), &last_days(1, None)).unwrap().remove(0);
    let day = found.rows[0].day.as_ref().unwrap();
    assert_eq!((day.summary.main(), day.set_aside.join(",")), (d("8200"), "clip".to_owned()), "never 15,200");
}

#[test]
fn a_window_ends_where_it_is_told() {
    let observations = [observed("2345-7", 0, "90", "mg/dL"), observed("2345-7", 9, "95", "mg/dL")];
    let options = Options { days: 3, unit: None, until: Some(date(1970, 1, 3)) };
    let found = trends(&observations, &loinc("2345-7"), &options).unwrap();
    assert_eq!(found[0].rows.iter().filter(|row| row.day.is_some()).count(), 1);
    assert_eq!(found[0].sparkline(), "▄  ");
}

/// Prints how long ten thousand observations take; nothing depends on it.
#[test]
fn ten_thousand_observations() {
    let observations: Vec<_> = (0..10_000_i64)
        .map(|i| {
            observed(
                "2345-7",
                i / 30,
                &(80 + i * 37 % 90).to_string(),
                if i % 2 == 0 { "mg/dL" } else { "mmol/L" },
            )
        })
        .collect();
    let start = Instant::now();
    let found = trends(&observations, &loinc("2345-7"), &last_days(365, Some("mg/dL"))).unwrap();
    let trended = start.elapsed();
    let drawn = plot::svg(&found, "Glucose").unwrap();
    println!(
        "10,000 observations: trend {trended:?}, with plot {:?}, {} bytes",
        start.elapsed(),
        drawn.len()
    );
    assert_eq!(found[0].rows.len(), 365);
}
