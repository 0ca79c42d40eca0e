//! Which `karte` is tested: the one that cargo built, of the profile of these tests, and never a stale one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The binary: `KARTE_BIN`, else `target/<profile>/karte`, which is built first if it is missing or older than what
/// it is made from.
pub fn karte() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(given) = std::env::var_os("KARTE_BIN") {
            return std::path::absolute(given).expect("KARTE_BIN is a path");
        }
        built("karte", &["protocol", "node", "cli"])
    })
}

/// `target/<profile>/testnet`, which is worker and judge of the faults; built like [`karte`].
pub fn testnet() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| built("testnet", &["protocol", "node", "testnet"]))
}

/// The binary of a package of the same name, built first if it is missing or older than the rooms it is made from.
fn built(package: &str, rooms: &[&str]) -> PathBuf {
    let folder = profile_folder();
    let binary = folder.join(package);
    if is_stale(&binary, rooms) {
        build(package, &folder);
    }
    assert!(binary.is_file(), "`cargo build` makes {}", binary.display());
    binary
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above this crate").to_owned()
}

/// `target/<profile>`: two above the running test, `target/<profile>/deps/<test>-<hash>`.
fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let folder = test.parent().and_then(Path::parent);
    folder.expect("tests run from target/<profile>/deps").to_owned()
}

fn build(package: &str, folder: &Path) {
    let is_release = folder.file_name().is_some_and(|name| name == "release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--locked", "--package", package]).current_dir(workspace());
    if is_release {
        command.arg("--release");
    }
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "{package} builds");
}

/// Missing, or older than its sources.
fn is_stale(binary: &Path, rooms: &[&str]) -> bool {
    let Some(built) = changed(binary) else { return true };
    rooms.iter().map(|room| newest(&workspace().join(room))).any(|newest| newest > Some(built))
}

fn changed(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|about| about.modified()).ok()
}

/// When the newest of a crate's manifest and sources was written.
fn newest(room: &Path) -> Option<SystemTime> {
    let mut newest = changed(&room.join("Cargo.toml"));
    let mut folders = vec![room.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => newest = newest.max(changed(&entry.path())),
            }
        }
    }
    newest
}
