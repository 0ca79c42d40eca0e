//! A clinic asks, the patient looks, narrows and approves, the clinic reads; and a stranger asks by text. Real processes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::{Home, Manner, eventually, say, synthetic};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

const LABORATORY: &str = r#"{"resourceType":"Observation","id":"lab-1","status":"final","category":[{"coding":[{"code":"laboratory"}]}],"code":{"text":"Creatinine"},"effectiveDateTime":"2026-03-01T08:30:00+09:00","valueQuantity":{"value":5.1,"unit":"mg/dL"}}"#;
const WEIGHT: &str = r#"{"resourceType":"Observation","id":"vital-1","status":"final","category":[{"coding":[{"code":"vital-signs"}]}],"code":{"text":"Weight"},"effectiveDateTime":"2026-03-01T08:00:00+09:00","valueQuantity":{"value":62,"unit":"kg"}}"#;

fn request(home: &Home, id: &str) -> Value {
    home.does(&["request", "show", id]).remove(0)
}

fn titles(home: &Home) -> Vec<String> {
    home.lists().iter().map(|record| text(record, "title")).collect()
}

#[test]
fn sakura_asks_and_hana_gives_less_and_penang_asks_by_text() {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let penang = Home::new("penang", "clinic", Manner::Accepts);
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    let file = synthetic::write_text(&hana.beside("chart.ndjson"), &format!("{LABORATORY}\n{WEIGHT}\n"));
    assert_eq!(hana.imports(&file).taken, 2);
    hana.meets(&sakura);

    // Sakura asks for all of it; the request comes to Hana by itself.
    let begun = Instant::now();
    let words =
        ["request", "add", "hana", "--kind", "fhir", "--expires", "30d", "--reason", "before dialysis"];
    let asked = text(&sakura.does(&words)[0], "id");
    let (listed, _) = eventually("hana sees the request", SOON, || {
        hana.does(&["request", "list"]).into_iter().find(|item| item["id"] == asked.as_str())
    });
    say!("request: from the clinic to the patient in {:.1?}", begun.elapsed());
    assert_eq!(listed["state"], "waiting");
    assert_eq!(listed["from_name"], "sakura");
    assert_eq!(listed["reason"], "before dialysis");

    // She looks at what that would be, narrows it, and says yes. More than was asked is refused by name.
    let all = hana.does(&["request", "approve", &asked, "--dry-run"]);
    assert_eq!((all.len(), &all[2]["kinds"]["fhir/Observation"]), (3, &2.into()), "{all:?}");
    let wider = hana.tries(&["request", "approve", &asked, "--kind", "dicom"]);
    assert_eq!(wider.code, Some(2), "{wider}");
    assert!(wider.error.contains("dicom was not asked for"), "{wider}");
    let narrow = ["request", "approve", &asked, "--category", "laboratory", "--expires", "7d"];
    let less = hana.does(&[&narrow[..], &["--dry-run"]].concat());
    assert_eq!((less.len(), text(&less[0], "title")), (2, "Creatinine".to_owned()));
    let grant = text(&hana.does(&narrow)[0], "id");

    eventually("sakura learns the answer", SOON, || {
        Some(request(&sakura, &asked))
            .filter(|item| item["state"] == "approved" && item["grant"] == grant.as_str())
    });
    eventually("sakura has the record", SOON, || Some(titles(&sakura)).filter(|titles| titles.len() == 1));
    assert_eq!(titles(&sakura), ["Creatinine"]);
    assert_eq!(sakura.opens(&text(&sakura.lists()[0], "id")), LABORATORY.as_bytes());

    // Penang has never met her. Its request is a text; she takes it, and declines.
    penang.knows(&hana);
    let item = penang.does(&["request", "add", "hana", "--kind", "fhir", "--reason", "holiday"]).remove(0);
    let taken = hana.does(&["request", "take", &text(&item, "text")]).remove(0);
    assert_eq!((&taken["contact"], &taken["would_cover_records"]), (&"pending".into(), &2.into()));
    let stranger = hana.is_refused(&["request", "approve", &text(&taken, "id")]);
    assert!(stranger.contains("not a contact yet"), "{stranger}");
    let declined = hana.does(&["request", "decline", &text(&taken, "id"), "--reason", "not now"]).remove(0);
    assert_eq!(declined["state"], "declined");
    assert_eq!(request(&penang, &text(&item, "id"))["state"], "waiting", "nobody has told it yet");
    hana.does(&["contact", "add", "penang"]);
    // Hana's word comes behind the greeting; on a busy machine a command without a daemon may have gone by then.
    let (told, _) = eventually("penang is told", SOON, || {
        penang.does(&["sync", "hana"]);
        Some(request(&penang, &text(&item, "id"))).filter(|item| item["state"] == "declined")
    });
    assert_eq!(told["answer"], "not now");

    let clock = hana.does(&["clock", "show"]).remove(0);
    assert_eq!(clock["state"], "right");
    let unsaid = hana.tries(&["clock", "reset"]);
    assert_eq!(unsaid.code, Some(2), "the word is asked for: {unsaid}");
}
