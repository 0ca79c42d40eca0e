//! FHIR resources as observations.

use super::{d, shared, shared_folder};
use crate::import::Effective;
use crate::observe::{LOINC, Observation, ReadError, Value, observations};

fn read(text: &str) -> Result<Vec<Observation>, ReadError> {
    observations("fhir/Observation", "application/fhir+json", &[], text.as_bytes())
}

/// Code, value, unit.
fn told(text: &str) -> Vec<String> {
    let shown = |o: Observation| match o.value {
        Value::Quantity { value, unit } => format!("{}={value} {unit}", o.code.code),
        Value::Text(text) => format!("{}={text:?}", o.code.code),
    };
    read(text).unwrap().into_iter().map(shown).collect()
}

const PRESSURE: &str = r#"{"resourceType":"Observation","status":"final","effectiveDateTime":"2026-03-01T07:10:00+09:00",
  "code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}],"text":"Blood pressure"},
  "device":{"display":"Omron HEM-7600T","reference":"Device/1"},"method":{"text":"cuff"},
  "component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6","display":"Systolic"}]},
    "valueQuantity":{"value":132,"system":"http://unitsofmeasure.org","code":"mm[Hg]"}},
   {"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},
    "valueQuantity":{"value":84.0,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}]}"#;

#[test]
fn a_blood_pressure_is_two_parts_of_one() {
    let [systolic, diastolic] = &read(PRESSURE).unwrap()[..] else { panic!("two components") };
    assert_eq!((systolic.code.code.as_str(), systolic.display.as_str()), ("8480-6", "Systolic"));
    assert_eq!(diastolic.value, Value::Quantity { value: d("84.0"), unit: "mm[Hg]".to_owned() });
    assert_eq!(systolic.part_of.as_ref().map(|code| (&*code.system, &*code.code)), Some((LOINC, "85354-9")));
    assert_eq!(
        systolic.effective,
        Effective { start_ms: 1_772_316_600_000, end_ms: 1_772_316_600_000, offset_min: 540 }
    );
    assert_eq!(
        (systolic.source.name.as_str(), systolic.source.method.as_deref()),
        ("Omron HEM-7600T", Some("cuff"))
    );
}

fn with(value: &str) -> String {
    format!(
        r#"{{"resourceType":"Observation","status":"final","effectiveInstant":"2026-03-01T07:10:00Z","code":{{"coding":[{{"system":"http://loinc.org","code":"x"}}]}},{value}}}"#
    )
}

#[test]
fn values_are_what_is_written() {
    let ucum = r#""system":"http://unitsofmeasure.org","code":"kg""#;
    let one = |value: &str| told(&with(value));
    assert_eq!(
        one(&format!(r#""valueQuantity":{{"value":62.40,{ucum}}}"#)),
        ["x=62.40 kg"],
        "no float in between"
    );
    assert_eq!(one(&format!(r#""valueQuantity":{{"value":6.24e1,{ucum}}}"#)), ["x=62.4 kg"]);
    assert_eq!(
        one(&format!(r#""valueQuantity":{{"value":0.3,"comparator":"<",{ucum}}}"#)),
        [r#"x="<0.3 kg""#]
    );
    assert_eq!(one(r#""valueQuantity":{"value":5,"unit":"ft"}"#), ["x=5 {ft}"], "not a femtotonne");
    assert_eq!(one(r#""valueQuantity":{"value":5}"#), ["x=5 1"]);
    assert_eq!(one(r#""valueInteger":7"#), ["x=7 1"]);
    assert_eq!(one(r#""valueString":"clear""#), [r#"x="clear""#]);
    assert_eq!(one(r#""valueBoolean":true"#), [r#"x="true""#]);
    assert_eq!(
        one(r#""valueCodeableConcept":{"coding":[{"code":"260385009","display":"Negative"}]}"#),
        [r#"x="Negative""#]
    );
    assert!(
        one(r#""valueRatio":{}"#).is_empty() && one(r#""dataAbsentReason":{"text":"unknown"}"#).is_empty()
    );
    assert_eq!(read(&with(r#""valueInteger":7"#)).unwrap()[0].source.name, "not stated");
}

#[test]
fn what_is_wrong_is_named_or_left_out() {
    assert!(matches!(read("{"), Err(ReadError::Json { line: 1, .. })));
    assert!(matches!(read(r#"{"resourceType":"Observation","code":7}"#), Err(ReadError::Json { .. })));
    let error = observations("document/pdf", "application/pdf", &[], b"%PDF").unwrap_err();
    assert_eq!(
        error.to_string(),
        "expected a record in a format that holds observations, got application/pdf"
    );
    assert!(told(&with(r#""valueInteger":7"#).replace("final", "entered-in-error")).is_empty());
    assert!(
        told(&with(r#""valueInteger":7"#).replace("effectiveInstant", "created")).is_empty(),
        "no time is stated"
    );
    let bundle = format!(
        r#"{{"resourceType":"Bundle","type":"collection","entry":[{{"resource":{{"resourceType":"Observation","code":7}}}},{{"resource":{PRESSURE}}},{{}}]}}"#
    );
    assert_eq!(told(&bundle).len(), 2, "the unreadable entry is left out, the others stay");
    let deep = (0..9).fold(PRESSURE.to_owned(), |inner, _| {
        format!(r#"{{"resourceType":"Bundle","entry":[{{"resource":{inner}}}]}}"#)
    });
    assert!(told(&deep).is_empty(), "nesting has a bound");
}

#[test]
fn real_resources_are_read() {
    let Some(potassium) = shared("fhir/dialysis-mcc/Observation-potassium-serum-observation.json") else {
        return;
    };
    assert_eq!(told(&potassium), ["2823-3=6 mmol/L"]);
    let dialysis = shared("fhir/dialysis-mcc/Procedure-dialysis-for-bundle.json").unwrap();
    assert_eq!(told(&dialysis), [r#"302497006="Hemodialysis""#]);
    assert_eq!(read(&dialysis).unwrap()[0].source.name, "Dr Henry Levin");
}

/// All files ending in `.json` below `folder`.
fn json_files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            json_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "json") {
            found.push(path);
        }
    }
}

#[test]
fn published_resources_are_read_or_hold_nothing() {
    let Some(folder) = shared_folder("fhir") else { return };
    let mut files = Vec::new();
    json_files(&folder, &mut files);
    let (mut read, mut found, mut refused) = (0, 0, Vec::new());
    for path in &files {
        match observations("", "application/fhir+json", &[], &std::fs::read(path).unwrap()) {
            Ok(list) => (read, found) = (read + 1, found + list.len()),
            Err(error) => refused.push(format!("{}: {error}", path.display())),
        }
    }
    println!("{read} of {} files read, {found} observations", files.len());
    assert!(refused.is_empty(), "{refused:#?}");
}
