//! One line typed by hand.

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{MORNING, d, keep};
use crate::compose::Moment;
use crate::compose::entry::{EntryError, compose};
use crate::observe::{Observation, Value, observations};

fn read(line: &str) -> Vec<Observation> {
    let entry = compose(line, MORNING).unwrap();
    keep(&entry.json);
    observations("fhir/Observation", "application/fhir+json", &[], entry.json.as_bytes()).unwrap()
}

/// Code, value and unit, read back by the reader of every FHIR record.
fn told(line: &str) -> Vec<String> {
    let shown = |o: Observation| match o.value {
        Value::Quantity { value, unit } => format!("{} {value} {unit}", o.code.code),
        Value::Text(text) => format!("{} {text:?}", o.code.code),
    };
    read(line).into_iter().map(shown).collect()
}

fn error(line: &str) -> String {
    compose(line, MORNING).unwrap_err().to_string()
}

#[test]
fn what_is_typed_is_read_back() {
    assert_eq!(told("weight 62.40kg"), ["29463-7 62.40 kg"], "every digit stays");
    assert_eq!(told("weight 138 lbs"), ["29463-7 138 [lb_av]"]);
    assert_eq!(told("bp 132/84"), ["8480-6 132 mm[Hg]", "8462-4 84 mm[Hg]"]);
    assert_eq!(told("bp 132/84 mmHg pulse 72"), ["8480-6 132 mm[Hg]", "8462-4 84 mm[Hg]", "8867-4 72 /min"]);
    assert_eq!(told("bp 17.6/11.2kPa 72bpm")[0], "8480-6 17.6 kPa");
    assert_eq!(told("steps 8,123"), ["55423-8 8123 {steps}"]);
    assert_eq!(told("glucose 118 mg/dL"), ["2339-0 118 mg/dL"]);
    assert_eq!(told("glucose 6.5mmol/L"), ["15074-8 6.5 mmol/L"]);
    assert_eq!(told("temperature 36.8"), ["8310-5 36.8 Cel"]);
    assert_eq!(told("temperature 98.2°F"), ["8310-5 98.2 [degF]"]);
    assert_eq!(told("spo2 97"), ["59408-5 97 %"]);
    assert_eq!(told("pulse 72"), ["8867-4 72 /min"]);
    assert_eq!(told("note \"slept badly & woke\""), ["34109-9 \"slept badly & woke\""]);
    assert_eq!(told("note slept badly"), ["34109-9 \"slept badly\""]);
}

#[test]
fn a_meal_has_a_text_an_energy_and_parts() {
    let meal = told("meal \"rice, miso soup\" 640kcal salt 2.1g potassium 900 water 350ml");
    let expected =
        ["9052-2 640 kcal", "Meal \"rice, miso soup\"", "Salt 2.1 g", "Potassium 900 mg", "Water 350 mL"];
    assert_eq!(meal, expected);
    assert_eq!(told("meal \"an apple\""), ["Meal \"an apple\""]);
    assert_eq!(read("meal rice 640kcal").len(), 1, "without quotation marks all of it is the text");
}

#[test]
fn a_japanese_keyboard_is_understood() {
    assert_eq!(told("体重　６２．４㎏"), ["29463-7 62.4 kg"]);
    assert_eq!(told("血圧　１３２／８４　７２"), ["8480-6 132 mm[Hg]", "8462-4 84 mm[Hg]", "8867-4 72 /min"]);
    assert_eq!(told("体温 36.8℃"), ["8310-5 36.8 Cel"]);
    assert_eq!(told("歩数 8123歩"), ["55423-8 8123 {steps}"]);
    assert_eq!(
        told("食事 「①ご飯、みそ汁」 640kcal")[1],
        "Meal \"①ご飯、みそ汁\"",
        "a quotation stays as it is"
    );
}

