//! The bodies of Open mHealth, IEEE 1752.1 and Granola: time frames and values with units.
//!
//! For: reading what is there into observations. Not for: judging it; that is the schemas' work.

use jiff::Timestamp;
use jiff::civil::Date;
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::day::{Clock, code, decimal, quantity};
use super::vendor::{Exact, Fields, fields, list, take};
use crate::import::error::ImportError;
use crate::import::facts::{Effective, clean};
use crate::observe::{Observation, Source, Value};

/// Deepest samples within samples. 4: HealthKit's correlations are one deep.
const DEEP_MAX: u32 = 4;

/// Fields with a code: the field, its code, its words.
const VALUES: &[(&str, &str, &str)] = &[
    ("step_count", "55423-8", "Steps"),
    ("base_movement_quantity", "urn:karte:omh|base_movement_quantity", "Movement"),
    ("distance", "41953-1", "Distance"),
    ("kcal_burned", "41981-2", "Energy burned"),
    ("calories_burned", "41981-2", "Energy burned"),
    ("heart_rate", "8867-4", "Heart rate"),
    ("body_weight", "29463-7", "Body weight"),
    ("body_height", "8302-2", "Body height"),
    ("body_mass_index", "39156-5", "Body mass index"),
    ("body_fat_percentage", "41982-0", "Body fat"),
    ("systolic_blood_pressure", "8480-6", "Systolic blood pressure"),
    ("diastolic_blood_pressure", "8462-4", "Diastolic blood pressure"),
    ("blood_glucose", "2339-0", "Blood glucose"),
    ("oxygen_saturation", "59408-5", "Oxygen saturation"),
    ("body_temperature", "8310-5", "Body temperature"),
    ("respiratory_rate", "9279-1", "Respiratory rate"),
    ("sleep_duration", "93832-4", "Sleep duration"),
    ("total_sleep_time", "93832-4", "Sleep duration"),
];

/// HealthKit's quantities with a code.
const HEALTHKIT: &[(&str, &str)] = &[
    ("StepCount", "55423-8"),
    ("DistanceWalkingRunning", "41953-1"),
    ("ActiveEnergyBurned", "41981-2"),
    ("HeartRate", "8867-4"),
    ("BodyMass", "29463-7"),
    ("Height", "8302-2"),
    ("BodyTemperature", "8310-5"),
    ("BloodPressureSystolic", "8480-6"),
    ("BloodPressureDiastolic", "8462-4"),
    ("RespiratoryRate", "9279-1"),
    ("DietaryEnergyConsumed", "9052-2"),
];

/// The same units in UCUM.
const UNITS: &[(&str, &str)] = &[
    ("beats/min", "/min"),
    ("breaths/min", "/min"),
    ("mmHg", "mm[Hg]"),
    ("F", "[degF]"),
    ("C", "Cel"),
    ("K", "K"),
    ("steps", "{steps}"),
    ("lb", "[lb_av]"),
    ("oz", "[oz_av]"),
    ("mi", "[mi_i]"),
    ("in", "[in_i]"),
    ("ft", "[ft_i]"),
    ("yd", "[yd_i]"),
    ("sec", "s"),
    ("kg/m^2", "kg/m2"),
    ("wk", "wk"),
    ("Mo", "mo"),
    ("yr", "a"),
    ("dB", "dB"),
];

pub(super) fn kind(schema: &str) -> &'static str {
    match schema {
        "step-count" => "daily/steps",
        "calories-burned" => "daily/energy",
        "heart-rate" => "daily/heart-rate",
        "body-weight" | "body-mass-index" => "daily/weight",
        "body-fat-percentage" => "daily/body-fat",
        "body-height" => "daily/height",
        "blood-pressure" | "systolic-blood-pressure" | "diastolic-blood-pressure" => "daily/blood-pressure",
        "blood-glucose" => "daily/glucose",
        "oxygen-saturation" => "daily/oxygen-saturation",
        "body-temperature" => "daily/temperature",
        "respiratory-rate" => "daily/respiratory-rate",
        "sleep-duration" | "sleep-episode" | "total-sleep-time" => "daily/sleep",
        "physical-activity" | "hk-workout" => "daily/workout",
        "minutes-moderate-activity" => "daily/activity",
        _ => "daily/other",
    }
}

/// The time of a body, as far as it is stated.
pub(super) fn time_frame(body: &Json) -> Option<Effective> {
    let frame = body.get("effective_time_frame").unwrap_or(body);
    if let Some(at) = frame.get("date_time").and_then(Json::as_str) {
        return instant(at);
    }
    interval(frame.get("time_interval")?)
}

fn interval(interval: &Json) -> Option<Effective> {
    let at = |field: &str| interval.get(field).and_then(Json::as_str).and_then(instant);
    let lasts = interval.get("duration").and_then(duration_ms);
    if let Some(day) = interval.get("date").and_then(Json::as_str) {
        // A part of a day has no agreed hours: the day is what is certain.
        return Clock::Unstated.day(day.parse::<Date>().ok()?);
    }
    match (at("start_date_time"), at("end_date_time"), lasts) {
        (Some(start), Some(end), _) => {
            (start.start_ms <= end.start_ms).then_some(Effective { end_ms: end.start_ms, ..start })
        }
        (Some(start), None, Some(ms)) => Some(Effective { end_ms: start.start_ms.checked_add(ms)?, ..start }),
        (None, Some(end), Some(ms)) => {
            Some(Effective { start_ms: end.start_ms.checked_sub(ms)?, end_ms: end.start_ms, ..end })
        }
        _ => None,
    }
}

