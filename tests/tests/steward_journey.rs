//! A steward on a third machine serves a clinic while the patient's node is off, knows nothing of what it serves, and
//! stops: when the revocation reaches it, and by itself when it hears nothing for too long.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::text;
use karte_tests::machine::Machine;
use karte_tests::outside::files;
use karte_tests::wait::looking_every;
use karte_tests::{Daemon, Home, eventually, say, synthetic};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The bar is 2 s; a loaded machine gets five times that. The measured time is told.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
const RECORDS: u64 = 12;
/// The name stands in every resource too.
const PATIENT: &str = "Chihiro Morimoto";
/// What the clinic's node made of it, whose user never typed it.
const AT_CLINIC: &str = "chihiro-morimoto";

struct Story {
    patient: Home,
    patient_runs: Daemon,
    clinic: Home,
    steward: Home,
    steward_runs: Daemon,
    grant: String,
    machines: Option<Vec<Arc<Machine>>>,
}

/// The patient has granted to a clinic that has taken nothing yet, and a steward keeps all of it.
fn kept() -> Story {
    let machines = Machine::several(3);
    let placed = |home: Home, number: usize| match &machines {
        Some(machines) => home.on(&machines[number]),
        None => home,
    };
    let patient = placed(Home::patient(PATIENT), 0);
    let clinic = placed(Home::clinic("Sakura Dialysis Clinic"), 1);
    let steward = placed(Home::patient("Pharmacy at the Corner").at_one_port(), 2);
    let (patient_runs, clinic_runs, steward_runs) = (patient.runs(), clinic.runs(), steward.runs());
    patient.meets(&clinic);
    patient.knows(&steward);
    steward.knows(&patient);
    let grant = patient.grants(&clinic, &["--kind", "fhir", "--offline", "7d"]);
    eventually("the clinic has said yes", SOON, || {
        (text(&patient.grant(&grant)?, "state") == "active").then_some(())
    });
    steward.does(&["steward", "offer", PATIENT, "--quota", "1GB", "--for", "90d"]);
    patient.does(&["steward", "add", &steward.name]);
    patient.does(&["sync", &steward.name]);
    // The clinic hears of the steward, then goes off: what is imported now it can have from the steward alone.
    patient.does(&["sync", &clinic.name]);
    clinic_runs.stops(&clinic);
    patient.imports(&synthetic::write(patient.beside("lab.ndjson"), 0, RECORDS));
    eventually("the steward has every payload", SOON, || {
        let keeping = steward.does(&["steward", "keeping"]);
        let kept = keeping.first()?;
        (kept["records"] == RECORDS && kept["missing"] == 0 && kept["grants"] == 1).then_some(())
    });
    let status = steward.does(&["status"]);
    assert_eq!(status[0]["keeping"]["holders"], 1, "what it keeps shows in its status: {status:?}");
    Story { patient, patient_runs, clinic, steward, steward_runs, grant, machines }
}

#[test]
fn a_clinic_reads_from_the_steward_until_the_revocation_reaches_it() {
    let story = kept();
    knows_nothing(&story);
    let Story { patient, patient_runs, clinic, steward, steward_runs, grant, machines } = story;
    patient_runs.stops(&patient);
    say!(
        "acceptance 3: three {}; the patient's node is off",
        if machines.is_some() { "network namespaces" } else { "daemons on loopback" }
    );

    clinic.does(&["sync", AT_CLINIC, "--staff", "nurse Lim"]);
    assert_eq!(opened(&clinic), originals(&patient), "every record opens, byte for byte");
    say!("acceptance 3: the clinic opened {RECORDS} records from the steward, byte-identical");

    // What was opened is told to the steward at the next contact, for the patient.
    clinic.does(&["sync", AT_CLINIC]);

    let patient_runs = patient.runs();
    eventually("the steward hands the audit back", SOON, || {
        let released = patient.audits("released");
        let named = format!("served by {}", steward.name);
        released.iter().any(|line| line["note"] == named.as_str()).then_some(())
    });
    eventually("and the receipts that the clinic left there", SOON, || {
        (patient.audits("opened").len() as u64 >= RECORDS).then_some(())
    });

    let begun = std::time::Instant::now();
    let command = patient.revokes(&grant);
    looking_every(LOOK_EVERY, "the steward has ended the grant", STOPS_WITHIN, || {
        let keeping = steward.does(&["steward", "keeping"]);
        (keeping.first()?["grants"] == 0).then_some(())
    });
    say!(
        "acceptance 3: the steward serves nothing more {:.0?} after the command was given (the command took {command:.0?}; bar 2 s)",
        begun.elapsed()
    );
    patient_runs.stops(&patient);
    let told = clinic.tries(&["sync", AT_CLINIC]);
    assert_eq!(told.code, Some(3), "the clinic is refused: {told}");
    assert_eq!(clinic.count(), 0, "and what it had is gone with the grant");
    steward_runs.stops(&steward);
}

