//! Laws and stories of what is observed.

mod analytes;
mod daily;
mod fhir;
mod plot;
mod trend;
mod units;

use std::path::PathBuf;
use std::str::FromStr;

use rust_decimal::Decimal;

/// An exact decimal.
fn d(text: &str) -> Decimal {
    Decimal::from_str(text).unwrap()
}

/// A file or folder of the shared test data, which is not part of the repository.
fn shared_folder(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("KARTE_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let there = Some(root.join(path)).filter(|path| path.exists());
    if there.is_none() {
        println!("skipped 1: {path} is not there");
    }
    there
}

fn shared(path: &str) -> Option<String> {
    std::fs::read_to_string(shared_folder(path)?).ok()
}
