//! A second device of the holder, kept from hearing: over real processes it serves up to the offline limit, then it
//! stops, says why, and stays stopped however often it is started; until it has met the device that revoked.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::machine::Machine;
use karte_tests::{Daemon, Home, eventually, say, synthetic};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// What the clinic has before the two devices are parted.
const BEFORE: u64 = 5;
const PATIENT: &str = "hana";
const CLINIC: &str = "sakura";

struct Story {
    laptop: Home,
    phone: Home,
    clinic: Home,
    grant: String,
    /// The laptop's first.
    machines: Option<Vec<Arc<Machine>>>,
}

/// Hana granted on her laptop; her telephone knows it, and the clinic has read. Then all three nodes are off.
fn granted() -> Story {
    let machines = Machine::several(3);
    let placed = |home: Home, number: usize| match &machines {
        Some(machines) => home.on(&machines[number]),
        None => home,
    };
    let laptop = placed(Home::patient(PATIENT).at_one_port(), 0);
    let phone = placed(Home::beside_none("phone").at_one_port(), 1);
    let clinic = placed(Home::clinic(CLINIC).at_one_port(), 2);
    let (laptop_runs, clinic_runs) = (laptop.runs(), clinic.runs());
    laptop.meets(&clinic);
    let invite = text(&laptop.does(&["device", "invite"])[0], "invite");
    phone.does(&["device", "join", &invite, "--no-passphrase"]);
    let phone_runs = phone.runs();
    laptop.imports(&synthetic::write(laptop.beside("before.ndjson"), 0, BEFORE));
    let grant = laptop.grants(&clinic, &["--kind", "fhir", "--offline", "7d"]);
    eventually("the clinic has read", SOON, || (clinic.count() as u64 == BEFORE).then_some(()));
    eventually("the telephone has records and grant", SOON, || {
        let active = text(&phone.grant(&grant)?, "state") == "active";
        (active && phone.count() as u64 == BEFORE).then_some(())
    });
    // The clinic has met the telephone: it knows where to find it without the laptop.
    phone.does(&["sync", CLINIC]);
    phone_runs.stops(&phone);
    clinic_runs.stops(&clinic);
    laptop_runs.stops(&laptop);
    Story { laptop, phone, clinic, grant, machines }
}

#[test]
fn a_second_device_kept_from_hearing_stops_at_the_bound_and_stays_stopped() {
    let Story { laptop, phone, clinic, grant, machines } = granted();
    // Revoked on the laptop while nobody hears it; then its cable is pulled, or it is off.
    let revoking = laptop.runs();
    laptop.revokes(&grant);
    let cut_off = machines.as_ref().map(|machines| &machines[0]);
    let away = match cut_off {
        Some(machine) => {
            machine.plug(false);
            Some(revoking)
        }
        None => {
            revoking.stops(&laptop);
            None
        }
    };
    say!(
        "acceptance 2, second device: revoked on the laptop, which {}",
        if cut_off.is_some() { "runs on with its cable pulled" } else { "is off" }
    );

    let mut served = BEFORE;
    for (nth, (day, serves)) in [(6, true), (8, false), (8, false)].into_iter().enumerate() {
        let phone_runs = Daemon::ahead(&phone, day);
        // The clinic's daemon is at the same day, or its own requests would be refused as old.
        let clinic_runs = Daemon::ahead(&clinic, day);
        let nth = nth as u64;
        let fresh = phone.beside(&format!("fresh-{nth}.ndjson"));
        phone.imports(&synthetic::write(fresh, BEFORE + nth, BEFORE + nth + 1));
        let told = clinic.tries(&["sync", PATIENT, "--staff", "nurse Lim"]);
        served += u64::from(serves);
        if serves {
            eventually("the clinic has what only the telephone has", SOON, || {
                (clinic.count() as u64 == served).then_some(())
            });
        } else {
            assert_ne!(told.code, Some(0), "day {day}: the clinic is refused");
            assert_eq!(clinic.count() as u64, served, "day {day}: nothing new came");
        }
        assert_eq!(phone.does(&["status"])[0]["vouches"], serves, "day {day}");
        assert_eq!(phone.grant(&grant).unwrap()["state"], "active", "it has not heard of the end");
        let at_bound = phone
            .audits("refused")
            .iter()
            .any(|line| line["note"].as_str().is_some_and(|note| note.contains("offline limit")));
        assert_eq!(at_bound, !serves, "day {day}: {:?}", phone.audits("refused"));
        say!(
            "acceptance 2, second device: day {day} after the last word (limit 7 d): {} ({told})",
            if serves { "serves" } else { "serves nothing, and its audit says why" }
        );
        clinic_runs.stops(&clinic);
        phone_runs.stops(&phone);
    }

    // The two devices meet: the telephone learns of the end, vouches again, and the clinic hears it from it.
    if let Some(runs) = away {
        runs.stops(&laptop);
    }
    if let Some(machine) = cut_off {
        machine.plug(true);
    }
    let laptop_runs = Daemon::ahead(&laptop, 8);
    let phone_runs = Daemon::ahead(&phone, 8);
    let (state, took) = eventually("the telephone has heard of the end", SOON, || {
        let vouches = phone.does(&["status"])[0]["vouches"] == true;
        let state = text(&phone.grant(&grant)?, "state");
        (vouches && state != "active").then_some(state)
    });
    assert_eq!(state, "revoked");
    laptop_runs.stops(&laptop);
    let clinic_runs = Daemon::ahead(&clinic, 8);
    clinic.is_refused(&["sync", PATIENT, "--staff", "nurse Lim"]);
    assert_eq!(clinic.grant(&grant).unwrap()["state"], "ended");
    assert_eq!(clinic.count(), 0, "what came under the grant is gone with it");
    say!(
        "acceptance 2, second device: met the laptop again: {state} on both after {took:.1?}, ended at the clinic"
    );
    clinic_runs.stops(&clinic);
    phone_runs.stops(&phone);
}
