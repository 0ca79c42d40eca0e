//! Observe: what the records say, as one list of observations whatever format they came in.
//!
//! For: values with code, unit, time and source, to be listed, compared and drawn. Not for: truth; that stays in
//! the original bytes, and whatever is not understood for certain is left out rather than guessed.

mod observation;

pub use observation::{LOINC, Observation, Source, Value};
