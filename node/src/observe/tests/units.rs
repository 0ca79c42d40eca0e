//! Units against the functional tests of UCUM, and the law of the way back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use rust_decimal::{Decimal, RoundingStrategy};

use super::{d, shared};
use crate::observe::units::{UnitError, comparable, convert, is_valid, returns, significant_digits};

/// Cases of the UCUM test file that do not pass, each with the reason.
const ALLOWED: &[(&str, &str)] = &[];

type Case = BTreeMap<String, String>;

fn case(tag: &BytesStart<'_>) -> Case {
    let field = |a: quick_xml::events::attributes::Attribute<'_>| {
        let value = a.normalized_value(quick_xml::XmlVersion::Implicit1_0).unwrap().into_owned();
        (a.key.as_ref().to_owned(), value)
    };
    tag.attributes().map(|a| field(a.unwrap())).collect()
}

/// The cases of the part `part`.
fn cases(text: &str, part: &str) -> Vec<Case> {
    let mut reader = Reader::from_str(text);
    let (mut inside, mut found) = (false, Vec::new());
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) if tag.name().as_ref() == part => inside = true,
            Event::End(tag) if tag.name().as_ref() == part => return found,
            Event::Empty(tag) if inside => found.push(case(&tag)),
            Event::Eof => return found,
            _ => {}
        }
    }
}

/// As many digits as the expected outcome states.
fn agrees(got: Decimal, outcome: &str) -> bool {
    let expected = outcome.parse::<Decimal>().or_else(|_| Decimal::from_scientific(outcome)).unwrap();
    let digits = significant_digits(expected);
    let rounded = |v: Decimal| v.round_sf_with_strategy(digits, RoundingStrategy::MidpointAwayFromZero);
    rounded(got) == rounded(expected)
}

fn judge(name: &str, results: Vec<(String, bool)>) {
    let allowed = |id: &str| ALLOWED.iter().any(|(allowed, _)| *allowed == id);
    let passed = results.iter().filter(|(_, passed)| *passed).count();
    println!("UCUM {name}: {passed} of {} pass", results.len());
    let failed: Vec<_> = results.iter().filter(|(id, passed)| *passed == allowed(id)).collect();
    assert!(failed.is_empty(), "{name}: {failed:?} do not do what the list of allowed failures says");
}

#[test]
fn the_validation_tests_of_ucum_pass() {
    let Some(text) = shared("units/UcumFunctionalTests.xml") else { return };
    let cases = cases(&text, "validation");
    assert!(cases.len() > 500);
    let judged = cases.into_iter().map(|c| (c["id"].clone(), is_valid(&c["unit"]) == (c["valid"] == "true")));
    judge("validation", judged.collect());
}

#[test]
fn the_conversion_tests_of_ucum_pass() {
    let Some(text) = shared("units/UcumFunctionalTests.xml") else { return };
    let cases = cases(&text, "conversion");
    assert!(cases.len() > 25);
    let judged = cases.into_iter().map(|c| {
        let got = convert(d(&c["value"]), &c["srcUnit"], &c["dstUnit"]);
        (c["id"].clone(), got.is_ok_and(|got| agrees(got, &c["outcome"])))
    });
    judge("conversion", judged.collect());
}

#[test]
fn temperatures_have_an_offset() {
    assert_eq!(convert(d("36.6"), "Cel", "[degF]"), Ok(d("97.88")));
    assert_eq!(convert(d("98.6"), "[degF]", "Cel"), Ok(d("37")));
    assert_eq!(convert(d("-40"), "[degF]", "Cel"), Ok(d("-40")));
    assert_eq!(convert(d("0"), "Cel", "K"), Ok(d("273.15")));
    assert_eq!(convert(d("32"), "[degF]", "Cel"), Ok(d("0")), "no noise of 5/9");
    assert_eq!(convert(d("37000"), "mCel", "Cel"), Ok(d("37")));
}

