//! What stands outside: the shared data, and other people's programs. A test without them says so and passes;
//! `KARTE_NO_SKIP=1` says that the programs must be there.

use crate::{binary, say};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A folder or file of the shared data: `KARTE_DATA`, else `../shared/data` beside the workspace. `None` is
/// a skip, and has been told.
pub fn shared_data(inside: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("KARTE_DATA")
        .map_or_else(|| binary::workspace().join("../shared/data"), PathBuf::from);
    let path = folder.join(inside);
    if path.exists() {
        return Some(path);
    }
    // Never a failure: the data lies beside some checkouts only, and nothing can install it.
    say!("skipped 1: ../shared/data is not there");
    None
}

/// Whether `program` runs; if not, tells how to install it.
pub fn has(program: &str, install: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        skipped(install);
    }
    found
}

/// The python of `KARTE_PYTHON`, else `python3`, if it has one of the two COSE libraries.
pub fn python_with_cose() -> Option<PathBuf> {
    let python = std::env::var_os("KARTE_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let has = |library: &str| {
        Command::new(&python)
            .args(["-c", &format!("import {library}")])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if has("cwt") || has("pycose") {
        return Some(python);
    }
    skipped("python3 -m venv VENV && VENV/bin/pip install cwt, then KARTE_PYTHON=VENV/bin/python");
    None
}

/// The python of `KARTE_PYTHON`, else `python3`, if it has all of `modules`.
pub fn python_with(modules: &[&str]) -> Option<PathBuf> {
    let python = std::env::var_os("KARTE_PYTHON").map_or_else(|| "python3".into(), PathBuf::from);
    let imports: String = modules.iter().map(|module| format!("import {module};")).collect();
    let has = Command::new(&python)
        .args(["-c", &imports])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has {
        return Some(python);
    }
    skipped(&format!(
        "python3 -m venv VENV && VENV/bin/pip install {}, then KARTE_PYTHON=VENV/bin/python",
        modules.join(" ")
    ));
    None
}

/// Tells that a test was not run, and what installs what it needs; a failure where skips are forbidden.
fn skipped(why: &str) {
    say!("skipped 1: {why}");
    assert!(
        std::env::var_os("KARTE_NO_SKIP").is_none_or(|value| value != "1"),
        "nothing may be skipped here: {why}"
    );
}

/// Runs an outside program that must succeed; what it wrote.
pub fn runs(command: &mut Command) -> Vec<u8> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("the program runs");
    assert!(
        status.success(),
        "{:?} succeeds: {status}, {}",
        command.get_program(),
        String::from_utf8_lossy(&stderr)
    );
    stdout
}

/// The files below a folder, sorted; sockets and links are none.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
