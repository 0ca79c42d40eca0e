//! Stories of what is written down.

mod dialysis;
mod entry;

use std::str::FromStr;

use rust_decimal::Decimal;

use super::Moment;

/// An exact decimal.
fn d(text: &str) -> Decimal {
    Decimal::from_str(text).unwrap()
}

/// 1 March 2026, ten past seven in the morning in Tokyo.
const MORNING: Moment = Moment { ms: 1_772_316_600_000, offset_min: 540 };

/// For an outside judge: `KARTE_COMPOSED=folder` keeps what is composed.
fn keep(json: &str) {
    if let Some(folder) = std::env::var_os("KARTE_COMPOSED") {
        let name = format!("{}.json", blake3::hash(json.as_bytes()).to_hex());
        std::fs::write(std::path::Path::new(&folder).join(name), json).unwrap();
    }
}
