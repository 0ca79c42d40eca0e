//! A clinic writes for the patient: grant back, adopt, and her standing grant carries it on to a third party.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::{Home, eventually, say, synthetic};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

const SESSION: &str = concat!(
    r#"{"resourceType":"Observation","id":"hd-1","status":"final","#,
    r#""category":[{"coding":[{"code":"laboratory"}]}],"#,
    r#""code":{"text":"Urea reduction ratio of the session"},"#,
    r#""effectiveDateTime":"2026-03-01T18:30:00+08:00","valueQuantity":{"value":71,"unit":"%"}}"#,
    "\n"
);

#[test]
fn what_penang_writes_for_hana_reaches_sakura_by_hanas_standing_grant() {
    let (hana, sakura, penang) = (Home::patient("hana"), Home::clinic("sakura"), Home::clinic("penang"));
    let (_hana_runs, _sakura_runs, _penang_runs) = (hana.runs(), sakura.runs(), penang.runs());
    hana.meets(&sakura);
    hana.meets(&penang);
    hana.grants(&sakura, &["--kind", "fhir/Observation", "--category", "laboratory"]);

    // Penang, where she travels, writes one record about her and one about somebody else.
    let file = synthetic::write_text(&penang.beside("session.json"), SESSION);
    penang.does(&["import", file.to_str().unwrap(), "--subject", "hana"]);
    penang.imports(&synthetic::write(penang.beside("own.ndjson"), 0, 1));
    let back = penang.grants(&hana, &["--kind", "fhir", "--subject", "hana"]);
    eventually("the offer waits at hana", SOON, || {
        hana.grant(&back).filter(|grant| grant["state"] == "offered")
    });
    assert_eq!(hana.count(), 0, "nothing comes before she says yes");

    let begun = Instant::now();
    hana.does(&["grant", "accept", &back, "--adopt"]);
    let (record, _) = eventually("hana has adopted it", SOON, || {
        hana.lists().into_iter().find(|record| record["grant"].is_null())
    });
    let id = text(&record, "id");
    let (at_sakura, _) = eventually("sakura has it by the standing grant", SOON, || {
        sakura.lists().into_iter().find(|record| record["id"] == id.as_str())
    });
    say!("write back: from penang over hana to sakura in {:.1?} after the accept", begun.elapsed());

    assert_eq!(sakura.count(), 1, "and not what penang has about others");
    assert_eq!(sakura.opens(&id), SESSION.as_bytes(), "as penang wrote it");
    let penangs = text(&penang.does(&["status"])[0], "party");
    assert_eq!(at_sakura["author"], penangs.as_str(), "the author is still penang");
    let hanas = text(&hana.does(&["status"])[0], "party");
    assert_eq!(at_sakura["subject"], hanas.as_str(), "about hana");
    let opened = hana.audits("opened");
    assert!(
        eventually("hana reads who opened it", SOON, || {
            hana.audits("opened").into_iter().find(|line| line["person"] == "Dr Sato")
        })
        .0["record"]
            == id.as_str(),
        "{opened:?}"
    );

    // Penang ends its grant; what hana has made her own stays.
    penang.revokes(&back);
    eventually("hana sees that it ended", SOON, || {
        hana.grant(&back).filter(|grant| grant["state"] == "ended")
    });
    assert_eq!(hana.opens(&id), SESSION.as_bytes(), "adopted is adopted");
    assert_eq!(sakura.opens(&id), SESSION.as_bytes());
}
