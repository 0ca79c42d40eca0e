//! Compose: what a person or a centre writes down, as FHIR.
//!
//! For: one line typed by hand, and a dialysis session from a sheet, as FHIR R4 JSON that any reader knows. Not for:
//! storing, sealing and knowing whose record it is.

pub mod dialysis;
mod dialysis_fhir;
mod dialysis_row;
pub mod entry;
mod fhir;
mod moment;
mod quantity;
#[cfg(test)]
mod tests;

pub use fhir::Exact;
pub use moment::Moment;

/// Something unlikely that was kept as it was said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Warning {
    /// `weight`, `uf_volume`.
    pub what: String,
    pub why: String,
}

impl Warning {
    fn new(what: &str, why: String) -> Self {
        Self { what: what.to_owned(), why }
    }
}
