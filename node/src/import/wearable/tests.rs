//! Files of wearables, as stories and laws; real data where it is at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;
use crate::import::facts::{Body, Finding};
use crate::import::{Event, Limits};
use crate::observe::{self, Value};

/// What came of one file.
#[derive(Default)]
struct Heard {
    found: Vec<Finding>,
    refused: Vec<(String, ImportError)>,
    counts: Counts,
}

impl Heard {
    fn said(&self) -> Vec<Observation> {
        let read = |one: &Finding| {
            observations(&one.facts.media_type, &one.facts.profiles, bytes(one))
                .expect("a record reads again")
        };
        self.found.iter().flat_map(read).collect()
    }

    /// The sum of the values with a code.
    fn sum(&self, code: &str) -> Decimal {
        numbers(&self.said(), code).iter().sum()
    }
}

fn numbers(said: &[Observation], code: &str) -> Vec<Decimal> {
    let of = |one: &Observation| match &one.value {
        Value::Quantity { value, .. } if one.code.code == code => Some(*value),
        _ => None,
    };
    said.iter().filter_map(of).collect()
}

fn bytes(finding: &Finding) -> &[u8] {
    match &finding.bytes {
        Body::Memory(bytes) => bytes,
        _ => &[],
    }
}

fn hear(which: &Wearable, mut file: &[u8], options: &WearableOptions) -> Heard {
    let limits = Limits::default();
    let mut heard = Heard::default();
    let mut visit = |event| {
        match event {
            Event::Found(finding) => heard.found.push(finding),
            Event::Refused { origin, reason } => heard.refused.push((origin, reason)),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let mut sink = Sink::new(&limits, file.len() as u64, &mut visit);
    let flow = read(which, &mut file, "file", options, &mut sink);
    heard.counts = flow.continue_value().expect("nobody stops");
    heard
}

fn which(file: &[u8], name: &str, options: &WearableOptions) -> Option<Wearable> {
    let head = &file[..file.len().min(4096)];
    claims(head, name, options).or_else(|| claims_json(std::str::from_utf8(file).ok()?, options))
}

fn take(file: &[u8], options: &WearableOptions) -> Heard {
    hear(&which(file, "x", options).expect("somebody reads it"), file, options)
}

fn person(id: &str) -> WearableOptions {
    WearableOptions { person: Some(id.to_owned()), ..WearableOptions::default() }
}

/// A folder of the real data, or a line that says it is not there.
fn data(folder: &str) -> Option<PathBuf> {
    let root = std::env::var("KARTE_DATA").unwrap_or_else(|_| "../../shared/data".to_owned());
    let path = Path::new(&root).join("wearable").join(folder);
    if !path.is_dir() {
        println!("skipped 1: no {}", path.display());
        return None;
    }
    Some(path)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files_below(&path)) } else { out.push(path) }
    }
    out.sort();
    out
}

// --- CSV

#[test]
fn two_people_in_a_file_are_refused_until_one_is_chosen() {
    let file = b"Id,ActivityDay,StepTotal\r\n1,4/12/2016,100\r\n2,4/12/2016,50\r\n1,4/13/2016,7\r\n";
    let heard = take(file, &WearableOptions::default());
    assert!(heard.found.is_empty());
    assert_eq!(heard.refused[0].1, ImportError::SeveralPeople { count: 2 });

    let one = take(file, &person("1"));
    assert_eq!((one.found.len(), one.sum("41950-7")), (2, Decimal::from(107)));
    assert_eq!(bytes(&one.found[0]), b"Id,ActivityDay,StepTotal\r\n1,4/12/2016,100\r\n");

    let all = take(file, &person("all"));
    let sources: BTreeSet<_> = all.said().into_iter().map(|one| one.source.name).collect();
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), ["fitbit 1", "fitbit 2"]);
    let ids: BTreeSet<_> = all.found.iter().map(|one| one.facts.source_id.clone()).collect();
    assert_eq!(ids.len(), 3, "each person's day has an id of its own");
    assert_eq!(take(file, &person("9")).refused[0].1, ImportError::PersonNotInFile { count: 2 });
}