#[test]
fn a_steward_kept_from_hearing_stops_at_the_bound_and_stays_stopped() {
    let Story { patient, patient_runs, clinic, steward, steward_runs, machines, .. } = kept();
    patient_runs.stops(&patient);
    steward_runs.stops(&steward);
    // The clinic's daemon is at the same day, or its own requests would be refused as old.
    for (day, serves) in [(6, true), (8, false), (8, false)] {
        let steward_runs = Daemon::ahead(&steward, day);
        let clinic_runs = Daemon::ahead(&clinic, day);
        let told = clinic.tries(&["sync", AT_CLINIC]);
        let refused = steward.audits("refused");
        let at_bound = refused
            .iter()
            .any(|line| line["note"].as_str().is_some_and(|note| note.contains("offline limit")));
        assert_eq!(told.code == Some(0), serves, "day {day}: {told}");
        assert_eq!(at_bound, !serves, "day {day}: {refused:?}");
        say!(
            "acceptance 2, steward: day {day} after the last word (limit 7 d): {}",
            if serves { "serves" } else { "serves nothing" }
        );
        clinic_runs.stops(&clinic);
        steward_runs.stops(&steward);
    }
    drop(machines);
}

/// Looks at every byte of the steward's folder.
fn knows_nothing(story: &Story) {
    let party = text(&story.clinic.does(&["card"])[0], "party");
    let patient = text(&story.patient.does(&["card"])[0], "party");
    let raw = bech32_bytes(&party);
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let words = [
        PATIENT,
        "Chihiro",
        "Morimoto",
        "2160-0",
        "loinc",
        "Creatinine",
        "creatinine",
        "laboratory",
        "fhir/",
        "mg/dL",
        "Sakura",
        &party,
        &hex,
    ];
    let mut forbidden: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    forbidden.push(raw);
    let mut bytes = 0;
    for path in files(story.steward.path()) {
        let name = path.display().to_string();
        let content = std::fs::read(&path).unwrap();
        bytes += content.len();
        for word in &forbidden {
            let found = content.windows(word.len()).any(|part| part == word) || holds(&path, word);
            assert!(!found, "{:?} stands in {name}", String::from_utf8_lossy(word));
        }
    }
    // The search can find: the same words stand in the patient's own import file.
    let import = std::fs::read(story.patient.beside("lab.ndjson")).unwrap();
    assert!(import.windows(6).any(|part| part == b"2160-0"));
    assert_ne!(patient, party);
    say!("acceptance 3: {bytes} bytes of the steward's folder hold none of {} words", forbidden.len());
}

/// Whether a name on the disk has the word in it.
fn holds(path: &Path, word: &[u8]) -> bool {
    let name = path.file_name().map(|name| name.as_encoded_bytes().to_vec()).unwrap_or_default();
    name.windows(word.len()).any(|part| part == word)
}

/// The 32 bytes of a party's text: bech32 in groups of 5 bits, 6 groups of checksum at the end.
fn bech32_bytes(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let data = text.strip_prefix("karte1").unwrap();
    let groups = data.bytes().take(data.len() - 6);
    let bits: Vec<u8> = groups
        .map(|letter| u8::try_from(LETTERS.iter().position(|known| *known == letter).unwrap()).unwrap())
        .flat_map(|group| (0..5).rev().map(move |bit| (group >> bit) & 1))
        .collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | bit)).collect()
}

/// What every record that a node sees opens to, sorted.
fn opened(home: &Home) -> Vec<Vec<u8>> {
    let mut all: Vec<_> = home.lists().iter().map(|record| home.opens(&text(record, "id"))).collect();
    all.sort();
    all
}

/// The imported lines as they stand in the file, sorted.
fn originals(patient: &Home) -> Vec<Vec<u8>> {
    let import = std::fs::read(patient.beside("lab.ndjson")).unwrap();
    let mut lines: Vec<_> =
        import.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    lines.sort();
    lines
}
