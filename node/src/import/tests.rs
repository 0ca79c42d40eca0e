//! The room as its caller sees it, on small files of our own, and on the shared data where that is at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// What one import said.
#[derive(Default)]
struct Heard {
    found: Vec<Finding>,
    /// Origin and sentence.
    refused: Vec<(String, String)>,
    totals: Totals,
}

impl Heard {
    fn bodies(&self) -> Vec<String> {
        self.found.iter().map(|finding| String::from_utf8(bytes(finding)).unwrap()).collect()
    }

    fn reasons(&self) -> Vec<&str> {
        self.refused.iter().map(|(_, reason)| reason.as_str()).collect()
    }

    /// The kind of the only finding, or the sentence of the only refusal.
    fn outcome(&self) -> String {
        match (self.found.as_slice(), self.reasons().as_slice()) {
            ([finding], []) => finding.facts.kind.clone(),
            ([], [reason]) => (*reason).to_owned(),
            (found, reasons) => panic!("one outcome expected, got {found:?} and {reasons:?}"),
        }
    }

    fn only(&self) -> &Facts {
        assert_eq!((self.found.len(), self.reasons()), (1, vec![]), "one finding and no refusal");
        &self.found[0].facts
    }
}

fn bytes(finding: &Finding) -> Vec<u8> {
    match &finding.bytes {
        Body::Memory(bytes) => bytes.clone(),
        Body::File(path, length) => {
            let bytes = fs::read(path).unwrap();
            assert_eq!(bytes.len() as u64, *length);
            bytes
        }
    }
}

fn import_with(paths: &[PathBuf], options: &Options) -> Heard {
    let mut heard = Heard::default();
    let totals = import(paths, options, &mut |event| {
        match event {
            Event::Found(finding) => heard.found.push(finding),
            Event::Refused { origin, reason } => heard.refused.push((origin, reason.to_string())),
            Event::Progress { bytes_done, bytes_total } => assert!(bytes_done <= bytes_total),
        }
        ControlFlow::Continue(())
    });
    heard.totals = totals.unwrap();
    heard
}

/// Import one file of this name and content.
fn one(name: &str, content: impl AsRef<[u8]>) -> Heard {
    one_with(name, content, Format::Auto, Limits::default())
}

fn one_with(name: &str, content: impl AsRef<[u8]>, format: Format, limits: Limits) -> Heard {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let mut heard = import_with(&[path], &Options { format, limits, ..Options::default() });
    for finding in &mut heard.found {
        finding.bytes = Body::Memory(bytes(finding));
    }
    heard
}

const PATIENT: &str = r#"{"resourceType":"Patient"}"#;

#[test]
fn a_bundle_becomes_its_resources_byte_for_byte() {
    let patient = "{\n   \"resourceType\" : \"Patient\", \"id\":\"p.1\",\t\"x\": 1.0e+0 }";
    let bundle = format!(
        r#"{{"entry":[ {{"fullUrl":"urn:uuid:1","resource": {patient} }}, {{"request":{{}}}},
        {{"resource":{{"resourceType":"Spaceship"}}}}, {{"resource":{{"resourceType":"Bundle","type":"searchset"}}}},
        7, {{"resource":{{"resourceType":"Patient","id":"1","id":"2"}}}}], "type":"batch", "resourceType":"Bundle"}}"#
    );
    let heard = one("b.json", &bundle);
    assert_eq!(heard.bodies(), [patient]);
    assert_eq!(heard.found[0].facts.full_url.as_deref(), Some("urn:uuid:1"));
    assert_eq!(heard.found[0].facts.source_id.as_deref(), Some("Patient/p.1"));
    let expected = [
        "expected a FHIR R4 resource type, got \"Spaceship\"",
        "expected a JSON object, got something else",
        "expected each field once, got \"id\" twice",
    ];
    assert_eq!(heard.reasons(), expected);
    assert!(heard.refused[0].0.ends_with("b.json entry 3"), "{} names the entry", heard.refused[0].0);
    assert_eq!((heard.totals.entries_without_resource, heard.totals.empty_bundles), (1, 1));
}

#[test]
fn a_document_bundle_stays_one() {
    let bundle = r#"{"resourceType":"Bundle","id":"b","type":"document","entry":[{"resource":{"resourceType":
        "Composition","title":"Letter to Aiko","date":"2024-03","type":{"text":"x","coding":[{"system":"http://loinc.org",
        "code":"60591-5"}]}}},{"resource":{"resourceType":"Patient"}}]}"#;
    let heard = one("ips.json", bundle);
    let facts = heard.only();
    assert_eq!([&facts.kind, &facts.title], ["fhir/Bundle", "Letter to Aiko"]);
    assert_eq!(facts.source_id.as_deref(), Some("Bundle/b"));
    assert_eq!(
        (facts.codes[0].system.as_str(), facts.codes[0].code.as_str()),
        ("http://loinc.org", "60591-5")
    );
    assert_eq!(facts.effective.map(|e| e.end_ms - e.start_ms), Some(31 * 86_400_000));
    assert_eq!(heard.bodies(), [bundle]);
}

