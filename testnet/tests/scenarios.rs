//! Short scenarios, as CI runs them: `testnet run` in its own words, judged by what was counted and compared. Times are
//! told and are no failures here; the recorded runs judge them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

#[path = "../../tests/src/binary.rs"]
#[allow(dead_code, unreachable_pub, reason = "the journeys' own; not all of it is used here")]
mod binary;

use serde_json::Value;
use std::process::Command;

/// A slice of a payload, in bytes: what a disturbance may cost (SPEC section 10).
const SLICE: u64 = 1 << 20;

/// Plays a scenario; its numbers, or nothing if it cannot be played here, which is told.
fn play(words: &[&str]) -> Option<Value> {
    let told = Command::new(env!("CARGO_BIN_EXE_testnet"))
        .arg("run")
        .args(words)
        .args(["--json", "--karte"])
        .arg(binary::karte())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    let last: Value = serde_json::from_str(out.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{words:?} ends with an object: {out}{err}"));
    // Around the test's capture, so that numbers and skips show.
    use std::io::Write;
    let _ = std::io::stdout().write_all(format!("{last}\n").as_bytes());
    let numbers = &last["numbers"];
    assert!(numbers["error"].is_null(), "{words:?} comes to its end: {last}");
    numbers["skipped"].is_null().then(|| numbers.clone())
}

/// Every transfer came whole and was not sent again and again.
fn came_whole(numbers: &Value) {
    let trials = numbers["trials"].as_array().unwrap();
    assert!(!trials.is_empty());
    for trial in trials {
        assert_eq!(trial["equal"], true, "{trial}");
        assert!(trial["times"].as_u64() > Some(0), "it was disturbed: {trial}");
        assert!(trial["again_bytes_each"].as_u64() <= Some(SLICE), "{trial}");
    }
}

#[test]
fn what_is_cut_comes_whole_and_little_is_sent_again() {
    came_whole(&play(&["cuts", "--brief", "--size", "8"]).unwrap());
}

#[test]
fn a_changed_bit_ends_the_connection_and_nothing_wrong_is_kept() {
    let numbers = play(&["flips", "--brief", "--size", "16"]).unwrap();
    came_whole(&numbers);
    assert_eq!(numbers["each_flip_ended_its_connection"], true, "{numbers}");
}

#[test]
fn a_transfer_survives_the_kills_of_both_ends() {
    came_whole(&play(&["kills", "--brief", "--size", "32"]).unwrap());
}

#[test]
fn a_holder_and_its_steward_share_the_work_and_a_bad_steward_does_no_harm() {
    let numbers = play(&["sources"]).unwrap();
    assert_eq!(numbers["equal"], true, "{numbers}");
    assert!(numbers["from_steward"].as_u64() > Some(1 << 20), "it helped: {numbers}");
    let numbers = play(&["bad-source"]).unwrap();
    assert_eq!(numbers["equal"], true, "{numbers}");
    assert!(numbers["named"].as_u64() > Some(0), "{numbers}");
}

#[test]
fn a_crowd_of_hostile_peers_costs_bounded_memory() {
    let numbers = play(&["hostile", "--brief", "--connections", "300"]).unwrap();
    assert!(numbers["strangers"].as_u64() > Some(0), "some came in: {numbers}");
    assert!(numbers["peak_bytes"].as_u64() < Some(512 << 20), "{numbers}");
    assert!(numbers["p99_s"].is_number(), "every record came: {numbers}");
    assert!(numbers["newcomer_s"].is_number(), "and a contact gets in: {numbers}");
}

#[test]
fn urgent_records_overtake_a_file_that_is_on_its_way() {
    let numbers = play(&["urgent", "--brief", "--size", "16"]).unwrap();
    for lane in ["loopback", "16 MiB/s"] {
        // Only those count that came before the file was whole.
        assert!(numbers[lane]["records"].as_u64() > Some(0), "{lane}: {numbers}");
    }
}

#[test]
fn import_sync_and_rotation_go_on() {
    let numbers = play(&["endurance", "--minutes", "0.4"]).unwrap();
    assert!(numbers["rounds"].as_u64() > Some(3), "{numbers}");
    for who in ["holder", "reader"] {
        assert!(numbers[who]["descriptors"].as_u64() < Some(64), "{numbers}");
    }
}

#[test]
fn a_series_comes_whole_over_a_slow_link() {
    let Some(numbers) = play(&["slow-link"]) else { return };
    assert_eq!(numbers["equal"], true, "{numbers}");
}

#[test]
fn a_ct_comes_whole_though_nobody_can_be_called() {
    for scenario in ["nat", "port-443"] {
        let Some(numbers) = play(&[scenario]) else { return };
        assert_eq!(numbers["equal"], true, "{numbers}");
    }
}

#[test]
fn nodes_stop_at_a_revocation_while_others_come_and_go() {
    let numbers = play(&["churn", "--nodes", "10"]).unwrap();
    assert_eq!(numbers["rounds"], 3, "{numbers}");
}

#[test]
fn an_unknown_scenario_is_a_usage_error_that_names_all() {
    let told = Command::new(env!("CARGO_BIN_EXE_testnet")).args(["run", "earthquake"]).output().unwrap();
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert_eq!(told.status.code(), Some(2), "{said}");
    assert!(said.contains("endurance") && said.contains("slow-link"), "{said}");
}