#[test]
fn a_day_is_its_header_and_rows_and_a_fuller_one_replaces_it() {
    let file = "\u{feff}Date,Time,Systolic (mmHg),Diastolic (mmHg),Pulse (bpm),Notes\n\
        2024/01/02,08:10,131,82,66,\"slept, well\"\n2024/01/02,21:30,128,80,,\n2024/01/03,08:00,125,79,61,";
    let heard = take(file.as_bytes(), &WearableOptions::default());
    assert!(heard.refused.is_empty(), "{:?}", heard.refused);
    let lines: Vec<&str> = file.split_inclusive('\n').collect();
    assert_eq!(bytes(&heard.found[0]), [lines[0], lines[1], lines[2]].concat().as_bytes());
    assert_eq!(bytes(&heard.found[1]), [lines[0], lines[3]].concat().as_bytes());
    let facts = &heard.found[0].facts;
    assert_eq!(facts.source_id.as_deref(), Some("omron-bp/blood-pressure monitor/2024-01-02"));
    assert!(facts.replaces_same_source);
    assert_eq!(
        (facts.kind.as_str(), facts.media_type.as_str()),
        ("daily/blood-pressure", "text/csv; format=omron-bp")
    );
    let said = heard.said();
    assert_eq!(said.len(), 3 + 1 + 2 + 3);
    assert_eq!(said[0].part_of.as_ref().unwrap().code, "85354-9");
    assert_eq!(said[0].effective.start_ms, 1_704_183_000_000, "08:10 as written");
}

#[test]
fn a_japanese_monitor_in_shift_jis_keeps_its_bytes() {
    let text =
        "測定日,測定時刻,最高血圧(mmHg),最低血圧(mmHg),脈拍(bpm),メモ\r\n2024/01/02,08:10,131,82,66,頭痛\r\n";
    let (file, _, _) = encoding_rs::SHIFT_JIS.encode(text);
    let heard = take(&file, &WearableOptions::default());
    assert_eq!(bytes(&heard.found[0]), &*file);
    let said = heard.said();
    assert_eq!(numbers(&said, "8480-6"), [Decimal::from(131)]);
    assert_eq!(said.last().unwrap().value, Value::Text("頭痛".to_owned()));
}

#[test]
fn a_date_that_could_be_two_is_refused_and_the_other_rows_are_read() {
    let file =
        b"Date,Weight (lb),BMI\n04/05/2024,150.2,22\n2024-04-06,150.4,n/a\n2024-04-07,x,1\n2024-04-08,1\n";
    let heard = take(file, &WearableOptions::default());
    let reasons: Vec<_> =
        heard.refused.iter().map(|(origin, reason)| (origin.as_str(), reason.clone())).collect();
    assert_eq!(
        reasons,
        [
            ("file row 2", ImportError::DateAmbiguous { column: "Date".to_owned() }),
            ("file row 4", ImportError::NumberUnread { column: "Weight (lb)".to_owned() }),
            ("file row 5", ImportError::CellCount { expected: 3, got: 2 }),
        ]
    );
    let said = heard.said();
    assert_eq!(said.len(), 1);
    assert_eq!(
        said[0].value,
        Value::Quantity { value: "150.4".parse().unwrap(), unit: "[lb_av]".to_owned() }
    );
}

