//! The store under faults, the short version: what `testnet faults` does, with bars that must hold.

#![allow(clippy::unwrap_used, reason = "a folder that cannot be made must fail the test")]

use karte_testnet::faults::{Kind, Options, Tally, run};
use karte_tests::{binary, say};

/// The choices of the trials. Another number tries other faults.
const SEED: u64 = 2;

/// As many trials as there are calls and faults.
const EVERY_CALL: u64 = u64::MAX;

/// How many trials of each kind: a few minutes together on two busy cores.
const TRIALS: [(Kind, u64); 9] = [
    (Kind::Kill, 200),
    (Kind::Syscall, 600),
    (Kind::Power, 60),
    (Kind::Flip, 300),
    (Kind::Truncate, 100),
    (Kind::Zero, 20),
    // A real full file system; every call in turn comes after.
    (Kind::Enospc, 4),
    (Kind::Enospc, EVERY_CALL),
    (Kind::Eio, EVERY_CALL),
];

/// The summary line of a kind.
fn tell(kind: Kind, tally: &Tally) {
    let Tally { trials, acknowledged, lost, silent, unopenable, panics, seconds, .. } = tally;
    say!(
        "{}: {trials} trials, {acknowledged} acknowledged, {lost} lost, {silent} silent, {unopenable} unopenable, \
         {panics} panics, {seconds:.1} s",
        kind.name()
    );
}

#[test]
fn whatever_happens_to_the_disk_the_store_loses_nothing_silently() {
    let mut missed = Vec::new();
    for (kind, trials) in TRIALS {
        let mut options = Options::new(binary::testnet(), SEED, trials);
        options.every_call = trials == EVERY_CALL;
        let tally = run(kind, &options).unwrap();
        tell(kind, &tally);
        assert!(tally.trials > 0 && tally.acknowledged > 0, "{} was tried", kind.name());
        let failed = tally.missed(kind);
        if !failed.is_empty() {
            missed.extend(tally.failures.values().flatten().cloned());
        }
        missed.extend(failed);
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// A harness that never sees a loss proves nothing: here the journal is never synced, and it must.
#[test]
fn a_journal_that_is_never_synced_is_seen_to_lose() {
    let mut options = Options::new(binary::testnet(), SEED, 50);
    options.without_sync = true;
    let tally = run(Kind::Power, &options).unwrap();
    tell(Kind::Power, &tally);
    assert!(tally.lost > 0, "power cuts take what was not synced");
}
