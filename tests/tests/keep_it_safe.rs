//! Keeping it safe, over real processes: lost payloads come back, a backup begins again elsewhere, and what ended
//! stays ended.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::{text, utf8};
use karte_tests::outside::files;
use karte_tests::{Daemon, Home, Told, eventually, say, synthetic};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// Hana gives the clinic her laboratory values, and both run. Each has a remark of `remark_bytes`: above 64 KiB a payload
/// is a file of its own, which can be damaged without its neighbours.
fn hana_and_clinic(records: u64, remark_bytes: usize) -> (Home, Daemon, Home, Daemon) {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (hana_runs, sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    let remark = format!("\"note\":[{{\"text\":\"{}", "x".repeat(remark_bytes));
    let lines = synthetic::laboratory(0, records).replace("\"note\":[{\"text\":\"", &remark);
    hana.imports(&synthetic::write_text(&hana.beside("lab.ndjson"), &lines));
    hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("the records have come", SOON, || (sakura.count() as u64 == records).then_some(()));
    (hana, hana_runs, sakura, sakura_runs)
}

fn payload(home: &Home, id: &str) -> PathBuf {
    home.path().join("store/payloads").join(&id[..2]).join(id)
}

fn checked(home: &Home) -> Told {
    home.tries(&["store", "check"])
}

fn names(told: &Told, id: &str) -> bool {
    told.items.iter().any(|item| item["record"] == id)
}

#[test]
fn a_lost_and_a_damaged_payload_are_named_and_come_back() {
    let (hana, hana_runs, sakura, sakura_runs) = hana_and_clinic(12, 1_100_000);
    let ids: Vec<String> = hana.lists().iter().map(|record| text(record, "id")).collect();
    assert_eq!(checked(&hana).code, Some(0), "all is whole: {}", checked(&hana));
    assert_eq!(checked(&sakura).code, Some(0));

    // One is deleted at the reader, one damaged at the holder: its own record.
    let damaged =
        std::fs::read(payload(&hana, &ids[1])).unwrap().iter().map(|byte| !byte).collect::<Vec<u8>>();
    std::fs::remove_file(payload(&sakura, &ids[0])).unwrap();
    std::fs::write(payload(&hana, &ids[1]), damaged).unwrap();
    for (home, id, fault) in [(&sakura, &ids[0], "payload missing"), (&hana, &ids[1], "payload damaged")] {
        let told = checked(home);
        assert_eq!(told.code, Some(5), "{told}");
        assert!(names(&told, id), "it is named: {:?}", told.items);
        assert_eq!(told.items[0]["fault"], fault);
        assert!(text(&told.items[0], "next").contains("repair"));
    }

    for (home, from, id) in [(&sakura, "hana", &ids[0]), (&hana, "sakura", &ids[1])] {
        let begun = Instant::now();
        let told = home.tries(&["store", "repair", "--from", from]);
        assert_eq!(told.code, Some(0), "{} is repaired: {told} {:?}", home.name, told.items);
        assert_eq!(told.items.last().unwrap()["repaired"], 1);
        assert_eq!(checked(home).code, Some(0), "and is whole: {}", checked(home));
        assert!(!home.opens(id).is_empty());
        say!("store repair: {} got one payload back in {:.1?}", home.name, begun.elapsed());
    }

    // Lost at both: nobody has it, and that is said.
    std::fs::remove_file(payload(&sakura, &ids[2])).unwrap();
    std::fs::remove_file(payload(&hana, &ids[2])).unwrap();
    let told = hana.tries(&["store", "repair"]);
    assert_eq!(told.code, Some(5), "{told}");
    assert!(names(&told, &ids[2]) && told.error.contains("still missing 1"), "{told}");
    assert_eq!(checked(&hana).code, Some(5), "it is not forgotten");
    hana_runs.stops(&hana);
    sakura_runs.stops(&sakura);

    // The others work without a daemon too.
    let sizes = hana.does(&["store", "stats"]);
    assert_eq!(sizes[0]["own"], 12);
    assert_eq!(hana.does(&["store", "gc"])[0]["deleted"], 0);
    hana.does(&["store", "rebuild"]);
    assert_eq!(hana.count(), 12);
    assert_eq!(hana.tries(&["store", "adopt-copy"]).code, Some(2), "it asks for the word");
    let status = hana.does(&["status"]);
    assert_eq!((&status[0]["started"], &status[0]["standing"]), (&"clean".into(), &"sound".into()));
}

#[test]
fn a_backup_begins_again_elsewhere_and_the_old_device_is_powerless() {
    let (hana, hana_runs, sakura, sakura_runs) = hana_and_clinic(20, 0);
    // The clinic lets her read too: one grant that stays, one that ends after the backup.
    let hers = sakura.beside("session.json");
    std::fs::write(&hers, synthetic::laboratory(900, 901)).unwrap();
    sakura.does(&["import", utf8(&hers), "--subject", "hana"]);
    let stays = sakura.grants(&hana, &["--kind", "fhir", "--subject", "hana"]);
    let ends = sakura.grants(&hana, &["--kind", "fhir/Observation", "--subject", "hana"]);
    for grant in [&stays, &ends] {
        eventually("hana is offered it", SOON, || hana.grant(grant).map(|_| ()));
        hana.does(&["grant", "accept", grant]);
    }
    // Shown under each of the two grants.
    eventually("she has read it", SOON, || (hana.count() == 22).then_some(()));
    let received =
        hana.lists().iter().find(|record| !record["grant"].is_null()).map(|r| text(r, "id")).unwrap();
    let own: Vec<(String, Vec<u8>)> = hana
        .lists()
        .iter()
        .filter(|record| record["grant"].is_null())
        .map(|record| (text(record, "id"), hana.opens(&text(record, "id"))))
        .collect();
    assert_eq!(own.len(), 20);

    // While she runs; twice, and the second part is small.
    let folder = hana.beside("backup");
    let first = backs_up(&hana, &folder);
    assert_eq!(first["payloads"], 20, "{first}");
    hana.imports(&synthetic::write(hana.beside("more.ndjson"), 100, 101));
    let late = hana.lists().iter().filter(|record| record["grant"].is_null()).count();
    assert_eq!(late, 21);
    let second = backs_up(&hana, &folder);
    assert_eq!((&second["part"], &second["payloads"]), (&2.into(), &1.into()), "{second}");
    assert!(second["bytes"].as_u64() < first["bytes"].as_u64().map(|bytes| bytes / 2), "{first} {second}");
    assert_eq!(backs_up(&hana, &folder)["new"], false, "nothing is new");
    nothing_readable(&folder);
    let verified = with_passphrase(&hana, &["backup", "verify", utf8(&folder)]);
    assert_eq!(verified.code, Some(0), "{verified}");
    assert_eq!(verified.items[0]["records"], 21);
    a_changed_backup_is_refused(&hana, &folder);

    // What happens afterwards: a grant ends, and another that the backup does not know is given.
    sakura.revokes(&ends);
    let unknown = hana.grants(&sakura, &["--kind", "fhir", "--expires", "1d"]);
    eventually("the clinic knows it", SOON, || sakura.grant(&unknown).map(|_| ()));

    // Her machine is gone. Somebody has a copy of it.
    hana_runs.stops(&hana);
    let stolen = hana.copied();
    let again = Home::beside_none("hana");
    let told = with_passphrase(&again, &["backup", "restore", utf8(&folder), "--no-passphrase", "--regrant"]);
    assert_eq!(told.code, Some(0), "{told}");
    assert_eq!(told.items[0]["records"], 21);
    assert_eq!(told.items[0]["grants_given_again"], 1, "{:?}", told.items);
    assert!(again.device() != hana.device(), "it is a new device");
    let twice = Home::beside_none("hana");
    let refused = with_passphrase(&twice, &["backup", "restore", utf8(&folder), "--no-passphrase"]);
    assert_eq!(refused.code, Some(2), "a backup is restored once: {refused}");

    // Before any contact: own records open and are equal; nothing received does.
    for (id, plaintext) in &own {
        assert!(again.opens(id) == *plaintext, "{id} is what it was");
    }
    assert_eq!(again.count(), 21, "what was received is not in a backup");
    assert_eq!(again.tries(&["record", "open", &received]).code, Some(3));

    // At the first contact: what the clinic holds comes back, and the grant that stands is accepted anew.
    let again_runs = again.runs();
    eventually("the received record comes anew", SOON, || {
        again.tries(&["sync", "sakura"]);
        (again.count() == 22).then_some(())
    });
    assert!(!again.opens(&received).is_empty());
    assert_eq!(again.grant(&stays).unwrap()["state"], "active");
    eventually("the grant that ended stays ended", SOON, || {
        (again.grant(&ends).unwrap()["state"] == "ended").then_some(())
    });
    let notices = again_runs.notices().join("\n");
    assert!(notices.contains("newer than this copy came back from sakura"), "{notices}");
    eventually("the clinic reads under the grant that was given again", SOON, || {
        (sakura.tries(&["record", "open", &own[0].0]).code == Some(0)).then_some(())
    });

    // The old device, which somebody starts: refused by everybody, and what it gave is over.
    let told = stolen.tries(&["sync", "sakura"]);
    assert!(told.code != Some(0), "nobody answers the old device: {told}");
    let given = stolen.tries(&["grant", "add", "sakura", "--kind", "fhir"]);
    if given.code == Some(0) {
        stolen.tries(&["sync", "sakura"]);
        assert!(sakura.grant(&text(&given.items[0], "id")).is_none(), "its grants reach nobody");
    }
    assert_eq!(sakura.grant(&unknown).unwrap()["state"], "ended", "by the recovery");
    again_runs.stops(&again);
    sakura_runs.stops(&sakura);
    assert_eq!(checked(&again).code, Some(0), "{}", checked(&again));
}

/// Backs up into `folder` under the passphrase of these tests.
fn backs_up(home: &Home, folder: &Path) -> serde_json::Value {
    let begun = Instant::now();
    let told = with_passphrase(home, &["backup", "create", utf8(folder)]);
    assert_eq!(told.code, Some(0), "{told}");
    say!("backup: part {} in {:.1?}", told.items[0]["part"], begun.elapsed());
    told.items[0].clone()
}

/// Runs a command with the backup's passphrase on its standard input.
fn with_passphrase(home: &Home, words: &[&str]) -> Told {
    let words = [words, &["--backup-passphrase-fd", "0"]].concat();
    let begun = Instant::now();
    let passphrase = home.beside("passphrase");
    std::fs::write(&passphrase, "correct horse battery\n").unwrap();
    let mut command: Command = home.command(&words);
    let output = command.stdin(Stdio::from(std::fs::File::open(&passphrase).unwrap())).output().unwrap();
    Told::of(&home.name, &words, output, begun.elapsed())
}

/// age is what lies there, and no word of a record.
fn nothing_readable(folder: &Path) {
    for file in files(folder) {
        let bytes = std::fs::read(&file).unwrap();
        let needle = b"creatinine";
        assert!(!bytes.windows(needle.len()).any(|part| part == needle), "{} shows nothing", file.display());
        if file.extension().is_some_and(|end| end == "age") {
            assert!(bytes.starts_with(b"age-encryption.org/v1"), "{} is an age file", file.display());
        }
    }
}

/// Cut off, flipped, or with a part missing: refused with exit code 5 each time.
fn a_changed_backup_is_refused(home: &Home, folder: &Path) {
    let copy = home.beside("changed");
    let part = |number: u32| copy.join(format!("{number:06}.age"));
    let fresh = || {
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir(&copy).unwrap();
        for number in [1, 2] {
            std::fs::copy(folder.join(format!("{number:06}.age")), part(number)).unwrap();
        }
    };
    let refused = |what: &str| {
        let told = with_passphrase(home, &["backup", "verify", utf8(&copy)]);
        assert_eq!(told.code, Some(5), "{what}: {told}");
    };
    fresh();
    let bytes = std::fs::read(part(2)).unwrap();
    std::fs::write(part(2), &bytes[..bytes.len() - 1]).unwrap();
    refused("cut off");
    let mut flipped = bytes;
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(part(2), flipped).unwrap();
    refused("flipped");
    fresh();
    std::fs::rename(part(2), part(1)).unwrap();
    refused("a later part alone");
}

#[test]
fn a_backup_in_one_file_opens_with_stock_age() {
    let hana = Home::patient("hana");
    hana.imports(&synthetic::write(hana.beside("lab.ndjson"), 0, 3));
    let key = hana.beside("key.txt");
    let Ok(made) = Command::new("age-keygen").arg("-o").arg(&key).output() else {
        say!("skipped 1: age is not here; apt-get install age");
        return;
    };
    let told = String::from_utf8_lossy(&made.stderr).into_owned();
    let recipient = told.split_whitespace().find(|word| word.starts_with("age1")).unwrap().to_owned();
    let file = hana.beside("hana.age");
    hana.does(&["backup", "create", utf8(&file), "--to", &recipient]);
    let verified = hana.tries(&["backup", "verify", utf8(&file), "--identity", utf8(&key)]);
    assert_eq!(verified.code, Some(0), "{verified}");
    let open = format!("age -d -i '{}' '{}' | tar -t", key.display(), file.display());
    let listed = Command::new("sh").args(["-c", &open]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.lines().filter(|line| line.starts_with("payloads/")).count(), 3, "{listed}");
    assert!(listed.ends_with("list.cbor\nlist.cose\n"), "{listed}");
    let again = Home::beside_none("hana");
    let told = again.tries(&["backup", "restore", utf8(&file), "--identity", utf8(&key), "--no-passphrase"]);
    assert_eq!(told.code, Some(0), "{told}");
    assert_eq!(again.count(), 3);
}