#[test]
fn an_observation_says_what_when_and_of_which_kind() {
    let text = "\u{feff}{\"resourceType\":\"Observation\",\"meta\":{\"profile\":[\"http://p\"]},
        \"category\":[{\"coding\":[{\"code\":\"vital-signs\"},{\"code\":\"vital-signs\"}]},{\"coding\":5}],
        \"code\":{\"coding\":[{\"code\":\"85354-9\",\"display\":\"Blood\\u001b[2J pressure\"}]},
        \"component\":[{\"code\":{\"coding\":[{\"code\":\"8480-6\"}]}}, null],
        \"effectivePeriod\":{\"start\":\"1970-01-01T01:00:00+01:00\"}}\n";
    let heard = one("o.json", text);
    let facts = heard.only();
    assert_eq!((&facts.categories, &facts.profiles), (&vec!["vital-signs".into()], &vec!["http://p".into()]));
    assert_eq!([&facts.codes[0].code, &facts.codes[1].code], ["85354-9", "8480-6"]);
    let effective = facts.effective.map(|e| (e.start_ms, e.end_ms, e.offset_min));
    assert_eq!(effective, Some((0, 0, 60)));
    assert_eq!(facts.title, "Blood\u{fffd}[2J pressure", "a title cannot drive a terminal");
    assert_eq!(heard.bodies(), [text], "bytes stay, mark and line end too");
}

#[test]
fn fields_of_an_odd_shape_are_not_read() {
    let odd = r#"{"resourceType":"AllergyIntolerance","id":"a b","category":["food",{"coding":[{"code":"x"}]},7],
        "code":[{"text":""}],"recordedDate":"soon","onsetDateTime":7,"meta":"x"}"#;
    let heard = one("a.json", odd);
    let facts = heard.only();
    assert_eq!(facts.categories, ["food", "x"]);
    assert_eq!((facts.effective, &facts.source_id), (None, &None));
    assert_eq!(facts.title, "AllergyIntolerance");
    let specimen = r#"{"resourceType":"Specimen","collection":{"collectedDateTime":"1970-01-01"}}"#;
    let start_ms = one("s.json", specimen).only().effective.map(|e| e.start_ms);
    assert_eq!(start_ms, Some(0), "a path steps inside");
}

