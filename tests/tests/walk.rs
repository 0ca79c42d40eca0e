//! The walk of the README, as it stands there: what it tells must work.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::{binary, say};
use std::process::{Command, Stdio};
use std::time::Instant;

const MARK: &str = "<!-- walk -->";

/// The ```` ```sh ```` blocks that follow a mark, in order, as one script.
fn walk_of(readme: &str) -> String {
    let parts = readme.split(MARK).skip(1);
    parts
        .map(|part| {
            let block = part.trim_start().strip_prefix("```sh\n");
            let block = block.and_then(|rest| rest.split_once("\n```"));
            let (script, _) = block.expect("a mark stands right before a block of sh");
            format!("{script}\n")
        })
        .collect()
}

#[test]
fn the_walk_in_the_readme_works() {
    let readme = std::fs::read_to_string(binary::workspace().join("README.md")).unwrap();
    let script = walk_of(&readme);
    assert!(script.contains("karte "), "there is a walk to take");
    assert!(script.contains("grep -q"), "the walk checks itself");

    let folder = tempfile::tempdir().unwrap();
    let karte = binary::karte();
    // The walk says `karte`, whatever the tested file is called.
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(karte, bin.join("karte")).unwrap();
    let here = folder.path().join("here");
    std::fs::create_dir(&here).unwrap();
    let path = std::env::var("PATH").unwrap();
    let begun = Instant::now();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(&here)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", &here)
        .env_remove("KARTE_HOME")
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the walk ends well: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    say!("the walk of the README took {:.1?}", begun.elapsed());
}

#[test]
fn a_walk_is_found_where_it_is_marked() {
    let readme =
        "a\n<!-- walk -->\n```sh\nkarte 1\n```\n```sh\nnot this\n```\n<!-- walk -->\n\n```sh\nkarte 2\n```\n";
    assert_eq!(walk_of(readme), "karte 1\nkarte 2\n");
}
