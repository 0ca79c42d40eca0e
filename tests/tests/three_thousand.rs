//! Acceptance 9: three thousand small records, in and across, each in less than a minute, and one sees how far it is.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::home::utf8;
use karte_tests::{Home, eventually, say, synthetic};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const RECORDS: u64 = 3_000;
const A_MINUTE: Duration = Duration::from_secs(60);

#[test]
fn three_thousand_records_are_imported_and_synced_in_less_than_a_minute_each() {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let (_hana_runs, _sakura_runs) = (hana.runs(), sakura.runs());
    hana.meets(&sakura);
    let file = synthetic::write(hana.beside("labs.ndjson"), 0, RECORDS);
    let bytes = file.metadata().unwrap().len();
    let noise = fsync_takes(&hana.beside("noise"));

    let begun = Instant::now();
    let told = hana.imports(&file);
    let import = begun.elapsed();
    assert_eq!(told.taken, RECORDS);
    say!("acceptance 9: import: {}", speed(import, bytes));

    let begun = Instant::now();
    let grant = hana.grants(&sakura, &["--kind", "fhir"]);
    eventually("all have come", A_MINUTE, || {
        let seen = sakura.grant(&grant)?;
        (seen["records"] == RECORDS && seen["missing"] == 0).then_some(())
    });
    let sync = begun.elapsed();
    say!("acceptance 9: grant and first sync: {}", speed(sync, bytes));
    say!(
        "acceptance 9: noise: one fsync of 4 KiB took {noise:.2?} on average before, {:.2?} after",
        fsync_takes(&hana.beside("noise"))
    );

    assert!(import < A_MINUTE, "the import took {import:?}");
    assert!(sync < A_MINUTE, "the first sync took {sync:?}");
    assert!(synthetic::numbers(&sakura.lists()).into_iter().eq(0..RECORDS), "each one is there, once");
}

/// Both show their progress to a person: here a terminal of `script` (bsdutils, part of every Debian).
#[test]
fn long_work_shows_its_progress_on_a_terminal() {
    let (hana, sakura) = (Home::patient("hana"), Home::clinic("sakura"));
    let hana_runs = hana.runs();
    sakura.knows(&hana);
    hana.knows(&sakura);
    sakura.does(&["sync", "hana"]);
    let grant = hana.grants(&sakura, &["--kind", "fhir"]);
    sakura.does(&["sync", "hana"]);
    eventually("sakura has said yes", A_MINUTE, || {
        hana.grant(&grant).filter(|grant| grant["state"] == "active")
    });
    let file = synthetic::write(hana.beside("labs.ndjson"), 0, RECORDS);
    let shown = on_a_terminal(&hana, &["import", utf8(&file)]);
    shows_a_bar(&shown, "import");

    // Sakura has no daemon, so her sync does all the work before our eyes.
    let shown = on_a_terminal(&sakura, &["sync", "hana"]);
    shows_a_bar(&shown, "sync");
    drop(hana_runs);
}

/// What a command shows on a terminal of its own.
fn on_a_terminal(home: &Home, words: &[&str]) -> String {
    let typescript = home.beside("typescript");
    let command = home.command(&[]);
    let program = command.get_program().to_string_lossy().into_owned();
    let line = format!("{program} --home {} {}", utf8(home.path()), words.join(" "));
    let status = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, utf8(&typescript)])
        .stdout(std::process::Stdio::null())
        .status()
        .expect("script runs");
    let shown = String::from_utf8_lossy(&std::fs::read(&typescript).unwrap()).into_owned();
    assert!(status.success(), "{line}: {shown}");
    shown
}

/// A bar is drawn anew while the work goes on: its name comes with several different numbers.
fn shows_a_bar(shown: &str, what: &str) {
    let drawn: std::collections::BTreeSet<&str> =
        shown.split(['\r', '\n']).filter(|line| line.contains(what) && line.contains("B/s")).collect();
    say!("acceptance 9: {what} on a terminal drew {} different bars", drawn.len());
    assert!(drawn.len() >= 2, "{what} shows how far it is: {shown:?}");
}

fn speed(took: Duration, bytes: u64) -> String {
    let seconds = took.as_secs_f64();
    format!(
        "{RECORDS} records, {bytes} bytes in {took:.2?}: {:.0} records/s, {:.2} MB/s",
        RECORDS as f64 / seconds,
        bytes as f64 / seconds / 1e6
    )
}

/// The machine's own share: what one small durable write costs now.
fn fsync_takes(path: &Path) -> Duration {
    let begun = Instant::now();
    let rounds = 50;
    for _ in 0..rounds {
        let mut file = File::create(path).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_all().unwrap();
    }
    begun.elapsed() / rounds
}
