//! The bench from end to end, small and alone: two daemons, raw libp2p, every work but the one that needs gigabytes.
//! What it measures is a report's; here it is that it measures, ends what it started, and says so in one object.

#![allow(clippy::unwrap_used, reason = "a test fails where it is surprised")]

use serde_json::Value;
use std::process::Command;

#[test]
fn a_small_bench_ends_with_one_object_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let told = Command::new(env!("CARGO_BIN_EXE_testnet"))
        .args([
            "bench", "--self", "--work", "w1,w2,w4", "--scale", "0.01", "--rounds", "1", "--json", "--dir",
        ])
        .arg(folder.path())
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8(told.stdout).unwrap(), String::from_utf8_lossy(&told.stderr).into_owned());
    assert!(told.status.success(), "it runs, whatever the bars say: {err}");
    let object: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let works: Vec<&str> =
        object["works"].as_array().unwrap().iter().map(|work| work["work"].as_str().unwrap()).collect();
    assert_eq!(works, ["w1", "w1 plain", "w2", "w4 warm", "w4 cold"]);
    let bars: Vec<&Value> = object["works"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|work| work["bars"].as_array().unwrap())
        .collect();
    assert_eq!(bars.len(), 2, "without peers, raw libp2p and the warm record are judged: {bars:?}");
    let all = bars.iter().all(|bar| bar["held"] == true);
    assert_eq!(object["all_bars_held"], all, "the sum is that of the bars");
    let (w1, warm) = (&object["works"][0], &object["works"][3]);
    let karte = &w1["sides"][0];
    assert_eq!(karte["name"], "karte");
    assert!(karte["wall_s"].as_f64().unwrap() > 0.0);
    for side in ["holder", "reader"] {
        assert!(karte["parts"][side]["peak_bytes"].as_u64().unwrap() > 1 << 20, "{side} held something");
    }
    assert!(w1["ratios"]["raw libp2p"].as_f64().unwrap() > 0.0);
    assert!(warm["numbers"]["p50_after_asked_ms"].as_f64().unwrap() > 0.0);
    assert!(w1["not_run"].as_array().unwrap().iter().any(|why| why.as_str().unwrap().starts_with("sendme")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "its folders are gone");
}
