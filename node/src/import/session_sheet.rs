//! A centre's sheet of dialysis sessions: each row becomes the FHIR Bundle that the form makes.
//!
//! For: the names and units of the sheet's columns as the form has them. Not for: reading CSV (`wearable`), or codes
//! (`compose`). What a row says beyond the form stays in its notes.

use std::collections::BTreeMap;

use super::error::ImportError;
use super::facts::{Body, Effective, Finding};
use super::wearable;
use crate::compose::dialysis::{self, DialysisError};

/// The kind of what the sheet's mapping finds.
const KIND: &str = "dialysis/session";

/// Columns that state their unit in the heading: name of the mapping, name of the form, unit.
const WITH_UNIT: [(&str, &str, &str); 3] = [
    ("uf_volume_l", "uf_volume", "L"),
    ("dialysate_k_meq", "dialysate_k", "meq/L"),
    ("dialysate_ca_meq", "dialysate_ca", "meq/L"),
];

/// The same finding, or, of a row of such a sheet, its session as FHIR.
pub(super) fn composed(finding: Finding) -> Result<Finding, ImportError> {
    let is_row = finding.facts.kind == KIND && finding.facts.media_type.starts_with("text/csv");
    let Body::Memory(bytes) = &finding.bytes else { return Ok(finding) };
    if !is_row {
        return Ok(finding);
    }
    let mut rows = wearable::named_rows(&finding.facts.profiles, bytes)?;
    let (Some(row), Some(effective)) = (rows.pop().filter(|_| rows.is_empty()), finding.facts.effective)
    else {
        return Ok(finding);
    };
    let (fields, notes) = fields_of(row, effective);
    let wrong = |error: DialysisError| ImportError::Session { fault: error.to_string() };
    let (mut session, _) = dialysis::from_row(&fields).map_err(wrong)?;
    session.notes.extend(notes);
    let composed = dialysis::to_fhir(&session).map_err(wrong)?;
    Ok(Finding {
        bytes: Body::Memory(composed.json.into_bytes()),
        facts: composed.facts,
        origin: finding.origin,
    })
}

/// The form's fields, and what it has no field for.
fn fields_of(row: BTreeMap<String, String>, effective: Effective) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut fields, mut notes) = (BTreeMap::new(), Vec::new());
    for (name, value) in row.into_iter().filter(|(_, value)| !value.trim().is_empty()) {
        if let Some((_, field, unit)) = WITH_UNIT.iter().find(|(named, ..)| *named == name) {
            fields.insert((*field).to_owned(), format!("{value} {unit}"));
        } else if name == "start" || name == "date" {
            // Both stand in the effective time.
        } else if name == "end" {
            match clock_after(effective, &value) {
                Some(end) => drop(fields.insert(name, end)),
                None => notes.push(format!("End: {value}")),
            }
        } else if dialysis::COLUMNS.contains(&name.as_str()) {
            fields.insert(name, value);
        } else if name == "note" {
            notes.push(value);
        } else {
            notes.push(format!("{name}: {value}"));
        }
    }
    fields.insert("start".to_owned(), instant(effective.start_ms, effective.offset_min));
    (fields, notes)
}

/// The first time after the start at which a clock beside it showed `clock`.
fn clock_after(effective: Effective, clock: &str) -> Option<String> {
    const DAY_MS: i64 = 86_400_000;
    let time: jiff::civil::Time = clock.trim().parse().ok()?;
    let offset_ms = i64::from(effective.offset_min) * 60_000;
    let local_ms = effective.start_ms.checked_add(offset_ms)?;
    let midnight_ms = local_ms.checked_sub(local_ms.rem_euclid(DAY_MS))?;
    let since_ms = i64::from(time.hour()) * 3_600_000
        + i64::from(time.minute()) * 60_000
        + i64::from(time.second()) * 1_000;
    let mut end_ms = midnight_ms.checked_add(since_ms)?;
    if end_ms <= local_ms {
        end_ms = end_ms.checked_add(DAY_MS)?;
    }
    Some(instant(end_ms.checked_sub(offset_ms)?, effective.offset_min))
}

fn instant(ms: i64, offset_min: i16) -> String {
    let offset = jiff::tz::Offset::from_seconds(i32::from(offset_min) * 60).unwrap_or(jiff::tz::Offset::UTC);
    jiff::Timestamp::from_millisecond(ms)
        .map(|at| at.to_zoned(offset.to_time_zone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_ends_after_midnight_ends_on_the_next_day() {
        let start = Effective { start_ms: 1_772_391_600_000, end_ms: 1_772_391_600_000, offset_min: 540 };
        assert_eq!(instant(start.start_ms, 540), "2026-03-02T04:00:00+09:00");
        assert_eq!(clock_after(start, "08:05").as_deref(), Some("2026-03-02T08:05:00+09:00"));
        assert_eq!(clock_after(start, "03:00").as_deref(), Some("2026-03-03T03:00:00+09:00"));
        assert_eq!(clock_after(start, "late"), None);
    }
}
