//! Acceptance 4: no grant, a revoked one, an expired one: exit code 3, nothing arrives, and why is told to the
//! holder's own user only. (That the bytes on the wire are the same is shown in `circle.rs`.)

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::{Home, eventually, say, synthetic};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

/// Hana with one record of her own.
fn hana_with_a_record() -> (Home, String) {
    let hana = Home::patient("hana");
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 1));
    let id = text(&hana.lists()[0], "id");
    (hana, id)
}

/// What a refused party is told must not say why.
fn says_nothing_of_the_reason(sentence: &str) {
    for word in ["revoke", "expire", "not granted", "no grant"] {
        assert!(!sentence.contains(word), "{word:?} is not the reader's to know: {sentence}");
    }
}

#[test]
fn a_stranger_with_a_card_gets_nothing_and_only_the_holder_sees_that_she_knocked() {
    let ((hana, record), mallory) = (hana_with_a_record(), Home::patient("mallory"));
    let (hana_runs, _mallory_runs) = (hana.runs(), mallory.runs());
    mallory.knows(&hana);

    let sentence = mallory.is_refused(&["sync", "hana"]);
    says_nothing_of_the_reason(&sentence);
    let known = mallory.is_refused(&["record", "open", &record]);
    let unknown = mallory.is_refused(&["record", "open", &"ab".repeat(32)]);
    assert_eq!(
        known.replace(&record, "ID"),
        unknown.replace(&"ab".repeat(32), "ID"),
        "a record that exists and one that does not look the same"
    );
    assert_eq!(mallory.count(), 0, "nothing arrives");
    let (notice, _) = eventually("hana is told who knocked", SOON, || {
        hana_runs.notices().into_iter().find(|notice| notice.contains("mallory"))
    });
    say!("acceptance 4: hana reads: {notice}");
}

#[test]
fn a_contact_without_a_grant_gets_nothing() {
    let ((hana, record), mallory) = (hana_with_a_record(), Home::patient("mallory"));
    let (_hana_runs, _mallory_runs) = (hana.runs(), mallory.runs());
    mallory.knows(&hana);
    hana.knows(&mallory);
    let told = mallory.tries(&["sync", "hana"]);
    assert!(matches!(told.code, Some(0 | 3)), "it is answered, or refused: {told}");
    says_nothing_of_the_reason(&mallory.is_refused(&["record", "open", &record]));
    assert_eq!(mallory.count(), 0, "nothing arrives");
}

#[test]
fn a_revoked_grant_opens_nothing_and_brings_nothing_new() {
    let ((hana, record), sakura) = (hana_with_a_record(), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    let grant = hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("the record has come", SOON, || (sakura.count() == 1).then_some(()));
    sakura.opens(&record);

    hana.revokes(&grant);
    eventually("it is refused", SOON, || {
        (sakura.tries(&["record", "open", &record]).code == Some(3)).then_some(())
    });
    hana.imports(&synthetic::write(hana.beside("more.ndjson"), 1, 5));
    nothing_comes(&sakura);
    let revoked = hana.audits("revoked");
    assert_eq!(revoked.len(), 1, "hana's audit says that she ended it: {revoked:?}");
    assert_eq!(revoked[0]["grant"], grant.as_str());
}

#[test]
fn an_expired_grant_opens_nothing_and_brings_nothing_new() {
    let ((hana, record), sakura) = (hana_with_a_record(), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    hana.grants(&sakura, &["--kind", "fhir", "--expires", "8s"]);
    eventually("the record has come", SOON, || (sakura.count() == 1).then_some(()));
    sakura.opens(&record);

    let (_, after) = eventually("it is refused when its time is over", SOON, || {
        (sakura.tries(&["record", "open", &record]).code == Some(3)).then_some(())
    });
    hana.imports(&synthetic::write(hana.beside("more.ndjson"), 1, 5));
    nothing_comes(&sakura);
    say!("acceptance 4: a grant of 8 s was refused {after:.1?} after it was first opened");
}

/// Neither a sync nor time brings a record.
fn nothing_comes(sakura: &Home) {
    let told = sakura.tries(&["sync", "hana"]);
    assert!(matches!(told.code, Some(0 | 3)), "it is answered, or refused: {told}");
    let received: u64 = told.items.iter().filter_map(|item| item["received"].as_u64()).sum();
    assert_eq!(received, 0, "nothing is received: {told}");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(sakura.count(), 0, "nothing arrives later either");
}
