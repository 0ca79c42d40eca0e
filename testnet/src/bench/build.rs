//! Which `karte` is measured: the product as it is shipped, from these sources.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The one that was named; else the one beside this program. Run by cargo, that one is built first: cargo knows
/// whether it is what the sources say, and builds it by itself, without the features of the simulator.
pub(super) fn karte(named: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(named) = named {
        return there(std::path::absolute(named)?, "Name the program with --karte.");
    }
    let testnet = std::env::current_exe()?;
    // Unit and integration tests run one folder deeper.
    let folder = testnet.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let folder = folder.unwrap_or(Path::new("."));
    if let Some(cargo) = std::env::var_os("CARGO") {
        build(Command::new(cargo), folder)?;
    }
    there(folder.join("karte"), "`cargo build --release -p karte` makes it.")
}

fn build(mut cargo: Command, folder: &Path) -> io::Result<()> {
    cargo.args(["build", "--quiet", "--locked", "--package", "karte"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    if let Some(target) = folder.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    match cargo.status()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("karte does not build")),
    }
}

fn there(path: PathBuf, next: &str) -> io::Result<PathBuf> {
    match path.is_file() {
        true => Ok(path),
        false => {
            Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {}. {next}", path.display())))
        }
    }
}