/// RFC 3339, with its offset.
fn instant(text: &str) -> Option<Effective> {
    let at: Timestamp = text.parse().ok()?;
    let offset = text.get(text.len().checked_sub(6)?..).and_then(super::day::offset_min).unwrap_or(0);
    let start_ms = at.as_millisecond();
    Some(Effective { start_ms, end_ms: start_ms, offset_min: i16::try_from(offset).ok()? })
}

/// A duration of fixed length; months and years have none.
fn duration_ms(duration: &Json) -> Option<i64> {
    let unit_ms = match duration.get("unit")?.as_str()? {
        "ms" => 1,
        "sec" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "wk" => 604_800_000,
        _ => return None,
    };
    let value = decimal(&duration.get("value")?.to_string())?;
    value.checked_mul(Decimal::from(unit_ms))?.round().to_i64().filter(|ms| *ms >= 0)
}

#[derive(Deserialize)]
struct UnitValue {
    value: Exact,
    unit: String,
}

/// Every value of a body that has a time.
pub(super) fn observe(
    body: &Fields<'_>,
    source: &Source,
    out: &mut Vec<Observation>,
) -> Result<(), ImportError> {
    observe_at(body, source, 0, out)
}

fn observe_at(
    body: &Fields<'_>,
    source: &Source,
    deep: u32,
    out: &mut Vec<Observation>,
) -> Result<(), ImportError> {
    let frame: Option<Json> = take(body, "effective_time_frame")?;
    if let Some(when) = frame.as_ref().and_then(time_frame) {
        body.iter().for_each(|(name, raw)| out.extend(field(body, name, raw, when, source)));
    }
    for samples in ["quantity_samples", "category_samples"] {
        for raw in list(body, samples).unwrap_or_default().iter().filter(|_| deep < DEEP_MAX) {
            observe_at(&fields(raw.get())?, source, deep + 1, out)?;
        }
    }
    Ok(())
}

/// One field of a body, if it is a value.
fn field(
    body: &Fields<'_>,
    name: &str,
    raw: &RawValue,
    when: Effective,
    source: &Source,
) -> Option<Observation> {
    if matches!(name, "activity_name" | "category_value") {
        return Some(text(body, name, raw, when, source));
    }
    let known = VALUES.iter().find(|known| known.0 == name);
    let statistic: Option<String> = take(body, "descriptive_statistic").ok().flatten();
    let suffix = statistic.map(|kind| format!(" ({})", clean(&kind, 60))).unwrap_or_default();
    let own = format!("urn:karte:omh|{}", clean(name, 60));
    let (code_text, words) = match name {
        "unit_value" | "count" => (healthkit(body), "HealthKit quantity".to_owned()),
        _ => known.map_or((own, name.replace('_', " ")), |known| (known.1.to_owned(), known.2.to_owned())),
    };
    let (value, unit) = match serde_json::from_str::<UnitValue>(raw.get()) {
        Ok(said) => (said.value.0, ucum(&said.unit)),
        // The oldest form of a step count is a bare number.
        Err(_) if name == "step_count" => (decimal(raw.get())?, "{steps}".to_owned()),
        Err(_) if name == "count" => (decimal(raw.get())?, "1".to_owned()),
        Err(_) => return None,
    };
    let mut said = quantity((&code_text, &unit, &format!("{words}{suffix}")), value, when, source);
    said.part_of = name.ends_with("_blood_pressure").then(|| code("85354-9"));
    Some(said)
}

fn healthkit(body: &Fields<'_>) -> String {
    let kind: String = take(body, "quantity_type").ok().flatten().unwrap_or_default();
    let short = kind.trim_start_matches("HKQuantityTypeIdentifier");
    let known = HEALTHKIT.iter().find(|known| known.0 == short);
    known.map_or_else(|| format!("urn:apple:healthkit|{}", clean(&kind, 100)), |known| known.1.to_owned())
}

fn ucum(unit: &str) -> String {
    UNITS.iter().find(|known| known.0 == unit).map_or_else(|| clean(unit, 60), |known| known.1.to_owned())
}

fn text(body: &Fields<'_>, name: &str, raw: &RawValue, effective: Effective, source: &Source) -> Observation {
    let kind: Option<String> = take(body, "category_type").ok().flatten();
    let said: String = serde_json::from_str(raw.get()).unwrap_or_default();
    let code_text = match (name, kind) {
        ("category_value", Some(kind)) => format!("urn:apple:healthkit|{}", clean(&kind, 100)),
        _ => "urn:karte:workout|name".to_owned(),
    };
    Observation {
        code: code(&code_text),
        display: if name == "activity_name" { "Workout" } else { "Category" }.to_owned(),
        value: Value::Text(clean(&said, 200)),
        effective,
        source: source.clone(),
        part_of: None,
    }
}
