//! A haemodialysis session as a centre writes it down.
//!
//! For: the values of a session sheet with their units, and the sums that must agree. Not for: prescribing; nothing
//! is corrected, what does not agree is told.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Exact, Warning};
use crate::import::{Effective, Facts, time};

pub use super::dialysis_fhir::{from_fhir, to_fhir};
pub use super::dialysis_row::{COLUMNS, from_row};

/// Largest JSON of a session, in bytes. 1 MiB: a pressure each minute for four hours is 30 KB.
pub const SESSION_BYTES_MAX: usize = 1024 * 1024;

/// Most items of a list: 1,000, above one pressure a minute for a long night.
pub const ITEMS_MAX: usize = 1_000;

/// What ultrafiltration and weight may differ by, in kilograms: drinks, infusions and clothes of four hours.
const UF_TOLERANCE_KG: Decimal = Decimal::from_parts(5, 0, 0, false, 1);

/// What a stated and a computed URR may differ by, in percentage points: rounding.
const URR_TOLERANCE: Decimal = Decimal::ONE;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialysisError {
    #[error("expected a session of at most {SESSION_BYTES_MAX} bytes, got {got}")]
    TooLong { got: usize },
    #[error("expected a session as JSON, got a fault at line {line} column {column}: {fault}")]
    Json { line: usize, column: usize, fault: String },
    #[error("expected {field} as a time with its offset, such as 2026-03-01T08:30:00+09:00, got \"{got}\"")]
    Time { field: &'static str, got: String },
    #[error("expected the end after the start, got {end} after {start}")]
    EndsBefore { start: String, end: String },
    #[error("expected a column \"{0}\", got none")]
    Missing(&'static str),
    #[error("expected known columns, got \"{got}\"")]
    Column { got: String },
    #[error("expected at most {ITEMS_MAX} items in {field}, got {got}")]
    TooMany { field: &'static str, got: usize },
    #[error("expected {field} as a unit of {like}, got \"{got}\"")]
    Unit { field: &'static str, like: &'static str, got: String },
    #[error("expected a Bundle with a haemodialysis Procedure, got {got}")]
    NotASession { got: String },
}

/// One session. In JSON, times are FHIR dateTimes with an offset and numbers keep their digits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DialysisSession {
    /// `2026-03-01T08:30:00+09:00`
    pub start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Kilograms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_weight_kg: Option<Exact>,
    /// Dry weight that is aimed at, kilograms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_weight_kg: Option<Exact>,
    /// Kilograms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_weight_kg: Option<Exact>,
    /// Millilitres taken from the patient.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uf_volume_ml: Option<Exact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bp_pre: Option<Pressure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bp_post: Option<Pressure>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bp_during: Vec<TimedPressure>,
    /// Beats a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse_pre: Option<Exact>,
    /// Beats a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pulse_post: Option<Exact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anticoagulation: Option<Anticoagulation>,
    #[serde(default, skip_serializing_if = "Dialysate::is_empty")]
    pub dialysate: Dialysate,
    /// Millilitres a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blood_flow_ml_min: Option<Exact>,
    /// Model as it is written on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialyzer: Option<String>,
    /// Single-pool Kt/V, without a unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ktv: Option<Exact>,
    /// Urea reduction ratio, per cent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urr_percent: Option<Exact>,
    /// Urea nitrogen before, mg/dL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bun_pre_mg_dl: Option<Exact>,
    /// Urea nitrogen after, mg/dL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bun_post_mg_dl: Option<Exact>,
    /// `hypotension`, `cramps`, or in other words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub complications: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Millimetres of mercury.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pressure {
    pub systolic: Exact,
    pub diastolic: Exact,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimedPressure {
    /// A FHIR dateTime with an offset.
    pub time: String,
    /// Millimetres of mercury.
    pub systolic: Exact,
    /// Millimetres of mercury.
    pub diastolic: Exact,
}

/// Where the blood is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    AvFistula,
    AvGraft,
    Catheter,
}

/// What keeps the blood from clotting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anticoagulation {
    pub agent: Anticoagulant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dose: Option<Amount>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anticoagulant {
    Heparin,
    LowMolecularWeightHeparin,
    Nafamostat,
    None,
}

/// A value with its UCUM unit, where more than one unit is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Amount {
    pub value: Exact,
    pub unit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialysate {
    /// mmol/L, which for one charge is mEq/L.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub potassium_mmol_l: Option<Exact>,
    /// `mmol/L` or `meq/L`: twice as many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calcium: Option<Amount>,
    /// mmol/L.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sodium_mmol_l: Option<Exact>,
    /// mmol/L.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bicarbonate_mmol_l: Option<Exact>,
    /// mL/min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_ml_min: Option<Exact>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_cel: Option<Exact>,
}

impl Dialysate {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A session as a record-to-be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Composed {
    /// A FHIR R4 Bundle.
    pub json: String,
    /// For the label.
    pub facts: Facts,
    pub warnings: Vec<Warning>,
}

/// A session from the JSON form of [`DialysisSession`].
pub fn from_json(bytes: &[u8]) -> Result<DialysisSession, DialysisError> {
    if bytes.len() > SESSION_BYTES_MAX {
        return Err(DialysisError::TooLong { got: bytes.len() });
    }
    let session: DialysisSession = serde_json::from_slice(bytes).map_err(|fault| json_fault(&fault))?;
    session.checked()
}

pub(super) fn json_fault(fault: &serde_json::Error) -> DialysisError {
    // The sentence of serde names the field; its own line and column are cut off, ours say them.
    let text = fault.to_string();
    let text =
        text.split(" at line ").next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200);
    DialysisError::Json { line: fault.line(), column: fault.column(), fault: text.collect() }
}

impl DialysisSession {
    /// The session, if its times are times and its lists have their bounds.
    pub(super) fn checked(self) -> Result<Self, DialysisError> {
        let start = exact_time("start", &self.start)?;
        if let Some(text) = &self.end {
            let end = exact_time("end", text)?;
            if end.start_ms < start.start_ms {
                return Err(DialysisError::EndsBefore { start: self.start, end: text.clone() });
            }
        }
        for pressure in &self.bp_during {
            exact_time("bp_during.time", &pressure.time)?;
        }
        let lists = [
            ("bp_during", self.bp_during.len()),
            ("complications", self.complications.len()),
            ("notes", self.notes.len()),
        ];
        if let Some((field, got)) = lists.into_iter().find(|(_, got)| *got > ITEMS_MAX) {
            return Err(DialysisError::TooMany { field, got });
        }
        let amounts = [
            ("dialysate.calcium", "mmol/L or meq/L", self.dialysate.calcium.as_ref()),
            (
                "anticoagulation.dose",
                "[iU] or mg",
                self.anticoagulation.as_ref().and_then(|a| a.dose.as_ref()),
            ),
        ];
        for (field, like, amount) in amounts {
            let got = amount
                .map(|amount| amount.unit.clone())
                .filter(|unit| !crate::observe::units::is_valid(unit));
            if let Some(got) = got {
                return Err(DialysisError::Unit { field, like, got });
            }
        }
        Ok(self)
    }

    /// From the start to the end; without an end, the start.
    pub(super) fn effective(&self) -> Option<Effective> {
        time::period(Some(&self.start), self.end.as_deref())
    }

    /// What does not agree with itself.
    pub fn warnings(&self) -> Vec<Warning> {
        [self.weight_warning(), self.uf_warning(), self.urr_warning()].into_iter().flatten().collect()
    }

    fn weight_warning(&self) -> Option<Warning> {
        let (pre, post) = (self.pre_weight_kg?.0, self.post_weight_kg?.0);
        (post > pre)
            .then(|| Warning::new("post_weight", format!("{post} kg after is more than {pre} kg before")))
    }

    fn uf_warning(&self) -> Option<Warning> {
        let lost = self.pre_weight_kg?.0.checked_sub(self.post_weight_kg?.0)?;
        let taken = self.uf_volume_ml?.0.checked_div(Decimal::ONE_THOUSAND)?;
        (taken.checked_sub(lost)?.abs() > UF_TOLERANCE_KG).then(|| {
            let why = format!("{} L were taken, but the weight fell by {lost} kg", taken.normalize());
            Warning::new("uf_volume", why)
        })
    }

    fn urr_warning(&self) -> Option<Warning> {
        let (stated, computed) = (self.urr_percent?.0, self.urr_computed()?);
        (stated.checked_sub(computed)?.abs() > URR_TOLERANCE).then(|| {
            let why = format!("{stated} % is stated, but the urea nitrogen gives {computed} %");
            Warning::new("urr", why)
        })
    }

    /// Urea reduction ratio from the urea nitrogen before and after, in per cent to one place.
    pub fn urr_computed(&self) -> Option<Decimal> {
        let (pre, post) = (self.bun_pre_mg_dl?.0, self.bun_post_mg_dl?.0);
        let ratio = pre.checked_sub(post)?.checked_div(pre)?;
        Some(ratio.checked_mul(Decimal::ONE_HUNDRED)?.round_dp(1))
    }

    /// `Haemodialysis 2026-03-01, 68.2 → 65.9 kg`
    pub(super) fn title(&self) -> String {
        let day = self.start.split('T').next().unwrap_or_default();
        match (self.pre_weight_kg, self.post_weight_kg) {
            (Some(pre), Some(post)) => format!("Haemodialysis {day}, {} → {} kg", pre.0, post.0),
            _ => format!("Haemodialysis {day}"),
        }
    }
}

/// A dateTime with a clock and an offset: without them a session has no order in its day.
pub(super) fn exact_time(field: &'static str, text: &str) -> Result<Effective, DialysisError> {
    let clock = text.split_once('T').map(|(_, clock)| clock).unwrap_or_default();
    let with_offset = clock.ends_with('Z') || clock.contains(['+', '-']);
    let wrong =
        || DialysisError::Time { field, got: text.chars().filter(|c| !c.is_control()).take(40).collect() };
    time::point(text).filter(|_| with_offset).ok_or_else(wrong)
}
