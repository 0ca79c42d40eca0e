//! Observe: what the records say, as one list of observations whatever format they came in.
//!
//! For: values with code, unit, time and source, to be listed, compared and drawn. Not for: truth; that stays in
//! the original bytes, and whatever is not understood for certain is left out rather than guessed.

pub mod alike;
pub mod analytes;
pub mod daily;
mod fhir;
pub mod names;
mod observation;
pub mod plot;
#[cfg(test)]
mod tests;
pub mod trend;
pub mod units;

use crate::import::{self, ImportError, wearable};
pub use observation::{LOINC, Observation, Source, Value};

/// Why a record's observations cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("expected a record in a format that holds observations, got {got}")]
    MediaType { got: String },
    #[error("expected FHIR R4 JSON, got a fault at line {line} column {column}")]
    Json { line: usize, column: usize },
    #[error("expected a record as it was imported, got: {fault}")]
    Format { fault: String },
}

fn imported(read: Result<Vec<Observation>, ImportError>) -> Result<Vec<Observation>, ReadError> {
    read.map_err(|error| ReadError::Format { fault: error.to_string() })
}

/// What the bytes of a record say, told by its label's kind, media type and profiles. A record of a readable format
/// that holds no observation gives none.
pub fn observations(
    _kind: &str,
    media_type: &str,
    profiles: &[String],
    bytes: &[u8],
) -> Result<Vec<Observation>, ReadError> {
    let mut parts = media_type.split(';').map(str::trim);
    let (essence, format) = (parts.next().unwrap_or_default(), parts.find_map(|p| p.strip_prefix("format=")));
    match (essence, format) {
        ("application/fhir+json", _) => fhir::read(bytes),
        ("application/xml", Some("apple-health")) => imported(import::apple_health_observations(bytes)),
        ("text/csv" | "application/json" | "application/vnd.ant.fit", Some(_)) => {
            imported(wearable::observations(media_type, profiles, bytes))
        }
        _ => Err(ReadError::MediaType {
            got: media_type.chars().filter(|c| !c.is_control()).take(80).collect(),
        }),
    }
}