#[test]
fn a_bad_line_does_not_fail_the_others() {
    let flag = r#"{"resourceType":"Flag"}"#;
    let bundle = format!(r#"{{"resourceType":"Bundle","type":"batch","entry":[{{"resource":{flag}}}]}}"#);
    let bad = "{\"resourceType\":\"Patient\",}\n[]\n{\"resourceType\":7}\n{\"a\":1}";
    let heard = one("any.name", format!("\u{feff}{PATIENT}\r\n\n{bundle}\n{bad}"));
    assert_eq!(heard.bodies(), [PATIENT, flag]);
    let expected = [
        "expected valid JSON, got a fault at line 4 column 27: trailing comma",
        "expected a JSON object, got something else",
        "expected \"resourceType\" to be text, got something else",
        "expected a field \"resourceType\", got none",
    ];
    assert_eq!(heard.reasons(), expected);
    assert!(heard.refused[0].0.ends_with(" line 4"), "{}", heard.refused[0].0);

    let single = one("p.ndjson", format!("{PATIENT}\n"));
    assert_eq!(single.bodies(), [PATIENT], "a line keeps its bytes when the file grows");
}

#[test]
fn long_lines_and_many_refusals_are_bounded() {
    let limits = Limits { file_bytes_max: 30, refusals_told_max: 2, ..Limits::default() };
    let lines = format!("\"resourceType\"{}\n{PATIENT}\n1\n2\n3\n", "x".repeat(31));
    let heard = one_with("l.ndjson", lines, Format::Auto, limits);
    assert_eq!(heard.bodies(), [PATIENT]);
    let expected = [
        "expected a line of at most 30 bytes, got a longer one",
        "expected a JSON object, got something else",
        "2 more records of this file were refused; correct the first ones and import it again",
    ];
    assert_eq!((heard.reasons(), heard.totals.refused), (expected.to_vec(), 4));
}

#[test]
#[rustfmt::skip] // a table reads by its lines
fn every_file_has_its_outcome() {
    let limits = Limits { file_bytes_max: 200_000, resource_bytes_max: 150_000, ..Limits::default() };
    let patient = |rest: &str| format!(r#"{{"resourceType":"Patient",{rest}}}"#);
    let long = |n| patient(&format!(r#""x":"{}""#, "x".repeat(n)));
    let deep = |n| patient(&format!(r#""x":{}{}"#, "[".repeat(n), "]".repeat(n)));
    let wide: Vec<_> = (0..300).map(|n| format!("\"f{n}\":0")).collect();
    let bundle = |kind: &str, entry: &str| format!(r#"{{"resourceType":"Bundle","type":"{kind}","entry":{entry}}}"#);
    let doll = |n| (0..n).fold(PATIENT.to_owned(), |inner, _| bundle("batch", &format!(r#"[{{"resource":{inner}}}]"#)));
    let cases: Vec<(&str, String, &str)> = vec![
        ("cut.json", "{\"resourceType\":\"Patient\",\n\"name\":[".into(), "expected valid JSON, got a fault at line 2 column 8: EOF while parsing a list"),
        ("rest.json", format!("{PATIENT} x"), "expected valid JSON, got a fault at line 1 column 28: trailing characters"),
        ("deep.json", deep(119), "fhir/Patient"),
        ("deeper.json", deep(50_000), "expected objects and lists at most 120 deep, got 50001"),
        ("open.json", deep(50_000)[..50_000].into(), "expected valid JSON, got a fault at line 1 column 50000: EOF while parsing a list"),
        ("type.json", bundle("novel", "[]"), "expected a Bundle.type of FHIR R4, got \"novel\""),
        ("entry.json", bundle("batch", "{}"), "expected Bundle.entry to be a list, got something else"),
        ("doll.json", doll(4), "fhir/Patient"),
        ("dolls.json", doll(5), "expected Bundles at most 4 deep in each other, got more"),
        ("wide.json", patient(&wide.join(",")), "expected at most 256 fields in an object, got more"),
        ("large.json", long(150_000), "expected a resource of at most 150000 bytes, got 150033"),
        ("larger.json", long(200_000), "expected a FHIR JSON file of at most 200000 bytes, got 200033; export it as NDJSON, which has no such bound"),
        ("list.json", format!("[{}]", "1".repeat(300_000)), "document/json"),
        ("inner.json", r#"{"a":{"resourceType":"Patient"}}"#.into(), "document/json"),
        ("half.json", "{\"a\":".into(), "document/text"),
        ("number.json", " 7 ".into(), "document/json"),
        ("number.txt", "7".into(), "document/text"),
        ("lists.json", "[".repeat(100_000), "document/text"),
        ("empty.json", String::new(), "expected at least one byte, got an empty file"),
    ];
    for (name, content, expected) in cases {
        assert_eq!(one_with(name, content, Format::Auto, limits.clone()).outcome(), expected, "{name}");
    }
    let latin = one("l.json", b"{\"resourceType\":\"Patient\",\"x\":\"\xe9\"}");
    assert_eq!(latin.outcome(), "expected UTF-8, got another byte at offset 31");
    let refused = one_with("a.pdf", "%PDF-1.4", Format::Fhir, Limits::default());
    assert_eq!(refused.outcome(), "expected FHIR JSON, got document/pdf");
    let kept = one_with("p.json", PATIENT, Format::Document, Limits::default());
    assert_eq!(kept.outcome(), "document/json");
    let odd = one("a\u{202e}fdp.\u{7}exe", "x");
    assert_eq!((odd.only().title.as_str(), odd.only().effective), ("a\u{fffd}fdp.\u{fffd}exe", None));
}

#[cfg(unix)]
#[test]
fn folders_are_walked_in_order_and_never_out_of() {
    use std::os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener};
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("b")).unwrap();
    for name in ["c", "b/a", "a"] {
        fs::write(root.path().join(name), name).unwrap();
    }
    fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"\xff")), "odd name").unwrap();
    fs::write(root.path().join("b/.DS_Store"), "what a desktop left").unwrap();
    symlink(outside.path(), root.path().join("out")).unwrap();
    let link = root.path().join("link");
    symlink(outside.path().join("secret"), &link).unwrap();
    let _socket = UnixListener::bind(root.path().join("d")).unwrap();

    let heard = import_with(&[root.path().to_owned()], &Options::default());
    assert_eq!(heard.bodies(), ["a", "b/a", "c", "odd name"]);
    assert_eq!(heard.reasons(), ["expected a file or folder, got a device, pipe or socket"]);
    assert_eq!((heard.totals.links_skipped, heard.totals.junk_skipped, heard.totals.files), (2, 1, 5));

    let named = import_with(&[link, "/dev/zero".into(), "/no/such".into()], &Options::default());
    assert_eq!((named.bodies(), named.refused.len()), (vec!["x".into()], 2), "a link named is followed");
    let few = Options { limits: Limits { files_max: 3, ..Limits::default() }, ..Options::default() };
    let many = import(&[root.path().to_owned()], &few, &mut |_| ControlFlow::Continue(()));
    assert_eq!(many, Err(ImportError::TooManyFiles { max: 3 }));
}

#[test]
fn the_visitor_can_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.ndjson");
    fs::write(&path, format!("{PATIENT}\n").repeat(9)).unwrap();
    let totals = import(&[path], &Options::default(), &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!((totals.found, totals.stopped), (1, true));
}

/// The shared data, where it is at hand.
fn shared_data() -> Option<PathBuf> {
    let named = std::env::var_os("KARTE_DATA").map(PathBuf::from);
    let beside = ["../shared/data", "../../shared/data"].map(PathBuf::from);
    named.into_iter().chain(beside).find(|path| path.is_dir())
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let listing = files::list(&[folder.to_owned()], &Limits::default()).unwrap();
    listing.items.into_iter().map(|(path, _)| path).collect()
}

/// The resources that a file's entries hold, read with no code of ours.
fn entries_of(value: &Value) -> Vec<Value> {
    if value["resourceType"] != "Bundle" || value["type"] == "document" {
        return vec![value.clone()];
    }
    let entries = value["entry"].as_array().into_iter().flatten();
    entries.filter_map(|entry| entry.get("resource")).flat_map(entries_of).collect()
}

fn value_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes.strip_prefix(sniff::BOM.as_bytes()).unwrap_or(bytes)).unwrap()
}

#[test]
fn every_shared_fhir_file_is_imported_whole() {
    let Some(data) = shared_data() else { return };
    let (mut synthea, mut distinct) = (0usize, BTreeSet::new());
    let mut labelled = BTreeMap::<_, [u32; 3]>::new();
    for path in files_under(&data.join("fhir")) {
        let name = path.display().to_string();
        let original = fs::read_to_string(&path).unwrap();
        let heard = import_with(&[path], &Options::default());
        assert_eq!(heard.reasons(), Vec::<&str>::new(), "{name}");
        let got: Vec<_> = heard.found.iter().map(|finding| value_of(&bytes(finding))).collect();
        assert_eq!(got, entries_of(&value_of(original.as_bytes())), "{name}");
        assert!(heard.bodies().iter().all(|body| original.contains(body)), "{name}: bytes as they stood");
        for Finding { facts, .. } in &heard.found {
            let counts = labelled.entry(facts.kind.clone()).or_default();
            let said = [true, facts.effective.is_some(), !facts.codes.is_empty()];
            counts.iter_mut().zip(said).for_each(|(count, said)| *count += u32::from(said));
        }
        if name.contains("/synthea/") {
            synthea += heard.found.len();
            distinct.extend(heard.found.iter().map(|finding| blake3::hash(&bytes(finding)).to_hex()));
        }
    }
    println!("synthea: {synthea} entries, {} of them distinct", distinct.len());
    labelled.iter().for_each(|(kind, counts)| println!("{kind}: all, dated, coded {counts:?}"));
}

#[test]
fn every_shared_bad_file_has_an_outcome() {
    let Some(data) = shared_data() else { return };
    let bad = data.join("bad");
    let mut table = BTreeMap::<String, u32>::new();
    for path in files_under(&bad) {
        let folder = path.parent().unwrap().strip_prefix(&bad).unwrap().display().to_string();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let class = if folder.ends_with("test_parsing") { &name[..2] } else { "" };
        let original = fs::read(&path).unwrap();
        let heard = import_with(&[path], &Options::default());
        let whole = |finding: &Finding| finding.facts.kind == "dicom/preview" || bytes(finding) == original;
        assert!(heard.found.iter().all(whole), "{name} is kept whole");
        // A picture that can be shown has a preview beside it.
        let outcome = if heard.found.len() == 2 { "an image".to_owned() } else { heard.outcome() };
        let fits = class != "n_" || outcome != "document/json";
        assert!(fits && (class != "y_" || outcome == "document/json"), "{name}: {outcome}");
        *table.entry(format!("{folder}/{class}* -> {outcome}")).or_default() += 1;
    }
    table.iter().for_each(|(class, count)| println!("{class}: {count}"));
}
