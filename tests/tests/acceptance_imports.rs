//! Real data of many makers against an independent reading of it: `judges/readings.py`, other libraries and other code.
//! Nothing here knows a number: each is what the outside program says of the folder at hand.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_node::import::{Body, Event, Finding, ImportError, Options, WearableOptions, import};
use karte_node::observe::{self, Observation, Value};
use karte_tests::outside::{self, files, shared_data};
use karte_tests::{binary, say};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an import told of some paths.
#[derive(Default)]
struct Brought {
    found: Vec<Finding>,
    refused: Vec<(String, ImportError)>,
}

fn brought(paths: &[PathBuf], wearable: WearableOptions) -> Brought {
    let options = Options { wearable, ..Options::default() };
    let mut all = Brought::default();
    import(paths, &options, &mut |event| {
        match event {
            Event::Found(finding) => all.found.push(finding),
            Event::Refused { origin, reason } => all.refused.push((origin, reason)),
            Event::Progress { .. } => {}
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    all
}

fn one(path: &Path) -> Brought {
    brought(&[path.to_owned()], WearableOptions::default())
}

fn bytes_of(finding: &Finding) -> Vec<u8> {
    match &finding.bytes {
        Body::Memory(bytes) => bytes.clone(),
        Body::File(path, _) => std::fs::read(path).unwrap(),
    }
}

fn observations(finding: &Finding) -> Vec<Observation> {
    let facts = &finding.facts;
    observe::observations(&facts.kind, &facts.media_type, &facts.profiles, &bytes_of(finding))
        .unwrap_or_default()
}

fn quantity(observation: &Observation) -> Option<String> {
    match &observation.value {
        Value::Quantity { value, .. } => Some(value.normalize().to_string()),
        Value::Text(_) => None,
    }
}

/// The judge's reading, if there is a python with these modules.
fn judged(kind: &str, folder: &Path, modules: &[&str]) -> Option<Json> {
    let python = outside::python_with(modules)?;
    let judge = binary::workspace().join("tests/judges/readings.py");
    let told = outside::runs(Command::new(python).arg(judge).arg(kind).arg(folder));
    Some(serde_json::from_slice(&told).unwrap())
}

const STEPS: [&str; 2] = ["41950-7", "55423-8"];

#[test]
fn days_people_and_totals_of_fitbit_tables_are_what_csv_says() {
    let Some(folder) = shared_data("wearable/fitbit-daily") else { return };
    let Some(judged) = judged("fitbit-daily", &folder, &[]) else { return };
    for (name, told) in judged.as_object().unwrap() {
        let path = folder.join(name);
        assert!(
            told["people"] == 1 || one(&path).found.is_empty(),
            "{name}: several people are never taken for one"
        );
        let all = WearableOptions { person: Some("all".into()), ..WearableOptions::default() };
        let brought = brought(&[path], all);
        assert!(brought.refused.is_empty(), "{name}: {:?}", brought.refused);
        let read: Vec<Observation> = brought.found.iter().flat_map(observations).collect();
        let people: BTreeSet<&str> = read.iter().map(|one| one.source.name.as_str()).collect();
        assert_eq!(told["person_days"], brought.found.len(), "{name}: person-days");
        assert_eq!(told["people"], people.len(), "{name}: people");
        if let Some(steps) = told["steps"].as_u64() {
            let counted = read.iter().filter(|one| STEPS.contains(&one.code.code.as_str()));
            let sum: u64 = counted.filter_map(|one| quantity(one)?.parse::<u64>().ok()).sum();
            assert_eq!(sum, steps, "{name}: steps");
            say!("{name}: {} person-days, {} people, {sum} steps", brought.found.len(), people.len());
        }
        if let Some(weights) = told["weights_kg"].as_array() {
            let plain = |text: &str| text.parse::<f64>().map(|kg| (kg * 1e8).round()).unwrap();
            let mut theirs: Vec<f64> = weights.iter().map(|text| plain(text.as_str().unwrap())).collect();
            let mut ours: Vec<f64> = read
                .iter()
                .filter(|one| one.code.code == "29463-7")
                .map(|one| plain(&quantity(one).unwrap()))
                .collect();
            theirs.sort_by(f64::total_cmp);
            ours.sort_by(f64::total_cmp);
            assert_eq!(ours, theirs, "{name}: kilograms");
            let days: BTreeSet<String> = read.iter().map(|one| day_of(one)[5..].to_owned()).collect();
            let theirs: BTreeSet<String> =
                told["days"].as_array().unwrap().iter().map(|day| day.as_str().unwrap().to_owned()).collect();
            assert_eq!(days, theirs, "{name}: months come first");
            say!("{name}: {} weights of {} people", ours.len(), people.len());
        }
    }
}

fn day_of(observation: &Observation) -> String {
    observe::daily::local_day(&observation.effective).unwrap().to_string()
}

#[test]
fn fit_files_say_what_fitparse_says_and_damaged_ones_are_refused_by_name() {
    let Some(folder) = shared_data("wearable/fit") else { return };
    let Some(judged) = judged("fit", &folder, &["fitparse"]) else { return };
    let (mut sound, mut damaged) = (0, 0);
    for (name, told) in judged.as_object().unwrap() {
        let brought = one(&folder.join(name));
        if let Some(kind) = told["refused"].as_str() {
            let reason = brought.refused.first().map(|(_, reason)| reason.to_string()).unwrap_or_default();
            assert!(brought.found.is_empty() && !reason.is_empty(), "{name} is refused, as {kind}");
            say!("{name}: {kind}; refused here: {reason}");
            damaged += 1;
            continue;
        }
        assert_eq!((brought.found.len(), brought.refused.len()), (1, 0), "{name} is one record");
        let read = observations(&brought.found[0]);
        let of = |code: &str| {
            read.iter().filter(|one| one.code.code == code).filter_map(quantity).collect::<Vec<_>>()
        };
        assert_eq!(told["heart_rates"], of("8867-4").len(), "{name}: heart rates");
        let weights: Vec<f64> = of("29463-7").iter().map(|kg| kg.parse().unwrap()).collect();
        let theirs: Vec<f64> =
            told["weights_kg"].as_array().unwrap().iter().map(|kg| kg.as_f64().unwrap()).collect();
        assert!(
            weights.len() == theirs.len() && weights.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 0.005),
            "{name}: {weights:?} kg, {theirs:?} kg"
        );
        sound += 1;
    }
    say!("FIT: {sound} sound files agree, {damaged} damaged ones are refused");
}

#[test]
fn open_mhealth_data_points_are_judged_as_their_schemas_say() {
    let (Some(folder), Some(schemas)) =
        (shared_data("wearable/openmhealth"), shared_data("wearable/openmhealth-schemas"))
    else {
        return;
    };
    let (mut passed, mut failed, mut wrong) = (0, 0, Vec::new());
    for path in files(&folder) {
        let parts: Vec<&str> =
            path.strip_prefix(&folder).unwrap().iter().filter_map(|part| part.to_str()).collect();
        let Some(at) = parts.iter().position(|part| part.starts_with("should")) else { continue };
        let schema = format!("{}:{}/{}", parts[at - 3], parts[at - 2], parts[at - 1]);
        let wearable = WearableOptions {
            schema: Some(schema.parse().unwrap()),
            schemas: Some(schemas.clone()),
            ..WearableOptions::default()
        };
        let brought = brought(std::slice::from_ref(&path), wearable);
        let is_right = match parts[at] {
            "shouldPass" => brought.found.len() == 1 && brought.refused.is_empty(),
            _ => brought.found.is_empty() && brought.refused.len() == 1,
        };
        match parts[at] {
            "shouldPass" => passed += 1,
            _ => failed += 1,
        }
        if !is_right {
            wrong.push(format!("{}: {:?}", parts.join("/"), brought.refused));
        }
    }
    say!("Open mHealth: {passed} shouldPass, {failed} shouldFail, {} judged otherwise", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_apple_export_holds_what_another_xml_parser_counts() {
    let Some(folder) = shared_data("wearable/apple-health") else { return };
    let Some(judged) = judged("apple-health", &folder, &[]) else { return };
    for (name, told) in judged.as_object().unwrap() {
        let brought = one(&folder.join(name));
        assert!(brought.refused.is_empty(), "{name}: {:?}", brought.refused);
        let mut counts = BTreeMap::<String, u64>::new();
        for finding in &brought.found {
            let text = String::from_utf8(bytes_of(finding)).unwrap();
            for part in text.split("<Record ").skip(1) {
                let kind = part.split("type=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
                *counts.entry(kind.to_owned()).or_default() += 1;
            }
        }
        assert_eq!(*told, serde_json::to_value(&counts).unwrap(), "{name}");
        say!("{name}: {counts:?} in {} records", brought.found.len());
    }
}

#[test]
fn answers_of_fitbit_google_and_withings_hold_what_an_independent_reading_counts() {
    let Some(folder) = shared_data("wearable/vendor-api") else { return };
    let Some(judged) = judged("vendor-api", &folder, &[]) else { return };
    let codes: &[(&str, &[&str])] = &[
        ("steps", &STEPS),
        ("com.google.heart_rate.bpm", &["8867-4"]),
        ("com.google.height", &["8302-2"]),
        ("com.google.step_count.delta", &STEPS),
        ("com.google.weight", &["29463-7"]),
        ("weight", &["29463-7"]),
        ("height", &["8302-2"]),
        ("body_fat", &["41982-0"]),
        ("diastolic", &["8462-4"]),
        ("systolic", &["8480-6"]),
        ("pulse", &["8867-4"]),
    ];
    let (mut read_files, mut documents) = (0, 0);
    for (name, told) in judged.as_object().unwrap() {
        let brought = one(&folder.join(name));
        assert!(brought.refused.is_empty(), "{name}: {:?}", brought.refused);
        let is_read = ["fitbit", "googlefit", "withings"].iter().any(|vendor| name.starts_with(vendor));
        if !is_read {
            assert!(
                brought.found.iter().all(|finding| finding.facts.kind.starts_with("document/")),
                "{name} stays a document"
            );
            documents += 1;
            continue;
        }
        let read: Vec<Observation> = brought.found.iter().flat_map(observations).collect();
        for (kind, count) in told.as_object().unwrap() {
            let Some((_, codes)) = codes.iter().find(|(named, _)| named == kind) else { continue };
            let ours = read.iter().filter(|one| codes.contains(&one.code.code.as_str())).count();
            assert_eq!(ours, usize::try_from(count.as_u64().unwrap()).unwrap(), "{name}: {kind}");
        }
        read_files += 1;
    }
    say!("vendors: {read_files} answers agree, {documents} files of others stay documents");
}

/// Counts, UIDs and the order of every series of `D/ct-study` and `D/dicom`.
#[test]
fn images_are_those_pydicom_finds_in_the_order_of_their_geometry() {
    for inside in ["ct-study", "dicom/series"] {
        let Some(folder) = shared_data(inside) else { return };
        let Some(judged) = judged("dicom", &folder, &["pydicom", "numpy"]) else { return };
        let brought = one(&folder);
        let images: Vec<&Finding> =
            brought.found.iter().filter(|one| one.facts.media_type == "application/dicom").collect();
        let previews = brought.found.iter().filter(|one| one.facts.kind == "dicom/preview").count();
        let theirs = judged["images"].as_array().unwrap();
        let uids = |study: &str, series: &str, instance: &str| [study, series, instance].join(" ");
        let mine: BTreeSet<String> = images
            .iter()
            .filter_map(|one| one.facts.group.as_ref())
            .map(|group| {
                uids(
                    &group.study,
                    group.series.as_deref().unwrap_or(""),
                    group.instance.as_deref().unwrap_or(""),
                )
            })
            .collect();
        let text = |image: &Json, name: &str| image[name].as_str().unwrap_or_default().to_owned();
        let outside: BTreeSet<String> = theirs
            .iter()
            .map(|image| uids(&text(image, "study"), &text(image, "series"), &text(image, "instance")))
            .collect();
        assert_eq!(images.len(), theirs.len(), "{inside}: images");
        assert_eq!(mine, outside, "{inside}: UIDs");
        let orders = orders_agree(&images, theirs);
        say!(
            "{inside}: {} images, {orders} series in pydicom's order, {previews} previews, {} refused by name",
            images.len(),
            brought.refused.len()
        );
    }
}

/// For every series of one orientation: positions rise or fall with the place along its normal.
fn orders_agree(images: &[&Finding], theirs: &[Json]) -> usize {
    let places: BTreeMap<&str, f64> = theirs
        .iter()
        .filter_map(|image| Some((image["instance"].as_str()?, image["place"].as_f64()?)))
        .collect();
    let mut series: BTreeMap<&str, Vec<(u32, f64)>> = BTreeMap::new();
    for group in images.iter().filter_map(|image| image.facts.group.as_ref()) {
        let (Some(name), Some(instance), Some(position)) = (&group.series, &group.instance, group.position)
        else {
            continue;
        };
        if let Some(place) = places.get(instance.as_str()) {
            series.entry(name).or_default().push((position, *place));
        }
    }
    let mut agreed = 0;
    for (name, mut slices) in series.into_iter().filter(|(_, slices)| slices.len() > 2) {
        slices.sort_by_key(|slice| slice.0);
        let rises = slices.windows(2).filter(|pair| pair[1].1 > pair[0].1 + 1e-6).count();
        let falls = slices.windows(2).filter(|pair| pair[1].1 < pair[0].1 - 1e-6).count();
        // A scout has another orientation: its one slice may stand out of line.
        assert!(rises.min(falls) <= 1, "{name}: {rises} rise and {falls} fall");
        agreed += 1;
    }
    agreed
}

/// Every text of the JSON suite as the value of an extension of a Basic resource.
#[test]
fn a_resource_is_taken_exactly_where_its_json_is_json() {
    let Some(folder) = shared_data("bad/json") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let (mut taken, mut refused) = (0, 0);
    for path in files(&folder) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let inside = std::fs::read(&path).unwrap();
        let whole = [
            br#"{"resourceType":"Basic","code":{"text":"x"},"extension":[{"url":"urn:x","valueString":"#
                .as_slice(),
            &inside,
            b"}]}",
        ]
        .concat();
        let file = scratch.path().join("basic.json");
        std::fs::write(&file, whole).unwrap();
        let brought = one(&file);
        let is_fhir = brought.found.iter().any(|one| one.facts.kind == "fhir/Basic");
        if name.starts_with("y_") {
            assert!(is_fhir, "{name} is taken: {:?}", brought.refused);
            taken += 1;
        } else if name.starts_with("n_") && !closes_early(&inside) {
            assert!(!is_fhir, "{name} is not taken as FHIR");
            refused += 1;
        }
    }
    say!("JSON suite inside a Basic resource: {taken} taken, {refused} refused");
    assert!(taken > 0 && refused > 0);
}

/// Whether a wrong text of the suite becomes right inside an object: white space alone, and values with more behind
/// them that the object's own end makes whole, are judged by an independent parser.
fn closes_early(inside: &[u8]) -> bool {
    let whole = [br#"{"a":[{"b":"#.as_slice(), inside, b"}]}"].concat();
    serde_json::from_slice::<Json>(&whole).is_ok()
}