#[test]
fn a_mapping_of_ones_own_reads_a_file_and_its_records_again() {
    let toml = r#"
name = "ward-chart"
kind = "daily/temperature"
categories = ["vital-signs"]
title = "Temperature"
source = "ward"
delimiter = ";"
decimal_comma = true
[time]
date = ["Datum"]
date_formats = ["%d.%m.%Y %H:%M"]
zone = "Europe/Berlin"
[[value]]
column = ["Temp"]
code = "8310-5"
unit = "Cel"
"#;
    let options =
        WearableOptions { map: Some(CsvMap::from_toml(toml).unwrap()), ..WearableOptions::default() };
    let file = b"Datum;Temp\n01.07.2024 00:30;37,2\n30.06.2024 23:00;36,9\n";
    let heard = hear(&which(file, "chart.csv", &options).unwrap(), file, &options);
    assert_eq!((heard.found.len(), heard.refused.len()), (2, 0), "{:?}", heard.refused);
    let said = heard.said();
    assert_eq!(said[0].value, Value::Quantity { value: "37.2".parse().unwrap(), unit: "Cel".to_owned() });
    assert_eq!(said[0].effective.offset_min, 120);
    assert_eq!(said[0].effective.start_ms, 1_719_786_600_000, "half past midnight in Berlin");
}

#[test]
fn each_row_of_a_dialysis_sheet_is_a_session() {
    let file = "Date,Start,End,Pre weight (kg),Target weight (kg),Post weight (kg),UF volume (mL),BP pre,BP post,Access,Anticoagulation,Dialysate K (mmol/L),Kt/V,URR (%),Complications\n\
        2024-05-01,08:30,12:30,64.2,62.0,62.1,2100,142/80,128/76,AVF left,heparin,2.0,1.41,71,none\n\
        2024-05-01,18:00,20:00,63.0,62.0,62.2,800,,,AVF left,,2.0,,,cramps\n";
    let heard = take(file.as_bytes(), &WearableOptions::default());
    assert_eq!((heard.found.len(), heard.refused.len()), (2, 0), "{:?}", heard.refused);
    assert!(heard.found.iter().all(|one| one.facts.kind == "dialysis/session"));
    let said =
        observe::observations("dialysis/session", "application/fhir+json", &[], bytes(&heard.found[0]))
            .unwrap();
    let text = std::str::from_utf8(bytes(&heard.found[0])).unwrap();
    assert!(
        text.contains("\"Bundle\"") && text.contains("142") && text.contains("2024-05-01T08:30:00"),
        "{text}"
    );
    let weights: Vec<_> =
        said.iter().filter(|one| one.code.code == "29463-7" || one.display.contains("eight")).collect();
    assert!(weights.len() >= 2, "before and after: {said:?}");
}

#[test]
fn a_diary_of_meals_is_read() {
    let file = "Date,Time,Meal,Food,Energy (kcal),Protein (g),Salt (g),Potassium (mg),Phosphorus (mg),Water (mL)\n\
        2024-05-01,07:30,breakfast,\"rice, miso soup\",420,12.5,1.8,300,150,200\n";
    let heard = take(file.as_bytes(), &WearableOptions::default());
    let said = heard.said();
    assert_eq!((said.len(), heard.found[0].facts.kind.as_str()), (8, "daily/nutrition"));
    assert_eq!(said[1].value, Value::Text("rice, miso soup".to_owned()));
}

