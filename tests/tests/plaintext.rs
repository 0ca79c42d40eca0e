//! Acceptance 7: nothing readable lies on disk, at the patient or at the clinic.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::outside::{files, shared_data};
use karte_tests::{Home, eventually, say};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

/// Shortest string that is looked for, in bytes: shorter ones occur in ciphertext by chance.
const BYTES_MIN: usize = 8;

/// The fields whose texts would tell something: names, addresses, identifiers, displays of codes.
const TELLING: &[&str] = &[
    "family",
    "given",
    "text",
    "line",
    "city",
    "state",
    "postalCode",
    "district",
    "display",
    "div",
    "birthDate",
    "name",
    "title",
    "description",
    "reference",
    "fullUrl",
    "id",
];

#[test]
fn no_name_identifier_or_code_display_is_readable_in_either_data_folder() {
    let Some(fhir) = shared_data("fhir") else { return };
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (hana_runs, sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    let mut originals = Vec::new();
    for folder in ["synthea", "ips", "jp-core"] {
        hana.imports(&fhir.join(folder));
        originals.extend(files(&fhir.join(folder)));
    }
    let all = hana.count();
    hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("everything has come", Duration::from_secs(120), || (sakura.count() == all).then_some(()));
    let one = sakura.lists();
    sakura.opens(one[0]["id"].as_str().unwrap());

    let mut strings = BTreeSet::new();
    for path in &originals {
        telling(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(), "", &mut strings);
    }
    assert!(strings.len() > 3_000, "there is much to look for: {}", strings.len());
    let needles = Needles::new(&strings);
    // First that the search finds: in the originals it must meet every one that stands there unescaped.
    let found: BTreeSet<_> = originals.iter().flat_map(|path| needles.found_in(path)).collect();
    assert!(
        found.len() * 10 > strings.len() * 9,
        "the search works: {} of {} are found in the originals",
        found.len(),
        strings.len()
    );

    let begun = Instant::now();
    let mut bytes = 0;
    for running in [true, false] {
        for home in [&hana, &sakura] {
            bytes += nothing_is_readable_at(home, &needles, running);
        }
        if running {
            // Also what an ending daemon writes.
            hana.does(&["stop"]);
            sakura.does(&["stop"]);
        }
    }
    drop((hana_runs, sakura_runs));
    say!(
        "acceptance 7: {} strings of {} files: no hit in {bytes} bytes of two data folders, searched in {:.1?}",
        strings.len(),
        originals.len(),
        begun.elapsed()
    );
}

/// Searches every file, and every name of a file; gives how many bytes that were.
fn nothing_is_readable_at(home: &Home, needles: &Needles, running: bool) -> u64 {
    let mut bytes = 0;
    let all = files(home.path());
    for path in all {
        bytes += path.metadata().map_or(0, |about| about.len());
        let hits = needles.found_in(&path);
        // The one exception: `config.toml` holds the node's own name, which is no string of the records.
        assert!(hits.is_empty(), "{} (daemon running: {running}) holds {hits:?}", path.display());
        let name = path.to_string_lossy().into_owned();
        assert!(needles.found(name.as_bytes()).is_empty(), "{name}");
    }
    assert!(bytes > 2_000_000, "the folder holds the payloads");
    bytes
}

/// Every text under one of the telling fields, and the value of every identifier.
fn telling(value: &Value, field: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) if text.len() >= BYTES_MIN && TELLING.contains(&field) => {
            found.insert(text.clone());
        }
        Value::Array(items) => items.iter().for_each(|item| telling(item, field, found)),
        Value::Object(object) => {
            for (name, value) in object {
                let name = if field == "identifier" && name == "value" { "id" } else { name };
                telling(value, name, found);
            }
        }
        _ => {}
    }
}

/// Many strings, looked for at once by their first eight bytes.
struct Needles(HashMap<[u8; BYTES_MIN], Vec<String>>);

impl Needles {
    fn new(strings: &BTreeSet<String>) -> Self {
        let mut by_head: HashMap<_, Vec<String>> = HashMap::new();
        for text in strings {
            if let Some(head) = text.as_bytes().first_chunk() {
                by_head.entry(*head).or_default().push(text.clone());
            }
        }
        Self(by_head)
    }

    fn found_in(&self, path: &Path) -> Vec<String> {
        // A file of a running node may go while we look.
        self.found(&std::fs::read(path).unwrap_or_default())
    }

    fn found(&self, bytes: &[u8]) -> Vec<String> {
        let mut hits = Vec::new();
        for at in 0..bytes.len().saturating_sub(BYTES_MIN - 1) {
            let rest = &bytes[at..];
            let Some(candidates) = rest.first_chunk().and_then(|head| self.0.get(head)) else {
                continue;
            };
            hits.extend(candidates.iter().filter(|text| rest.starts_with(text.as_bytes())).cloned());
        }
        hits
    }
}
