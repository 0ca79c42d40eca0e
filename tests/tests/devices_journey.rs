//! Two devices of one patient, over real processes: one joins, both know what either does, one is stolen and removed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::{Daemon, Home, eventually, say, synthetic};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

struct Story {
    laptop: Home,
    laptop_runs: Daemon,
    phone: Home,
    phone_runs: Daemon,
    sakura: Home,
    /// Killed when the story ends.
    _sakura_runs: Daemon,
}

/// Hana's laptop knows the clinic; her telephone joins.
fn two_devices_and_a_clinic() -> Story {
    let (laptop, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (laptop_runs, sakura_runs) = (laptop.runs(), sakura.runs());
    laptop.meets(&sakura);
    laptop.imports(&synthetic::write(laptop.beside("before.ndjson"), 0, 5));
    let phone = joined(&laptop);
    let phone_runs = phone.runs();
    eventually("the telephone has the records and the contact", SOON, || {
        (phone.count() == 5 && phone.does(&["contact", "list"]).len() == 1).then_some(())
    });
    Story { laptop, laptop_runs, phone, phone_runs, sakura, _sakura_runs: sakura_runs }
}

/// A telephone that joins, after a first try at an address where nobody answers.
fn joined(laptop: &Home) -> Home {
    let invite = text(&laptop.does(&["device", "invite"])[0], "invite");
    let phone = Home::beside_none("phone");
    let refused = phone.tries(&["device", "join", "karte:abc", "--no-passphrase"]);
    assert_eq!(refused.code, Some(2), "a card is no invitation: {refused}");
    let items = phone.does(&["device", "join", &invite, "--no-passphrase"]);
    assert_eq!(items[0]["name"], "hana");
    assert_eq!(text(&laptop.does(&["card"])[0], "party"), text(&items[0], "joined"), "the same party");
    let twice = phone.tries(&["device", "join", &invite, "--no-passphrase"]);
    assert!(twice.error.contains("there is a node in"), "{twice}");
    let other = Home::beside_none("thief");
    assert_eq!(other.tries(&["device", "join", &invite, "--no-passphrase"]).code, Some(3), "one device only");
    phone
}

fn states(home: &Home) -> Vec<String> {
    home.does(&["device", "list"]).iter().map(|item| text(item, "state")).collect()
}

fn grant_state(home: &Home, id: &str) -> Option<String> {
    home.grant(id).map(|grant| text(&grant, "state"))
}

fn gives(from: &Home, code: &str) -> String {
    let words = ["grant", "add", "sakura", "--kind", "fhir", "--code", code];
    text(&from.does(&words)[0], "id")
}

fn status(home: &Home) -> Value {
    home.does(&["status"]).remove(0)
}

#[test]
fn two_devices_are_one_patient_and_a_stolen_one_is_powerless() {
    let story = two_devices_and_a_clinic();
    let Story { laptop, laptop_runs, phone, phone_runs, sakura, .. } = story;
    assert_eq!(states(&laptop), ["live", "live"]);

    // What is made on one is on the other, and its payload too.
    phone.imports(&synthetic::write(phone.beside("after.ndjson"), 5, 8));
    let ((), took) = eventually("the laptop has what came in on the telephone", SOON, || {
        (laptop.count() == 8).then_some(())
    });
    say!(
        "devices: 3 records of the telephone were on the laptop {took:.1?} after the import (a bar of seconds)"
    );
    for record in phone.lists() {
        let id = text(&record, "id");
        eventually("its payload is there", SOON, || {
            (laptop.tries(&["record", "open", &id, "-o", "-"]).code == Some(0)).then_some(())
        });
        assert_eq!(laptop.opens(&id), phone.opens(&id), "the same bytes on both");
    }

    // Given on the laptop, served by the telephone while the laptop is off.
    let first = laptop.grants(&sakura, &["--kind", "fhir"]);
    eventually("the clinic reads", SOON, || (sakura.count() == 8).then_some(()));
    eventually("the telephone knows the grant", SOON, || {
        (grant_state(&phone, &first).as_deref() == Some("active")).then_some(())
    });
    laptop_runs.stops(&laptop);
    phone.imports(&synthetic::write(phone.beside("alone.ndjson"), 8, 10));
    let ((), took) = eventually("the clinic has what the telephone alone had", SOON, || {
        (sakura.count() == 10).then_some(())
    });
    say!("devices: the telephone alone served the laptop's grant {took:.1?} after the import");

    // The telephone gives a grant of its own; then it is stolen, and gives another.
    let own = gives(&phone, "718-7");
    let beyond = gives(&phone, "2823-3");
    for id in [&own, &beyond] {
        eventually("the clinic has accepted", SOON, || {
            (grant_state(&sakura, id).as_deref() == Some("active")).then_some(())
        });
    }
    phone_runs.stops(&phone);

    // Removed by the laptop, as of the telephone's first entry.
    let laptop_runs = laptop.runs();
    let stolen = phone.device();
    laptop.does(&["sync", "sakura"]);
    let removed = laptop.does(&["device", "remove", &stolen, "--last-valid-seq", "0"]);
    assert_eq!(removed[0]["removed"], stolen.as_str());
    let mut left = states(&laptop);
    left.sort();
    assert_eq!(left, ["live", "removed"]);
    let ((), took) = eventually("what it granted beyond is void at the clinic", SOON, || {
        (grant_state(&sakura, &beyond).as_deref() == Some("ended")).then_some(())
    });
    say!("devices: void at the clinic {took:.1?} after the removal");
    let ended = text(&sakura.grant(&beyond).unwrap(), "ended");
    assert!(ended.contains("void"), "{ended}");
    assert_eq!(grant_state(&sakura, &own).as_deref(), Some("active"), "what it gave before stays");
    assert_eq!(sakura.count(), 10, "and the laptop's own grant too");

    // Switched on again, it learns of it, from whoever it meets, and signs nothing more.
    let phone_runs = phone.runs();
    eventually("the telephone knows that it was removed", SOON, || {
        (status(&phone)["standing"] == "removed").then_some(())
    });
    let refused = phone.tries(&["grant", "add", "sakura", "--kind", "fhir"]);
    assert!(refused.code == Some(1) && refused.error.contains("removed"), "{refused}");
    laptop.imports(&synthetic::write(laptop.beside("new.ndjson"), 10, 11));
    eventually("the clinic has the newest", SOON, || (sakura.count() == 11).then_some(()));
    assert_eq!(phone.count(), 10, "nothing new comes to the stolen one");
    phone_runs.stops(&phone);
    laptop_runs.stops(&laptop);
}