/// Real: 33 people and 940 days; counted here again by splitting lines.
#[test]
fn fitbit_days_of_real_people_add_up() {
    let Some(folder) = data("fitbit-daily") else { return };
    for (name, steps_column, code) in [
        ("dailyActivity_merged.csv", 2, "41950-7"),
        ("dailySteps_merged.csv", 2, "41950-7"),
        ("weightLogInfo_merged.csv", 2, "29463-7"),
    ] {
        let file = std::fs::read(folder.join(name)).unwrap();
        let text = String::from_utf8(file.clone()).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
        let people: BTreeSet<&str> = rows.iter().map(|row| row[0]).collect();
        let days: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row[0], row[1])).collect();
        let sum: Decimal = rows.iter().map(|row| row[steps_column].parse::<Decimal>().unwrap()).sum();
        let mut tenths = BTreeMap::new();
        rows.iter().for_each(|row| *tenths.entry(row[0]).or_insert(0) += 1);

        let unasked = take(&file, &WearableOptions::default());
        assert_eq!(unasked.refused[0].1, ImportError::SeveralPeople { count: people.len() });
        let heard = take(&file, &person("all"));
        assert!(heard.refused.is_empty(), "{:?}", heard.refused);
        assert_eq!(heard.found.len(), days.len());
        assert_eq!(heard.sum(code), sum);
        let body_bytes: usize = heard.found.iter().map(|one| bytes(one).len()).sum();
        let header_bytes = text.split_inclusive('\n').next().unwrap().len();
        assert_eq!(
            body_bytes,
            file.len() - header_bytes + header_bytes * heard.found.len(),
            "no byte is lost"
        );
        let one = take(&file, &person(rows[0][0]));
        assert_eq!(one.said().iter().filter(|said| said.code.code == code).count(), tenths[rows[0][0]]);
        println!(
            "{name}: {} rows, {} people, {} person-days, sum of {code} {sum}",
            rows.len(),
            people.len(),
            heard.found.len()
        );
    }
}

// --- vendors' JSON

/// Real answers; the counts were found by an independent walk through the same files in Python.
#[test]
fn answers_of_vendors_are_read_and_others_stay_documents() {
    let Some(folder) = data("vendor-api") else { return };
    let (mut claimed, mut left, mut empty, mut found, mut total) = (0, 0, 0, 0, 0);
    for path in files_below(&folder) {
        let file = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let ours = ["fitbit-", "googlefit-", "withings-"].iter().any(|vendor| name.starts_with(vendor));
        let options = WearableOptions::default();
        let reader = which(&file, "anything", &options);
        assert_eq!(reader.is_some(), ours, "{name}");
        let Some(reader) = reader else {
            left += 1;
            continue;
        };
        let heard = hear(&reader, &file, &options);
        assert!(heard.refused.is_empty(), "{name}: {:?}", heard.refused);
        let said = heard.said();
        println!(
            "{name}: {} records, {} observations, {} empty",
            heard.found.len(),
            said.len(),
            heard.counts.empty_answers
        );
        if let Some(expected) = EXPECTED.iter().find(|known| known.0 == name) {
            let got = (heard.found.len(), said.len(), heard.counts.empty_answers);
            assert_eq!(got, (expected.1, expected.2, expected.3), "{name}");
        } else {
            panic!("no count for {name}");
        }
        claimed += 1;
        empty += heard.counts.empty_answers;
        found += heard.found.len();
        total += said.len();
    }
    println!(
        "vendors: {claimed} answers read, {left} left, {found} records, {total} observations, {empty} empty"
    );
}

/// File, records, observations, empty answers.
const EXPECTED: &[(&str, usize, usize, u64)] = &[
    ("fitbit-activities-date-empty-activities-list.json", 1, 0, 0),
    ("fitbit-activities-date-multiple-in-activities-list.json", 1, 13, 0),
    ("fitbit-activities-date-single-in-activities-list.json", 1, 9, 0),
    ("fitbit-activities-steps-1d-1m-intraday.json", 1, 4, 0),
    ("fitbit-activities-steps-timeseries.json", 3, 3, 0),
    ("fitbit-sleep-date-empty-sleep-list.json", 0, 0, 1),
    ("fitbit-sleep-date-range.json", 1, 12, 0),
    ("fitbit-sleep-date.json", 1, 12, 0),
    ("googlefit-empty.json", 0, 0, 1),
    ("googlefit-merge-activity-segments-only-sleep.json", 1, 1, 0),
    ("googlefit-merge-activity-segments-only-stationary-activity.json", 1, 1, 0),
    ("googlefit-merge-activity-segments.json", 3, 3, 0),
    ("googlefit-merge-heart-rate.json", 2, 2, 0),
    ("googlefit-merge-height.json", 1, 2, 0),
    ("googlefit-merge-location-samples.json", 2, 0, 0),
    ("googlefit-merge-step-deltas.json", 2, 4, 0),
    ("googlefit-merge-weight.json", 3, 3, 0),
    ("withings-body-measures-only-goal.json", 1, 0, 0),
    ("withings-body-measures.json", 5, 9, 0),
    ("withings-intraday-activity.json", 1, 16, 0),
    ("withings-sleep-measures.json", 1, 3, 0),
    ("withings-sleep-summary.json", 2, 8, 0),
];

