//! Acceptance 2: two daemons, real data, one grant: exactly what an outside program selects, byte for byte.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::{Imported, text, utf8};
use karte_tests::outside::{self, files, shared_data};
use karte_tests::{Home, bytes, eventually, say};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What jq selects: the file, and which entry of it.
const LABORATORY_OF_A_YEAR: &str = r#"
    input_filename as $file
    | if .resourceType == "Bundle" and .type != "document"
      then .entry | to_entries[] | { at: .key, it: .value.resource }
      else { at: 0, it: . } end
    | select(.it.resourceType == "Observation")
    | select([.it.category[]?.coding[]?.code] | index("laboratory"))
    | select(.it.effectiveDateTime // "" | . >= $from and . < $until)
    | [$file, .at]"#;

/// The exact bytes of each record that a FHIR file must become.
fn records_of(path: &Path) -> Vec<Vec<u8>> {
    let whole = std::fs::read(path).unwrap();
    let value: Value = serde_json::from_slice(&whole).unwrap();
    if value["resourceType"] != "Bundle" || value["type"] == "document" {
        return vec![whole];
    }
    let entries = value["entry"].as_array().unwrap();
    let slices = bytes::resources(&whole);
    assert_eq!(slices.len(), entries.len(), "our scanner and serde_json agree");
    let mut records = Vec::new();
    for (slice, entry) in slices.into_iter().zip(entries) {
        let slice = slice.unwrap();
        let parsed: Value = serde_json::from_slice(slice).unwrap();
        assert_eq!(parsed, entry["resource"], "the scanner cuts the right bytes");
        records.push(slice.to_vec());
    }
    records
}

#[test]
fn a_clinic_gets_exactly_the_granted_records_of_real_patients_and_each_opens_as_it_was() {
    let Some(fhir) = shared_data("fhir") else { return };
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);

    let originals = hana_imports_everything(&hana, &fhir);
    if !outside::has("jq", "apt-get install jq") {
        return;
    }

    let mut expected = BTreeSet::new();
    for (from, until) in [("2019", "2020"), ("2018", "2019")] {
        let selected = jq_selects(&originals, from, until);
        assert!(selected.len() >= 20, "the year has records to speak of");
        let new = selected.len();
        expected.extend(selected);
        hana.grants(
            &sakura,
            &["--kind", "fhir/Observation", "--category", "laboratory", "--from", from, "--until", until],
        );
        let ((), took) = eventually("sakura has what was granted", Duration::from_secs(60), || {
            (sakura.count() >= expected.len()).then_some(())
        });
        say!("acceptance 2: {new} laboratory records of {from}, at the clinic after {took:.1?}");
    }
    // More must not come either.
    sakura.does(&["sync", "hana"]);
    let got = opened(&sakura);
    assert_eq!(got.len(), expected.len(), "not one record more or less");
    assert!(
        got.keys().eq(expected.iter()),
        "the clinic opens exactly the bytes that jq selected from the originals"
    );
    let known: BTreeSet<String> = hana.lists().iter().map(|record| text(record, "id")).collect();
    assert!(got.values().all(|id| known.contains(id)), "under the ids they have at home");
}

/// Every file of both folders; what she has afterwards equals an independent count. Gives the originals.
fn hana_imports_everything(hana: &Home, fhir: &Path) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut originals = BTreeMap::new();
    let mut distinct = BTreeSet::new();
    for folder in ["synthea", "ips"] {
        let (mut entries, begun) = (0, Instant::now());
        let before = distinct.len();
        for file in files(&fhir.join(folder)) {
            let records = records_of(&file);
            let new = records.iter().filter(|it| distinct.insert(bytes::hash(it))).count();
            let told = hana.imports(&file);
            let expected = Imported { taken: new as u64, known: (records.len() - new) as u64, refused: 0 };
            assert_eq!(told, expected, "{}", file.display());
            entries += records.len();
            originals.insert(utf8(&file).to_owned(), records);
        }
        let new = distinct.len() - before;
        let took = begun.elapsed();
        say!("acceptance 2: {folder}: {entries} entries, {new} distinct, imported in {took:.1?}");
    }
    assert_eq!(hana.count(), distinct.len(), "one record for each distinct resource");
    let again = hana.imports(&fhir.join("synthea"));
    let entries: usize = files(&fhir.join("synthea")).iter().map(|file| originals[utf8(file)].len()).sum();
    assert_eq!((again.taken, again.known), (0, entries as u64), "importing again adds nothing");
    assert_eq!(hana.count(), distinct.len());
    originals
}

/// Hashes of the original bytes of what jq selects.
fn jq_selects(originals: &BTreeMap<String, Vec<Vec<u8>>>, from: &str, until: &str) -> BTreeSet<String> {
    let mut jq = Command::new("jq");
    jq.args(["-c", "--arg", "from", from, "--arg", "until", until, LABORATORY_OF_A_YEAR]);
    let out = outside::runs(jq.args(originals.keys()));
    let selected = String::from_utf8(out).unwrap();
    selected
        .lines()
        .map(|line| {
            let (file, at): (String, usize) = serde_json::from_str(line).unwrap();
            bytes::hash(&originals[&file][at])
        })
        .collect()
}

/// Everything that opens: hash of the plaintext → record id.
fn opened(home: &Home) -> BTreeMap<String, String> {
    let begun = Instant::now();
    let mut found = BTreeMap::new();
    for record in home.lists() {
        let id = text(&record, "id");
        let plaintext = home.opens(&id);
        assert_eq!(Some(plaintext.len() as u64), record["bytes"].as_u64());
        found.insert(bytes::hash(&plaintext), id);
    }
    say!("acceptance 2: {} records opened in {:.1?}", found.len(), begun.elapsed());
    found
}
