//! Sessions of haemodialysis.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::{d, keep};
use crate::compose::Exact;
use crate::compose::dialysis::{
    Access, Amount, Anticoagulant, Anticoagulation, Dialysate, DialysisError, DialysisSession, Pressure,
    TimedPressure, from_fhir, from_json, from_row, to_fhir,
};
use crate::observe::{LOINC, Value, observations};

const SHEET: &[(&str, &str)] = &[
    ("start", "2026-03-01T08:30:00+09:00"),
    ("end", "2026-03-01T12:30:00+09:00"),
    ("pre_weight", "68.2"),
    ("target_weight", "65.8 kg"),
    ("post_weight", "65.9kg"),
    ("uf_volume", "2.4"),
    ("bp_pre", "152/84"),
    ("bp_post", "128／72"),
    ("access", "AV fistula"),
    ("anticoagulation", "heparin 3000 IU"),
    ("dialysate_k", "2.0"),
    ("dialysate_ca", "3.0 mEq/L"),
    ("dialysate_flow", "500"),
    ("blood_flow", "250"),
    ("ktv", "1.45"),
    ("urr", "70.1"),
    ("complications", "cramps; Hypotension, dizzy"),
];

fn sheet(changes: &[(&str, &str)]) -> BTreeMap<String, String> {
    SHEET.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn exact(text: &str) -> Option<Exact> {
    Some(Exact(d(text)))
}

fn full() -> DialysisSession {
    let (mut session, _) = from_row(&sheet(&[])).unwrap();
    session.bp_during = vec![TimedPressure {
        time: "2026-03-01T10:00:00+09:00".to_owned(),
        systolic: Exact(d("104")),
        diastolic: Exact(d("61")),
    }];
    session.pulse_pre = exact("78");
    session.pulse_post = exact("84");
    session.dialysate.sodium_mmol_l = exact("140");
    session.dialysate.bicarbonate_mmol_l = exact("30.0");
    session.dialysate.temperature_cel = exact("36.5");
    session.dialyzer = Some("APS-15SA".to_owned());
    session.bun_pre_mg_dl = exact("62.0");
    session.bun_post_mg_dl = exact("18.5");
    session.notes = vec!["Felt well afterwards".to_owned()];
    session
}

#[test]
fn a_row_of_a_sheet_is_a_session() {
    let (session, warnings) = from_row(&sheet(&[])).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(session.uf_volume_ml, exact("2400"), "2.4 can only be litres");
    assert_eq!(session.dialysate.calcium, Some(Amount { value: Exact(d("3.0")), unit: "meq/L".to_owned() }));
    assert_eq!(session.bp_post, Some(Pressure { systolic: Exact(d("128")), diastolic: Exact(d("72")) }));
    let dose = Some(Amount { value: Exact(d("3000")), unit: "[iU]".to_owned() });
    assert_eq!(session.anticoagulation, Some(Anticoagulation { agent: Anticoagulant::Heparin, dose }));
    assert_eq!(session.access, Some(Access::AvFistula));
    assert_eq!(session.complications, ["cramps", "hypotension", "dizzy"]);
}

#[test]
fn what_is_not_certain_is_kept_as_a_note() {
    let row = sheet(&[
        ("dialysate_ca", "3.0"),
        ("uf_volume", "50"),
        ("pre_weight", "about 68"),
        ("access", "left arm"),
    ]);
    let (session, warnings) = from_row(&row).unwrap();
    assert_eq!(
        session.notes,
        ["pre_weight: about 68", "uf_volume: 50", "access: left arm", "dialysate_ca: 3.0"]
    );
    assert_eq!(warnings.len(), 4);
    let said = warnings.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(
        said[3].starts_with("dialysate_ca: expected a value like 1.5 mmol/L or 3.0 meq/L, got \"3.0\""),
        "{said:?}"
    );
    assert_eq!((session.dialysate.calcium, session.uf_volume_ml, session.pre_weight_kg), (None, None, None));
}

#[test]
fn a_row_names_what_it_lacks() {
    let mut row = sheet(&[("weight", "68")]);
    assert_eq!(from_row(&row), Err(DialysisError::Column { got: "weight".to_owned() }));
    row = sheet(&[("start", "")]);
    assert_eq!(from_row(&row), Err(DialysisError::Missing("start")));
    row = sheet(&[("start", "2026-03-01")]);
    assert!(from_row(&row).unwrap_err().to_string().starts_with("expected start as a time with its offset"));
    row = sheet(&[("end", "2026-03-01T08:00:00+09:00")]);
    assert!(matches!(from_row(&row), Err(DialysisError::EndsBefore { .. })));
}

#[test]
fn a_bundle_is_what_fhir_readers_expect() {
    let composed = to_fhir(&full()).unwrap();
    keep(&composed.json);
    assert_eq!(composed.json, to_fhir(&full()).unwrap().json, "the same session, the same bytes");
    let read =
        observations("dialysis/session", "application/fhir+json", &[], composed.json.as_bytes()).unwrap();
    let value = |code: &str| {
        let found = read.iter().filter(|o| o.code.code == code);
        found
            .map(|o| match &o.value {
                Value::Quantity { value, unit } => format!("{value} {unit}"),
                Value::Text(text) => text.clone(),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(value("29463-7"), ["68.2 kg", "65.9 kg"], "in a trend of the weight, both");
    assert_eq!(value("8480-6"), ["152 mm[Hg]", "104 mm[Hg]", "128 mm[Hg]"]);
    assert_eq!(value("302497006"), ["Haemodialysis"]);
    assert_eq!(value("Dialysate calcium"), ["3.0 meq/L"]);
    assert!(composed.json.contains("\"value\":30.0,"), "digits stay");
}

#[test]
fn equal_values_have_names_of_their_own() {
    let mut session = full();
    session.bp_during = session.bp_during.iter().chain(&session.bp_during).cloned().collect();
    let json = to_fhir(&session).unwrap().json;
    let names: Vec<_> =
        json.split("\"fullUrl\":\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(names.len(), unique.len());
    assert!(names.iter().all(|name| name.starts_with("urn:uuid:")));
}

#[test]
fn a_label_says_the_weights() {
    let facts = to_fhir(&full()).unwrap().facts;
    assert_eq!(
        (facts.kind.as_str(), facts.media_type.as_str()),
        ("dialysis/session", "application/fhir+json")
    );
    assert_eq!(facts.title, "Haemodialysis 2026-03-01, 68.2 → 65.9 kg");
    assert_eq!(facts.categories, ["procedure", "dialysis"]);
    let effective = facts.effective.unwrap();
    assert_eq!((effective.end_ms - effective.start_ms, effective.offset_min), (4 * 3_600_000, 540));
    let codes: Vec<_> = facts.codes.iter().map(|code| code.code.as_str()).collect();
    let expected =
        ["302497006", "55300003", "45007003", "29463-7", "8867-4", "3094-0", "85354-9", "8480-6", "8462-4"];
    assert_eq!(codes, expected);
    assert_eq!(facts.codes[3].system, LOINC);
}

#[test]
fn what_does_not_agree_is_told() {
    assert_eq!(to_fhir(&full()).unwrap().warnings, [], "2.4 L for 2.3 kg, 70.1 % for 62 to 18.5");
    let said = |session: &DialysisSession| {
        to_fhir(session).unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let much = DialysisSession { uf_volume_ml: exact("3900"), ..full() };
    assert_eq!(said(&much), ["uf_volume: 3.9 L were taken, but the weight fell by 2.3 kg"]);
    let urr = DialysisSession { urr_percent: exact("61"), ..full() };
    assert_eq!(said(&urr), ["urr: 61 % is stated, but the urea nitrogen gives 70.2 %"]);
    let heavier = DialysisSession { post_weight_kg: exact("68.4"), uf_volume_ml: None, ..full() };
    assert_eq!(said(&heavier), ["post_weight: 68.4 kg after is more than 68.2 kg before"]);
    let zero = DialysisSession { bun_pre_mg_dl: exact("0"), ..full() };
    assert!(said(&zero).is_empty(), "no ratio to nothing");
}

#[test]
fn json_says_every_field_or_is_refused() {
    let text = serde_json::to_string(&full()).unwrap();
    assert_eq!(from_json(text.as_bytes()), Ok(full()));
    let unknown = text.replacen("\"ktv\"", "\"kt_v\"", 1);
    let error = from_json(unknown.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("unknown field `kt_v`"), "{error}");
    let unit = text.replacen("\"unit\":\"meq/L\"", "\"unit\":\"mEQ\"", 1);
    assert!(
        from_json(unit.as_bytes())
            .unwrap_err()
            .to_string()
            .contains("expected dialysate.calcium as a unit of")
    );
    assert!(matches!(from_json(b"[]"), Err(DialysisError::Json { line: 1, .. })));
    assert!(matches!(from_json(&vec![b' '; 2_000_000]), Err(DialysisError::TooLong { .. })));
    assert!(from_fhir(br#"{"resourceType":"Bundle","type":"collection"}"#).is_err());
    assert!(
        from_fhir(br#"{"resourceType":"Patient","type":"x"}"#)
            .unwrap_err()
            .to_string()
            .ends_with("got Patient")
    );
}

fn number() -> impl Strategy<Value = Option<Exact>> {
    proptest::option::of((0_i64..999_999, 0_u32..4).prop_map(|(m, s)| Exact(Decimal::new(m, s))))
}

fn pressure() -> impl Strategy<Value = Option<Pressure>> {
    let values = (number(), number()).prop_map(|(a, b)| Some(Pressure { systolic: a?, diastolic: b? }));
    values.boxed()
}

prop_compose! {
    fn session()(
        n in proptest::collection::vec(number(), 17),
        bp in proptest::collection::vec(pressure(), 4),
        texts in proptest::collection::vec("[a-zé透 ]{1,12}", 0..4),
        access in proptest::option::of(proptest::sample::select(vec![Access::AvFistula, Access::AvGraft, Access::Catheter])),
        agent in proptest::option::of(proptest::sample::select(vec![
            Anticoagulant::Heparin, Anticoagulant::LowMolecularWeightHeparin, Anticoagulant::Nafamostat, Anticoagulant::None,
        ])),
        end in any::<bool>(),
    ) -> DialysisSession {
        let amount = |value: Option<Exact>, unit: &str| value.map(|value| Amount { value, unit: unit.to_owned() });
        let timed = |(i, bp): (usize, &Option<Pressure>)| bp.map(|bp| TimedPressure {
            time: format!("2026-03-01T10:{i:02}:00Z"), systolic: bp.systolic, diastolic: bp.diastolic,
        });
        DialysisSession {
            start: "2026-03-01T08:30:00+09:00".to_owned(),
            end: end.then(|| "2026-03-01T12:30:00+09:00".to_owned()),
            pre_weight_kg: n[0], target_weight_kg: n[1], post_weight_kg: n[2], uf_volume_ml: n[3],
            bp_pre: bp[0], bp_post: bp[1],
            bp_during: bp[2..].iter().enumerate().filter_map(timed).collect(),
            pulse_pre: n[4], pulse_post: n[5], access,
            anticoagulation: agent.map(|agent| Anticoagulation { agent, dose: amount(n[6], "[iU]") }),
            dialysate: Dialysate {
                potassium_mmol_l: n[7], calcium: amount(n[8], "mmol/L"), sodium_mmol_l: n[9], bicarbonate_mmol_l: n[10],
                flow_ml_min: n[11], temperature_cel: n[12],
            },
            blood_flow_ml_min: n[13], dialyzer: texts.first().cloned(), ktv: n[14], urr_percent: n[15],
            bun_pre_mg_dl: n[16], bun_post_mg_dl: n[0],
            complications: texts.clone(), notes: texts,
        }
    }
}

proptest! {
    /// A session is the same after a way through FHIR, and through JSON.
    #[test]
    fn nothing_is_lost_on_the_way(session in session()) {
        let bundle = to_fhir(&session).unwrap().json;
        prop_assert_eq!(from_fhir(bundle.as_bytes()).unwrap(), session.clone());
        let json = serde_json::to_string(&session).unwrap();
        prop_assert_eq!(from_json(json.as_bytes()).unwrap(), session);
    }

    /// Whatever stands in a cell, the row is a session, and the cell is a value or a note.
    #[test]
    fn no_cell_breaks_a_row(column in 0..SHEET.len(), cell in "\\PC{0,24}") {
        let name = SHEET[column].0;
        let read = from_row(&sheet(&[(name, &cell)]));
        if !matches!(name, "start" | "end") {
            prop_assert!(to_fhir(&read.unwrap().0).is_ok());
        }
    }
}
