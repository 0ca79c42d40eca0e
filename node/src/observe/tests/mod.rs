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

/// A file of the shared test data, which is not part of the repository.
fn shared(path: &str) -> Option<String> {
    let root = std::env::var_os("KARTE_DATA")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let text = std::fs::read_to_string(root.join(path)).ok();
    if text.is_none() {
        println!("skipped 1: {path} is not there");
    }
    text
}
