//! Builds the library that stands between a worker and its disk (`shim/shim.rs`), with the compiler that builds us.
//!
//! Not a crate of the workspace: it must be a loadable library in front of libc, and the harness carries it as bytes.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=shim/shim.rs");
    let var = |name: &str| std::env::var(name).expect("cargo sets it for every build script");
    let out = PathBuf::from(var("OUT_DIR")).join("shim.so");
    if var("CARGO_CFG_TARGET_OS") != "linux" {
        // Elsewhere there is nothing to stand in front of; the harness says so when it is started.
        std::fs::write(&out, []).expect("the build folder can be written");
        return;
    }
    let mut rustc = Command::new(var("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "shim", "--crate-type", "cdylib"]);
    rustc
        .args(["-C", "opt-level=2", "-C", "panic=abort", "-C", "strip=symbols", "shim/shim.rs", "-o"])
        .arg(&out);
    if var("TARGET") != var("HOST") {
        rustc.args(["--target", &var("TARGET")]);
        if let Ok(linker) = std::env::var("RUSTC_LINKER") {
            rustc.arg("-C").arg(format!("linker={linker}"));
        }
    }
    let status = rustc.status().expect("the compiler that builds this can be started");
    assert!(status.success(), "shim/shim.rs builds");
}
