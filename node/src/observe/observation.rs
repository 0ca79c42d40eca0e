//! One observation, the same for every format.

use crate::import::{Code, Effective};
use rust_decimal::Decimal;

/// LOINC, the system of most codes here.
pub const LOINC: &str = "http://loinc.org";

/// One thing that was measured, counted or said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// What was observed; LOINC where it has a code.
    pub code: Code,
    /// What a person calls it.
    pub display: String,
    pub value: Value,
    /// When, with the offset of the clock it was written by. A day's total covers that day.
    pub effective: Effective,
    /// Who or what measured it.
    pub source: Source,
    /// The code of the whole this is a part of: 85354-9 for the systolic value of a blood pressure.
    pub part_of: Option<Code>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An exact decimal, and its unit in UCUM (`1` for a count, `{steps}` where the source counts steps).
    Quantity { value: Decimal, unit: String },
    /// What cannot be counted: a meal, a stage of sleep.
    Text(String),
}

/// Who or what measured: one that counts the same steps as another is another source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Source {
    /// `Apple Watch`, `fitbit`, `manual`; never empty.
    pub name: String,
    /// Model or device id, where it is stated.
    pub device: Option<String>,
    /// How: `automatic`, `manual`, a method as it was written.
    pub method: Option<String>,
}
