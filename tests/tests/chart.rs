//! A chart over real processes: written by hand, sent home by itself, drawn, told, and taken elsewhere whole.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::{text, utf8};
use karte_tests::{Home, eventually, say, synthetic};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn what_hana_writes_by_hand_is_shown_drawn_and_told() {
    let hana = Home::patient("hana");
    for (day, weight) in [("2026-03-01", "62.4kg"), ("2026-03-02", "62.1 kg"), ("2026-03-04", "61.9kg")] {
        hana.does(&["record", "add", "weight", weight, "--at", &format!("{day}T07:10:00+09:00")]);
    }
    hana.does(&["record", "add", "bp", "132/84", "--at", "2026-03-02T07:12:00+09:00"]);
    let added = hana.does(&["record", "add", "glucose", "118", "mg/dL", "--at", "2026-03-02T07:15:00+09:00"]);
    let again = hana.does(&["record", "add", "glucose", "118", "mg/dL", "--at", "2026-03-02T07:15:00+09:00"]);
    assert_eq!(hana.count(), 5, "the same entry twice is one: {added:?} {again:?}");

    let shown = &hana.does(&["record", "show", &text(&added[0], "id")])[0];
    let value = &shown["observations"][0];
    assert_eq!((text(value, "value"), text(value, "unit")), ("118".into(), "mg/dL".into()));
    assert!(text(value, "also").contains("mmol/L"), "both units are shown: {value}");

    let svg = hana.beside("weight.svg");
    let rows = hana.does(&["trend", "weight", "--svg", utf8(&svg)]);
    let days: Vec<&Value> = rows.iter().filter(|row| row.get("day").is_some()).collect();
    assert_eq!(days.len(), 4, "four days from the first to the last, the third without a value: {rows:?}");
    assert!(days[2]["value"].is_null(), "a gap is shown as one: {rows:?}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.contains("<svg") && drawn.contains("kg"), "it is a drawing with its unit");

    let pounds = hana.does(&["trend", "weight", "--unit", "[lb_av]"]);
    assert!(
        pounds[0]["unit"] == "[lb_av]" || pounds.iter().any(|row| row["unit"] == "[lb_av]"),
        "{pounds:?}"
    );
    let refused = hana.tries(&["trend", "weight", "--unit", "mmol/L"]);
    assert_ne!(refused.code, Some(0), "kilograms of a body are no amount of substance: {refused}");

    let life = hana.does(&["timeline", &text(&added[0], "id")]);
    let events: Vec<&str> = life.iter().filter_map(|moment| moment["event"].as_str()).collect();
    assert_eq!(events, ["happened", "imported"]);
    assert_eq!(hana.does(&["timeline"]).len(), 3, "a line for each day and kind");

    let wrong = hana.tries(&["record", "add", "weight", "heavy"]);
    assert_ne!(wrong.code, Some(0));
    assert!(wrong.error.contains("expected"), "it says what it expects: {}", wrong.error);
}

/// The clinic writes one line; the standing return grant and the patient's adoption do the rest, also for what was
/// written while the two could not meet.
#[test]
fn each_dialysis_session_goes_home_by_itself() {
    let (hana, penang) = (Home::new("hana", "patient", karte_tests::Manner::Accepts), Home::clinic("penang"));
    let session = |day: &str, pre: &str| {
        let words = ["record", "add", "dialysis", "--for", "hana", "--at", &format!("{day}T08:00:00+08:00")];
        let start = format!("start={day}T08:00:00+08:00");
        let end = format!("end={day}T12:00:00+08:00");
        let pre = format!("pre_weight={pre}");
        let pairs =
            [start.as_str(), &end, &pre, "post_weight=65.9", "uf_volume=2300", "bp_pre=150/85", "ktv=1.4"];
        penang.does(&[&words[..], &pairs[..]].concat())
    };
    {
        let (_hana_runs, _penang_runs) = (hana.runs(), penang.runs());
        penang.meets(&hana);
        let written = session("2026-03-02", "68.2");
        assert_eq!(text(&written[0], "kind"), "dialysis/session", "{written:?}");
        eventually("the first session is at hana's", SOON, || (hana.count() == 1).then_some(()));
    }
    // Nobody runs: the network is down, the centre goes on writing.
    session("2026-03-04", "68.0");
    session("2026-03-06", "67.9");
    assert_eq!(penang.does(&["grant", "list"]).len(), 1, "one standing grant carries them all");
    let (_hana_runs, _penang_runs) = (hana.runs(), penang.runs());
    // Test daemons listen elsewhere after each start; a card tells where.
    hana.knows(&penang);
    eventually("the others follow by themselves", SOON, || (hana.count() == 3).then_some(()));
    let weights = hana.does(&["trend", "weight", "--subject", "me"]);
    say!("dialysis: weights before and after at home: {weights:?}");
}

#[test]
fn a_whole_chart_opens_on_a_clean_node_with_its_proofs() {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 20));
    let letter = synthetic::write_text(&hana.beside("letter.txt"), "Dear colleague,\n");
    hana.imports(&letter);
    let (hana_runs, sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    let grant = hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("sakura has them", SOON, || (sakura.count() == 20).then_some(()));
    let id = text(&sakura.lists()[0], "id");
    sakura.opens(&id);
    eventually("hana has the receipt", SOON, || (!hana.audits("opened").is_empty()).then_some(()));
    drop((hana_runs, sakura_runs));

    let folder = hana.beside("chart");
    let told = hana.does(&["record", "export", utf8(&folder)]);
    assert_eq!(told[0]["records"], 21, "{told:?}");
    assert_eq!(std::fs::read(find(&folder.join("records"), "txt")).unwrap(), b"Dear colleague,\n");

    let fresh = Home::patient("fresh");
    let came = fresh.imports(&folder);
    let proofs = came.taken - 21;
    assert!(proofs >= 3, "a grant, a release and a receipt came along: {came:?}");
    assert_eq!(fresh.imports(&folder).taken, 0, "again adds nothing");
    let hanas = text(&hana.does(&["status"])[0], "party");
    let records = fresh.does(&["record", "list", "--kind", "fhir"]);
    assert_eq!(records.len(), 20);
    assert!(records.iter().all(|record| record["author"] == hanas.as_str()), "hana is still their author");
    let same = |home: &Home, title: &str| {
        let list = home.does(&["record", "list", "--kind", "fhir"]);
        let one = list.iter().find(|record| record["title"] == title).unwrap().clone();
        home.opens(&text(&one, "id"))
    };
    let title = synthetic::title(7);
    assert_eq!(same(&hana, &title), same(&fresh, &title), "byte for byte");
    let kept = fresh.does(&["record", "list", "--kind", "consent/grant"]);
    let signed = std::fs::read(find(&folder.join("consent"), "cose")).unwrap();
    assert_eq!(signed.first(), Some(&0xd2), "a tagged COSE_Sign1");
    let cose = hana.tries(&["grant", "show", &grant, "--cose", "-o", "-"]).out;
    assert!(
        kept.iter().any(|proof| fresh.opens(&text(proof, "id")) == cose),
        "the grant's signature is intact"
    );

    // One flipped byte in a file, and that record is refused by name while the others come.
    let other = Home::patient("other");
    let file = find(&folder.join("records").join("fhir").join("Observation"), "json");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let told = other.tries(&["import", utf8(&folder)]);
    let came = told.imported();
    assert_eq!((came.taken, came.refused), (20 + proofs, 1), "{told}");

    let bundle = hana.beside("lab.json");
    hana.does(&["record", "export", utf8(&bundle), "--format", "fhir-bundle"]);
    let bundle: Value = serde_json::from_slice(&std::fs::read(&bundle).unwrap()).unwrap();
    assert_eq!(bundle["entry"].as_array().map(Vec::len), Some(20));
    let lines = hana.tries(&["record", "export", "-", "--format", "ndjson"]).out;
    assert_eq!(String::from_utf8(lines).unwrap().lines().count(), 20);
}

/// The first file below `folder` with this ending.
fn find(folder: &Path, ending: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                return path;
            }
        }
    }
    unreachable!("there is a .{ending} below {}", folder.display())
}