#[test]
fn a_list_over_days_becomes_records_with_the_exact_elements() {
    let file = r#"{ "activities-steps": [ {"dateTime":"2015-08-23", "value":"175"},{"value" : "2937","dateTime":"2015-08-24"} ] }"#;
    let heard = take(file.as_bytes(), &WearableOptions::default());
    assert_eq!(bytes(&heard.found[0]), br#"{"activities-steps":[{"dateTime":"2015-08-23", "value":"175"}]}"#);
    assert_eq!(
        bytes(&heard.found[1]),
        br#"{"activities-steps":[{"value" : "2937","dateTime":"2015-08-24"}]}"#
    );
    assert_eq!(heard.sum("41950-7"), Decimal::from(3112));
    assert_eq!(heard.found[1].facts.source_id.as_deref(), Some("fitbit.steps/fitbit/2015-08-24"));
}

// --- FIT

#[test]
fn fit_files_tell_what_another_reader_tells() {
    let Some(folder) = data("fit") else { return };
    let tell = |name: &str| fit::tell(&std::fs::read(folder.join(name)).unwrap());
    let counts = |name: &str| tell(name).unwrap().messages;
    assert_eq!(counts("Activity.fit").get("record"), Some(&14));
    assert_eq!(counts("DeveloperData.fit").get("record"), Some(&3));
    assert_eq!(counts("MonitoringFile.fit").get("monitoring"), Some(&337));
    assert_eq!(counts("MonitoringFile.fit").get("event"), Some(&15));
    assert_eq!(counts("Settings.fit").get("bike_profile"), Some(&10));
    assert_eq!(counts("compressed-speed-distance.fit").get("record"), Some(&755));
    assert_eq!(counts("compressed-speed-distance.fit").get("lap"), Some(&11));
    assert_eq!(counts("garmin-fenix-5-walk.fit").get("hrv"), Some(&49));
    assert_eq!(counts("garmin-fenix-5-walk.fit").get("record"), Some(&17));
    let take_file =
        |name: &str| take(&std::fs::read(folder.join(name)).unwrap(), &WearableOptions::default());
    let number = |text: &str| text.parse::<Decimal>().unwrap();
    assert_eq!(take_file("Activity.fit").sum("41953-1"), number("5.73"));
    assert_eq!(take_file("compressed-speed-distance.fit").sum("41953-1"), number("10248.67"));
    assert_eq!(take_file("compressed-speed-distance.fit").sum("41981-2"), number("708"));
    assert_eq!(take_file("garmin-fenix-5-walk.fit").sum("41953-1"), number("67.85"));
    assert_eq!(take_file("WeightScaleSingleUser.fit").sum("29463-7"), number("151.89"));
    assert_eq!(take_file("MonitoringFile.fit").sum("steps-so-far"), number("3173"));
    let walk = take_file("garmin-fenix-5-walk.fit").found.remove(0).facts;
    assert_eq!((walk.kind.as_str(), walk.effective.unwrap().offset_min), ("daily/workout", -420));
    assert_eq!(take_file("WeightScaleSingleUser.fit").found[0].facts.kind, "daily/weight");
    for path in
        files_below(&folder).iter().filter(|path| path.extension().is_some_and(|ending| ending == "fit"))
    {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match tell(&name) {
            Ok(told) => println!("{name}: {:?}", told.messages),
            Err(error) => println!("{name}: {error}"),
        }
    }
}

#[test]
fn damaged_fit_files_are_refused_by_name() {
    let Some(folder) = data("fit") else { return };
    let refused = |name: &str| fit::tell(&std::fs::read(folder.join(name)).unwrap()).unwrap_err();
    assert!(matches!(
        refused("activity-activity-filecrc.fit"),
        ImportError::FitCrc { expected: 0xB1D5, got: 0xA1D5 }
    ));
    assert_eq!(refused("activity-settings-corruptheader.fit"), ImportError::FitHeader);
    assert!(matches!(refused("activity-unexpected-eof.fit"), ImportError::FitCutShort { .. }));
}

/// A changed byte anywhere is refused, or changes nothing but bytes no checksum covers; nothing panics.
#[test]
fn any_changed_byte_of_a_fit_file_is_seen() {
    let Some(folder) = data("fit") else { return };
    let whole = std::fs::read(folder.join("WeightScaleSingleUser.fit")).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        assert!(fit::tell(&changed).is_err(), "byte {at}");
    }
}

