//! A patient loses her machine, over real processes: two of three keys bring her back, one does not, and the old device
//! has no power left.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::{text, utf8};
use karte_tests::outside::files;
use karte_tests::{Home, Told, eventually, say, synthetic};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_lost_party_comes_back_with_two_of_three_keys() {
    let (hana, sakura, sister) = (Home::patient("hana"), Home::clinic("sakura"), Home::clinic("sister"));
    let (hana_runs, sakura_runs, sister_runs) = (hana.runs(), sakura.runs(), sister.runs());
    hana.meets(&sakura);
    hana.meets(&sister);
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 3));

    // Words, clinic, sister; nobody is committed to before their users have said yes.
    let words = hana.beside("words.txt");
    let setup =
        ["recovery", "setup", "--threshold", "2", "--words", "--contact", "sakura", "--contact", "sister"];
    let refused = hana.tries(&[&setup[..], &["--words-file", utf8(&words), "--yes"]].concat());
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.error.contains("sakura") && refused.error.contains("sister"), "{refused}");
    assert!(!words.exists(), "no words before everything else is in order");
    for keeper in [&sakura, &sister] {
        keeper.does(&["recovery", "trust", "hana"]);
    }
    let planned = hana.does(&[&setup[..], &["--dry-run"]].concat());
    assert_eq!((&planned[0]["dry_run"], &planned[0]["threshold"]), (&true.into(), &2.into()));
    let done = hana.does(&[&setup[..], &["--words-file", utf8(&words), "--yes"]].concat());
    assert_eq!(done[0]["generation"], 1, "{done:?}");
    let written = std::fs::read_to_string(&words).unwrap();
    assert_eq!(written.split_whitespace().count(), 24);
    no_words_in(hana.path(), &written);
    assert!(!done.iter().any(|item| item.to_string().contains(&first_words(&written))), "no words in JSON");

    // A grant, read by the clinic.
    let grant = hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("the clinic reads", SOON, || (sakura.count() == 3).then_some(()));

    // The machine is gone. Her sister prints her card.
    hana_runs.stops(&hana);
    let card = text(&sister.does(&["contact", "card", "hana"])[0], "card");
    let again = Home::beside_none("hana");
    let started = with_words(&again, &["recovery", "start", &card, "--words", "--no-passphrase"], &words);
    assert_eq!(started.code, Some(0), "{started}");
    let (request, code) = (text(&started.items[0], "request"), text(&started.items[0], "code"));
    assert_eq!(started.items[0]["approvals"], 1, "the words are one of the keys");
    no_words_in(again.path(), &written);

    // One of three is refused by name, and nothing is lost by it.
    let refused = again.tries(&["recovery", "finish"]);
    assert_eq!(refused.code, Some(3), "{refused}");
    assert!(refused.error.contains("1 of 2 approvals"), "{refused}");
    assert_eq!(again.does(&["status"])[0]["standing"], "waits for its recovery");

    // The clinic looks, hears the code, and signs.
    let shown = sakura.does(&["recovery", "approve", &request]);
    assert!(shown[0]["approval"].is_null() && shown[0]["contact"] == "hana", "{shown:?}");
    let wrong = sakura.tries(&["recovery", "approve", &request, "--code", "one two three four five six"]);
    assert_eq!(wrong.code, Some(3), "{wrong}");
    let approved = sakura.does(&["recovery", "approve", &request, "--code", &code]);
    let begun = Instant::now();
    let finished = again.tries(&["recovery", "finish", &text(&approved[0], "approval")]);
    assert_eq!(finished.code, Some(0), "{finished}");
    say!("recovery: 2 of 3, finished and the clinic met in {:.1?}", begun.elapsed());
    assert_eq!(finished.items[0]["generation"], 2, "{:?}", finished.items);
    assert!(again.device() != hana.device(), "it is a new device");
    assert_eq!(again.does(&["status"])[0]["party"], hana.does(&["status"])[0]["party"], "of the same party");

    // The clinic handed the grant back; it is given again when she says so, and works.
    let listed = again.does(&["recovery", "grants"]);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(text(&listed[0], "id"), grant);
    let given = again.does(&["recovery", "grants", "--all"]);
    assert_eq!(given.len(), 1, "{given:?}");
    again.imports(&synthetic::write(again.beside("new.ndjson"), 100, 102));
    let again_runs = again.runs();
    eventually("the clinic reads under the grant that was given again", SOON, || {
        (sakura.count() == 2).then_some(())
    });
    assert!(!sakura.opens(&text(&sakura.lists()[0], "id")).is_empty());
    assert_eq!(sakura.grant(&grant).unwrap()["state"], "ended", "the old one is over");
    let notices = sakura_runs.notices().join("\n");
    assert!(notices.contains("hana was recovered"), "the clinic was told: {notices}");

    the_old_device_is_powerless(&hana, &sakura);
    again_runs.stops(&again);
    sakura_runs.stops(&sakura);
    sister_runs.stops(&sister);
}

