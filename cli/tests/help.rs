//! The built program answers. (That this file exists also makes `cargo test` build the program, which the journeys
//! in `tests/` command.)

use std::process::Command;

fn karte(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_karte")).args(arguments).output().expect("karte starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it writes text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_teaches_every_command() {
    let (code, out, _) = karte(&["--help"]);
    assert_eq!(code, Some(0));
    for command in ["init", "card", "contact", "run", "import", "record", "grant", "sync", "audit", "demo"] {
        assert!(out.contains(&format!("\n  {command}")), "{command} is in the help:\n{out}");
    }
}

#[test]
fn misuse_and_an_absent_node_end_with_the_next_step() {
    let (code, _, _) = karte(&["grant", "frobnicate"]);
    assert_eq!(code, Some(2));
    let (code, out, error) = karte(&["--home", "/nonexistent/karte", "status"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("karte init"), "{error}");
}