proptest! {
    /// Behind a sound header, any bytes are messages or a named error.
    #[test]
    fn any_bytes_are_fit_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let length = u32::try_from(body.len()).unwrap().to_le_bytes();
        let file = [&[12, 16, 100, 0], &length[..], b".FIT", &body, &[0, 0]].concat();
        prop_assert!(fit::tell(&file).is_err() || body.is_empty());
        let _ = fit::tell(&body);
    }
}

// --- Open mHealth

/// Every sample of the standard's own suite, judged by the version in its path.
#[test]
fn the_suite_of_open_mhealth_passes_and_fails_as_it_should() {
    let (Some(folder), Some(schemas)) = (data("openmhealth"), data("openmhealth-schemas")) else { return };
    let mut wrong = Vec::new();
    let (mut taken, mut refused, mut without) = (0, 0, (0, 0));
    for path in files_below(&folder) {
        let parts: Vec<String> = path
            .strip_prefix(&folder)
            .unwrap()
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let [space, name, version, should, _] = parts.as_slice() else { continue };
        let id: SchemaId = format!("{space}:{name}/{version}").parse().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let options = WearableOptions {
            schema: Some(id.clone()),
            schemas: Some(schemas.clone()),
            ..WearableOptions::default()
        };
        let heard = hear(&Wearable::DataPoint, text.as_bytes(), &options);
        match (heard.refused.first(), should.as_str()) {
            (None, "shouldPass") => taken += 1,
            (Some((_, ImportError::SchemaBroken { field, .. })), "shouldFail") if field.len() > 1 => {
                refused += 1
            }
            (reason, _) => wrong.push(format!("{}: {reason:?}", path.display())),
        }
        let bare = WearableOptions { schema: Some(id), ..WearableOptions::default() };
        match hear(&Wearable::DataPoint, text.as_bytes(), &bare).refused.is_empty() {
            true => without.0 += 1,
            false => without.1 += 1,
        }
    }
    println!(
        "open mhealth: {taken} taken, {refused} refused; without schemas {} taken, {} refused",
        without.0, without.1
    );
    for line in &wrong {
        println!("WRONG {line}");
    }
    assert!(wrong.is_empty());
}