#[test]
fn it_says_when_and_how() {
    let entry = compose("weight 62.4kg", MORNING).unwrap();
    assert!(entry.json.contains(r#""effectiveDateTime":"2026-03-01T07:10:00+09:00""#), "{}", entry.json);
    let weight = read("weight 62.4kg").remove(0);
    assert_eq!((weight.effective.start_ms, weight.effective.offset_min), (MORNING.ms, 540));
    assert_eq!((weight.source.name.as_str(), weight.source.method.as_deref()), ("manual", Some("manual")));
    let steps = read("steps 8123").remove(0);
    assert_eq!(steps.effective.end_ms, MORNING.ms);
    assert_eq!(MORNING.ms - steps.effective.start_ms, (7 * 60 + 10) * 60_000, "of the day so far");
}

#[test]
fn the_unlikely_is_kept_with_a_warning() {
    let entry = compose("weight 624kg", MORNING).unwrap();
    assert_eq!(entry.warnings[0].to_string(), "weight: 624 kg is kept, but 20 to 300 kg is usual");
    assert!(entry.json.contains("624"));
    assert_eq!(
        compose("temperature 98.2", MORNING).unwrap().warnings.len(),
        1,
        "Fahrenheit without its sign"
    );
    assert!(compose("temperature 98.2F", MORNING).unwrap().warnings.is_empty());
    assert_eq!(compose("spo2 104", MORNING).unwrap().warnings.len(), 1);
}

#[test]
fn errors_say_what_was_expected() {
    assert_eq!(error(" "), "expected an entry such as \"weight 62.4kg\", got nothing");
    assert!(error("wieght 62").ends_with("got \"wieght\""));
    assert_eq!(error("weight"), "expected a number, as in \"weight 62.4kg\", got nothing");
    assert_eq!(error("weight heavy"), "expected a number, as in \"weight 62.4kg\", got \"heavy\"");
    assert_eq!(error("weight -3"), "expected a number, as in \"weight 62.4kg\", got \"-3\"");
    assert_eq!(error("weight 62,4"), "expected a number, as in \"weight 62.4kg\", got \"62,4\"");
    assert_eq!(error("weight 62.4cm"), "expected weight in a unit like kg, got \"cm\"");
    assert_eq!(error("weight 62.4mmol/L"), "expected weight in a unit like kg, got \"mmol/L\"");
    assert_eq!(error("weight 62.4kg 63"), "expected the end of the entry, got \"63\"");
    assert_eq!(error("bp 132"), "expected two numbers, as in \"bp 132/84\", got \"132\"");
    assert_eq!(error("bp 84/132"), "expected the upper pressure above the lower, got 84/132");
    assert_eq!(error("glucose 118"), "expected glucose in a unit like mg/dL or mmol/L, got \"\"");
    assert_eq!(error("meal \"rice"), "expected a closing quotation mark, got the end of the line");
    assert!(error("meal \"rice\" salty").contains("such as salt 2.1g"));
    assert!(error(&"x".repeat(5_000)).ends_with("got 5000"));
    assert_eq!(compose("pulse 72", Moment { ms: i64::MAX, offset_min: 0 }), Err(EntryError::Time));
}

proptest! {
    /// A weight is read back as it was typed.
    #[test]
    fn every_digit_stays(mantissa in 0_i64..9_999_999, scale in 0_u32..5) {
        let value = Decimal::new(mantissa, scale);
        let read = read(&format!("weight {value} kg")).remove(0).value;
        let Value::Quantity { value: back, .. } = read else { panic!("a quantity") };
        prop_assert_eq!(back.to_string(), value.to_string());
        prop_assert_eq!(back, d(&value.to_string()));
    }

    #[test]
    fn no_line_breaks_it(line in "\\PC{0,60}", verb in "(weight|bp|meal|glucose|note) \\PC{0,30}") {
        let _ = compose(&line, MORNING);
        if let Ok(entry) = compose(&verb, MORNING) {
            prop_assert!(observations("", "application/fhir+json", &[], entry.json.as_bytes()).is_ok());
        }
    }
}
