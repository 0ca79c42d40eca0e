//! Invariants of architecture, asked of cargo: what the product is made of, and what it must never contain.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: clippy.toml lifts these in test functions alone"
)]

use karte_tests::binary::workspace;
use karte_tests::outside;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// `cargo tree` of a package, one line a dependency, without its development dependencies.
fn tree(package: &str, more: &[&str]) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["tree", "--offline", "--locked", "--prefix", "none", "-e", "normal,build", "-p", package])
        .args(more)
        .current_dir(workspace());
    let out = String::from_utf8(outside::runs(&mut command)).unwrap();
    out.lines().map(str::to_owned).collect()
}

fn packages(lines: &[String]) -> BTreeSet<&str> {
    lines.iter().filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn the_product_holds_nothing_of_the_tests() {
    let lines = tree("karte", &[]);
    let packages = packages(&lines);
    for needed in ["karte", "karte-node", "karte-protocol", "libp2p"] {
        assert!(packages.contains(needed), "{needed} is in the tree, so the tree is the right one");
    }
    for room in ["testnet", "karte-tests"] {
        assert!(!packages.contains(room), "{room} cannot reach the product");
    }
}

#[test]
fn the_protocol_knows_no_runtime_no_network_and_no_disk() {
    let lines = tree("karte-protocol", &[]);
    let packages = packages(&lines);
    assert!(packages.contains("coset"), "it is the protocol's tree");
    for name in packages {
        let foreign = name.starts_with("tokio")
            || name.starts_with("libp2p")
            || name.starts_with("quinn")
            || ["sled", "rustix", "mio", "socket2", "karte-node"].contains(&name);
        assert!(!foreign, "{name} has no place in the protocol");
    }
}

/// Clocks, faults and simulated worlds are constructor arguments; if one ever becomes a feature, it must be off.
#[test]
fn no_feature_for_tests_is_on_in_the_product() {
    let lines = tree("karte", &["-f", "{p} [{f}]"]);
    let ours: Vec<&String> = lines.iter().filter(|line| line.starts_with("karte")).collect();
    assert!(ours.len() >= 3, "cli, node and protocol are told: {ours:?}");
    for line in ours {
        let features =
            line.rsplit_once('[').map_or("", |(_, rest)| rest.trim_end_matches(['(', '*', ')', ']', ' ']));
        for feature in features.split(',') {
            for word in ["test", "fault", "sim", "mock", "fake", "variant"] {
                assert!(!feature.contains(word), "{feature} is off in {line}");
            }
        }
    }
}

/// Rules can be broken on purpose in what `testnet` is built from, and there alone. Cargo joins the features of all
/// packages of one build, so a build of the whole workspace gives them to every program in it: `karte --version` says
/// so then. What is shipped is built by itself (`default-members`).
#[test]
fn rules_can_be_broken_in_the_simulator_alone() {
    let featured = |package: &str| -> Vec<String> {
        let lines = tree(package, &["-f", "{p} [{f}]"]);
        lines.into_iter().filter(|line| line.starts_with("karte-") && line.contains("variants")).collect()
    };
    assert_eq!(featured("karte"), Vec::<String>::new());
    assert!(!featured("testnet").is_empty(), "the simulator has them, so this is the right question");
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    assert!(
        manifest.contains("default-members = [\"cli\"]"),
        "a bare `cargo build` builds the product alone"
    );
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("variants::choose"), "{} cannot break a rule", path.display());
    }
}

#[test]
fn every_room_obeys_the_one_lint_table() {
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"forbid\""));
    for room in ["protocol", "node", "cli", "tests", "testnet"] {
        let manifest = std::fs::read_to_string(workspace().join(room).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{room} takes its lints from the workspace");
    }
}

/// With expiring consent a clock that the environment sets is an attack. `KARTE_HOME` and `KARTE_LOG` are for people.
#[test]
fn the_product_takes_neither_clock_nor_fault_from_its_environment() {
    let allowed = ["KARTE_HOME", "KARTE_LOG"];
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (at, _) in text.match_indices("KARTE_") {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(rest.len());
            assert!(
                allowed.contains(&&rest[..end]),
                "{} in {} is no name a product knows",
                &rest[..end],
                path.display()
            );
        }
    }
}

/// Only one place asks the system for the time; everything else is told.
#[test]
fn only_the_clock_asks_for_the_time_of_day() {
    let asking: BTreeSet<String> = sources()
        .into_iter()
        .filter(|path| {
            let text = std::fs::read_to_string(path).unwrap();
            text.contains("SystemTime::now") || text.contains("Timestamp::now") || text.contains("Zoned::now")
        })
        .map(|path| path.strip_prefix(workspace()).unwrap().display().to_string())
        .collect();
    assert_eq!(asking, BTreeSet::from(["node/src/clock.rs".to_owned()]));
}

/// A daemon by another clock is for tests: the command has no path to it.
#[test]
fn karte_runs_by_the_machines_clock_alone() {
    let commands: Vec<PathBuf> =
        sources().into_iter().filter(|path| path.starts_with(workspace().join("cli"))).collect();
    assert!(commands.len() > 20, "the commands are where they are looked for");
    for path in commands {
        let text = std::fs::read_to_string(&path).unwrap();
        for word in ["serve_by", "clock::Clock", "clock_ahead", "clock-ahead"] {
            assert!(!text.contains(word), "{word} in {}", path.display());
        }
    }
}

/// Every source file of the product; files that are only tests of it are none.
fn sources() -> Vec<PathBuf> {
    let rooms = ["protocol/src", "node/src", "cli/src"];
    let found: Vec<PathBuf> = rooms
        .iter()
        .flat_map(|room| outside::files(&workspace().join(room)))
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .filter(|path| {
            let path = path.to_string_lossy();
            !path.ends_with("tests.rs") && !path.contains("/tests/") && !path.ends_with("/measures.rs")
        })
        .collect();
    assert!(found.len() > 50, "the sources are where they are looked for");
    found
}