#[test]
fn bodies_are_weighed_and_measured_exactly() {
    assert_eq!(convert(d("1"), "[lb_av]", "kg"), Ok(d("0.45359237")));
    assert_eq!(convert(d("120"), "mm[Hg]", "kPa"), Ok(d("15.99864")));
    assert_eq!(convert(d("5"), "[ft_i]", "cm"), Ok(d("152.4")));
    assert_eq!(convert(d("8123"), "{steps}", "1"), Ok(d("8123")));
    assert_eq!(
        convert(d("1"), "kcal_th", "kJ"),
        Ok(d("4.184")),
        "as in the essence: the thermochemical calorie"
    );
}

#[test]
fn what_needs_a_molecule_is_refused() {
    let needs =
        |from: &str, to: &str| matches!(convert(d("2"), from, to), Err(UnitError::NeedsSubstance { .. }));
    assert!(needs("meq/L", "mmol/L"), "calcium has two charges");
    assert!(needs("%", "mmol/mol"), "HbA1c of 6.5 % is not 65 mmol/mol");
    assert!(needs("mosm/kg", "mmol/kg"));
    assert!(!needs("kat/L", "U/L"), "both are moles in time");
    assert!(matches!(convert(d("2"), "mg/dL", "mmol/L"), Err(UnitError::NotComparable { .. })));
}

#[test]
fn errors_name_what_is_wrong() {
    let said = |from: &str, to: &str| convert(d("2"), from, to).unwrap_err().to_string();
    assert!(said("mgg/dL", "g/L").starts_with("expected a UCUM unit, got \"mgg/dL\""));
    assert_eq!(said("kg", "m"), "expected two units of the same kind, got kg and m");
    assert!(said("[pH]", "mol/L").contains("not linear"));
    assert!(said("\u{1b}[31m", "m").contains("(unprintable)"));
    assert!(said(&"m".repeat(129), "m").contains("at most 128 bytes"));
    assert!(said("Ym", "fm").contains("does not fit"));
    assert!(!comparable("kg", "m") && !comparable("nonsense", "m") && comparable("Cel", "[degF]"));
    assert_eq!(
        convert(d("7.40"), "[pH]", "[pH]"),
        Ok(d("7.40")),
        "nothing is computed where nothing changes"
    );
}

/// Pairs that people meet, with factors that end (kg, lb) and that do not (min, h; degF).
const PAIRS: &[(&str, &str)] = &[
    ("kg", "[lb_av]"),
    ("Cel", "[degF]"),
    ("[degF]", "K"),
    ("min", "h"),
    ("d", "wk"),
    ("mm[Hg]", "kPa"),
    ("mg/dL", "g/L"),
    ("umol/L", "mmol/L"),
    ("[in_i]", "cm"),
    ("mL/min", "L/h"),
    ("kcal", "kJ"),
    ("km/h", "m/s"),
    ("[mi_i]", "km"),
    ("U/L", "nkat/L"),
    ("%", "1"),
    ("[degRe]", "[degF]"),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_048))]

    /// There and back is the value that was written, at its own digits.
    #[test]
    fn the_way_back_returns(mantissa in -999_999_999_i64..999_999_999, scale in 0_u32..7, pair in 0..PAIRS.len()) {
        let (value, (a, b)) = (Decimal::new(mantissa, scale), PAIRS[pair]);
        for (from, to) in [(a, b), (b, a)] {
            let there = convert(value, from, to).unwrap();
            let back = convert(there, to, from).unwrap();
            prop_assert!(returns(value, back), "{value} {from} -> {there} {to} -> {back}");
        }
    }

    /// Larger stays larger.
    #[test]
    fn order_is_kept(a in -9_999_999_i64..9_999_999, b in -9_999_999_i64..9_999_999, pair in 0..PAIRS.len()) {
        let (from, to) = PAIRS[pair];
        let [x, y] = [a, b].map(|v| convert(Decimal::new(v, 3), from, to).unwrap());
        prop_assert_eq!(a.cmp(&b), x.cmp(&y));
    }

    #[test]
    fn no_text_breaks_the_parser(from in "\\PC{0,40}", to in "[a-zA-Z0-9./{}()\\[\\]*+-]{0,20}") {
        let _ = convert(Decimal::ONE, &from, &to);
        let _ = convert(Decimal::MAX, &to, "m");
    }
}
