//! Acceptance 3: other people's programs agree: age opens, COSE libraries verify, b3sum names.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::{text, utf8};
use karte_tests::outside::{self, files, has, python_with_cose};
use karte_tests::{Home, eventually, say, synthetic};
use std::process::Command;
use std::time::Duration;

const VERIFY_COSE: &str = include_str!("verify_cose.py");

/// A patient with a few records, three sizes among them, and a clinic that has them under a grant.
fn shared_between(hana: &Home, sakura: &Home) -> (String, Vec<String>) {
    hana.meets(sakura);
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 3));
    // One above the 64 KiB chunk of age, and one exactly at it: the last chunk is full.
    for (name, length) in [("letter.txt", 200_000), ("edge.txt", 65_536)] {
        let text = "in good health. ".repeat(length / 16);
        hana.imports(&synthetic::write_text(&hana.beside(name), &text));
    }
    let grant = hana.grants(sakura, &["--kind", "fhir", "--kind", "document"]);
    eventually("the records have come", Duration::from_secs(30), || (sakura.count() == 5).then_some(()));
    let ids = sakura.lists().iter().map(|record| text(record, "id")).collect();
    (grant, ids)
}

#[test]
fn stock_age_opens_what_the_clinic_exports() {
    if !has("age", "apt-get install age") {
        return;
    }
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    let (_, ids) = shared_between(&hana, &sakura);

    let identity = sakura.beside("identity.txt");
    sakura.does(&["keys", "export", "--age-identity", "--yes", "-o", utf8(&identity)]);
    for id in &ids {
        let (plain, sealed) = (sakura.beside("plain"), sakura.beside("sealed.age"));
        sakura.does(&["record", "open", id, "--force", "-o", utf8(&plain)]);
        sakura.does(&["record", "open", id, "--age", "--force", "-o", utf8(&sealed)]);
        let by_age = outside::runs(Command::new("age").args(["-d", "-i"]).args([&identity, &sealed]));
        assert!(by_age == std::fs::read(&plain).unwrap(), "age gives the same bytes for {id}");
        assert!(!by_age.is_empty());
    }
    // Another identity must not open it, or the check above says nothing.
    let hers = hana.beside("identity.txt");
    hana.does(&["keys", "export", "--age-identity", "--yes", "-o", utf8(&hers)]);
    let refused =
        Command::new("age").args(["-d", "-i"]).args([&hers, &sakura.beside("sealed.age")]).output().unwrap();
    assert!(!refused.status.success(), "the header is for the clinic alone");
    say!("acceptance 3: age -d opened {} records, byte-identical", ids.len());
}

#[test]
fn an_outside_cose_library_verifies_a_grant_and_refuses_every_flipped_bit() {
    let Some(python) = python_with_cose() else { return };
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    let (grant, _) = shared_between(&hana, &sakura);

    for home in [&hana, &sakura] {
        let cose = home.beside("grant.cose");
        home.does(&["grant", "show", &grant, "--cose", "-o", utf8(&cose)]);
        let told =
            outside::runs(Command::new(&python).args(["-c", VERIFY_COSE, utf8(&cose)]).arg(hana.device()));
        say!("acceptance 3: {}: {}", home.name, String::from_utf8_lossy(&told).trim());
    }
    let wrong = Command::new(&python)
        .args(["-c", VERIFY_COSE, utf8(&hana.beside("grant.cose"))])
        .arg(sakura.device())
        .output()
        .unwrap();
    assert!(!wrong.status.success(), "it is not signed by the clinic's device");
}

#[test]
fn b3sum_of_a_payload_file_is_its_record_id() {
    if !has("b3sum", "apt-get install b3sum") {
        return;
    }
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    // Small payloads lie together in packs, whose frames are named alike; a file of its own is for outside programs.
    hana.meets(&sakura);
    hana.grants(&sakura, &["--kind", "document"]);
    for number in 0..3u8 {
        let text = format!("line of letter {number}\n").repeat(70_000);
        hana.imports(&synthetic::write_text(&hana.beside(&format!("letter{number}.txt")), &text));
    }
    eventually("sakura has them", Duration::from_secs(30), || (sakura.count() == 3).then_some(()));
    let mut ids: Vec<String> = hana.lists().iter().map(|record| text(record, "id")).collect();
    ids.sort();

    for home in [&hana, &sakura] {
        let payloads = files(&home.path().join("store/payloads"));
        let out = outside::runs(Command::new("b3sum").arg("--no-names").args(&payloads));
        let mut sums: Vec<String> = String::from_utf8(out).unwrap().lines().map(str::to_owned).collect();
        for (path, sum) in payloads.iter().zip(&sums) {
            assert!(path.ends_with(sum), "{} is named by its hash", path.display());
        }
        sums.sort();
        assert_eq!(sums, ids, "{}: the payload files are the records, no more", home.name);
    }
    say!("acceptance 3: b3sum agrees on {} payload files, twice", ids.len());
}
