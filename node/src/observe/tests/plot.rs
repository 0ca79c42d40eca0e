//! Pictures: what they say and that they say it the same each time.

use jiff::civil::date;

use super::trend::observed;
use crate::import::Code;
use crate::observe::plot::{PlotError, svg};
use crate::observe::trend::{Options, Trend, trends};
use crate::observe::{LOINC, Observation};

fn loinc(code: &str) -> Code {
    Code { system: LOINC.to_owned(), code: code.to_owned() }
}

fn pressure() -> Vec<Trend> {
    let part = |code: &str, display: &str, day: i64, value: i64| Observation {
        part_of: Some(loinc("85354-9")),
        display: display.to_owned(),
        ..observed(code, 20_513 + day, &value.to_string(), "mm[Hg]")
    };
    let mut observations = Vec::new();
    for day in (0..30).filter(|day| !(11..15).contains(day) && *day != 20) {
        let systolic = if day == 23 { 188 } else { 128 + day * 7 % 13 };
        observations.push(part("8480-6", "Systolic", day, systolic));
        observations.push(part("8462-4", "Diastolic", day, 78 + day * 5 % 9));
    }
    trends(&observations, &loinc("85354-9"), &Options { days: 30, ..Options::default() }).unwrap()
}

fn steps() -> Vec<Trend> {
    let observations: Vec<_> = (0..60_i64)
        .filter(|day| day % 17 != 5)
        .map(|day| observed("55423-8", 20_430 + day, &(4_000 + day * 1_237 % 7_000).to_string(), "{steps}"))
        .collect();
    trends(&observations, &loinc("55423-8"), &Options { days: 60, ..Options::default() }).unwrap()
}

/// For looking at: `KARTE_PLOTS=folder` keeps the pictures.
fn keep(name: &str, text: &str) {
    if let Some(folder) = std::env::var_os("KARTE_PLOTS") {
        std::fs::write(std::path::Path::new(&folder).join(name), text).unwrap();
    }
}

#[test]
fn a_picture_says_what_it_shows() {
    let text = svg(&pressure(), "Blood pressure <sitting>").unwrap();
    keep("pressure.svg", &text);
    assert!(text.starts_with("<svg role=\"img\" "));
    assert!(text.contains("<title>Blood pressure &lt;sitting&gt;</title>"));
    assert!(text.contains("2026-03-01 to 2026-03-30, in mmHg. "), "{text:.600}");
    assert!(text.contains("highest 188 on 2026-03-24"));
    assert!(text.contains("days without data: 5; outliers: 1."));
    assert!(text.contains("Systolic") && text.contains("Diastolic") && text.contains("1 Mar"));
    assert_eq!(text, svg(&pressure(), "Blood pressure <sitting>").unwrap(), "the same bytes each time");
    for colour in ["#0072B2", "#D55E00"] {
        let lines =
            text.lines().filter(|line| line.starts_with("<polyline") && line.contains(colour)).count();
        assert_eq!(lines, 3 + 1, "two gaps make three lines of each, and one stands in the legend");
    }
}

#[test]
fn totals_are_bars() {
    let text = svg(&steps(), "Steps").unwrap();
    keep("steps.svg", &text);
    assert!(text.matches("<rect").count() > 50);
}

#[test]
fn years_fit() {
    let observations: Vec<_> = (0..900_i64)
        .map(|day| {
            observed(
                "29463-7",
                19_500 + day,
                &rust_decimal::Decimal::new(6_600 - day + day * 31 % 90, 2).to_string(),
                "kg",
            )
        })
        .collect();
    let options = Options { days: 900, ..Options::default() };
    let text = svg(&trends(&observations, &loinc("29463-7"), &options).unwrap(), "体重").unwrap();
    keep("weight.svg", &text);
    assert!(text.len() < 100_000, "{} bytes", text.len());
}

#[test]
fn what_cannot_be_drawn_is_named() {
    assert_eq!(svg(&[], "x"), Err(PlotError::Empty));
    let mixed: Vec<_> = pressure().into_iter().chain(steps()).collect();
    let text = svg(&mixed, "x").unwrap();
    keep("mixed.svg", &text);
    assert_eq!(text.matches("ot drawn: Glucose (steps)").count(), 2, "seen and heard");
    let five: Vec<_> = (0..5).flat_map(|_| steps()).collect();
    assert_eq!(svg(&five, "x"), Err(PlotError::TooMany { got: 5 }));
    let empty = Options { days: 3, unit: None, until: Some(date(1950, 1, 1)) };
    let none = trends(&[observed("29463-7", 0, "60", "kg")], &loinc("29463-7"), &empty).unwrap();
    assert_eq!(svg(&none, "x"), Err(PlotError::Empty));
}