/// Once the key is taken out of the keystore it is in no backup either: records come back at once, and the party with
/// its words.
#[test]
fn a_backup_without_the_key_waits_for_the_words() {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let sakura_runs = sakura.runs();
    hana.meets(&sakura);
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 3));
    let words = hana.beside("words.txt");
    let setup = ["recovery", "setup", "--threshold", "1", "--words", "--words-file", utf8(&words), "--yes"];
    hana.does(&setup);
    let again = hana.tries(&setup);
    assert_eq!(again.code, Some(2), "the words of before are not written over: {again}");
    hana.grants(&sakura, &["--kind", "fhir", "--exclude", "HIV"]);
    let passphrase = hana.beside("passphrase");
    std::fs::write(&passphrase, "correct horse battery\n").unwrap();
    let backup = hana.beside("hana.age");
    let fd = ["--backup-passphrase-fd", "0"];
    let made = with_input(&hana, &[&["backup", "create", utf8(&backup)], &fd[..]].concat(), &passphrase);
    assert_eq!(made.code, Some(0), "{made}");

    let again = Home::beside_none("hana");
    let restore = ["backup", "restore", utf8(&backup), "--no-passphrase", "--regrant"];
    let restored = with_input(&again, &[&restore[..], &fd[..]].concat(), &passphrase);
    assert_eq!(restored.code, Some(0), "{restored}");
    assert_eq!(restored.items[0]["standing"], "waits for its recovery", "{:?}", restored.items);
    assert_eq!(again.count(), 3, "records are there");
    assert_eq!(again.tries(&["grant", "add", "sakura", "--kind", "fhir"]).code, Some(1), "it signs nothing");
    let started = with_words(&again, &["recovery", "start", "--words"], &words);
    assert_eq!(started.code, Some(0), "{started}");
    assert_eq!(started.items[0]["generation"], 2, "{:?}", started.items);
    assert_eq!(again.does(&["status"])[0]["standing"], "sound");
    let given = again.does(&["recovery", "grants", "--all"]);
    assert_eq!((given.len(), &given[0]["exclude"][0]), (1, &"HIV".into()), "{given:?}");
    sakura_runs.stops(&sakura);
}

/// Started again from its folder: what it grants counts nowhere, it serves nothing, and once it hears why it says so.
fn the_old_device_is_powerless(old: &Home, clinic: &Home) {
    let given = text(&old.does(&["grant", "add", "sakura", "--kind", "fhir"])[0], "id");
    let runs = old.runs();
    eventually("the old device hears of the recovery", SOON, || {
        old.tries(&["sync", "sakura"]);
        (old.does(&["status"])[0]["standing"] == "replaced by a recovery").then_some(())
    });
    assert!(clinic.grant(&given).is_none(), "what it gave meanwhile reached nobody");
    let refused = old.tries(&["grant", "add", "sakura", "--kind", "fhir"]);
    assert!(refused.code == Some(1) && refused.error.contains("another device speaks for it"), "{refused}");
    let before = clinic.count();
    clinic.tries(&["sync", "hana"]);
    assert_eq!(clinic.count(), before, "it serves nothing");
    assert!(runs.notices().join("\n").contains("another device speaks for it"), "its user is told");
    runs.stops(old);
}

/// Runs a command with the words on its standard input.
fn with_words(home: &Home, words: &[&str], file: &Path) -> Told {
    with_input(home, &[words, &["--words-fd", "0"]].concat(), file)
}

/// Runs a command with a file as its standard input.
fn with_input(home: &Home, words: &[&str], file: &Path) -> Told {
    let begun = Instant::now();
    let mut command = home.command(words);
    let output = command.stdin(Stdio::from(std::fs::File::open(file).unwrap())).output().unwrap();
    Told::of(&home.name, words, output, begun.elapsed())
}

fn first_words(written: &str) -> String {
    written.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// No three words in a row lie anywhere below a folder.
fn no_words_in(folder: &Path, written: &str) {
    let needle = first_words(written);
    for file in files(folder) {
        // Sockets and locks are no files to read.
        let bytes = std::fs::read(&file).unwrap_or_default();
        let found = bytes.windows(needle.len()).any(|part| part == needle.as_bytes());
        assert!(!found, "{} holds no words", file.display());
    }
}
