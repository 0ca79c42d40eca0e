//! Acceptance 5: a revocation ends reading: at once where it is heard, at first contact where it was not, and in
//! copies of the reader's folder too.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::outside::files;
use karte_tests::wait::looking_every;
use karte_tests::{Daemon, Home, eventually, say, synthetic};
use std::time::Duration;

/// The bar is 2 s; a loaded machine gets five times that. The measured time is told.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

struct Story {
    hana: Home,
    hana_runs: Daemon,
    sakura: Home,
    sakura_runs: Daemon,
    grant: String,
    records: Vec<String>,
    /// Sakura's folder as it was while the grant counted.
    before: Home,
}

/// Hana has granted 20 records, sakura has read one, and somebody has copied sakura's folder.
fn sakura_reads_and_is_copied() -> Story {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (hana_runs, sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 20));
    let grant = hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("the records have come", SOON, || (sakura.count() == 20).then_some(()));
    let records: Vec<String> = sakura.lists().iter().map(|record| text(record, "id")).collect();
    assert!(!sakura.opens(&records[0]).is_empty());
    sakura_runs.stops(&sakura);
    let before = sakura.copied();
    let sakura_runs = sakura.runs();
    sakura.does(&["sync", "hana"]);
    Story { hana, hana_runs, sakura, sakura_runs, grant, records, before }
}

#[test]
fn a_connected_clinic_is_refused_within_seconds() {
    let story = sakura_reads_and_is_copied();
    let begun = std::time::Instant::now();
    let command = story.hana.revokes(&story.grant);
    looking_every(LOOK_EVERY, "sakura is refused", REFUSED_WITHIN, || {
        (story.sakura.tries(&["record", "open", &story.records[1]]).code == Some(3)).then_some(())
    });
    say!(
        "acceptance 5: revoke while connected: refused {:.0?} after the command was given (the command took {command:.0?}; bar 2 s)",
        begun.elapsed()
    );
    everything_is_gone(story);
}

#[test]
fn a_clinic_that_was_off_is_refused_at_its_first_contact() {
    let mut story = sakura_reads_and_is_copied();
    story.sakura_runs.stops(&story.sakura);
    story.hana.revokes(&story.grant);
    assert!(
        opens(&story.sakura, &story.records[1]),
        "she cannot know yet, so it is the contact that ends it"
    );
    // Without a daemon: a sync is the first contact.
    let told = story.sakura.tries(&["sync", "hana"]);
    assert_eq!(told.code, Some(3), "the first contact is refused: {told}");
    story.sakura.is_refused(&["record", "open", &story.records[1]]);
    story.sakura_runs = story.sakura.runs();
    everything_is_gone(story);
}

#[test]
fn a_clinic_that_starts_again_is_refused_as_soon_as_its_daemon_meets_the_holder() {
    let mut story = sakura_reads_and_is_copied();
    story.sakura_runs.stops(&story.sakura);
    story.hana.revokes(&story.grant);
    story.sakura_runs = story.sakura.runs();
    let (_, after) = looking_every(LOOK_EVERY, "sakura is refused", SOON, || {
        (story.sakura.tries(&["record", "open", &story.records[1]]).code == Some(3)).then_some(())
    });
    say!("acceptance 5: revoke while off: refused {after:.0?} after the daemon was up");
    everything_is_gone(story);
}

/// Nothing of the grant opens at sakura, nor from the old copy with the keystore as it is now.
fn everything_is_gone(story: Story) {
    let Story { hana, hana_runs, sakura, sakura_runs, grant, records, before } = story;
    for record in &records {
        sakura.is_refused(&["record", "open", record]);
        sakura.is_refused(&["record", "open", record, "--age"]);
    }
    assert_eq!(sakura.count(), 0, "nothing is listed");
    // Twenty values of some 600 bytes; what is left of a pack is its own head.
    eventually("the payloads are gone", SOON, || {
        let store = sakura.path().join("store");
        let packs = files(&store.join("packs"));
        let packs = packs.iter().filter(|path| path.extension().is_some_and(|ending| ending == "pack"));
        let bytes: u64 = packs.filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        (files(&store.join("payloads")).is_empty() && bytes < 4096).then_some(())
    });
    eventually("hana has sakura's word that it deleted", SOON, || {
        let deleted = hana.audits("deleted");
        deleted.iter().any(|line| line["grant"] == grant.as_str()).then_some(())
    });
    sakura_runs.stops(&sakura);

    // First that the copy is a real one: with its own keystore it still opens everything, far from any network.
    // (A copy signs nothing, not even that it read, before its owner says that it was moved.)
    let restored = before.copied();
    assert!(!opens(&restored, &records[0]), "a copy says that it is one");
    for home in [&restored, &before] {
        home.does(&["store", "adopt-copy", "--i-moved-it"]);
    }
    let readable = records.iter().filter(|id| opens(&restored, id)).count();
    assert_eq!(readable, records.len(), "the copy holds the records, so what follows says something");
    // The same with the keystore as it is now: the reading key is gone, and with it everything.
    let keystore = "keystore.age";
    std::fs::copy(sakura.path().join(keystore), before.path().join(keystore)).unwrap();
    let readable = records.iter().filter(|id| opens(&before, id)).count();
    assert_eq!(readable, 0, "with the keystore of today the old copy opens nothing");
    say!("acceptance 5: the copy opened {} of {0} before, {readable} with today's keystore", records.len());

    // A backup that somebody starts again: it does not know yet, and learns at its first contact.
    let told = restored.tries(&["sync", "hana"]);
    assert!(told.code != Some(0), "the holder serves no restored copy: {told}");
    let received: u64 = told.items.iter().filter_map(|item| item["received"].as_u64()).sum();
    assert_eq!(received, 0);
    let readable = records.iter().filter(|id| opens(&restored, id)).count();
    assert_eq!(readable, 0, "after its first contact the backup opens nothing: {told}");
    hana_runs.stops(&hana);
}

fn opens(home: &Home, id: &str) -> bool {
    let told = home.tries(&["record", "open", id, "-o", "-"]);
    told.code == Some(0) && !told.out.is_empty()
}
