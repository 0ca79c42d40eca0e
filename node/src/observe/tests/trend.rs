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