#[test]
fn a_data_point_names_its_schema_and_source() {
    let text = r#"{"header":{"id":"a1","creation_date_time":"2020-02-05T07:25:00Z","schema_id":{"namespace":"omh","name":"blood-pressure","version":"4.0"},"acquisition_provenance":{"source_name":"cuff","modality":"sensed"}},
        "body":{"systolic_blood_pressure":{"value":125,"unit":"mmHg"},"diastolic_blood_pressure":{"value":60.50,"unit":"mmHg"},"effective_time_frame":{"date_time":"2020-02-05T07:25:00-08:00"}}}"#;
    let heard = take(text.as_bytes(), &WearableOptions::default());
    let facts = &heard.found[0].facts;
    assert_eq!(facts.media_type, "application/json; format=omh.blood-pressure-4.0");
    assert_eq!((facts.kind.as_str(), facts.effective.unwrap().offset_min), ("daily/blood-pressure", -480));
    assert_eq!(facts.source_id.as_deref(), Some("omh.blood-pressure-4.0/cuff /a1"));
    let said = heard.said();
    assert_eq!(said[0].value, Value::Quantity { value: "60.50".parse().unwrap(), unit: "mm[Hg]".to_owned() });
    assert_eq!(said[0].source.method.as_deref(), Some("sensed"));
    let untimed = text.replace("effective_time_frame", "some_time");
    let refused = take(untimed.as_bytes(), &WearableOptions::default()).refused.remove(0).1;
    assert_eq!(refused, ImportError::DataPointUnread { field: "effective_time_frame".to_owned() });
}

#[test]
fn a_schema_name_leads_out_of_no_folder() {
    assert!("omh:body-weight/2.0".parse::<SchemaId>().is_ok());
    for name in ["omh:../../etc/2.0", "..:x/1", "omh/x:1", "omh:x/", "omh:a b/1.0"] {
        assert!(name.parse::<SchemaId>().is_err(), "{name}");
    }
}

proptest! {
    /// No bytes make a reader panic, whoever claims them; what is found reads again or says why not.
    #[test]
    fn any_bytes_are_read_or_refused(file in proptest::collection::vec(any::<u8>(), 0..300), header in 0usize..3) {
        let headers: [&[u8]; 3] = [b"Id,ActivityDay,StepTotal\n", b"Date,Weight (kg)\n", b"Date,Meal,Food\n"];
        let file = [headers[header], &file].concat();
        let heard = take(&file, &person("all"));
        heard.said();
    }

    /// The same for texts that look like vendors' answers.
    #[test]
    fn answers_with_odd_values_are_read_or_refused(value in "[0-9eE+.-]{1,12}|\"[ -~]{0,10}\"|null|\\{\\}|\\[\\]", at in any::<i64>(), unit in any::<i32>()) {
        let texts = [
            format!("{{\"activities-steps\":[{{\"dateTime\":\"2015-08-23\",\"value\":{value}}}]}}"),
            format!("{{\"dataSourceId\":\"x\",\"point\":[{{\"startTimeNanos\":\"{at}\",\"endTimeNanos\":\"{at}\",\"dataTypeName\":\"com.google.weight\",\"value\":[{{\"fpVal\":{value}}}]}}]}}"),
            format!("{{\"status\":0,\"body\":{{\"measuregrps\":[{{\"date\":{at},\"category\":1,\"measures\":[{{\"type\":1,\"unit\":{unit},\"value\":{at}}}]}}]}}}}"),
            format!("{{\"sleep\":[{{\"dateOfSleep\":\"2016-01-01\",\"startTime\":\"2016-01-01T00:00:00\",\"duration\":{at},\"minutesAsleep\":{value}}}],\"summary\":{{}}}}"),
            format!("{{\"header\":{{\"schema_id\":{{\"namespace\":\"omh\",\"name\":\"x\",\"version\":\"1\"}}}},\"body\":{{\"v\":{{\"value\":{value},\"unit\":\"d\"}},\"effective_time_frame\":{{\"time_interval\":{{\"start_date_time\":\"2016-01-01T00:00:00Z\",\"duration\":{{\"value\":{value},\"unit\":\"d\"}}}}}}}}}}"),
        ];
        for text in texts {
            if let Some(reader) = which(text.as_bytes(), "x", &WearableOptions::default()) {
                hear(&reader, text.as_bytes(), &WearableOptions::default()).said();
            }
        }
    }
}
