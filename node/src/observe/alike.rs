//! Codes that tell the same thing in another way.
//!
//! For: one trend of the glucose that one country tells in mg/dL and another in mmol/L, and of steps that one device
//! tells by the minute and another by the day. Not for: other specimens (blood and plasma differ) and other methods.

use super::LOINC;
use crate::import::Code;

/// Whether values under `one` belong in a trend of `other`; each code is like itself.
pub fn alike(one: &Code, other: &Code) -> bool {
    let both_loinc = one.system == LOINC && other.system == LOINC;
    let together =
        |group: &&[&str]| group.contains(&one.code.as_str()) && group.contains(&other.code.as_str());
    one == other || (both_loinc && GROUPS.iter().any(together))
}

/// Codes: <https://loinc.org>.
#[rustfmt::skip] // a table reads by its lines
const GROUPS: &[&[&str]] = &[
    // In unspecified time, and in 24 hours.
    &["55423-8", "41950-7"], // steps
    &["55430-3", "41953-1"], // distance walked
    &["41981-2", "41979-6"], // energy burned
    // Of mass, and of amount.
    &["2345-7", "14749-6"], // glucose in serum or plasma
    &["2339-0", "15074-8"], // glucose in blood
    &["41653-7", "14743-9"], // glucose in capillary blood by glucometer
    &["1558-6", "14771-0"], // fasting glucose
    &["2160-0", "14682-9"], // creatinine in serum or plasma
    &["38483-4", "59826-8"], // creatinine in blood
    &["3091-6", "22664-7"], // urea
    &["3094-0", "22664-7"], // urea nitrogen, whose moles are urea's
    &["2093-3", "14647-2"], // cholesterol
    &["2085-9", "14646-4"], // HDL cholesterol
    &["13457-7", "39469-2"], // LDL cholesterol, calculated
    &["2089-1", "22748-8"], // LDL cholesterol
    &["2571-8", "14927-8"], // triglyceride
    &["2777-1", "14879-1"], // phosphate
    &["17861-6", "2000-8"], // calcium
    &["3084-1", "14933-6"], // urate
    &["2731-8", "14866-8"], // parathyrin, intact
    &["718-7", "59260-0"], // haemoglobin
    &["4548-4", "59261-8"], // HbA1c of NGSP and of IFCC
];
