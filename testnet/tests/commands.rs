//! The commands that reports and README name are there and explain themselves. That this file is here also makes cargo
//! build `testnet` together with all other tests, for the journeys that start it.

use std::process::Command;

#[test]
fn every_command_explains_itself() {
    let named = [
        "bench",
        "faults",
        "growth",
        "store-bench",
        "decide-bench",
        "denied-timing",
        "fuzz",
        "simulate",
        "run",
    ];
    for name in named {
        let told = Command::new(env!("CARGO_BIN_EXE_testnet")).args([name, "--help"]).output().unwrap();
        let text = String::from_utf8(told.stdout).unwrap();
        assert!(told.status.success(), "{name}: {}", String::from_utf8_lossy(&told.stderr));
        assert!(text.contains("Usage:") && text.contains("--json"), "{name} explains itself: {text}");
    }
    let unknown = Command::new(env!("CARGO_BIN_EXE_testnet")).arg("gossip").output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "what is not there is a usage error");
}
